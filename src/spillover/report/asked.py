"""Tables by question, by the format that dresses a question, by label and by training step."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from spillover.records import Estimate
from spillover.report.measures import measure_name
from spillover.report.printed import EMPTY, Cell, capital, cell, counted, interval, plural, reason, value
from spillover.report.reading import PLAIN, Arm, Compared, Reading, is_pooled
from spillover.report.tables import Row, Table, mean_over, of_group

SUBSET_NAMES = {"seen": "themes seen in post-training", "held_out": "themes held out of post-training"}
NOT_POOLED = "not in the pooled rate"


def formats(reading: Reading, measure: str) -> list[str]:
    """The formats that questions with this measure were asked in, plain first."""
    found = dict.fromkeys(question["format"] for question in reading.questions if _any(reading, measure, question))
    return sorted(found, key=lambda form: form != PLAIN)


def by_format(reading: Reading) -> list[Table]:
    """The pooled row of each format, and the differences; where there is more than one format."""
    found = formats(reading, "misaligned_rate")
    if len(found) < 2:
        return []
    arms = [arm for arm in reading.arms if reading.rows("misaligned_rate", condition=arm.name)]

    def difference(contrast: Compared, form: str) -> Cell:
        row = reading.headline("misaligned_rate", condition=contrast.first.name, contrast=contrast.name, format=_form(form))
        return cell(row, difference=True)

    rates = tuple(
        Row(label=form, remark=_asked_in(reading, form), cells=tuple(cell(pooled(reading, "misaligned_rate", arm, form)) for arm in arms)) for form in found
    )
    undressed = [contrast for contrast in reading.contrasts if not contrast.first.form and not contrast.second.form]  # the others have formats of their own
    differences = tuple(Row(label=form, cells=tuple(difference(contrast, form) for contrast in undressed)) for form in found)
    note, mean = "Each is the mean over its questions. The pooled rate is that of the plain ones.", mean_over(reading)
    tables = [
        Table(caption=f"Misaligned rate by format: {mean}.", head=("format", *(arm.label for arm in arms)), rows=rates, note=note),
        Table(caption=f"Differences by format: {mean}.", head=("format", *(contrast.label for contrast in undressed)), rows=differences),
    ]
    return [table for table in tables if _says(table)]


def by_question(reading: Reading, group: str, measure: str, form: str = PLAIN) -> Table | None:
    """Rows are questions of one format with those of one subset together, columns the conditions of one group."""
    arms = [arm for arm in reading.arms_of(group) if reading.rows(measure, condition=arm.name)]
    asked = [question for question in reading.questions if question["format"] == form and any(of_question(reading, measure, arm, question) for arm in arms)]
    if not asked:
        return None
    some = any(is_pooled(question) for question in asked)
    rows: list[Row] = []
    if form != PLAIN or some:
        among = sum(is_pooled(question) for question in asked) if form == PLAIN else len(asked)
        means = tuple(cell(pooled(reading, measure, arm, form)) for arm in arms)
        rows.append(Row(label="pooled", remark=f"the mean of {plural(among, 'question')}", cells=means, quiet=True))
    for subset in dict.fromkeys(question["subset"] for question in asked):
        if subset:
            rows.append(Row(label=subset_name(subset), section=True))
            if form == PLAIN:  # the subsets of other formats have no rows
                means = tuple(cell(reading.headline(measure, condition=arm.name, subset=subset)) for arm in arms)
                rows.append(Row(label="mean of these", cells=means, quiet=True))
        for question in (q for q in asked if q["subset"] == subset):
            cells = tuple(cell(of_question(reading, measure, arm, question)) for arm in arms)
            rows.append(Row(label=question["id"], remark=NOT_POOLED if some and not is_pooled(question) else "", cells=cells))
    dressed = "" if form == PLAIN else f", format {form}"
    table = Table(
        caption=f"{capital(measure_name(measure))} by question{dressed}{of_group(reading, group)}: {mean_over(reading)}.",
        head=("question", *(arm.label for arm in arms)),
        rows=tuple(rows),
    )
    return table if _says(table) else None


def labels(reading: Reading) -> list[Table]:
    """One table a rubric that is a choice among labels: the share of each label, by question."""
    rubrics = dict.fromkeys(rubric for question in reading.questions for rubric in question.get("labels", {}))
    return [table for rubric in rubrics if (table := _shares(reading, rubric)) is not None]


def _shares(reading: Reading, rubric: str) -> Table | None:
    arms = [arm for arm in reading.arms if any(of_question(reading, m, arm, q) for q in reading.questions for m in share_measures(q, rubric))]
    rows = [row for question in reading.questions if rubric in question.get("labels", {}) for row in _of_labels(reading, rubric, arms, question)]
    table = Table(
        caption=f"What the judge said of {rubric}, by question: the share of each label, {mean_over(reading)}.",
        head=("question and label", *(arm.label for arm in arms)),
        rows=tuple(rows),
        note="A share is of the answers that have a label; answers without one are missing, and counted.",
    )
    return table if arms and any(not cell.absent for row in rows if not row.quiet for cell in row.cells) else None


def _of_labels(reading: Reading, rubric: str, arms: list[Arm], question: Mapping[str, Any]) -> Iterator[Row]:
    """The labels of one question share their answers: what they rest on is said once."""
    found = [[of_question(reading, measure, arm, question) for arm in arms] for measure in share_measures(question, rubric)]
    yield Row(label=question_label(question), section=True)
    yield Row(label="answers", cells=tuple(map(_behind, found[0])), quiet=True)
    for label, shares in zip(question["labels"][rubric], found, strict=True):
        yield Row(label=label, cells=tuple(map(_share, shares)))


def _behind(row: Estimate | None) -> Cell:
    if row is None:
        return EMPTY
    return Cell(value=counted(row), notes=(reason(row),) if row.value is None else ())


def _share(row: Estimate | None) -> Cell:
    if row is None or row.value is None:
        return EMPTY if row is None else Cell(value="undefined", absent=True)
    return Cell(value=value(row), interval=interval(row), notes=("no interval: all equal",) if row.low is None and row.n_units > 1 else ())


def by_step(reading: Reading, measure: str) -> Table | None:
    """One row a step where several checkpoints of a run were read."""
    steps = sorted({row.step for rows in reading.estimates.values() for row in rows if row.step is not None and row.measure == measure})
    arms = [arm for arm in reading.arms if any(reading.rows(measure, condition=arm.name, step=step) for step in steps)]
    if not arms:
        return None
    rows = tuple(Row(label=f"step {step}", cells=tuple(cell(reading.headline(measure, condition=arm.name, step=step)) for arm in arms)) for step in steps)
    return Table(caption=f"{capital(measure_name(measure))} by training step.", head=("step", *(arm.name for arm in arms)), rows=rows)


def by_item(reading: Reading, group: str, measure: str) -> Table | None:
    """Rows are log-probability items. They are no questions of the run, though some are called as one; their numbers are found by the measure."""
    arms = [arm for arm in reading.arms_of(group) if reading.rows(measure, condition=arm.name)]
    there = [row for rows in reading.estimates.values() for row in rows if row.measure == measure and row.question and row.condition in {a.name for a in arms}]
    items = dict.fromkeys((row.question, row.format, row.subset) for row in there if not row.contrast)
    if not items:
        return None

    def cells(item: str, form: str, subset: str) -> Iterator[Cell]:
        return (cell(reading.headline(measure, condition=arm.name, question=item, format=form, subset=subset)) for arm in arms)

    rows = tuple(Row(label=item, cells=tuple(cells(item, form, subset))) for item, form, subset in items)
    caption = f"{capital(measure_name(measure))} by item{of_group(reading, group)}: {mean_over(reading)}."
    return Table(caption=caption, head=("item", *(arm.label for arm in arms)), rows=rows)


def undefined(reading: Reading) -> str:
    """What to say where no table by question has a number."""
    rows = [row for found in reading.estimates.values() for row in found if row.question and not row.contrast]
    if not rows:
        return "No number by question was estimated."
    reasons = Counter(map(reason, rows)).most_common()
    return f"Every number by question is undefined, in every condition{'' if len(reasons) == 1 else ', mostly'}: {reasons[0][0]}."


def _says(table: Table) -> bool:
    """Whether a table holds a number; one of undefined ones would say less than a sentence."""
    return any(not cell.absent for row in table.rows for cell in row.cells)


# --- places ---------------------------------------------------------------------------------------------------------------


def pooled(reading: Reading, measure: str, arm: Arm, form: str) -> Estimate | None:
    """The mean over a condition's questions of one format; of plain ones, those of the pooled rate."""
    return reading.headline(measure, condition=arm.name, format=_form(form))


def of_question(reading: Reading, measure: str, arm: Arm, question: Mapping[str, Any]) -> Estimate | None:
    return reading.headline(measure, condition=arm.name, question=question["id"], format=question["format"], subset=question["subset"])


def subset_name(subset: str) -> str:
    return SUBSET_NAMES.get(subset, subset)


def question_label(question: Mapping[str, Any]) -> str:
    return question["id"] if question["format"] == PLAIN else f"{question['id']} ({question['format']})"


def share_measures(question: Mapping[str, Any], rubric: str) -> list[str]:
    return [f"{rubric}={label}" for label in question.get("labels", {}).get(rubric, ())]


def _form(form: str) -> str:
    return "" if form == PLAIN else form


def _asked_in(reading: Reading, form: str) -> str:
    asked = [question for question in reading.questions if question["format"] == form and _any(reading, "misaligned_rate", question)]
    return plural(sum(map(is_pooled, asked)) if form == PLAIN else len(asked), "question")


def _any(reading: Reading, measure: str, question: Mapping[str, Any]) -> bool:
    return any(of_question(reading, measure, arm, question) is not None for arm in reading.arms)
