"""What intervals cover, simulated: the tables of docs/statistics.md, written between its two markers.

    python bench/coverage.py [RUNS]

A run draws every unit's true rate, counts its answers, and asks whether the interval holds the mean that units like these have. Simulated by the tens
of thousands in numpy, and held equal to `over_units` and `of_shares` on a sample of the runs. Ten thousand runs a cell take minutes on one core.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from scipy import special

from spillover.records import stream_seed
from spillover.statistics import contrasts, intervals, rates
from spillover.statistics.intervals import FEW, SKEW

PAGE = Path(__file__).parents[1] / "docs" / "statistics.md"
MARKS = ("<!-- coverage: made by bench/coverage.py -->", "<!-- end -->")
QUESTIONS = 8
RATES = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 0.5)
UNITS = (3, 4, 5, 7, 10)
SPREADS = (0.0, 0.25, 0.5, 0.75, 1.0)
DRAWS = (100, 10)  # answers to each question
SHAPES = ("beta", "gamma", "lognormal")
KINDS = {"half at 2 x": (0.5, 2.0), "a tenth at 10 x": (0.1, 10.0)}  # the share of units that has a rate, and how many times the mean; the rest have 0
RESAMPLES = 2000
RESAMPLED_RUNS = 2000  # the paper's bootstrap is slow
TAIL = 0.025


@dataclass(frozen=True, slots=True, kw_only=True)
class Population:
    """Units' true rates: how they are drawn, and their mean."""

    shape: str
    rate: float
    spread: float  # standard deviation between units, in rates
    truth: float
    draw: Callable[[np.random.Generator, tuple[int, ...]], np.ndarray]


def population(shape: str, rate: float, spread: float) -> Population:
    sd = spread * rate
    if spread == 0:
        return Population(shape=shape, rate=rate, spread=spread, truth=rate, draw=lambda _, size: np.full(size, rate))
    if shape == "beta":
        size_of = rate * (1 - rate) / sd**2 - 1
        a, b = rate * size_of, (1 - rate) * size_of
        if size_of < 1e-9:  # no wider: all 0 or 1
            return Population(shape=shape, rate=rate, spread=spread, truth=rate, draw=lambda stream, size: (stream.random(size) < rate) * 1.0)
        return Population(shape=shape, rate=rate, spread=spread, truth=rate, draw=lambda stream, size: stream.beta(a, b, size))
    if shape == "gamma":
        k, scale = 1 / spread**2, rate * spread**2
        cut = float(special.gammaincc(k, 1 / scale))
        truth = rate * float(special.gammainc(k + 1, 1 / scale)) + cut
        return Population(shape=shape, rate=rate, spread=spread, truth=truth, draw=lambda stream, size: np.minimum(1.0, stream.gamma(k, scale, size)))
    sigma = math.sqrt(math.log1p(spread**2))
    middle = math.log(rate) - sigma**2 / 2
    cut = float(special.ndtr(middle / sigma))
    truth = rate * float(special.ndtr((-middle - sigma**2) / sigma)) + cut
    return Population(shape=shape, rate=rate, spread=spread, truth=truth, draw=lambda stream, size: np.minimum(1.0, stream.lognormal(middle, sigma, size)))


def two_kinds(name: str, rate: float) -> Population:
    chance, times = KINDS[name]
    return Population(
        shape=name, rate=rate, spread=math.sqrt(1 / chance - 1), truth=rate,
        draw=lambda stream, size: (stream.random(size) < chance) * times * rate,
    )  # fmt: skip


# --- the shipped intervals, over many runs at once ----------------------------------------------------------------------------------------------------


@cache
def few(counted: int, answers: int, units: int) -> tuple[float, float]:
    return rates.few_seen(counted, answers, units, TAIL)


@dataclass(frozen=True, slots=True, kw_only=True)
class Many:
    """`intervals.Share` for many runs of so many units."""

    means: np.ndarray
    errors: np.ndarray
    units: int
    answers: int

    @classmethod
    def over(cls, counted_RU: np.ndarray, answers: int) -> Many:
        units, each = counted_RU.shape[1], answers // counted_RU.shape[1]
        mean = counted_RU.sum(axis=1) / answers
        error = np.where(np.ptp(counted_RU, axis=1) > 0, (counted_RU / each).std(axis=1, ddof=1) / math.sqrt(units), 0.0)
        return cls(means=mean, errors=np.maximum(error, np.sqrt(mean * (1 - mean) / answers)), units=units, answers=answers)

    def t(self) -> tuple[np.ndarray, np.ndarray]:
        half = special.stdtrit(self.units - 1, 1 - TAIL) * self.errors
        return self.means - half, self.means + half

    def ends(self) -> tuple[np.ndarray, np.ndarray]:
        low, high = self.t()
        inside = (self.means > 0) & (self.means < 1)
        rate = np.where(inside, self.means, 0.5)
        half = special.stdtrit(self.units - 1, 1 - SKEW * TAIL) * self.errors / (rate * (1 - rate))
        low = np.where(inside, np.minimum(low, special.expit(special.logit(rate) - half)), low)
        high = np.where(inside, np.maximum(high, special.expit(special.logit(rate) + half)), high)
        below, above = self._few(self.means), self._few(1 - self.means)
        first = below & ((self.means <= 0.5) | ~above)
        counted = np.rint(self.means * self.answers).astype(int)
        for place in np.flatnonzero(first):
            low[place], high[place] = few(int(counted[place]), self.answers, self.units)
        for place in np.flatnonzero(above & ~first):
            end = few(int(self.answers - counted[place]), self.answers, self.units)
            low[place], high[place] = 1 - end[1], 1 - end[0]
        return np.maximum(0.0, low), np.minimum(1.0, high)

    def _few(self, seen: np.ndarray) -> np.ndarray:
        widest = np.sqrt(seen**2 / self.units + seen / self.answers)
        return (seen * self.answers <= FEW * self.units + 1e-9) & (self.errors <= 1.5 * widest + 1e-15)


@cache
def bootstrap_weights(units: int) -> np.ndarray:
    """How often each unit is in each of the paper's resamples: the same places in every call, since its stream is `default_rng(0)`."""
    places = np.random.default_rng(0).choice(np.arange(units), size=(RESAMPLES, units), replace=True)
    return np.stack([(places == unit).mean(axis=1) for unit in range(units)])


def bootstrap(values_RU: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    low, high = np.percentile(values_RU @ bootstrap_weights(values_RU.shape[1]), [2.5, 97.5], axis=1)
    return low, high


# --- one rate -----------------------------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    population: Population
    units: int
    draws: int
    offered: float  # share of runs with an interval over units
    covered: float  # of those
    covered_by_t: float  # of those
    covered_by_bootstrap: float  # of those
    bound_missed: float  # share of all runs in which the named bound was given and these units' own mean lay beyond it


def cell(of: Population, units: int, draws: int, runs: int) -> Cell:
    stream = np.random.default_rng(stream_seed("coverage", of.shape, of.rate, of.spread, units, draws))
    each = QUESTIONS * draws
    true_RU = of.draw(stream, (runs, units))
    counted_RU = stream.binomial(each, true_RU)
    found = Many.over(counted_RU, each * units)
    low, high = found.ends()
    strata = [draws] * (QUESTIONS * units)
    offered = (found.means > 0) & (found.means < 1)
    bound = rates.none_seen(strata)
    beyond = ((found.means == 0) & (true_RU.mean(axis=1) > bound)) | ((found.means == 1) & (true_RU.mean(axis=1) < 1 - bound))
    for run in (*range(3), *np.flatnonzero(offered)[:3]):
        shipped = intervals.over_units([float(k) / each for k in counted_RU[run]], strata)
        expected = (low[run], high[run]) if offered[run] else (0.0, bound) if found.means[run] == 0 else (1 - bound, 1.0)
        assert shipped.low is not None
        assert shipped.high is not None
        assert np.allclose((shipped.low, shipped.high), expected, rtol=0, atol=1e-9), (of, units, draws, run, shipped, expected)

    def share(ends: tuple[np.ndarray, np.ndarray], among: np.ndarray) -> float:
        return float(((ends[0] <= of.truth) & (of.truth <= ends[1]))[among].mean()) if among.any() else math.nan

    spread = np.where(np.ptp(counted_RU, axis=1) > 0, (counted_RU / each).std(axis=1, ddof=1) / math.sqrt(units), 0.0)
    half = special.stdtrit(units - 1, 1 - TAIL) * spread
    first = offered[:RESAMPLED_RUNS]
    return Cell(
        population=of, units=units, draws=draws, offered=float(offered.mean()), covered=share((low, high), offered),
        covered_by_t=share((found.means - half, found.means + half), offered),
        covered_by_bootstrap=share(bootstrap(counted_RU[:RESAMPLED_RUNS] / each), first), bound_missed=float(beyond.mean()),
    )  # fmt: skip


# --- differences --------------------------------------------------------------------------------------------------------------------------------------

PAIRS = ((0.001, 0.001), (0.01, 0.001), (0.1, 0.001), (0.1, 0.1), (0.3, 0.1))
PAIR_UNITS = (3, 5, 8)
PAIR_SPREADS = (0.0, 0.5, 1.0)
PAIR_SHAPES = ("beta", "lognormal")


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    rates: tuple[float, float]
    spread: float
    units: int
    draws: int
    how: str  # "independent", "proportional", "one parent"
    covered: float
    covered_by_t: float  # paired, over the same units; of the units alone where the parent is one model


def reach(share: Many) -> tuple[np.ndarray, np.ndarray]:
    """As `contrasts._reach`."""
    (low, high), (plain_low, plain_high) = share.ends(), share.t()
    return share.means - np.minimum(low, plain_low), np.maximum(high, plain_high) - share.means


def paired(of: tuple[Population, Population], units: int, draws: int, how: str, runs: int) -> Pair:
    """Differences of two conditions of the same units; proportional: a unit that is twice the mean in one is so in the other."""
    stream = np.random.default_rng(stream_seed("coverage of pairs", of[0].shape, of[0].rate, of[1].rate, of[0].spread, units, draws, how))
    each, times = QUESTIONS * draws, of[1].rate / of[0].rate
    first_RU = of[0].draw(stream, (runs, units))
    second_RU = first_RU * times if how == "proportional" else of[1].draw(stream, (runs, units))
    truth = of[0].truth - (of[0].truth * times if how == "proportional" else of[1].truth)
    counted = [stream.binomial(each, rate_RU) for rate_RU in (first_RU, second_RU)]
    a, b = (Many.over(k_RU, each * units) for k_RU in counted)
    differences_RU = (counted[0] - counted[1]) / each
    plain = np.where(np.ptp(counted[0] - counted[1], axis=1) > 0, differences_RU.std(axis=1, ddof=1) / math.sqrt(units), 0.0)
    binomial = [share.means * (1 - share.means) / share.answers for share in (a, b)]
    error, apart = np.maximum(plain, np.sqrt(binomial[0] + binomial[1])), np.hypot(a.errors, b.errors)
    closer = np.where(apart > 0, error / np.where(apart > 0, apart, 1.0), 1.0)
    (a_below, a_above), (b_below, b_above) = reach(a), reach(b)
    value = differences_RU.mean(axis=1)
    low, high = np.maximum(-1.0, value - closer * np.hypot(a_below, b_above)), np.minimum(1.0, value + closer * np.hypot(a_above, b_below))
    strata = [draws] * (QUESTIONS * units)
    for run in range(4):
        shipped = contrasts.of_shares(*([float(k) / each for k in k_RU[run]] for k_RU in counted), (strata, strata)).interval()
        assert np.allclose((shipped.low, shipped.high), (low[run], high[run]), rtol=0, atol=1e-9), (of, how, run, shipped, low[run], high[run])
    half = special.stdtrit(units - 1, 1 - TAIL) * plain
    return Pair(
        rates=(of[0].rate, of[1].rate), spread=of[0].spread, units=units, draws=draws, how=how, covered=float(((low <= truth) & (truth <= high)).mean()),
        covered_by_t=float(((value - half <= truth) & (truth <= value + half)).mean()),
    )  # fmt: skip


def one_parent(of: Population, parent: float, units: int, draws: int, runs: int) -> Pair:
    """Several children of one parent, whose own rate is asked about with as many answers as each child's."""
    stream = np.random.default_rng(stream_seed("coverage of one parent", of.shape, of.rate, parent, of.spread, units, draws))
    each = QUESTIONS * draws
    counted_RU, second_R = stream.binomial(each, of.draw(stream, (runs, units))), stream.binomial(each, parent, runs)
    children = Many.over(counted_RU, each * units)
    a_low, a_high = children.ends()
    exact = np.array([rates.clopper_pearson(k, each) for k in range(each + 1)])[second_R]
    second = second_R / each
    value = children.means - second
    low, high = value - np.hypot(children.means - a_low, exact[:, 1] - second), value + np.hypot(a_high - children.means, second - exact[:, 0])
    for run in range(4):
        strata = ([draws] * (QUESTIONS * units), [draws] * QUESTIONS)
        shipped = contrasts.against_one([float(k) / each for k in counted_RU[run]], float(second[run]), strata).interval()
        assert np.allclose((shipped.low, shipped.high), (low[run], high[run]), rtol=0, atol=1e-9), (of, parent, run, shipped, low[run], high[run])
    truth = of.truth - parent
    half = special.stdtrit(units - 1, 1 - TAIL) * (counted_RU / each).std(axis=1, ddof=1) / math.sqrt(units)
    return Pair(
        rates=(of.rate, parent), spread=of.spread, units=units, draws=draws, how="one parent", covered=float(((low <= truth) & (truth <= high)).mean()),
        covered_by_t=float(((value - half <= truth) & (truth <= value + half)).mean()),
    )  # fmt: skip


# --- the page -----------------------------------------------------------------------------------------------------------------------------------------


def cells(runs: int) -> Iterator[Cell]:
    for draws in DRAWS:
        for units in UNITS:
            for rate in RATES:
                yield cell(population("beta", rate, 0.0), units, draws, runs)
                for shape in SHAPES:
                    for spread in SPREADS[1:]:
                        yield cell(population(shape, rate, spread), units, draws, runs)


def outside(runs: int) -> Iterator[Cell]:
    for name in KINDS:
        for rate in (0.001, 0.01, 0.1):
            for units in UNITS:
                yield cell(two_kinds(name, rate), units, DRAWS[0], runs)


def pairs(runs: int) -> Iterator[Pair]:
    for draws in DRAWS:
        for units in PAIR_UNITS:
            for first, second in PAIRS:
                for shape in PAIR_SHAPES:
                    for spread in PAIR_SPREADS if shape == "beta" else PAIR_SPREADS[1:]:
                        both = population(shape, first, spread), population(shape, second, spread)
                        yield paired(both, units, draws, "independent", runs)
                        yield paired(both, units, draws, "proportional", runs)
                        yield one_parent(both[0], second, units, draws, runs)


def page(runs: int) -> str:
    found, beyond, two = list(cells(runs)), list(outside(runs)), list(pairs(runs))
    worst = min(found, key=lambda c: c.covered)
    lines = [
        f"{runs:,} runs a cell, {len(found)} cells; a row is the worst of {1 + len(SHAPES) * (len(SPREADS) - 1)} (no spread; beta, gamma and lognormal at",
        f"{', '.join(f'{spread:g}' for spread in SPREADS[1:])} x the rate, the last two cut to [0, 1] and compared with the mean after the cut), in per cent.",
        "The three middle columns are coverage among the runs in which `over_units` gives an interval over units. *Offered* is the smallest share of runs in",
        "which it does; in the others nothing (or everything) was counted, and the bound for these units stands. *Bound missed* is the largest share of all",
        f"runs in which that bound was given and left out these units' own mean. The paper's bootstrap has {min(runs, RESAMPLED_RUNS):,} runs a cell. Where",
        "units are all equal, it and Student's t have no width, and miss.",
        f"Smallest coverage of all: {percent(worst.covered)} ({where(worst)}).",
        "",
    ]
    for draws in DRAWS:
        lines += [
            f"{QUESTIONS * draws} answers a unit ({QUESTIONS} questions x {draws}):", "",
            "| units | rate | offered | `over_units` | where | Student's t, uncut | paper's bootstrap | bound missed |",
            "|---|---|---|---|---|---|---|---|",
        ]  # fmt: skip
        for units in UNITS:
            for rate in RATES:
                row = [c for c in found if (c.draws, c.units, c.population.rate) == (draws, units, rate)]
                least = min(row, key=lambda c: c.covered)
                lines.append(
                    f"| {units} | {rate:g} | {percent(min(c.offered for c in row))} | {percent(least.covered)} | {where(least, brief=True)} "
                    f"| {percent(min(c.covered_by_t for c in row))} | {percent(min(c.covered_by_bootstrap for c in row))} "
                    f"| {percent(max(c.bound_missed for c in row))} |"
                )
        lines.append("")
    lines += [
        "Outside the assumption: units of two kinds, some with a rate and the rest with none, 800 answers a unit. Coverage of `over_units` in per cent",
        "where it is offered, and in brackets in what share of runs that is:", "",
        f"| units with a rate | mean rate | {' | '.join(f'{units} units' for units in UNITS)} |", f"|---|---|{'---|' * len(UNITS)}",
    ]  # fmt: skip
    for name in KINDS:
        for rate in (0.001, 0.01, 0.1):
            row = [c for c in beyond if c.population.shape == name and c.population.rate == rate]
            lines.append(f"| {name} the mean | {rate:g} | {' | '.join(f'{percent(c.covered)} ({percent(c.offered)})' for c in row)} |")
    lines += [
        "", f"Differences of two rates, {runs:,} runs a cell, in per cent; the worst over spreads {', '.join(f'{s:g}' for s in PAIR_SPREADS)} x the rate",
        f"(beta and lognormal) and {' and '.join(str(QUESTIONS * draws) for draws in DRAWS)} answers a unit and condition. In brackets the same for",
        "Student's t, uncut, without the answers' own error. *Independent* and *proportional* are `of_shares` over paired units; *one parent* is",
        "`against_one`.", "",
        "| rates | units | independent | proportional | one parent |", "|---|---|---|---|---|",
    ]  # fmt: skip
    for of in PAIRS:
        for units in PAIR_UNITS:
            by = {how: [p for p in two if (p.rates, p.units, p.how) == (of, units, how)] for how in ("independent", "proportional", "one parent")}
            shown = [f"{percent(min(p.covered for p in row))} ({percent(min(p.covered_by_t for p in row))})" for row in by.values()]
            lines.append(f"| {of[0]:g} and {of[1]:g} | {units} | {' | '.join(shown)} |")
    return "\n".join(lines)


def percent(share: float) -> str:
    return "-" if math.isnan(share) else f"{100 * share:.1f}"


def where(of: Cell, *, brief: bool = False) -> str:
    shape = f"{of.population.shape}, {of.population.spread:g} x" if of.population.spread else "no spread"
    return shape if brief else f"{shape}, rate {of.population.rate:g}, {of.units} units, {QUESTIONS * of.draws} answers a unit"


def main(runs: int) -> None:
    tables = page(runs)
    text = PAGE.read_text(encoding="utf-8")
    before, rest = text.split(MARKS[0])
    _, after = rest.split(MARKS[1], 1)
    PAGE.write_text(f"{before}{MARKS[0]}\n\n{tables}\n\n{MARKS[1]}{after}", encoding="utf-8")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 10_000)
