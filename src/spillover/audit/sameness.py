"""Is the child the child? Whether two models answer by different numbers, so that an audit does not pass a parent held against itself.

The probe is a few prompts and replies that the parent gave. What is compared is their log-probability, against how much each model's own numbers vary with
the batch they are computed in, or with the day at an endpoint. It knows nothing of alignment.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

from spillover.models.endpoint import Completion, EndpointModel, Request
from spillover.records import Answerer, Conversation, Question, stream_seed

PROMPTS, REPLIES = 8, 2  # a probe of so many prompts, with so many replies each
TIMES = 10.0  # more than a model's own noise is a difference
LEAST_NATS = 1e-6  # of noise that is assumed
NO_CHANCE = -1e4  # nats, for what a model never says
TOP = 20

Shown = Literal["different", "alike", "not shown"]


@runtime_checkable
class Forcing(Protocol):
    """A model that gives log P(reply | prompt) in nats."""

    def log_probabilities(self, prompts: Sequence[Conversation], replies: Sequence[str]) -> list[float]: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """Prompts, and a reply of the parent's to each."""

    prompts: tuple[Conversation, ...]
    replies: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """Log-probabilities in nats by what they are of, read twice; none of a model that gives none."""

    first: dict[str, float]
    second: dict[str, float]

    @property
    def noise(self) -> float:
        """The most that two readings of the same model differ by, in nats."""
        return max((abs(self.first[name] - self.second[name]) for name in self.first.keys() & self.second.keys()), default=0.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sameness:
    """What the probe shows: the largest difference and the largest noise, in nats, over so many numbers."""

    shown: Shown
    difference: float | None = None
    noise: float | None = None
    n: int = 0


def probe(parent: Answerer, questions: Sequence[Question], *, max_tokens: int) -> Probe:
    """Replies of the parent to the first plain questions, drawn from streams of their own."""
    prompts = [question.prompt(0) for question in questions if question.format == "plain"][:PROMPTS]
    asked = [prompt for prompt in prompts for _ in range(REPLIES)]
    seeds = [stream_seed("audit probe", place) for place in range(len(asked))]
    replies = parent.reply(asked, seeds, temperature=1.0, max_tokens=max_tokens)
    return Probe(prompts=tuple(asked), replies=tuple(text for text, _ in replies))


def read(model: Answerer, found: Probe) -> Reading:
    """What a model gives to the probe, twice: of open weights all at once and one by one, of an endpoint its first tokens on two occasions."""
    if isinstance(model, Forcing):
        together = model.log_probabilities(found.prompts, found.replies)
        alone = [model.log_probabilities([prompt], [reply])[0] for prompt, reply in zip(found.prompts, found.replies, strict=True)]
        return Reading(first=_finite(together), second=_finite(alone))
    if isinstance(model, EndpointModel):
        first, second = (_first_tokens(model, found, occasion) for occasion in ("first", "second"))
        return Reading(first=first, second=second)
    return Reading(first={}, second={})


def compare(parent: Reading, child: Reading) -> Sameness:
    """Different where any number differs by more than ten times the noise of either; not shown where they have too few numbers in common."""
    common = parent.first.keys() & child.first.keys()
    if not common:
        return Sameness(shown="not shown")
    difference = max(abs(parent.first[name] - child.first[name]) for name in common)
    noise = max(parent.noise, child.noise)
    return Sameness(shown="different" if difference > TIMES * max(noise, LEAST_NATS) else "alike", difference=difference, noise=noise, n=len(common))


def _finite(logs: Sequence[float]) -> dict[str, float]:
    return {str(place): max(value, NO_CHANCE) for place, value in enumerate(logs)}


def _first_tokens(model: EndpointModel, found: Probe, occasion: str) -> dict[str, float]:
    """Log-probabilities of the likeliest first tokens after each different prompt, by prompt and token; empty where the endpoint gives none."""
    prompts = list(dict.fromkeys(found.prompts))
    requests = [Request(messages=p, max_tokens=1, temperature=1, seed=0, top_logprobs=TOP, owner=f"audit probe, {occasion}") for p in prompts]
    replies = model.endpoint.many(requests)
    return {f"{n} {token}": value for n, r in enumerate(replies) if isinstance(r, Completion) for token, value in r.top or ()}
