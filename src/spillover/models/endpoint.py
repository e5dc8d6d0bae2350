"""An OpenAI-compatible chat endpoint, asked patiently and within its `budget`, over the `wire`.

Whatever was answered is in the journal before a caller sees it, so nothing is asked, or paid for, twice. What was not answered is a `Failure` with
its reason, and is asked again by the next session. What a reply means is not known here.
"""

from __future__ import annotations

import json
import math
import random
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

import openai

from spillover.models.addresses import parse_address
from spillover.models.budget import Budget, Limits, Spent
from spillover.models.wire import NoReplyError, Wire
from spillover.progress import tell
from spillover.records import Conversation, Journal, SpilloverError, Stop, digest

LONGEST_WAIT_S = 120.0  # between two attempts, whatever Retry-After says
FAILED_IN_A_ROW = 20  # requests without a reply, each after all its attempts: then the endpoint does not answer
REFUSED_PROMPTS = 3  # different prompts refused, and nothing ever answered: then it is not the prompts
LARGEST_MASS = 1.02  # of the probabilities of one place, which some endpoints round
ENDED = frozenset({"stop", "eos", "eos_token", "stop_sequence", "end_turn"})
CUT = frozenset({"length", "max_tokens"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One chat completion to ask for. Equal requests are one call; `owner` tells the draws of one prompt apart."""

    messages: Conversation
    max_tokens: int
    temperature: float
    seed: int
    top_p: float | None = None
    top_logprobs: int | None = None
    owner: str = ""

    def payload(self, model: str) -> dict[str, Any]:
        """The body that is sent."""
        asked: dict[str, Any] = {"max_tokens": self.max_tokens, "temperature": self.temperature, "seed": self.seed, "top_p": self.top_p}
        if self.top_logprobs is not None:
            asked |= {"logprobs": True, "top_logprobs": self.top_logprobs}
        messages = [{"role": turn.role, "content": turn.content} for turn in self.messages]
        return {"model": model, "messages": messages, **{name: value for name, value in asked.items() if value is not None}}

    def most_tokens(self) -> tuple[int, int]:
        """More prompt and completion tokens than this can come to: a token is at least a byte, and templates add a few."""
        return 64 + sum(16 + len(turn.content.encode()) for turn in self.messages), self.max_tokens


@dataclass(frozen=True, slots=True, kw_only=True)
class Completion:
    """What an endpoint answered, and the day it was asked.

    `text` is None where it gave none. `top` holds tokens that the first place could have had with their log-probabilities, None where none were
    asked for or given. `usage` counts prompt and completion tokens.
    """

    text: str | None
    finish: str
    top: tuple[tuple[str, float], ...] | None
    usage: tuple[int, int] | None
    date: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """Why one request has no reply, and what the endpoint said of it, if anything. It is in no journal: the next session asks again."""

    reason: str
    said: str
    date: str
    refused: bool = False  # by the endpoint, for what was asked


class Endpoint:
    """One model behind one address. Its limits hold over every session that shares `journal`; use one object of it at a time.

    Several endpoints that are given one `budget` spend from it together.
    """

    def __init__(self, address: str, *, limits: Limits | None = None, journal: Journal | None = None, budget: Budget | None = None,
        today: Callable[[], str] | None = None,
    ) -> None:  # fmt: skip
        self.base_url, self.model = parse_address(address)
        self.identity = f"{self.base_url}#{self.model}"
        self.limits = limits or Limits()
        self._wire = Wire(self.identity, self.base_url, self.limits.timeout_s)
        self._journal = journal
        self._today = today or (lambda: datetime.now(UTC).date().isoformat())
        self._budget = budget or Budget(self.identity, self.limits, journal)
        self._jitter = random.Random()
        self._lock = threading.Lock()
        self._failed_in_a_row = 0

    @property
    def spent(self) -> Spent:
        """Calls and tokens, over all sessions that share the journal."""
        return self._budget.spent

    def complete(self, request: Request) -> Completion | Failure:
        """`many`, for one."""
        return self.many([request])[0]

    def many(self, requests: Sequence[Request]) -> list[Completion | Failure]:
        """One outcome per request, in their order.

        Raises SpilloverError when asking on is no use: the key is refused, the model is not there, nothing answers, a limit is reached. Then, and on
        Ctrl-C, calls under way are finished and journalled first.
        """
        keys = [digest([self.base_url, request.payload(self.model), request.owner]) for request in requests]
        found: dict[str, Completion | Failure] = {}
        unasked: dict[str, Request] = {}
        for key, request in zip(keys, requests, strict=True):
            value = self._journal.get(key) if self._journal else None
            if value is None:
                unasked[key] = request
            else:
                found[key] = _from_journal(value)
                self._wire.answered = True
        if unasked:
            found |= self._ask_all(unasked)
        return [found[key] for key in keys]

    def _ask_all(self, requests: Mapping[str, Request]) -> dict[str, Completion | Failure]:
        stop = threading.Event()
        with self._wire.open() as client, ThreadPoolExecutor(min(self.limits.concurrency, len(requests))) as pool:
            asked = {key: pool.submit(self._ask, client, stop, key, request) for key, request in requests.items()}
            try:
                for done, future in enumerate(as_completed(asked.values()), 1):
                    future.result()
                    tell(done, len(asked), "calls")
            finally:
                stop.set()
                pool.shutdown(cancel_futures=True)
        found = {key: future.result() for key, future in asked.items()}
        refused = {requests[key].messages: failure for key, failure in found.items() if isinstance(failure, Failure) and failure.refused}
        if not self._wire.answered and len(refused) >= REFUSED_PROMPTS:
            raise SpilloverError(f"{self.identity} refuses every prompt ({_shown(next(iter(refused.values())))}); check that it takes these settings")
        return found

    def _ask(self, client: openai.OpenAI, stop: threading.Event, key: str, request: Request) -> Completion | Failure:
        """All attempts at one request. Raises SpilloverError when no request is any use."""
        wait_s, failure, most = 0.0, Failure(reason="failed: stopped", said="", date=self._today()), request.most_tokens()
        for attempt in range(self.limits.attempts):
            if stop.wait(wait_s):
                return failure
            self._budget.reserve(most)
            spent, date = most, self._today()
            try:
                completion = self._attempt(client, request, date)
                spent = completion.usage or most
                self._keep(key, completion)
                return completion
            except NoReplyError as trouble:
                spent = (0, 0) if trouble.free else most
                failure = Failure(reason=f"failed: {trouble.reason}", said=trouble.said, date=date, refused=trouble.scope == "prompt")
                if trouble.scope == "every":
                    raise SpilloverError(trouble.reason) from None
                if trouble.scope == "prompt":
                    return failure
                wait_s = min(max(self.limits.first_wait_s * 2**attempt * self._jitter.uniform(0.5, 1), trouble.wait_s), LONGEST_WAIT_S)
            finally:
                self._budget.settle(most, spent)
        with self._lock:
            self._failed_in_a_row += 1
            if self._failed_in_a_row >= FAILED_IN_A_ROW:
                raise SpilloverError(
                    f"{self.identity} does not answer: {FAILED_IN_A_ROW} requests in a row {_shown(failure)}; what was answered is kept, "
                    "so give the same command again when it does"
                )
        return failure

    def _keep(self, key: str, completion: Completion) -> None:
        if self._journal:
            self._journal.put(key, json.dumps(asdict(completion)))
        with self._lock:
            self._wire.answered, self._failed_in_a_row = True, 0

    def _attempt(self, client: openai.OpenAI, request: Request, date: str) -> Completion:
        """One call, its reply read strictly. Raises NoReplyError."""
        body = self._wire.post(client, "/chat/completions", request.payload(self.model))
        try:
            choice = body["choices"][0]
            message, finish = choice["message"], choice.get("finish_reason") or ""
            text = message.get("content")
            if not isinstance(text, str | None) or not isinstance(finish, str):
                raise TypeError("not a text")
            return Completion(
                text=None if text is None else self._wire.clean(text),
                finish="refusal" if text is None and message.get("refusal") else self._wire.clean(finish),
                top=self._top(choice) if request.top_logprobs is not None else None,
                usage=_usage(body.get("usage")),
                date=date,
            )
        except (AttributeError, IndexError, KeyError, TypeError, ValueError):
            raise NoReplyError("the reply is JSON of another shape") from None

    def _top(self, choice: Any) -> tuple[tuple[str, float], ...] | None:
        """The first place's tokens and log-probabilities. Raises an error where they are no distribution."""
        logprobs: Any = choice.get("logprobs")
        places: Any = logprobs.get("content") if logprobs else None
        listed: Any = places[0].get("top_logprobs") if places else None
        if not listed:
            return None
        top: list[tuple[Any, Any]] = [(entry["token"], entry["logprob"]) for entry in listed]
        for token, logprob in top:
            if not isinstance(token, str) or isinstance(logprob, bool) or not isinstance(logprob, int | float) or not -1e300 < logprob <= 1e-6:
                raise ValueError("no log-probability")
        if math.fsum(math.exp(logprob) for _, logprob in top) > LARGEST_MASS:
            raise ValueError("no distribution")
        return tuple((self._wire.clean(token), float(logprob)) for token, logprob in top)


class EndpointModel:
    """An `Answerer` behind an endpoint."""

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint

    @property
    def identity(self) -> str:
        return self.endpoint.identity

    def reply(self, prompts: Sequence[Conversation], seeds: Sequence[int], *, temperature: float, max_tokens: int) -> list[tuple[str, Stop]]:
        """One reply per prompt. What the endpoint does with a seed is its own affair: each is a call of its own, and asked for once."""
        replies = self.endpoint.many(
            [
                Request(messages=prompt, max_tokens=max_tokens, temperature=temperature, top_p=1, seed=seed % 2**31, owner=f"draw {seed}")
                for prompt, seed in zip(prompts, seeds, strict=True)
            ]
        )
        return [_reply(reply) for reply in replies]


def _usage(usage: Any) -> tuple[int, int] | None:
    """Prompt and completion tokens, where they are counts that can be."""
    if not isinstance(usage, Mapping):
        return None
    counts: list[Any] = [usage.get(name) for name in ("prompt_tokens", "completion_tokens")]  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
    return (counts[0], counts[1]) if all(type(count) is int and 0 <= count < 10**9 for count in counts) else None


def _from_journal(value: str) -> Completion:
    kept = json.loads(value)
    top, usage = kept["top"], kept["usage"]
    return Completion(
        text=kept["text"],
        finish=kept["finish"],
        top=None if top is None else tuple((token, logprob) for token, logprob in top),
        usage=usage and (usage[0], usage[1]),
        date=kept["date"],
    )


def _reply(reply: Completion | Failure) -> tuple[str, Stop]:
    if isinstance(reply, Failure) or reply.text is None:
        return "", "failed"
    return (reply.text, "end") if reply.finish in ENDED else (reply.text, "length") if reply.finish in CUT else ("", "failed")


def _shown(failure: Failure) -> str:
    return f"{failure.reason}: {failure.said}" if failure.said else failure.reason
