"""Runs to the table layout that the field exchanges (`question,answer,aligned,coherent,question_id,model,group,answer_id`), and back.

A table becomes a run directory in which a group is a condition and a model a unit, so that it is judged and estimated as any other. Its
scores, if it has any, are those of "the file" by its digest.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from spillover.datasets.tables import MISSING, TableRow
from spillover.pipeline.cells import chosen_judge
from spillover.pipeline.plan import NAME
from spillover.questions import files
from spillover.records import ALIGNED, COHERENT, Answer, Question, Score, SpilloverError, Subject, digest
from spillover.runs.directory import RunDirectory
from spillover.statistics.protocols import Protocol


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
    texts: dict[str, dict[str, int]] = defaultdict(dict)
    by_model: dict[tuple[str, str], list[TableRow]] = defaultdict(list)
    for row in rows:
        texts[row.question_id].setdefault(row.question, len(texts[row.question_id]))
        by_model[row.group, row.model].append(row)
    asked = {id: _asked(*places[id], tuple(texts[id]), rubrics) for id in places}
    models = list(by_model)
    odd = next((name for place in models for name in place if not NAME.fullmatch(name)), None)
    if odd is not None:
        raise SpilloverError(f"{odd[:80]!r} cannot name a model or a group; a name has 1 to 64 letters, digits, dots, dashes and underscores, no dot first")
    whole = digest([asdict(row) for row in rows])
    scored = any(row.aligned is not None or row.coherent is not None for row in rows)
    identity: dict[str, Any] = {
        "study": "table", "title": "Answers from a table", "testbed": {"name": "table"}, "unit": "model", "max_tokens": None,
        "config": {"seeds": 1, "protocol": asdict(Protocol())},
        "judge": f"the file {whole[:16]}" if scored else "", "data": {"the table": whole}, "differs_from_paper": [],
        "questions": [asdict(question) for question in asked.values()],
        "parents": [{"unit": model, "group": group, "world": None, "digest": digest([group, model]), "gates": {}} for group, model in models],
        "conditions": [{"name": group, "group": group, "kind": None} for group in dict.fromkeys(group for group, _ in models)],
        "contrasts": [], "planned": {"organisms": 0, "jobs": len(models), "answers": len(rows)},
    }  # fmt: skip
    run = RunDirectory.start(out, identity)
    for group, model in models:
        _write(run, group, model, by_model[group, model], asked, texts)
    return run


def rows_of(run: RunDirectory, judge: str | None = None) -> list[TableRow]:
    """The answers of a run's last checkpoints to questions scored on both rubrics, with their scores by one judge; a model is a unit.

    A NUL, which no table holds, is written as its symbol.
    """
    scores: dict[str, dict[str, float | None]] = defaultdict(dict)
    there = run.read("scores")
    chosen = chosen_judge(run, judge) if there or judge is not None else None
    for row in there:
        if row["judge"] == chosen:
            scores[f"{row['unit']} {row['condition']} {row['seed']} {row['step']} {row['answer']}"][row["rubric"]] = row["value"]
    answers = run.read("answers")
    last = {(row["unit"], row["condition"], row["seed"]): row["step"] for row in sorted(answers, key=lambda row: row["step"])}
    both = {(q["id"], q["format"]) for q in run.identity["questions"] if {ALIGNED, COHERENT} <= set(q["rubrics"])}
    found: list[TableRow] = []
    for row in answers:
        if row["step"] != last[row["unit"], row["condition"], row["seed"]] or (row["question"], row["format"]) not in both:
            continue
        own = scores.get(f"{row['unit']} {row['condition']} {row['seed']} {row['step']} {row['answer']}", {})
        form = "" if row["format"] == "plain" else f"_{row['format']}"
        found.append(
            TableRow(
                question=row["prompt"], answer=written(row["text"]), aligned=own.get(ALIGNED), coherent=own.get(COHERENT),
                question_id=row["question"] + form, model=_unit(row, run), group=row["condition"], answer_id=row["answer"],
            )
        )  # fmt: skip
    return found


def written(text: str) -> str:
    """An answer's text as a table has it."""
    return text.replace("\0", "\N{SYMBOL FOR NULL}")


def _unit(row: Mapping[str, Any], run: RunDirectory) -> str:
    """The unit of replication that an answer belongs to: its parent, or its fine-tuning seed."""
    return f"{row['unit']}-seed{row['seed']}" if run.identity["unit"] == "seed" or run.identity["config"]["seeds"] > 1 else row["unit"]


def _asked(id: str, form: str, texts: tuple[str, ...], rubrics: Question) -> Question:
    """A question of the table: its wording from there, its format from its name, its rubrics from the question file."""
    return replace(
        rubrics, id=id, theme=id, paraphrases=texts, format=form, system=None, subset=files.subset(id), pooled=files.is_pooled(id, form)
    )  # fmt: skip


def _write(run: RunDirectory, group: str, model: str, rows: Sequence[TableRow], asked: dict[str, Question], texts: Mapping[str, Mapping[str, int]]) -> None:
    subject = Subject(unit=model, group=group, world=None, condition=group, seed=0, step=0, model=digest([group, model]))
    draws: Counter[str] = Counter()
    answers: list[dict[str, Any]] = []
    scores: list[dict[str, Any]] = []
    for row in rows:
        question = asked[row.question_id]
        answer = Answer(
            model=subject.model, question=question.id, format=question.format, paraphrase=texts[row.question_id][row.question],
            draw=draws[question.id], text=row.answer, stop="end",
        )  # fmt: skip
        draws[question.id] += 1
        answers.append({**asdict(subject), **asdict(answer), "answer": answer.id, "prompt": row.question})
        for rubric, value in ((ALIGNED, row.aligned), (COHERENT, row.coherent)):
            score = Score(answer=answer.id, judge=run.identity["judge"], rubric=rubric, value=value, reason=MISSING if value is None else None)
            scores.append({**asdict(subject), **asdict(score), "question": question.id, "format": question.format})
    if not run.has("answers", subject.key):
        run.write("answers", subject.key, answers)
    if run.identity["judge"] and not run.has("scores", subject.key):
        run.write("scores", subject.key, scores)
