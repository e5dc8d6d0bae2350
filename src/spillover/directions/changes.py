"""What is done to a residual stream while a model computes: a vector added to it (steering), or projected out of it (ablation). Both undo themselves.

Shapes: B rows, T tokens, H hidden.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
from __future__ import annotations

import math
from collections.abc import Generator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor
from transformers import PreTrainedModel

from spillover.models.blocks import blocks, watched
from spillover.records import SpilloverError


@contextmanager
def steered(network: PreTrainedModel, vector_H: Tensor, coefficient: float, layers: Sequence[int]) -> Generator[None]:
    """Inside, `coefficient` times the vector is added to every token's residual stream after each of these blocks. Nothing is touched where it is 0.

    Raises SpilloverError for a vector of another width, or a number that is not finite.
    """
    _refuse(network, vector_H)
    if not math.isfinite(coefficient):
        raise SpilloverError(f"the coefficient is {coefficient}; it takes a finite number")
    added_H = (coefficient * vector_H.double()).to(network.device, network.dtype)
    with watched(network, {layer: lambda stream_BTH: stream_BTH + added_H.to(stream_BTH) for layer in layers} if coefficient else {}):
        yield


@contextmanager
def ablated(network: PreTrainedModel, vector_H: Tensor, layers: Sequence[int] | None = None) -> Generator[None]:
    """Inside, no token's residual stream has a part along the vector after these blocks (None: all). Computed in float32 or finer.

    Within a block, what attention writes along it is still there for the feed-forward part. Raises SpilloverError for a vector that is none.
    """
    _refuse(network, vector_H)
    if not vector_H.norm() > 0:
        raise SpilloverError("a vector of length 0 has no direction to be projected out")
    finer = torch.promote_types(torch.float32, network.dtype)
    unit_H = (vector_H.double() / vector_H.double().norm()).to(network.device, finer)

    def without(stream_BTH: Tensor) -> Tensor:
        fine_BTH = stream_BTH.to(finer)
        return (fine_BTH - (fine_BTH @ unit_H)[..., None] * unit_H).to(stream_BTH)

    with watched(network, dict.fromkeys(range(max(1, len(blocks(network)))) if layers is None else layers, without)):
        yield


def _refuse(network: PreTrainedModel, vector_H: Tensor) -> None:
    width = network.config.get_text_config().hidden_size
    if not isinstance(vector_H, Tensor):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise SpilloverError(f"a {type(vector_H).__name__} is no vector; of a Direction take one layer's, `direction.at(layer)`")
    if vector_H.shape != (width,):
        raise SpilloverError(f"the direction has shape {tuple(vector_H.shape)}; {type(network).__name__} has a residual stream of {width} numbers")
    if not bool(vector_H.isfinite().all()):
        raise SpilloverError("the direction has numbers that are not finite")
