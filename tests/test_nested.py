from __future__ import annotations

import math

import numpy as np
import pytest

from spillover.records import SpilloverError
from spillover.statistics import rates
from spillover.statistics.intervals import Interval, Share, over_units
from spillover.statistics.nested import Scope, over_cells

RATES = [[0.1, 0.3], [0.2, 0.6], [0.3, 0.3]]
ANSWERS = [[100, 100]] * 3


def cells(rates_UQ: list[list[float]], units: Scope, questions: Scope, draws: int = 100) -> Interval:
    return over_cells(rates_UQ, [[draws] * len(rates_UQ[0])] * len(rates_UQ), units=units, questions=questions)


def test_four_estimands_have_one_value_and_four_intervals() -> None:
    scopes: tuple[Scope, Scope] = ("these", "like these")
    found = {(u, q): cells(RATES, u, q) for u in scopes for q in scopes}
    assert {round(interval.value, 12) for interval in found.values()} == {0.3}
    assert len({interval.method for interval in found.values()}) == 4
    these, headline, questions = found["these", "these"], found["like these", "these"], found["these", "like these"]
    assert (these.low, these.high) == pytest.approx(rates.clopper_pearson(180, 600), abs=1e-12)
    assert headline == over_units([0.2, 0.4, 0.3], [100] * 6)
    assert (questions.low, questions.high) == Share.over([0.2, 0.4], 600).ends(0.025)
    assert "over questions" in questions.method


def test_both_like_these_adds_the_variances_by_hand() -> None:
    # unit means 0.2, 0.4, 0.3: variance of their mean 0.01 / 3. Question means 0.2, 0.4: 0.02 / 2
    first, second = 0.01 / 3, 0.02 / 2
    df = (first + second) ** 2 / (first**2 / 2 + second**2 / 1)
    found = cells(RATES, "like these", "like these")
    assert (found.low, found.high) == pytest.approx(Share.of(0.3, math.sqrt(first + second), df, 600, units=1.0).ends(0.025), abs=1e-12)


@pytest.mark.parametrize("units", ["these", "like these"])
@pytest.mark.parametrize("questions", ["these", "like these"])
def test_each_estimand_is_covered_at_its_level(units: Scope, questions: Scope) -> None:
    U, Q, draws, runs = 6, 8, 50, 1000
    stream, covered, rate = np.random.default_rng(11), 0, 0.1
    fixed_unit, fixed_question = stream.gamma(4, 1 / 4, U), stream.gamma(4, 1 / 4, Q)
    for _ in range(runs):
        unit = stream.gamma(4, 1 / 4, U) if units == "like these" else fixed_unit
        question = stream.gamma(4, 1 / 4, Q) if questions == "like these" else fixed_question
        true = np.minimum(1.0, rate * np.outer(unit, question))
        truth = rate * (1.0 if units == "like these" else unit.mean()) * (1.0 if questions == "like these" else question.mean())
        found = cells((stream.binomial(draws, true) / draws).tolist(), units, questions, draws)
        assert found.low is not None
        assert found.high is not None
        covered += found.low <= truth <= found.high
    assert covered / runs >= 0.94 - 3 * math.sqrt(0.95 * 0.05 / runs)


@pytest.mark.parametrize("rate", [0.002, 0.01])
def test_rare_rates_of_units_and_questions_like_these_are_covered(rate: float) -> None:
    stream, runs, held = np.random.default_rng(13), 1500, []
    for counted in stream.binomial(100, np.minimum(1.0, rate * stream.gamma(1, 1, (runs, 5, 1)) * stream.gamma(1, 1, (runs, 1, 8)))):
        found = cells((counted / 100).tolist(), "like these", "like these")
        assert found.low is not None
        assert found.high is not None
        if counted.any():
            held.append(found.low <= rate <= found.high)
    assert sum(held) / len(held) >= 0.94 - 3 * math.sqrt(0.95 * 0.05 / len(held))


def test_nothing_counted_has_the_bound_for_these_units() -> None:
    for units in ("these", "like these"):
        found = cells([[0.0] * 8] * 5, units, "like these")
        assert (found.low, found.high) == (0.0, pytest.approx(1 - 0.05 ** (1 / 4000)))
        assert "these 5 units" in found.method


def test_a_missing_cell_is_refused() -> None:
    for rates_UQ, answers_UQ in (([], []), ([[]], [[]]), ([[0.1], [0.1, 0.2]], [[9], [9, 9]]), ([[0.1, 0.2]], [[9]]), ([[0.1]], [[9], [9]])):
        with pytest.raises(SpilloverError, match="cell is missing"):
            over_cells(rates_UQ, answers_UQ, units="these", questions="these")
    with pytest.raises(SpilloverError):
        over_cells([[0.1]], [[0]], units="these", questions="these")


def test_one_unit_or_one_question_says_nothing_of_others_like_it() -> None:
    for rates_UQ, units, questions in (
        ([[0.1, 0.2]], "like these", "like these"),
        ([[0.1], [0.2]], "these", "like these"),
        ([[0.1], [0.2]], "like these", "like these"),
    ):
        found = cells(rates_UQ, units, questions)
        assert (found.low, found.high, found.level) == (None, None, None)
        assert "no interval: one" in found.method
    assert "this unit alone" in cells([[0.1, 0.2]], "like these", "these").method
