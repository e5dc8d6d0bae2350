"""What one judge made of one model's answers, an answer a row: the rows of a shard of scores, which are a score each, laid beside each other."""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false, reportMissingTypeStubs=false
# pyright: reportUnknownParameterType=false, reportAttributeAccessIssue=false
from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from math import isnan

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from spillover.records import SpilloverError, Subject
from spillover.runs.directory import RunDirectory
from spillover.runs.shards import Columns


@dataclass(frozen=True, slots=True, kw_only=True)
class Scored:
    """One score as its row has it: a value, a label or a reason."""

    rubric: str
    value: float | None
    label: str | None
    reason: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Rubric:
    """The scores of one rubric by answer: `there` says which answers have one. A value that is missing is NaN; `label` and `reason` are places
    in `labels` and `reasons`, or -1.
    """

    there: NDArray[np.bool_]
    value: NDArray[np.float64]
    label: NDArray[np.int64]
    reason: NDArray[np.int64]
    labels: list[str]
    reasons: list[str]

    @property
    def count(self) -> int:
        """How many answers have a score."""
        return int(self.there.sum())

    def missing(self) -> Counter[str]:
        """How many answers have which reason for no score."""
        places: list[int] = self.reason[self.reason >= 0].tolist()
        return Counter(self.reasons[place] for place in places)

    def are(self, label: str) -> NDArray[np.bool_]:
        """Which answers have this label."""
        return self.label == (self.labels.index(label) if label in self.labels else len(self.labels))

    def at(self, rows: NDArray[np.int64]) -> Rubric:
        """The scores of some answers."""
        return replace(self, there=self.there[rows], value=self.value[rows], label=self.label[rows], reason=self.reason[rows])

    def scored(self, name: str, row: int) -> Scored:
        value, label, reason = float(self.value[row]), int(self.label[row]), int(self.reason[row])
        return Scored(
            rubric=name, value=None if isnan(value) else value, label=None if label < 0 else self.labels[label],
            reason=None if reason < 0 else self.reasons[reason],
        )  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Scores:
    """One model's answers as a judge scored them, in the order in which they first come: of which question of `asked` each is, and its scores by rubric."""

    subject: Subject
    judge: str
    dates: tuple[str, ...]
    asked: list[tuple[str, str]]  # question and format
    question: NDArray[np.int64]
    answers: pa.StringArray
    rubrics: Mapping[str, Rubric]

    def by_question(self) -> Iterator[tuple[tuple[str, str], Mapping[str, Rubric]]]:
        """The scores of the answers to each question, by rubric."""
        for place, asked in enumerate(self.asked):
            rows = np.flatnonzero(self.question == place)
            found = {name: rubric.at(rows) for name, rubric in self.rubrics.items()}
            yield asked, {name: rubric for name, rubric in found.items() if rubric.there.any()}

    def rows(self, answers: Columns) -> NDArray[np.int64]:
        """The row of each of the answers in a shard; -1 where it was not scored."""
        return pc.index_in(answers.table.column("answer").cast(pa.string()), self.answers).fill_null(-1).to_numpy().astype(np.int64)

    def of(self, row: int) -> tuple[Scored, ...]:
        """The scores of one answer."""
        return tuple(rubric.scored(name, row) for name, rubric in self.rubrics.items() if rubric.there[row]) if row >= 0 else ()


def scores(run: RunDirectory) -> Iterator[Scores]:
    """The scores of every model by every judge, in the order of their shards. Raises SpilloverError for a shard that cannot be read."""
    for subject, columns in run.models("scores"):
        yield _laid_out(subject, columns)


def _laid_out(subject: Subject, columns: Columns) -> Scores:
    ids, row = columns.codes("answer")
    asked, question = _asked(columns, row, len(ids))
    rubrics, rubric = columns.texts("rubric")
    value = columns.numbers("value")
    (labels, label), (reasons, reason) = columns.texts("label"), columns.texts("reason")

    def of(place: int) -> Rubric:
        own = rubric == place
        rows, count = row[own], len(ids)
        found = Rubric(
            there=np.zeros(count, dtype=np.bool_), value=np.full(count, np.nan), label=np.full(count, -1), reason=np.full(count, -1),
            labels=labels, reasons=reasons,
        )  # fmt: skip
        found.there[rows], found.value[rows], found.label[rows], found.reason[rows] = True, value[own], label[own], reason[own]
        return found

    return Scores(
        subject=subject, judge=columns.one("judge"), dates=tuple(date for date in columns.texts("date")[0] if date), asked=asked, question=question,
        answers=ids, rubrics={name: of(place) for place, name in enumerate(rubrics)},
    )  # fmt: skip


def _asked(columns: Columns, row: NDArray[np.int64], count: int) -> tuple[list[tuple[str, str]], NDArray[np.int64]]:
    """What was asked, in the order in which it first comes, and of which it each answer is."""
    (questions, question), (forms, form) = columns.texts("question"), columns.texts("format")
    both = question * len(forms) + form
    of_answer = np.zeros(count, dtype=np.int64)
    of_answer[row] = both
    if (of_answer[row] != both).any():
        raise SpilloverError(f"{columns.path} has scores of one answer to two questions; delete it and give the same command again")
    distinct, first, place = np.unique(of_answer, return_index=True, return_inverse=True)
    order = np.argsort(first)
    asked = [(questions[found // len(forms)], forms[found % len(forms)]) for found in distinct[order].tolist()]
    return asked, np.argsort(order)[place]
