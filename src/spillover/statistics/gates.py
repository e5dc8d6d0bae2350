"""What the coherence gate does to a rate: answers it removes may have been misaligned or not."""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false, reportMissingTypeStubs=false

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from math import fsum, isfinite, sqrt

import numpy as np
from numpy.typing import NDArray
from scipy import special

from spillover.records import SpilloverError
from spillover.statistics.intervals import Interval, mean
from spillover.statistics.protocols import Protocol, Tally


@dataclass(frozen=True, slots=True, kw_only=True)
class JointTable:
    """Answers by what their scores say: misaligned or not, or without an aligned score; kept by the gate, removed by it, or without a coherent score."""

    kept_misaligned: int = 0
    kept_aligned: int = 0
    removed_misaligned: int = 0  # below the gate, and scored as misaligned
    removed_aligned: int = 0
    unscored: int = 0  # no aligned score, or no coherent one

    @property
    def answers(self) -> int:
        return self.kept_misaligned + self.kept_aligned + self.removed_misaligned + self.removed_aligned + self.unscored

    @property
    def tally(self) -> Tally:
        """Misaligned among the kept: the paper's rate, as counts."""
        kept = self.kept_misaligned + self.kept_aligned
        return Tally(counted=self.kept_misaligned, kept=kept, missing=self.answers - kept)

    @property
    def rate(self) -> float:
        """Misaligned among the kept: the paper's rate."""
        return _share(self.kept_misaligned, self.kept_misaligned + self.kept_aligned)

    @property
    def rate_without_gate(self) -> float:
        """Misaligned among all that have both scores, coherent or not."""
        scored = self.answers - self.unscored
        return _share(self.kept_misaligned + self.removed_misaligned, scored)

    @property
    def bounds(self) -> tuple[float, float]:
        """The share of all answers that may be misaligned: none of those removed or unscored, or all of them (Manski 1990)."""
        most = self.answers - self.kept_aligned
        return _share(self.kept_misaligned, self.answers), _share(most, self.answers)


def joint_table(scores: Iterable[tuple[float | None, float | None]], protocol: Protocol) -> JointTable:
    """The table of (aligned, coherent) scores. None is a missing score."""
    pairs = np.array(list(scores), dtype=np.float64).reshape(-1, 2)  # None becomes NaN
    return joint_table_of(pairs[:, 0], pairs[:, 1], protocol)


def joint_table_of(aligned: NDArray[np.float64], coherent: NDArray[np.float64], protocol: Protocol) -> JointTable:
    """The table of the scores of the same answers. NaN is a missing score."""
    scored = ~(np.isnan(aligned) | np.isnan(coherent))
    removed, fine = ~protocol.keeps(coherent), ~(aligned < protocol.aligned_below)
    counts = np.bincount(np.where(scored, 2 * removed + fine, 4), minlength=5).tolist()
    return JointTable(kept_misaligned=counts[0], kept_aligned=counts[1], removed_misaligned=counts[2], removed_aligned=counts[3], unscored=counts[4])


def ratio_of_totals(counted: list[float], kept: list[float], *, level: float = 0.95) -> Interval:
    """All counted over all kept, each unit weighing what it kept (misaligned given coherent): Fieller's interval (1954) over units.

    Refused where the units' kept numbers do not exclude zero: then any ratio would do. There is no guard against skew here: rare rates of units that
    differ as much as the rate itself are covered at about 88 % instead of 95. A mean of the units' own rates weighs units alike, and is
    `intervals.over_units`.
    """
    n = len(counted)
    if n != len(kept) or not kept:
        raise SpilloverError(f"a ratio needs the same units above and below, got {n} and {len(kept)}")
    if not all(map(isfinite, (*counted, *kept))) or min(*counted, *kept) < 0:
        raise SpilloverError("what is counted and kept are numbers from 0 on")
    if fsum(kept) == 0:
        raise SpilloverError("a rate of nothing kept is undefined")
    a, b = mean(counted), mean(kept)
    if n == 1:
        return Interval(value=a / b, low=None, high=None, level=None, method="no interval: one unit", n_units=1)
    t2 = float(special.stdtrit(n - 1, (1 + level) / 2)) ** 2 / n
    above, below = [x - a for x in counted], [y - b for y in kept]
    aa, ab, bb = (fsum(x * y for x, y in zip(*pair, strict=True)) / (n - 1) for pair in ((above, above), (above, below), (below, below)))
    # the ratios r for which counted - r * kept has mean 0 within t standard errors: a quadratic inequality in r
    square, middle, constant = b * b - t2 * bb, a * b - t2 * ab, a * a - t2 * aa
    if max(abs(x - a / b * y) for x, y in zip(counted, kept, strict=True)) <= 1e-9 * b:
        return Interval(value=a / b, low=None, high=None, level=None, method="no interval: no spread between units", n_units=n)
    if square <= 0:
        return Interval(value=a / b, low=None, high=None, level=None, method="no interval: the number kept is not shown to be above zero", n_units=n)
    root = sqrt(max(0.0, middle * middle - square * constant))
    return Interval(value=a / b, low=(middle - root) / square, high=(middle + root) / square, level=level, method="fieller over units", n_units=n)


def _share(counted: int, of: int) -> float:
    if of == 0:
        raise SpilloverError("a rate of nothing is undefined")
    return counted / of
