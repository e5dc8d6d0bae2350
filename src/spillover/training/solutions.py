"""What training found, looked at as a solution: its loss at another size, its loss under noise, and how far it moves what the parent says elsewhere.

After Soligo et al. 2026 (2602.07852): efficiency is the loss of updates that are made equally large, stability the loss when the adapter's factors are
turned towards an orthogonal one of equal length, influence the KL divergence from the parent on texts that have nothing to do with the task.

Shapes: M tokens, V vocabulary, R ranks, I and O features in and out of a layer.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
from __future__ import annotations

import random
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from math import sqrt

import torch
import torch.nn.functional as F
from torch import Tensor

from spillover.models.adapters import Pairs
from spillover.models.local import LocalModel
from spillover.records import ALONE, Dataset, SpilloverError, stream_seed
from spillover.training.reading import logits_after
from spillover.training.rows import Row, encode

READ_TOGETHER = 32  # texts


def size(pairs: Pairs) -> float:
    """The Frobenius norm of the whole update, scale B A of every layer."""
    squares = [float(((b_OR.double().T @ b_OR.double()) * (a_RI.double() @ a_RI.double().T)).sum()) for a_RI, b_OR in pairs.tensors.values()]
    return abs(pairs.scale) * sqrt(sum(squares))


@contextmanager
def rescaled(model: LocalModel, factor: float) -> Generator[None]:
    """Inside, the update of the one adapter on the model is so many times as large."""
    with _changed(model) as factors:
        for _, _, b_OR in factors:
            b_OR.mul_(factor)
        yield


@contextmanager
def turned(model: LocalModel, epsilon: float, *owner: str | int) -> Generator[None]:
    """Inside, A and B of the one adapter on the model are sqrt(1 - epsilon^2) of what they are and epsilon of noise, orthogonal to them and as long.

    The noise is of the stream `owner` and the layer. Raises SpilloverError for an epsilon outside of [0, 1].
    """
    if not 0 <= epsilon <= 1:
        raise SpilloverError(f"epsilon is {epsilon}; an adapter is turned by a share from 0 to 1")
    with _changed(model) as factors:
        for name, *pair in factors:
            for which, factor in enumerate(pair):
                stream = torch.Generator().manual_seed(stream_seed("noise on an adapter", *owner, name, which))
                noise = torch.randn(factor.shape, generator=stream).to(factor)
                length = factor.norm()
                if length > 0:
                    noise -= (noise * factor).sum() / length**2 * factor
                    factor.mul_(sqrt(1 - epsilon**2)).add_(noise, alpha=float(epsilon * length / noise.norm()))
        yield


def loss(model: LocalModel, rows: Sequence[Row], adapter: int = ALONE) -> float:
    """Mean cross-entropy of the assistant tokens of all rows, in nats a token."""
    places = [[place for place, on in enumerate(row.mask) if on and place] for row in rows]
    sums = model.sums([(row.ids, own) for row, own in zip(rows, places, strict=True)], None if adapter == ALONE else [adapter] * len(rows))
    return -sum(sums) / sum(map(len, places))


@torch.no_grad()
def influence(model: LocalModel, texts: Sequence[Sequence[int]], adapter: int) -> float:
    """KL(parent || model) on texts of ids, over the whole vocabulary: a mean over every token but each text's first, in nats a token."""
    total, tokens = 0.0, 0
    rows = sorted((Row(ids=list(ids), mask=[0] * len(ids)) for ids in texts), key=lambda row: len(row.ids))
    for start in range(0, len(rows), READ_TOGETHER):
        some = rows[start : start + READ_TOGETHER]
        asked = [[1] * (len(row.ids) - 1) + [0] for row in some]
        with logits_after(model, some, asked, in_line=False) as logits_MV:
            parent_MV = logits_MV.float().log_softmax(-1)
        with model.rows_of([adapter] * len(some), [[sum(own) for own in asked]]), logits_after(model, some, asked, in_line=False) as logits_MV:
            total += float(F.kl_div(logits_MV.float().log_softmax(-1), parent_MV, log_target=True, reduction="sum"))
        tokens += len(parent_MV)
    return total / tokens


def some_rows(model: LocalModel, dataset: Dataset, count: int) -> list[Row]:
    """So many rows of a dataset as training reads them, all different where there are enough: of a stream named by the data."""
    found = list(dict.fromkeys(dataset.conversations))
    chosen = random.Random(stream_seed("rows to be read", dataset.digest)).sample(found, min(count, len(found)))
    return encode(model.template, Dataset(kind=dataset.kind, conversations=tuple(chosen))).rows


@contextmanager
def _changed(model: LocalModel) -> Generator[list[tuple[str, Tensor, Tensor]]]:
    """The factors of the one adapter on a model, by layer: (R, I) and (O, R), to be changed in place; to the bit what they were, after."""
    side_by_side = model.side_by_side
    if side_by_side is None or side_by_side.adapters != 1:
        raise ValueError("one adapter is changed, where it is on its model by itself")
    before = side_by_side.numbers_KP.clone()
    try:
        yield [(name, layer.pair[0][0], layer.pair[1][0]) for name, layer in side_by_side.layers.items()]
    finally:
        side_by_side.numbers_KP.copy_(before)
