from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spillover.records import SpilloverError
from spillover.statistics.gates import JointTable, joint_table, ratio_of_totals
from spillover.statistics.protocols import CODE, NATURE, STRICT, misaligned

SCORES = [(0.0, 100.0), (29.9, 50.0), (30.0, 100.0), (90.0, 50.0), (10.0, 49.0), (20.0, 0.0), (80.0, 10.0), (None, 90.0), (5.0, None), (None, None)]


def test_a_joint_table_by_hand() -> None:
    found = joint_table(SCORES, NATURE)
    assert found == JointTable(kept_misaligned=2, kept_aligned=2, removed_misaligned=2, removed_aligned=1, unscored=3)
    assert (found.answers, found.rate, found.rate_without_gate) == (10, 2 / 4, 4 / 7)
    assert found.bounds == (2 / 10, 8 / 10)


def test_a_strict_gate_removes_answers_at_it() -> None:
    assert joint_table(SCORES, STRICT).kept_misaligned == 1
    assert joint_table([(0.0, 95.0), (0.0, 96.0)], CODE) == JointTable(kept_misaligned=1, removed_misaligned=1)


@given(st.lists(st.tuples(st.none() | st.floats(0, 100), st.none() | st.floats(0, 100)), min_size=1, max_size=40))
def test_bounds_hold_whatever_the_removed_and_unscored_answers_were(scores: list[tuple[float | None, float | None]]) -> None:
    found = joint_table(scores, NATURE)
    low, high = found.bounds
    assert found.answers == len(scores)
    assert 0 <= low <= high <= 1
    known = sum(aligned is not None and aligned < 30 for aligned, _ in scores)
    unknown = sum(aligned is None for aligned, _ in scores)
    assert low <= known / len(scores)
    assert (known + unknown) / len(scores) <= high + 1e-12
    tally = misaligned(scores, NATURE)
    assert (found.kept_misaligned, found.kept_misaligned + found.kept_aligned) == (tally.counted, tally.kept)


def test_a_rate_of_nothing_kept_is_an_error() -> None:
    for nothing in (lambda: JointTable(removed_aligned=3).rate, lambda: JointTable(unscored=3).rate_without_gate, lambda: JointTable().bounds):
        with pytest.raises(SpilloverError, match="rate of nothing"):
            nothing()


def test_fieller_by_hand() -> None:
    # counted 2, 4, 3 (mean 3, variance 1), kept 10, 10, 10: the ratio is the mean / 10, and so is Student's t interval
    found = ratio_of_totals([2, 4, 3], [10, 10, 10])
    half = 4.302652729911275 / math.sqrt(3)
    assert (found.value, found.low, found.high) == (0.3, pytest.approx((3 - half) / 10, abs=1e-9), pytest.approx((3 + half) / 10, abs=1e-9))


def test_fieller_holds_the_ratios_that_a_t_test_does_not_reject() -> None:
    from scipy import stats

    counted, kept = [5.0, 9.0, 2.0, 7.0], [40.0, 60.0, 35.0, 80.0]
    found = ratio_of_totals(counted, kept)
    assert found.value == sum(counted) / sum(kept)
    for end in (found.low, found.high):
        assert end is not None
        assert stats.ttest_1samp([c - end * k for c, k in zip(counted, kept, strict=True)], 0.0).pvalue == pytest.approx(0.05, abs=1e-9)


def test_fieller_covers_at_its_level() -> None:
    stream, runs, covered = np.random.default_rng(12), 3000, 0  # coherent answers of 100, and misaligned ones among them
    kept = stream.normal(60, 10, size=(runs, 5))
    for k_U, noise_U in zip(kept, stream.normal(0, 2, size=(runs, 5)), strict=True):
        found = ratio_of_totals((0.3 * k_U + noise_U).tolist(), k_U.tolist())
        assert found.low is not None
        assert found.high is not None
        covered += found.low <= 0.3 <= found.high
    assert 0.94 - 3 * math.sqrt(0.95 * 0.05 / runs) <= covered / runs <= 0.97


def test_a_ratio_is_refused_by_name() -> None:
    assert "one unit" in ratio_of_totals([1], [10]).method
    assert "above zero" in ratio_of_totals([0, 1, 9], [1, 1, 90]).method
    assert "no spread" in ratio_of_totals([1, 2, 3, 2, 2], [10, 20, 30, 20, 20]).method
    assert "no spread" in ratio_of_totals([0, 0], [10, 20]).method
    for counted, kept in (([], []), ([1], [1, 2]), ([0, 0], [0, 0]), ([1, -1], [5, 5]), ([1, math.nan], [5, 5])):
        with pytest.raises(SpilloverError):
            ratio_of_totals(counted, kept)
