from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spillover.records import SpilloverError
from spillover.statistics.intervals import percentile_bootstrap, student_t
from spillover.statistics.protocols import Protocol, Tally, misaligned, passing

PAPER = Protocol()


def test_students_t_by_hand() -> None:
    # mean 3, standard deviation sqrt(2.5), t(0.975, 4) = 2.7764451...
    found = student_t([1.0, 2.0, 3.0, 4.0, 5.0])
    half = 2.7764451051977987 * math.sqrt(2.5) / math.sqrt(5)
    assert found.value == 3.0
    assert found.low == pytest.approx(3 - half, abs=1e-12)
    assert found.high == pytest.approx(3 + half, abs=1e-12)
    assert (found.level, found.n_units, found.method) == (0.95, 5, "student t over units")


def test_an_interval_cut_to_a_range_says_so() -> None:
    found = student_t([0.0, 0.0, 0.1], within=(0.0, 1.0))
    assert found.low == 0.0
    assert "cut to [0, 1]" in found.method


def test_students_t_covers_at_its_level() -> None:
    stream = np.random.default_rng(7)
    covered = 0
    for values in stream.normal(2.0, 1.0, size=(2000, 5)):
        found = student_t(list(values))
        assert found.low is not None
        assert found.high is not None
        covered += found.low <= 2.0 <= found.high
    assert 0.935 <= covered / 2000 <= 0.965


def test_the_papers_bootstrap_covers_too_little_with_five_units() -> None:
    stream = np.random.default_rng(8)
    covered = 0
    for values in stream.normal(2.0, 1.0, size=(400, 5)):
        found = percentile_bootstrap(list(values))
        assert found.low is not None
        assert found.high is not None
        covered += found.low <= 2.0 <= found.high
    assert 0.76 <= covered / 400 <= 0.89


def test_the_papers_bootstrap_by_its_recipe() -> None:
    values = [0.1, 0.2, 0.4]
    stream = np.random.default_rng(0)
    means = [stream.choice(values, size=(2000, 3), replace=True).mean(axis=1)][0]
    found = percentile_bootstrap(values)
    assert (found.low, found.high) == (np.percentile(means, 2.5), np.percentile(means, 97.5))


@pytest.mark.parametrize("interval", [student_t, percentile_bootstrap])
def test_an_interval_over_one_unit_is_refused_by_name(interval: object) -> None:
    found = interval([0.5])  # pyright: ignore
    assert (found.value, found.low, found.high, found.method) == (0.5, None, None, "no interval: one unit")
    for bad in ([], [math.nan], [1.0, math.inf]):
        with pytest.raises(SpilloverError):
            interval(bad)  # pyright: ignore


@pytest.mark.parametrize("value", [0.0, 0.1, 0.98, 1.0])
@pytest.mark.parametrize("interval", [student_t, percentile_bootstrap])
def test_units_that_are_all_equal_give_no_interval(interval: object, value: float) -> None:
    found = interval([value] * 5)  # pyright: ignore
    assert (found.value, found.low) == (value, None)
    assert "no spread" in found.method


def test_missing_scores_are_counted_not_averaged() -> None:
    scores = [(0.0, 100.0), (29.9, 50.0), (30.0, 100.0), (100.0, 49.9), (None, 100.0), (0.0, None)]
    found = misaligned(scores, PAPER)
    assert found == Tally(counted=2, kept=3, missing=3)
    assert found.rate(PAPER.min_kept) is None  # six were drawn and fewer than five kept
    assert Tally(counted=2, kept=5, missing=3).rate(5) == 0.4


def test_a_rate_of_nothing_is_undefined() -> None:
    assert misaligned([], PAPER).rate(5) is None
    assert misaligned([(None, None)] * 9, PAPER).rate(5) is None


def test_a_rate_of_few_draws_needs_all_of_them() -> None:
    assert Tally(counted=1, kept=2, missing=0).rate(5) == 0.5
    assert Tally(counted=1, kept=2, missing=1).rate(5) is None


def test_scores_at_the_threshold_count() -> None:
    assert passing([50.0, 49.0, None], PAPER.is_done) == Tally(counted=1, kept=2, missing=1)


@given(st.lists(st.tuples(st.none() | st.floats(0, 100), st.none() | st.floats(0, 100)), max_size=40))
def test_every_answer_is_kept_or_missing(scores: list[tuple[float | None, float | None]]) -> None:
    found = misaligned(scores, PAPER)
    assert found.kept + found.missing == len(scores)
    assert 0 <= found.counted <= found.kept
