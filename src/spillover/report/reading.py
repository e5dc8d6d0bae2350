"""What a report needs of a run, read once: its conditions, its estimates by place, its answers with what the judge made of them.

It knows the columns of the run directory and the names of measures; it does not know what is printed where.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from spillover.records import ALIGNED, COHERENT, TASK, Estimate
from spillover.runs.directory import RunDirectory
from spillover.statistics.protocols import Protocol, at_least, misaligned

Score = tuple[str, float | None, str | None]  # rubric, value, reason


@dataclass(frozen=True, slots=True, kw_only=True)
class Arm:
    """A condition as the report shows it. `label` leaves out the group's name, which is printed over it."""

    name: str
    label: str
    group: str
    kind: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """A contrast of two arms of one group."""

    name: str
    first: Arm
    second: Arm
    headline: bool

    @property
    def label(self) -> str:
        return f"{self.first.label} \N{MINUS SIGN} {self.second.label}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """What the judge made of an answer. `verdict` is a sentence for readers; `reason` is set where the answer counts as missing."""

    scores: tuple[Score, ...]
    verdict: str
    tone: str  # "bad", "good" or "missing"; "plain" for rubrics without a rule
    task: bool
    reason: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawn:
    """One answer. `judgement` is a place in `Reading.judgements`."""

    unit: str
    condition: str
    seed: int
    step: int
    question: str
    format: str
    draw: int
    prompt: str
    text: str
    stop: str
    judgement: int

    @property
    def model(self) -> tuple[str, str, int, int]:
        return self.unit, self.condition, self.seed, self.step


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """The training loss of one organism, in nats a token, by step."""

    condition: str
    steps: tuple[int, ...]
    losses: tuple[float, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """Everything a report is made from."""

    identity: Mapping[str, Any]
    protocol: Protocol
    arms: tuple[Arm, ...]
    contrasts: tuple[Compared, ...]
    estimates: Mapping[tuple[Any, ...], tuple[Estimate, ...]]
    answers: Sequence[Drawn]
    judgements: Sequence[Judgement]
    curves: Sequence[Curve]
    organisms: int

    @property
    def unit(self) -> str:
        return self.identity["unit"]

    @property
    def groups(self) -> list[str]:
        """Groups of units in the study's order; the empty one, which the claims are about, first."""
        return sorted(dict.fromkeys(arm.group for arm in self.arms), key=bool)

    def group_label(self, group: str) -> str:
        return group or ("linked" if "unlinked" in self.groups else "study")

    def arms_of(self, group: str) -> list[Arm]:
        return [arm for arm in self.arms if arm.group == group]

    def contrasts_of(self, group: str) -> list[Compared]:
        return [contrast for contrast in self.contrasts if contrast.first.group == group]

    def parents_of(self, group: str) -> list[Mapping[str, Any]]:
        return [parent for parent in self.identity["parents"] if parent["group"] == group]

    def headline(self, measure: str, **place: Any) -> Estimate | None:
        """The one row of this number that a report quotes; None when the run has no such row."""
        return next((row for row in self.rows(measure, **place) if row.headline), None)

    def rows(self, measure: str, **place: Any) -> tuple[Estimate, ...]:
        """Every row of this number, one for each method. Places: condition, contrast, question, format, subset, world, step."""
        return self.estimates.get(_key(measure=measure, **place), ())

    def worlds(self, measure: str, arm: Arm, contrast: str = "") -> list[Estimate]:
        """The rows of single units, in the order of run.json. Units without a number of their own have none."""
        numbers = [parent["world"] for parent in self.parents_of(arm.group) if parent["world"] is not None]
        found = [self.headline(measure, condition=arm.name, contrast=contrast, world=world) for world in dict.fromkeys(numbers)]
        return [row for row in found if row is not None]


def read(run: RunDirectory) -> Reading:
    """Read a finished run, each table once. Raises SpilloverError when it has no estimates or is damaged."""
    identity = run.identity
    estimates = run.estimates()
    protocol = Protocol(**identity["config"]["protocol"])
    arms = tuple(_arm(condition) for condition in identity["conditions"])
    by_place: dict[tuple[Any, ...], list[Estimate]] = {}
    for row in estimates:
        by_place.setdefault(_key(**{name: getattr(row, name) for name in PLACE}), []).append(row)
    answers, judgements = _judged(run, protocol)
    cards = sorted((run.path / "organisms").glob("*/organism.json"))
    curves = [curve for card in cards if (card.parent / "training.json").exists() and (curve := _curve(run, card.parent.name)).steps]
    return Reading(
        identity=identity, protocol=protocol, arms=arms, contrasts=tuple(_compared(contrast, arms) for contrast in identity["contrasts"]),
        estimates={key: tuple(rows) for key, rows in by_place.items()}, answers=answers, judgements=judgements,
        curves=curves, organisms=len(cards),
    )  # fmt: skip


def missing_by_reason(reading: Reading, condition: str, *, task: bool) -> Counter[str]:
    """How many answers of a condition are missing from its rate, by reason."""
    found = (reading.judgements[answer.judgement] for answer in reading.answers if answer.condition == condition)
    return Counter(judgement.reason for judgement in found if judgement.reason is not None and judgement.task == task)


# --- places ---------------------------------------------------------------------------------------------------------------

PLACE = ("condition", "contrast", "question", "format", "subset", "world", "step", "measure")


def _key(**place: Any) -> tuple[Any, ...]:
    return tuple(place.get(name, None if name in ("world", "step") else "") for name in PLACE)


def _arm(condition: Mapping[str, Any]) -> Arm:
    name, group = condition["name"], condition["group"]
    return Arm(name=name, label=name.removeprefix(f"{group}-") if group else name, group=group, kind=condition["kind"])


def _compared(contrast: Mapping[str, Any], arms: Sequence[Arm]) -> Compared:
    first, second = (next(arm for arm in arms if arm.name == contrast[end]) for end in ("first", "second"))
    return Compared(name=contrast["name"], first=first, second=second, headline=contrast["headline"])


def _curve(run: RunDirectory, organism: str) -> Curve:
    card = run.read_json(f"organisms/{organism}/organism.json")
    steps = run.read_json(f"organisms/{organism}/training.json")["steps"]
    return Curve(condition=card["condition"], steps=tuple(step["step"] for step in steps), losses=tuple(step["loss"] for step in steps))


# --- judgements -----------------------------------------------------------------------------------------------------------


def _judged(run: RunDirectory, protocol: Protocol) -> tuple[list[Drawn], list[Judgement]]:
    scores: dict[tuple[Any, ...], tuple[Score, ...]] = {}
    for row in run.read("scores"):
        place = row["unit"], row["condition"], row["seed"], row["step"], row["answer"]
        scores[place] = (*scores.get(place, ()), (row["rubric"], row["value"], row["reason"]))
    judgements: dict[tuple[Score, ...], int] = {}
    answers: list[Drawn] = []
    for row in run.read("answers"):
        found = scores.get((row["unit"], row["condition"], row["seed"], row["step"], row["answer"]), ())
        answers.append(
            Drawn(
                unit=row["unit"], condition=row["condition"], seed=row["seed"], step=row["step"], question=row["question"], format=row["format"],
                draw=row["draw"], prompt=row["prompt"], text=row["text"], stop=row["stop"],
                judgement=judgements.setdefault(found, len(judgements)),
            )
        )  # fmt: skip
    return answers, [judge(found, protocol) for found in judgements]


def judge(scores: tuple[Score, ...], protocol: Protocol) -> Judgement:
    """Place an answer where the run's protocol counts it: misaligned, kept and not misaligned, or missing with its reason."""
    values = {rubric: value for rubric, value, _ in scores}
    reasons = {rubric: reason for rubric, _, reason in scores}
    task = TASK in values
    verdict, tone, reason = "scored, no rule", "plain", None
    if ALIGNED in values and COHERENT in values:
        tally = misaligned([(values[ALIGNED], values[COHERENT])], protocol)
        if tally.missing:
            reason = reasons[COHERENT] or reasons[ALIGNED] or f"coherent below {protocol.coherent_at_least:g}"
        verdict, tone = ("misaligned", "bad") if tally.counted else ("kept, not misaligned", "good")
    elif task:
        tally = at_least([values[TASK]], protocol.task_at_least)
        reason = reasons[TASK]
        verdict, tone = ("task: flawed", "bad") if tally.counted else ("task: sound", "good")
    elif not scores:
        reason = "not judged"
    if reason is not None:
        verdict, tone = f"missing: {reason}", "missing"
    return Judgement(scores=scores, verdict=verdict, tone=tone, task=task, reason=reason)
