"""The answers a reader can browse, as data that cannot run: tables of texts, and rows of places in them.

Which answers go in is decided by their draw number alone: the first draws of every question in every model, the same number for each, so what
is shown is never selected by its outcome.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from spillover.records import Subject
from spillover.report.drawn import Drawn, Shown
from spillover.report.judgements import Judgement, Kind, judge, kind_of
from spillover.report.printed import visible
from spillover.report.reading import Reading
from spillover.runs.scores import Scored

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Browsable:
    """What is shown, out of how many; `draws` is the number of first draws kept of each question in each model, None for all."""

    data: str
    shown: int
    total: int
    draws: int | None


def browsable(reading: Reading) -> Browsable:
    """The answers as JSON that is safe inside a `<script type="application/json">`."""
    models = sorted(reading.answers.models, key=_order(reading))
    found = [(model.subject, answer) for model in models for answer in reading.answers.shown(model)]
    draws = reading.answers.draws
    data = escaped(_encoded(found, reading))
    return Browsable(data=data, shown=len(found), total=reading.answers.count, draws=None if draws is None else len(draws))


def escaped(value: object) -> str:
    """JSON without a character that could end a script element or a line of script."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return text.translate({ord(character): f"\\u{ord(character):04x}" for character in "<>&\u2028\u2029"})


def _order(reading: Reading) -> Callable[[Drawn], tuple[Any, ...]]:
    units = {parent["unit"]: place for place, parent in enumerate(reading.identity["parents"])}
    arms = {arm.name: place for place, arm in enumerate(reading.arms)}
    return lambda model: (arms[model.subject.condition], units[model.subject.unit], model.subject.seed, model.subject.step)


def _encoded(answers: Sequence[tuple[Subject, Shown]], reading: Reading) -> dict[str, Any]:
    """Tables and rows; a row is [model, question, draw, prompt, text, judgement, stop], each but the draw a place in its table."""
    models: _Places[Subject] = _Places()
    questions: _Places[int] = _Places()
    texts: _Places[str] = _Places()
    judgements: _Places[tuple[Kind, tuple[Scored, ...]]] = _Places()
    stops: _Places[str] = _Places()
    kinds: list[Kind] = [kind_of(question) for question in reading.questions]
    rows = [
        [
            models.of(subject), questions.of(answer.question), answer.draw, texts.of(answer.prompt), texts.of(answer.text),
            judgements.of((kinds[answer.question], answer.scores)), stops.of(answer.stop),
        ]
        for subject, answer in answers
    ]  # fmt: skip
    asked = [reading.questions[place] for place in questions.table]
    return {
        "models": [list(map(visible, _model(reading, model))) for model in models.table],
        "questions": [[visible(question["id"]), visible(question["format"]), visible(question["system"] or "")] for question in asked],
        "texts": [visible(text) for text in texts.table],
        "judgements": [_judgement(judge(kind, scores, reading.protocol)) for kind, scores in judgements.table],
        "stops": stops.table,
        "rows": rows,
    }


def _model(reading: Reading, model: Subject) -> tuple[str, str, str]:
    """Its condition, its unit, and its place in words. The one parent of fine-tuning seeds is none of them."""
    condition, unit, seed, step = model.condition, model.unit, model.seed, model.step
    if reading.unit != "seed":
        return condition, unit, f"{reading.unit} {unit}, seed {seed}, step {step}"
    tuned = any(arm.name == condition and arm.kind is not None for arm in reading.arms)
    return (condition, str(seed), f"seed {seed}, step {step}") if tuned else (condition, "untuned", "as it was")


def _judgement(judgement: Judgement) -> list[str]:
    scores = " · ".join(f"{visible(score.rubric)} {_score(score)}" for score in judgement.scores)
    return [visible(judgement.verdict), judgement.tone, scores]


def _score(score: Scored) -> str:
    if score.value is not None:
        return f"{score.value:.2f}".removesuffix(".00")
    return visible(score.label or score.reason or "")


class _Places(Generic[T]):
    """A table of distinct values in order of first use."""

    def __init__(self) -> None:
        self._places: dict[T, int] = {}

    def of(self, value: T) -> int:
        return self._places.setdefault(value, len(self._places))

    @property
    def table(self) -> list[T]:
        return list(self._places)
