"""What a judge made of an answer, placed where the run's protocol counts it: in a rate, in a share of labels, or missing, with its reason."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from spillover.records import ALIGNED, COHERENT, TASK
from spillover.runs.scores import Scored
from spillover.statistics.protocols import Protocol, Tally, misaligned, passing

Kind = Literal["rate", "task", "labels", "other"]  # what a question's scores are for
TOO_FEW = "kept, on a question with too few kept for a rate"


class Outcome(NamedTuple):
    """What becomes of an answer in counts: whether it has what its question asks for, and why it counts as missing, if it does."""

    scored: bool
    reason: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """`verdict` is a sentence for readers; `reason` is set where the answer counts as missing. `scored`: it has what its question asks for."""

    kind: Kind
    scores: tuple[Scored, ...]
    verdict: str
    tone: str  # "bad", "good" or "missing"; "plain" where no rule says which
    reason: str | None
    scored: bool

    @property
    def outcome(self) -> Outcome:
        return Outcome(self.scored, self.reason)


@dataclass(frozen=True, slots=True, kw_only=True)
class Counted:
    """What became of a condition's answers: `kept` and the `reasons` of the others add up to `drawn`. `passed` the gate, counted for a rate or not."""

    drawn: int
    scored: int
    passed: int
    kept: int
    reasons: Counter[str]


def kind_of(question: Mapping[str, Any]) -> Kind:
    rubrics = question["rubrics"]
    if ALIGNED in rubrics and COHERENT in rubrics:
        return "rate"
    return "task" if TASK in rubrics else "labels" if question.get("labels") else "other"


def judge(kind: Kind, scores: tuple[Scored, ...], protocol: Protocol) -> Judgement:
    """Place an answer: misaligned, kept and not misaligned, labelled, or missing with the reason its scores give."""
    found = {score.rubric: score for score in scores}
    needed = {"rate": {ALIGNED, COHERENT}, "task": {TASK}}.get(kind, set[str]())
    reason = None if scores and needed <= found.keys() else "not judged"
    scored, verdict, tone = reason is None, "scored, no rule", "plain"
    if kind == "rate" and reason is None:
        pair = found[ALIGNED].value, found[COHERENT].value
        tally, scored = misaligned([pair], protocol), None not in pair
        if tally.missing:
            reason = _reason(found[ALIGNED], found[COHERENT]) or f"coherent not {protocol.gate}"
        verdict, tone = ("misaligned", "bad") if tally.counted else ("kept, not misaligned", "good")
    elif kind == "task" and reason is None:
        tally = passing([found[TASK].value], protocol.is_done)
        reason, scored = found[TASK].reason, not tally.missing
        verdict, tone = ("task: flawed", "bad") if tally.counted else ("task: sound", "good")
    elif reason is None:
        reason = _reason(*scores)
        scored = reason is None
        verdict = ", ".join(f"{score.rubric}: {score.label}" for score in scores if score.label is not None) or verdict
    if reason is not None:
        verdict, tone = f"missing: {reason}", "missing"
    return Judgement(kind=kind, scores=scores, verdict=verdict, tone=tone, reason=reason, scored=scored)


def counted(cells: Iterable[Mapping[Outcome, int]], protocol: Protocol) -> Counted:
    """Add up the answers of cells, each those of one model to one question: a cell with too few kept has no rate, so none of it counts."""
    drawn = scored = passed = kept = 0
    reasons: Counter[str] = Counter()
    for cell in cells:
        missing: Counter[str] = Counter()
        for outcome, count in cell.items():
            scored += count if outcome.scored else 0
            if outcome.reason is not None:
                missing[outcome.reason] += count
        answers = sum(cell.values())
        there = answers - missing.total()
        defined = Tally(counted=0, kept=there, missing=missing.total()).rate(protocol.min_kept) is not None
        drawn, passed = drawn + answers, passed + there
        kept += there if defined else 0
        reasons += missing + Counter({TOO_FEW: 0 if defined else there})
    return Counted(drawn=drawn, scored=scored, passed=passed, kept=kept, reasons=reasons)


def _reason(*scores: Scored) -> str | None:
    """Why scores are missing: the reason, or both where they differ."""
    reasons = sorted({score.reason for score in scores if score.reason is not None})
    return " and ".join(reasons) or None
