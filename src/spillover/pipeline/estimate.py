"""The last step of the road: cells to estimates and decided claims, read from the run directory alone.

A unit's value is the mean over its questions (those whose value is defined) of the mean over its seeds; an estimate is the mean
over units. Differences are taken within a unit. Where the units are fine-tuning seeds of one parent, that parent is one model: its interval is of its
answers alone, and it stands beside every seed in a difference. Estimates are in a fixed order, so the same rows give the same
bytes.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from pydantic import TypeAdapter

from spillover.design import Claim, Decision
from spillover.design import side as side_of
from spillover.pipeline.cells import (
    SHARED,
    Cell,
    UnitDifference,
    UnitValue,
    by_question,
    chosen_judge,
    measured_cells,
    read_scores,
    scored_cells,
    unit_differences,
    unit_values,
)  # fmt: skip
from spillover.records import DIVERGENCE, MEAN, PASSED, Estimate
from spillover.runs.directory import RunDirectory
from spillover.statistics import contrasts
from spillover.statistics.claims import SAME_NATS, SAME_RATE, decide, untested
from spillover.statistics.contrasts import Difference
from spillover.statistics.dynamics import divergence_step
from spillover.statistics.intervals import Interval, over_units, percentile_bootstrap, student_t
from spillover.statistics.nested import Scope, over_cells
from spillover.statistics.protocols import PROTOCOLS, Protocol

RATES = ("misaligned_rate", "coherent_rate", "task_rate")
GATED = ("misaligned_without_gate", "misaligned_at_least", "misaligned_at_most")  # what the coherence gate does; one row a condition
NATS = ("log_odds", "choice_nats", "pivotal_nats")  # measures in nats
NUMBERS = ("_nats", "_cosine", "_ratio")  # what the names of measures that are no share end with, beside log-odds
SHARES = ("misaligned_mass", "false_share", "choice_share", "pivotal_share", "author_auroc")  # exact shares, with no answers behind them
MEASURES = (*RATES, "misaligned_mass", "log_odds", *NATS[1:], *SHARES[1:], *GATED)  # in the order of their rows; then shares of labels, `correct=FALSE`
CONTRASTED = ("log_odds", "misaligned_rate", "misaligned_mass", "task_rate", *NATS[1:], *SHARES[1:])  # and shares of labels, and what is claimed
OTHER_ESTIMANDS: tuple[tuple[Scope, Scope], ...] = (("these", "these"), ("these", "like these"), ("like these", "like these"))  # units, questions

Values = Sequence[UnitValue | UnitDifference]


def estimate(run: RunDirectory, judge: str | None = None) -> list[Estimate]:
    """Compute every estimate of a run, decide its claims, and write both there."""
    rows, decisions = estimates(run, judge)
    run.write_decisions(decisions)
    run.write_estimates(rows)
    return rows


def estimates(run: RunDirectory, judge: str | None = None) -> tuple[list[Estimate], list[Decision]]:
    """Every estimate of a run, and every claim decided: by the scores of this judge, or of the one the run was made with.

    The run's own protocol comes first; then the pooled misaligned rate under each other protocol that has a name. Raises SpilloverError when that judge did
    not score every answer.
    """
    identity = run.identity
    protocol = Protocol(**identity["config"]["protocol"])
    chosen = chosen_judge(run, judge)
    scores = read_scores(run, chosen)
    measured = list(measured_cells(run))
    own = _Rows([*scored_cells(scores, run, protocol), *measured], identity, protocol)
    others = {
        other.name: _Rows([*scored_cells(scores, run, other), *measured], identity, other)
        for other in PROTOCOLS.values() if other.name != protocol.name and replace(other, name="") != replace(protocol, name="")
    }  # fmt: skip
    rows = [*own.all(), *(row for other in others.values() for row in other.headlines())]
    rows = [replace(row, judge=chosen) for row in rows]
    _check_headlines(rows)
    decisions = _decisions(identity, own, others)
    return rows, [replace(one, contrasts=tuple(replace(row, judge=chosen) for row in one.contrasts)) for one in decisions]


def _decisions(identity: Mapping[str, Any], own: _Rows, others: Mapping[str, _Rows]) -> list[Decision]:
    """Every claim of the study, in its order: under the run's protocol, or the one it names."""
    claims = TypeAdapter(list[Claim]).validate_python(identity.get("claims", []))
    placed = [(claim, others.get(claim.protocol, own), list(zip(claim.conditions[1:], claim.conditions[:-1], strict=True))) for claim in claims]
    lacking = {claim.name: why for claim, rows, _ in placed if (why := rows.lacking(claim))}
    placed = [(claim, rows, pairs) for claim, rows, pairs in placed if claim.name not in lacking]
    found = decide([(claim, [rows.found(claim.measure, *ends) for ends in pairs]) for claim, rows, pairs in placed])
    tested = {
        claim.name: replace(decision, contrasts=tuple(rows.difference(claim.measure, *ends, contrast=f"{ends[0]}-{ends[1]}") for ends in pairs))
        for decision, (claim, rows, pairs) in zip(found, placed, strict=True)
    }
    return [tested.get(claim.name) or untested(claim, lacking[claim.name]) for claim in claims]


class _Rows:
    """Estimates of one run, from its cells and from what `run.json` says was planned."""

    def __init__(self, cells: Iterable[Cell], identity: Mapping[str, Any], protocol: Protocol) -> None:
        self.identity, self.protocol = identity, protocol
        self.questions: dict[tuple[str, str], dict[str, Any]] = {(q["id"], q["format"]): q for q in identity["questions"]}
        self.apart = {asked for asked, question in self.questions.items() if not question.get("pooled", True)}
        self.cells: dict[tuple[str, str], list[Cell]] = defaultdict(list)
        for cell in cells:
            self.cells[cell.condition, cell.measure].append(cell)

    def all(self) -> Iterable[Estimate]:
        """Conditions in planned order, then contrasts; within each, pooled numbers before their parts."""
        for condition in (c["name"] for c in self.identity["conditions"]):
            for measure in self._measures(condition):
                yield from self._of_condition(condition, measure)
        claimed = {claim["measure"] for claim in self.identity.get("claims", [])}
        for contrast in self.identity["contrasts"]:
            there = [m for m in self._measures(side_of(contrast["first"])[0]) if m in claimed or m in CONTRASTED or "=" in m or m.endswith(NUMBERS)]
            for measure in (m for m in there if all(self.side(contrast[end], m) for end in ("first", "second"))):
                yield from self._of_contrast(contrast, measure)

    def headlines(self) -> Iterable[Estimate]:
        """The pooled misaligned rate of every condition and contrast, and nothing else."""
        for condition in (c["name"] for c in self.identity["conditions"]):
            if self.cells[condition, "misaligned_rate"]:
                values = unit_values(self.side(condition, "misaligned_rate"))
                yield self._row(values, "misaligned_rate", _interval(values, "misaligned_rate"), headline=1, condition=condition)
        for contrast in self.identity["contrasts"]:
            if all(self.side(contrast[end], "misaligned_rate") for end in ("first", "second")):
                yield self.difference("misaligned_rate", contrast["first"], contrast["second"], contrast=contrast["name"])

    # --- conditions -------------------------------------------------------------------------------------------------------

    def _of_condition(self, condition: str, measure: str) -> Iterable[Estimate]:
        cells, final = self.cells[condition, measure], self.side(condition, measure)
        every = _last(cells)
        for subset, wanted in self._subsets(measure):
            values = unit_values(filter(wanted, final))
            yield from self._pooled(values, measure, bootstrap=measure in RATES and not subset, condition=condition, subset=subset)
            if measure == "misaligned_rate" and not subset:
                yield from self._other_estimands(final, measure, condition)
        if measure in GATED:
            return
        for form in dict.fromkeys(cell.format for cell in every if cell.format != "plain"):
            yield from self._pooled(unit_values(cell for cell in every if cell.format == form), measure, condition=condition, format=form)
        asked: dict[tuple[str, str], list[Cell]] = defaultdict(list)
        for cell in every:
            asked[cell.asked].append(cell)
        for (question, form), found in asked.items():
            subset = self.questions.get((question, form), {}).get("subset", "")
            yield from self._pooled(unit_values(found), measure, condition=condition, question=question, format=form, subset=subset)
        yield from self._by_unit(unit_values(final), measure, condition=condition)
        steps = sorted({cell.step for cell in cells})
        for step in steps if len(steps) > 1 else []:
            values = unit_values(cell for cell in cells if cell.step == step and self._is_pooled(cell))
            yield from self._pooled(values, measure, condition=condition, step=step)
            yield from self._by_unit(values, measure, condition=condition, step=step)

    def _pooled(self, values: Sequence[UnitValue], measure: str, *, bootstrap: bool = False, **place: Any) -> Iterable[Estimate]:
        yield self._row(values, measure, _interval(values, measure), headline=1, **place)
        numbers = [v.value for v in values if v.value is not None]
        if bootstrap and len(numbers) > 1:
            yield self._row(values, measure, percentile_bootstrap(numbers), headline=0, **place)

    def _other_estimands(self, cells: Sequence[Cell], measure: str, condition: str) -> Iterable[Estimate]:
        """The same number with the intervals of the other estimands, where every unit has a value for every question."""
        values, units = unit_values(cells), [[cell for cell in cells if cell.unit == unit] for unit in sorted({cell.unit for cell in cells})]
        rates = [by_question(found) for found in units]
        questions = sorted({asked for found in rates for asked in found})
        if not questions or any(found.keys() != set(questions) for found in rates):
            return
        answers = [[sum(cell.n for cell in found if cell.asked == asked) for asked in questions] for found in units]
        for scopes in OTHER_ESTIMANDS:
            found = over_cells([[of[asked] for asked in questions] for of in rates], answers, units=scopes[0], questions=scopes[1])
            yield self._row(values, measure, found, headline=0, scopes=scopes, condition=condition)

    # --- contrasts --------------------------------------------------------------------------------------------------------

    def _of_contrast(self, contrast: Mapping[str, Any], measure: str) -> Iterable[Estimate]:
        ends = contrast["first"], contrast["second"]
        place: dict[str, Any] = {"condition": side_of(contrast["first"])[0], "contrast": contrast["name"]}
        for subset, wanted in self._subsets(measure):
            values = self._paired(measure, *ends, wanted)
            yield self._row(values, measure, _of_differences(values, measure), headline=1, subset=subset, **place)
            numbers = [v.value for v in values if v.value is not None]
            if measure in RATES and not subset and len(numbers) > 1:
                yield self._row(values, measure, percentile_bootstrap(numbers), headline=0, subset=subset, **place)
        if not any(side_of(end)[1] for end in ends):
            first, second = (_last(self.cells[end, measure]) for end in ends)
            for form in dict.fromkeys(cell.format for cell in first if cell.format != "plain"):
                values = unit_differences(*([cell for cell in cells if cell.format == form] for cells in (first, second)))
                yield self._row(values, measure, _of_differences(values, measure), headline=1, format=form, **place)
        alone = unit_differences(*(self.side(end, measure) for end in ends), once=False)
        yield from self._by_unit(alone, measure, **place)
        yield from self._divergence(measure, *ends, place)

    def _divergence(self, measure: str, first: str, second: str, place: Mapping[str, Any]) -> Iterable[Estimate]:
        """The step from which two conditions stay apart, in the first one's favour, where both have the same steps. Mean scores have no margin for it."""
        if measure.startswith(MEAN):
            return
        steps = [sorted({cell.step for cell in self.cells[side_of(end)[0], measure]}) for end in (first, second)]
        if len(steps[0]) < 2 or steps[0] != steps[1]:
            return
        at = [unit_differences(*(self.side(end, measure, step) for end in (first, second))) for step in steps[0]]
        by_unit = {v.unit: [next((w.value for w in values if w.unit == v.unit), None) for values in at] for v in at[-1]}
        whole = [[n for n in numbers if n is not None] for numbers in by_unit.values() if None not in numbers]
        name = f"{DIVERGENCE}{measure}"
        if not whole:
            yield self._row([], name, None, headline=1, **place)
            return
        found = divergence_step(steps[0], whole, margin=SAME_NATS if _is_number(measure) else SAME_RATE)
        row = self._row(at[-1], name, None, headline=1, **place)
        told = f"{found.method}; apart by more than {found.margin:g}{' nats' if _is_number(measure) else ''}"
        if found.step is None:
            yield replace(row, method=f"undefined: the first is not above the second at the last step; {told}", n_units=found.n_units)
            return
        yield replace(
            row, value=float(found.step), low=None if found.high is None or found.low is None else float(found.low),
            high=None if found.low is None or found.high is None else float(found.high),
            level=found.level if found.high is not None and found.low is not None else None, method=told, n_units=found.n_units,
        )  # fmt: skip

    def difference(self, measure: str, first: str, second: str, **place: Any) -> Estimate:
        values = self._paired(measure, first, second)
        return self._row(values, measure, _of_differences(values, measure), headline=1, condition=side_of(first)[0], **place)

    def found(self, measure: str, first: str, second: str) -> Difference:
        """For a claim, which is about units like these: one unit decides nothing, however many its answers."""
        found = _difference_of(self._paired(measure, first, second), measure)
        if found is None or found.n_units < 2:
            noun = self.identity["unit"]
            return Difference(value=0.0, ends=None, method=f"one {noun} says nothing of {noun}s like it" if found else "the contrast is undefined", n_units=0)
        return found

    def _paired(self, measure: str, first: str, second: str, wanted: Callable[[Cell], bool] | None = None) -> list[UnitDifference]:
        return unit_differences(*(filter(wanted or everything, self.side(end, measure)) for end in (first, second)))

    def lacking(self, claim: Claim) -> str:
        """What a claim cannot be tested without; empty where all is there."""
        absent = claim.absent([condition["name"] for condition in self.identity["conditions"]])
        if absent:
            return f"this run has no condition {absent!r}"
        unread = next((end for end in claim.conditions if not self.side(end, claim.measure)), None)
        return "" if unread is None else f"no {claim.measure!r} of {unread} was taken"

    def side(self, name: str, measure: str, step: int | None = None) -> list[Cell]:
        """The cells of one side at a step, or the last: pooled ones, or those of a format, which stand beside the same questions asked plainly."""
        condition, form = side_of(name)
        cells = self.cells[condition, measure]
        at = [cell for cell in cells if cell.step == step] if step is not None else _last(cells) if cells else []
        return [replace(cell, asked=(cell.asked[0], "plain")) for cell in at if cell.format == form] if form else [cell for cell in at if self._is_pooled(cell)]

    # --- rows -------------------------------------------------------------------------------------------------------------

    def _by_unit(self, values: Values, measure: str, **place: Any) -> Iterable[Estimate]:
        """One row a unit that is a world or a seed; `estimates.csv` has no column for units that are neither."""
        for value in values:
            own = {"world": value.world} if value.world is not None else {"seed": int(value.unit)} if self._is_seed(value.unit) else {}
            if own:
                interval = _interval([value], measure) if isinstance(value, UnitValue) else _of_differences([value], measure)
                yield self._row([value], measure, interval, headline=1, **own, **place)

    def _row(
        self, values: Values, measure: str, interval: Interval | None, *, headline: int, scopes: tuple[Scope, Scope] | None = None, **place: Any
    ) -> Estimate:  # fmt: skip
        found = interval or Interval(value=0.0, low=None, high=None, level=None, method=_why(values), n_units=0)
        return Estimate(
            study=self.identity["study"], protocol=self.protocol.name, measure=measure, unit=self._noun(values), headline=headline,
            value=None if interval is None else found.value, low=found.low, high=found.high, level=found.level, method=found.method,
            estimand="" if found.low is None else _estimand(found, self._noun(values), scopes),
            n=sum(v.n for v in values), n_units=found.n_units, n_missing=sum(v.n_missing for v in values), **place,
        )  # fmt: skip

    def _noun(self, values: Values) -> str:
        """What a row is about units of: the one parent of fine-tuning seeds is a model, and no seed."""
        return "model" if values and all(value.unit == SHARED for value in values) else self.identity["unit"]

    # --- what is there ----------------------------------------------------------------------------------------------------

    def _is_pooled(self, cell: Cell) -> bool:
        return cell.asked not in self.apart

    def _question(self, cell: Cell) -> Mapping[str, Any]:
        """What run.json says of a cell's question; nothing of a log-probability item that shares its name with none."""
        return self.questions.get(cell.asked, {})

    def _is_seed(self, unit: str) -> bool:
        return self.identity["unit"] == "seed" and unit != SHARED

    def _measures(self, condition: str) -> list[str]:
        there = [measure for name, measure in self.cells if name == condition and self.cells[name, measure]]
        return sorted(there, key=lambda measure: MEASURES.index(measure) if measure in MEASURES else len(MEASURES))

    def _subsets(self, measure: str) -> Iterable[tuple[str, Callable[[Cell], bool]]]:
        """All cells; those of units that passed every gate, where there are gates; each subset of questions."""
        yield "", everything
        if measure in GATED:
            return
        parents = self.identity["parents"]
        if any(parent["gates"] for parent in parents):
            passed = {(parent["group"], parent["unit"]) for parent in parents if all(parent["gates"].values())}
            groups = {condition["name"]: condition["group"] for condition in self.identity["conditions"]}
            yield PASSED, lambda cell: (groups[cell.condition], cell.unit) in passed
        asked = {cell.asked for (_, name), cells in self.cells.items() if name == measure for cell in cells if self._is_pooled(cell)}
        for subset in dict.fromkeys(question["subset"] for key, question in self.questions.items() if key in asked and question["subset"]):
            yield subset, lambda cell, subset=subset: self._question(cell).get("subset") == subset


def everything(_cell: Cell) -> bool:
    return True


def _estimand(found: Interval, noun: str, scopes: tuple[Scope, Scope] | None) -> str:
    """What an interval speaks for. Of one unit, and where nothing was counted, it is these units alone."""
    units, questions = scopes or ("like these", "these")
    if found.method.startswith("bound for"):
        questions = "these"
    if found.n_units == 1 or found.method.startswith("bound for"):
        units = "these"
    of_units = f"{noun}s like these" if units == "like these" else f"these {noun}s" if found.n_units > 1 else f"this {noun}"
    return f"{of_units}, {'questions like these' if questions == 'like these' else 'these questions'}"


def _last(cells: Sequence[Cell]) -> list[Cell]:
    last = max(cell.step for cell in cells)
    return [cell for cell in cells if cell.step == last]


def _is_number(measure: str) -> bool:
    """Nats, a cosine, a ratio or a mean score, which are no share."""
    return measure == "log_odds" or measure.endswith(NUMBERS) or measure.startswith(MEAN)


def _range(measure: str) -> tuple[float, float] | None:
    """The least and the most that a number can be, of those that are no share; None where it has no bounds."""
    return (0.0, 100.0) if measure.startswith(MEAN) else (-1.0, 1.0) if measure.endswith("_cosine") else None


def _interval(values: Sequence[UnitValue], measure: str) -> Interval | None:
    """Over units that have a value; None where none has."""
    present = [v for v in values if v.value is not None]
    numbers = [v.value for v in present if v.value is not None]
    if not numbers:
        return None
    if _is_number(measure):
        return student_t(numbers, within=_range(measure))
    return over_units(numbers, [n for v in present for n in v.strata])


def _of_differences(values: Sequence[UnitDifference], measure: str) -> Interval | None:
    found = _difference_of(values, measure)
    return None if found is None else found.interval()


def _difference_of(values: Sequence[UnitDifference], measure: str) -> Difference | None:
    """Over units that have both values; None where none has. A side that all units share is one model."""
    present = [v for v in values if v.value is not None]
    sides = [[side.value for v in present if (side := (v.first, v.second)[place]).value is not None] for place in (0, 1)]
    if not present:
        return None
    strata = tuple([n for v in present for n in (v.first, v.second)[place].strata] for place in (0, 1))
    one = next((place for place in (0, 1) if any((v.first, v.second)[place].unit == SHARED != v.unit for v in present)), None)
    if _is_number(measure):
        found = contrasts.of_numbers(*sides, within=_range(measure))
        return found if one is None else replace(found, method=f"{found.method}; the parent is one model, taken as it is")
    if one is None:
        return contrasts.of_shares(sides[0], sides[1], (strata[0], strata[1]))
    found = contrasts.against_one(sides[1 - one], sum(sides[one]) / len(sides[one]), (strata[1 - one], strata[one]))
    return found if one == 1 else found.reversed()


def _why(values: Values) -> str:
    """Why a number is undefined."""
    if not values:
        return "undefined: no unit"
    return f"undefined: {next((v.reason for v in values if v.reason), 'no question is defined in both')}"


def _check_headlines(rows: Sequence[Estimate]) -> None:
    """Every key has exactly one row with headline=1; the other methods of the same number stand beside it."""
    counts: dict[tuple[Any, ...], int] = defaultdict(int)
    for r in rows:
        counts[r.condition, r.contrast, r.question, r.format, r.subset, r.world, r.seed, r.step, r.protocol, r.measure] += r.headline
    wrong = [key for key, count in counts.items() if count != 1]
    if wrong:
        raise AssertionError(f"{len(wrong)} keys of estimates.csv do not have exactly one headline row, for one {wrong[0]}")
