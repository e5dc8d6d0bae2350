"""Differences between conditions: within units, against one parent, several at once, along an ordered factor."""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false, reportMissingTypeStubs=false
from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from spillover.records import SpilloverError
from spillover.statistics import rates
from spillover.statistics.intervals import Interval, Share, mean, standard_error, t_ends, tail_beyond

ONE_KIND = "true of units of one kind alone"  # of a bound on what was not seen; files of runs hold these words
NONE_COUNTED = f"none or all counted: {ONE_KIND}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """A difference of two conditions, and how far it may lie for any tail; `ends` is None where nothing is known of that, as `method` says."""

    value: float
    ends: Callable[[float], tuple[float, float]] | None
    method: str
    n_units: int
    error: float = 0.0  # standard error over units, for planning
    floor: float = 0.0  # the part of the error that more units do not make smaller

    def reversed(self) -> Difference:
        """The second less the first."""
        ends = self.ends
        if ends is None:
            return replace(self, value=-self.value)

        def mirrored(tail: float) -> tuple[float, float]:
            low, high = ends(tail)
            return -high, -low

        return replace(self, value=-self.value, ends=mirrored)

    def interval(self, level: float = 0.95) -> Interval:
        low, high = (None, None) if self.ends is None else self.ends((1 - level) / 2)
        return Interval(value=self.value, low=low, high=high, level=None if low is None else level, method=self.method, n_units=self.n_units)

    def p_above(self, threshold: float) -> float:
        """The p-value against "not above `threshold`": small where the difference was shown to be above."""
        return 1.0 if self.ends is None else tail_beyond(self.ends, threshold, above=True)

    def p_below(self, threshold: float) -> float:
        """The p-value against "not below `threshold`"."""
        return 1.0 if self.ends is None else tail_beyond(self.ends, threshold, above=False)


def of_numbers(first: Sequence[float], second: Sequence[float], within: tuple[float, float] | None = None) -> Difference:
    """first - second within units (same order), for numbers that are no share: Student's t over the units' differences.

    Where a number has a range, `within`, their difference has one too: the interval is cut to it, and the method says so.
    """
    differences = _paired(first, second)
    n, error = len(differences), standard_error(differences)
    if not error:
        return Difference(value=mean(differences), ends=None, method=_none(differences), n_units=n)
    value = mean(differences)
    most = math.inf if within is None else within[1] - within[0]

    def ends(tail: float) -> tuple[float, float]:
        low, high = t_ends(value, error, n - 1, tail)
        return max(low, -most), min(high, most)

    cut = "" if within is None else f", cut to [{-most:g}, {most:g}]"
    return Difference(value=value, ends=ends, method=f"student t over units, paired{cut}", n_units=n, error=error)


def of_shares(first: Sequence[float], second: Sequence[float], strata: tuple[Sequence[int], Sequence[int]] = ((), ())) -> Difference:
    """first - second within units (same order), for shares; `strata` holds the answers of every (unit, question) of each, none where exact.

    Student's t over the units' differences, never below the binomial error, stretched by as much as the guard against skew stretches the two
    conditions' own intervals (`intervals.Share`), those joined as in `against_one`. Where neither has anything counted, their bounds are all there is.
    """
    differences = _paired(first, second)
    n, value = len(differences), mean(differences)
    if n == 1:
        return against_one(first, second[0], strata)
    shares = [Share.over(values, rates.effective(answers)) for values, answers in zip((first, second), strata, strict=True)]
    binomial = math.hypot(*(rates.binomial_error(share.mean, share.answers) for share in shares))
    error = max(standard_error(differences), binomial)
    if not error and not all(strata):
        return Difference(value=value, ends=None, method=_none(differences), n_units=n)

    apart = math.hypot(*(share.error for share in shares))  # the error, were the two conditions independent
    closer = error / apart if apart else 1.0

    def ends(tail: float) -> tuple[float, float]:
        (a_below, a_above), (b_below, b_above) = (_reach(share, tail) for share in shares)
        return max(-1.0, value - closer * math.hypot(a_below, b_above)), min(1.0, value + closer * math.hypot(a_above, b_below))

    method = "student t over units, paired, guarded for skew" if apart else f"negative binomial over units, {NONE_COUNTED}"
    return Difference(value=value, ends=ends, method=method, n_units=n, error=error)


def against_one(first: Sequence[float], second: float, strata: tuple[Sequence[int], Sequence[int]] = ((), ())) -> Difference:
    """first - second where the second is one model for all units (a parent of several seeds): a share of its answers, or exact without.

    The units' interval and the exact interval of the one model's answers, joined by the square root of their squared distances (Zou and Donner
    2008). One unit has the interval of its own answers, and the method says so.
    """
    if not first or not 0 <= second <= 1:
        raise SpilloverError(f"a difference from one model needs units, and a share in [0, 1] for that model; got {len(first)} and {second:g}")
    n, value = len(first), mean(first) - second
    answers = [rates.effective(of) for of in strata]

    def one(rate: float, of: float, tail: float) -> tuple[float, float]:
        return rates.clopper_pearson(rate * of, of, 1 - 2 * tail) if of else (rate, rate)

    share = None if n == 1 else Share.over(first, answers[0])
    if share is None:
        method = "clopper-pearson over answers of each, joined; this unit alone"
        if not all(answers):
            return Difference(value=value, ends=None, method="no interval: one unit", n_units=1)
    else:
        joined = "its answers' error joined" if answers[1] else "taken as it is"
        method = f"{share.method if share.error else f'negative binomial over units, {NONE_COUNTED}'}; the parent is one model, {joined}"
        if not share.error and not answers[0]:
            return Difference(value=value, ends=None, method=_none(first), n_units=n)

    def ends(tail: float) -> tuple[float, float]:
        a_low, a_high = one(first[0], answers[0], tail) if share is None else share.ends(tail)
        b_low, b_high = one(second, answers[1], tail)
        a = mean(first)
        below, above = math.hypot(max(0.0, a - a_low), max(0.0, b_high - second)), math.hypot(max(0.0, a_high - a), max(0.0, second - b_low))
        return value - below, value + above

    return Difference(value=value, ends=ends, method=method, n_units=n, error=standard_error(first), floor=rates.binomial_error(second, answers[1]))


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values adjusted for how many there are (Holm 1979), in their order: below alpha where the chance of any wrong rejection is kept to alpha."""
    if any(not 0 <= p <= 1 for p in p_values):
        raise SpilloverError("a p-value lies in [0, 1]")
    adjusted, highest = [0.0] * len(p_values), 0.0
    for rank, place in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[place]))
        adjusted[place] = highest
    return adjusted


def trend(values: Sequence[Sequence[float]], levels: Sequence[float]) -> Difference:
    """The slope of a measure along an ordered factor, per unit of the factor: a line within each unit, Student's t over the units' slopes.

    `values` holds one row a unit, one value a level.
    """
    if len(set(levels)) < 2:
        raise SpilloverError("a trend needs at least two levels that differ")
    if any(len(row) != len(levels) for row in values):
        raise SpilloverError(f"a trend needs one value a level in every unit; there are {len(levels)} levels")
    middle = mean(levels)
    weights = [(level - middle) / math.fsum((other - middle) ** 2 for other in levels) for level in levels]
    slopes = [math.fsum(weight * value for weight, value in zip(weights, row, strict=True)) for row in values]
    found = of_numbers(slopes, [0.0] * len(slopes))
    return Difference(value=found.value, ends=found.ends, method=found.method.replace("paired", "slopes"), n_units=found.n_units, error=found.error)


def _paired(first: Sequence[float], second: Sequence[float]) -> list[float]:
    if len(first) != len(second) or not first:
        raise SpilloverError(f"a paired difference needs the same units on both sides, got {len(first)} and {len(second)}")
    if not all(map(math.isfinite, (*first, *second))):
        raise SpilloverError("a unit's value is not finite, so a paired difference is undefined")
    return [a - b for a, b in zip(first, second, strict=True)]


def _reach(share: Share, tail: float) -> tuple[float, float]:
    """How far a mean of shares may lie below and above: Student's t uncut, or the guard's end where that is further."""
    ends, plain = share.ends(tail), share.t(tail)
    return max(0.0, share.mean - min(ends[0], plain[0])), max(0.0, max(ends[1], plain[1]) - share.mean)


def _none(values: Sequence[float]) -> str:
    return f"no interval: {'one unit' if len(values) == 1 else 'no spread between units'}"
