"""Intervals for a mean over units of replication. One that would not be valid is refused by name, never printed thin.

A unit's value is any number (a log-odds), or a share of its answers. Shares of few units are skewed where they are rare, and Student's t
then ends too low: `Share` guards against that, and is what the project offers. `docs/statistics.md` tabulates what each interval
covers, and says under which assumption.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false, reportMissingTypeStubs=false
from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import special

from spillover.records import SpilloverError
from spillover.statistics import rates

FEW = 3  # answers counted, a unit on average, up to which the count carries the interval and not the spread
SKEW = 0.4  # the share of a tail that the log-odds scale is given: 1 % beyond an interval of 95 %, whose ends have 2.5 % each
NARROWEST = 1e-12  # the smallest tail that is looked for


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """A value with its interval, or with the reason why there is none in `method`."""

    value: float
    low: float | None
    high: float | None
    level: float | None
    method: str
    n_units: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """A mean of shares over units like these: how far it may lie, for any tail.

    `error` is the standard error of the mean with `df` degrees of freedom; `answers` the (effective) number of answers behind the mean, 0 where the
    shares are exact. It assumes units that are alike with one hump, whose spread is at most the rate itself. Where few answers
    were counted, and the spread does not contradict that, the bounds are those of the negative binomial with that largest spread. Elsewhere they are
    Student's t on the plain and on the log-odds scale (Korn and Graubard 1998), whichever reaches further.
    """

    mean: float
    error: float
    df: float
    answers: float = 0.0
    units: float = 0.0  # how many, of a spread as large as the rate, the mean is taken over

    @classmethod
    def over(cls, values: Sequence[float], answers: float = 0.0) -> Share:
        """From one value a unit. The error is the spread between units, and never below the binomial error of their answers."""
        _check_shares(values)
        return cls.of(mean(values), standard_error(values), len(values) - 1, answers)

    @classmethod
    def of(cls, value: float, error: float, df: float, answers: float, *, units: float | None = None) -> Share:
        """From a mean with its error. `units` are df + 1 where nothing else is said."""
        if not -1e-12 <= value <= 1 + 1e-12:
            raise SpilloverError(f"a share lies in [0, 1], got {value:g}")
        value = min(1.0, max(0.0, value))
        units = df + 1 if units is None else units
        return cls(mean=value, error=max(error, rates.binomial_error(value, answers)), df=df, answers=answers, units=units)

    def t(self, tail: float) -> tuple[float, float]:
        """Student's t on the plain scale, with `tail` beyond each end."""
        return t_ends(self.mean, self.error, self.df, tail)

    def ends(self, tail: float) -> tuple[float, float]:
        """What the mean lies between, with `tail` beyond each end."""
        few_below, few_above = self._few(self.mean), self._few(1 - self.mean)
        low, high = self.t(tail)
        if 0 < self.mean < 1:
            half = _t(self.df, SKEW * tail) * self.error / (self.mean * (1 - self.mean))
            middle = math.log(self.mean / (1 - self.mean))
            low, high = min(low, float(special.expit(middle - half))), max(high, float(special.expit(middle + half)))
        if few_below and (self.mean <= 0.5 or not few_above):
            low, high = rates.few_seen(self.mean * self.answers, self.answers, self.units, tail)
        elif few_above:
            low, high = (1 - end for end in reversed(rates.few_seen((1 - self.mean) * self.answers, self.answers, self.units, tail)))
        return max(0.0, low), min(1.0, high)

    @property
    def method(self) -> str:
        return "negative binomial over units, few counted" if self._few(self.mean) or self._few(1 - self.mean) else "student t over units, guarded for skew"

    def _few(self, seen: float) -> bool:
        """Few were seen, and the units do not differ plainly more than they would if their spread were the rate itself."""
        if not 0 <= seen * self.answers <= FEW * self.units + 1e-9 or self.answers == 0:
            return False
        widest = math.sqrt(seen**2 / self.units + seen / self.answers)
        return self.error <= 1.5 * widest + 1e-15


def over_units(values: Sequence[float], strata: Sequence[int] = (), *, level: float = 0.95) -> Interval:
    """The interval the project offers for a share: of units like these, from one value in [0, 1] a unit.

    `strata` holds the number of answers of every (unit, question), none where shares are exact. One unit gets the error of its own answers, and
    says so; units of which none (or all) was counted get the exact bound for these units; units that are equal without answers none.
    """
    _check_shares(values)
    answers = rates.effective(strata)
    value = min(1.0, max(0.0, mean(values)))
    if strata and value in (0.0, 1.0):
        bound = rates.none_seen(strata, 1 - level)
        low, high = (0.0, bound) if value == 0 else (1 - bound, 1.0)
        what = "none" if value == 0 else "all"
        method = f"bound for {_these(values)}: {what} of {sum(strata)} counted"
        return Interval(value=value, low=low, high=high, level=level, method=method, n_units=len(values))
    if len(values) == 1 and strata:
        low, high = rates.clopper_pearson(value * answers, answers, level)
        return Interval(value=value, low=low, high=high, level=level, method="clopper-pearson over answers, this unit alone", n_units=1)
    if min(values) == max(values) and not strata:
        return _refused(values)
    share = Share.over(values, answers)
    low, high = share.ends((1 - level) / 2)
    return Interval(value=value, low=low, high=high, level=level, method=share.method, n_units=len(values))


def student_t(values: Sequence[float], *, level: float = 0.95, within: tuple[float, float] | None = None) -> Interval:
    """Mean over independent units with Student's t interval: for numbers without a range. `within` cuts the interval, and the method says so.

    Refused (no interval) for one unit and for units that are all equal, whose spread says nothing about units like them.
    """
    _check(values)
    if min(values) == max(values):
        return _refused(values)
    low, high = t_ends(mean(values), standard_error(values), len(values) - 1, (1 - level) / 2)
    method = "student t over units"
    if within is not None:
        low, high, method = max(low, within[0]), min(high, within[1]), f"student t over units, cut to [{within[0]:g}, {within[1]:g}]"
    return Interval(value=mean(values), low=low, high=high, level=level, method=method, n_units=len(values))


def percentile_bootstrap(values: Sequence[float], *, level: float = 0.95, resamples: int = 2000, seed: int = 0) -> Interval:
    """The paper's interval: percentiles of the mean over units resampled with replacement (2000 times, `default_rng(0)`).

    It is too narrow for few units (about 84 % coverage at 5); it stands beside ours for comparison.
    """
    _check(values)
    if min(values) == max(values):
        return _refused(values)
    array = np.asarray(values, dtype=np.float64)
    drawn = np.random.default_rng(seed).choice(array, size=(resamples, len(values)), replace=True).mean(axis=1)
    low, high = np.percentile(drawn, [50 * (1 - level), 50 * (1 + level)])
    method = "percentile bootstrap over units (paper)"
    return Interval(value=mean(values), low=float(low), high=float(high), level=level, method=method, n_units=len(values))


# --- parts ----------------------------------------------------------------------------------------------------------------


def mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


def standard_error(values: Sequence[float]) -> float:
    """Of the mean over units, by their spread; 0 for one unit or units that are all equal."""
    return float(np.std(values, ddof=1)) / math.sqrt(len(values)) if min(values) != max(values) else 0.0


def t_ends(value: float, error: float, df: float, tail: float) -> tuple[float, float]:
    half = _t(df, tail) * error if error else 0.0
    return value - half, value + half


def tail_beyond(ends: Callable[[float], tuple[float, float]], threshold: float, *, above: bool) -> float:
    """The p-value of "the truth is not above (or not below) `threshold`": the smallest tail that still leaves it outside the interval."""

    def gap(log_tail: float) -> float:
        low, high = ends(math.exp(log_tail))
        return low - threshold if above else threshold - high

    widest = math.log(NARROWEST)
    if gap(widest) > 0:
        return NARROWEST
    if gap(math.log(1 - 1e-9)) <= 0:
        return 1.0
    return math.exp(rates.root(gap, widest, math.log(1 - 1e-9)))


def _t(df: float, tail: float) -> float:
    return float(special.stdtrit(df, 1 - tail)) if tail > 1e-9 else -float(special.stdtrit(df, tail))


def _check(values: Sequence[float]) -> None:
    if not values:
        raise SpilloverError("an estimate over no units is undefined")
    if not all(math.isfinite(value) for value in values):
        raise SpilloverError("a unit's value is not finite, so the mean over units is undefined")


def _check_shares(values: Sequence[float]) -> None:
    _check(values)
    for value in values:
        if not -1e-12 <= value <= 1 + 1e-12:
            raise SpilloverError(f"a share lies in [0, 1], got {value:g}")


def _these(values: Sequence[float]) -> str:
    return "this unit" if len(values) == 1 else f"these {len(values)} units"


def _refused(values: Sequence[float]) -> Interval:
    """The value of units that are all equal, one unit included: their spread says nothing about units like them."""
    why = "one unit" if len(values) == 1 else "no spread between units"
    return Interval(value=values[0], low=None, high=None, level=None, method=f"no interval: {why}", n_units=len(values))
