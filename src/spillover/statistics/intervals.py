"""Intervals for a mean over units of replication. One that would not be valid is refused by name, never printed thin.

A unit's value is a share (of its answers) or any number. Shares of few units are skewed when they are rare: Student's t then ends too
low. `over_units` is the interval the project offers for shares; `docs/statistics.md` tabulates what it covers, and under which assumption.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false, reportMissingTypeStubs=false
from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import special

from spillover.records import SpilloverError

FEW = 3  # up to this many answers a unit counted, on average, the count itself carries the interval and not the spread
SKEW = 0.4  # share of a tail that the log-odds scale is given: 1 % for an interval of 95 %, whose ends have 2.5 % each


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
    """The share of something over independent units: each unit's value in [0, 1], and the answers behind all of them together (0: exact values).

    `upper` and `lower` are the ends of one-sided intervals that leave `tail` outside, for units like these: the building block of `over_units`, of
    differences and of p-values. Where few answers were counted (at most `FEW` a unit), it is the exact negative binomial bound for a spread between
    units as large as the rate itself; else Student's t on the plain and on the log-odds scale, the wider of both, never below the binomial error.
    """

    values: tuple[float, ...]
    answers: int = 0

    def __post_init__(self) -> None:
        _check(self.values)
        if not all(0 <= value <= 1 for value in self.values):
            raise SpilloverError(f"a share lies in [0, 1], got {next(v for v in self.values if not 0 <= v <= 1):g}")

    @property
    def mean(self) -> float:
        return math.fsum(self.values) / len(self.values)

    @property
    def error(self) -> float:
        """Standard error of the mean: the spread between units, and at least the binomial error of their answers."""
        between = standard_error(self.values)
        return max(between, math.sqrt(self.mean * (1 - self.mean) / self.answers)) if self.answers else between

    def plain(self, tail: float) -> tuple[float, float]:
        """Both ends of Student's t interval that leaves `tail` outside at each."""
        half = _t(len(self.values), tail) * self.error
        return self.mean - half, self.mean + half

    def upper(self, tail: float) -> float:
        """What the mean over units like these is not above, up to a chance of `tail`."""
        if self._few(self.mean):
            return few_at_most(self.mean * self.answers, self.answers, len(self.values), tail)
        if self._few(1 - self.mean):
            return 1 - few_at_least((1 - self.mean) * self.answers, self.answers, len(self.values), tail)
        return min(1.0, max(self.plain(tail)[1], self._log_odds(tail)[1]))

    def lower(self, tail: float) -> float:
        """What the mean over units like these is not below, up to a chance of `tail`."""
        return 1 - Share(values=tuple(1 - value for value in self.values), answers=self.answers).upper(tail)

    @property
    def method(self) -> str:
        few = self._few(self.mean) or self._few(1 - self.mean)
        return "negative binomial over units (few counted)" if few else "student t over units, guarded for skew"

    def _few(self, mean: float) -> bool:
        return 0 < self.answers and mean * self.answers <= FEW * len(self.values) + 1e-9

    def _log_odds(self, tail: float) -> tuple[float, float]:
        """The t interval on the log-odds scale (Korn and Graubard 1998), with `SKEW` of the tail."""
        variance = self.mean * (1 - self.mean)
        if variance == 0:
            return self.mean, self.mean
        half = _t(len(self.values), SKEW * tail) * self.error / variance
        middle = math.log(self.mean / (1 - self.mean))
        return float(special.expit(middle - half)), float(special.expit(middle + half))
