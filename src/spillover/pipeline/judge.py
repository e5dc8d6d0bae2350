"""Answers to scores: a judge's word on every answer, as rows; for a run as it goes, and again later with another judge.

Scores of another judge stand beside the first in shards of their own, so that nothing is overwritten.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, fields
from typing import Any

from pydantic import TypeAdapter

from spillover.records import Answer, Judge, Question, SpilloverError, Subject, digest
from spillover.runs.directory import JUDGED_BY, RunDirectory

FAILED = "failed: "  # how the reason of a call that failed begins
ANSWER = tuple(field.name for field in fields(Answer))
SUBJECT_FIELDS = tuple(field.name for field in fields(Subject))


def scored(
    rows: Sequence[dict[str, Any]], questions: Sequence[Question], judge: Judge, kept: Mapping[str, Sequence[dict[str, Any]]] | None = None
) -> list[dict[str, Any]]:
    """The score rows of one model's answers, in the order of the questions; `kept` are those that are there already, by answer."""
    known = {answer: list(scores) for answer, scores in (kept or {}).items()}
    found: list[dict[str, Any]] = []
    for question in questions:
        asked = [row for row in rows if (row["question"], row["format"]) == (question.id, question.format)]
        fresh = [row for row in asked if row["answer"] not in known]
        scores = judge.score(question, [Answer(**{name: row[name] for name in ANSWER}) for row in fresh])
        if len(scores) != len(fresh) * len(question.rubrics):
            raise SpilloverError(f"the judge gave {len(scores)} scores for {len(fresh)} answers on {len(question.rubrics)} rubrics of {question.id}")
        subject = {name: asked[0][name] for name in SUBJECT_FIELDS} if asked else {}
        for score in scores:
            known.setdefault(score.answer, []).append({**subject, **asdict(score), "question": question.id, "format": question.format})
        found += [score for row in asked for score in known[row["answer"]]]
    return found


def is_scored(run: RunDirectory, key: str) -> bool:
    """Whether the scores of all these answers are there and none is missing because a call failed: those are asked for again, what was answered is not."""
    answers = {row["answer"] for row in run.read("answers", key.partition(JUDGED_BY)[0])}
    return run.has("scores", key) and scores_kept(run, key).keys() == answers


def scores_kept(run: RunDirectory, key: str) -> dict[str, list[dict[str, Any]]]:
    """The scores that are there, by answer, of answers whose every score is there: none is missing because a call failed."""
    if not run.has("scores", key):
        return {}
    found: dict[str, list[dict[str, Any]]] = {}
    for row in run.read("scores", key):
        found.setdefault(row["answer"], []).append(row)
    return {answer: rows for answer, rows in found.items() if not any((row["reason"] or "").startswith(FAILED) for row in rows)}


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
                run.write("scores", key, scored(run.read("answers", path.stem), questions, judge, scores_kept(run, key)))
    progress(len(shards), len(shards), "scores")


def questions_of(run: RunDirectory) -> tuple[Question, ...]:
    """The questions a run asked, as its run.json holds them."""
    return TypeAdapter(tuple[Question, ...]).validate_python(run.identity["questions"])
