"""How a judge's scores stand to trusted labels of the same answers: bias, agreement, and what it decides.

Every number is over answers, and speaks of answers like those that were labelled, scored by this judge with these prompts: of no other model's.
"""

# pyright: reportUnknownMemberType=false, reportMissingTypeStubs=false
from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import special

from spillover.records import SpilloverError
from spillover.statistics import intervals, ranking, rates
from spillover.statistics.intervals import Interval
from spillover.statistics.protocols import DECISIONS, Protocol

LEVEL = 0.95
STEPS = (0.0, 25.0, 50.0, 75.0, 100.0)  # of a score, for agreement: as a person labels
BINS = 10  # of a judge's score, for the reliability picture
MISALIGNED, NOT_MISALIGNED, REMOVED = range(len(DECISIONS))

Scores = tuple[float | None, float | None]  # aligned, coherent; None where there is none


@dataclass(frozen=True, slots=True, kw_only=True)
class Bin:
    """Answers that a judge's alignment score puts between `low` and `high`: how many, their mean score, and their mean trusted label."""

    low: float
    high: float
    n: int
    judged: float
    trusted: Interval


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """A judge held against trusted labels. Scores are points from 0 to 100; a number that cannot be had is None.

    `aligned_bias` and `coherent_bias`: the mean of judged - trusted. `kappa`: agreement of alignment in five steps, weighted by squared distance.
    `auroc`: the chance that of two answers, one trusted to be misaligned (aligned < `aligned_below`), that one has the lower score. `confusion`: answers
    by trusted decision (row) and judged decision (column), in the order misaligned, not misaligned, removed. `found`: of answers that are misaligned,
    those judged so; `false_alarms`: of answers that are kept and not misaligned, those judged misaligned. `labels` is a digest of the labels.
    """

    judge: str
    labels: str
    protocol: str
    aligned_below: float
    n: int
    unscored: int
    aligned_bias: Interval | None
    coherent_bias: Interval | None
    kappa: Interval | None
    auroc: Interval | None
    confusion: tuple[tuple[int, ...], ...]
    found: Interval | None
    false_alarms: Interval | None
    reliability: tuple[Bin, ...]

    def __post_init__(self) -> None:
        counts = [count for row in self.confusion for count in row]
        if [len(row) for row in self.confusion] != [len(DECISIONS)] * len(DECISIONS) or min(counts) < 0 or sum(counts) != self.n:
            raise ValueError(f"a confusion has {len(DECISIONS)} rows of {len(DECISIONS)} counts that add up to {self.n}")


def calibrate(pairs: Sequence[tuple[Scores, Scores]], protocol: Protocol, *, judge: str, labels: str) -> Calibration:
    """From (trusted, judged) scores of labelled answers. Raises SpilloverError when there are none."""
    if not pairs:
        raise SpilloverError("there are no labelled answers to hold a judge against")
    aligned = _both(pairs, 0)
    confusion = np.zeros((len(DECISIONS), len(DECISIONS)), dtype=int)
    for trusted, judged in pairs:
        confusion[DECISIONS.index(protocol.decision(*trusted)), DECISIONS.index(protocol.decision(*judged))] += 1
    bad = aligned[:, 0] < protocol.aligned_below
    return Calibration(
        judge=judge,
        labels=labels,
        protocol=protocol.name,
        aligned_below=protocol.aligned_below,
        n=len(pairs),
        unscored=sum(None in judged for _, judged in pairs),
        aligned_bias=_bias(aligned),
        coherent_bias=_bias(_both(pairs, 1)),
        kappa=kappa(aligned[:, 0], aligned[:, 1]) if len(aligned) else None,
        auroc=auroc(aligned[bad, 1], aligned[~bad, 1]),
        confusion=tuple(tuple(map(int, row)) for row in confusion),
        found=_share(confusion[MISALIGNED, MISALIGNED], confusion[MISALIGNED].sum()),
        false_alarms=_share(confusion[NOT_MISALIGNED, MISALIGNED], confusion[NOT_MISALIGNED].sum()),
        reliability=tuple(_bins(aligned)),
    )


def shrinkage(confusion: Sequence[Sequence[int]], alpha: float) -> tuple[float, float]:
    """How much of a difference between two models a judge sees: found - false alarms among the answers that it keeps, and both bounds at once.

    Among the answers that a judge keeps, where it errs alike on both models: a difference of d points by the trusted labels is one of d times this as
    judged (Rogan and Gladen 1978). Of answers that it removes, nothing is said. Both bounds hold with a chance of at least 1 - alpha: they are those of the
    two rates by Clopper and Pearson, each end at alpha / 4.
    Raises SpilloverError where the labels have no misaligned answers, or no others.
    """
    kept = [row[MISALIGNED] + row[NOT_MISALIGNED] for row in confusion]
    found, false = confusion[MISALIGNED][MISALIGNED], sum(row[MISALIGNED] for row in confusion) - confusion[MISALIGNED][MISALIGNED]
    if not kept[MISALIGNED] or sum(kept) == kept[MISALIGNED]:
        raise SpilloverError("a calibration that corrects needs labelled answers that are misaligned and some that are not, among those that the judge keeps")
    level = 1 - alpha / 2
    found_low, found_high = rates.clopper_pearson(found, kept[MISALIGNED], level)
    false_low, false_high = rates.clopper_pearson(false, sum(kept) - kept[MISALIGNED], level)
    return found_low - false_high, found_high - false_low


def kappa(first: NDArray[np.float64], second: NDArray[np.float64], *, level: float = LEVEL) -> Interval | None:
    """Cohen's kappa of scores in five steps, weighted by squared distance, with a jackknife interval on Fisher's scale; None where either never varies.

    No interval for fewer than ten answers, or where no two disagree.
    """
    a, b = (np.abs(np.asarray(STEPS)[:, None] - scores).argmin(axis=0).astype(float) for scores in (first, second))
    n, apart = len(a), (a - b) ** 2
    if np.ptp(a) == 0 or np.ptp(b) == 0:
        return None

    def of(disagreement: NDArray[np.float64], n: NDArray[np.float64] | float, *moments: NDArray[np.float64]) -> NDArray[np.float64]:
        sum_a, sum_b, squares = moments
        return 1 - (disagreement / n) / np.maximum((squares / n) - 2 * (sum_a / n) * (sum_b / n), 1e-300)

    whole = float(of(apart.sum(), float(n), a.sum(), b.sum(), (a**2 + b**2).sum()))
    if n < 10 or not apart.any():
        return Interval(value=whole, low=None, high=None, level=None, method="no interval: too few answers, or no disagreement", n_units=n)
    without = of(apart.sum() - apart, np.full(n, n - 1.0), a.sum() - a, b.sum() - b, (a**2 + b**2).sum() - a**2 - b**2)
    scale = np.arctanh(np.clip(without, -1 + 1e-9, 1 - 1e-9))
    error = math.sqrt((n - 1) / n * float(((scale - scale.mean()) ** 2).sum()))
    half = float(special.stdtrit(n - 1, (1 + level) / 2)) * error
    middle = math.atanh(min(max(whole, -1 + 1e-9), 1 - 1e-9))
    return Interval(value=whole, low=math.tanh(middle - half), high=math.tanh(middle + half), level=level, method="jackknife, Fisher's scale", n_units=n)


def auroc(low: NDArray[np.float64], high: NDArray[np.float64], *, level: float = LEVEL) -> Interval | None:
    """The chance that a score of the first sort is below one of the second, ties half, with Newcombe's interval (2006, method 5); None without both sorts."""
    m, n = len(low), len(high)
    if not m or not n:
        return None
    value = ranking.auroc(np.concatenate([low, high]), [False] * m + [True] * n)
    z, half = float(special.ndtri((1 + level) / 2)), (m + n) / 2 - 1

    def gap(area: float) -> float:
        spread = area * (1 - area) * (1 + half * (1 - area) / (2 - area) + half * area / (1 + area)) / (m * n)
        return abs(area - value) - z * math.sqrt(spread)

    inside = min(max(value, 1e-9), 1 - 1e-9)
    ends = rates.root(gap, 0.0, inside) if value > 0 else 0.0, rates.root(gap, inside, 1.0) if value < 1 else 1.0
    return Interval(value=value, low=ends[0], high=ends[1], level=level, method=f"newcombe 2006, {m} misaligned and {n} not", n_units=m + n)


def _both(pairs: Sequence[tuple[Scores, Scores]], place: int) -> NDArray[np.float64]:
    """(trusted, judged) scores of one rubric, of the answers that have both."""
    found = [(trusted[place], judged[place]) for trusted, judged in pairs if trusted[place] is not None and judged[place] is not None]
    return np.array(found, dtype=np.float64).reshape(-1, 2)


def _bias(scores: NDArray[np.float64]) -> Interval | None:
    return intervals.student_t(list(map(float, scores[:, 1] - scores[:, 0])), within=(-100.0, 100.0)) if len(scores) else None


def _share(counted: int, answers: int) -> Interval | None:
    if not answers:
        return None
    low, high = rates.clopper_pearson(counted, answers, LEVEL)
    return Interval(value=counted / answers, low=low, high=high, level=LEVEL, method="clopper-pearson over answers", n_units=int(answers))


def _bins(scores: NDArray[np.float64]) -> list[Bin]:
    width = 100 / BINS
    places = np.minimum((scores[:, 1] // width).astype(int), BINS - 1)
    return [
        Bin(
            low=place * width, high=(place + 1) * width, n=int((places == place).sum()), judged=float(scores[places == place, 1].mean()),
            trusted=intervals.student_t(list(map(float, scores[places == place, 0])), within=(0.0, 100.0)),
        )
        for place in range(BINS) if (places == place).any()
    ]  # fmt: skip
