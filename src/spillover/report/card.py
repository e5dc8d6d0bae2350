"""The replication card: what the study claims, what this run decided of it, and by which numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from spillover.design import Decision, Published, Verdict
from spillover.records import Estimate
from spillover.report.measures import measure_name
from spillover.report.printed import SPACE, Cell, capital, cell, counted, interval, level, plural, value
from spillover.report.reading import Reading, versus
from spillover.report.tables import Row, Table
from spillover.statistics.contrasts import ONE_KIND

SYMBOLS: dict[Verdict, str] = {  # so that a verdict needs no colour
    "holds": "\N{CHECK MARK}", "fails": "\N{BALLOT X}", "undecided": "?", "untested": "\N{EN DASH}",
}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One claim: its words, its verdict, the contrasts behind it, and the small print."""

    text: str
    source: str
    verdict: Verdict
    symbol: str
    contrasts: tuple[str, ...]
    small_print: str


def entries(reading: Reading) -> list[Entry]:
    """Every claim of the study, in its order."""
    return [_entry(decision, reading) for decision in reading.decisions]


def note(reading: Reading) -> str:
    """How the verdicts were reached."""
    count = sum(decision.tested for decision in reading.decisions)
    if not count:
        return "Untested: the run lacks a condition or a measure of it."
    return (
        f"Holds: shown. Fails: the opposite was shown. Undecided: neither. Untested: the run lacks a condition or a measure of it. "
        f"By p-values over {reading.unit}s at 5{SPACE}%, corrected for "
        f"{'one claim' if count == 1 else f'{count} claims'} (Holm); that nothing differs is tested twice, against a difference of the margin on each side. "
        "The intervals are of each contrast alone, unadjusted."
    )


def published(numbers: Sequence[Published]) -> Table | None:
    """What others published, as context: another model's numbers are no row of this run."""
    if not numbers:
        return None
    rows = tuple(Row(label=number.text, remark=measure_name(number.measure), cells=(printed(number), Cell(value=number.source))) for number in numbers)
    return Table(
        caption="Published numbers, of other models.",
        head=("published", "value", "source"),
        rows=rows,
        note="These are context: they are of other models and other data, and no number, interval or verdict of this run has them in it.",
    )


def printed(number: Published) -> Cell:
    """A published number as it was printed there; its ends are an interval, a range or an error as its source has it."""
    row = Estimate(study="", measure=number.measure, value=number.value, low=number.low, high=number.high)
    return Cell(value=value(row), interval=interval(row))


def brief(row: Estimate, decision: Decision, reading: Reading) -> tuple[str, Cell]:
    """One contrast of a claim for a table of many studies: its name, and its value with what it rests on."""
    first, second = reading.pair(*_ends(row, decision))
    where = f" ({reading.group_label(first.group)})" if first.group and first.group == second.group else ""
    within = "" if decision.claim.margin is None else f", margin {value(_at(row, decision.claim.margin), difference=True).removeprefix('+')}"
    found = cell(row, difference=True, counts=False)
    notes = (f"{measure_name(row.measure)}{within}", ", ".join((plural(row.n_units, row.unit), *found.notes)))
    return f"{versus(first, second)}{where}", replace(found, notes=notes)


def _entry(decision: Decision, reading: Reading) -> Entry:
    return Entry(
        text=decision.claim.text, source=decision.claim.source, verdict=decision.verdict, symbol=SYMBOLS[decision.verdict],
        contrasts=tuple(_contrast(row, decision, reading) for row in decision.contrasts),
        small_print=f"{_p(decision) + _needed(decision, reading.unit) if decision.tested else capital(decision.reason)}.",
    )  # fmt: skip


def _contrast(row: Estimate, decision: Decision, reading: Reading) -> str:
    first, second = reading.pair(*_ends(row, decision))
    where = f" ({reading.group_label(first.group)})" if first.group and first.group == second.group else ""
    margin = decision.claim.margin
    within = "" if margin is None else f"; margin {value(_at(row, margin), difference=True).removeprefix('+')}"
    found = f"{value(row, difference=True)} {interval(row)}".strip()
    named = measure_name(row.measure)
    at = f", {level(row)} interval" if row.low is not None else ""
    rests = f". Over {reading.unit}s none was counted, or all: the bounds hold for {reading.unit}s of one kind alone" if ONE_KIND in row.method else ""
    return f"{versus(first, second)}{where}, {named}: {found}{at}{within}; {counted(row)}{rests}."


def _ends(row: Estimate, decision: Decision) -> tuple[str, str]:
    """Later and earlier condition of a contrast; names may hold the dash that joins them."""
    pairs = zip(decision.claim.conditions[1:], decision.claim.conditions[:-1], strict=True)
    return next((pair for pair in pairs if "-".join(pair) == row.contrast), (decision.claim.conditions[-1], decision.claim.conditions[0]))


def _at(row: Estimate, number: float) -> Estimate:
    return Estimate(study=row.study, contrast=row.contrast, measure=row.measure, value=number)


def _p(decision: Decision) -> str:
    holds, fails = (f"p{SPACE}{_shown(p)}" for p in (decision.p_holds, decision.p_fails))
    return {"holds": holds, "fails": f"for the opposite, {fails}"}.get(decision.verdict, f"{holds}; for the opposite, {fails}")


def _needed(decision: Decision, unit: str) -> str:
    if decision.verdict != "undecided":
        return ""
    if decision.reason:
        return f"; {decision.reason}"
    if decision.units_needed is None:
        return f"; no number of {unit}s is known to decide it"
    return f"; about {plural(decision.units_needed, unit)} would probably decide it (80{SPACE}% chance, were the truth what was seen)"


def _shown(p: float) -> str:
    return "< 0.0001" if p < 1e-4 else f"= {p:.2g}"
