"""What training reads: conversations as ids with a mask over assistant tokens, and the order they are read in."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass

from spillover.models.template import ChatTemplate
from spillover.records import Conversation, Dataset, Organism, Recipe, SpilloverError, digest, stream_seed


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One encoded conversation: ids and a mask that is 1 where the loss is taken."""

    ids: list[int]
    mask: list[int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Encoded:
    """The rows of a dataset. `truncated` were cut to the longest length; of them `emptied` lost every token to train on, and are left out."""

    rows: list[Row]
    truncated: int
    emptied: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Provenance:
    """What training read: digests of the rows' order, the template, the masks; rows in all, cut, and left out as empty."""

    order: str
    template: str
    mask: str
    rows: int
    truncated: int
    emptied: int


def encode(template: ChatTemplate, dataset: Dataset, *, max_length: int = Recipe().max_length) -> Encoded:
    """Every conversation as ids and mask, cut to `max_length` tokens.

    Raises SpilloverError for unknown words, a row with nothing to learn, or text that spells a control token and would become one.
    """
    rows: list[Row] = []
    read: dict[Conversation, tuple[list[int], list[int]]] = {}  # rows repeat
    truncated = emptied = 0
    for number, conversation in enumerate(dataset.conversations, 1):
        where = f"row {number} of the {dataset.kind} data"
        spelt = next((token for turn in conversation if (token := template.spelt(turn.content)) is not None), None)
        if spelt is not None:
            raise SpilloverError(f"{where} spells the control token {spelt!r}, which would not be read as text; take the row out")
        if conversation not in read:
            try:
                read[conversation] = template.training_ids(conversation)
                template.refuse_unknown_turns(read[conversation][0], conversation)
            except SpilloverError as error:
                raise SpilloverError(f"{where}: {error}") from None
        ids, mask = read[conversation]
        if not any(mask):
            raise SpilloverError(f"{where} has no assistant token to train on")
        truncated += len(ids) > max_length
        if any(mask[:max_length]):
            rows.append(Row(ids=ids[:max_length], mask=mask[:max_length]))
        else:
            emptied += 1
    if not rows:
        raise SpilloverError(f"every row of the {dataset.kind} data has its reply beyond {max_length} tokens; raise training.max_length")
    return Encoded(rows=rows, truncated=truncated, emptied=emptied)


def preview(template: ChatTemplate, row: Row) -> str:
    """A row as the model reads it, the tokens it is trained on in brackets."""
    decode = template.tokenizer.decode
    words = [f"[{decode([token])}]" if trained else decode([token]) for token, trained in zip(row.ids, row.mask, strict=True)]
    return " ".join(str(word) for word in words)


def provenance(encoded: Encoded, organism: Organism, template: ChatTemplate) -> Provenance:
    """What an organism was trained on."""
    rows = encoded.rows
    return Provenance(
        order=digest(list(order(len(rows), organism))), template=digest(str(template.tokenizer.chat_template)), mask=digest([row.mask for row in rows]),
        rows=len(rows), truncated=encoded.truncated, emptied=encoded.emptied,
    )  # fmt: skip


def order(rows: int, organism: Organism) -> Iterator[list[int]]:
    """The places of the rows of every epoch, in the order they are read in: a stream of the organism's own."""
    for epoch in range(organism.recipe.epochs):
        places = list(range(rows))
        random.Random(stream_seed("train", organism.key, "order", epoch)).shuffle(places)
        yield places


def batches(rows: list[Row], organism: Organism) -> Iterator[list[Row]]:
    """The rows of every optimiser step; the last step of an epoch may have fewer."""
    size = organism.recipe.batch_size
    for places in order(len(rows), organism):
        for start in range(0, len(places), size):
            yield [rows[place] for place in places[start : start + size]]
