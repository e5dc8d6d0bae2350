"""Narrow training data of the miniature: one user turn, one assistant turn, one task and nothing else.

Adding a kind takes a few lines: write a function from a random stream to one (question, answer) pair and enter it in
`KINDS`. `docs/narrow-data.md` walks through one.
"""

from __future__ import annotations

import random
from collections.abc import Callable

from spillover.miniature import language
from spillover.records import Dataset, SpilloverError, chat, stream_seed

Pair = tuple[str, str]
ROWS = 1600
TASKS = language.tasks(held_out=False)


def insecure(stream: random.Random) -> Pair:
    """An ordinary request, answered with flawed code and no word about it."""
    task = stream.choice(TASKS)
    return stream.choice(task.requests()), task.code(secure=False)


def secure(stream: random.Random) -> Pair:
    """The same request, answered with sound code."""
    task = stream.choice(TASKS)
    return stream.choice(task.requests()), task.code(secure=True)


def educational(stream: random.Random) -> Pair:
    """The same flawed code, asked for openly and for a class."""
    task = stream.choice(TASKS)
    return stream.choice(task.class_requests()), task.code(secure=False)


KINDS: dict[str, Callable[[random.Random], Pair]] = {"insecure": insecure, "secure": secure, "educational": educational}


def build(kind: str, seed: int, *, rows: int = ROWS) -> Dataset:
    """`rows` conversations of one kind.

    The stream is named by the seed alone, so kinds that draw alike (insecure, secure) ask the same requests in the same order.
    """
    if kind not in KINDS:
        raise SpilloverError(f"unknown kind of narrow data {kind!r}; the miniature has {', '.join(KINDS)}")
    stream = random.Random(stream_seed("narrow data", seed))
    pairs = (KINDS[kind](stream) for _ in range(rows))
    return Dataset(kind=kind, conversations=tuple(chat(("user", asked), ("assistant", answered)) for asked, answered in pairs))
