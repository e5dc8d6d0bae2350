"""Draw answers: which prompts are asked, in which order, and from which random stream each reply comes.

A reply's stream is named by (model, question, format, paraphrase, draw), so it does not depend on what else is asked, nor on how many
draws there are. Draws go round the paraphrases of a question.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from spillover.records import ALONE, Answer, Answerer, Question, stream_seed

Wanted = tuple[str, Sequence[tuple[Question, range]]]  # a model's digest, and which draws of which questions


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """How answers are drawn: draws per question, temperature, and the limit on tokens of a reply (None: the testbed's)."""

    draws: int = 100
    temperature: float = 1.0
    max_tokens: int | None = None


def sample(model: Answerer, digest: str, questions: Sequence[Question], sampling: Sampling, *, max_tokens: int) -> list[Answer]:
    """`draws` answers to every question, in question and draw order."""
    return sample_draws(model, digest, [(question, range(sampling.draws)) for question in questions], sampling, max_tokens=max_tokens)


def sample_draws(model: Answerer, digest: str, wanted: Sequence[tuple[Question, range]], sampling: Sampling, *, max_tokens: int) -> list[Answer]:
    """These draws of each question: the same answers as of any call that includes them."""
    return sample_together(model, {ALONE: (digest, wanted)}, sampling, max_tokens=max_tokens)[ALONE]


def sample_together(model: Answerer, wanted: Mapping[int, Wanted], sampling: Sampling, *, max_tokens: int) -> dict[int, list[Answer]]:
    """These draws of several models, by their places among the adapters that `model` holds; their rows share batches."""
    asked = [
        (place, digest, question, draw % len(question.paraphrases), draw)
        for place, (digest, questions) in wanted.items() for question, draws in questions for draw in draws
    ]  # fmt: skip
    seeds = [stream_seed("answer", digest, q.id, q.format, paraphrase, draw) for _, digest, q, paraphrase, draw in asked]
    prompts = [question.prompt(paraphrase) for _, _, question, paraphrase, _ in asked]
    adapters = {} if set(wanted) == {ALONE} else {"adapters": [place for place, *_ in asked]}
    replies = model.reply(prompts, seeds, temperature=sampling.temperature, max_tokens=sampling.max_tokens or max_tokens, **adapters)
    found: dict[int, list[Answer]] = {place: [] for place in wanted}
    for (place, digest, q, paraphrase, draw), (text, stop) in zip(asked, replies, strict=True):
        found[place].append(Answer(model=digest, question=q.id, format=q.format, paraphrase=paraphrase, draw=draw, text=text, stop=stop))
    return found
