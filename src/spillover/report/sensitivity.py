"""What the misaligned rate would be by other choices: another protocol, no coherence gate, another estimand. Beside the headline, never instead of it."""

from __future__ import annotations

from spillover.records import Estimate
from spillover.report.printed import EMPTY, Cell, cell, interval, value
from spillover.report.reading import Arm, Reading
from spillover.report.tables import Row, Table, section
from spillover.statistics.protocols import PROTOCOLS

GATED = {
    "misaligned_without_gate": "of all that are scored, coherent or not", "misaligned_at_least": "of all answers, at least",
    "misaligned_at_most": "of all answers, at most",
}  # fmt: skip


def protocols(reading: Reading) -> Table | None:
    """The pooled rate and its contrasts as every named protocol counts them."""
    others = list(dict.fromkeys(row.protocol for row in reading.under))
    if not others or not _is_defined(reading):
        return None

    def under(name: str, arm: Arm, contrast: str) -> Estimate | None:
        return next((row for row in reading.under if (row.protocol, row.condition, row.contrast) == (name, arm.name, contrast)), None)

    def cells(arm: Arm, contrast: str) -> tuple[Cell, ...]:
        rows = [reading.headline("misaligned_rate", condition=arm.name, contrast=contrast), *(under(name, arm, contrast) for name in others)]
        return tuple(cell(row, difference=contrast != "") for row in rows)

    rows: list[Row] = []
    for group in reading.groups:
        rows += section(reading, group)
        rows += [Row(label=arm.label, cells=cells(arm, "")) for arm in reading.arms_of(group)]
        rows += [Row(label=contrast.label, cells=cells(contrast.first, contrast.name)) for contrast in reading.contrasts_of(group)]
    known = [PROTOCOLS[name] for name in others if name in PROTOCOLS]
    gates = "; ".join(f"{p.name}: kept if coherence is {p.gate}, misaligned if alignment is below {p.aligned_below:g}" for p in known)
    return Table(
        caption="The misaligned rate under other protocols, and its differences in percentage points.",
        head=("", f"{reading.protocol.name} (this report)", *others),
        rows=tuple(rows),
        note=f"{gates}{'. ' if gates else ''}Everything else in this report is by {reading.protocol.name}.",
    )


def gate(reading: Reading) -> Table | None:
    """The rate beside what the coherence gate may have hidden. Where no answer has both scores there is nothing to say."""
    if not _is_defined(reading, "misaligned_without_gate"):
        return None

    def cells(arm: Arm) -> tuple[Cell, ...]:
        rate = reading.headline("misaligned_rate", condition=arm.name)
        return cell(rate), *(cell(reading.headline(measure, condition=arm.name), counts=False) for measure in GATED)

    rows: list[Row] = []
    for group in reading.groups:
        rows += [*section(reading, group), *(Row(label=arm.label, cells=cells(arm)) for arm in reading.arms_of(group))]
    return Table(
        caption="What the coherence gate does to the misaligned rate, in percent.",
        head=("condition", "of those kept (the rate)", *GATED.values()),
        rows=tuple(rows),
        note=(
            "At least: no answer that the gate removed, or that has no score, was misaligned. At most: all of them were. Where the two are far apart, the rate "
            "says little of the answers that are not in it. The rate is over questions with enough answers kept, these three over all."
        ),
    )


def estimands(reading: Reading) -> Table | None:
    """The same rate with the intervals of four estimands."""
    there = {_scopes(row) for arm in reading.arms for row in reading.rows("misaligned_rate", condition=arm.name) if row.low is not None and _is_ours(row)}
    named = [scopes for scopes in ((True, False), (False, False), (False, True), (True, True)) if scopes in there]  # units, questions: like these?
    if len(named) < 2:
        return None

    def of(arm: Arm, scopes: tuple[bool, bool]) -> Cell:
        rows = reading.rows("misaligned_rate", condition=arm.name)
        row = next((row for row in rows if row.low is not None and _scopes(row) == scopes and _is_ours(row)), None)
        return EMPTY if row is None else Cell(value=value(row), interval=interval(row))

    def title(scopes: tuple[bool, bool]) -> str:
        units, questions = (f"{noun}s like these" if like else f"these {noun}s" for noun, like in zip((reading.unit, "question"), scopes, strict=True))
        return f"{units}, {questions}"

    rows: list[Row] = []
    for group in reading.groups:
        rows += section(reading, group)
        rows += [Row(label=arm.label, cells=tuple(of(arm, scopes) for scopes in named)) for arm in reading.arms_of(group)]
    return Table(
        caption="The misaligned rate, with the interval for what it is to speak for, in percent.",
        head=("condition", *map(title, named)),
        rows=tuple(rows),
        note=f"{'The first is the headline. ' if named[0] == (True, False) else ''}An interval for questions like these takes those "
        "asked as drawn at random from such questions.",
    )


def _scopes(row: Estimate) -> tuple[bool, bool]:
    """Whether an interval is for units like these, and for questions like these."""
    units, _, questions = row.estimand.partition(", ")
    return not units.startswith("th"), not questions.startswith("th")


def _is_defined(reading: Reading, measure: str = "misaligned_rate") -> bool:
    """Whether any condition has a number of this measure."""
    rates = (reading.headline(measure, condition=arm.name) for arm in reading.arms)
    return any(rate is not None and rate.value is not None for rate in rates)


def _is_ours(row: Estimate) -> bool:
    return not row.method.startswith("percentile bootstrap")
