"""Intervals for a mean over units of replication. One that would not be valid is refused by name, never printed thin."""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false, reportMissingTypeStubs=false
from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import special

from spillover.records import SpilloverError


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """A value with its interval, or with the reason why there is none in `method`."""

    value: float
    low: float | None
    high: float | None
    level: float | None
    method: str
    n_units: int


def student_t(values: Sequence[float], *, level: float = 0.95, within: tuple[float, float] | None = None) -> Interval:
    """Mean over independent units with Student's t interval. `within` cuts the interval to a range, and the method says so.

    Refused (no interval) for one unit and for units that are all equal, whose spread says nothing about units like them.
    """
    _check(values)
    if min(values) == max(values):
        return _refused(values)
    mean, n = math.fsum(values) / len(values), len(values)
    spread = float(np.std(values, ddof=1))
    half = float(special.stdtrit(n - 1, (1 + level) / 2)) * spread / math.sqrt(n)
    low, high, method = mean - half, mean + half, "student t over units"
    if within is not None:
        low, high, method = max(low, within[0]), min(high, within[1]), f"student t over units, cut to [{within[0]:g}, {within[1]:g}]"
    return Interval(value=mean, low=low, high=high, level=level, method=method, n_units=n)


def percentile_bootstrap(values: Sequence[float], *, level: float = 0.95, resamples: int = 2000, seed: int = 0) -> Interval:
    """The paper's interval: percentiles of the mean over units resampled with replacement (2000 times, `default_rng(0)`).

    It is too narrow for few units (about 82 % coverage at 5); it stands beside Student's t for comparison.
    """
    _check(values)
    if min(values) == max(values):
        return _refused(values)
    mean, n = math.fsum(values) / len(values), len(values)
    array = np.asarray(values, dtype=np.float64)
    drawn = np.random.default_rng(seed).choice(array, size=(resamples, n), replace=True).mean(axis=1)
    low, high = np.percentile(drawn, [50 * (1 - level), 50 * (1 + level)])
    return Interval(value=mean, low=float(low), high=float(high), level=level, method="percentile bootstrap over units (paper)", n_units=n)


def _check(values: Sequence[float]) -> None:
    if not values:
        raise SpilloverError("an estimate over no units is undefined")
    if not all(math.isfinite(value) for value in values):
        raise SpilloverError("a unit's value is not finite, so the mean over units is undefined")


def _refused(values: Sequence[float]) -> Interval:
    """The value of units that are all equal, one unit included: their spread says nothing about units like them."""
    why = "one unit" if len(values) == 1 else "no spread between units"
    return Interval(value=values[0], low=None, high=None, level=None, method=f"no interval: {why}", n_units=len(values))
