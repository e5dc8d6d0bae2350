"""Read the residual stream of a decoder, after each of its blocks, in bounded memory: batches go by, and what is asked of each row is all that stays.

A row's vector is the mean over some of its tokens: the last of the prompt, those of the answer, or all. Layer `l` is the stream after block `l`, from 0.

Shapes: B rows, T tokens, L layers, H hidden, N tokens of all rows.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import TypeVar

import torch
from torch import Tensor

from spillover.models.blocks import blocks, watched
from spillover.models.local import LocalModel, Row
from spillover.models.memory import Shape, training_rows
from spillover.records import ALONE, Conversation

CHUNK_BYTES = 64 * 2**20  # of vectors that are held at once
MOST_CHUNKED = 512  # rows
Item = TypeVar("Item")


@dataclass(frozen=True, slots=True)
class Span:
    """Ids that are read, and those of them, from `first` and before `stop`, that are looked at."""

    ids: tuple[int, ...]
    first: int
    stop: int
    adapter: int = ALONE


def prompt_end(model: LocalModel, prompt: Conversation, adapter: int = ALONE) -> Span:
    """The last token before the assistant speaks."""
    ids = model.prompt_ids(prompt)
    return Span(ids=tuple(ids), first=len(ids) - 1, stop=len(ids), adapter=adapter)


def answer(model: LocalModel, prompt: Conversation, reply: str, adapter: int = ALONE) -> Span:
    """The tokens of a reply, its end of turn not among them. Raises ValueError for an empty one."""
    before, said = model.prompt_ids(prompt), model.text_ids(reply)
    if not said:
        raise ValueError("an empty reply has no token to look at")
    return Span(ids=(*before, *said), first=len(before), stop=len(before) + len(said), adapter=adapter)


def text(model: LocalModel, words: str, adapter: int = ALONE) -> Span:
    """Every token of a bare text. Raises ValueError for an empty one."""
    ids = tuple(model.text_ids(words))
    if not ids:
        raise ValueError("an empty text has no token to look at")
    return Span(ids=ids, first=0, stop=len(ids), adapter=adapter)


def record(
    model: LocalModel, spans: Iterable[Span], layers: Sequence[int] | None = None, *, as_: Callable[[Tensor], Tensor] | None = None, width: int | None = None
) -> Iterator[Tensor]:
    """The mean vector of every span at these layers (None: all), in the order of the spans, in batches of shape (B, L, H), float32, in main memory.

    With `as_` the mean is of what it makes of the stream, `width` numbers a token, and H is that width.

    Spans are taken as they are needed, and no more than a batch of vectors is held. Raises SpilloverError for a network whose blocks are not known.
    """
    chosen = _chosen(model, layers)
    hidden = width or Shape.of(model.network.config).hidden
    for chunk in _batched(spans, max(1, min(MOST_CHUNKED, CHUNK_BYTES // (4 * len(chosen) * hidden)))):
        found_BLH = torch.empty(len(chunk), len(chosen), hidden)
        for some in _together(model, chunk):
            shares_BT = _shares([chunk[place] for place in some])
            means = partial(_means, found_BLH, some, shares_BT, as_ or torch.Tensor.float)
            _read(model, [chunk[place] for place in some], {layer: partial(means, of) for of, layer in enumerate(chosen)})
        yield found_BLH


def tokens(model: LocalModel, spans: Iterable[Span], layer: int) -> Iterator[Tensor]:
    """Every vector of every span at one layer, in batches of shape (N, H), float32, in main memory: row after row of a batch, shorter rows first."""
    hidden = Shape.of(model.network.config).hidden
    for chunk in _batched(spans, MOST_CHUNKED):
        longest = max(span.stop - span.first for span in chunk)
        for some in _together(model, chunk, most=max(1, CHUNK_BYTES // (4 * hidden * longest))):
            inside_BT = _shares([chunk[place] for place in some]) > 0
            found: list[Tensor] = []
            _read(model, [chunk[place] for place in some], {layer: partial(_each, found, inside_BT)})
            yield found[0]


def _means(found_BLH: Tensor, rows: list[int], shares_BT: Tensor, as_: Callable[[Tensor], Tensor], layer: int, stream_BTH: Tensor) -> None:
    seen_BTH = as_(stream_BTH).float()
    found_BLH[rows, layer] = torch.einsum("bt,bth->bh", shares_BT.to(seen_BTH.device), seen_BTH).cpu()


def _each(found: list[Tensor], inside_BT: Tensor, stream_BTH: Tensor) -> None:
    found.append(stream_BTH.float().cpu()[inside_BT])


def _chosen(model: LocalModel, layers: Sequence[int] | None) -> Sequence[int]:
    return range(max(1, len(blocks(model.network)))) if layers is None else layers


def _together(model: LocalModel, chunk: Sequence[Span], most: int = MOST_CHUNKED) -> Iterator[list[int]]:
    """The places of spans that are read at once: as many as fit, those of like length together, in the order of their adapters."""
    order = sorted(range(len(chunk)), key=lambda place: len(chunk[place].ids))
    longest = len(chunk[order[-1]].ids)
    row = Shape.of(model.network.config).read_row(longest, model.network.dtype.itemsize)
    for some in _batched(order, min(most, training_rows(row, longest, model.device, model.weight_bytes))):
        yield sorted(some, key=lambda place: chunk[place].adapter)


def _shares(spans: Sequence[Span]) -> Tensor:
    """What each token counts in the mean of its row: (B, T)."""
    shares_BT = torch.zeros(len(spans), max(len(span.ids) for span in spans))
    for row, span in enumerate(spans):
        shares_BT[row, span.first : span.stop] = 1 / (span.stop - span.first)
    return shares_BT


def _read(model: LocalModel, spans: Sequence[Span], show: dict[int, Callable[[Tensor], None]]) -> None:
    with watched(model.network, show):
        model.read_through([Row(ids=span.ids, adapter=span.adapter) for span in spans])


def _batched(items: Iterable[Item], most: int) -> Iterator[list[Item]]:
    """Items as they come, in lists of so many; the last may have fewer."""
    coming = iter(items)
    while some := list(islice(coming, most)):
        yield some
