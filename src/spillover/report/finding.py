"""The finding in words, computed from the estimates: what is shown, what is not, and by which number.

A sentence claims an effect only where an interval over units excludes zero. It never calls an interval that includes zero a proof of no
effect.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from spillover.records import PASSED, Estimate
from spillover.report.printed import SPACE, counted, interval, level, plural, reason, value
from spillover.report.reading import Arm, Compared, Reading

Outcome = Literal["raised", "lowered", "not shown", "undefined"]
QUANTITY = {"log_odds": "the log-odds of misaligned text", "misaligned_rate": "the misaligned rate"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One contrast in words: a heading, a sentence, and the small print with method and counts."""

    group: str
    contrast: str
    outcome: Outcome
    sentence: str
    small_print: str
    passed: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Findings:
    """The headline, the other contrasts of its group, and the control groups'."""

    headline: Finding | None
    others: tuple[Finding, ...]
    controls: tuple[Finding, ...]


def findings(reading: Reading) -> Findings:
    """The study says beforehand which contrasts are its headline; the first of them leads."""
    found = [_finding(contrast, reading) for group in reading.groups for contrast in sorted(reading.contrasts_of(group), key=lambda c: not c.headline)]
    study = [finding for finding in found if finding.group == ""]
    return Findings(
        headline=study[0] if study else None, others=tuple(study[1:]), controls=tuple(finding for finding in found if finding.group != "")
    )  # fmt: skip


def outcome(row: Estimate | None) -> Outcome:
    """What a difference shows: a direction only where its interval excludes zero."""
    if row is None or row.value is None:
        return "undefined"
    if row.low is None or row.high is None or row.low <= 0 <= row.high:
        return "not shown"
    return "raised" if row.low > 0 else "lowered"


def _finding(contrast: Compared, reading: Reading) -> Finding:
    group = contrast.first.group
    where = f"In the {reading.group_label(group)} {reading.unit}s (control group), " if group else ""
    for measure, quantity in QUANTITY.items():
        row = reading.headline(measure, condition=contrast.first.name, contrast=contrast.name)
        if row is not None and (row.value is not None or measure == "misaligned_rate"):
            every = all(all(parent["gates"].values()) for parent in reading.parents_of(group))
            passed = None if every else reading.headline(measure, condition=contrast.first.name, contrast=contrast.name, subset=PASSED)
            return Finding(
                group=group, contrast=contrast.label, outcome=outcome(row), sentence=_capital(where + _sentence(contrast, row, quantity)),
                small_print=_small_print(row), passed="" if passed is None or passed.value is None else _number(passed),
            )  # fmt: skip
    return Finding(
        group=group, contrast=contrast.label, outcome="undefined", small_print="",
        sentence=_capital(f"{where}no difference between {_arm(contrast.first)} and {_arm(contrast.second)} was estimated."),
    )  # fmt: skip


def _sentence(contrast: Compared, row: Estimate, quantity: str) -> str:
    first, second = _arm(contrast.first), _arm(contrast.second)
    if row.value is None:
        return f"whether {first} differs from {second} is undefined: {reason(row)}."
    if outcome(row) == "not shown":
        why = f"there is {row.method}" if row.low is None else f"the interval {interval(row)} includes 0"
        shown = "no effect is shown" + (", nor its absence" if row.low is None else "")
        return f"{shown}: {quantity} differs by {value(row, difference=True)} between {first} and {second}, and {why}."
    verb = "raises" if outcome(row) == "raised" else "lowers"
    behind = f"{level(row)} interval over {plural(row.n_units, row.unit)}"
    return f"{first} {verb} {quantity} against {second}: difference {_number(row)}, {behind}{_odds(row)}."


def _number(row: Estimate) -> str:
    """Value and interval; the sign stays, so that value and bounds read alike."""
    return f"{value(row, difference=True)} {interval(row)}".strip()


def _odds(row: Estimate) -> str:
    if row.measure != "log_odds" or row.value is None or row.low is None or row.high is None or max(abs(row.low), abs(row.high)) > 6:
        return ""
    times, low, high = (f"{math.exp(nats):.3g}" for nats in (row.value, row.low, row.high))
    return f"; the odds are multiplied by {times} (geometric mean) [{low},{SPACE}{high}]"


def _small_print(row: Estimate) -> str:
    interval_of = f"{level(row)} interval, {row.method}" if row.level is not None else row.method
    return f"Paired within each {row.unit}; mean over units. {_capital(interval_of)}; {counted(row)}."


def _arm(arm: Arm) -> str:
    return f"the {arm.label} as it was" if arm.kind is None else f"fine-tuning on {arm.label}{SPACE}data"


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
