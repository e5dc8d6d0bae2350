"""Answers to scores: a judge's word on every answer, as rows; for a run as it goes, and again later with another judge.

Scores of another judge stand beside the first in shards of their own, so that nothing is overwritten.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, fields
from typing import Any

from pydantic import TypeAdapter

from spillover.records import Answer, Judge, Question, SpilloverError, Subject, digest
from spillover.runs.directory import JUDGED_BY, RunDirectory

FAILED = "failed: "  # how the reason of a call that failed begins
ANSWER = tuple(field.name for field in fields(Answer))
SUBJECT_FIELDS = tuple(field.name for field in fields(Subject))


def scored(rows: Sequence[dict[str, Any]], questions: Sequence[Question], judge: Judge) -> list[dict[str, Any]]:
    """The score rows of one model's answers, in the order of the questions."""
    found: list[dict[str, Any]] = []
    for question in questions:
        asked = [row for row in rows if (row["question"], row["format"]) == (question.id, question.format)]
        scores = judge.score(question, [Answer(**{name: row[name] for name in ANSWER}) for row in asked])
        if len(scores) != len(asked) * len(question.rubrics):
            raise SpilloverError(f"the judge gave {len(scores)} scores for {len(asked)} answers on {len(question.rubrics)} rubrics of {question.id}")
        subject = {name: asked[0][name] for name in SUBJECT_FIELDS} if asked else {}
        found += [{**subject, **asdict(score), "question": question.id, "format": question.format} for score in scores]
    return found


def is_scored(run: RunDirectory, key: str) -> bool:
    """Whether these scores are there and none is missing because a call failed: those are asked for again, what was answered is not."""
    return run.has("scores", key) and not any((row["reason"] or "").startswith(FAILED) for row in run.read("scores", key))


def judge_again(run: RunDirectory, judge: Judge, *, progress: Callable[[int, int, str], None] = lambda _done, _total, _label: None) -> None:
    """Score every answer of a run with this judge; what is already there is kept and skipped."""
    questions = questions_of(run)
    unread = next((q.id for q in questions for rubric in q.rubrics if rubric not in q.prompts), None)
    if unread is not None:
        raise SpilloverError(f"{run.path} asks {unread!r}, which has no judge's prompt in words; only its own judge can score it")
    shards = run.shards("answers")
    if not shards:
        raise SpilloverError(f"{run.path} holds no answers to judge")
    with run.alone():
        for place, path in enumerate(shards):
            progress(place, len(shards), path.stem)
            key = path.stem if judge.identity == run.identity["judge"] else f"{path.stem}{JUDGED_BY}{digest(judge.identity)[:8]}"
            if not is_scored(run, key):
                run.write("scores", key, scored(run.read("answers", path.stem), questions, judge))
    progress(len(shards), len(shards), "scores")


def questions_of(run: RunDirectory) -> tuple[Question, ...]:
    """The questions a run asked, as its run.json holds them."""
    return TypeAdapter(tuple[Question, ...]).validate_python(run.identity["questions"])
