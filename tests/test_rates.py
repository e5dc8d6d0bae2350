from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.contingency_tables import Table2x2
from statsmodels.stats.proportion import proportion_confint

from spillover.records import SpilloverError
from spillover.statistics import rates

COUNTS = [(0, 1), (1, 1), (0, 20), (1, 20), (7, 20), (19, 20), (20, 20), (3, 4000), (1234, 4000)]


def least(level: float, runs: int) -> float:
    """Coverage below this is no accident of simulation."""
    return level - 0.01 - 3 * math.sqrt(level * (1 - level) / runs)


def test_wilson_by_hand() -> None:
    # 1 of 10, z = 1.959964: middle (0.1 + 0.19207) / 1.38415, half 1.959964 sqrt(0.009 + 0.0096036) / 1.38415
    assert rates.wilson(1, 10) == pytest.approx((0.017876, 0.404150), abs=1e-6)


@pytest.mark.parametrize(("counted", "answers"), COUNTS)
@pytest.mark.parametrize("level", [0.8, 0.95, 0.99])
def test_intervals_of_a_rate_agree_with_statsmodels(counted: int, answers: int, level: float) -> None:
    for ours, method in ((rates.wilson, "wilson"), (rates.clopper_pearson, "beta")):
        theirs = proportion_confint(counted, answers, alpha=1 - level, method=method)
        assert ours(counted, answers, level) == pytest.approx(theirs, abs=1e-9)


def test_clopper_pearson_by_hand() -> None:
    # none of 10: 1 - 0.025 ** (1 / 10)
    assert rates.clopper_pearson(0, 10) == (0.0, pytest.approx(1 - 0.025**0.1, abs=1e-12))
    assert rates.clopper_pearson(10, 10) == (pytest.approx(0.025**0.1, abs=1e-12), 1.0)


@pytest.mark.parametrize("rate", [0.001, 0.01, 0.1, 0.37, 0.5, 0.9])
def test_clopper_pearson_covers_exactly_at_least_its_level_and_wilson_about_it(rate: float) -> None:
    answers = 200
    chances = stats.binom.pmf(np.arange(answers + 1), answers, rate)
    covered = [
        sum(chances[k] for k in range(answers + 1) if low(k)[0] <= rate <= low(k)[1])
        for low in (lambda k: rates.clopper_pearson(k, answers), lambda k: rates.wilson(k, answers))
    ]
    assert covered[0] >= 0.95
    assert covered[1] >= 0.93


def test_nothing_seen_in_equal_strata_is_the_rule_of_three_made_exact() -> None:
    for strata in ([1], [100], [100] * 40, [3, 3]):
        assert rates.none_seen(strata, 0.05) == pytest.approx(1 - 0.05 ** (1 / sum(strata)), abs=1e-12)


@pytest.mark.parametrize("strata", [[1, 1], [1, 4], [5, 20], [2, 3, 7], [1, 50, 50]])
@pytest.mark.parametrize("tail", [0.05, 0.2])
def test_nothing_seen_is_bounded_for_the_worst_rates_there_can_be(strata: list[int], tail: float) -> None:
    # every split of the allowed chance over strata, on a grid: stratum i takes share w_i of log(tail)
    grid = np.linspace(0, 1, 201)
    worst = 0.0
    for shares in itertools.product(grid, repeat=len(strata) - 1):
        last = 1 - sum(shares)
        if last >= -1e-12:
            worst = max(worst, float(np.mean([1 - tail ** (max(0.0, share) / n) for share, n in zip((*shares, last), strata, strict=True)])))
    found = rates.none_seen(strata, tail)
    assert worst <= found + 1e-9
    assert found == pytest.approx(worst, abs=2e-4)


@given(st.lists(st.integers(1, 50), min_size=1, max_size=6), st.floats(0.001, 0.5))
def test_a_bound_on_what_was_not_seen_is_never_below_that_of_equal_strata(strata: list[int], tail: float) -> None:
    assert 1 - tail ** (1 / sum(strata)) - 1e-9 <= rates.none_seen(strata, tail) <= 1


def test_a_bound_on_what_was_not_seen_holds_where_the_rates_differ() -> None:
    strata, stream = [2, 20, 50], np.random.default_rng(3)
    bound = rates.none_seen(strata, 0.05)
    for true in (np.array([0.9, 0.01, 0.0]), np.array([0.75, 0.0, 0.0]), np.full(3, 0.04)):
        none = (stream.binomial(strata, true, size=(20_000, 3)).sum(axis=1) == 0).mean()
        assert none <= 0.05 + 3 * math.sqrt(0.05 / 20_000) or true.mean() <= bound


@pytest.mark.parametrize(("counted", "answers", "units"), [(0, 400, 3), (1, 400, 3), (2, 400, 4), (5, 4000, 5), (15, 4000, 5), (30, 8000, 10)])
@pytest.mark.parametrize("tail", [0.001, 0.025, 0.3])
def test_few_counted_have_the_bounds_of_the_negative_binomial(counted: int, answers: int, units: int, tail: float) -> None:
    low, high = rates.few_seen(counted, answers, units, tail)
    assert stats.nbinom.cdf(counted, units, units / (units + answers * high)) == pytest.approx(tail, abs=1e-9)
    if counted < 2:
        assert low == 0
        return
    at = units / (units + answers * low)
    given_some = stats.nbinom.sf(counted - 1, units, at) / stats.nbinom.sf(0, units, at)
    assert given_some == pytest.approx(tail, abs=1e-9)
    assert low < counted / answers < high


@pytest.mark.parametrize("tail", [1e-12, 1e-6, 0.5, 0.9, 1 - 1e-9])
@pytest.mark.parametrize("counted", [1.0001, 1.1, 2, 15, 300, 3000])
def test_few_counted_have_bounds_at_any_tail(counted: float, tail: float) -> None:
    low, high = rates.few_seen(counted, 40_000, max(3, counted / 3), tail)
    assert 0 <= low <= counted / 40_000
    assert 0 <= high <= 1
    assert tail > 0.4 or high > counted / 40_000


@pytest.mark.parametrize("rate", [0.0005, 0.002, 0.005])
def test_few_counted_are_covered_at_the_largest_spread_that_is_assumed_and_below_it(rate: float) -> None:
    units, answers, runs, stream = 5, 2000, 20_000, np.random.default_rng(5)
    bounds = [rates.few_seen(k, answers, units, 0.025) for k in range(400)]
    for spread in (0.01, 0.5, 1.0):
        true = stream.gamma(1 / spread**2, rate * spread**2, size=(runs, units))
        counted = stream.poisson(true * answers / units).sum(axis=1)
        ends = np.array([bounds[k] for k in counted])
        held = (ends[:, 0] <= rate) & (rate <= ends[:, 1])
        assert held.mean() >= least(0.95, runs)
        assert held[counted > 0].mean() >= least(0.95, int((counted > 0).sum()))


def test_log_odds_ratio_by_hand_and_with_statsmodels() -> None:
    value, low, high = rates.log_odds_ratio((10, 40), (5, 50))
    half = 1.959963984540054 * math.sqrt(1 / 10 + 1 / 30 + 1 / 5 + 1 / 45)
    assert value == pytest.approx(math.log((10 / 30) / (5 / 45)), abs=1e-12)
    assert (low, high) == (pytest.approx(value - half, abs=1e-12), pytest.approx(value + half, abs=1e-12))
    table = Table2x2(np.array([[10, 30], [5, 45]]))
    assert value == pytest.approx(table.log_oddsratio, abs=1e-9)
    assert (low, high) == pytest.approx(table.log_oddsratio_confint(), abs=1e-9)


def test_log_odds_ratio_covers_at_its_level() -> None:
    stream, truth, covered = np.random.default_rng(6), math.log(0.3 / 0.7) - math.log(0.1 / 0.9), 0
    for first, second in zip(stream.binomial(200, 0.3, 3000), stream.binomial(200, 0.1, 3000), strict=True):
        _, low, high = rates.log_odds_ratio((int(first), 200), (int(second), 200))
        covered += low <= truth <= high
    assert least(0.95, 3000) <= covered / 3000 <= 0.98


def test_answers_of_equal_strata_all_count_and_of_unequal_ones_fewer() -> None:
    assert rates.effective([100] * 8) == pytest.approx(800)
    # the mean of two rates from 10 and 30 answers has variance p q (1/10 + 1/30) / 4, as that of 30 answers
    assert rates.effective([10, 30]) == pytest.approx(30)
    assert rates.effective([]) == 0
    stream = np.random.default_rng(7)
    means = (stream.binomial(10, 0.2, 50_000) / 10 + stream.binomial(30, 0.2, 50_000) / 30) / 2
    assert means.std() == pytest.approx(rates.binomial_error(0.2, 30), rel=0.02)


def test_counts_that_are_none_are_refused() -> None:
    for counted, answers in ((-1, 10), (11, 10), (0, 0), (math.nan, 10)):
        for interval in (rates.wilson, rates.clopper_pearson):
            with pytest.raises(SpilloverError):
                interval(counted, answers)
        with pytest.raises(SpilloverError):
            rates.few_seen(counted, answers, 3, 0.025)
    for strata in ([], [10, 0]):
        with pytest.raises(SpilloverError):
            rates.none_seen(strata)
    for tail in (0.0, 1.0):
        with pytest.raises(SpilloverError):
            rates.none_seen([10], tail)
    with pytest.raises(SpilloverError):
        rates.effective([10, 0])
    for first, second in (((0, 10), (5, 10)), ((5, 10), (10, 10)), ((0, 0), (1, 2))):
        with pytest.raises(SpilloverError):
            rates.log_odds_ratio(first, second)
