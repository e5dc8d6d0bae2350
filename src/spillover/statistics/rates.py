"""What counts say of a rate: of answers drawn from one model, or of few answers counted over several.

Every bound takes real counts, because a mean over questions with unequal answers behaves like a share of an effective number of them.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false, reportMissingTypeStubs=false
from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import cast

from scipy import optimize, special

from spillover.records import SpilloverError


def wilson(counted: float, answers: float, level: float = 0.95) -> tuple[float, float]:
    """Wilson's score interval (1927)."""
    _check(counted, answers)
    z2, rate = float(special.ndtri((1 + level) / 2)) ** 2, counted / answers
    middle = (rate + z2 / (2 * answers)) / (1 + z2 / answers)
    half = math.sqrt(z2 * (rate * (1 - rate) + z2 / (4 * answers)) / answers) / (1 + z2 / answers)
    return max(0.0, middle - half) if counted else 0.0, min(1.0, middle + half) if counted < answers else 1.0


def clopper_pearson(counted: float, answers: float, level: float = 0.95) -> tuple[float, float]:
    """The exact interval of a binomial rate (1934): covers at least its level, whatever the rate."""
    _check(counted, answers)
    tail = (1 - level) / 2
    low = float(special.betaincinv(counted, answers - counted + 1, tail)) if counted > 0 else 0.0
    high = float(special.betaincinv(counted + 1, answers - counted, 1 - tail)) if counted < answers else 1.0
    return low, high


def none_seen(strata: Sequence[int], tail: float = 0.05) -> float:
    """The largest mean rate over strata (questions of models) at which seeing nothing in any still has a chance of `tail`.

    `strata` holds the answers of each. Exact whatever the rates are: 1 - tail ** (1 / n) for strata of equal size, n answers in all; larger where a
    stratum with few answers could hide more. The product of (1 - rate) ** n is held at `tail` while the mean rate is made as large as it goes.
    """
    if not strata or min(strata) < 1:
        raise SpilloverError("a bound on what was not seen needs at least one answer in every stratum")
    if not 0 < tail < 1:
        raise SpilloverError(f"the chance of seeing nothing is set between 0 and 1, got {tail:g}")

    def log_chance(log_scale: float) -> float:
        return math.fsum(n * min(0.0, log_scale + math.log(n)) for n in strata) - math.log(tail)

    # 1 - rate is scale * n where that is below one: the rates that cost the least chance for their mean
    scale = math.exp(root(log_chance, math.log(tail) - math.log(min(strata)), -math.log(min(strata))))
    return math.fsum(1 - min(1.0, scale * n) for n in strata) / len(strata)


def few_seen(counted: float, answers: float, units: float, tail: float) -> tuple[float, float]:
    """Bounds for the rate of units like these, of whose `answers` in all `counted` were counted, with `tail` beyond each.

    For the largest spread between units that is assumed, a standard deviation as large as the rate: the count is then negative binomial with as
    many successes as units, and both tails are longer than for any smaller spread. The lower bound is that of a count that
    was not zero, so that it holds among the intervals that are offered.
    """
    _check(counted, answers)
    share = float(special.betaincinv(units, counted + 1, tail))
    high = units * (1 - share) / share / answers
    if counted <= 1:
        return 0.0, min(1.0, high)

    def above(log_rate: float) -> float:
        ratio = answers * math.exp(log_rate) / units
        chance = max(1e-300, float(special.betainc(counted, units, ratio / (1 + ratio))))
        return math.log(chance) - math.log(-math.expm1(-units * math.log1p(ratio))) - math.log(tail)

    most = math.log(counted / answers)
    if above(most) <= 0:
        return counted / answers, min(1.0, high)
    least = most - 60
    return math.exp(root(above, least, most)) if above(least) < 0 else 0.0, min(1.0, high)


def root(of: Callable[[float], float], low: float, high: float) -> float:
    """Where a function that rises through zero between `low` and `high` does so (Brent)."""
    return cast(float, optimize.brentq(of, low, high, xtol=1e-13))


def binomial_error(rate: float, answers: float) -> float:
    """Standard error of a rate of so many answers; 0 where the rate is exact (no answers)."""
    return math.sqrt(max(0.0, rate * (1 - rate)) / answers) if answers else 0.0


def effective(strata: Sequence[int]) -> float:
    """How many answers, drawn at one rate, have the error of a mean over strata of these sizes: their harmonic mean, times how many there are."""
    if any(n < 1 for n in strata):
        raise SpilloverError("a stratum without answers has no rate")
    return len(strata) ** 2 / math.fsum(1 / n for n in strata) if strata else 0.0


def log_odds_ratio(first: tuple[int, int], second: tuple[int, int], level: float = 0.95) -> tuple[float, float, float]:
    """Log of the ratio of two odds, from (counted, answers) each, with Woolf's interval (1955). Refused where a cell is empty."""
    cells = [float(cell) for counted, answers in (first, second) for cell in (counted, answers - counted)]
    for counted, answers in (first, second):
        _check(counted, answers)
    if min(cells) <= 0:
        raise SpilloverError(f"a log-odds ratio needs some and not all counted on both sides, got {first[0]} of {first[1]} and {second[0]} of {second[1]}")
    value = math.log(cells[0] / cells[1]) - math.log(cells[2] / cells[3])
    half = float(special.ndtri((1 + level) / 2)) * math.sqrt(sum(1 / cell for cell in cells))
    return value, value - half, value + half


def _check(counted: float, answers: float) -> None:
    if answers <= 0:
        raise SpilloverError("a rate of no answers is undefined")
    if not 0 <= counted <= answers * (1 + 1e-9):
        raise SpilloverError(f"{counted:g} of {answers:g} answers is no count")
