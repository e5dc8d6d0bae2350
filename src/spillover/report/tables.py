"""The tables of the report, as rows of printed cells; the template only lays them out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from spillover.records import PASSED, Estimate
from spillover.report.printed import EMPTY, Cell, cell, interval, level, plural
from spillover.report.reading import Arm, Compared, Reading, missing_by_reason

MEASURE_NAMES = {
    "misaligned_rate": "misaligned rate", "coherent_rate": "coherent rate", "task_rate": "task rate",
    "misaligned_mass": "misaligned mass", "log_odds": "log-odds",
}  # fmt: skip
SUBSET_NAMES = {"seen": "themes seen in post-training", "held_out": "themes held out of post-training"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One row: a label, what makes it special, and its cells. `section` rows only divide."""

    label: str
    cells: tuple[Cell, ...] = ()
    section: bool = False
    quiet: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """A table with a caption that says what its numbers are."""

    caption: str
    head: tuple[str, ...]
    rows: tuple[Row, ...]
    note: str = ""


def has(reading: Reading, measure: str) -> bool:
    return any(reading.rows(measure, condition=arm.name) for arm in reading.arms)


# --- by condition ---------------------------------------------------------------------------------------------------------


def rates(reading: Reading) -> Table:
    """misaligned_rate with both intervals, then the rates that say whether the model still talks and does its task."""

    def cells(arm: Arm, subset: str) -> tuple[Cell, ...]:
        place = {"condition": arm.name, "subset": subset}
        first = reading.headline("misaligned_rate", **place)
        others = [cell(reading.headline(measure, **place)) for measure in ("coherent_rate", "task_rate")]
        return cell(first), _bootstrap(reading.rows("misaligned_rate", **place)), *others

    return Table(
        caption=f"Rates by condition: mean over {reading.unit}s, with the {_level(reading)}Student t interval over {reading.unit}s in brackets, in percent.",
        head=("condition", "misaligned rate", "percentile bootstrap (the paper\N{RIGHT SINGLE QUOTATION MARK}s)", "coherent rate", "task rate"),
        rows=tuple(_by_group(reading, lambda arm: f"{arm.label}", cells, "misaligned_rate")),
        note=(
            "misaligned rate = misaligned answers / answers kept under the coherence gate; n counts the answers kept, missing the others. "
            f"The percentile bootstrap over {reading.unit}s is the published method and stands here for comparison: it is too narrow for few units "
            "(about 82 % coverage at 5 where 95 % is meant)."
        ),
    )


def exact(reading: Reading) -> Table | None:
    """misaligned_mass and log-odds: read from the model, no answers and no gate; never beside a rate."""
    if not has(reading, "misaligned_mass") and not has(reading, "log_odds"):
        return None

    def cells(arm: Arm, subset: str) -> tuple[Cell, ...]:
        return tuple(cell(reading.headline(measure, condition=arm.name, subset=subset)) for measure in ("misaligned_mass", "log_odds"))

    return Table(
        caption=f"Exact measures by condition: mean over {reading.unit}s with the {_level(reading)}Student t interval over {reading.unit}s in brackets.",
        head=("condition", "misaligned mass", "log-odds"),
        rows=tuple(_by_group(reading, lambda arm: arm.label, cells, "misaligned_mass")),
        note=(
            "misaligned mass = the exact probability of misaligned text, in percent, with no coherence gate and no sampling; log-odds in nats. "
            "Neither is comparable with the misaligned rate."
        ),
    )


def contrasts(reading: Reading) -> Table | None:
    """Paired differences on every scale that was estimated."""
    measures = [measure for measure in ("log_odds", "misaligned_rate", "misaligned_mass") if has(reading, measure)]
    if not reading.contrasts or not measures:
        return None
    rows: list[Row] = []
    for group in reading.groups:
        rows += _section(reading, group)
        for contrast in reading.contrasts_of(group):
            for subset in ("", PASSED):
                found = [
                    reading.headline(measure, condition=contrast.first.name, contrast=contrast.name, subset=subset) for measure in measures
                ]  # fmt: skip
                if subset == "" or (some_passed(reading, group) and any(row is not None for row in found)):
                    label = contrast.label if subset == "" else _passed_label(reading, group)
                    rows.append(Row(label=label, cells=tuple(cell(row, difference=True) for row in found), quiet=subset != ""))
    return Table(
        caption=f"Paired differences within each {reading.unit}: mean over {reading.unit}s with the {_level(reading)}Student t interval in brackets.",
        head=("contrast", *(MEASURE_NAMES[measure] for measure in measures)),
        rows=tuple(rows),
        note="Log-odds in nats, rate and mass in percentage points. n and missing count the answers of both conditions.",
    )


def _by_group(reading: Reading, label: Callable[[Arm], str], cells: Callable[[Arm, str], tuple[Cell, ...]], measure: str) -> Iterator[Row]:
    for group in reading.groups:
        yield from _section(reading, group)
        for arm in reading.arms_of(group):
            yield Row(label=label(arm), cells=cells(arm, ""))
            if some_passed(reading, group) and reading.rows(measure, condition=arm.name, subset=PASSED):
                yield Row(label=_passed_label(reading, group), cells=cells(arm, PASSED), quiet=True)


def _section(reading: Reading, group: str) -> list[Row]:
    """What stands over a group's rows: how many units it has and how many passed every gate."""
    parents = reading.parents_of(group)
    passed = "all" if _passed(parents) == len(parents) else f"{_passed(parents)}"
    gates = f", {passed} of which passed every gate" if any(parent["gates"] for parent in parents) else ""
    if len(reading.groups) == 1:
        return [Row(label=f"{plural(len(parents), reading.unit)}{gates}", section=True)] if gates else []
    named = plural(len(parents), f"{reading.group_label(group)} {reading.unit}")
    return [Row(label=f"{named}{' (control group)' if group else ''}{gates}", section=True)]


def some_passed(reading: Reading, group: str) -> bool:
    """Whether the units that passed every gate are some and not all: only then is their row another number."""
    parents = reading.parents_of(group)
    return 0 < _passed(parents) < len(parents)


def _passed(parents: Sequence[Any]) -> int:
    return sum(all(parent["gates"].values()) for parent in parents)


def _passed_label(reading: Reading, group: str) -> str:
    parents = reading.parents_of(group)
    return f"only the {_passed(parents)} of {len(parents)} that passed every gate"


def _bootstrap(rows: Sequence[Estimate]) -> Cell:
    found = next((row for row in rows if not row.headline), None)
    return EMPTY if found is None else Cell(value=interval(found))


def _level(reading: Reading) -> str:
    levels = {level(row) for rows in reading.estimates.values() for row in rows} - {""}
    return f"{levels.pop()} " if len(levels) == 1 else ""


# --- by question and by step ----------------------------------------------------------------------------------------------


def by_question(reading: Reading, group: str, measure: str) -> Table | None:
    """Rows are questions with those of one subset together, columns the conditions of one group."""
    arms = [arm for arm in reading.arms_of(group) if reading.rows(measure, condition=arm.name)]
    asked = [question for question in reading.identity["questions"] if any(_of_question(reading, measure, arm, question) for arm in arms)]
    if not asked:
        return None
    rows: list[Row] = []
    for subset in dict.fromkeys(question["subset"] for question in asked):
        if subset:
            means = tuple(cell(reading.headline(measure, condition=arm.name, subset=subset)) for arm in arms)
            rows += [Row(label=subset_name(subset), section=True), Row(label="mean of these", cells=means, quiet=True)]
        for question in (q for q in asked if q["subset"] == subset):
            rows.append(Row(label=question_label(question), cells=tuple(cell(_of_question(reading, measure, arm, question)) for arm in arms)))
    where = f", {reading.group_label(group)} {reading.unit}s" if len(reading.groups) > 1 else ""
    return Table(
        caption=f"{MEASURE_NAMES[measure].capitalize()} by question{where}: mean over {reading.unit}s with the {_level(reading)}interval over {reading.unit}s.",
        head=("question", *(arm.label for arm in arms)),
        rows=tuple(rows),
    )


def by_step(reading: Reading, measure: str) -> Table | None:
    """One row a step where several checkpoints of a run were read."""
    steps = sorted({row.step for rows in reading.estimates.values() for row in rows if row.step is not None})
    arms = [arm for arm in reading.arms if any(reading.rows(measure, condition=arm.name, step=step) for step in steps)]
    if not arms:
        return None
    rows = tuple(Row(label=f"step {step}", cells=tuple(cell(reading.headline(measure, condition=arm.name, step=step)) for arm in arms)) for step in steps)
    return Table(caption=f"{MEASURE_NAMES[measure].capitalize()} by training step.", head=("step", *(arm.name for arm in arms)), rows=rows)


def subset_name(subset: str) -> str:
    return SUBSET_NAMES.get(subset, subset)


def question_label(question: Any) -> str:
    return question["id"] if question["format"] == "plain" else f"{question['id']} ({question['format']})"


def _of_question(reading: Reading, measure: str, arm: Arm, question: Any) -> Estimate | None:
    return reading.headline(measure, condition=arm.name, question=question["id"], format=question["format"], subset=question["subset"])


# --- by unit --------------------------------------------------------------------------------------------------------------


def by_unit(reading: Reading, group: str) -> list[Table]:
    """The misaligned rate of every unit by condition, and its paired differences. None of these numbers has an interval."""
    parents = [parent for parent in reading.parents_of(group) if parent["world"] is not None]
    arms, compared = reading.arms_of(group), reading.contrasts_of(group)
    where = f", {reading.group_label(group)} {reading.unit}s" if len(reading.groups) > 1 else ""

    def rate(parent: Any, arm: Arm) -> Cell:
        return cell(reading.headline("misaligned_rate", condition=arm.name, world=parent["world"]))

    def difference(parent: Any, contrast: Compared) -> Cell:
        return cell(reading.headline("log_odds", condition=contrast.first.name, contrast=contrast.name, world=parent["world"]), difference=True, counts=False)

    tables = [
        Table(
            caption=f"Misaligned rate of each {reading.unit}{where}, in percent of the answers kept.",
            head=(reading.unit, *(arm.label for arm in arms)),
            rows=tuple(Row(label=parent["unit"], cells=tuple(rate(parent, arm) for arm in arms)) for parent in parents),
        ),
        Table(
            caption=f"Difference in log-odds within each {reading.unit}{where}, in nats.",
            head=(reading.unit, *(contrast.label for contrast in compared)),
            rows=tuple(Row(label=parent["unit"], cells=tuple(difference(parent, contrast) for contrast in compared)) for parent in parents),
        ),
    ]
    return [table for table in tables if any(one is not EMPTY for row in table.rows for one in row.cells)]


def gates(reading: Reading) -> Table | None:
    """What was checked of every parent when it was made."""
    names = list(dict.fromkeys(name for parent in reading.identity["parents"] for name in parent["gates"]))
    if not names:
        return None

    def cells(parent: Any) -> tuple[Cell, ...]:
        return tuple(EMPTY if name not in parent["gates"] else Cell(value="passed" if parent["gates"][name] else "NOT passed") for name in names)

    rows = [
        row
        for group in reading.groups
        for row in (*_section(reading, group), *(Row(label=parent["unit"], cells=cells(parent)) for parent in reading.parents_of(group)))
    ]
    passed = _passed(reading.identity["parents"])
    return Table(
        caption=f"Gates: what was checked of each {reading.unit}\N{RIGHT SINGLE QUOTATION MARK}s parent model before any fine-tuning.",
        head=(reading.unit, *(name.replace("_", " ") for name in names)),
        rows=tuple(rows),
        note=f"{passed} of {plural(len(reading.identity['parents']), reading.unit)} passed every gate. "
        f"A {reading.unit} that did not pass is not left out: the main numbers are over all of them.",
    )


# --- what is there and what is missing --------------------------------------------------------------------------------------


def present(reading: Reading) -> Table:
    """Planned against present. With several checkpoints an organism is read more than once."""
    planned = reading.identity.get("planned", {})
    jobs = {(answer.unit, answer.condition, answer.seed) for answer in reading.answers}
    counts = {"organisms": reading.organisms, "jobs": len(jobs), "answers": len(reading.answers)}
    names = {"organisms": "fine-tuned models", "jobs": "models asked (parents and fine-tuned)", "answers": "answers"}
    rows = tuple(Row(label=names[name], cells=(_count(planned.get(name)), _count(counts[name]))) for name in counts)
    return Table(caption="Planned and present.", head=("what", "planned", "present"), rows=rows)


def missing(reading: Reading, *, task: bool) -> Table | None:
    """Answers without a place in a rate's denominator, by condition and reason."""
    counts = {arm.name: missing_by_reason(reading, arm.name, task=task) for arm in reading.arms}
    drawn = {arm.name: 0 for arm in reading.arms}
    for answer in reading.answers:
        drawn[answer.condition] += reading.judgements[answer.judgement].task == task
    if not any(drawn.values()):
        return None
    reasons = sorted({reason for count in counts.values() for reason in count})
    rows: list[Row] = []
    for arm in reading.arms:
        found = counts[arm.name]
        cells = (drawn[arm.name], drawn[arm.name] - found.total(), *(found[reason] for reason in reasons))
        rows.append(Row(label=arm.name, cells=tuple(map(_count, cells))))
    asked = "the narrow task" if task else "free-form questions"
    return Table(
        caption=f"Answers to {asked}, and those missing by reason (counts).",
        head=("condition", "drawn", "kept", *(f"missing: {reason}" for reason in reasons)),
        rows=tuple(rows),
    )


def _count(number: int | None) -> Cell:
    return EMPTY if number is None else Cell(value=f"{number:,}")
