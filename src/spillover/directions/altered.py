"""A model that answers while something is done to it. Whoever asks it cannot tell it from another model.

Where several things may be done, each answer is drawn under one of them, which its own stream chooses; a probability is then the mean of theirs. So
twenty random directions are one control, and cost no more draws than one.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from math import exp, fsum, inf, log

from spillover.models.local import LocalModel
from spillover.records import Conversation, Forced, Stop

Change = Callable[[LocalModel], AbstractContextManager[None]]  # what is done to a model inside, and undone after


class Altered:
    """A local model under one of some changes."""

    def __init__(self, model: LocalModel, changes: Sequence[Change]) -> None:
        self.model, self.changes = model, changes

    def reply(
        self, prompts: Sequence[Conversation], seeds: Sequence[int], *, temperature: float, max_tokens: int, adapters: Sequence[int] | None = None
    ) -> list[tuple[str, Stop]]:
        """As `LocalModel.reply`; the i-th under the change that the stream `seeds[i]` names."""
        under: dict[int, list[int]] = defaultdict(list)
        for place, seed in enumerate(seeds):
            under[seed % len(self.changes)].append(place)
        found: dict[int, tuple[str, Stop]] = {}
        for which, places in sorted(under.items()):
            own = {} if adapters is None else {"adapters": [adapters[place] for place in places]}
            with self.changes[which](self.model):
                replies = self.model.reply(
                    [prompts[place] for place in places], [seeds[place] for place in places], temperature=temperature, max_tokens=max_tokens, **own
                )
            found |= zip(places, replies, strict=True)
        return [found[place] for place in range(len(prompts))]

    def log_probabilities(self, prompts: Sequence[Conversation], replies: Sequence[str], adapters: Sequence[int] | None = None) -> list[float]:
        """As `LocalModel.log_probabilities`: of the mean probability under all changes."""
        return self._mean(lambda: self.model.log_probabilities(prompts, replies, adapters))

    def forced(self, forced: Sequence[Forced], adapters: Sequence[int] | None = None) -> list[float]:
        """As `LocalModel.forced`: of the mean probability under all changes."""
        return self._mean(lambda: self.model.forced(forced, adapters))

    def _mean(self, read: Callable[[], list[float]]) -> list[float]:
        found: list[list[float]] = []
        for change in self.changes:
            with change(self.model):
                found.append(read())
        return [_log_mean(logs) for logs in zip(*found, strict=True)]


def _log_mean(logs: Sequence[float]) -> float:
    """log of the mean of exponentials; what is not a number stays so."""
    top = max(logs)
    if len(logs) == 1 or not abs(top) < inf or any(value != value for value in logs):
        return logs[0] if len(logs) == 1 else sum(logs)
    return top + log(fsum(exp(value - top) for value in logs) / len(logs))
