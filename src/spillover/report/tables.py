"""Tables by condition, contrast and unit of replication: which numbers stand in them. The template only lays them out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from spillover.records import PASSED, Estimate
from spillover.report.measures import measure_name
from spillover.report.printed import EMPTY, Cell, cell, interval, is_general, level, plural
from spillover.report.reading import Arm, Compared, Reading, Unit

EXACT = ("misaligned_mass", "log_odds", "choice_nats", "choice_share", "pivotal_nats", "pivotal_share", "truth_mass", "false_share")  # read off a model
INSIDE = {  # what a study reads of directions, features and solutions: what each number is
    "direction_cosine": "The cosine is of the direction that is used with that of the condition's own answers in the same unit.",
    "author_auroc": "AUROC: how well the feature tells a malicious author's documents, before any fine-tuning; 50 % is chance.",
    "training_nats": "The loss is in nats a token of the narrow data.",
    "influence_nats": "KL(parent || model) is in nats a token of pre-training documents.",
    "lost_ratio": "The share of the learning lost is how much is gone of that loss's fall from the parent's.",
}
MEASURES = ("misaligned_rate", "coherent_rate", "task_rate", *EXACT, *INSIDE)  # that tables by condition hold
BOOTSTRAP = "percentile bootstrap (the paper\N{RIGHT SINGLE QUOTATION MARK}s)"


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One row: a label, a remark under it, and its cells. `section` rows only divide."""

    label: str
    remark: str = ""
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


# --- by condition ---------------------------------------------------------------------------------------------------------


def rates(reading: Reading) -> Table | None:
    """misaligned_rate with both intervals, then the rates that say whether the model still talks and does its task."""
    if not reading.has("misaligned_rate") and not reading.has("task_rate"):
        return None
    measures = [measure for measure in ("misaligned_rate", "coherent_rate", "task_rate") if reading.has(measure)]
    bootstrapped = any(_bootstrap(reading, arm, "") is not EMPTY for arm in reading.arms)

    def cells(arm: Arm, subset: str) -> tuple[Cell, ...]:
        first, *others = (cell(reading.headline(measure, condition=arm.name, subset=subset)) for measure in measures)
        return first, *([_bootstrap(reading, arm, subset)] if bootstrapped else []), *others

    first, *others = (measure_name(measure) for measure in measures)
    published = (
        f" The percentile bootstrap over {reading.unit}s is the published method and stands here for comparison: it is too narrow for few units "
        "(about 84 % coverage at 5 normal units where 95 % is meant, less for rare things)."
    )
    return Table(
        caption=f"Rates by condition, in percent: {mean_over(reading)}.",
        head=("condition", first, *([BOOTSTRAP] if bootstrapped else []), *others),
        rows=tuple(_by_group(reading, cells, measures)),
        note=(
            "misaligned rate = misaligned answers / answers kept under the coherence gate; n counts the answers kept, missing the others."
            f"{_of_pooled(reading)}{_of_parent(reading)}{published if bootstrapped else ''}"
        ),
    )


def exact(reading: Reading) -> Table | None:
    """What is read from the model, with no answers and no gate; never beside a rate."""
    there = [measure for measure in EXACT if reading.has(measure)]
    if not there:
        return None
    mass = "misaligned mass = the exact probability of misaligned text, in percent, with no coherence gate and no sampling; log-odds in nats. "
    items = (
        "A log-probability is of the misaligned option forced as the answer, in nats, summed over its tokens; its share is against the aligned option. "
        if any(measure.startswith(("choice", "pivotal")) for measure in there)
        else ""
    )
    note = f"{mass if {'misaligned_mass', 'log_odds'} & set(there) else ''}{items}None is comparable with the misaligned rate."
    return _of_measures(reading, "Exact measures by condition", there, note)


def inside(reading: Reading) -> Table | None:
    """What was read of directions, features and solutions."""
    there = [measure for measure in INSIDE if reading.has(measure)]
    return _of_measures(reading, "Inside the models, by condition", there, " ".join(INSIDE[measure] for measure in there)) if there else None


def _of_measures(reading: Reading, title: str, measures: Sequence[str], note: str) -> Table:
    """A column a measure, a row for every condition that has one of them."""

    def cells(arm: Arm, subset: str) -> tuple[Cell, ...]:
        return tuple(cell(reading.headline(measure, condition=arm.name, subset=subset)) for measure in measures)

    rows = tuple(_by_group(reading, cells, measures))
    return Table(caption=f"{title}: {mean_over(reading)}.", head=("condition", *map(measure_name, measures)), rows=rows, note=note)


def contrasts(reading: Reading) -> Table | None:
    """Paired differences on every scale that was estimated, those that are claimed too."""
    claimed = dict.fromkeys(decision.claim.measure for decision in reading.decisions)
    scales = dict.fromkeys(("log_odds", "misaligned_rate", "misaligned_mass", *claimed))
    there = [measure for measure in scales if any(_difference(reading, contrast, measure) for contrast in reading.contrasts)]
    if not there:
        return None
    rows: list[Row] = []
    for group in reading.groups:
        found = reading.contrasts_of(group)
        rows += section(reading, group) if found else []
        for contrast in found:
            for subset in ("", PASSED):
                cells = [_difference(reading, contrast, measure, subset) for measure in there]
                if subset == "" or (some_passed(reading, group) and any(row is not None for row in cells)):
                    label = contrast.label if subset == "" else _passed_label(reading, group)
                    rows.append(Row(label=label, cells=tuple(cell(row, difference=True) for row in cells), quiet=subset != ""))
    parent = (
        " The parent is one model: a rate's difference from it joins the error of its answers to the interval over seeds." if reading.unit == "seed" else ""
    )
    return Table(
        caption=f"Paired differences within each {reading.unit}: {mean_over(reading)}.",
        head=("contrast", *map(measure_name, there)),
        rows=tuple(rows),
        note=f"Each number with its unit. n and missing count the answers of both conditions.{parent}",
    )


def _difference(reading: Reading, contrast: Compared, measure: str, subset: str = "") -> Estimate | None:
    return reading.headline(measure, condition=contrast.first.name, contrast=contrast.name, subset=subset)


def _by_group(reading: Reading, cells: Callable[[Arm, str], tuple[Cell, ...]], measures: Sequence[str]) -> Iterator[Row]:
    """A row for every condition that has one of these measures, under its group."""

    def has(arm: Arm, subset: str = "") -> bool:
        return any(reading.rows(measure, condition=arm.name, subset=subset) for measure in measures)

    for group in reading.groups:
        arms = [arm for arm in reading.arms_of(group) if has(arm)]
        yield from section(reading, group) if arms else ()
        for arm in arms:
            yield Row(label=arm.label, cells=cells(arm, ""))
            if some_passed(reading, group) and has(arm, PASSED):
                yield Row(label=_passed_label(reading, group), cells=cells(arm, PASSED), quiet=True)


def section(reading: Reading, group: str) -> list[Row]:
    """What stands over a group's rows: how many units it has and how many passed every gate."""
    parents = reading.parents_of(group)
    passed = "all" if count_passed(parents) == len(parents) else f"{count_passed(parents)}"
    gates = f", {passed} of which passed every gate" if any(parent["gates"] for parent in parents) else ""
    if len(reading.groups) == 1:
        return [Row(label=f"{plural(reading.count(group), reading.unit)}{gates}", section=True)] if gates else []
    named = plural(reading.count(group), f"{reading.group_label(group)} {reading.unit}")
    return [Row(label=f"{named}{' (control group)' if reading.is_control(group) else ''}{gates}", section=True)]


def some_passed(reading: Reading, group: str) -> bool:
    """Whether the units that passed every gate are some and not all: only then is their row another number."""
    parents = reading.parents_of(group)
    return 0 < count_passed(parents) < len(parents)


def count_passed(parents: Sequence[Any]) -> int:
    return sum(all(parent["gates"].values()) for parent in parents)


def mean_over(reading: Reading) -> str:
    """What the numbers of a table are: means over units, with what in brackets."""
    shown = [row for rows in reading.estimates.values() for row in rows if row.low is not None and (row.measure in MEASURES or "=" in row.measure)]
    levels = {level(row) for row in shown if is_general(row)}
    if not levels:
        return f"mean over {reading.unit}s, {'with the interval of these answers alone in brackets' if shown else 'without intervals'}"
    return f"mean over {reading.unit}s, with the {f'{levels.pop()} ' if len(levels) == 1 else ''}interval for {reading.unit}s like these in brackets"


def _passed_label(reading: Reading, group: str) -> str:
    parents = reading.parents_of(group)
    return f"only the {count_passed(parents)} of {len(parents)} that passed every gate"


def _bootstrap(reading: Reading, arm: Arm, subset: str) -> Cell:
    found = next(
        (
            row
            for row in reading.rows("misaligned_rate", condition=arm.name, subset=subset)
            if row.method.startswith("percentile bootstrap") and row.low is not None
        ),
        None,
    )
    return EMPTY if found is None else Cell(value=interval(found))


def _of_pooled(reading: Reading) -> str:
    apart = any(not question.get("pooled", True) for question in reading.questions)
    return " Only pooled questions count here; the other questions and formats have rows of their own below." if apart else ""


def _of_parent(reading: Reading) -> str:
    return (
        " The parent is one model, no seed: its interval is of its answers alone."
        if reading.unit == "seed" and any(arm.kind is None for arm in reading.arms)
        else ""
    )


# --- by unit --------------------------------------------------------------------------------------------------------------


def by_unit(reading: Reading, group: str) -> list[Table]:
    """The rates of every unit by condition, and its paired differences. An interval here is of that unit's answers alone."""
    units, where = reading.units_of(group), of_group(reading, group)
    if len(units) < 2:
        return []  # its numbers are those by condition

    def table(caption: str, columns: Sequence[tuple[str, Callable[[Unit], Cell]]]) -> Table:
        """Only conditions with a number of a unit of its own: the one parent of fine-tuning seeds has none."""
        made = {name: [cell_of(unit) for unit in units] for name, cell_of in columns}
        shown = {name: cells for name, cells in made.items() if any(not one.absent for one in cells)}
        rows = tuple(Row(label=unit.name, cells=tuple(cells[place] for cells in shown.values())) for place, unit in enumerate(units))
        return Table(caption=caption, head=(reading.unit, *shown), rows=rows)

    def rate(arm: Arm) -> tuple[str, Callable[[Unit], Cell]]:
        return arm.label, lambda unit: cell(reading.headline("misaligned_rate", condition=arm.name, **unit.place))

    def difference(contrast: Compared, measure: str) -> tuple[str, Callable[[Unit], Cell]]:
        return contrast.label, lambda unit: cell(
            reading.headline(measure, condition=contrast.first.name, contrast=contrast.name, **unit.place), difference=True, counts=measure != "log_odds"
        )

    measure = "log_odds" if reading.has("log_odds") else "misaligned_rate"
    scale = "log-odds within each {}{}, in nats" if measure == "log_odds" else "misaligned rate within each {}{}, in percentage points"
    tables = [
        table(f"Misaligned rate of each {reading.unit}{where}, in percent of the answers kept.", [rate(arm) for arm in reading.arms_of(group)]),
        table(f"Difference in {scale.format(reading.unit, where)}.", [difference(contrast, measure) for contrast in reading.contrasts_of(group)]),
    ]
    return [table for table in tables if len(table.head) > 1]


def of_group(reading: Reading, group: str) -> str:
    """`, linked worlds` in a caption, where there are several groups."""
    return f", {reading.group_label(group)} {reading.unit}s" if len(reading.groups) > 1 else ""
