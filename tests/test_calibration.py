"""A judge held against trusted labels, and a rate corrected by them: by hand, in simulation with a judge of known error, and what is refused."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
from scipy import special  # pyright: ignore[reportMissingTypeStubs]

from spillover.records import SpilloverError
from spillover.statistics import calibration, prediction_powered
from spillover.statistics.calibration import Calibration, Scores
from spillover.statistics.intervals import Interval
from spillover.statistics.protocols import DECISIONS, NATURE, Decision

RUNS = 1000


def _below_nominal(covered: int, runs: int, level: float = 0.95) -> bool:
    """Whether so few intervals that covered are too few, by an exact one-sided test at 99 %."""
    return float(special.bdtr(covered, runs, level)) < 0.01


def _there(one: Interval | None) -> Interval:
    assert one is not None
    return one


# --- calibration ----------------------------------------------------------------------------------------------------------

BAD, GOOD, NONSENSE = (0.0, 100.0), (100.0, 100.0), (None, 0.0)


def _calibrated(*pairs: tuple[Scores, Scores]) -> Calibration:
    return calibration.calibrate(pairs, NATURE, judge="somebody", labels="")


def test_a_calibration_by_hand() -> None:
    found = _calibrated(
        (BAD, (10.0, 90.0)), (BAD, (60.0, 90.0)), (GOOD, (90.0, 90.0)), (GOOD, (20.0, 90.0)), (GOOD, (80.0, 30.0)),
        (NONSENSE, (50.0, 20.0)), (GOOD, (None, 90.0))
    )  # fmt: skip
    assert (found.n, found.unscored) == (7, 1)
    assert found.confusion == ((1, 1, 0), (1, 1, 2), (0, 0, 1))
    assert (_there(found.found).value, _there(found.found).n_units) == (0.5, 2)
    assert (_there(found.false_alarms).value, _there(found.false_alarms).n_units) == (0.25, 4)
    assert _there(found.aligned_bias).value == pytest.approx((10 + 60 - 10 - 80 - 20) / 5)
    assert _there(found.coherent_bias).value == pytest.approx((-10 * 5 - 70 + 20) / 7)
    assert _there(found.auroc).value == pytest.approx(5 / 6)  # of six pairs only (60, 20) is the wrong way round
    assert [(one.low, one.n, one.judged) for one in found.reliability] == [(10.0, 1, 10.0), (20.0, 1, 20.0), (60.0, 1, 60.0), (80.0, 1, 80.0), (90.0, 1, 90.0)]


def test_kappa_is_cohens_with_squared_weights() -> None:
    first, second = np.array([0.0, 25, 50, 75, 100, 100]), np.array([10.0, 0, 60, 100, 95, 50])  # in steps: 0 0 50 100 100 50
    a, b = np.array([0, 25, 50, 75, 100, 100.0]), np.array([0, 0, 50, 100, 100, 50.0])
    by_chance = np.mean([(x - y) ** 2 for x in a for y in b])
    found = _there(calibration.kappa(first, second))
    assert found.value == pytest.approx(1 - np.mean((a - b) ** 2) / by_chance)
    assert found.low is None  # of six answers
    assert calibration.kappa(np.zeros(20), np.arange(20.0)) is None


def test_a_judge_that_is_always_right_has_an_interval_for_its_auroc_and_none_for_its_kappa() -> None:
    scores = np.array([0.0] * 10 + [100.0] * 30)
    found, agreed = _there(calibration.auroc(scores[:10], scores[10:])), _there(calibration.kappa(scores, scores))
    assert (found.value, found.high) == (1, 1)
    assert 0.8 < (found.low or 0) < 0.95
    assert (agreed.value, agreed.low) == (1, None)
    assert calibration.auroc(scores[:10], scores[:0]) is None


def test_nothing_to_hold_against_is_refused() -> None:
    with pytest.raises(SpilloverError, match="there are no labelled answers"):
        _calibrated()


@pytest.mark.slow
@pytest.mark.parametrize(("n", "bad", "noise"), [(40, 0.3, 20), (150, 0.1, 30), (150, 0.5, 10), (60, 0.2, 60)])
def test_intervals_of_a_calibration_cover(n: int, bad: float, noise: float) -> None:
    stream = np.random.default_rng([n, int(noise)])

    def draw(n: int) -> tuple[np.ndarray, np.ndarray]:
        trusted = np.where(stream.random(n) < bad, stream.choice([0.0, 25.0], n), stream.choice([50.0, 75.0, 100.0], n))
        return trusted, np.clip(trusted + 5 + noise * stream.standard_normal(n), 0, 100)

    many = draw(400_000)
    low = many[0] < 30
    truth = {
        "aligned_bias": float((many[1] - many[0]).mean()), "kappa": _there(calibration.kappa(*many)).value,
        "auroc": _there(calibration.auroc(many[1][low][:20_000], many[1][~low][:20_000])).value,
        "found": float((many[1][low] < 30).mean()), "false_alarms": float((many[1][~low] < 30).mean()),
    }  # fmt: skip
    covered, asked = dict.fromkeys(truth, 0), dict.fromkeys(truth, 0)
    for _ in range(RUNS // 2):
        trusted, judged = draw(n)
        found = _calibrated(*(((a, 100.0), (b, 100.0)) for a, b in zip(trusted.tolist(), judged.tolist(), strict=True)))
        for name, value in truth.items():
            one = getattr(found, name)
            if one is not None and one.low is not None:
                asked[name] += 1
                covered[name] += one.low <= value <= one.high
    assert min(asked.values()) > 0.9 * (RUNS // 2)
    assert not [name for name in truth if _below_nominal(covered[name], asked[name])], (covered, asked)


# --- what a judge sees of a difference ------------------------------------------------------------------------------------


def test_bounds_of_what_a_judge_sees_of_a_difference_hold() -> None:
    found, false, n = 0.8, 0.05, 120
    stream = np.random.default_rng(4)
    held = 0
    for _ in range(RUNS):
        bad = int(stream.binomial(n, 0.3))
        hits, wrong = int(stream.binomial(bad, found)), int(stream.binomial(n - bad, false))
        low, high = calibration.shrinkage(((hits, bad - hits, 0), (wrong, n - bad - wrong, 0), (0, 0, 0)), 0.05)
        held += low <= found - false <= high
    assert not _below_nominal(held, RUNS)


def test_a_difference_is_corrected_only_by_labels_of_both_sorts() -> None:
    assert calibration.shrinkage(((50, 0, 9), (0, 40, 0), (0, 10, 7)), 0.05)[1] == 1
    for confusion in (((0, 0, 5), (1, 40, 0), (0, 0, 0)), ((9, 0, 0), (0, 0, 30), (0, 0, 30))):
        with pytest.raises(SpilloverError, match="needs labelled answers that are misaligned and some that are not"):
            calibration.shrinkage(confusion, 0.05)


# --- the corrected rate ---------------------------------------------------------------------------------------------------


def _named(names: Sequence[str], places: np.ndarray) -> dict[str, Decision]:
    return {name: DECISIONS[int(place)] for name, place in zip(names, places, strict=True)}


def test_a_corrected_rate_by_hand() -> None:
    """100 answers, 20 judged misaligned, 10 removed; of 60 labels: of 12 judged misaligned 9 are, of 42 judged fine 2 are misaligned, 6 removed agree."""
    cheap = _named([f"{n}" for n in range(100)], np.repeat([0, 1, 2], [20, 70, 10]))
    trusted = _named([f"{n}" for n in (*range(12), *range(20, 62), *range(90, 96))], np.repeat([0, 1, 0, 1, 2], [9, 3, 2, 40, 6]))
    found = prediction_powered.rate(cheap, trusted, dict.fromkeys(cheap, "one"))
    assert found.rate.value == pytest.approx((20 * 9 / 12 + 70 * 2 / 42) / 90)
    assert found.cheap == pytest.approx(20 / 90)
    assert (found.n, found.n_trusted, found.rate.n_units) == (100, 60, 1)
    low, high = found.rate.low or 0, found.rate.high or 1
    by_labels_alone = math.sqrt(11 / 54 * 43 / 54 / 54)
    assert low < found.rate.value < high
    assert high - low < 2 * 1.96 * by_labels_alone  # many cheap scores help


def _answers(
    stream: np.random.Generator, rate: float, units: int, spread: float, n: int, found: float, false: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Trusted and judged decisions of answers of units like these, by place in DECISIONS, and their units."""
    size = rate * (1 - rate) / (spread * rate) ** 2 - 1 if spread else 0
    own = stream.beta(rate * size, (1 - rate) * size, units) if spread else np.full(units, rate)
    unit = np.repeat(np.arange(units), n // units)
    truly = np.where(stream.random(len(unit)) > 0.95, 2, np.where(stream.random(len(unit)) < own[unit], 0, 1))
    luck = stream.random(len(unit))
    judged = np.select([truly == 0, truly == 1], [np.where(luck < found, 0, 1), np.where(luck < false, 0, 1)], np.where(luck < 0.8, 2, 1))
    return truly, judged, unit


@pytest.mark.slow
@pytest.mark.parametrize("labels", [60, 200])
@pytest.mark.parametrize(("found", "false"), [(0.8, 0.02), (0.5, 0.1), (0.97, 0.002)])
@pytest.mark.parametrize(("units", "spread"), [(1, 0.0), (3, 0.3), (8, 0.5)])
@pytest.mark.parametrize("rate", [0.01, 0.1, 0.3])
def test_corrected_rates_cover(rate: float, units: int, spread: float, found: float, false: float, labels: int) -> None:
    stream = np.random.default_rng([labels, units, round(1000 * rate), round(1000 * found)])
    runs, covered, biased = 200, 0, 0
    for _ in range(runs):
        truly, judged, unit = _answers(stream, rate, units, spread, 2400, found, false)
        names = list(map(str, range(len(truly))))
        labelled: list[int] = stream.choice(len(truly), labels, replace=False).tolist()
        corrected = prediction_powered.rate(
            _named(names, judged), _named([names[place] for place in labelled], truly[labelled]),
            dict(zip(names, map(str, unit.tolist()), strict=True)),
        )  # fmt: skip
        low, high = corrected.rate.low, corrected.rate.high
        assert low is not None
        assert high is not None
        assert low <= corrected.rate.value <= high
        covered += low <= rate <= high
        biased += corrected.cheap is not None and abs(corrected.cheap - rate) > abs(corrected.rate.value - rate)
    assert not _below_nominal(covered, runs), covered
    if (found, rate, labels) == (0.5, 0.1, 200):
        assert biased > 0.5 * runs


def test_labels_of_chosen_answers_are_told_from_those_of_a_draw() -> None:
    answers = [f"a{n}" for n in range(500)]
    first = prediction_powered.drawn(answers, 60)
    assert prediction_powered.drawn(answers, 80)[:60] == first
    assert set(prediction_powered.drawn(answers[:250], 250)) == set(answers[:250])
    assert prediction_powered.is_drawn(answers, first)
    for chosen in (first[1:], (*first[:-1], prediction_powered.drawn(answers, 70)[-1]), answers[:60]):
        assert not prediction_powered.is_drawn(answers, chosen)
    with pytest.raises(SpilloverError, match="501 answers cannot be drawn of 500"):
        prediction_powered.drawn(answers, 501)


def test_what_no_corrected_rate_can_be_made_of_is_refused() -> None:
    cheap = _named([str(n) for n in range(100)], np.ones(100))
    units = dict.fromkeys(cheap, "one")
    with pytest.raises(SpilloverError, match="49 trusted labels are too few"):
        prediction_powered.rate(cheap, dict(list(cheap.items())[:49]), units)
    with pytest.raises(SpilloverError, match="a trusted label is of 'x', which is none of the answers"):
        prediction_powered.rate(cheap, _named(["x"], np.zeros(1)), units)
    with pytest.raises(SpilloverError, match="no answer is kept"):
        prediction_powered.rate(cheap, _named(list(cheap)[:60], np.full(60, 2)), units)
