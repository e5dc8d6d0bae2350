"""How an endpoint may be used, and what it was used for: limits that hold under concurrency and over sessions.

A call is booked at the most it can come to before it is sent, and corrected when its reply is there; so killing the process anywhere
never makes a limit wider. It does not know what is sent.
"""

from __future__ import annotations

import json
import threading
from dataclasses import asdict, dataclass

from spillover.records import Journal, SpilloverError


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How an endpoint may be used.

    `max_calls` counts every attempt and `max_cost` US dollars, over all sessions that share a journal; `price` is US dollars per million prompt
    tokens and per million completion tokens. `timeout_s` is for one attempt; waits between attempts double from `first_wait_s`.
    """

    concurrency: int = 8
    timeout_s: float = 60.0
    attempts: int = 6
    first_wait_s: float = 1.0
    max_calls: int | None = None
    max_cost: float | None = None
    price: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        for name, least in (("concurrency", 1), ("timeout_s", 1e-3), ("attempts", 1), ("first_wait_s", 0), ("max_calls", 0), ("max_cost", 0)):
            value = getattr(self, name)
            if value is not None and not value >= least:
                raise SpilloverError(f"{name} of an endpoint is {value}; the least that works is {least}")
        if self.price is not None and not min(self.price) >= 0:
            raise SpilloverError(f"a price of {self.price} per million tokens cannot be; give two numbers from 0 up, for prompt and completion")
        if self.max_cost is not None and self.price is None:
            raise SpilloverError("a limit on cost needs a price: give US dollars per million prompt tokens and per million completion tokens")


@dataclass(frozen=True, slots=True, kw_only=True)
class Spent:
    """What an endpoint was asked so far. Calls under way, and those that brought no count of tokens, stand at the most they can come to."""

    calls: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0

    def plus(self, calls: int, prompt_tokens: int, completion_tokens: int) -> Spent:
        return Spent(
            calls=self.calls + calls,
            prompt_tokens=self.prompt_tokens + prompt_tokens,
            completion_tokens=self.completion_tokens + completion_tokens,
        )

    def dollars(self, price: tuple[float, float]) -> float:
        return (self.prompt_tokens * price[0] + self.completion_tokens * price[1]) / 1e6


class Budget:
    """What was spent, kept in the journal: every call is booked at its worst before it is sent, and corrected when its reply is there."""

    def __init__(self, identity: str, limits: Limits, journal: Journal | None) -> None:
        self._identity, self._limits, self._journal = identity, limits, journal
        self._changed = threading.Condition()
        self._under_way = 0
        self._spent: Spent | None = None

    @property
    def spent(self) -> Spent:
        if self._spent is None:
            value = self._journal.get(f"spent {self._identity}") if self._journal else None
            self._spent = Spent(**json.loads(value)) if value else Spent()
        return self._spent

    def reserve(self, most: tuple[int, int]) -> None:
        """Book a call. Waits where calls under way may turn out cheaper; raises SpilloverError when it does not fit."""
        with self._changed:
            while (refusal := self._refusal(self.spent.plus(1, *most))) and self._under_way:
                self._changed.wait()
            if refusal:
                raise SpilloverError(refusal)
            self._book(self.spent.plus(1, *most))
            self._under_way += 1

    def settle(self, most: tuple[int, int], spent: tuple[int, int]) -> None:
        """Correct what was booked for a call to what it came to."""
        with self._changed:
            self._under_way -= 1
            self._changed.notify_all()
            if spent != most:
                self._book(self.spent.plus(0, spent[0] - most[0], spent[1] - most[1]))

    def _book(self, spent: Spent) -> None:
        self._spent = spent
        if self._journal:
            self._journal.put(f"spent {self._identity}", json.dumps(asdict(spent)))

    def _refusal(self, then: Spent) -> str:
        """Why this much cannot be spent, or nothing."""
        calls, cost, price = self._limits.max_calls, self._limits.max_cost, self._limits.price
        if calls is not None and then.calls > calls:
            return f"{self.spent.calls:,} calls were made to {self._identity}, and --max-calls is {calls:,}; what was answered is kept: raise --max-calls"
        if cost is not None and price is not None and then.dollars(price) > cost:
            more = then.dollars(price) - self.spent.dollars(price)
            return (
                f"calls to {self._identity} have cost ${self.spent.dollars(price):.4f}, the next call may cost ${more:.4f}, "
                f"and --max-cost is ${cost:.4f}; what was answered is kept: raise --max-cost"
            )
        return ""
