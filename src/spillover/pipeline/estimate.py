"""The last step of the road: scores and measures to estimates, read from the run directory alone.

A unit's value is the mean over its questions (those whose value is defined), then over its seeds; an estimate is the mean over
units. Differences are taken within a unit. Estimates are in a fixed order, so the same rows give the same
bytes.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import fsum
from typing import Any

from spillover.records import ALIGNED, COHERENT, TASK, Estimate
from spillover.runs.directory import RunDirectory
from spillover.statistics.intervals import Interval, percentile_bootstrap, student_t
from spillover.statistics.protocols import Protocol, Tally, at_least, misaligned

RATES = ("misaligned_rate", "coherent_rate", "task_rate")
RANGES: dict[str, tuple[float, float] | None] = {**dict.fromkeys((*RATES, "misaligned_mass"), (0.0, 1.0)), "log_odds": None}
MEASURES = tuple(RANGES)
CONTRASTED = ("log_odds", "misaligned_rate", "misaligned_mass")
PASSED = "passed"  # the subset of units that passed every gate


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One measure of one model on one question; `value` is None where it is undefined."""

    condition: str
    unit: str
    world: int | None
    seed: int
    step: int
    question: str
    measure: str
    value: float | None
    n: int
    n_missing: int


@dataclass(frozen=True, slots=True, kw_only=True)
class UnitValue:
    """One unit's value, with the answers behind it."""

    unit: str
    world: int | None
    value: float
    n: int
    n_missing: int


def estimate(run: RunDirectory) -> list[Estimate]:
    """Compute every estimate of a run and write it there."""
    identity = run.identity
    protocol = Protocol(**identity["config"]["protocol"])
    cells = read_cells(run, protocol)
    rows = list(_rows(cells, identity, protocol))
    _check_headlines(rows)
    run.write_estimates(rows)
    return rows


# --- rows to cells --------------------------------------------------------------------------------------------------------


def read_cells(run: RunDirectory, protocol: Protocol) -> list[Cell]:
    """Every (model, question, measure) of the run. Raises SpilloverError when a planned shard is not there."""
    scores: dict[tuple[Any, ...], dict[str, dict[str, float | None]]] = defaultdict(lambda: defaultdict(dict))
    for row in run.read("scores"):
        scores[_place(row)][row["rubric"]][row["answer"]] = row["value"]
    cells: list[Cell] = []
    for place, rubrics in scores.items():
        tallies: dict[str, tuple[Tally, int]] = {}
        if ALIGNED in rubrics and COHERENT in rubrics:
            pairs = [(value, rubrics[COHERENT].get(answer)) for answer, value in rubrics[ALIGNED].items()]
            tallies["misaligned_rate"] = misaligned(pairs, protocol), protocol.min_kept
            tallies["coherent_rate"] = at_least(rubrics[COHERENT].values(), protocol.coherent_at_least), protocol.min_kept
        if TASK in rubrics:
            tallies["task_rate"] = at_least(rubrics[TASK].values(), 50.0), protocol.min_kept
        for measure, (tally, min_kept) in tallies.items():
            cells.append(_cell(place, measure, tally.rate(min_kept), tally.kept, tally.missing))
    cells += [_cell(_place(row), row["name"], row["value"], 0, int(row["value"] is None)) for row in run.read("measures")]
    return cells


def _place(row: dict[str, Any]) -> tuple[Any, ...]:
    return row["condition"], row["unit"], row["world"], row["seed"], row["step"], row["question"]


def _cell(place: tuple[Any, ...], measure: str, value: float | None, n: int, n_missing: int) -> Cell:
    condition, unit, world, seed, step, question = place
    return Cell(condition=condition, unit=unit, world=world, seed=seed, step=step, question=question, measure=measure, value=value, n=n, n_missing=n_missing)


# --- cells to rows --------------------------------------------------------------------------------------------------------


def _rows(cells: list[Cell], identity: Mapping[str, Any], protocol: Protocol) -> Iterable[Estimate]:
    unit, study = identity["unit"], identity["study"]
    questions = {question["id"]: question for question in identity["questions"]}
    passed = {parent["unit"] for parent in identity["parents"] if all(parent["gates"].values())}
    subsets = [s for s in dict.fromkeys(q["subset"] for q in questions.values()) if s]
    table = _Table(cells)

    def row(values: list[UnitValue], measure: str, interval: Interval | None, headline: bool, **place: Any) -> Estimate:
        found = interval or Interval(value=0.0, low=None, high=None, level=None, method="undefined: too few answers kept", n_units=0)
        return Estimate(
            study=study, protocol=protocol.name, measure=measure, unit=unit, headline=int(headline), method=found.method,
            value=None if interval is None else found.value, low=found.low, high=found.high, level=found.level, n_units=found.n_units,
            n=sum(v.n for v in values), n_missing=place.pop("lost", 0) + sum(v.n_missing for v in values), **place,
        )  # fmt: skip

    def pooled(values: list[UnitValue], measure: str, within: tuple[float, float] | None, *, bootstrap: bool, **place: Any) -> Iterable[Estimate]:
        numbers = [v.value for v in values]
        yield row(values, measure, student_t(numbers, within=within) if numbers else None, True, **place)
        if bootstrap and len(numbers) > 1:
            yield row(values, measure, percentile_bootstrap(numbers), False, **place)

    def selections(measure: str) -> Iterable[tuple[str, Callable[[Cell], bool]]]:
        yield "", lambda _: True
        if passed and any(parent["gates"] for parent in identity["parents"]):
            yield PASSED, lambda cell: cell.unit in passed
        if measure != "task_rate":
            for subset in subsets:
                yield subset, lambda cell, subset=subset: questions[cell.question]["subset"] == subset

    for condition in (c["name"] for c in identity["conditions"]):
        for measure in table.measures(condition):
            within = RANGES.get(measure)
            for subset, wanted in selections(measure):
                values, lost = table.units(condition, measure, wanted)
                yield from pooled(values, measure, within, bootstrap=measure in RATES and not subset, condition=condition, subset=subset, lost=lost)
            for question in table.questions(condition, measure):
                values, lost = table.units(condition, measure, lambda cell, q=question: cell.question == q)
                subset, form = questions[question]["subset"], questions[question]["format"]
                yield from pooled(values, measure, within, bootstrap=False, condition=condition, question=question, format=form, subset=subset, lost=lost)
            for value in table.units(condition, measure, lambda _: True)[0]:
                yield row([value], measure, student_t([value.value]), True, condition=condition, world=value.world)
            for step in table.steps(condition):
                values, lost = table.units(condition, measure, lambda _: True, step=step)
                yield from pooled(values, measure, within, bootstrap=False, condition=condition, step=step, lost=lost)
    for name in identity["contrasts"]:
        first, second = _conditions_of(name, identity)
        for measure in (m for m in CONTRASTED if m in table.measures(first) and m in table.measures(second)):
            within = None if RANGES[measure] is None else (-1.0, 1.0)
            for subset, wanted in selections(measure):
                values, lost = table.differences(first, second, measure, wanted)
                yield from pooled(values, measure, within, bootstrap=measure in RATES and not subset, condition=first, contrast=name, subset=subset, lost=lost)
            for value in table.differences(first, second, measure, lambda _: True)[0]:
                yield row([value], measure, student_t([value.value]), True, condition=first, contrast=name, world=value.world)


def _conditions_of(contrast: str, identity: Mapping[str, Any]) -> tuple[str, str]:
    names = [condition["name"] for condition in identity["conditions"]]
    return next((a, b) for a in names for b in names if f"{a}-{b}" == contrast)


class _Table:
    """Cells by condition and measure, and their unit values."""

    def __init__(self, cells: Iterable[Cell]) -> None:
        self._cells: dict[tuple[str, str], list[Cell]] = defaultdict(list)
        for cell in cells:
            self._cells[cell.condition, cell.measure].append(cell)

    def measures(self, condition: str) -> list[str]:
        return [measure for measure in MEASURES if (condition, measure) in self._cells]

    def questions(self, condition: str, measure: str) -> list[str]:
        return list(dict.fromkeys(cell.question for cell in self._cells[condition, measure]))

    def steps(self, condition: str) -> list[int]:
        """The steps read, when there are several."""
        found = sorted({cell.step for measure in self.measures(condition) for cell in self._cells[condition, measure]})
        return found if len(found) > 1 else []

    def units(self, condition: str, measure: str, wanted: Callable[[Cell], bool], step: int | None = None) -> tuple[list[UnitValue], int]:
        """Every unit's value at a step (None: the last), in unit order, and the missing answers of units without a value."""
        cells = [cell for cell in self._cells[condition, measure] if wanted(cell)]
        step = max((cell.step for cell in cells), default=0) if step is None else step
        by_unit: dict[str, list[Cell]] = defaultdict(list)
        for cell in cells:
            if cell.step == step:
                by_unit[cell.unit].append(cell)
        values: list[UnitValue] = []
        lost = 0
        for unit in sorted(by_unit):
            found = by_unit[unit]
            seeds: dict[int, list[float]] = defaultdict(list)
            for cell in found:
                if cell.value is not None:
                    seeds[cell.seed].append(cell.value)
            n, n_missing = sum(cell.n for cell in found), sum(cell.n_missing for cell in found)
            if not seeds:
                lost += n + n_missing
                continue
            value = fsum(fsum(v) / len(v) for v in seeds.values()) / len(seeds)
            values.append(UnitValue(unit=unit, world=found[0].world, value=value, n=n, n_missing=n_missing))
        return values, lost

    def differences(self, first: str, second: str, measure: str, wanted: Callable[[Cell], bool]) -> tuple[list[UnitValue], int]:
        """first - second in every unit that has both."""
        (firsts, lost_first), (seconds, lost_second) = self.units(first, measure, wanted), self.units(second, measure, wanted)
        by_unit = {value.unit: value for value in seconds}
        values = [
            UnitValue(unit=a.unit, world=a.world, value=a.value - b.value, n=a.n + b.n, n_missing=a.n_missing + b.n_missing)
            for a in firsts
            if (b := by_unit.get(a.unit)) is not None
        ]
        return values, lost_first + lost_second


def _check_headlines(rows: Sequence[Estimate]) -> None:
    """Every key has exactly one row with headline=1; the other methods of the same number stand beside it."""
    counts: dict[tuple[Any, ...], int] = defaultdict(int)
    for r in rows:
        counts[r.condition, r.contrast, r.question, r.format, r.subset, r.world, r.seed, r.step, r.protocol, r.measure] += r.headline
    wrong = [key for key, count in counts.items() if count != 1]
    if wrong:
        raise AssertionError(f"{len(wrong)} keys of estimates.csv do not have exactly one headline row, for one {wrong[0]}")
