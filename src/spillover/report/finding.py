"""The finding in words, computed from the estimates: what is shown, what is not, and by which number.

A sentence claims an effect only where an interval over units excludes zero. It never calls an interval that includes zero a proof of no
effect. Where a number is undefined it says how many answers had a score, and why the others had none.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from spillover.records import PASSED, Estimate
from spillover.report.judgements import TOO_FEW
from spillover.report.measures import measure_name
from spillover.report.printed import SPACE, capital, counted, interval, is_general, level, plural, reason, value
from spillover.report.reading import Arm, Compared, Reading, format_name

Outcome = Literal["raised", "lowered", "not shown", "undefined"]


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
    """The headline, the other contrasts that the study is about, and the control groups'."""

    headline: Finding | None
    others: tuple[Finding, ...]
    controls: tuple[Finding, ...]


def findings(reading: Reading) -> Findings:
    """The study says beforehand which contrasts are its headline; the first of them leads."""
    ours = sorted((c for c in reading.contrasts if not reading.is_control(c.first.group)), key=lambda c: not c.headline)
    found = [_finding(contrast, reading) for contrast in ours]
    controls = [c for group in reading.groups if reading.is_control(group) for c in sorted(reading.contrasts_of(group), key=lambda c: not c.headline)]
    return Findings(headline=found[0] if found else None, others=tuple(found[1:]), controls=tuple(_finding(contrast, reading) for contrast in controls))


def outcome(row: Estimate | None) -> Outcome:
    """What a difference shows: a direction only where its interval excludes zero."""
    if row is None or row.value is None:
        return "undefined"
    if row.low is None or row.high is None or not is_general(row) or row.low <= 0 <= row.high:
        return "not shown"
    return "raised" if row.low > 0 else "lowered"


def _finding(contrast: Compared, reading: Reading) -> Finding:
    group, measure = contrast.first.group, reading.measure_of(contrast)
    control = " (control group)" if reading.is_control(group) else ""
    where = f"In the {reading.group_label(group)} {reading.unit}s{control}, " if group and not contrast.crosses else ""
    place = {"condition": contrast.first.name, "contrast": contrast.name}
    row = reading.headline(measure, **place)
    if row is None or row.value is None:
        return Finding(group=group, contrast=contrast.label, outcome="undefined", sentence=capital(where + _undefined(contrast, row, reading)), small_print="")
    every = all(all(parent["gates"].values()) for parent in reading.parents_of(group))
    passed = None if every else reading.headline(row.measure, **place, subset=PASSED)
    sentence = _sentence(contrast, row, reading)
    return Finding(
        group=group, contrast=contrast.label, outcome=outcome(row), sentence=capital(where + sentence), small_print=_small_print(row),
        passed="" if passed is None or passed.value is None else _number(passed),
    )  # fmt: skip


def _sentence(contrast: Compared, row: Estimate, reading: Reading) -> str:
    first, second = _arms(contrast, reading)
    units = reading.count(contrast.first.group)
    quantity = "the log-odds of misaligned text" if row.measure == "log_odds" else f"the {measure_name(row.measure)}"
    if outcome(row) == "not shown":
        shown = "no effect is shown" + ("" if is_general(row) else ", nor its absence")
        why = f"the interval {interval(row)} includes 0" if is_general(row) else _no_interval(row, units)
        return f"{shown}: {quantity} differs by {value(row, difference=True)} between {first} and {second}, and {why}."
    verb = "raises" if outcome(row) == "raised" else "lowers"
    behind = f"{level(row)} interval over {plural(row.n_units, row.unit)}"
    return f"{first} {verb} {quantity} against {second}: difference {_number(row)}, {behind}{_odds(row)}."


def _no_interval(row: Estimate, units: int) -> str:
    """Why a difference has none, and what would give it one."""
    if row.n_units > 1:
        return f"the {plural(row.n_units, row.unit)} are all equal, which gives no interval"
    if units > 1:
        return f"only 1 of {plural(units, row.unit)} has a value on both sides: one {row.unit} says nothing of {row.unit}s like it"
    return f"one {row.unit} says nothing of {row.unit}s like it. More {row.unit}s are needed"


def _undefined(contrast: Compared, row: Estimate | None, reading: Reading) -> str:
    """Which side has no rate: how many of its answers have a score, and what the others lack one for."""
    first, second = _arms(contrast, reading)
    if row is not None and row.measure != "misaligned_rate":
        return f"whether {first} differs from {second} in the {measure_name(row.measure)} is undefined: {reason(row)}."
    if not reading.has("misaligned_rate"):
        instead = " What the judge said instead is below, by question." if any(question.get("labels") for question in reading.questions) else ""
        return f"nothing is said of {contrast.label}: no question of this run is scored for alignment and coherence.{instead}"
    rates = {arm: reading.headline("misaligned_rate", condition=arm.name, format=arm.form) for arm in (contrast.first, contrast.second)}
    by_reason: dict[str, list[str]] = {}
    for arm in (arm for arm, rate in rates.items() if rate is None or rate.value is None):
        side, why = _side(arm, reading)
        by_reason.setdefault(why, []).append(side)
    counts = {arm: reading.counts(arm.name, "rate", pooled=True, form=arm.form) for arm in rates}
    kept = " and ".join(f"{count.kept:,} of {count.drawn:,} of {arm.title}" for arm, count in counts.items())
    why = "; ".join(" and ".join(sides) + why for why, sides in by_reason.items()) or f"no question has a rate on both sides (answers kept: {kept})"
    return f"whether {first} differs from {second} is undefined: {why}."


def _side(arm: Arm, reading: Reading) -> tuple[str, str]:
    """How many answers of a condition without a rate were scored and kept of how many, and why the others were not."""
    found = reading.counts(arm.name, "rate", pooled=True, form=arm.form)
    if not found.drawn:
        return f"no answer of {arm.title} is to a question of the pooled rate", ""
    reasons = [(reason, count) for reason, count in found.reasons.most_common() if reason != TOO_FEW]
    side = f"{found.scored:,} of {found.drawn:,} answers of {arm.title}"
    most = "" if len(reasons) == 1 else "most often "
    why = f" have a score ({most}missing: {reasons[0][0]})" if reasons else " have a score"
    return side, why if not found.passed else f"{why} and {found.passed:,} were kept: too few on every question"


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
    return f"Paired within each {row.unit}; mean over {row.unit}s. {capital(interval_of)}; {counted(row)}."


def _arms(contrast: Compared, reading: Reading) -> tuple[str, str]:
    return _arm(contrast.first, contrast, reading), _arm(contrast.second, contrast, reading)


def _arm(arm: Arm, contrast: Compared, reading: Reading) -> str:
    asked = f" (asked as {format_name(arm.form)})" if arm.form else ""
    own = arm.name.removeprefix(f"{arm.group}-") if contrast.crosses else arm.label
    parents = f" {reading.group_label(arm.group)} parents" if contrast.crosses else ""
    if arm.altered:
        return f"{own} (altered while it answers){asked}"
    if arm.kind is None:
        return f"the {reading.group_label(arm.group)} {own} as it was{asked}" if contrast.crosses else f"the {own} as it was{asked}"
    return f"fine-tuning{parents} on {own}{SPACE}data{asked}"
