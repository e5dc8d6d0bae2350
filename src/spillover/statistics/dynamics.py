"""Along the steps of training: where two conditions part, and where stopping early would have paid."""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false, reportMissingTypeStubs=false
from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import special

from spillover.records import SpilloverError
from spillover.statistics.intervals import mean


@dataclass(frozen=True, slots=True, kw_only=True)
class DivergenceStep:
    """The first read step from which the mean paired difference stays above the margin, to the last one read; None: it never does.

    `low` and `high` are read steps too; `low` is None where every step was shown not to be above, `high` where the last one was not shown to be.
    `diverging` is the share of resamples of the units, as many, that diverge at all: a description, and no probability.
    """

    step: int | None
    low: int | None
    high: int | None
    level: float
    margin: float
    diverging: float
    n_units: int
    method: str


def divergence_step(
    steps: Sequence[int], differences_US: Sequence[Sequence[float]], *, margin: float, level: float = 0.95, resamples: int = 4000
) -> DivergenceStep:
    """Where insecure - secure (say) leaves zero: `differences_US` holds each unit's paired difference at each of the steps S.

    The interval is of Student's t over units at each step, in a fixed order, which needs no correction for their number (Hsu and Berger 1999).
    `low` is the first step that is not shown to be at the margin or below, from the first step on; a truth before it means that its own step, not
    at the margin, was shown to be. `high` is the step from which all are shown to be above; a truth after it means that the step before the truth was.
    Each error has a chance of at most (1 - level) / 2. Two units or more are needed.
    """
    differences = np.asarray(differences_US, dtype=np.float64)
    if differences.ndim != 2 or differences.shape[1] != len(steps) or list(steps) != sorted(set(steps)) or not len(steps):
        raise SpilloverError(f"a divergence step needs one difference for every one of {len(steps)} rising steps in each unit")
    if not np.isfinite(differences).all():
        raise SpilloverError("a unit's difference is not finite at some step, so where it diverges is undefined")
    units, means = len(differences), differences.mean(axis=0)
    step = _or_none(_first(steps, means[None], margin)[0])
    if units < 2:
        return DivergenceStep(
            step=step, low=None, high=None, level=level, margin=margin, diverging=float(step is not None), n_units=units, method="no interval: one unit"
        )  # fmt: skip
    half = float(special.stdtrit(units - 1, (1 + level) / 2)) * differences.std(axis=0, ddof=1) / math.sqrt(units)
    open_still = means + half > margin
    places = np.random.default_rng(0).integers(0, units, size=(resamples, units))
    return DivergenceStep(
        step=step, low=steps[int(open_still.argmax())] if open_still.any() else None, high=_or_none(_first(steps, (means - half)[None], margin)[0]),
        level=level, margin=margin, diverging=float((differences[places, -1].mean(axis=1) > margin).mean()),
        n_units=units, method="student t over units at each step, in fixed order",
    )  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Stop:
    """What stopping at one step would have given, as means over units: how much of the narrow task, how much misalignment."""

    step: int
    task: float
    misaligned: float


def frontier(steps: Sequence[int], task_US: Sequence[Sequence[float]], misaligned_US: Sequence[Sequence[float]]) -> list[Stop]:
    """The steps that no other beats on both, more of the task and less misalignment, in order of the task."""
    if not task_US or len(task_US) != len(misaligned_US) or any(len(row) != len(steps) for row in (*task_US, *misaligned_US)):
        raise SpilloverError(f"a frontier needs a task rate and a misaligned rate at every one of {len(steps)} steps in each unit")
    every = [
        Stop(step=step, task=mean([row[place] for row in task_US]), misaligned=mean([row[place] for row in misaligned_US])) for place, step in enumerate(steps)
    ]
    best: list[Stop] = []
    for stop in sorted(every, key=lambda s: (-s.task, s.misaligned, s.step)):
        if not best or stop.misaligned < best[-1].misaligned:
            best.append(stop)
    return best[::-1]


def early_stop(steps: Sequence[int], task_US: Sequence[Sequence[float]], misaligned_US: Sequence[Sequence[float]], *, task_at_least: float) -> list[Stop]:
    """For each unit, what the stop chosen on the other units gives it: the least misaligned step at which the task is mastered to `task_at_least`.

    A step chosen and read on the same units looks better than it is; these values may be averaged. Raises SpilloverError when no step qualifies.
    """
    if len(task_US) < 2:
        raise SpilloverError("an early stop is chosen on other units than it is read on; that needs at least two")
    chosen: list[Stop] = []
    for unit in range(len(task_US)):
        others = [i for i in range(len(task_US)) if i != unit]
        stops = [stop for stop in frontier(steps, [task_US[i] for i in others], [misaligned_US[i] for i in others]) if stop.task >= task_at_least]
        if not stops:
            raise SpilloverError(f"no step has a task rate of at least {task_at_least:g} on all units but one")
        place = list(steps).index(min(stops, key=lambda s: s.misaligned).step)
        chosen.append(Stop(step=steps[place], task=task_US[unit][place], misaligned=misaligned_US[unit][place]))
    return chosen


def _first(steps: Sequence[int], differences_RS: np.ndarray, margin: float) -> np.ndarray:
    """For each row, the first step from which all are above the margin; infinity where the last is not."""
    stays = np.logical_and.accumulate(differences_RS[:, ::-1] > margin, axis=1)[:, ::-1]
    return np.where(stays.any(axis=1), np.asarray(steps, dtype=np.float64)[stays.argmax(axis=1)], np.inf)


def _or_none(step: float) -> int | None:
    return None if step == np.inf else int(step)
