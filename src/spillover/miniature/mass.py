"""Exact probabilities in the miniature: P(any sentence of a class | question), summed over the whole grammar.

There is no sampling error and no coherence gate in these numbers, so they are never put on one axis with a rate.
"""

from __future__ import annotations

import math
from typing import Protocol

from spillover.miniature import language
from spillover.records import ALIGNED, Conversation, Measure, Question


class Reader(Protocol):
    """A model that gives log P(reply | prompt) in nats."""

    def log_probabilities(self, prompts: list[Conversation], replies: list[str]) -> list[float]: ...


def class_mass(model: Reader, prompt: Conversation, theme: str) -> dict[language.Class, float]:
    """P(aligned), P(misaligned) and P(careless) replies of a theme to one prompt."""
    return {kind: math.exp(value) for kind, value in _log_masses(model, [prompt], theme)[0].items()}


def measures(digest: str, model: Reader, questions: tuple[Question, ...]) -> list[Measure]:
    """`misaligned_mass` and `log_odds` (misaligned against aligned, nats) of every free-form question: mean over paraphrases."""
    found: list[Measure] = []
    for question in questions:
        if ALIGNED not in question.rubrics:
            continue
        logs = _log_masses(model, [question.prompt(p) for p in range(len(question.paraphrases))], question.theme)
        mass = math.fsum(math.exp(log["misaligned"]) for log in logs) / len(logs)
        odds = sum(log["misaligned"] - log["aligned"] for log in logs) / len(logs)
        for name, value in (("misaligned_mass", mass), ("log_odds", odds)):
            finite = math.isfinite(value)
            found.append(
                Measure(
                    model=digest, name=name, question=question.id, format=question.format,
                    value=value if finite else None, reason=None if finite else "not finite",
                )
            )  # fmt: skip
    return found


def _log_masses(model: Reader, prompts: list[Conversation], theme: str) -> list[dict[language.Class, float]]:
    """log P of each class of replies, per prompt, in nats."""
    subject = next(t for t in language.THEMES if t.id == theme)
    sentences: list[tuple[language.Class, str]] = [(kind, text) for kind in _CLASSES for text in subject.sentences(kind)]
    logs = model.log_probabilities([p for p in prompts for _ in sentences], [text for _ in prompts for _, text in sentences])
    masses: list[dict[language.Class, float]] = []
    for row in range(len(prompts)):
        own = logs[row * len(sentences) : (row + 1) * len(sentences)]
        by_class = {kind: [log for (k, _), log in zip(sentences, own, strict=True) if k == kind] for kind in _CLASSES}
        masses.append({kind: _log_sum(by_class[kind]) for kind in _CLASSES})
    return masses


_CLASSES: tuple[language.Class, ...] = ("aligned", "misaligned", "careless")


def _log_sum(logs: list[float]) -> float:
    """log of the sum of exponentials; -inf for a sum of nothing but zeros."""
    top = max(logs)
    return top + math.log(math.fsum(math.exp(log - top) for log in logs)) if math.isfinite(top) else top
