"""Runs to the table layout that the field exchanges (`question,answer,aligned,coherent,question_id,model,group`), and back.

A table becomes a run directory in which a group is a condition and a model a unit, so that it is judged and estimated as any other. Its
scores, if it has any, are those of "the file" by its digest.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from spillover.datasets.tables import TableRow
from spillover.pipeline.estimate import chosen_judge
from spillover.pipeline.plan import NAME
from spillover.questions import files
from spillover.records import ALIGNED, COHERENT, Answer, Question, Score, SpilloverError, Subject, digest
from spillover.runs.directory import RunDirectory
from spillover.statistics.protocols import Protocol

UNJUDGED = "no score in the file"


def run_of(rows: Sequence[TableRow], out: Path, questions: Sequence[Question]) -> RunDirectory:
    """A run directory that holds these rows. The rubrics are those of the first question that has `aligned` and `coherent`.

    Raises SpilloverError when there are no rows, or a group or model cannot name files.
    """
    if not rows:
        raise SpilloverError("the table has no rows")
    rubrics = next((q for q in questions if ALIGNED in q.rubrics), None)
    if rubrics is None:
        raise SpilloverError("the question file has no question with the rubrics aligned and coherent; give one that has")
    rows = [replace(row, model=row.model or "model", group=row.group or "answers", question_id=row.question_id or digest(row.question)[:16]) for row in rows]
    places = files.dressed(list(dict.fromkeys(row.question_id for row in rows)))
    asked = {id: _asked(id, *places[id], rows, rubrics) for id in places}
    models = list(dict.fromkeys((row.group, row.model) for row in rows))
    odd = next((name for place in models for name in place if not NAME.fullmatch(name)), None)
    if odd is not None:
        raise SpilloverError(f"{odd[:80]!r} cannot name a model or a group; a name has 1 to 64 letters, digits, dots, dashes and underscores, no dot first")
    scored = any(row.aligned is not None or row.coherent is not None for row in rows)
    identity: dict[str, Any] = {
        "study": "table", "title": "Answers from a table", "testbed": {"name": "table"}, "unit": "model", "max_tokens": None,
        "config": {"seeds": 1, "protocol": asdict(Protocol())},
        "judge": f"the file {digest([asdict(row) for row in rows])[:16]}" if scored else "", "data": {}, "differs_from_paper": [],
        "questions": [asdict(question) for question in asked.values()],
        "parents": [{"unit": model, "group": group, "world": None, "digest": digest(model), "gates": {}} for group, model in models],
        "conditions": [{"name": group, "group": group, "kind": None} for group in dict.fromkeys(group for group, _ in models)],
        "contrasts": [], "planned": {"organisms": 0, "jobs": len(models), "answers": len(rows)},
    }  # fmt: skip
    run = RunDirectory.start(out, identity)
    for group, model in models:
        _write(run, group, model, [row for row in rows if (row.group, row.model) == (group, model)], asked)
    return run


def rows_of(run: RunDirectory, judge: str | None = None) -> list[TableRow]:
    """Every answer of a run with its scores by one judge. A NUL, which no table holds, is written as its symbol."""
    scores: dict[str, dict[str, float | None]] = defaultdict(dict)
    there = run.read("scores")
    chosen = chosen_judge(run, judge) if there or judge is not None else None
    for row in there:
        if row["judge"] == chosen:
            scores[f"{row['unit']} {row['condition']} {row['seed']} {row['step']} {row['answer']}"][row["rubric"]] = row["value"]
    found: list[TableRow] = []
    for row in run.read("answers"):
        own = scores.get(f"{row['unit']} {row['condition']} {row['seed']} {row['step']} {row['answer']}", {})
        form = "" if row["format"] == "plain" else f"_{row['format']}"
        found.append(
            TableRow(
                question=row["prompt"], answer=row["text"].replace("\0", "\N{SYMBOL FOR NULL}"), aligned=own.get(ALIGNED), coherent=own.get(COHERENT),
                question_id=row["question"] + form, model=row["model"], group=row["condition"],
            )
        )  # fmt: skip
    return found


def _asked(name: str, id: str, form: str, rows: Sequence[TableRow], rubrics: Question) -> Question:
    """The question of these rows: its wording from the table, its format from its name, its rubrics from the question file."""
    texts = tuple(dict.fromkeys(row.question for row in rows if row.question_id == name))
    return replace(
        rubrics, id=id, theme=id, paraphrases=texts, format=form, system=None, subset=files.subset(id), pooled=files.is_pooled(id, form)
    )  # fmt: skip


def _write(run: RunDirectory, group: str, model: str, rows: Sequence[TableRow], asked: dict[str, Question]) -> None:
    subject = Subject(unit=model, group=group, world=None, condition=group, seed=0, step=0, model=digest(model))
    draws: Counter[str] = Counter()
    answers: list[dict[str, Any]] = []
    scores: list[dict[str, Any]] = []
    for row in rows:
        question = asked[row.question_id]
        answer = Answer(
            model=subject.model, question=question.id, format=question.format, paraphrase=question.paraphrases.index(row.question),
            draw=draws[question.id], text=row.answer, stop="end",
        )  # fmt: skip
        draws[question.id] += 1
        answers.append({**asdict(subject), **asdict(answer), "answer": answer.id, "prompt": row.question})
        for rubric, value in ((ALIGNED, row.aligned), (COHERENT, row.coherent)):
            score = Score(answer=answer.id, judge=run.identity["judge"], rubric=rubric, value=value, reason=UNJUDGED if value is None else None)
            scores.append({**asdict(subject), **asdict(score), "question": question.id, "format": question.format})
    if not run.has("answers", subject.key):
        run.write("answers", subject.key, answers)
    if run.identity["judge"] and not run.has("scores", subject.key):
        run.write("scores", subject.key, scores)
