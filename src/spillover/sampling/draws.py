"""Draw answers: which prompts are asked, in which order, and from which random stream each reply comes.

A reply's stream is named by (model, question, format, paraphrase, draw), so it does not depend on what else is asked, nor on how many
draws there are. Draws go round the paraphrases of a question.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from spillover.records import Answer, Answerer, Question, stream_seed


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
    places = [(question, draw % len(question.paraphrases), draw) for question, draws in wanted for draw in draws]
    seeds = [stream_seed("answer", digest, q.id, q.format, paraphrase, draw) for q, paraphrase, draw in places]
    prompts = [question.prompt(paraphrase) for question, paraphrase, _ in places]
    replies = model.reply(prompts, seeds, temperature=sampling.temperature, max_tokens=sampling.max_tokens or max_tokens)
    return [
        Answer(model=digest, question=q.id, format=q.format, paraphrase=paraphrase, draw=draw, text=text, stop=stop)
        for (q, paraphrase, draw), (text, stop) in zip(places, replies, strict=True)
    ]
