"""The verdict of an audit: contexts followed at once, each by the difference child - parent, against a tolerance.

A pass needs every context to be shown below the tolerance, so each is followed at alpha: whichever context is not below it, all of them pass with a
chance of at most alpha. A fail needs one context to be shown above it, so each is followed at alpha / contexts for that (Bonferroni). Both sides
of a sequence take half (`sequential`), so that the chance of any wrong verdict at any time is at most alpha, with every truth at the tolerance too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from spillover.records import SpilloverError
from spillover.statistics import sequential
from spillover.statistics.sequential import ConfidenceSequence

Verdict = Literal["pass", "fail", "inconclusive"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Tolerance:
    """Of the difference as judged: below `below` it passes, above `above` it fails. They are one number where nothing corrects the judge's errors."""

    below: float
    above: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Followed:
    """One context: the same observations in a sequence at alpha, which may pass it, and in one at alpha / contexts, which may fail it."""

    passing: ConfidenceSequence
    failing: ConfidenceSequence

    def add(self, observed: Sequence[int], rounds: int) -> Followed:
        """After `rounds` more rounds, in which child - parent was (-1, 0, 1) so often."""
        return replace(self, passing=self.passing.add(observed, rounds), failing=self.failing.add(observed, rounds))

    def against(self, tolerance: Tolerance) -> Verdict:
        """What this context alone has been shown to be."""
        if self.failing.against(tolerance.above) == "above":
            return "fail"
        return "pass" if self.passing.against(tolerance.below) == "below" else "inconclusive"


def followed(*, questions: int, contexts: int, alpha: float) -> Followed:
    """A context of so many questions, one of so many contexts, before anything was asked."""
    if contexts < 1:
        raise SpilloverError(f"an audit needs a context, got {contexts}")
    return Followed(
        passing=sequential.difference(questions=questions, alpha=alpha), failing=sequential.difference(questions=questions, alpha=alpha / contexts)
    )  # fmt: skip


def verdict(contexts: Mapping[str, Followed], tolerance: Tolerance) -> Verdict:
    """Fail where one context fails, pass where all of them pass, else inconclusive."""
    found = {one.against(tolerance) for one in contexts.values()}
    return "fail" if "fail" in found else "pass" if found == {"pass"} else "inconclusive"
