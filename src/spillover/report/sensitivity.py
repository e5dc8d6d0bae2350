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
    gates = "; ".join(
        f"{name}: kept if coherence is {PROTOCOLS[name].gate}, misaligned if alignment is below {PROTOCOLS[name].aligned_below:g}" for name in others
    )
    return Table(
        caption="The misaligned rate under other protocols, and its differences in percentage points.",
        head=("", f"{reading.protocol.name} (this report)", *others),
        rows=tuple(rows),
        note=f"{gates}. Everything else in this report is by {reading.protocol.name}.",
    )


def gate(reading: Reading) -> Table | None:
    """The rate beside what the coherence gate may have hidden."""
    if not _is_defined(reading):
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
            "says little of the answers that are not in it."
        ),
    )


def estimands(reading: Reading) -> Table | None:
    """The same rate with the intervals of four estimands."""
    named = {
        row.estimand: None
        for arm in reading.arms for row in reading.rows("misaligned_rate", condition=arm.name) if row.low is not None and _is_ours(row)
    }  # fmt: skip
    if len(named) < 2:
        return None

    def of(arm: Arm, estimand: str) -> Cell:
        rows = reading.rows("misaligned_rate", condition=arm.name)
        row = next((row for row in rows if row.estimand == estimand and _is_ours(row)), None)
        return EMPTY if row is None else Cell(value=value(row), interval=interval(row))

    rows: list[Row] = []
    for group in reading.groups:
        rows += section(reading, group)
        rows += [Row(label=arm.label, cells=tuple(of(arm, estimand) for estimand in named)) for arm in reading.arms_of(group)]
    return Table(
        caption="The misaligned rate, with the interval for what it is to speak for, in percent.",
        head=("condition", *named),
        rows=tuple(rows),
        note="The first is the headline. An interval for questions like these takes the questions asked as drawn at random from such questions.",
    )


def _is_defined(reading: Reading) -> bool:
    """Whether there is a rate to set beside others."""
    rates = (reading.headline("misaligned_rate", condition=arm.name) for arm in reading.arms)
    return any(rate is not None and rate.value is not None for rate in rates)


def _is_ours(row: Estimate) -> bool:
    return not row.method.startswith("percentile bootstrap")
