"""What a report needs of a run, read once: its conditions, its estimates by place, its answers with what the judge made of them.

It knows the columns of the run directory and the names of measures; it does not know what is printed where. Several judges may have scored a
run: what is read is the one whose scores the estimates are made of.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from math import isfinite
from typing import Any

from pydantic import BaseModel, FiniteFloat, TypeAdapter

from spillover.design import Claim, Decision, Published, side
from spillover.records import Estimate, SpilloverError
from spillover.report import drawn
from spillover.report.drawn import Answers, Drawn
from spillover.report.judgements import Counted, Kind, counted, kind_of
from spillover.runs.directory import CALIBRATION, CORRECTED, RunDirectory, of_judge
from spillover.runs.scores import scores
from spillover.statistics.calibration import Calibration
from spillover.statistics.claims import untested
from spillover.statistics.prediction_powered import CorrectedRates
from spillover.statistics.protocols import Protocol

NOT_ESTIMATED = "the estimates are of a version that left it out; `spillover estimate` decides it"
PLAIN = "plain"  # the format of a question that none dresses


@dataclass(frozen=True, slots=True, kw_only=True)
class Arm:
    """A condition as the report shows it. `label` leaves out the group's name, which is printed over it; `form` is set for answers in a format of their own."""

    name: str
    label: str
    group: str
    kind: str | None
    form: str = ""
    altered: bool = False  # whether something is done to its model while it answers
    control: bool = False  # whether that is done with another direction in the place of the one that is tried

    @property
    def title(self) -> str:
        return f"{self.label}, {format_name(self.form)}" if self.form else self.label


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """A contrast of two arms, of one group or of two: then their labels say which."""

    name: str
    first: Arm
    second: Arm
    headline: bool

    @property
    def crosses(self) -> bool:
        """Whether the two are of different groups."""
        return self.first.group != self.second.group

    @property
    def label(self) -> str:
        return versus(self.first, self.second)


@dataclass(frozen=True, slots=True, kw_only=True)
class Unit:
    """One unit of replication that has numbers of its own: its name, and its place in the estimates, `{"world": 100}` or `{"seed": 0}`."""

    name: str
    place: Mapping[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Trained:
    """What training said of one organism: its loss in nats a token by step, and its rows: in all, cut, and left out as empty, where that is recorded."""

    condition: str
    steps: tuple[int, ...]
    losses: tuple[float, ...]
    rows: Mapping[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """Everything a report is made from. `dates` are the days on which a service was asked for the scores, `others` the judges not shown; `under` are
    the pooled rates as other protocols than the run's count them.
    """

    identity: Mapping[str, Any]
    protocol: Protocol
    judge: str
    dates: tuple[str, ...]
    others: tuple[str, ...]
    arms: tuple[Arm, ...]
    contrasts: tuple[Compared, ...]
    estimates: Mapping[tuple[Any, ...], tuple[Estimate, ...]]
    under: Sequence[Estimate]
    decisions: Sequence[Decision]
    published: Sequence[Published]
    answers: Answers
    trained: Sequence[Trained]
    organisms: int
    calibration: Calibration | None = None  # of this judge
    corrected: CorrectedRates | None = None

    @property
    def unit(self) -> str:
        return self.identity["unit"]

    @property
    def questions(self) -> Sequence[Mapping[str, Any]]:
        return self.identity["questions"]

    @property
    def groups(self) -> list[str]:
        """Groups of units in the study's order; the empty one, which the claims are about, first."""
        return sorted(dict.fromkeys(arm.group for arm in self.arms), key=bool)

    def group_label(self, group: str) -> str:
        return group.replace("_", " ") or ("linked" if self.groups == ["", "unlinked"] else "usual")

    def is_control(self, group: str) -> bool:
        """Whether the study is about other units than these: no contrast leads from them to others, and none that it is about is of them."""
        return group != "" and not any(group in (c.first.group, c.second.group) and (c.crosses or c.headline) for c in self.contrasts)

    def pair(self, first: str, second: str) -> tuple[Arm, Arm]:
        """Two arms by the names that a claim gives them, `name` or `name@format`."""
        return _pair({arm.name: arm for arm in self.arms}, first, second)

    def measure_of(self, contrast: Compared) -> str:
        """The measure that this contrast is told by: log-odds or the rate, unless all that is claimed of it is about others."""
        claimed = [d.claim.measure for d in self.decisions if d.tested and any("-".join(pair[::-1]) == contrast.name for pair in pairwise(d.claim.conditions))]
        usual = ("log_odds", "misaligned_rate")
        wanted = usual if not claimed or set(claimed) & set(usual) else (*claimed, *usual)
        place = {"condition": contrast.first.name, "contrast": contrast.name}
        defined = [measure for measure in wanted if (row := self.headline(measure, **place)) is not None and row.value is not None]
        return next(iter(defined), "misaligned_rate" if wanted == usual else wanted[0])

    def drawn_of(self, group: str) -> list[Arm]:
        """Those of a group that every figure has room for: controls of what is altered have a figure of their own, and are in the tables."""
        return [arm for arm in self.arms_of(group) if not arm.control]

    def arms_of(self, group: str) -> list[Arm]:
        return [arm for arm in self.arms if arm.group == group]

    def contrasts_of(self, group: str) -> list[Compared]:
        return [contrast for contrast in self.contrasts if contrast.first.group == group]

    def parents_of(self, group: str) -> list[Mapping[str, Any]]:
        """The parents of a group; all of them where no group is a control."""
        return [parent for parent in self.identity["parents"] if len(self.groups) == 1 or parent["group"] == group]

    def units_of(self, group: str) -> list[Unit]:
        """Units with numbers of their own: fine-tuning seeds of the one parent, or parents that are worlds."""
        if self.unit == "seed":
            return [Unit(name=str(seed), place={"seed": seed}) for seed in range(self.identity["config"]["seeds"])]
        return [Unit(name=parent["unit"], place={"world": parent["world"]}) for parent in self.parents_of(group) if parent["world"] is not None]

    def count(self, group: str) -> int:
        """How many units of replication a group has."""
        return len(self.units_of(group)) if self.unit == "seed" else len(self.parents_of(group))

    def has(self, measure: str) -> bool:
        return any(self.rows(measure, condition=arm.name) for arm in self.arms)

    def headline(self, measure: str, **place: Any) -> Estimate | None:
        """The one row of this number that a report quotes; None when the run has no such row."""
        return next((row for row in self.rows(measure, **place) if row.headline), None)

    def rows(self, measure: str, **place: Any) -> tuple[Estimate, ...]:
        """Every row of this number, one for each method. Places: condition, contrast, question, format, subset, world, seed, step."""
        return self.estimates.get(_key(measure=measure, **place), ())

    def singles(self, measure: str, arm: Arm, contrast: str = "", step: int | None = None) -> list[Estimate]:
        """The rows of single units, in order. Units without a number of their own have none: the one parent of fine-tuning seeds is no seed."""
        found = [self.headline(measure, condition=arm.name, contrast=contrast, step=step, **unit.place) for unit in self.units_of(arm.group)]
        return [row for row in found if row is not None]

    def counts(self, condition: str, kind: Kind, *, pooled: bool, form: str = "") -> Counted:
        """What became of a condition's answers to questions of one kind, those of the pooled numbers or the others, or those of one format; of its last
        step, as in the estimates.
        """
        there = {place for place, q in enumerate(self.questions) if kind_of(q) == kind and (q["format"] == form if form else is_pooled(q) == pooled)}
        return counted((cell for model in self.last(condition) for place, cell in model.became.items() if place in there), self.protocol)

    def last(self, condition: str) -> list[Drawn]:
        """The models of a condition's last step."""
        models = [model for model in self.answers.models if model.subject.condition == condition]
        last = max((model.subject.step for model in models), default=0)
        return [model for model in models if model.subject.step == last]


def read(run: RunDirectory, *, answers: bool = True) -> Reading:
    """Read a finished run, each table once; without its answers where only its numbers are wanted.

    Raises SpilloverError when it has no estimates or is damaged.
    """
    identity = run.identity
    estimates = run.estimates()
    chosen = next((row.judge for row in estimates if row.judge), identity["judge"])
    protocol = Protocol(**identity["config"]["protocol"])
    arms = _arms(identity)
    shown = {arm.name: arm for arm in arms}
    strange = next((row.condition for row in estimates if row.condition not in shown), None)
    if strange is not None:
        raise SpilloverError(f"{run.path / 'estimates.json'} is about {strange[:60]!r}, which run.json does not name; `spillover estimate` makes it anew")
    by_place: dict[tuple[Any, ...], list[Estimate]] = {}
    for row in (row for row in estimates if row.protocol == protocol.name):
        if identity["unit"] == "seed" and not row.contrast and shown[row.condition].kind is None:
            row = replace(row, unit="model")  # the one parent of every seed: what its numbers count is no seed
        by_place.setdefault(_key(**{name: getattr(row, name) for name in PLACE}), []).append(row)
    every = list(scores(run)) if answers else []
    own = [model for model in every if model.judge == chosen]
    found = drawn.read(run, {model.subject.key: model for model in own}, protocol) if answers else Answers()
    cards = sorted((run.path / "organisms").glob("*/organism.json"))
    return Reading(
        identity=identity, protocol=protocol, judge=chosen, dates=tuple(sorted({date for model in own for date in model.dates})),
        others=tuple(sorted({model.judge for model in every} - {chosen})), arms=arms,
        contrasts=tuple(
            Compared(name=c["name"], first=first, second=second, headline=c["headline"])
            for c in identity["contrasts"] for first, second in [_pair(shown, c["first"], c["second"])]
        ),
        estimates={key: tuple(rows) for key, rows in by_place.items()}, under=[row for row in estimates if row.protocol != protocol.name],
        decisions=_decisions(run, shown), published=_published(run), answers=found,
        trained=[_trained(run, card.parent.name) for card in cards if (card.parent / "training.json").exists()], organisms=len(cards),
        calibration=calibration(run, chosen), corrected=_if_known(run, CORRECTED, CorrectedRates, chosen),
    )  # fmt: skip


def calibration(run: RunDirectory, judge: str) -> Calibration | None:
    """How this judge stands to trusted labels, if the run has it. Raises SpilloverError where the file is damaged."""
    return _if_known(run, CALIBRATION, Calibration, judge)


def _if_known(run: RunDirectory, name: str, shape: Any, judge: str) -> Any:
    """What trusted labels say of this judge's scores, if the run has it."""
    place = of_judge(name, judge)
    return run.read_json(place, shape) if (run.path / place).exists() else None


def _pair(arms: Mapping[str, Arm], first: str, second: str) -> tuple[Arm, Arm]:
    """Two sides of a contrast or claim, perhaps asked in a format of their own. Where they are of two groups their labels are their whole names."""
    crosses = arms[side(first)[0]].group != arms[side(second)[0]].group
    return _side(arms, first, whole=crosses), _side(arms, second, whole=crosses)


def _side(arms: Mapping[str, Arm], name: str, *, whole: bool) -> Arm:
    condition, form = side(name)
    return replace(arms[condition], label=condition if whole else arms[condition].label, form=form)


def format_name(form: str) -> str:
    return form.replace("_", " ")


def versus(first: Arm, second: Arm) -> str:
    """A difference by name: the format, or the condition, that both have in common is said once."""
    minus = "\N{MINUS SIGN}"
    if first.form == second.form:
        return f"{first.label} {minus} {second.label}" + (f", as {format_name(first.form)}" if first.form else "")
    if first.label == second.label:
        return f"{first.label}: {format_name(first.form) or PLAIN} {minus} {format_name(second.form) or PLAIN}"
    return f"{first.title} {minus} {second.title}"


def _published(run: RunDirectory) -> list[Published]:
    try:
        found = TypeAdapter(list[Published]).validate_python(run.identity.get("published", []))
        if not all(isfinite(number) for one in found for number in (one.value, one.low or 0, one.high or 0)):
            raise ValueError("a number that is none")
    except ValueError:
        raise SpilloverError(f"{run.path / 'run.json'} is damaged in its published numbers; the run cannot be shown") from None
    return found


def _decisions(run: RunDirectory, arms: Mapping[str, Arm]) -> list[Decision]:
    """Every claim that the run was planned with, and what was decided of it; one that an older version said nothing of is untested."""
    found = {decision.claim.name: decision for decision in run.decisions()}
    claims = TypeAdapter(list[Claim]).validate_python(run.identity.get("claims", []))
    found = {claim.name: found.get(claim.name) or untested(claim, NOT_ESTIMATED) for claim in claims} | found
    numbers = [n for d in found.values() for n in (d.p_holds, d.p_fails, d.claim.margin, *(x for row in d.contrasts for x in (row.value, row.low, row.high)))]
    if not all(_hangs_together(decision, arms) for decision in found.values()) or not all(n is None or isfinite(n) for n in numbers):
        raise SpilloverError(f"{run.path / 'claims.json'} is damaged or of another run; `spillover estimate` makes it anew")
    return list(found.values())


def _hangs_together(decision: Decision, arms: Collection[str]) -> bool:
    """A claim that was tested is about conditions of the run and has a difference for each neighbour; one that was not has a reason."""
    if not decision.tested:
        return bool(decision.reason) and not decision.contrasts
    return not decision.claim.absent(arms) and len(decision.contrasts) == len(decision.claim.conditions) - 1


def is_pooled(question: Mapping[str, Any]) -> bool:
    """Whether a question enters a condition's pooled numbers."""
    return question.get("pooled", True)


# --- places ---------------------------------------------------------------------------------------------------------------

PLACE = ("condition", "contrast", "question", "format", "subset", "world", "seed", "step", "measure")


def _key(**place: Any) -> tuple[Any, ...]:
    return tuple(place.get(name, None if name in ("world", "seed", "step") else "") for name in PLACE)


def _arms(identity: Mapping[str, Any]) -> tuple[Arm, ...]:
    """Where every condition is a group of its own, as for models that are only asked, none is another's control: they are one group."""
    together = all(condition["group"] for condition in identity["conditions"])
    return tuple(
        Arm(name=c["name"], label=c["name"].removeprefix(f"{c['group']}-" if c["group"] else ""), group="" if together else c["group"], kind=c["kind"],
            altered=bool(c.get("altered")), control=bool(c.get("altered") and c["altered"]["control"]))
        for c in identity["conditions"]
    )  # fmt: skip


def _trained(run: RunDirectory, organism: str) -> Trained:
    card: _Card = run.read_json(f"organisms/{organism}/organism.json", _Card)
    told: _Training = run.read_json(f"organisms/{organism}/training.json", _Training)
    counts = {"rows": told.rows, "truncated": told.truncated, "emptied": told.emptied}
    return Trained(
        condition=card.condition, steps=tuple(step.step for step in told.steps), losses=tuple(step.loss for step in told.steps),
        rows={name: count for name, count in counts.items() if count is not None},
    )  # fmt: skip


class _Card(BaseModel):
    condition: str


class _Step(BaseModel):
    step: int
    loss: FiniteFloat


class _Training(BaseModel):
    steps: list[_Step]
    rows: int | None = None
    truncated: int | None = None
    emptied: int | None = None
