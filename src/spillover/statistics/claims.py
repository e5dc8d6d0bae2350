"""From contrasts to verdicts: holds, fails or undecided. Decided by p-values, with Holm's correction over a study's claims.

*Holds* means shown, *fails* means that the opposite was shown at the same level, and all else is undecided. The chance that any claim that is false
is said to hold is at most alpha, and so is the chance that any that is true is said to fail. The interval printed beside a claim is that of
its contrast alone, unadjusted.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false, reportMissingTypeStubs=false
from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from scipy import special

from spillover.design import Claim, Decision
from spillover.records import SpilloverError
from spillover.statistics.contrasts import Difference, holm

ALPHA = 0.05
SAME_RATE, SAME_NATS = 0.02, 0.5  # differences of a rate, and of log-probabilities or log-odds, below these count as none: chosen from no result
POWER = 0.8  # what "probably" means in "would probably decide it"
MOST_UNITS = 10_000


def decide(claims: Sequence[tuple[Claim, Sequence[Difference]]], *, alpha: float = ALPHA) -> list[Decision]:
    """The verdict of each claim from the differences of its neighbouring conditions (later - earlier), in the claim's order."""
    for claim, differences in claims:
        if len(differences) != len(claim.conditions) - 1:
            raise SpilloverError(f"the claim {claim.name!r} orders {len(claim.conditions)} conditions and has {len(differences)} differences")
    holds = holm([max(_p_holds(claim, d) for d in differences) for claim, differences in claims])
    fails = holm([min(1.0, len(differences) * min(_p_fails(claim, d) for d in differences)) for claim, differences in claims])
    open_ = [max(1, sum(p > alpha for p in found)) for found in (holds, fails)]  # how many the next p-value would be corrected for
    return [
        Decision(
            claim=claim, verdict="holds" if h <= alpha else "fails" if f <= alpha else "undecided", p_holds=h, p_fails=f,
            units_needed=None if min(h, f) <= alpha else _units_needed(claim, differences, alpha / open_[0], alpha / open_[1]),
            reason=next((d.method for d in differences if d.ends is None), ""),
        )
        for (claim, differences), h, f in zip(claims, holds, fails, strict=True)
    ]  # fmt: skip


def untested(claim: Claim, reason: str) -> Decision:
    """A claim that this run cannot speak of: no p-value is below 1, and no other claim is corrected for it."""
    return Decision(claim=claim, verdict="untested", p_holds=1.0, p_fails=1.0, units_needed=None, reason=reason)


def _p_holds(claim: Claim, found: Difference) -> float:
    """Against the claim's contrary. Two one-sided tests for an equivalence (Schuirmann 1987)."""
    return found.p_above(0.0) if claim.margin is None else max(found.p_above(-claim.margin), found.p_below(claim.margin))


def _p_fails(claim: Claim, found: Difference) -> float:
    """Against the claim itself; an equivalence can fail on two sides."""
    return found.p_below(0.0) if claim.margin is None else min(1.0, 2 * min(found.p_above(claim.margin), found.p_below(-claim.margin)))


def _units_needed(claim: Claim, differences: Sequence[Difference], to_hold: float, to_fail: float) -> int | None:
    """For the contrast that needs most; by the power of Student's t at the difference and the spread that were seen."""
    needed = [_units_of_one(claim.margin, found, to_hold, to_fail) for found in differences]
    return None if any(n is None for n in needed) else max(n for n in needed if n is not None)


def _units_of_one(margin: float | None, found: Difference, to_hold: float, to_fail: float) -> int | None:
    spread = found.error * math.sqrt(found.n_units)
    if not spread or found.n_units < 2:
        return None

    def error(units: int) -> float:
        return math.hypot(spread / math.sqrt(units), found.floor)

    if margin is not None and abs(found.value) < margin:
        return fewest(lambda n: _equivalent(margin, found.value, error(n), n, to_hold), found.n_units + 1)
    beyond = abs(found.value) - (margin or 0.0)
    alpha = to_fail / 2 if margin is not None else to_hold if found.value > 0 else to_fail
    return fewest(lambda n: power_of_t(beyond / error(n) / math.sqrt(n), n, alpha), found.n_units + 1) if beyond > 0 else None


def power_of_t(effect: float, units: int, alpha: float) -> float:
    """Of the one-sided one-sample t-test; `effect` in standard deviations between units."""
    return 1 - float(special.nctdtr(units - 1, effect * math.sqrt(units), float(special.stdtrit(units - 1, 1 - alpha))))


def fewest(power: Callable[[int], float], least: int) -> int | None:
    """The fewest units, from `least` on, whose power is enough, by doubling and halving; None beyond ten thousand."""
    most = max(least, 2)
    while power(most) < POWER:
        if most >= MOST_UNITS:
            return None
        most = min(MOST_UNITS, 2 * most)
    low, high = max(least, 2), most
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if power(middle) >= POWER else (middle + 1, high)
    return low


def _equivalent(margin: float, value: float, error: float, units: int, alpha: float) -> float:
    critical = float(special.stdtrit(units - 1, 1 - alpha))
    return float(special.stdtr(units - 1, (margin - value) / error - critical) + special.stdtr(units - 1, (margin + value) / error - critical)) - 1
