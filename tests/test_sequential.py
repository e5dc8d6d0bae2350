"""Confidence sequences hold however often one looks: error rates in simulation, answers by hand, and where they refuse."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from scipy import stats

from spillover.records import SpilloverError
from spillover.statistics import sequential

RUNS = 2000
BATCHES = 125  # looks a run
ALPHA = 0.05
LIMIT = math.log(2 / ALPHA)
PAIR = (-1, 0, 1)

ONE = (0.16, 0, 0, 0, 0, 0, 0, 0)  # one question carries everything: 0.02 on the mean
OTHER = (0, 0, 0, 0, 0, 0, 0, 0.16)
MIXED = (0.9, 0.5, 0.1, 0.02, 0.001, 0.0, 0.3, 0.05)

# child and parent rates of each question, tolerance: the difference of the means is the tolerance, so every verdict is wrong
CELLS = {
    "0.0005": ((0.0005,) * 8, (0.0005,) * 8, 0.0),
    "0.001": ((0.001,) * 8, (0.001,) * 8, 0.0),
    "0.005": ((0.005,) * 8, (0.005,) * 8, 0.0),
    "0.1": ((0.1,) * 8, (0.1,) * 8, 0.0),
    "0.5": ((0.5,) * 8, (0.5,) * 8, 0.0),
    "0.001, tolerance 0.01": ((0.011,) * 8, (0.001,) * 8, 0.01),
    "0, tolerance 0.01": ((0.01,) * 8, (0.0,) * 8, 0.01),
    "0.1, tolerance 0.05": ((0.15,) * 8, (0.1,) * 8, 0.05),
    "0.5, tolerance 0.05": ((0.55,) * 8, (0.5,) * 8, 0.05),
    "one question each, the same": (ONE, ONE, 0.0),
    "one question each, not the same": (ONE, OTHER, 0.0),
    "one question, tolerance 0.01": ((0.08, 0, 0, 0, 0, 0, 0, 0), (0.0,) * 8, 0.01),
    "one question always, tolerance 0.05": ((0.4, 0, 0, 0, 0, 0, 0, 0), (0.0,) * 8, 0.05),
    "mixed against its reverse": (MIXED, MIXED[::-1], 0.0),
    "mixed, tolerance 0.05": (tuple(rate + 0.05 for rate in MIXED), MIXED, 0.05),
    "up here and down there": ((0.5, 0, 0.5, 0, 0.5, 0, 0.5, 0), (0, 0.5, 0, 0.5, 0, 0.5, 0, 0.5), 0.0),
}


def drawn(child: tuple[float, ...], parent: tuple[float, ...], rounds: int, runs: int, batches: int, stream: np.random.Generator) -> np.ndarray:
    """How often each of (-1, 0, 1) was observed in each batch: (runs, batches, 3)."""
    counts = np.zeros((runs, batches, 3), dtype=np.int64)
    for c, p in zip(child, parent, strict=True):
        chances = [p * (1 - c), 1 - p * (1 - c) - c * (1 - p), c * (1 - p)]
        counts += stream.multinomial(rounds, chances, size=(runs, batches))
    return counts


def excluded(counts: np.ndarray, candidate: float, *, truth_above: bool, values: tuple[int, ...] = PAIR) -> np.ndarray:
    """Whether a candidate was excluded at any look: (runs,)."""
    looked = (sequential.log_wealth(values, counts[start : start + 100], candidate, truth_above=truth_above) for start in range(0, len(counts), 100))
    return np.concatenate([(wealth >= LIMIT).any(axis=1) for wealth in looked])


def is_above_alpha(wrong: int, runs: int) -> bool:
    """Exact one-sided binomial test at 99 %."""
    return bool(stats.binomtest(wrong, runs, ALPHA, alternative="greater").pvalue < 0.01)


# --- the guarantee --------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("rounds", [1, 5, 25])
@pytest.mark.parametrize("cell", CELLS)
def test_a_verdict_is_wrong_no_more_often_than_alpha_though_one_looks_after_every_batch(cell: str, rounds: int) -> None:
    child, parent, tolerance = CELLS[cell]
    assert np.mean(child) - np.mean(parent) == pytest.approx(tolerance, abs=1e-12)
    counts = drawn(child, parent, rounds, RUNS, BATCHES, np.random.default_rng(rounds)).cumsum(axis=1)
    above, below = (excluded(counts, tolerance, truth_above=side) for side in (True, False))
    wrong = int((above | below).sum())
    print(f"{cell}, batches of {rounds} rounds, {BATCHES * rounds * 8} answers: {wrong / RUNS:.4f} wrong")
    assert not is_above_alpha(wrong, RUNS)


@pytest.mark.slow
@pytest.mark.parametrize(("child", "parent", "tolerance"), [(0.001, 0.003, 0.0), (0.105, 0.1, 0.01), (0.5, 0.48, 0.0)])
def test_a_verdict_on_the_wrong_side_is_rarer_still_where_the_truth_is_not_at_the_tolerance(child: float, parent: float, tolerance: float) -> None:
    counts = drawn((child,) * 8, (parent,) * 8, 5, RUNS, BATCHES, np.random.default_rng(3)).cumsum(axis=1)
    wrong = excluded(counts, tolerance, truth_above=child - parent < tolerance)
    assert not is_above_alpha(2 * int(wrong.sum()), RUNS)


@pytest.mark.slow
@pytest.mark.parametrize("cell", ["0.001", "0.5, tolerance 0.05", "mixed against its reverse", "one question, tolerance 0.01"])
def test_the_sequence_says_what_the_wealth_says(cell: str) -> None:
    child, parent, tolerance = CELLS[cell]
    for shift in (0.0, 0.2):
        raised = tuple(min(1.0, rate + shift) for rate in child)
        batches = drawn(raised, parent, 3, 4, 40, np.random.default_rng(11))
        for run in batches:
            found, verdicts = sequential.difference(questions=8), [False, False]
            for batch, counts in zip(run, run.cumsum(axis=0), strict=True):
                found = found.add(tuple(map(int, batch)), 3)
                for side in (0, 1):
                    verdicts[side] |= bool(sequential.log_wealth(PAIR, counts, tolerance, truth_above=side == 0) >= LIMIT)
                assert found.against(tolerance) == ("above" if verdicts[0] else "below" if verdicts[1] else "open")


@pytest.mark.slow
@pytest.mark.parametrize("rates", [(0.001,) * 8, (0.02,) * 8, (0.5,) * 8, ONE, MIXED])
def test_the_interval_of_a_rate_covers_at_all_looks_at_once(rates: tuple[float, ...]) -> None:
    stream = np.random.default_rng(5)
    ones = sum(stream.binomial(5, rate, size=(RUNS, BATCHES)) for rate in rates).cumsum(axis=1)
    asked = 40 * np.arange(1, BATCHES + 1)
    counts = np.stack([asked - ones, ones], axis=-1)
    missed = [excluded(counts, float(np.mean(rates)), truth_above=side, values=(0, 1)) for side in (True, False)]
    assert not is_above_alpha(int((missed[0] | missed[1]).sum()), RUNS)


def test_a_rounds_wealth_is_at_most_one_in_expectation_whatever_each_questions_rate() -> None:
    stream = np.random.default_rng(6)
    for child, parent in [(stream.beta(0.3, 1, 4), stream.beta(0.3, 1, 4)) for _ in range(20)] + [(np.array([0.2, 0, 0, 0]), np.zeros(4))]:
        mean = float(np.mean(child - parent))
        for above in (True, False):
            assert _expected(child, parent, mean, truth_above=above) <= 1 + 1e-12
    for stake in sequential.STAKES:  # the argument: a geometric mean is at most the arithmetic one, at each stake
        assert math.prod(1 + stake * (rate - 0.25) / 1.25 for rate in (1.0, 0.0, 0.0, 0.0)) <= 1


def test_equal_questions_bet_fairly_and_half_a_round_may_not() -> None:
    assert _expected(np.full(4, 0.3), np.full(4, 0.1), 0.2, truth_above=True) == pytest.approx(1, abs=1e-12)
    rates = np.array([0.8, 0.0])
    assert _expected(rates, np.zeros(2), 0.4, truth_above=True) <= 1
    assert _expected(rates[:1], np.zeros(1), 0.4, truth_above=True) > 1


def _expected(child: np.ndarray, parent: np.ndarray, candidate: float, *, truth_above: bool) -> float:
    """The expected wealth after one round, summed over everything that may be observed in it."""
    total = 0.0
    for outcome in itertools.product(range(3), repeat=len(child)):
        chance = math.prod((p * (1 - c), 1 - p * (1 - c) - c * (1 - p), c * (1 - p))[seen] for seen, c, p in zip(outcome, child, parent, strict=True))
        counts = np.array([outcome.count(seen) for seen in range(3)])
        total += chance * math.exp(float(sequential.log_wealth(PAIR, counts, candidate, truth_above=truth_above)))
    return total


# --- by hand --------------------------------------------------------------------------------------------------------------


def test_wealth_by_hand() -> None:
    # a one against the candidate 1/2 multiplies each stake's wealth by 1 + stake, a zero by 1 - stake; the stakes have the mean 1/2 and mean square 3/8
    for counts, wealth in (((0, 0), 1.0), ((0, 1), 1.5), ((0, 2), 2.375), ((1, 0), 0.5), ((1, 1), 0.625)):
        assert math.exp(sequential.log_wealth((0, 1), np.array(counts), 0.5, truth_above=True)) == pytest.approx(wealth, abs=1e-12)
    # of a difference against 0.1, with the truth above: +1 gives 1 + stake * 0.9 / 1.1, -1 gives 1 - stake
    assert math.exp(sequential.log_wealth(PAIR, np.array([0, 0, 1]), 0.1, truth_above=True)) == pytest.approx(1 + 0.5 * 0.9 / 1.1, abs=1e-12)
    assert math.exp(sequential.log_wealth(PAIR, np.array([1, 0, 0]), 0.1, truth_above=True)) == pytest.approx(0.5, abs=1e-12)
    # with the truth below: a 0 gives 1 + stake * 0.1 / 0.9
    assert math.exp(sequential.log_wealth(PAIR, np.array([0, 1, 0]), 0.1, truth_above=False)) == pytest.approx(1 + 0.5 / 9, abs=1e-12)


def test_an_interval_by_hand() -> None:
    # n ones: the candidate m is excluded where the mean over stakes of (1 + stake * (1 - m) / m) ** n reaches 40
    found = sequential.rate().add((0, 12), 12)
    wealth = np.mean([(1 + stake * (1 - found.low) / found.low) ** 12 for stake in sequential.STAKES])
    assert wealth == pytest.approx(40, rel=1e-4)
    assert wealth >= 40  # the end that is kept is one that was excluded
    assert found.high == 1.0
    mirrored = sequential.rate().add((12, 0), 12)
    assert (mirrored.low, mirrored.high) == (0.0, pytest.approx(1 - found.low, abs=1e-6))


def test_wealth_is_the_product_over_observations_one_after_another() -> None:
    observed = np.random.default_rng(9).choice([-1, 0, 0, 1], size=60)
    wealth = [1.0] * len(sequential.STAKES)
    for x in observed:
        wealth = [w * (1 + stake * (int(x) - 0.05) / 1.05) for w, stake in zip(wealth, sequential.STAKES, strict=True)]
    counts = np.array([(observed == value).sum() for value in PAIR])
    assert math.exp(sequential.log_wealth(PAIR, counts, 0.05, truth_above=True)) == pytest.approx(np.mean(wealth), rel=1e-10)


def test_stakes_are_the_nodes_of_the_arcsine_law() -> None:
    # so that against 1/2 the mean over stakes is the integral over the law, for fewer than 48 observations
    nodes = np.arange(1, 100_000) / 100_000 - 0.5 / 100_000
    law = np.sin(np.pi * nodes / 2) ** 2
    assert np.mean((1 + law) ** 9 * (1 - law) ** 4) == pytest.approx(math.exp(sequential.log_wealth((0, 1), np.array([4, 9]), 0.5, truth_above=True)), rel=1e-3)
    assert min(sequential.STAKES) == pytest.approx(0.001, rel=0.1)
    assert max(sequential.STAKES) < 1


def test_pairs_are_counted_by_their_difference() -> None:
    assert sequential.pairs([True, True, False, False, True], [False, True, True, False, False]) == (1, 2, 2)
    with pytest.raises(SpilloverError, match="got 2 of the child and 1 of the parent"):
        sequential.pairs([True, False], [True])


# --- how it behaves -------------------------------------------------------------------------------------------------------


def test_nothing_observed_excludes_nothing() -> None:
    assert (sequential.rate().low, sequential.rate().high) == (0.0, 1.0)
    found = sequential.difference()
    assert (found.low, found.high, found.rounds, found.against(0.0)) == (-1.0, 1.0, 0, "open")


@pytest.mark.parametrize("started", [sequential.rate, sequential.difference])
def test_the_interval_never_grows(started: object) -> None:
    stream = np.random.default_rng(12)
    for rates in ([0.2, 0.8], [0.02, 0.98], [0.999, 0.001]):
        found = started(questions=4)  # pyright: ignore
        for place in range(60):
            chances = rates if place < 30 else rates[::-1]  # the truth moves, so that what was excluded would come back
            counts = stream.multinomial(4, chances if len(found.values) == 2 else [chances[0] / 2, chances[0] / 2, chances[1]])
            after = found.add(tuple(map(int, counts)), 1)
            assert found.low <= after.low <= after.high <= found.high
            found = after


def test_the_order_of_counts_in_a_batch_does_not_matter() -> None:
    many = sequential.difference(questions=2).add((3, 20, 17), 20)
    one = sequential.difference(questions=2)
    assert sequential.difference(questions=2).add((0, 3, 1), 2).counts == (0, 3, 1)
    for batch in [(0, 0, 2)] * 8 + [(0, 1, 1)] + [(0, 2, 0)] * 8 + [(1, 1, 0)] * 3:
        one = one.add(batch, 1)
    assert (one.counts, one.rounds) == (many.counts, many.rounds)
    assert one.low >= many.low - 1e-6  # more looks exclude as much or more
    assert one.high <= many.high + 1e-6


def test_the_upper_end_of_nothing_seen_falls_with_the_answers() -> None:
    for answers in (100, 1_000, 10_000, 100_000):
        high = sequential.rate().add((answers, 0), answers).high
        assert LIMIT < answers * -math.log1p(-high) < LIMIT + math.log(len(sequential.STAKES))
    assert sequential.rate().add((800, 0), 800).high == pytest.approx(0.0062, abs=1e-4)  # a fixed design, looked at once, says 0.0046


def test_a_clear_difference_ends_it() -> None:
    batches = drawn((0.03,) * 8, (0.001,) * 8, 1, 400, 120, np.random.default_rng(13))
    shown = sequential.log_wealth(PAIR, batches.cumsum(axis=1), 0.0, truth_above=True) >= LIMIT
    assert shown.any(axis=1).mean() > 0.98
    assert np.median(np.where(shown.any(axis=1), shown.argmax(axis=1) + 1, 999)) < 40
    found = sequential.difference(questions=8)
    for batch in batches[0]:
        found = found.add(tuple(map(int, batch)), 1)
    assert found.against(0.0) == "above"
    assert found.low < 0.029 < found.high


def test_no_difference_is_shown_to_be_below_a_tolerance() -> None:
    assert sequential.difference(questions=8).add((0, 8 * 70, 0), 70).against(0.01) == "below"


def test_an_interval_that_would_be_empty_stays_as_it_was() -> None:
    found = sequential.rate().add((0, 200), 200)
    contradicted = found.add((5000, 0), 5000)
    assert (contradicted.low, contradicted.high) == (found.low, found.high)
    assert contradicted.rounds == 5200


# --- what is refused ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("observed", "rounds", "says"),
    [
        ((1, 6), 1, "7 observations are not 1 rounds"),
        ((1, 8), 1, "9 observations are not 1 rounds"),
        ((8,), 1, "a count of each of"),
        ((-1, 9), 1, "a count of each of"),
        ((0, 0), 0, "over 0"),
        ((), 1, "a count of each of"),
    ],
)
def test_part_of_a_round_is_refused(observed: tuple[int, ...], rounds: int, says: str) -> None:
    with pytest.raises(SpilloverError, match=says):
        sequential.rate(questions=8).add(observed, rounds)


@pytest.mark.parametrize("alpha", [0.0, 1.0, -0.1, math.nan])
def test_an_alpha_that_is_none_is_refused(alpha: float) -> None:
    with pytest.raises(SpilloverError, match="alpha between 0 and 1"):
        sequential.rate(alpha=alpha)


def test_no_question_is_refused() -> None:
    with pytest.raises(SpilloverError, match="needs a question"):
        sequential.difference(questions=0)
