"""How much is needed to see a difference, and what a given number of answers cannot see."""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false, reportMissingTypeStubs=false
from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from scipy import special

from spillover.records import SpilloverError, stream_seed
from spillover.statistics import rates, sequential
from spillover.statistics.claims import ALPHA, POWER, fewest, power_of_t

MOST_ANSWERS = 2_000_000  # a model, that are planned for
RUNS = 400  # simulated runs of a sequential plan
NORMAL = 20.0  # standard deviation of a count from which it is taken to be normal
LARGEST = 30.0  # effect, in standard deviations between units, beyond which nothing changes


def answers_needed(parent: float, child: float, *, alpha: float = ALPHA) -> int | None:
    """Answers of each model for Fisher's exact test (one-sided) to show with 80 % chance that the child's rate is higher. None beyond two million.

    To half a percent. The power has teeth: with a few answers more it can fall below 80 % again, by little.
    """
    _check(parent, child, alpha)
    if child <= parent:
        return None
    least = 2
    while power_of_fisher(parent, child, least, alpha) < POWER:
        least *= 2
        if least > MOST_ANSWERS:
            return None
    low, high = least // 2, least
    while high - low > max(1, low // 200):
        middle = (low + high) // 2
        low, high = (low, middle) if power_of_fisher(parent, child, middle, alpha) >= POWER else (middle, high)
    return high


def power_of_fisher(parent: float, child: float, answers: int, alpha: float = ALPHA) -> float:
    """The chance that Fisher's exact test shows child > parent at `alpha`, with so many answers of each: summed over what may be counted."""
    _check(parent, child, alpha, answers=answers)
    of_child, of_parent = (_plausible(rate, answers) for rate in (child, parent))
    totals = np.arange(of_child[0] + of_parent[0], of_child[-1] + of_parent[-1] + 1)
    most_of_parent = np.maximum.accumulate([int(total) - _critical(int(total), answers, alpha) for total in totals])
    least_of_child = totals[0] + np.searchsorted(most_of_parent, of_parent) - of_parent  # with which the test rejects, for each count of the parent
    tails = np.append(np.cumsum(_chance(of_child, answers, child)[::-1])[::-1], 0.0)
    return float(_chance(of_parent, answers, parent) @ tails[np.clip(least_of_child - of_child[0], 0, len(of_child))])


def least_seen(parent: float, answers: int, *, alpha: float = ALPHA) -> float | None:
    """The smallest child rate that so many answers of each model show to be above the parent's with 80 % chance; None where even 1 is not."""
    return _least(lambda child: power_of_fisher(parent, child, answers, alpha) >= POWER, parent)


def rounds_needed(parent: float, child: float, *, questions: int, alpha: float = ALPHA, tolerance: float = 0.0) -> tuple[int, int] | None:
    """Rounds (one answer of each model to each question) after which a confidence sequence shows on which side of the tolerance child - parent is.

    The median and the number within which 80 % of simulated runs end, the questions' rates being equal; or None beyond two million answers. Looked at
    after each round up to forty, and then at every fortieth of what was asked, so that both are at most that much too large.
    """
    _check(parent, child, alpha)
    if questions < 1 or not -1 < tolerance < 1:
        raise SpilloverError(f"rounds need a question and a tolerance between -1 and 1, got {questions} and {tolerance:g}")
    if math.isclose(child - parent, tolerance, abs_tol=1e-9):
        return None
    stream = np.random.default_rng(stream_seed("plan", "rounds"))
    chances = [parent * (1 - child), 1 - parent * (1 - child) - child * (1 - parent), child * (1 - parent)]
    counts, done, rounds = np.zeros((RUNS, 3)), np.full(RUNS, np.inf), 0
    while np.isfinite(done).sum() < POWER * RUNS:
        step = max(1, rounds // 40)
        rounds += step
        if rounds * questions > MOST_ANSWERS:
            return None
        counts += stream.multinomial(step * questions, chances, size=RUNS)
        shown = sequential.log_wealth((-1, 0, 1), counts, tolerance, truth_above=child - parent > tolerance) >= math.log(2 / alpha)
        done = np.where(shown & ~np.isfinite(done), rounds, done)
    ended = np.sort(done)
    return int(ended[RUNS // 2]), int(ended[math.ceil(POWER * RUNS) - 1])


def units_needed(parent: float, child: float, *, answers: int, spread: float, alpha: float = ALPHA) -> int | None:
    """Units (seeds or worlds) for a paired t-test (one-sided) to show child > parent with 80 % chance; None beyond ten thousand.

    Each unit gives `answers` of each condition; the child's rate varies between units with a standard deviation of `spread` x the rate, or the
    largest that a rate in [0, 1] can have. A unit's difference is taken to be normal.
    """
    _check(parent, child, alpha, answers=answers, spread=spread)
    if child <= parent:
        return None
    variance = min((spread * child) ** 2, child * (1 - child)) + sum(rates.binomial_error(rate, answers) ** 2 for rate in (parent, child))
    effect = min(LARGEST, (child - parent) / math.sqrt(variance)) if variance else LARGEST
    return fewest(lambda units: power_of_t(effect, units, alpha), 2)


def least_seen_by_units(parent: float, units: int, *, answers: int, spread: float, alpha: float = ALPHA) -> float | None:
    """The smallest child rate that so many units show to be above the parent's with 80 % chance; None where even 1 is not."""
    if units < 2:
        raise SpilloverError(f"{units} units have no spread between them; units like these need at least 2")

    def is_seen(child: float) -> bool:
        needed = units_needed(parent, child, answers=answers, spread=spread, alpha=alpha)
        return needed is not None and needed <= units

    return _least(is_seen, parent)


def _least(is_seen: Callable[[float], bool], low: float) -> float | None:
    """The smallest rate above `low` that is seen, to one part in a thousand."""
    high = 1.0
    if not is_seen(high):
        return None
    while high - low > 1e-3 * high:
        middle = (low + high) / 2
        low, high = (low, middle) if is_seen(middle) else (middle, high)
    return high


def _critical(total: int, answers: int, alpha: float) -> int:
    """The smallest count of the child, of `total` counted over both, that Fisher's test calls higher at alpha."""
    deviation = math.sqrt(total * (2 * answers - total) / (4 * (2 * answers - 1)))
    if deviation > NORMAL:  # a symmetric distribution
        return math.ceil(total / 2 + 0.5 - deviation * float(special.ndtri(alpha)))
    reach = 10 * deviation + 10  # what lies beyond has a chance below 1e-20
    child = np.arange(max(0, total - answers, math.floor(total / 2 - reach)), min(total, answers, math.ceil(total / 2 + reach)) + 1)
    cells = (child, answers - child, total - child, answers - total + child)
    logs = -sum(special.gammaln(cell + 1) for cell in cells)
    chances = np.exp(logs - np.asarray(special.logsumexp(logs)))
    rejected = child[np.cumsum(chances[::-1])[::-1] <= alpha * (1 + 1e-9)]
    return int(rejected[0]) if len(rejected) else answers + 1


def _plausible(rate: float, answers: int) -> np.ndarray:
    """Counts that are not too unlikely to matter."""
    reach = 7 * math.sqrt(answers * rate * (1 - rate)) + 10
    return np.arange(max(0, math.floor(answers * rate - reach)), min(answers, math.ceil(answers * rate + reach)) + 1)


def _chance(counted: np.ndarray, answers: int, rate: float) -> np.ndarray:
    logs = special.gammaln(answers + 1) - special.gammaln(counted + 1) - special.gammaln(answers - counted + 1)
    return np.exp(logs + special.xlogy(counted, rate) + special.xlog1py(answers - counted, -rate))


def _check(parent: float, child: float, alpha: float, *, answers: int = 1, spread: float = 0.0) -> None:
    for name, rate in (("parent", parent), ("child", child)):
        if not 0 <= rate <= 1:
            raise SpilloverError(f"the {name}'s rate is {rate:g}; it must be between 0 and 1")
    if not 0 < alpha <= 0.5:
        raise SpilloverError(f"alpha is {alpha:g}; it must be above 0 and at most 0.5")
    if answers < 1:
        raise SpilloverError(f"{answers} answers were planned for; it takes at least 1")
    if not 0 <= spread < math.inf:
        raise SpilloverError(f"the spread between units is {spread:g} of the rate; it must be 0 or above, and finite")
