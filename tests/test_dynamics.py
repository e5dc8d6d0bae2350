from __future__ import annotations

import math

import numpy as np
import pytest

from spillover.records import SpilloverError
from spillover.statistics.dynamics import Stop, divergence_step, early_stop, frontier

STEPS = (10, 20, 40, 80)


def test_a_divergence_step_by_hand() -> None:
    # means 0, 0.3, 0.1, 0.9: above 0.2 at step 20 and not at 40, so it stays above from 80 on
    found = divergence_step(STEPS, [[0.0, 0.2, 0.0, 0.8], [0.0, 0.4, 0.2, 1.0]], margin=0.2)
    assert (found.step, found.n_units, found.margin) == (80, 2, 0.2)
    # two units, t(0.975, 1) = 12.7: at step 10 both are 0 and not above; at no later step is anything shown
    assert (found.low, found.high) == (20, None)


def test_the_interval_of_a_divergence_step_by_hand() -> None:
    # three units at mean -+ 0.1, error 0.1 / sqrt(3), t(0.975, 2) = 4.30: half 0.248
    means = (-0.3, 0.0, 0.1, 0.5, 0.3)
    found = divergence_step((1, 2, 3, 4, 5), [[mean + shift for mean in means] for shift in (-0.1, 0.0, 0.1)], margin=0.0)
    assert (found.step, found.low, found.high) == (3, 2, 4)
    assert found.diverging == 1.0
    assert found.method == "student t over units at each step, in fixed order"


@pytest.mark.parametrize("units", [2, 3, 5, 8])
@pytest.mark.parametrize("margin", [0.0, 0.55])
def test_a_divergence_step_is_covered_at_its_level(units: int, margin: float) -> None:
    # a rising curve, units that rise more or less of it, and noise at each step
    steps, runs, held, stream = list(range(10, 110, 10)), 1500, 0, np.random.default_rng(21)
    mean_S = np.maximum(0.0, 0.02 * (np.array(steps) - 40)) if margin else 0.02 * (np.array(steps) - 45.0)
    truth = next(step for step, mean in zip(steps, mean_S, strict=True) if mean > margin)
    for _ in range(runs):
        differences = mean_S * stream.normal(1, 0.3, (units, 1)) + stream.normal(0, 0.15, (units, len(steps)))
        found = divergence_step(steps, differences.tolist(), margin=margin, resamples=1)
        held += found.low is not None and found.low <= truth and (found.high is None or truth <= found.high)
    assert held / runs >= 0.94 - 3 * math.sqrt(0.95 * 0.05 / runs)


def test_conditions_that_never_part_are_seldom_said_to() -> None:
    stream, runs = np.random.default_rng(22), 1500
    said = [divergence_step(STEPS, stream.normal(0, 1, (5, 4)).tolist(), margin=0.0, resamples=1).high is not None for _ in range(runs)]
    assert sum(said) / runs <= 0.025 + 3 * math.sqrt(0.025 / runs)


def test_curves_without_units_or_order_are_refused() -> None:
    assert divergence_step(STEPS, [[0, 0, 1, 1]], margin=0.5).method == "no interval: one unit"
    for steps, differences in ((STEPS, []), (STEPS, [[0.0, 1.0]]), ((20, 10), [[0.0, 1.0]]), ((), [[]]), ((10, 20), [[0.0, math.nan]])):
        with pytest.raises(SpilloverError):
            divergence_step(steps, differences, margin=0.0)


TASK = [[0.2, 0.7, 0.9, 0.8], [0.4, 0.7, 0.9, 1.0]]
MISALIGNED = [[0.0, 0.1, 0.3, 0.4], [0.0, 0.1, 0.3, 0.4]]


def test_a_frontier_by_hand() -> None:
    # step 80 has as much of the task as step 40 and more misalignment
    found = frontier(STEPS, TASK, MISALIGNED)
    assert [(stop.step, stop.task, stop.misaligned) for stop in found] == [(10, pytest.approx(0.3), 0.0), (20, 0.7, 0.1), (40, 0.9, 0.3)]


def test_no_step_of_a_frontier_is_beaten_and_every_other_is() -> None:
    stream = np.random.default_rng(23)
    for _ in range(100):
        task, misaligned = stream.integers(0, 5, (1, 6)) / 4, stream.integers(0, 5, (1, 6)) / 4
        on = {stop.step for stop in frontier(range(6), task.tolist(), misaligned.tolist())}
        points = list(zip(task[0], misaligned[0], strict=True))
        for place, (t, m) in enumerate(points):
            beaten = any((a >= t and b <= m and (a, b) != (t, m)) or ((a, b) == (t, m) and other < place) for other, (a, b) in enumerate(points))
            assert (place in on) != beaten


def test_an_early_stop_is_read_on_the_unit_that_did_not_choose_it() -> None:
    found = early_stop((10, 20, 40), [[0.2, 0.9, 1.0], [0.2, 0.6, 1.0]], [[0.0, 0.1, 0.5], [0.0, 0.2, 0.3]], task_at_least=0.8)
    # unit 2 alone masters the task at 40; unit 1 alone at 20
    assert found == [Stop(step=40, task=1.0, misaligned=0.5), Stop(step=20, task=0.6, misaligned=0.2)]


def test_an_early_stop_chosen_on_other_units_is_not_too_good() -> None:
    # misalignment is the same at all steps but for noise: choosing and reading on the same units would look better than it is
    stream, chosen, same = np.random.default_rng(24), [], []
    for _ in range(400):
        misaligned = stream.normal(0.5, 0.1, (4, 5))
        stops = early_stop(range(5), np.ones((4, 5)).tolist(), misaligned.tolist(), task_at_least=0.5)
        chosen.append(np.mean([stop.misaligned for stop in stops]))
        same.append(misaligned.mean(axis=0).min())
    assert np.mean(chosen) == pytest.approx(0.5, abs=4 * 0.1 / math.sqrt(400))
    assert np.mean(same) < 0.46


def test_what_cannot_be_stopped_early_is_refused() -> None:
    for task, misaligned in (([[0.5]], [[0.5]]), ([[0.5], [0.5]], [[0.1], [0.1]])):
        with pytest.raises(SpilloverError):
            early_stop((10,), task, misaligned, task_at_least=0.8)
    for task, misaligned in (([], []), ([[0.1]], [[0.1, 0.2]]), ([[0.1]], [])):
        with pytest.raises(SpilloverError):
            frontier((10,), task, misaligned)
