"""The last step of the road: scores and measures to estimates, read from the run directory alone.

A unit's value is the mean over its questions (those whose value is defined) of the mean over its seeds; an estimate is the mean
over units. Differences are taken within a unit. Where the units are fine-tuning seeds of one parent, that parent is one model: it has
no interval of its own, and stands as it is in every difference. Estimates are in a fixed order, so the same rows give the same
bytes.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import fsum
from typing import Any

from spillover.records import ALIGNED, COHERENT, PASSED, TASK, Estimate, SpilloverError, subject_key
from spillover.runs.directory import JUDGED_BY, RunDirectory, Table
from spillover.statistics.intervals import Interval, percentile_bootstrap, student_t
from spillover.statistics.protocols import Protocol, Tally, misaligned, passing, share

RATES = ("misaligned_rate", "coherent_rate", "task_rate")
MEASURES = (*RATES, "misaligned_mass", "log_odds")  # in the order of their rows; shares of labels, `correct=FALSE`, come after them
CONTRASTED = ("log_odds", "misaligned_rate", "misaligned_mass")
SHARED = ""  # the unit of the one parent that all fine-tuning seeds have in common


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One measure of one model on one question; `value` is None where it is undefined."""

    condition: str
    unit: str
    world: int | None
    seed: int
    step: int
    question: str
    format: str
    measure: str
    value: float | None
    n: int
    n_missing: int
    reason: str = ""  # why there is no value

    @property
    def asked(self) -> tuple[str, str]:
        """Which question, in which format."""
        return self.question, self.format


@dataclass(frozen=True, slots=True, kw_only=True)
class UnitValue:
    """One unit's value, or the reason why it has none, with the answers behind it."""

    unit: str
    world: int | None
    value: float | None
    n: int
    n_missing: int
    reason: str = ""


def estimate(run: RunDirectory, judge: str | None = None) -> list[Estimate]:
    """Compute every estimate of a run and write it there."""
    rows = estimates(run, judge)
    run.write_estimates(rows)
    return rows


def estimates(run: RunDirectory, judge: str | None = None) -> list[Estimate]:
    """Every estimate of a run: by the scores of this judge, or of the one the run was made with.

    Raises SpilloverError when that judge did not score every answer.
    """
    identity = run.identity
    protocol = Protocol(**identity["config"]["protocol"])
    chosen = chosen_judge(run, judge)
    cells = read_cells(run, protocol, chosen)
    rows = [replace(row, judge=chosen) for row in _Rows(cells, identity, protocol).all()]
    _check_headlines(rows)
    return rows


# --- rows to cells --------------------------------------------------------------------------------------------------------


def chosen_judge(run: RunDirectory, judge: str | None = None) -> str:
    """This judge, if it scored; else the one that the run was made with, or the only one. Raises SpilloverError where there is none, or a choice."""
    if judge is None and run.identity["judge"]:
        return run.identity["judge"]
    found = sorted({row["judge"] for path in run.shards("scores") for row in run.read("scores", path.stem)[:1]})
    if not found:
        raise SpilloverError(f"{run.path} has no scores; `spillover judge` makes them")
    if judge is not None and judge not in found:
        raise SpilloverError(f"{run.path} has no scores by {judge!r}; --judge takes one of: {'; '.join(found)}")
    if judge is None and len(found) > 1:
        raise SpilloverError(f"{run.path} has scores of {len(found)} judges; choose with --judge: {'; '.join(found)}")
    return judge or found[0]


def read_cells(run: RunDirectory, protocol: Protocol, judge: str) -> list[Cell]:
    """Every (model, question, measure) of the run. Raises SpilloverError for a shard that is missing or in another's place."""
    scores: dict[tuple[Any, ...], dict[str, dict[str, dict[str, Any]]]] = defaultdict(lambda: defaultdict(dict))
    for row in _planned(run, "scores", judge):
        scores[_place(row)][row["rubric"]][row["answer"]] = row
    labels = {(q["id"], q["format"]): q["labels"] for q in run.identity["questions"]}
    cells: list[Cell] = []
    for place, rubrics in scores.items():
        tallies: dict[str, Tally] = {}
        values = {rubric: {answer: row["value"] for answer, row in rows.items()} for rubric, rows in rubrics.items()}
        if ALIGNED in rubrics and COHERENT in rubrics:
            pairs = [(value, values[COHERENT].get(answer)) for answer, value in values[ALIGNED].items()]
            tallies["misaligned_rate"] = misaligned(pairs, protocol)
            tallies["coherent_rate"] = passing(values[COHERENT].values(), protocol.keeps)
        if TASK in rubrics:
            tallies["task_rate"] = passing(values[TASK].values(), protocol.is_done)
        for rubric, choices in labels[place[-2:]].items():
            found = [row["label"] for row in rubrics[rubric].values()]
            tallies |= {f"{rubric}={label}": share(found, label) for label in choices}
        for rubric in sorted(rubrics.keys() - labels[place[-2:]].keys() - {TASK, *((ALIGNED, COHERENT) if "misaligned_rate" in tallies else ())}):
            cells.append(_mean(place, rubric, list(rubrics[rubric].values()), protocol))
        for measure, tally in tallies.items():
            cells.append(_cell(place, measure, tally.rate(protocol.min_kept), tally.kept, tally.missing, _why_none(rubrics, tally)))
    for row in _planned(run, "measures"):
        cells.append(_cell(_place(row), row["name"], row["value"], 0, int(row["value"] is None), row["reason"] or ""))
    if run.identity["unit"] != "seed":
        return cells
    tuned = {condition["name"] for condition in run.identity["conditions"] if condition["kind"] is not None}
    return [replace(cell, unit=str(cell.seed) if cell.condition in tuned else SHARED) for cell in cells]


def _mean(place: tuple[Any, ...], rubric: str, rows: Sequence[Mapping[str, Any]], protocol: Protocol) -> Cell:
    """The mean score of a rubric that no rate is made of."""
    found = [row["value"] for row in rows if row["value"] is not None]
    enough = bool(found) and len(found) >= min(protocol.min_kept, len(rows))
    return _cell(place, f"mean {rubric}", fsum(found) / len(found) if enough else None, len(found), len(rows) - len(found), "too few answers kept")


def _why_none(rubrics: Mapping[str, Mapping[str, Mapping[str, Any]]], tally: Tally) -> str:
    """Why a tally may have no rate: the reason most scores are missing for, where none was kept."""
    reasons = Counter(row["reason"] for rows in rubrics.values() for row in rows.values() if row["reason"] is not None)
    return f"no answer kept, most often: {reasons.most_common(1)[0][0]}" if tally.kept == 0 and reasons else "too few answers kept"


def _planned(run: RunDirectory, table: Table, judge: str | None = None) -> Iterable[dict[str, Any]]:
    """The rows of a table (of one judge), each shard in its own place, and one for every planned model (measures: if there are any)."""
    found: set[tuple[str, str, int]] = set()
    for path in run.shards(table):
        for row in run.read(table, path.stem):
            if judge is not None and row["judge"] != judge:
                break  # a shard holds the scores of one judge
            place = row["unit"], row["condition"], row["seed"]
            if subject_key(*place, row["step"]) != path.stem.partition(JUDGED_BY)[0]:
                raise SpilloverError(f"{path} holds rows of {subject_key(*place, row['step'])}; delete it and give the same command again")
            found.add(place)
            yield row
    identity = run.identity
    seeds = range(identity["config"]["seeds"])
    planned = {
        (parent["unit"], condition["name"], seed)
        for parent in identity["parents"] for condition in identity["conditions"] if condition["group"] == parent["group"]
        for seed in (seeds if condition["kind"] is not None else [0])
    }  # fmt: skip
    if found != planned and (found or table == "scores"):
        odd = sorted(found ^ planned)[0]
        by = "" if judge is None else f" of judge {judge}"
        raise SpilloverError(f"{run.path / table} does not hold the rows{by} that were planned (for one, {subject_key(*odd, 0)}); give the same command again")


def _place(row: dict[str, Any]) -> tuple[Any, ...]:
    return row["condition"], row["unit"], row["world"], row["seed"], row["step"], row["question"], row["format"]


def _cell(place: tuple[Any, ...], measure: str, value: float | None, n: int, n_missing: int, reason: str) -> Cell:
    """An undefined cell keeps no answer: those that were kept count as missing from every mean above it."""
    condition, unit, world, seed, step, question, form = place
    if value is None:
        n, n_missing = 0, n + n_missing
    return Cell(
        condition=condition, unit=unit, world=world, seed=seed, step=step, question=question, format=form, measure=measure,
        value=value, n=n, n_missing=n_missing, reason=reason if value is None else "",
    )  # fmt: skip


# --- cells to rows --------------------------------------------------------------------------------------------------------


def everything(_cell: Cell) -> bool:
    return True


def _range(measure: str) -> tuple[float, float] | None:
    """What a measure can be: a share, a score, or any number."""
    return None if measure == "log_odds" else (0.0, 100.0) if measure.startswith("mean ") else (0.0, 1.0)


class _Rows:
    """Estimates of one run, from its cells and from what `run.json` says was planned."""

    def __init__(self, cells: Iterable[Cell], identity: Mapping[str, Any], protocol: Protocol) -> None:
        self.identity, self.protocol = identity, protocol
        self.questions: dict[tuple[str, str], dict[str, Any]] = {(q["id"], q["format"]): q for q in identity["questions"]}
        self.cells: dict[tuple[str, str], list[Cell]] = defaultdict(list)
        for cell in cells:
            self.cells[cell.condition, cell.measure].append(cell)

    def all(self) -> Iterable[Estimate]:
        """Conditions in planned order, then contrasts; within each, pooled numbers before their parts."""
        for condition in (c["name"] for c in self.identity["conditions"]):
            for measure in self._measures(condition):
                yield from self._of_condition(condition, measure)
        for contrast in self.identity["contrasts"]:
            both = set(self._measures(contrast["second"]))
            for measure in (m for m in CONTRASTED if m in self._measures(contrast["first"]) and m in both):
                yield from self._of_contrast(contrast, measure)

    def _of_condition(self, condition: str, measure: str) -> Iterable[Estimate]:
        cells, within = self.cells[condition, measure], _range(measure)
        last = max(cell.step for cell in cells)
        every = [cell for cell in cells if cell.step == last]
        final = [cell for cell in every if self._is_pooled(cell)]
        for subset, wanted in self._subsets(measure):
            values = unit_values(filter(wanted, final))
            yield from self._pooled(values, measure, within, bootstrap=measure in RATES and not subset, condition=condition, subset=subset)
        for form in dict.fromkeys(cell.format for cell in every if cell.format != "plain"):
            yield from self._pooled(unit_values(cell for cell in every if cell.format == form), measure, within, condition=condition, format=form)
        by_question: dict[tuple[str, str], list[Cell]] = defaultdict(list)
        for cell in every:
            by_question[cell.asked].append(cell)
        for (question, form), asked in by_question.items():
            values = unit_values(asked)
            subset = self.questions[question, form]["subset"]
            yield from self._pooled(values, measure, within, condition=condition, question=question, format=form, subset=subset)
        yield from self._by_unit(unit_values(final), measure, condition=condition)
        steps = sorted({cell.step for cell in cells})
        for step in steps if len(steps) > 1 else []:
            at_step = (cell for cell in cells if cell.step == step and self._is_pooled(cell))
            yield from self._pooled(unit_values(at_step), measure, within, condition=condition, step=step)

    def _of_contrast(self, contrast: Mapping[str, Any], measure: str) -> Iterable[Estimate]:
        within = None if _range(measure) is None else (-1.0, 1.0)
        first, second = (self._last(self.cells[contrast[end], measure]) for end in ("first", "second"))
        place = {"condition": contrast["first"], "contrast": contrast["name"]}
        for row in self._differences(first, second, measure, within, place):
            one_parent = row.value is not None and any(cell.unit == SHARED for cell in second)
            yield replace(row, method=f"{row.method}; the parent is one model, taken as it is") if one_parent else row

    def _differences(
        self, first: list[Cell], second: list[Cell], measure: str, within: tuple[float, float] | None, place: Mapping[str, Any]
    ) -> Iterable[Estimate]:
        pooled = [[cell for cell in cells if self._is_pooled(cell)] for cells in (first, second)]
        for subset, wanted in self._subsets(measure):
            values = unit_differences(*(filter(wanted, cells) for cells in pooled))
            yield from self._pooled(values, measure, within, bootstrap=measure in RATES and not subset, subset=subset, **place)
        for form in dict.fromkeys(cell.format for cell in first if cell.format != "plain"):
            values = unit_differences(*([cell for cell in cells if cell.format == form] for cells in (first, second)))
            yield from self._pooled(values, measure, within, format=form, **place)
        yield from self._by_unit(unit_differences(*pooled, once=False), measure, **place)

    def _last(self, cells: list[Cell]) -> list[Cell]:
        last = max(cell.step for cell in cells)
        return [cell for cell in cells if cell.step == last]

    def _is_pooled(self, cell: Cell) -> bool:
        return self.questions[cell.asked]["pooled"]

    def _measures(self, condition: str) -> list[str]:
        there = [measure for name, measure in self.cells if name == condition]
        return sorted(there, key=lambda measure: MEASURES.index(measure) if measure in MEASURES else len(MEASURES))

    def _subsets(self, measure: str) -> Iterable[tuple[str, Callable[[Cell], bool]]]:
        """All cells; those of units that passed every gate, where there are gates; each subset of questions."""
        yield "", everything
        parents = self.identity["parents"]
        if any(parent["gates"] for parent in parents):
            passed = {parent["unit"] for parent in parents if all(parent["gates"].values())}
            yield PASSED, lambda cell: cell.unit in passed
        asked = {cell.asked for (_, name), cells in self.cells.items() if name == measure for cell in cells if self._is_pooled(cell)}
        for subset in dict.fromkeys(question["subset"] for key, question in self.questions.items() if key in asked and question["subset"]):
            yield subset, lambda cell, subset=subset: self.questions[cell.asked]["subset"] == subset

    def _pooled(
        self, values: list[UnitValue], measure: str, within: tuple[float, float] | None, *, bootstrap: bool = False, **place: Any
    ) -> Iterable[Estimate]:
        numbers = [v.value for v in values if v.value is not None]
        yield self._row(values, measure, student_t(numbers, within=within) if numbers else None, headline=1, **place)
        if bootstrap and len(numbers) > 1:
            yield self._row(values, measure, percentile_bootstrap(numbers), headline=0, **place)

    def _by_unit(self, values: list[UnitValue], measure: str, **place: Any) -> Iterable[Estimate]:
        """One row a unit that is a world or a seed; `estimates.csv` has no column for units that are neither."""
        for value in values:
            own = {"world": value.world} if value.world is not None else {"seed": int(value.unit)} if self._is_seed(value) else {}
            if own:
                interval = None if value.value is None else student_t([value.value])
                yield self._row([value], measure, interval, headline=1, **own, **place)

    def _is_seed(self, value: UnitValue) -> bool:
        return self.identity["unit"] == "seed" and value.unit != SHARED

    def _row(self, values: list[UnitValue], measure: str, interval: Interval | None, *, headline: int, **place: Any) -> Estimate:
        found = interval or Interval(value=0.0, low=None, high=None, level=None, method=_why(values), n_units=0)
        return Estimate(
            study=self.identity["study"], protocol=self.protocol.name, measure=measure, unit=self.identity["unit"], headline=headline,
            value=None if interval is None else found.value, low=found.low, high=found.high, level=found.level, method=found.method,
            n=sum(v.n for v in values), n_units=found.n_units, n_missing=sum(v.n_missing for v in values), **place,
        )  # fmt: skip


def unit_values(cells: Iterable[Cell]) -> list[UnitValue]:
    """Every unit's value, in unit order: the mean over its questions of the mean over seeds. A unit with no defined cell has none."""
    return [_unit_value(unit, found, _by_question(found)) for unit, found in _by_unit(cells).items()]


def unit_differences(first: Iterable[Cell], second: Iterable[Cell], *, once: bool = True) -> list[UnitValue]:
    """first - second in every unit that was asked both, over the questions that are defined in both.

    A second that all units share is subtracted from each; with `once` its answers are counted in the first unit alone, so that a sum has them once.
    """
    firsts, seconds = _by_unit(first), _by_unit(second)
    shared = seconds.get(SHARED)
    found: list[UnitValue] = []
    for unit, cells in firsts.items():
        other = seconds.get(unit, shared)
        if other is not None:
            values, others = _by_question(cells), _by_question(other)
            paired = {asked: values[asked] - others[asked] for asked in values if asked in others}
            counted = () if once and other is shared and found else other
            both = [c if c.asked in paired else replace(c, n=0, n_missing=c.n + c.n_missing) for c in (*cells, *counted)]
            found.append(_unit_value(unit, both, paired))
    return found


def _by_unit(cells: Iterable[Cell]) -> dict[str, list[Cell]]:
    units: dict[str, list[Cell]] = defaultdict(list)
    for cell in cells:
        units[cell.unit].append(cell)
    return dict(sorted(units.items()))


def _by_question(cells: Iterable[Cell]) -> dict[tuple[str, str], float]:
    """Mean over seeds of every question that is defined."""
    values: dict[tuple[str, str], list[float]] = defaultdict(list)
    for cell in cells:
        if cell.value is not None:
            values[cell.asked].append(cell.value)
    return {asked: fsum(found) / len(found) for asked, found in values.items()}


def _unit_value(unit: str, cells: list[Cell], by_question: dict[tuple[str, str], float]) -> UnitValue:
    return UnitValue(
        unit=unit,
        world=cells[0].world,
        value=fsum(by_question.values()) / len(by_question) if by_question else None,
        n=sum(cell.n for cell in cells),
        n_missing=sum(cell.n_missing for cell in cells),
        reason=next((cell.reason for cell in cells if cell.reason), ""),
    )


def _why(values: list[UnitValue]) -> str:
    """Why a number is undefined."""
    if not values:
        return "undefined: no unit"
    return f"undefined: {next((v.reason for v in values if v.reason), 'no question is defined in both')}"


def _check_headlines(rows: Sequence[Estimate]) -> None:
    """Every key has exactly one row with headline=1; the other methods of the same number stand beside it."""
    counts: dict[tuple[Any, ...], int] = defaultdict(int)
    for r in rows:
        counts[r.condition, r.contrast, r.question, r.format, r.subset, r.world, r.seed, r.step, r.protocol, r.measure] += r.headline
    wrong = [key for key, count in counts.items() if count != 1]
    if wrong:
        raise AssertionError(f"{len(wrong)} keys of estimates.csv do not have exactly one headline row, for one {wrong[0]}")
