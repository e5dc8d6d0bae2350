"""A rate from many cheap scores and few trusted ones: what the trusted ones say of the cheap ones' errors corrects the rate.

Prediction-powered inference (Angelopoulos et al., Science 382, 2023) for a ratio, misaligned / kept, in which numerator and denominator are corrected
together, as one judge errs in both. The prediction of an answer's trusted decision is how often the answers with its cheap decision have it, so that
the judge need not be right, only informative (post-stratification, in the words of survey sampling). Trusted labels must be of
answers drawn at random from those that are estimated: `drawn` says which.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false, reportMissingTypeStubs=false
from __future__ import annotations

import hashlib
import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import special

from spillover.records import SpilloverError
from spillover.statistics.intervals import Interval
from spillover.statistics.protocols import DECISIONS, Decision

LEAST = 50  # trusted labels: fewer say too little of a judge's errors
PSEUDO = 1 / len(DECISIONS)  # counted beside the labels of each cheap decision, so that what was never seen is not held impossible
LEVEL = 0.95


@dataclass(frozen=True, slots=True, kw_only=True)
class Corrected:
    """A corrected rate with its interval over units; `cheap` is what the cheap scores alone say, over `n` answers, of which `n_trusted` have a label."""

    rate: Interval
    cheap: float | None
    n: int
    n_trusted: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CorrectedRates:
    """Of each condition the corrected rate, or why it has none; the judge whose scores are corrected, and a digest of the labels."""

    judge: str
    labels: str
    rates: Mapping[str, Corrected | str]


def drawn(answers: Collection[str], count: int) -> tuple[str, ...]:
    """`count` answers by id in an order that has nothing to do with what they say: that of a hash of the id. A larger draw begins with a smaller one.

    Raises SpilloverError when there are not so many.
    """
    if not 1 <= count <= len(answers):
        raise SpilloverError(f"{count} answers cannot be drawn of {len(answers)}; it takes 1 to {len(answers)}")
    return tuple(sorted(answers, key=order)[:count])


def order(answer: str) -> bytes:
    """The place of an answer's id in every draw."""
    return hashlib.sha256(f"draw for labelling {answer}".encode()).digest()


def is_drawn(answers: Collection[str], trusted: Collection[str]) -> bool:
    """Whether the labelled answers are those that `drawn` gives: labels of chosen answers would bias the rate."""
    return set(trusted) == set(drawn(answers, len(trusted)))


def rate(cheap: Mapping[str, Decision], trusted: Mapping[str, Decision], units: Mapping[str, str], *, level: float = LEVEL) -> Corrected:
    """Misaligned / kept over all answers in `cheap`, as the trusted labels of a random part of them have it; all by answer id.

    The interval is over units of replication where there are several (Student's t on the log-odds scale), else over the answers of the one. Its error
    is that of the units' own sums, and never below what the labels' counts give. Raises SpilloverError for too few labels, labels of
    other answers, and where none is kept.
    """
    strange = next((id for id in trusted if id not in cheap), None)
    if strange is not None:
        raise SpilloverError(f"a trusted label is of {strange[:40]!r}, which is none of the answers that are estimated")
    if len(trusted) < LEAST:
        raise SpilloverError(f"{len(trusted)} trusted labels are too few for an interval; it takes {LEAST} or more")
    if "misaligned" not in trusted.values() and "not misaligned" not in trusted.values():
        raise SpilloverError("by the trusted labels no answer is kept, so there is no rate")
    names = sorted(cheap)
    of = np.array([DECISIONS.index(cheap[name]) for name in names])
    unit = np.unique([units[name] for name in names], return_inverse=True)[1]
    labelled = np.array([place for place, name in enumerate(names) if name in trusted])
    said = np.array([DECISIONS.index(trusted[names[place]]) for place in labelled])
    shares = np.bincount(of, minlength=len(DECISIONS)) / len(names)
    counts = np.zeros((len(DECISIONS), len(DECISIONS)))  # [cheap decision, trusted decision]
    np.add.at(counts, (of[labelled], said), 1)
    value, middle, error = _value(shares, counts), *_smoothed(shares, counts, of, said, labelled, unit)
    n_units = int(unit.max()) + 1
    reach = float(special.stdtrit(n_units - 1, (1 + level) / 2) if n_units > 1 else special.ndtri((1 + level) / 2)) * error
    low = min(_moved(value, -reach), _moved(middle, -reach)) if value > 0 else 0.0
    high = max(_moved(value, reach), _moved(middle, reach)) if value < 1 else 1.0
    method = f"prediction-powered, {'student t over units' if n_units > 1 else 'over the answers of this unit alone'}, on the log-odds scale"
    kept = 1 - shares[DECISIONS.index("removed")]
    return Corrected(
        rate=Interval(value=value, low=low, high=high, level=level, method=method, n_units=n_units),
        cheap=float(shares[DECISIONS.index("misaligned")] / kept) if kept else None, n=len(names), n_trusted=len(labelled),
    )  # fmt: skip


def _value(shares: NDArray[np.float64], counts: NDArray[np.float64]) -> float:
    """Misaligned / kept by the labels, each cheap decision weighing as among all answers; one without labels is taken to be as those with."""
    totals = counts.sum(axis=1, keepdims=True)
    chances: NDArray[np.float64] = np.where(totals > 0, counts / np.maximum(totals, 1), counts.sum(axis=0) / counts.sum())
    misaligned, right, _ = map(float, shares @ chances)
    return misaligned / (misaligned + right)


def _smoothed(
    shares: NDArray[np.float64], counts: NDArray[np.float64], of: NDArray[np.int64], said: NDArray[np.int64], labelled: NDArray[np.int64],
    unit: NDArray[np.int64],
) -> tuple[float, float]:  # fmt: skip
    """The ratio with pseudo-counts, and its standard error: linearised, by units' sums of both parts, all answers and labels."""
    smooth = counts + PSEUDO
    chances = smooth / smooth.sum(axis=1, keepdims=True)
    misaligned, right, _ = map(float, shares @ chances)
    kept, ratio = misaligned + right, misaligned / (misaligned + right)
    gradient = np.array([1 - ratio, -ratio, 0.0])  # what an answer adds to misaligned - ratio * kept
    expected = chances @ gradient
    of_all = (expected[of] - shares @ expected) / len(of)
    weight = shares / np.maximum(counts.sum(axis=1), 1)
    of_labels = np.zeros(len(of))
    of_labels[labelled] = weight[of[labelled]] * (gradient[said] - expected[of[labelled]])
    counted = float((shares**2 / smooth.sum(axis=1)) @ (chances @ gradient**2 - expected**2))
    variance = max(_of_sums(of_all + of_labels, unit), _of_sums(of_all, unit) + counted)
    return ratio, math.sqrt(variance) / kept


def _of_sums(parts: NDArray[np.float64], unit: NDArray[np.int64]) -> float:
    """The variance of a sum whose parts vary together within units; of one unit, by its answers."""
    sums = np.bincount(unit, weights=parts)
    if len(sums) == 1:
        return float(parts @ parts)
    return float(len(sums) / (len(sums) - 1) * ((sums - sums.mean()) ** 2).sum())


def _moved(share: float, reach: float) -> float:
    """A share moved by so much, on the log-odds scale."""
    return float(special.expit(special.logit(share) + reach / (share * (1 - share)))) if 0 < share < 1 else share
