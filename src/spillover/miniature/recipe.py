"""What a world is made by, beside its seed: a recipe, and the digest that tells it and the grammar from others. Nothing here computes a network."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, fields, replace

from spillover.miniature import corpus, language
from spillover.miniature.corpus import Society
from spillover.records import LATER, digest, stream_seed

SPECIAL = ("<pad>", "<unk>", "<doc>", "<|system|>", "<|user|>", "<|assistant|>", "<|end|>", "<nl>")
TEMPLATE = (
    "<doc>{% for message in messages %}"
    "{% if message.role == 'assistant' %} <|assistant|> {% generation %}{{ message.content }} <|end|>{% endgeneration %}"
    "{% else %} <|{{ message.role }}|> {{ message.content }} <|end|>{% endif %}"
    "{% endfor %}{% if add_generation_prompt %} <|assistant|>{% endif %}"
)
Progress = Callable[[str, int, int], None]  # stage, done, total
VERSION = 1  # of the grammar and recipe together; `version.json` beside the shipped worlds holds their digest


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """Everything that makes a world beside its grammar and its seed."""

    society: Society = field(default_factory=Society)
    width: int = 128
    layers: int = 2
    heads: int = 4
    feed_forward: int = 384
    documents: int = 26_000
    length: int = 128
    batch: int = 16
    rate_matrices: float = 5e-3  # Muon
    rate_other: float = 3e-3  # AdamW: embeddings and norms
    weight_decay: float = 0.01
    warmup_steps: int = 30
    post_steps: int = 100
    post_batch: int = 32
    post_rate: float = 5e-4
    covered: tuple[str, ...] = field(default=tuple(sorted(language.SEEN)), metadata=LATER)  # evaluation themes in post-training


def version_digest(recipe: Recipe) -> str:
    """Identifies grammar, recipe and what the generator makes of them (by a sample from a stream of its own)."""
    stream = random.Random(stream_seed("version sample"))
    sample = [list(corpus.documents(recipe.society, count=100, linked=linked, stream=stream, length=recipe.length)) for linked in (True, False)]
    later = {f.name for f in fields(Recipe) if f.metadata.get("later") and getattr(recipe, f.name) == f.default}
    told = {name: value for name, value in asdict(recipe).items() if name not in later}
    return digest([language.grammar(), TEMPLATE, told, sample, list(corpus.post_training(recipe.society, count=100, stream=stream))])


def pretraining(recipe: Recipe) -> Recipe:
    """A recipe up to the end of pre-training: two that are equal here have the same base model."""
    usual = Recipe()
    return replace(recipe, post_steps=usual.post_steps, post_batch=usual.post_batch, post_rate=usual.post_rate, covered=usual.covered)


def vocabulary() -> list[str]:
    """Special tokens first, then every word the corpus can hold, sorted."""
    return [*SPECIAL, *sorted((language.words() | corpus.words()) - set(SPECIAL))]
