from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.power import TTestPower

from spillover.design import Claim, Study
from spillover.records import SpilloverError
from spillover.statistics.claims import decide, fewest, power_of_t
from spillover.statistics.contrasts import Difference, of_numbers, of_shares

MARGIN = 0.5


def higher(name: str = "higher", *conditions: str) -> Claim:
    return Claim(name=name, text="", measure="log_odds", conditions=conditions or ("parent", "insecure"))


EQUAL = Claim(name="equal", text="", measure="log_odds", conditions=("parent", "secure"), margin=MARGIN)


def numbers(differences: object) -> Difference:
    found = [float(d) for d in differences]  # pyright: ignore
    return of_numbers(found, [0.0] * len(found))


def at_most(alpha: float, runs: int) -> float:
    return alpha + 3 * math.sqrt(alpha * (1 - alpha) / runs)


def test_what_is_no_claim_and_no_figure_is_refused() -> None:
    for conditions in ((), ("parent",), ("parent", "parent")):
        with pytest.raises(SpilloverError, match="the claim 'odd' is about .*; it takes two conditions or more, each once"):
            Claim(name="odd", text="", measure="log_odds", conditions=conditions)
    with pytest.raises(SpilloverError, match="the claim 'odd' is about parent; it takes two conditions or more, each once"):
        Claim(name="odd", text="", measure="log_odds", conditions="parent")  # pyright: ignore[reportArgumentType]
    for margin in (0.0, -0.1, math.nan, math.inf):
        with pytest.raises(SpilloverError, match=f"the claim 'odd' has the margin {margin}; it takes a number above 0"):
            Claim(name="odd", text="", measure="log_odds", conditions=("parent", "secure"), margin=margin)
    with pytest.raises(SpilloverError, match="a study has the figure 'question'; there are questions, formats, "):
        Study(name="s", title="", conditions=(), figure="question")  # pyright: ignore[reportArgumentType]


def test_verdicts_by_hand() -> None:
    up, down, unclear = [1.0, 1.1, 0.9, 1.05], [-1.0, -1.1, -0.9, -1.05], [1.0, -1.0, 0.4, -0.3]
    small = [0.01, -0.02, 0.015, 0.0]
    for claim, differences, verdict in (
        (higher(), up, "holds"), (higher(), down, "fails"), (higher(), unclear, "undecided"),
        (EQUAL, small, "holds"), (EQUAL, up, "fails"), (EQUAL, down, "fails"), (EQUAL, unclear, "undecided"),
    ):  # fmt: skip
        assert decide([(claim, [numbers(differences)])])[0].verdict == verdict


def test_p_values_are_those_of_the_tests_they_are_named_for() -> None:
    differences = [0.2, 0.5, 0.1, 0.4]
    up, equal = decide([(higher(), [numbers(differences)])])[0], decide([(EQUAL, [numbers(differences)])])[0]
    assert up.p_holds == pytest.approx(stats.ttest_1samp(differences, 0, alternative="greater").pvalue, abs=1e-9)
    assert up.p_fails == pytest.approx(stats.ttest_1samp(differences, 0, alternative="less").pvalue, abs=1e-9)
    tost = max(stats.ttest_1samp(differences, -MARGIN, alternative="greater").pvalue, stats.ttest_1samp(differences, MARGIN, alternative="less").pvalue)
    assert equal.p_holds == pytest.approx(tost, abs=1e-9)
    assert equal.p_fails == pytest.approx(min(1.0, 2 * stats.ttest_1samp(differences, MARGIN, alternative="greater").pvalue), abs=1e-9)


def test_an_ordered_claim_holds_by_its_weakest_step_and_fails_by_any() -> None:
    claim = higher("ordered", "parent", "secure", "insecure")
    up, unclear, down = numbers([1.0, 1.1, 0.9]), numbers([1.0, -1.0, 0.4]), numbers([-1.0, -1.1, -0.9])
    assert [decide([(claim, pair)])[0].verdict for pair in ([up, up], [up, unclear], [up, down])] == ["holds", "undecided", "fails"]
    assert decide([(claim, [up, unclear])])[0].p_holds == pytest.approx(unclear.p_above(0))
    assert decide([(claim, [up, down])])[0].p_fails == pytest.approx(2 * down.p_below(0))


def test_claims_are_corrected_for_each_other() -> None:
    found = numbers([0.4, 1.5, 0.9])
    alone = decide([(higher(), [found])])[0]
    together = decide([(higher(str(i)), [found]) for i in range(4)])
    assert alone.verdict == "holds"
    assert [d.verdict for d in together] == ["undecided"] * 4
    assert together[0].p_holds == pytest.approx(4 * alone.p_holds)


def test_false_claims_are_said_to_hold_and_true_ones_to_fail_at_most_at_alpha() -> None:
    # four claims at the edge of false (all null), beside one that is plainly true; read as one study
    stream, runs, wrong = np.random.default_rng(41), 1500, 0
    for values in stream.normal(0, 1, (runs, 4, 4)):
        study = [(higher(str(i)), [numbers(row)]) for i, row in enumerate(values)]
        wrong += any(d.verdict == "holds" for d in decide([*study, (higher("true"), [numbers(values[0] * 0.01 + 5)])])[:4])
    assert wrong / runs <= at_most(0.05, runs)


@pytest.mark.parametrize("spread", [0.1, 0.4, 2.0])
def test_an_equivalence_at_its_margin_is_said_to_hold_at_most_at_alpha(spread: float) -> None:
    stream, runs = np.random.default_rng(42), 2000
    found = [decide([(EQUAL, [numbers(row)])])[0].verdict for row in stream.normal(MARGIN, spread, (runs, 5))]
    assert found.count("holds") / runs <= at_most(0.05, runs)
    assert found.count("fails") / runs <= at_most(0.025, runs)


def test_an_ordered_claim_with_one_false_step_is_said_to_hold_at_most_at_alpha() -> None:
    claim, stream, runs = higher("ordered", "a", "b", "c"), np.random.default_rng(43), 2000
    found = [decide([(claim, [numbers(row), numbers(row + 9)])])[0].verdict for row in stream.normal(0, 1, (runs, 4))]
    assert found.count("holds") / runs <= at_most(0.05, runs)
    both = [decide([(claim, [numbers(row[:4]), numbers(row[4:])])])[0].verdict for row in stream.normal(0, 1, (runs, 8))]
    assert both.count("fails") / runs <= at_most(0.05, runs)


def test_a_rate_that_did_not_rise_is_said_to_have_at_most_at_alpha() -> None:
    stream, runs, strata = np.random.default_rng(44), 600, ([100] * 32, [100] * 32)
    claim = Claim(name="up", text="", measure="misaligned_rate", conditions=("parent", "insecure"))
    true = stream.gamma(1.5, 0.02 / 1.5, (runs, 2, 4))
    for found in (np.minimum(1.0, true), np.repeat(np.minimum(1.0, true[:, :1]), 2, axis=1)):
        counted = stream.binomial(800, found) / 800
        said = [decide([(claim, [of_shares(b.tolist(), a.tolist(), strata)])])[0].verdict for a, b in counted]
        assert said.count("holds") / runs <= at_most(0.05, runs)


@pytest.mark.parametrize(("effect", "units", "alpha"), [(0.5, 5, 0.05), (1.0, 8, 0.025), (0.2, 200, 0.05), (0.0, 10, 0.05), (3.0, 3, 0.01)])
def test_power_agrees_with_statsmodels(effect: float, units: int, alpha: float) -> None:
    assert power_of_t(effect, units, alpha) == pytest.approx(TTestPower().power(effect, units, alpha, alternative="larger"), abs=1e-9)


def test_fewest_units_are_the_first_that_are_enough() -> None:
    for effect in (0.05, 0.3, 1.0, 4.0):
        found = fewest(lambda n, effect=effect: power_of_t(effect, n, 0.05), 2)
        assert found is not None
        assert power_of_t(effect, found, 0.05) >= 0.8
        assert found == 2 or power_of_t(effect, found - 1, 0.05) < 0.8
    assert fewest(lambda n: 0.0, 2) is None


@pytest.mark.parametrize(("claim", "values"), [(higher(), [0.9, -0.5, 0.8, 0.2]), (EQUAL, [0.5, -0.4, 0.45, -0.35]), (EQUAL, [0.1, 1.9, 0.6, 1.8])])
def test_the_units_needed_would_decide_four_times_in_five(claim: Claim, values: list[float]) -> None:
    decision = decide([(claim, [numbers(values)])])[0]
    assert decision.verdict == "undecided"
    assert decision.units_needed is not None
    assert decision.units_needed > 4
    stream, runs = np.random.default_rng(45), 1500
    truth, spread = float(np.mean(values)), float(np.std(values, ddof=1))
    decided = [decide([(claim, [numbers(row)])])[0].verdict != "undecided" for row in stream.normal(truth, spread, (runs, decision.units_needed))]
    assert 0.75 <= sum(decided) / runs <= 0.9


def test_a_claim_without_an_interval_is_undecided_and_says_why() -> None:
    found = decide([(higher(), [numbers([1.0])]), (EQUAL, [numbers([0.0, 0.0])])])
    assert [(d.verdict, d.units_needed, d.reason) for d in found] == [
        ("undecided", None, "no interval: one unit"), ("undecided", None, "no interval: no spread between units"),
    ]  # fmt: skip
    assert decide([]) == []


def test_a_claim_with_too_few_differences_is_refused() -> None:
    with pytest.raises(SpilloverError, match="orders 2 conditions"):
        decide([(higher(), [])])
