"""Plans against brute force, against another library and against simulations of what is planned; and the command that prints them."""

from __future__ import annotations

import math
import subprocess
import sys
import time

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.power import TTestPower
from statsmodels.stats.proportion import power_proportions_2indep

import typed
from spillover.records import SpilloverError
from spillover.statistics import planning, sequential


def brute(parent: float, child: float, answers: int, alpha: float = 0.05) -> float:
    """The power of Fisher's test, summed over every table."""
    chances = [[stats.binom.pmf(k, answers, rate) for k in range(answers + 1)] for rate in (child, parent)]
    return math.fsum(
        chances[0][c] * chances[1][p]
        for c in range(answers + 1)
        for p in range(answers + 1)
        if stats.fisher_exact([[c, answers - c], [p, answers - p]], alternative="greater").pvalue <= alpha * (1 + 1e-9)
    )


# --- one look -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("alpha", [0.05, 0.01])
@pytest.mark.parametrize(("parent", "child"), [(0.0, 0.3), (0.1, 0.6), (0.5, 0.5), (0.9, 0.2), (0.3, 1.0), (0.0, 0.0), (1.0, 1.0)])
def test_the_power_of_fishers_test_is_that_of_every_table(parent: float, child: float, alpha: float) -> None:
    for answers in (1, 2, 3, 7, 18):
        assert planning.power_of_fisher(parent, child, answers, alpha) == pytest.approx(brute(parent, child, answers, alpha), abs=1e-9)


def test_three_against_none_by_hand() -> None:
    # of six answers, three counted: all with the child in 1 of 20 orders, which is 0.05
    assert planning.power_of_fisher(0.0, 1.0, 3) == 1.0
    assert planning.power_of_fisher(0.0, 1.0, 2) == 0.0
    assert planning.answers_needed(0.0, 1.0) == 3


@pytest.mark.slow
@pytest.mark.parametrize(("parent", "child"), [(0.0, 0.3), (0.1, 0.6), (0.0, 0.5), (0.2, 0.9)])
def test_answers_needed_are_those_of_brute_force(parent: float, child: float) -> None:
    powers = [brute(parent, child, answers) for answers in range(1, 31)]
    first = next(n for n, power in enumerate(powers, 1) if power >= 0.8)
    last_short = max(n for n, power in enumerate(powers, 1) if power < 0.8)
    found = planning.answers_needed(parent, child)
    assert found is not None
    assert first <= found <= last_short + 1
    assert powers[found - 1] >= 0.8


@pytest.mark.slow
@pytest.mark.parametrize(("parent", "child"), [(0.001, 0.007), (0.01, 0.03), (0.1, 0.15), (0.3, 0.33)])
def test_the_power_of_fishers_test_in_simulation(parent: float, child: float) -> None:
    answers = planning.answers_needed(parent, child)
    assert answers is not None
    stream = np.random.default_rng(1)
    tables = stream.binomial(answers, [child, parent], size=(2000, 2))
    shown = sum(stats.hypergeom.sf(c - 1, 2 * answers, c + p, answers) <= 0.05 for c, p in tables)
    assert shown / 2000 == pytest.approx(planning.power_of_fisher(parent, child, answers), abs=0.03)
    assert planning.power_of_fisher(parent, child, answers) == pytest.approx(0.8, abs=0.01)


def test_at_many_counts_the_power_is_that_of_the_normal_test_and_a_little_less() -> None:
    for parent, child, answers in ((0.3, 0.33, 3000), (0.5, 0.502, 700_000), (0.1, 0.12, 3000)):
        normal = power_proportions_2indep(child - parent, parent, answers, alternative="larger", return_results=False)
        assert normal - 0.02 < planning.power_of_fisher(parent, child, answers) < normal + 0.002


def test_a_count_taken_to_be_normal_is_rejected_where_an_exact_one_is() -> None:
    for answers, total in ((4000, 1000), (4000, 4000), (60_000, 1700), (60_000, 3000), (1000, 1900), (900_000, 2000)):
        for alpha in (0.05, 0.01, 0.001):
            exact = next(c for c in range(total // 2, total) if stats.hypergeom.sf(c - 1, 2 * answers, total, answers) <= alpha)
            assert abs(planning._critical(total, answers, alpha) - exact) <= (1 if total * (2 * answers - total) > 8 * answers * planning.NORMAL**2 else 0)


@pytest.mark.slow
def test_the_least_rate_that_is_seen_is_seen_and_a_little_less_is_not() -> None:
    for parent, answers in ((0.0, 800), (0.001, 800), (0.1, 800), (0.5, 100), (0.02, 20_000)):
        least = planning.least_seen(parent, answers)
        assert least is not None
        assert planning.power_of_fisher(parent, least, answers) >= 0.8 > planning.power_of_fisher(parent, parent + (least - parent) * 0.99, answers)
    assert planning.least_seen(0.001, 800) == pytest.approx(0.0111, abs=2e-4)
    assert planning.least_seen(0.0, 2) is None
    assert planning.least_seen(1.0, 1000) is None


def test_what_is_not_there_needs_no_number_of_answers() -> None:
    for parent, child in ((0.01, 0.01), (0.02, 0.01), (1.0, 1.0)):
        assert planning.answers_needed(parent, child) is None
        assert planning.units_needed(parent, child, answers=100, spread=0.5) is None
    assert planning.answers_needed(0.5, 0.5001) is None
    assert planning.rounds_needed(0.5, 0.5001, questions=8) is None


# --- looking after every round ----------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(("parent", "child", "tolerance"), [(0.001, 0.03, 0.0), (0.1, 0.3, 0.05), (0.05, 0.05, 0.1)])
def test_rounds_needed_are_those_of_the_sequence_itself(parent: float, child: float, tolerance: float) -> None:
    found = planning.rounds_needed(parent, child, questions=8, tolerance=tolerance)
    assert found is not None
    stream, ended = np.random.default_rng(2), list[int]()
    for _ in range(40):
        sequence = sequential.difference(questions=8)
        while sequence.against(tolerance) == "open" and sequence.rounds < 3 * found[1]:
            children, parents = stream.random(8) < child, stream.random(8) < parent
            sequence = sequence.add(sequential.pairs(list(map(bool, children)), list(map(bool, parents))), 1)
        assert sequence.against(tolerance) in (("above" if child - parent > tolerance else "below"), "open")
        ended.append(sequence.rounds)
    assert 0.26 < np.mean(np.array(ended) <= found[0]) < 0.74  # three standard deviations of 40 runs
    assert np.mean(np.array(ended) <= found[1]) > 0.61


def test_a_difference_below_the_tolerance_is_shown_to_be_below_it() -> None:
    found = planning.rounds_needed(0.0, 0.0, questions=8, tolerance=0.01)
    assert found is not None
    # nothing is ever counted, so every run ends together: where the mean over stakes of (1 + stake / 99) ** n reaches 40
    end = next(n for n in range(1, 2000) if np.mean([(1 + stake / 99) ** n for stake in sequential.STAKES]) >= 40)
    assert found[0] == found[1]
    assert end <= 8 * found[0] <= end * 1.03 + 8
    assert planning.rounds_needed(0.0, 0.01, questions=8, tolerance=0.01) is None


def test_looking_often_ends_half_of_runs_at_about_the_cost_of_a_fixed_design_and_most_below_twice_its_cost() -> None:
    for parent, child in ((0.001, 0.007), (0.001, 0.03), (0.1, 0.2)):
        fixed, found = planning.answers_needed(parent, child), planning.rounds_needed(parent, child, questions=8)
        assert fixed is not None
        assert found is not None
        assert 0.8 < found[0] * 8 / fixed < 1.7
        assert 1.2 < found[1] * 8 / fixed < 2.7


# --- units ------------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(("parent", "child", "answers", "spread"), [(0.01, 0.05, 800, 0.3), (0.1, 0.2, 400, 0.4), (0.1, 0.15, 200, 0.1)])
def test_units_needed_show_it_in_simulation(parent: float, child: float, answers: int, spread: float) -> None:
    units = planning.units_needed(parent, child, answers=answers, spread=spread)
    assert units is not None
    assert shown_by_units(parent, child, answers, spread, units, skewed=False) > 0.78
    assert shown_by_units(parent, child, answers, spread, units - 1, skewed=False) < 0.82
    assert shown_by_units(parent, child, answers, spread, units, skewed=True) > 0.8


@pytest.mark.slow
@pytest.mark.parametrize(("parent", "child", "answers", "spread"), [(0.001, 0.007, 800, 0.5), (0.001, 0.007, 400, 1.0), (0.0, 0.005, 200, 0.5)])
def test_units_needed_are_enough_for_few_counted_and_skewed_rates(parent: float, child: float, answers: int, spread: float) -> None:
    units = planning.units_needed(parent, child, answers=answers, spread=spread)
    assert units is not None
    assert shown_by_units(parent, child, answers, spread, units, skewed=True) > 0.8


def shown_by_units(parent: float, child: float, answers: int, spread: float, units: int, *, skewed: bool) -> float:
    """The share of runs in which the paired t-test shows it, the child's rates being normal, or else gamma."""
    stream, size = np.random.default_rng(4), (4000, units)
    rates = stream.gamma(1 / spread**2, child * spread**2, size=size) if skewed else stream.normal(child, spread * child, size=size)
    differences = (stream.binomial(answers, rates.clip(0, 1)) - stream.binomial(answers, parent, size=size)) / answers
    deviation = differences.std(axis=1, ddof=1)
    return float(np.mean(differences.mean(axis=1) * math.sqrt(units) > stats.t.ppf(0.95, units - 1) * deviation))


def test_units_needed_are_those_of_another_library() -> None:
    effect = 0.04 / math.sqrt(0.025**2 + 0.05 * 0.95 / 800 + 0.01 * 0.99 / 800)
    theirs = TTestPower().solve_power(effect, power=0.8, alpha=0.05, alternative="larger")
    assert planning.units_needed(0.01, 0.05, answers=800, spread=0.5) == math.ceil(float(theirs))


def test_units_without_any_variation_are_two_or_a_few() -> None:
    assert planning.units_needed(0.0, 1.0, answers=100, spread=0.0) == 2
    assert planning.units_needed(0.0, 1.0, answers=100, spread=0.5) == 2  # a rate of one can vary no more
    assert planning.units_needed(0.0, 0.9999999, answers=10**6, spread=1e-9) == 2


def test_the_least_rate_that_units_show_is_the_least_for_which_they_are_enough() -> None:
    for parent, units, spread in ((0.001, 5, 0.5), (0.0, 3, 0.2), (0.1, 10, 0.5)):
        least = planning.least_seen_by_units(parent, units, answers=800, spread=spread)
        assert least is not None
        needed = planning.units_needed(parent, least, answers=800, spread=spread)
        short = planning.units_needed(parent, parent + (least - parent) * 0.98, answers=800, spread=spread)
        assert needed is not None
        assert short is None or short > units
        assert needed <= units
    assert planning.least_seen_by_units(1.0, 5, answers=800, spread=0.5) is None


# --- what is refused --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rate", [-0.1, 1.1, math.nan, math.inf])
def test_what_is_no_rate_is_refused(rate: float) -> None:
    for parent, child, who in ((rate, 0.5, "parent"), (0.1, rate, "child")):
        for planned in (planning.answers_needed, lambda p, c: planning.power_of_fisher(p, c, 10), lambda p, c: planning.rounds_needed(p, c, questions=8)):
            with pytest.raises(SpilloverError, match=f"the {who}'s rate is"):
                planned(parent, child)


@pytest.mark.parametrize("alpha", [0.0, 0.6, -1.0, math.nan])
def test_an_alpha_that_is_none_is_refused(alpha: float) -> None:
    with pytest.raises(SpilloverError, match="alpha is"):
        planning.answers_needed(0.1, 0.2, alpha=alpha)


def test_no_answers_no_questions_no_units_and_no_spread_are_refused() -> None:
    with pytest.raises(SpilloverError, match="0 answers"):
        planning.least_seen(0.1, 0)
    with pytest.raises(SpilloverError, match="0 answers"):
        planning.units_needed(0.1, 0.2, answers=0, spread=0.5)
    with pytest.raises(SpilloverError, match="rounds need a question"):
        planning.rounds_needed(0.1, 0.2, questions=0)
    with pytest.raises(SpilloverError, match="a tolerance between -1 and 1"):
        planning.rounds_needed(0.1, 0.2, questions=8, tolerance=-1.0)
    with pytest.raises(SpilloverError, match="at least 2"):
        planning.least_seen_by_units(0.1, 1, answers=100, spread=0.5)
    for spread in (-0.1, math.nan, math.inf):
        with pytest.raises(SpilloverError, match="the spread between units"):
            planning.units_needed(0.1, 0.2, answers=100, spread=spread)


# --- the command ------------------------------------------------------------------------------------------------------------


def spillover(*arguments: str) -> subprocess.CompletedProcess[str]:
    return typed.spillover("plan", *arguments)


def test_a_plan_says_what_is_needed_and_what_is_not_seen() -> None:
    spillover("--parent", "0.001", "--child", "0.007")
    started = time.perf_counter()
    done = spillover("--parent", "0.001", "--child", "0.007", "--units", "5")
    assert time.perf_counter() - started < 10  # three seconds on an idle machine
    assert done.returncode == 0, done.stderr
    rounds = planning.rounds_needed(0.001, 0.007, questions=8)
    assert rounds is not None
    for said in (
        f"one look: {math.ceil((planning.answers_needed(0.001, 0.007) or 0) / 8)} draws of 8 questions",
        f"looking after every draw: {rounds[1]} draws of 8 questions",
        f"half of all runs end by draw {rounds[0]}",
        f"units like these: {planning.units_needed(0.001, 0.007, answers=800, spread=0.5)}, each with 800 answers",
        f"this difference, with a chance of {100 * planning.power_of_fisher(0.001, 0.007, 800):.0f} %",
        "a child's rate of 1.11 % or more",
        "where none is counted: a rate of at most 0.374 %",
        "5 units are not enough for this difference",
        "at alpha 0.05, one-sided",
        "a standard deviation of 0.5 x the rate",
    ):
        assert said in done.stdout, (said, done.stdout)
    assert "6 units are enough" in spillover("--parent", "0.001", "--child", "0.007", "--units", "6").stdout


def test_a_plan_for_a_difference_that_is_not_there_says_so() -> None:
    for child in ("0.01", "0.005"):
        done = spillover("--parent", "0.01", "--child", child)
        assert done.returncode == 0, done.stderr
        assert "no number of answers shows that it is" in done.stdout
        assert "a child's rate of 2.77 % or more" in done.stdout
        assert "this difference" not in done.stdout


@pytest.mark.slow
def test_a_plan_with_a_tolerance_says_on_which_side_and_when() -> None:
    below = spillover("--parent", "0.01", "--child", "0.005", "--tolerance", "0.01").stdout
    assert "to show that the difference, -0.5 %, is below the tolerance, 1 %:\n  looking after every draw: " in below
    above = spillover("--parent", "0.01", "--child", "0.1", "--tolerance", "0.01").stdout
    assert "to show that the difference, 9 %, is above the tolerance, 1 %:\n  looking after every draw: " in above
    assert "is the tolerance itself" in spillover("--parent", "0.1", "--child", "0.2", "--tolerance", "0.1").stdout


def test_what_is_too_small_to_plan_for_says_so() -> None:
    found = spillover("--parent", "0.5", "--child", "0.5001", "--draws", "1", "--questions", "1", "--units", "2").stdout
    assert "one look: more than two million answers of each model" in found
    assert "looking after every draw: more than two million answers of each model" in found
    assert "units like these: more than ten thousand, each with 1 answer of" in found
    assert found.count("no child's rate, not even 100 %") == 2


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--parent", "2", "--child", "0.1"), "the parent's rate is 2; it must be between 0 and 1"),
        (("--parent", "0", "--child", "nan"), "the child's rate is nan"),
        (("--parent", "0", "--child", "x"), "--child: Input should be a valid number"),
        (("--parent", "0"), "--child"),
        (("--parent", "0", "--child", "0.1", "--draws", "0"), "--draws is 0; it must be at least 1"),
        (("--parent", "0", "--child", "0.1", "--draws", "9999999"), "plans go up to 2000000"),
        (("--parent", "0", "--child", "0.1", "--questions", "0"), "--questions is 0; it must be at least 1"),
        (("--parent", "0", "--child", "0.1", "--units", "1"), "--units is 1; it must be between 2 and 10000"),
        (("--parent", "0", "--child", "0.1", "--alpha", "0"), "alpha is 0"),
        (("--parent", "0", "--child", "0.1", "--spread", "-1"), "the spread between units is -1"),
        (("--parent", "0", "--child", "0.1", "--tolerance", "1"), "--tolerance is 1; it must be above -1 and below 1"),
    ],
)
def test_a_mistake_is_one_line(arguments: tuple[str, ...], says: str) -> None:
    done = spillover(*arguments)
    assert done.returncode == 2, (done.returncode, done.stdout, done.stderr)
    assert says in done.stderr
    assert done.stderr.count("\n") == 1
    assert done.stdout == ""


def test_commands_are_read_without_the_statistics() -> None:
    code = "import sys, spillover.cli; sys.exit(any(m in sys.modules for m in ('scipy', 'numpy', 'spillover.statistics.planning')))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
