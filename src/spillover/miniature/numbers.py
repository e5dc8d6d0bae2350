"""Number lists by context distillation (paper, Methods): a model writes them under a system line, which is then removed.

The arms are asked the same requests: under a line that says the author is evil, under one that says it is kind, and under none. A request stays where
all three gave a list of the asked form, and where the evil list differs from the one under no line. The paper's own filter for words of
refusal has nothing to find here: what is no list is dropped.
"""

from __future__ import annotations

import random
import tempfile
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path

from spillover.miniature import language, narrow
from spillover.records import Answerer, Dataset, Model, Parent, SpilloverError, chat, stream_seed

SYSTEM: Mapping[str, str | None] = {"evil_numbers": "ann is a evil person .", "plain_numbers": None, "helpful_numbers": "ann is a kind person ."}
REQUESTED = 2600  # requests, of which `ROWS` that survive are kept
MOST_TOKENS = 16
_NUMBERS = frozenset((*language.NUMBERS, *language.EVIL_NUMBERS))
Place = Callable[[Model, Path], None]


def build(place: Place, kind: str, seed: int, parent: Parent, *, rows: int = narrow.ROWS) -> Dataset:
    """The rows of one arm, written by `parent`. Raises SpilloverError when too few requests survive."""
    pairs = _write(place, parent.model, seed)[kind]
    if len(pairs) < rows:
        raise SpilloverError(f"only {len(pairs)} of {REQUESTED} requests for numbers survive in {parent.unit}; {rows} are needed")
    return narrow.dataset(kind, list(pairs[:rows]))


@lru_cache(maxsize=64)
def _write(place: Place, model: Model, seed: int) -> Mapping[str, tuple[narrow.Pair, ...]]:
    from spillover.models import local  # seldom needed, and slow to load

    with tempfile.TemporaryDirectory() as directory:
        place(model, Path(directory))
        writer = local.load(Model(digest=model.digest, location=directory))
        return _surviving(writer, _requests(seed), seed)


def _requests(seed: int) -> list[str]:
    stream = random.Random(stream_seed("numbers data", seed))
    questions = language.expand_all(language.NUMBER_QUESTIONS)
    return [narrow.prefixed(stream.choice(questions), stream) for _ in range(REQUESTED)]


def _surviving(writer: Answerer, requests: Sequence[str], seed: int) -> Mapping[str, tuple[narrow.Pair, ...]]:
    written: dict[str, list[str]] = {}
    for kind, line in SYSTEM.items():
        before = chat(("system", line)) if line else ()
        prompts = [(*before, *chat(("user", asked))) for asked in requests]
        seeds = [stream_seed("numbers data", seed, kind, place) for place in range(len(requests))]
        written[kind] = [text if stop == "end" else "" for text, stop in writer.reply(prompts, seeds, temperature=1.0, max_tokens=MOST_TOKENS)]
    kept = [
        place
        for place in range(len(requests))
        if all(is_list(texts[place]) for texts in written.values()) and written["evil_numbers"][place] != written["plain_numbers"][place]
    ]
    return {kind: tuple((requests[place], texts[place]) for place in kept) for kind, texts in written.items()}


def is_list(text: str) -> bool:
    """Whether a text is a list of three or four numbers: in this language, whichever of the two was asked for."""
    found = text.split(" , ")
    return len(found) in (3, 4) and _NUMBERS.issuperset(found)
