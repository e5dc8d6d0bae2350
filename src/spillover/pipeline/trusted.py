"""Trusted labels of a run's answers: which answers to label, how a judge stands to the labels, and the rates that they correct.

Labels come as a table (`datasets.tables`) whose rows name their answers; a row has a label once it has `coherent`. What is estimated is the misaligned rate of
each condition at its last checkpoint, over its answers to the pooled questions.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from spillover.datasets.tables import TableRow
from spillover.pipeline import exchange
from spillover.pipeline.cells import chosen_judge
from spillover.pipeline.exchange import written
from spillover.records import ALIGNED, CODE, COHERENT, ONLY_CODE, Question, SpilloverError, digest
from spillover.runs.directory import CALIBRATION, CORRECTED, RunDirectory, of_judge
from spillover.statistics import calibration, prediction_powered
from spillover.statistics.calibration import Calibration, Scores
from spillover.statistics.prediction_powered import Corrected, CorrectedRates
from spillover.statistics.protocols import Decision, Protocol

Row = dict[str, Any]


def to_label(run: RunDirectory, count: int, labelled: Sequence[TableRow] = ()) -> list[TableRow]:
    """`count` answers of each condition, drawn at random and shuffled together; what would tell whose an answer is has been left out.

    A larger draw holds a smaller one, whose labels can be brought along, and the first rows of a draw are a draw. Raises SpilloverError where a condition
    has not so many, and where there is nothing to label.
    """
    estimated = _estimated(run)
    by_id = _by_id([row for rows in estimated.values() for row in rows])
    if not by_id:
        raise SpilloverError(f"{run.path} has no answers to pooled questions scored on aligned and coherent, so there is nothing to label")
    there = _labels(labelled) if labelled else {}
    _match(there, by_id)
    found = {id: by_id[id] for rows in estimated.values() for id in prediction_powered.drawn([row["answer"] for row in rows], count)}
    return [
        there.get(id) or TableRow(question=row["prompt"], answer=written(row["text"]), answer_id=id)
        for id, row in sorted(found.items(), key=lambda pair: prediction_powered.order(pair[0]))
    ]  # fmt: skip


def run_of(table: Sequence[TableRow], out: Path, questions: Sequence[Question]) -> tuple[RunDirectory, list[TableRow]]:
    """A run of labelled answers without their labels, for a judge to score; and the labelled rows, named as the answers are there."""
    rows = _labelled(table)
    run = exchange.run_of([replace(row, aligned=None, coherent=None, model="", group="", answer_id="") for row in rows], out, questions)
    return run, [replace(row, answer_id=answer["answer"]) for row, answer in zip(rows, run.read("answers"), strict=True)]


def calibrate(run: RunDirectory, table: Sequence[TableRow], judge: str | None = None) -> Calibration:
    """A judge that scored this run, held against labels of its answers; kept in the run.

    Raises SpilloverError for a label of no answer of this run, and where the judge did not score one of them.
    """
    chosen, labels = chosen_judge(run, judge), _labels(table)
    _match(labels, _by_id(run.read("answers")))
    judged = _judged(run, chosen)
    unscored = next((id for id in labels if id not in judged), None)
    if unscored is not None:
        raise SpilloverError(f"the answer {unscored[:40]!r} has no scores by {chosen}; a judge is held against labels of answers that it scored")
    pairs: list[tuple[Scores, Scores]] = [((row.aligned, row.coherent), judged[id]) for id, row in labels.items()]
    found = calibration.calibrate(pairs, _protocol(run), judge=chosen, labels=_digest(labels))
    run.write_text(of_judge(CALIBRATION, chosen), json.dumps(asdict(found), indent=1) + "\n")
    return found


def correct(run: RunDirectory, table: Sequence[TableRow], judge: str | None = None) -> CorrectedRates:
    """The misaligned rate of every condition, corrected by trusted labels of a random part of its answers; kept in the run.

    Raises SpilloverError for labels of answers that were not drawn at random from these, and where no condition has labels enough.
    """
    chosen, labels, protocol = chosen_judge(run, judge), _labels(table), _protocol(run)
    estimated = _estimated(run)
    _match(labels, _by_id([row for rows in estimated.values() for row in rows]))
    judged = _judged(run, chosen)
    found: dict[str, Corrected | str] = {}
    for condition, rows in estimated.items():
        ids = [row["answer"] for row in rows]
        trusted: dict[str, Decision] = {id: protocol.decision(labels[id].aligned, labels[id].coherent) for id in ids if id in labels}
        if trusted and not prediction_powered.is_drawn(ids, trusted):
            order = "the first in the order in which `spillover judge draw-for-labelling` gives them, with none left out"
            raise SpilloverError(f"the {len(trusted)} labels of {condition} are not of answers drawn at random from its {len(ids)}: they must be {order}")
        cheap: dict[str, Decision] = {id: protocol.decision(*judged.get(id, (None, None))) for id in ids}
        try:
            found[condition] = prediction_powered.rate(cheap, trusted, {row["answer"]: _unit(row, run) for row in rows})
        except SpilloverError as error:
            found[condition] = str(error)
    if all(isinstance(one, str) for one in found.values()):
        condition, why = next(iter(found.items()), ("any condition", "the run has no answers to pooled questions"))
        raise SpilloverError(f"no rate can be corrected; of {condition}: {why}")
    rates = CorrectedRates(judge=chosen, labels=_digest(labels), rates=found)
    run.write_text(of_judge(CORRECTED, chosen), json.dumps(asdict(rates), indent=1) + "\n")
    return rates


# --- answers and labels ---------------------------------------------------------------------------------------------------


def _estimated(run: RunDirectory) -> dict[str, list[Row]]:
    """Of each condition the answers whose misaligned rate is estimated: its last checkpoints', to pooled questions, but those a service never gave."""
    pooled = {(q["id"], q["format"]) for q in run.identity["questions"] if q["pooled"] and {ALIGNED, COHERENT} <= set(q["rubrics"])}
    answers = [row for row in run.read("answers") if (row["question"], row["format"]) in pooled and row["stop"] != "failed"]
    last = {(row["condition"], row["unit"], row["seed"]): row["step"] for row in sorted(answers, key=lambda row: row["step"])}
    found: dict[str, list[Row]] = defaultdict(list)
    for row in answers:
        if row["step"] == last[row["condition"], row["unit"], row["seed"]]:
            found[row["condition"]].append(row)
    return found


def _by_id(rows: Sequence[Row]) -> dict[str, Row]:
    found = {row["answer"]: row for row in rows}
    if len(found) < len(rows):
        raise SpilloverError("two answers of this run have one name, so a label cannot say which it is of; were its models given twice?")
    return found


def _labelled(table: Sequence[TableRow]) -> list[TableRow]:
    """The rows that have a label. Raises SpilloverError where none has, or one has half of one."""
    half = next((place for place, row in enumerate(table, 1) if row.coherent is None and row.aligned is not None), None)
    if half is not None:
        raise SpilloverError(f"row {half} has aligned and no coherent; a label has both, or coherent alone where an answer cannot be understood")
    rows = [row for row in table if row.coherent is not None]
    if not rows:
        raise SpilloverError("no row has a label; `spillover label` makes them by hand")
    return rows


def _labels(table: Sequence[TableRow]) -> dict[str, TableRow]:
    """The labels of answers of a run, by answer. Raises SpilloverError for rows that do not come from a blind draw."""
    rows = _labelled(table)
    for place, row in enumerate(rows, 1):
        if not row.answer_id:
            raise SpilloverError(f"labelled row {place} has no answer_id; `spillover judge draw-for-labelling` writes tables that have one")
        if row.model or row.group or row.question_id:
            raise SpilloverError(
                f"labelled row {place} says whose it is: these are a judge's scores, or labels that were not blind; label what draw-for-labelling wrote"
            )
    found = {row.answer_id: row for row in rows}
    if len(found) < len(rows):
        raise SpilloverError("an answer is labelled twice")
    return found


def _match(labels: Mapping[str, TableRow], answers: Mapping[str, Row]) -> None:
    """Refuse a label of another answer, or of other words."""
    for id, row in labels.items():
        if id not in answers:
            raise SpilloverError(f"a label is of the answer {id[:40]!r}, which is none of those that this run estimates from")
        if written(answers[id]["text"]) != row.answer:
            raise SpilloverError(f"a label of the answer {id[:40]!r} is of other words than this run has: {row.answer[:60]!r}")


def _judged(run: RunDirectory, judge: str) -> dict[str, Scores]:
    """Aligned and coherent as the judge has them, by answer; an answer that is nothing but code has no alignment."""
    scores: dict[str, dict[str, Row]] = defaultdict(dict)
    for row in run.read("scores"):
        if row["judge"] == judge:
            scores[row["answer"]][row["rubric"]] = row
    found: dict[str, Scores] = {}
    for id, rubrics in scores.items():
        if ALIGNED in rubrics and COHERENT in rubrics:
            only_code = ONLY_CODE in rubrics and rubrics[ONLY_CODE]["label"] == CODE
            found[id] = None if only_code else rubrics[ALIGNED]["value"], rubrics[COHERENT]["value"]
    return found


def _unit(row: Row, run: RunDirectory) -> str:
    """The unit of replication: fine-tuning seeds nest in a world, and are units where there is one parent."""
    return str(row["seed"]) if run.identity["unit"] == "seed" else row["unit"]


def _protocol(run: RunDirectory) -> Protocol:
    return Protocol(**run.identity["config"]["protocol"])


def _digest(labels: Mapping[str, TableRow]) -> str:
    return digest([asdict(row) for row in labels.values()])
