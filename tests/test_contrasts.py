from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.weightstats import ttost_paired

from spillover.records import SpilloverError
from spillover.statistics import rates
from spillover.statistics.contrasts import Difference, against_one, holm, of_numbers, of_shares, trend
from spillover.statistics.intervals import Share, over_units

FIRST, SECOND = [2.1, 3.4, 1.9, 4.0, 2.2], [1.0, 3.9, 0.7, 2.2, 2.0]
COUNTS = st.lists(st.tuples(st.integers(0, 800), st.integers(0, 800)), min_size=1, max_size=6)


def shares(counted: list[tuple[int, int]]) -> Difference:
    strata = [100] * (8 * len(counted))
    return of_shares([a / 800 for a, _ in counted], [b / 800 for _, b in counted], (strata, strata))


def ends(found: Difference, level: float = 0.95) -> tuple[float, float]:
    interval = found.interval(level)
    assert interval.low is not None
    assert interval.high is not None
    return interval.low, interval.high


def test_a_paired_difference_by_hand() -> None:
    # differences 1, 2, 3: mean 2, error 1 / sqrt(3), t(0.975, 2) = 4.3026527
    found = of_numbers([2, 4, 6], [1, 2, 3])
    half = 4.302652729911275 / math.sqrt(3)
    assert (found.value, found.error) == (2, pytest.approx(1 / math.sqrt(3)))
    assert ends(found) == pytest.approx((2 - half, 2 + half), abs=1e-9)


def test_a_difference_of_numbers_with_a_range_stays_in_its_own() -> None:
    first, second = [0.9, -0.8], [-0.9, 0.7]
    free, cut = of_numbers(first, second), of_numbers(first, second, within=(-1.0, 1.0))
    assert (free.interval().low, free.interval().high) < (-2.0, 2.0)
    assert (cut.interval().low, cut.interval().high) == (-2.0, 2.0)
    assert cut.interval().method == "student t over units, paired, cut to [-2, 2]"
    assert cut.p_above(0.0) == pytest.approx(free.p_above(0.0), abs=1e-9)


def test_paired_differences_agree_with_scipy_and_statsmodels() -> None:
    found = of_numbers(FIRST, SECOND)
    theirs = stats.ttest_rel(FIRST, SECOND)
    assert ends(found) == pytest.approx(tuple(theirs.confidence_interval()), abs=1e-9)
    for threshold in (-1.0, 0.0, 0.3):
        differences = np.subtract(FIRST, SECOND)
        assert found.p_above(threshold) == pytest.approx(stats.ttest_1samp(differences, threshold, alternative="greater").pvalue, abs=1e-9)
        assert found.p_below(threshold) == pytest.approx(stats.ttest_1samp(differences, threshold, alternative="less").pvalue, abs=1e-9)
    for margin in (0.5, 1.0, 3.0):
        assert max(found.p_above(-margin), found.p_below(margin)) == pytest.approx(
            ttost_paired(np.array(FIRST), np.array(SECOND), -margin, margin)[0], abs=1e-9
        )


def test_a_paired_difference_covers_at_its_level() -> None:
    stream, covered = np.random.default_rng(31), 0
    for differences in stream.normal(0.4, 1, (2000, 4)):
        low, high = ends(of_numbers(differences.tolist(), [0.0] * 4))
        covered += low <= 0.4 <= high
    assert 0.94 - 3 * math.sqrt(0.95 * 0.05 / 2000) <= covered / 2000 <= 0.965


@given(COUNTS, st.floats(-1, 1))
def test_a_difference_of_shares_has_p_values_that_agree_with_its_interval(counted: list[tuple[int, int]], threshold: float) -> None:
    found = shares(counted)
    low, high = ends(found)
    assert -1 <= low <= found.value + 1e-12
    assert found.value - 1e-12 <= high <= 1
    if min(abs(low - threshold), abs(high - threshold)) > 1e-9:
        assert (found.p_above(threshold) < 0.025) == (low > threshold)
        assert (found.p_below(threshold) < 0.025) == (high < threshold)


@given(COUNTS)
def test_a_difference_of_shares_reaches_further_the_smaller_the_tail(counted: list[tuple[int, int]]) -> None:
    found = [ends(shares(counted), level) for level in (0.5, 0.9, 0.95, 0.99, 0.998, 0.99999)]
    for (low, high), (next_low, next_high) in zip(found, found[1:], strict=False):
        assert next_low <= low + 1e-9
        assert next_high >= high - 1e-9


@given(COUNTS)
def test_a_difference_of_shares_mirrors_where_the_sides_are_swapped(counted: list[tuple[int, int]]) -> None:
    low, high = ends(shares(counted))
    assert ends(shares([(b, a) for a, b in counted])) == pytest.approx((-high, -low), abs=1e-9)


def test_a_difference_of_shares_is_never_narrower_than_students_t() -> None:
    for counted in ([(80, 8), (160, 20), (240, 10)], [(400, 300), (300, 250), (500, 420), (380, 300)]):
        low, high = ends(shares(counted))
        plain = stats.ttest_rel([a / 800 for a, _ in counted], [b / 800 for _, b in counted]).confidence_interval()
        assert low <= plain.low + 1e-12
        assert high >= plain.high - 1e-12


def test_a_difference_from_nothing_is_the_share_alone() -> None:
    values = [0.1, 0.2, 0.4]
    found = of_shares(values, [0.0] * 3, ([100] * 24, ()))
    share = Share.over(values, 2400)
    assert ends(found) == pytest.approx((min(share.t(0.025)[0], share.ends(0.025)[0]), share.ends(0.025)[1]), abs=1e-9)


def test_where_nothing_is_counted_on_either_side_the_bounds_are_joined() -> None:
    found = of_shares([0.0] * 4, [0.0] * 4, ([100] * 32, [100] * 32))
    bound = rates.few_seen(0, 3200, 4, 0.025)[1]
    assert ends(found) == pytest.approx((-bound, bound), abs=1e-9)
    assert (found.p_above(0.0), found.p_below(0.0)) == (1.0, 1.0)
    assert found.p_below(0.02) < 0.05


@pytest.mark.parametrize(("first", "second"), [(0.01, 0.001), (0.1, 0.001), (0.3, 0.1)])
@pytest.mark.parametrize("linked", [True, False])
def test_a_difference_of_shares_covers_at_its_level(first: float, second: float, linked: bool) -> None:
    stream, runs, covered = np.random.default_rng(32), 1000, 0
    size = (1 - first) / (0.75**2 * first) - 1
    one = stream.beta(first * size, (1 - first) * size, (runs, 4))
    other = one * second / first if linked else stream.permutation(one.ravel()).reshape(runs, 4) * second / first
    for a, b in zip(stream.binomial(800, one), stream.binomial(800, other), strict=True):
        low, high = ends(shares(list(zip(a.tolist(), b.tolist(), strict=True))))
        covered += low <= first - second <= high
    assert covered / runs >= 0.94 - 3 * math.sqrt(0.95 * 0.05 / runs)


def test_children_against_one_parent_by_hand() -> None:
    values, strata = [0.2, 0.3, 0.25, 0.35], ([100] * 32, [100] * 8)
    child, parent = over_units(values, strata[0]), rates.clopper_pearson(8, 800)
    assert child.low is not None
    assert child.high is not None
    found = against_one(values, 0.01, strata)
    expected = (0.265 - math.hypot(0.275 - child.low, parent[1] - 0.01), 0.265 + math.hypot(child.high - 0.275, 0.01 - parent[0]))
    assert ends(found) == pytest.approx(expected, abs=1e-9)
    assert found.p_above(0.0) < 0.025


def test_one_child_against_one_parent_speaks_of_these_two() -> None:
    found = against_one([0.3], 0.01, ([100] * 8, [100] * 8))
    assert "this unit alone" in found.method
    assert 1e-12 <= found.p_above(0.0) < 1e-6
    assert ends(found) == ends(of_shares([0.3], [0.01], ([100] * 8, [100] * 8)))
    assert against_one([0.3], 0.01).method == "no interval: one unit"


def test_children_against_one_parent_are_covered_at_their_level() -> None:
    stream, runs, covered = np.random.default_rng(33), 1000, 0
    children = stream.binomial(800, stream.beta(2, 18, (runs, 5)))
    for counted, parent in zip(children, stream.binomial(800, 0.01, runs), strict=True):
        low, high = ends(against_one((counted / 800).tolist(), parent / 800, ([100] * 40, [100] * 8)))
        covered += low <= 0.09 <= high
    assert covered / runs >= 0.94 - 3 * math.sqrt(0.95 * 0.05 / runs)


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([]) == []


def test_holm_agrees_with_statsmodels() -> None:
    stream = np.random.default_rng(36)
    for n in (1, 2, 5, 12):
        p_values = [*(stream.random(n) ** 3).tolist(), 0.03, 0.03, 0.0, 1.0]
        assert holm(p_values) == pytest.approx(multipletests(p_values, method="holm")[1], abs=1e-9)


def test_holm_keeps_the_chance_of_any_wrong_rejection() -> None:
    stream = np.random.default_rng(34)
    wrong = [min(holm([*stream.random(5), 1e-6])[:5]) <= 0.05 for _ in range(4000)]
    assert sum(wrong) / 4000 <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / 4000)


def test_a_trend_by_hand() -> None:
    # slopes 2 and 4 per unit of the factor
    found = trend([[1, 3, 5], [0, 4, 8]], [10, 11, 12])
    assert (found.value, found.error) == (3, pytest.approx(1.0))
    assert ends(found) == pytest.approx((3 - 12.706204736432095, 3 + 12.706204736432095), abs=1e-9)
    assert found.method == "student t over units, slopes"


def test_a_trend_agrees_with_least_squares_and_covers_at_its_level() -> None:
    stream, levels, covered = np.random.default_rng(35), [0.0, 0.25, 0.5, 1.0], 0
    for rows in stream.normal(0, 0.5, (2000, 5, 4)) + np.array(levels) * stream.normal(1.5, 0.5, (2000, 5, 1)):
        found = trend(rows.tolist(), levels)
        low, high = ends(found)
        covered += low <= 1.5 <= high
    assert found.value == pytest.approx(np.mean([stats.linregress(levels, row).slope for row in rows]), abs=1e-9)
    assert 0.94 - 3 * math.sqrt(0.95 * 0.05 / 2000) <= covered / 2000 <= 0.965


def test_differences_without_spread_have_no_interval_and_decide_nothing() -> None:
    for found in (of_numbers([1.0], [0.0]), of_numbers([1.0, 2.0], [0.0, 1.0]), of_shares([0.5, 0.6], [0.25, 0.35]), against_one([0.5, 0.5], 0.1)):
        assert found.interval().low is None
        assert found.method.startswith("no interval")
        assert (found.p_above(-9.0), found.p_below(9.0)) == (1.0, 1.0)


def test_differences_of_what_does_not_belong_together_are_refused() -> None:
    for refused in (
        lambda: of_numbers([1.0], [1.0, 2.0]),
        lambda: of_numbers([], []),
        lambda: of_numbers([math.nan, 1.0], [0.0, 0.0]),
        lambda: of_shares([0.5, 1.5], [0.1, 0.1], ([9] * 2, [9] * 2)),
        lambda: against_one([], 0.5),
        lambda: against_one([0.5, 0.6], 1.5),
        lambda: trend([[1.0, 2.0]], [1.0, 1.0]),
        lambda: trend([[1.0]], [1.0, 2.0]),
        lambda: trend([], [1.0, 2.0]),
        lambda: holm([0.5, 1.5]),
    ):
        with pytest.raises(SpilloverError):
            refused()
