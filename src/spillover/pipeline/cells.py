"""From the rows of a run to cells (one measure of one model on one question), and from cells to the value of each unit."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from math import fsum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spillover.pipeline.alterations import lacking
from spillover.records import ALIGNED, CODE, COHERENT, MEAN, ONLY_CODE, TASK, SpilloverError, Subject, subject_key
from spillover.runs import shards
from spillover.runs.directory import RunDirectory
from spillover.runs.scores import Rubric, scores
from spillover.runs.shards import Table
from spillover.statistics.gates import JointTable, joint_table_of
from spillover.statistics.protocols import Protocol, Tally

OF_DIRECTIONS = ("direction_cosine", "author_auroc")  # measures of what is done to a model
SHARED = ""  # the unit of the one parent that all fine-tuning seeds have in common

Place = tuple[Any, ...]  # condition, unit, world, seed, step, question, format
Scores = Sequence[tuple[Place, Mapping[str, Rubric]]]  # of each place its answers' scores by rubric


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One measure of one model on one question; `value` is None where it is undefined."""

    condition: str
    unit: str
    world: int | None
    seed: int
    step: int
    asked: tuple[str, str]  # which question, in which format
    measure: str
    value: float | None
    n: int
    n_missing: int
    reason: str = ""  # why there is no value

    @property
    def format(self) -> str:
        return self.asked[1]


@dataclass(frozen=True, slots=True, kw_only=True)
class UnitValue:
    """One unit's value, or the reason why it has none, with the answers behind it; `strata` are those of each cell (none behind exact numbers)."""

    unit: str
    world: int | None
    value: float | None
    n: int
    n_missing: int
    reason: str = ""
    strata: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class UnitDifference:
    """Two conditions in one unit, over the questions that are defined in both.

    A side whose unit is `SHARED` is the one model that all units have in common; its answers are counted (`n`, `n_missing`, `strata`) in one unit alone.
    """

    unit: str
    first: UnitValue
    second: UnitValue

    @property
    def world(self) -> int | None:
        return self.first.world if self.second.unit == SHARED else self.second.world

    @property
    def value(self) -> float | None:
        return None if self.first.value is None or self.second.value is None else self.first.value - self.second.value

    @property
    def n(self) -> int:
        return self.first.n + self.second.n

    @property
    def n_missing(self) -> int:
        return self.first.n_missing + self.second.n_missing

    @property
    def reason(self) -> str:
        return self.first.reason or self.second.reason


# --- rows to cells --------------------------------------------------------------------------------------------------------


def chosen_judge(run: RunDirectory, judge: str | None = None) -> str:
    """This judge, if it scored; else the one that the run was made with, or the only one. Raises SpilloverError where there is none, or a choice."""
    if judge is None and run.identity["judge"]:
        return run.identity["judge"]
    found = sorted({judge for path in run.shards("scores") for (judge,) in shards.about(path, ["judge"])})
    if not found:
        raise SpilloverError(f"{run.path} has no scores; `spillover judge` makes them")
    if judge is not None and judge not in found:
        raise SpilloverError(f"{run.path} has no scores by {judge!r}; --judge takes one of: {'; '.join(found)}")
    if judge is None and len(found) > 1:
        raise SpilloverError(f"{run.path} has scores of {len(found)} judges; choose with --judge: {'; '.join(found)}")
    return judge or found[0]


def read_scores(run: RunDirectory, judge: str) -> Scores:
    """Every score of a judge. Raises SpilloverError for a shard that is missing or in another's place."""
    found = [model for model in scores(run) if model.judge == judge]
    _refuse_unplanned(run, "scores", [model.subject for model in found], f" of judge {judge}")
    return [((*_place(model.subject, run.identity), *asked), rubrics) for model in found for asked, rubrics in model.by_question()]


def scored_cells(scores: Scores, run: RunDirectory, protocol: Protocol) -> list[Cell]:
    """Every (model, question, measure) that scores give, as a protocol counts them."""
    labels = {(q["id"], q["format"]): q["labels"] for q in run.identity["questions"]}
    cells: list[Cell] = []
    for place, rubrics in scores:
        tallies: dict[str, Tally] = {}
        removed: dict[str, int] = {}
        if ALIGNED in rubrics and COHERENT in rubrics:
            there, only_code = rubrics[ALIGNED].there, rubrics[ONLY_CODE].are(CODE) if ONLY_CODE in rubrics else np.zeros(1, dtype=np.bool_)
            table = joint_table_of(np.where(only_code, np.nan, rubrics[ALIGNED].value)[there], rubrics[COHERENT].value[there], protocol)
            tallies["misaligned_rate"] = table.tally
            tallies["coherent_rate"] = _passing(rubrics[COHERENT], protocol.keeps)
            tallies |= _without_gate(table)
            removed = {f"coherence not {protocol.gate}": table.removed_misaligned + table.removed_aligned, "only code": int(only_code.sum())}
        labelled = labels[place[-2:]]
        if TASK in rubrics and TASK in labelled:  # a judge that reads says whether the task is done: its first label
            tallies["task_rate"] = _share(rubrics[TASK], labelled[TASK][0])
        elif TASK in rubrics:
            tallies["task_rate"] = _passing(rubrics[TASK], protocol.is_done)
        for rubric, choices in labelled.items():
            tallies |= {f"{rubric}={label}": _share(rubrics.get(rubric), label) for label in choices}
        for rubric in sorted(rubrics.keys() - labelled.keys() - {TASK, *((ALIGNED, COHERENT) if "misaligned_rate" in tallies else ())}):
            cells.append(_mean(place, rubric, rubrics[rubric], protocol))
        for measure, tally in tallies.items():
            rate = tally.rate(protocol.min_kept)
            why = "" if rate is not None else _why_none(rubrics, tally, removed if measure == "misaligned_rate" else {})
            cells.append(_cell(place, measure, rate, tally.kept, tally.missing, why))
    for place, reason in _unmade(run):
        for question in run.identity["questions"]:
            asked = question["id"], question["format"]
            rates = [
                *(("misaligned_rate", "coherent_rate") if ALIGNED in question["rubrics"] else ()),
                *(("task_rate",) if TASK in question["rubrics"] else ()),
            ]
            cells += [_cell((*place, *asked), rate, None, 0, run.identity["config"]["sampling"]["draws"], reason) for rate in rates]
    return cells


def measured_cells(run: RunDirectory) -> list[Cell]:
    """Every number that was read off a model."""
    found = list(run.models("measures"))
    if found:
        _refuse_unplanned(run, "measures", [subject for subject, _ in found])
    cells = [
        _cell((*_place(subject, run.identity), row["question"], row["format"]), row["name"], row["value"], 0, int(row["value"] is None), row["reason"] or "")
        for subject, columns in found for row in columns.rows()
    ]  # fmt: skip
    read = dict.fromkeys((cell.asked, cell.measure) for cell in cells)
    read |= dict.fromkeys((("", "plain"), measure) for claim in run.identity.get("claims", []) if (measure := claim["measure"]) in OF_DIRECTIONS)
    return cells + [_cell((*place, *asked), measure, None, 0, 0, reason) for place, reason in _unmade(run) for asked, measure in read]


def _unmade(run: RunDirectory) -> Iterator[tuple[Place, str]]:
    """The models that there are none of in a unit, and why."""
    for row in lacking(run):
        subject = Subject(**{name: row[name] for name in ("unit", "world", "condition", "seed", "step")}, group="", model="")
        yield _place(subject, run.identity), row["reason"]


def _without_gate(table: JointTable) -> dict[str, Tally]:
    """The misaligned rate as it would be without the coherence gate, and the least and most that it may be of all answers."""
    counted = table.kept_misaligned + table.removed_misaligned
    return {
        "misaligned_without_gate": Tally(counted=counted, kept=table.answers - table.unscored, missing=table.unscored),
        "misaligned_at_least": Tally(counted=table.kept_misaligned, kept=table.answers, missing=0),
        "misaligned_at_most": Tally(counted=table.answers - table.kept_aligned, kept=table.answers, missing=0),
    }


def _passing(rubric: Rubric, passes: Callable[[NDArray[np.float64]], NDArray[np.bool_]]) -> Tally:
    """The scores that pass among those with a value."""
    present = rubric.value[~np.isnan(rubric.value)]
    return Tally(counted=int(passes(present).sum()), kept=len(present), missing=rubric.count - len(present))


def _share(rubric: Rubric | None, label: str) -> Tally:
    """This label among those that have any."""
    if rubric is None:
        return Tally(counted=0, kept=0, missing=0)
    kept = int((rubric.label >= 0).sum())
    return Tally(counted=int(rubric.are(label).sum()), kept=kept, missing=rubric.count - kept)


def _mean(place: Place, name: str, rubric: Rubric, protocol: Protocol) -> Cell:
    """The mean score of a rubric that no rate is made of."""
    found = rubric.value[~np.isnan(rubric.value)].tolist()
    enough = bool(found) and len(found) >= min(protocol.min_kept, rubric.count)
    return _cell(place, f"{MEAN}{name}", fsum(found) / len(found) if enough else None, len(found), rubric.count - len(found), "too few answers kept")


def _why_none(rubrics: Mapping[str, Rubric], tally: Tally, removed: Mapping[str, int]) -> str:
    """Why a tally has no rate: the reason most answers are missing for, where none was kept. `removed` are those that a gate left out."""
    reasons = Counter[str]()
    for found in (*(rubric.missing() for rubric in rubrics.values()), removed):
        reasons.update({reason: count for reason, count in found.items() if count})
    return f"no answer kept, most often: {reasons.most_common(1)[0][0]}" if tally.kept == 0 and reasons else "too few answers kept"


def _refuse_unplanned(run: RunDirectory, table: Table, subjects: Iterable[Subject], by: str = "") -> None:
    """A table has rows of every planned model and of no other."""
    identity = run.identity
    seeds = range(identity["config"]["seeds"])
    unmade = {(row["unit"], row["condition"], row["seed"]) for row in lacking(run)}
    planned = {
        (parent["unit"], condition["name"], seed)
        for parent in identity["parents"] for condition in identity["conditions"] if condition["group"] == parent["group"]
        for seed in (seeds if condition["kind"] is not None else [0])
    }  # fmt: skip
    odd = next(iter(sorted((planned - unmade) ^ {(subject.unit, subject.condition, subject.seed) for subject in subjects})), None)
    if odd is not None:
        raise SpilloverError(f"{run.path / table} does not hold the rows{by} that were planned (for one, {subject_key(*odd, 0)}); give the same command again")


def _place(subject: Subject, identity: Mapping[str, Any]) -> Place:
    """Where fine-tuning seeds are the units, a model is in its seed's, and the parent in the one they share."""
    unit = subject.unit
    if identity["unit"] == "seed":
        tuned = {condition["name"] for condition in identity["conditions"] if condition["kind"] is not None}
        unit = str(subject.seed) if subject.condition in tuned else SHARED
    return subject.condition, unit, subject.world, subject.seed, subject.step


def _cell(place: Place, measure: str, value: float | None, n: int, n_missing: int, reason: str) -> Cell:
    """An undefined cell keeps no answer: those that were kept count as missing from every mean above it."""
    condition, unit, world, seed, step, question, form = place
    if value is None:
        n, n_missing = 0, n + n_missing
    return Cell(
        condition=condition, unit=unit, world=world, seed=seed, step=step, asked=(question, form), measure=measure,
        value=value, n=n, n_missing=n_missing, reason=reason if value is None else "",
    )  # fmt: skip


# --- cells to units -------------------------------------------------------------------------------------------------------


def unit_values(cells: Iterable[Cell]) -> list[UnitValue]:
    """Every unit's value, in unit order: the mean over its questions of the mean over seeds. A unit with no defined cell has none."""
    return [_unit_value(unit, found) for unit, found in _by_unit(cells).items()]


def unit_differences(first: Iterable[Cell], second: Iterable[Cell], *, once: bool = True) -> list[UnitDifference]:
    """First and second in every unit that was asked both, over the questions that are defined in both.

    A side that all units share stands beside each. With `once` its answers are counted in the first unit that has a value alone, for all the questions
    that any unit shares with it, so that a sum has them once.
    """
    sides = _by_unit(first), _by_unit(second)
    units = sorted((sides[0].keys() | sides[1].keys()) - {SHARED}) or [SHARED]
    pairs = {unit: tuple(side.get(unit, side.get(SHARED)) for side in sides) for unit in units}
    there = {unit: (pair[0], pair[1]) for unit, pair in pairs.items() if pair[0] is not None and pair[1] is not None}
    both = {unit: by_question(pair[0]).keys() & by_question(pair[1]).keys() for unit, pair in there.items()}
    counted_in = next((unit for unit in there if both[unit]), next(iter(there), None))
    used = {asked for questions in both.values() for asked in questions}
    found: list[UnitDifference] = []
    for unit, pair in there.items():
        values = [_unit_value(cells[0].unit, _of_questions(cells, both[unit])) for cells in pair]
        if once and unit != SHARED:
            values = [
                value if value.unit != SHARED else _counted(value, _unit_value(SHARED, _of_questions(cells, used)) if unit == counted_in else None)
                for value, cells in zip(values, pair, strict=True)
            ]
        found.append(UnitDifference(unit=unit, first=values[0], second=values[1]))
    return found


def _counted(value: UnitValue, answers: UnitValue | None) -> UnitValue:
    """A value with the answers of another, or with none."""
    return replace(value, n=0, n_missing=0, strata=()) if answers is None else replace(value, n=answers.n, n_missing=answers.n_missing, strata=answers.strata)


def by_question(cells: Iterable[Cell]) -> dict[tuple[str, str], float]:
    """Mean over seeds of every question that is defined."""
    values: dict[tuple[str, str], list[float]] = defaultdict(list)
    for cell in cells:
        if cell.value is not None:
            values[cell.asked].append(cell.value)
    return {asked: fsum(found) / len(found) for asked, found in values.items()}


def _of_questions(cells: Sequence[Cell], asked: Set[tuple[str, str]]) -> list[Cell]:
    """The cells, those of other questions without a value: their answers are missing from the difference."""
    return [cell if cell.asked in asked else replace(cell, value=None, n=0, n_missing=cell.n + cell.n_missing) for cell in cells]


def _by_unit(cells: Iterable[Cell]) -> dict[str, list[Cell]]:
    units: dict[str, list[Cell]] = defaultdict(list)
    for cell in cells:
        units[cell.unit].append(cell)
    return dict(sorted(units.items()))


def _unit_value(unit: str, cells: Sequence[Cell]) -> UnitValue:
    values = by_question(cells)
    return UnitValue(
        unit=unit,
        world=cells[0].world,
        value=fsum(values.values()) / len(values) if values else None,
        n=sum(cell.n for cell in cells),
        n_missing=sum(cell.n_missing for cell in cells),
        reason=next((cell.reason for cell in cells if cell.reason), ""),
        strata=tuple(cell.n for cell in cells if cell.n),
    )
