"""The answers of a run, a model at a time and by column: what became of them, to be counted; their scores, to be drawn; the first draws, to be browsed.

A run may have a million answers. None is an object of its own here, and texts are kept only of those that a reader can be shown.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from spillover.records import ALIGNED, COHERENT, TASK, Subject
from spillover.report.judgements import Kind, Outcome, judge, kind_of
from spillover.runs.directory import RunDirectory
from spillover.runs.scores import Scored, Scores
from spillover.runs.shards import Columns, damaged
from spillover.statistics.protocols import Protocol

SHOWN = ("draw", "prompt", "text", "stop")  # columns that a reader is shown
MOST_ANSWERS = 12_000
MOST_TEXT = 3_000_000  # characters of answers


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """One answer that a reader can browse. `question` is a place in the questions of run.json."""

    question: int
    draw: int
    prompt: str
    text: str
    stop: str
    scores: tuple[Scored, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawn:
    """The answers of one model. `became` counts, for each of the questions of run.json that was asked, how many came to what; `question` holds which
    question each answer is to, `scores` its scores by rubric, NaN where one is missing.
    """

    subject: Subject
    became: Mapping[int, Mapping[Outcome, int]]
    question: NDArray[np.int64]
    scores: Mapping[str, NDArray[np.float64]]
    first: _First

    @property
    def count(self) -> int:
        return len(self.question)


@dataclass(frozen=True, slots=True, kw_only=True)
class Answers:
    """The answers of every model, in the order of their shards. `draws` are the first draws that a reader can be shown, None where these are all."""

    models: Sequence[Drawn] = ()
    draws: frozenset[int] | None = None

    @property
    def count(self) -> int:
        return sum(model.count for model in self.models)

    def shown(self, model: Drawn) -> list[Shown]:
        """What can be browsed of one model, by question and draw."""
        return model.first.shown(self.draws)


@dataclass(frozen=True, slots=True, kw_only=True)
class _First:
    """Answers that may be among the first draws of all, with the rows of their scores."""

    columns: Columns
    question: NDArray[np.int64]
    row: NDArray[np.int64]
    scores: Scores | None

    def shown(self, draws: frozenset[int] | None) -> list[Shown]:
        draw = self.columns.whole("draw")
        rows = np.lexsort((draw, self.question))
        rows = rows if draws is None else rows[np.isin(draw[rows], list(draws))]
        found = self.columns.part(rows, *SHOWN).rows()
        return [
            Shown(
                question=question, draw=one["draw"], prompt=one["prompt"], text=one["text"], stop=one["stop"],
                scores=() if self.scores is None else self.scores.of(row),
            )
            for one, question, row in zip(found, self.question[rows].tolist(), self.row[rows].tolist(), strict=True)
        ]  # fmt: skip


def read(run: RunDirectory, scores: Mapping[str, Scores], protocol: Protocol) -> Answers:
    """Every answer, with its scores of `scores` (by the key of a model). Raises SpilloverError for a shard that cannot be read."""
    places = {(question["id"], question["format"]): place for place, question in enumerate(run.identity["questions"])}
    kinds: list[Kind] = [kind_of(question) for question in run.identity["questions"]]
    sizes: dict[int, Counter[str]] = {}
    models: list[Drawn] = []
    draws: frozenset[int] | None = None
    for subject, columns in run.models("answers"):
        question = _questions(columns, places)
        found = scores.get(subject.key)
        row = np.full(len(columns), -1) if found is None else found.rows(columns)
        _add(sizes, columns)
        draws = _first_draws(sizes)
        kept = np.flatnonzero(np.isin(columns.whole("draw"), list(sizes if draws is None else draws)))
        models.append(
            Drawn(
                subject=subject, became=_became(question, found, row, kinds, protocol), question=question,
                scores={name: np.where(row >= 0, rubric.value[row], np.nan) for name, rubric in (found.rubrics if found is not None else {}).items()},
                first=_First(columns=columns.part(kept, *SHOWN), question=question[kept], row=row[kept], scores=found),
            )
        )  # fmt: skip
    return Answers(models=models, draws=draws)


# --- which are shown ------------------------------------------------------------------------------------------------------


def _add(sizes: dict[int, Counter[str]], columns: Columns) -> None:
    """Add to each draw's answers, and the characters of their texts."""
    draws, place = columns.codes("draw")
    answers, characters = np.bincount(place), np.bincount(place, weights=columns.lengths("text")).astype(np.int64)
    for draw, count, length in zip(draws.to_pylist(), answers.tolist(), characters.tolist(), strict=True):
        sizes.setdefault(draw, Counter()).update(answers=count, characters=length)


def _first_draws(sizes: Mapping[int, Counter[str]]) -> frozenset[int] | None:
    """As many first draws as fit, the same number everywhere; at least one. More answers make them no more. None where all fit."""
    total: Counter[str] = Counter()
    fitting: list[int] = []
    for draw in sorted(sizes):
        total += sizes[draw]
        if fitting and (total["answers"] > MOST_ANSWERS or total["characters"] > MOST_TEXT):
            return frozenset(fitting)
        fitting.append(draw)
    return None


# --- what became of them --------------------------------------------------------------------------------------------------


def _questions(columns: Columns, places: Mapping[tuple[str, str], int]) -> NDArray[np.int64]:
    """The place of each answer's question in run.json."""
    (questions, question), (forms, form) = columns.texts("question"), columns.texts("format")
    of = np.array([[places.get((name, dress), -1) for dress in forms] for name in questions], dtype=np.int64)
    found = of[question, form]
    if (found < 0).any():
        raise damaged(columns.path)
    return found


def _became(
    question: NDArray[np.int64], scores: Scores | None, row: NDArray[np.int64], kinds: Sequence[Kind], protocol: Protocol
) -> dict[int, Counter[Outcome]]:  # fmt: skip
    """What answers came to, by question. Those that are scored alike but for the numbers come to the same, so one of each is judged."""
    alike = _alike(question, scores, row, protocol)
    distinct, first, counts = np.unique(alike, return_index=True, return_counts=True)
    found: dict[int, Counter[Outcome]] = {}
    for place in np.argsort(first)[: len(distinct)].tolist():
        one = int(first[place])
        own = () if scores is None else scores.of(int(row[one]))
        outcome = judge(kinds[int(question[one])], own, protocol).outcome
        found.setdefault(int(question[one]), Counter())[outcome] += int(counts[place])
    return found


def _alike(question: NDArray[np.int64], scores: Scores | None, row: NDArray[np.int64], protocol: Protocol) -> NDArray[np.int64]:
    """A number for each answer, the same for those to one question that have scores of the same rubrics, on the same side of every threshold, or lack them
    for the same reasons.
    """
    alike = question
    for name, rubric in scores.rubrics.items() if scores is not None else ():
        at = rubric.at(row)
        sides = {ALIGNED: at.value < protocol.aligned_below, COHERENT: protocol.keeps(at.value), TASK: protocol.is_done(at.value)}
        side = sides.get(name, np.zeros(len(row), dtype=np.bool_))
        kind = np.where(at.there & (row >= 0), 1 + side + 2 * ~np.isnan(at.value) + 4 * (at.label >= 0) + 8 * (at.reason + 1), 0)
        alike = np.unique(alike * (int(kind.max(initial=0)) + 1) + kind, return_inverse=True)[1]
    return alike
