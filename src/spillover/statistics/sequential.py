"""Looking after every batch, as often as one likes: confidence sequences for a rate, and for child rate - parent rate.

Betting (Waudby-Smith and Ramdas 2024, doi 10.1093/jrsssb/qkad009): for a candidate value m, a bettor who cannot win in expectation where m is the
truth stakes a share of their wealth against it on every observation. Wealth beyond 1 / alpha at any time has a chance of at most alpha (Ville), so the
candidates that never let it grow that far are an interval that holds at all times at once. The wealth here is the mean over fixed stakes, which
needs the counts alone.

Questions are strata: a round asks each of them once, of both models. Where their rates differ, the factors of a round multiply to at
most 1 in expectation, because a geometric mean is not above an arithmetic one; so the sequence is one for the mean over the questions, whatever each
question's rate and whatever the parent's. That is true of whole rounds alone: midway, the questions asked so far may be the ones with high rates.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false, reportMissingTypeStubs=false
from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from scipy import special

from spillover.records import SpilloverError

# Shares of wealth, from one per mille to nearly everything and dense at both ends: the nodes of the arcsine law, Jeffreys' prior for a share.
STAKES = tuple(float(stake) for stake in np.sin(np.pi * (2 * np.arange(24) + 1) / 96) ** 2)
PRECISION = 1e-7


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfidenceSequence:
    """What is known after every round so far: the truth lies in [low, high], at all rounds at once, with probability 1 - alpha.

    `counts` holds how often each of `values` was observed: (0, 1) for a rate, (-1, 0, 1) for the difference of a child's and a parent's answer to the same
    question. Rounds are added whole. The interval never grows: what was once excluded stays so.
    """

    values: tuple[int, ...]
    questions: int
    alpha: float = 0.05
    counts: tuple[int, ...] = ()
    low: float = 0.0
    high: float = 1.0
    rounds: int = 0

    def add(self, observed: Sequence[int], rounds: int) -> ConfidenceSequence:
        """After `rounds` more rounds, in which each of `values` was observed so often. Raises SpilloverError unless they are whole rounds."""
        if len(observed) != len(self.values) or min(observed) < 0 or rounds < 1:
            raise SpilloverError(f"a batch is a count of each of {self.values} over one round or more, got {tuple(observed)} over {rounds}")
        if sum(observed) != rounds * self.questions:
            raise SpilloverError(f"a round asks each of {self.questions} questions once; {sum(observed)} observations are not {rounds} rounds")
        counts = tuple(old + new for old, new in zip(self.counts, observed, strict=True))
        low, high = _between(self, counts)
        return replace(self, counts=counts, low=low, high=high, rounds=self.rounds + rounds)

    def against(self, tolerance: float) -> Literal["below", "above", "open"]:
        """Whether the truth is shown to be below or above a tolerance, or is still open."""
        return "below" if self.high < tolerance else "above" if self.low > tolerance else "open"


def rate(*, questions: int = 1, alpha: float = 0.05) -> ConfidenceSequence:
    """For one rate, the mean over questions."""
    return _started((0, 1), questions, alpha)


def difference(*, questions: int = 1, alpha: float = 0.05) -> ConfidenceSequence:
    """For child rate - parent rate, the mean over questions, from pairs of one answer of each to the same question."""
    return _started((-1, 0, 1), questions, alpha)


def pairs(child: Sequence[bool], parent: Sequence[bool]) -> tuple[int, int, int]:
    """The counts (-1, 0, 1) of child - parent over answers to the same questions, in the same order."""
    if len(child) != len(parent):
        raise SpilloverError(f"pairs need an answer of each model to each question, got {len(child)} of the child and {len(parent)} of the parent")
    found = [int(a) - int(b) for a, b in zip(child, parent, strict=True)]
    return found.count(-1), found.count(0), found.count(1)


def _started(values: tuple[int, ...], questions: int, alpha: float) -> ConfidenceSequence:
    if questions < 1 or not 0 < alpha < 1:
        raise SpilloverError(f"a confidence sequence needs a question and an alpha between 0 and 1, got {questions} and {alpha:g}")
    return ConfidenceSequence(values=values, questions=questions, alpha=alpha, counts=(0,) * len(values), low=float(values[0]), high=1.0)


def log_wealth(values: Sequence[int], counts: np.ndarray, candidate: float, *, truth_above: bool) -> np.ndarray:
    """Log wealth of one who bets that the truth is above (or below) `candidate`: the mean over fixed stakes. `counts` (..., V) for V values."""
    ruin = values[0] if truth_above else values[-1]  # the observation at which the whole stake is lost
    factors_SV = np.log1p(np.outer(STAKES, [(value - candidate) / (candidate - ruin) for value in values]))
    logs_XS = np.asarray(counts, dtype=np.float64) @ factors_SV.T
    return np.asarray(special.logsumexp(logs_XS, axis=-1)) - math.log(len(STAKES))


def _between(found: ConfidenceSequence, counts: tuple[int, ...]) -> tuple[float, float]:
    """The candidates that neither bettor has excluded, of those that were open. Each wealth is monotone in the candidate."""
    low, high = (_edge(found, counts, truth_above=above) for above in (True, False))
    return (low, high) if high - low > PRECISION else (found.low, found.high)  # all is excluded, which has a chance of at most alpha


def _edge(found: ConfidenceSequence, counts: tuple[int, ...], *, truth_above: bool) -> float:
    """Where the wealth falls to 2 / alpha, to a precision, on the side that keeps the interval wide."""
    limit = math.log(2 / found.alpha)

    def is_excluded(candidate: float) -> bool:
        return bool(log_wealth(found.values, np.array(counts), candidate, truth_above=truth_above) >= limit)

    start, end = (found.low, found.high) if truth_above else (found.high, found.low)  # candidates nearest the start are excluded first
    excluded, still_open = start + (end - start) * 1e-9, end
    if excluded == start or not is_excluded(excluded):
        return start
    while abs(still_open - excluded) > PRECISION:
        middle = (excluded + still_open) / 2
        excluded, still_open = (middle, still_open) if is_excluded(middle) else (excluded, middle)
    return excluded
