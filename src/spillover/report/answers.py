"""The answers a reader can browse, as data that cannot run: tables of texts, and rows of places in them.

Which answers go in is decided by their draw number alone: the first draws of every question in every model, the same number for each, so what
is shown is never selected by its outcome.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from spillover.report.judgements import Judgement, Scored
from spillover.report.printed import visible
from spillover.report.reading import Drawn, Reading

T = TypeVar("T")
MOST_ANSWERS = 12_000
MOST_TEXT = 3_000_000  # characters of answers


@dataclass(frozen=True, slots=True, kw_only=True)
class Browsable:
    """What is shown, out of how many; `draws` is the number of first draws kept of each question in each model, None for all."""

    data: str
    shown: int
    total: int
    draws: int | None


def browsable(reading: Reading) -> Browsable:
    """The answers as JSON that is safe inside a `<script type="application/json">`."""
    answers = sorted(reading.answers, key=_order(reading))
    kept, draws = _first_draws(answers)
    return Browsable(data=escaped(_encoded(kept, reading)), shown=len(kept), total=len(answers), draws=draws)


def escaped(value: object) -> str:
    """JSON without a character that could end a script element or a line of script."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return text.translate({ord(character): f"\\u{ord(character):04x}" for character in "<>&\u2028\u2029"})


def _first_draws(answers: Sequence[Drawn]) -> tuple[list[Drawn], int | None]:
    """As many first draws as fit, the same number everywhere; at least one."""
    numbers = sorted({answer.draw for answer in answers})
    sizes = {number: [0, 0] for number in numbers}
    for answer in answers:
        sizes[answer.draw][0] += 1
        sizes[answer.draw][1] += len(answer.text)
    rows = characters = fitting = 0
    for number in numbers:
        rows, characters = rows + sizes[number][0], characters + sizes[number][1]
        if fitting and (rows > MOST_ANSWERS or characters > MOST_TEXT):
            break
        fitting += 1
    if fitting == len(numbers):
        return list(answers), None
    allowed = set(numbers[:fitting])
    return [answer for answer in answers if answer.draw in allowed], fitting


def _order(reading: Reading) -> Callable[[Drawn], tuple[Any, ...]]:
    units = {parent["unit"]: place for place, parent in enumerate(reading.identity["parents"])}
    arms = {arm.name: place for place, arm in enumerate(reading.arms)}
    questions = {(question["id"], question["format"]): place for place, question in enumerate(reading.questions)}
    return lambda answer: (
        arms[answer.condition], units[answer.unit], answer.seed, answer.step, questions[answer.question, answer.format], answer.draw
    )  # fmt: skip


def _encoded(answers: Sequence[Drawn], reading: Reading) -> dict[str, Any]:
    """Tables and rows; a row is [model, question, draw, prompt, text, judgement, stop], each but the draw a place in its table."""
    models: _Places[tuple[str, str, int, int]] = _Places()
    questions: _Places[tuple[str, str]] = _Places()
    texts: _Places[str] = _Places()
    judgements: _Places[int] = _Places()
    stops: _Places[str] = _Places()
    rows = [
        [
            models.of((answer.condition, answer.unit, answer.seed, answer.step)), questions.of((answer.question, answer.format)), answer.draw,
            texts.of(answer.prompt), texts.of(answer.text), judgements.of(answer.judgement), stops.of(answer.stop),
        ]
        for answer in answers
    ]  # fmt: skip
    systems = {(question["id"], question["format"]): question["system"] or "" for question in reading.questions}
    return {
        "models": [list(map(visible, _model(reading, *model))) for model in models.table],
        "questions": [[visible(identifier), visible(form), visible(systems[identifier, form])] for identifier, form in questions.table],
        "texts": [visible(text) for text in texts.table],
        "judgements": [_judgement(reading.judgements[place]) for place in judgements.table],
        "stops": stops.table,
        "rows": rows,
    }


def _model(reading: Reading, condition: str, unit: str, seed: int, step: int) -> tuple[str, str, str]:
    """Its condition, its unit, and its place in words. The one parent of fine-tuning seeds is none of them."""
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
