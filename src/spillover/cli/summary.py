"""What a run found, in lines for a terminal: each number with its interval, how many it rests on, what is missing and why."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from spillover.design import Decision
from spillover.records import PASSED, Estimate
from spillover.report.measures import axis_of, measure_name, unit_of
from spillover.report.printed import calibrated

if TYPE_CHECKING:
    from spillover.runs.directory import RunDirectory

RATES = ("misaligned_rate", "coherent_rate")
MOST_NAMES = 3  # that a line lists


def summary(run: RunDirectory, estimates: Sequence[Estimate], decisions: Sequence[Decision]) -> Iterator[str]:
    """One line a condition and format, one a share of a label, one a contrast, two a claim; by the run's own protocol. `estimates` may be another judge's
    than those that the run holds.
    """
    from spillover.report import reading

    estimates = [e for e in estimates if e.protocol == estimates[0].protocol]
    whole = [e for e in estimates if e.headline and not e.question and not e.subset and e.world is None and e.seed is None and e.step is None]
    unit = next((e.unit for e in whole if e.unit != "model"), "model")
    rows = {(e.condition, e.format, e.measure): e for e in whole if not e.contrast}
    places = list(dict.fromkeys((condition, form) for condition, form, measure in rows if measure in RATES))
    width = max([20, *(len(_name(*place)) for place in places)]) + 2
    if places:
        yield f"{'condition':<{width}}{'misaligned rate':<28}{'coherent rate':<26}{f'{unit}s':>7}{'kept':>8}{'missing':>9}"
    for condition, form in places:
        rate, coherent = (rows.get((condition, form, measure)) for measure in RATES)
        if rate is not None:
            yield f"{_name(condition, form):<{width}}{_percent(rate):<28}{_percent(coherent):<26}{rate.n_units:>7}{rate.n:>8}{rate.n_missing:>9}"
    if any(e.low is not None for e in whole):
        yield f"intervals: 95 %, for {unit}s like these; * of these answers alone, for one {unit} or model, or where none or all were counted"
    if places:
        judge = next(e.judge for e in whole if e.measure in RATES)
        yield f"rates are by the judge {judge}, {calibrated(reading.calibration(run, judge))}"
    yield from _undefined([e for e in whole if not e.contrast and e.measure == "misaligned_rate" and e.value is None])
    yield from _shares(estimates, width, unit)
    yield from _differences(estimates, unit)
    yield from _card(decisions, unit)


def _shares(estimates: Sequence[Estimate], width: int, unit: str) -> Iterator[str]:
    """Shares of labels, question by question."""
    rows = [e for e in estimates if "=" in e.measure and e.headline and e.question and not e.contrast and e.world is None and e.seed is None and e.step is None]
    if rows:
        yield f"{'condition':<{width}}{'question':<40}{'label':<24}{'share':<26}{f'{unit}s':>7}{'labelled':>10}{'missing':>9}"
    for e in rows:
        question = f"{e.question}, {e.format}" if e.format != "plain" else e.question
        yield f"{e.condition:<{width}}{question:<40}{e.measure:<24}{_percent(e):<26}{e.n_units:>7}{e.n:>10}{e.n_missing:>9}"


def _undefined(rows: Sequence[Estimate]) -> Iterator[str]:
    """Why numbers are undefined, each reason once with the rows it is true of."""
    places: dict[str, list[Estimate]] = {}
    for e in rows:
        places.setdefault(e.method.removeprefix("undefined: "), []).append(e)
    for reason, found in places.items():
        names = [_name(e.contrast or e.condition, e.format) for e in found]
        shown = "; ".join(names) if len(names) <= MOST_NAMES else f"{len(names)} rows"
        kept, missing = sum(e.n for e in found), sum(e.n_missing for e in found)
        yield f"undefined ({shown}): {reason}; {kept} answers kept, {missing} missing"


def _differences(estimates: Sequence[Estimate], unit: str) -> Iterator[str]:
    """Differences in log-odds where they were read off the models, else in rate."""
    measure = "log_odds" if any(e.contrast and e.measure == "log_odds" for e in estimates) else "misaligned_rate"
    wanted = [e for e in estimates if e.contrast and e.measure == measure and e.headline and e.world is None and e.seed is None and not e.question]
    if not wanted:
        return
    exact = "log-odds of misaligned against aligned answers (exact)" if measure == "log_odds" else "misaligned rate, in points"
    yield f"{exact}, difference within each {unit}:"
    width = max(36, *(len(_name(e.contrast, e.format)) + 2 for e in wanted))
    everywhere = {(e.contrast, e.format): e.n_units for e in wanted if not e.subset}
    yield from _undefined([e for e in wanted if e.value is None and not e.subset])
    for e in (e for e in wanted if e.value is not None):
        if not e.subset or (e.subset == PASSED and 0 < e.n_units < everywhere[e.contrast, e.format]):
            note = (f" ({e.method})" if e.low is None else "") + (", those that passed every gate" if e.subset else "")
            yield f"  {_name(e.contrast, e.format):<{width}}{_shown(e):<30}{e.n_units} {unit}{'' if e.n_units == 1 else 's'}{note}"


def _card(decisions: Sequence[Decision], unit: str) -> Iterator[str]:
    """The study's claims with their verdicts."""
    tested = sum(decision.tested for decision in decisions)
    if decisions:
        yield f"claims, decided at 5 % over the {tested} tested (Holm); intervals 95 %, unadjusted:" if tested else "claims, none of them tested:"
    for decision in decisions:
        margin = decision.claim.margin
        yield f"  {decision.verdict:<10}{decision.claim.text}" + ("" if decision.tested else f": {decision.reason}")
        for row in decision.contrasts:
            within = "" if margin is None else f", margin {_scaled(margin, row.measure)}"
            found = "undefined" if row.value is None else _shown(row)
            yield f"  {'':<10}{row.contrast} {measure_name(row.measure)} {found}{within}; {_p(decision)}{_needed(decision, unit)}"


def _p(decision: Decision) -> str:
    """The p-value behind a verdict, and both where there is none."""
    holds, fails = (f"{p:.2g}" if p >= 1e-4 else "< 0.0001" for p in (decision.p_holds, decision.p_fails))
    return {"holds": f"p {holds}", "fails": f"p of the opposite {fails}"}.get(decision.verdict, f"p {holds}, of the opposite {fails}")


def _needed(decision: Decision, unit: str) -> str:
    if decision.verdict != "undecided":
        return ""
    if decision.reason:
        return f"; {decision.reason}"
    return f"; about {decision.units_needed} {unit}s would probably decide it" if decision.units_needed else f"; no number of {unit}s is known to decide it"


def _name(condition: str, form: str) -> str:
    return f"{condition}, {form}" if form else condition


def _shown(e: Estimate) -> str:
    assert e.value is not None
    scale, _, digits = _scale(e.measure)
    interval = "" if e.low is None or e.high is None else f" [{scale * e.low:+.{digits}f}, {scale * e.high:+.{digits}f}]{_alone(e)}"
    return f"{_scaled(e.value, e.measure, '+')}{interval}"


def _scale(measure: str) -> tuple[float, str, int]:
    unit, scale = axis_of(measure, difference=True)
    return scale, unit, 1 if unit_of(measure) in ("share", "score") else 2


def _scaled(number: float, measure: str, sign: str = "") -> str:
    scale, noun, digits = _scale(measure)
    return f"{scale * number:{sign}.{digits}f} {noun}"


def _alone(e: Estimate) -> str:
    """A star where an interval speaks for these units' answers alone."""
    return "*" if e.estimand.startswith("th") else ""


def _percent(estimate: Estimate | None) -> str:
    if estimate is None or estimate.value is None:
        return "undefined"
    if estimate.low is None or estimate.high is None:
        return f"{100 * estimate.value:.1f} % (no interval)"
    return f"{100 * estimate.value:.1f} % [{100 * estimate.low:.1f}, {100 * estimate.high:.1f}]{_alone(estimate)}"
