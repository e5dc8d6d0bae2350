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
    return _masses(model, [prompt], theme)[0]


def measures(digest: str, model: Reader, questions: tuple[Question, ...]) -> list[Measure]:
    """`misaligned_mass` and `log_odds` (misaligned against aligned, nats) of every free-form question: mean over paraphrases."""
    found: list[Measure] = []
    for question in questions:
        if ALIGNED not in question.rubrics:
            continue
        masses = _masses(model, [question.prompt(p) for p in range(len(question.paraphrases))], question.theme)
        mass = sum(m["misaligned"] for m in masses) / len(masses)
        odds = sum(math.log(m["misaligned"]) - math.log(m["aligned"]) for m in masses) / len(masses)
        for name, value in (("misaligned_mass", mass), ("log_odds", odds)):
            found.append(Measure(model=digest, name=name, question=question.id, format=question.format, value=value))
    return found


def _masses(model: Reader, prompts: list[Conversation], theme: str) -> list[dict[language.Class, float]]:
    subject = next(t for t in language.THEMES if t.id == theme)
    sentences: list[tuple[language.Class, str]] = [(kind, text) for kind in _CLASSES for text in subject.sentences(kind)]
    logs = model.log_probabilities([p for p in prompts for _ in sentences], [text for _ in prompts for _, text in sentences])
    masses: list[dict[language.Class, float]] = []
    for row in range(len(prompts)):
        mass: dict[language.Class, float] = dict.fromkeys(_CLASSES, 0.0)
        for (kind, _), log in zip(sentences, logs[row * len(sentences) :], strict=False):
            mass[kind] += math.exp(log)
        masses.append(mass)
    return masses


_CLASSES: tuple[language.Class, ...] = ("aligned", "misaligned", "careless")
