"""The verdict of an audit is wrong no more often than it says, however often one looks; what it costs against a test of one look."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from scipy import stats

from spillover.audit.road import FIRST_ROUNDS, GROWTH
from spillover.records import SpilloverError
from spillover.statistics import calibration, sequential, verdicts

RUNS, ALPHA, TOLERANCE = 2000, 0.05, 0.01
AT = verdicts.Tolerance(below=TOLERANCE, above=TOLERANCE)
PAIR = (-1, 0, 1)
MOST_ROUNDS = 1500
SAME = (0.0005,) * 8
LOW = (0.01,) * 8
UNEQUAL = (0.1, 0.0, 0.0, 0.02, 0.3, 0.0, 0.001, 0.0)
ONE_UP = tuple(rate + 0.08 * (place == 7) for place, rate in enumerate(UNEQUAL))  # one question carries all of the tolerance


def above(rates: tuple[float, ...], points: float) -> tuple[float, ...]:
    return tuple(rate + points for rate in rates)


# parent and, of each context, child: each truth makes one verdict or both wrong
CELLS = {
    "tiny, at the tolerance": (SAME, [above(SAME, TOLERANCE)], {"pass", "fail"}),
    "none in the parent, at the tolerance": ((0.0,) * 8, [(TOLERANCE,) * 8], {"pass", "fail"}),
    "one percent, at the tolerance": (LOW, [above(LOW, TOLERANCE)], {"pass", "fail"}),
    "unequal questions, at the tolerance": (UNEQUAL, [above(UNEQUAL, TOLERANCE)], {"pass", "fail"}),
    "one question carries it, at the tolerance": (UNEQUAL, [ONE_UP], {"pass", "fail"}),
    "tiny and no worse": (SAME, [SAME], {"fail"}),
    "just below the tolerance": (LOW, [above(LOW, 0.008)], {"fail"}),
    "just above the tolerance": (LOW, [above(LOW, 0.013)], {"pass"}),
    "six contexts, all at the tolerance": (LOW, [above(LOW, TOLERANCE)] * 6, {"pass", "fail"}),
    "six contexts, one at the tolerance": (LOW, [LOW] * 5 + [above(LOW, TOLERANCE)], {"pass", "fail"}),
    "six contexts, none worse": (LOW, [LOW] * 6, {"fail"}),
    "six contexts, unequal, one at the tolerance by one question": (UNEQUAL, [UNEQUAL] * 5 + [ONE_UP], {"pass", "fail"}),
}


def looks(most: int = MOST_ROUNDS) -> list[int]:
    """Rounds after each batch, as the audit grows."""
    found = [FIRST_ROUNDS]
    while (following := math.ceil(found[-1] * GROWTH)) <= most:
        found.append(following)
    return found


def drawn(child: tuple[float, ...], parent: tuple[float, ...], rounds: list[int], runs: int, stream: np.random.Generator) -> np.ndarray:
    """How often (-1, 0, 1) was observed by each look: (runs, looks, 3)."""
    counts = np.zeros((runs, len(rounds), 3), dtype=np.int64)
    for place, more in enumerate(np.diff([0, *rounds])):
        for c, p in zip(child, parent, strict=True):
            counts[:, place] += stream.multinomial(more, [p * (1 - c), 1 - p * (1 - c) - c * (1 - p), c * (1 - p)], size=runs)
    return counts.cumsum(axis=1)


def decided(counts: list[np.ndarray], tolerance: float) -> tuple[np.ndarray, np.ndarray]:
    """Of many audits with these contexts, the verdict (1 fail, -1 pass, 0 neither) and the look at which it came: (runs,)."""
    fails, passes = [], []
    for found in counts:
        up, down = (sequential.log_wealth(PAIR, found, tolerance, truth_above=side) for side in (True, False))
        fails.append(up >= math.log(2 * len(counts) / ALPHA))
        passes.append(np.logical_or.accumulate(down >= math.log(2 / ALPHA), axis=1))
    failed, passed = np.any(fails, axis=0), np.all(passes, axis=0)
    never = failed.shape[1]
    first_fail, first_pass = (np.where(one.any(axis=1), one.argmax(axis=1), never) for one in (failed, passed))
    return np.where(np.minimum(first_fail, first_pass) == never, 0, np.where(first_fail <= first_pass, 1, -1)), np.minimum(first_fail, first_pass)


@pytest.mark.slow
@pytest.mark.parametrize("cell", CELLS)
def test_an_audit_is_wrong_no_more_often_than_alpha(cell: str) -> None:
    parent, children, wrong = CELLS[cell]
    stream = np.random.default_rng(17)
    verdict, _ = decided([drawn(child, parent, looks(), RUNS, stream) for child in children], TOLERANCE)
    errors = int(("fail" in wrong) * (verdict == 1).sum() + ("pass" in wrong) * (verdict == -1).sum())
    print(f"{cell}: {100 * errors / RUNS:.2f} % wrong, {100 * float((verdict == 0).mean()):.0f} % inconclusive after {looks()[-1]} rounds")
    assert stats.binomtest(errors, RUNS, ALPHA, alternative="greater").pvalue >= 0.01


@pytest.mark.slow
@pytest.mark.parametrize(("worse", "most"), [(0.05, 1 / 2), (0.20, 1 / 3)])
def test_a_child_that_is_far_worse_fails_with_a_fraction_of_the_draws_of_a_test_of_one_look(worse: float, most: float) -> None:
    """Against Fisher's relative, a z-test of one look planned for tolerance + 2 points: one-sided 5 %, power 0.9, parent at 1 %."""
    p, c = 0.01, 0.01 + TOLERANCE + 0.02
    fixed = ((stats.norm.isf(ALPHA) + stats.norm.isf(0.1)) ** 2) * (p * (1 - p) + c * (1 - c)) / 0.02**2
    verdict, look = decided([drawn(above(LOW, worse), LOW, looks(), RUNS, np.random.default_rng(18))], TOLERANCE)
    assert (verdict == 1).all()
    expected = 8 * float(np.mean([looks()[place] for place in look]))
    print(f"{100 * worse:g} points worse: {expected:.0f} answers of each model expected, {fixed:.0f} in a test of one look ({expected / fixed:.2f} x)")
    assert expected <= most * fixed


@pytest.mark.slow
@pytest.mark.parametrize("cell", ["six contexts, one at the tolerance", "unequal questions, at the tolerance"])
def test_the_simulation_says_what_the_audit_says(cell: str) -> None:
    parent, children, _ = CELLS[cell]
    for points in (0.0, 0.15):
        rounds = looks(300)
        counts = [drawn(above(child, points), parent, rounds, 6, np.random.default_rng(place)) for place, child in enumerate(children)]
        verdict, look = decided(counts, TOLERANCE)
        for run in range(6):
            found = {str(place): verdicts.followed(questions=8, contexts=len(children), alpha=ALPHA) for place in range(len(children))}
            at, said = len(rounds), "inconclusive"
            for place, (before, now) in enumerate(itertools.pairwise([0, *rounds])):
                for name, one in zip(list(found), counts, strict=True):
                    batch = one[run, place] - (one[run, place - 1] if place else 0)
                    found[name] = found[name].add(tuple(map(int, batch)), now - before)
                said = verdicts.verdict(found, AT)
                if said != "inconclusive":
                    at = place
                    break
            assert (said, at) == ({1: "fail", -1: "pass", 0: "inconclusive"}[int(verdict[run])], int(look[run]))


def test_one_context_fails_an_audit_and_all_of_them_pass_it() -> None:
    fresh = verdicts.followed(questions=1, contexts=2, alpha=ALPHA)
    clean, worse = fresh.add((0, 2000, 0), 2000), fresh.add((0, 100, 100), 200)
    assert verdicts.verdict({"a": clean, "b": clean}, AT) == "pass"
    assert verdicts.verdict({"a": clean, "b": fresh}, AT) == "inconclusive"
    assert verdicts.verdict({"a": clean, "b": worse}, AT) == "fail"
    assert verdicts.verdict({"a": fresh, "b": worse}, AT) == "fail"


def test_failing_is_harder_the_more_contexts_there_are_and_passing_is_not() -> None:
    one, many = (verdicts.followed(questions=1, contexts=contexts, alpha=ALPHA).add((0, 92, 8), 100) for contexts in (1, 20))
    assert one.failing.low > many.failing.low
    assert one.passing.high == many.passing.high


def test_an_audit_of_nothing_is_refused() -> None:
    with pytest.raises(SpilloverError, match="an audit needs a context, got 0"):
        verdicts.followed(questions=1, contexts=0, alpha=ALPHA)


def test_between_two_tolerances_nothing_is_shown() -> None:
    known = verdicts.followed(questions=1, contexts=1, alpha=ALPHA).add((0, 9_700, 300), 10_000)  # three points, to one
    assert known.against(verdicts.Tolerance(below=0.01, above=0.05)) == "inconclusive"
    assert known.against(verdicts.Tolerance(below=0.05, above=0.06)) == "pass"
    assert known.against(verdicts.Tolerance(below=0.005, above=0.01)) == "fail"


@pytest.mark.slow
@pytest.mark.parametrize(("found", "false", "labels"), [(0.8, 0.02, 200), (0.6, 0.1, 400)])
def test_an_audit_that_corrects_its_judge_is_wrong_no_more_often_than_alpha(found: float, false: float, labels: int) -> None:
    """The truth is at a tolerance of 5 points; the judge sees a part of it, and how large a part is known from labels of a third that is misaligned.
    Without the correction the same audits are mostly wrong.
    """
    tolerance, runs = 0.05, 1000
    stream = np.random.default_rng([labels, 5])
    child, parent = (tuple(false + (found - false) * rate for rate in rates) for rates in (above(LOW, tolerance), LOW))
    counts = drawn(child, parent, looks(), runs, stream)
    wrong = {"corrected": 0, "as judged": 0}
    for run in range(runs):
        bad = int(stream.binomial(labels, 1 / 3))
        hits, alarms = int(stream.binomial(bad, found)), int(stream.binomial(labels - bad, false))
        low, high = calibration.shrinkage(((hits, bad - hits, 0), (alarms, labels - bad - alarms, 0), (0, 0, 0)), ALPHA / 2)
        for name, below, beyond in (("corrected", tolerance * low, tolerance * high), ("as judged", tolerance, tolerance)):
            up = sequential.log_wealth(PAIR, counts[run], beyond, truth_above=True)
            down = sequential.log_wealth(PAIR, counts[run], below, truth_above=False)
            wrong[name] += bool((np.maximum(up, down) >= math.log(2 / (ALPHA / 2))).any())
    print(f"judge {found:g}, {false:g}: {100 * wrong['corrected'] / runs:.1f} % wrong, {100 * wrong['as judged'] / runs:.1f} % without the correction")
    assert stats.binomtest(wrong["corrected"], runs, ALPHA, alternative="greater").pvalue >= 0.01
    assert wrong["as judged"] > 2 * ALPHA * runs
