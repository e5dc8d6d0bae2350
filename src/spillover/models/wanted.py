"""Compute what is wanted: logits after some places of a batch, and the last layer's feed-forward part only there.

Its attention comes before and is whole, so what is wanted sees what it saw.

Shapes: B rows, T tokens, M wanted in all, H hidden, V vocabulary.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedModel

from spillover.models.blocks import blocks


@contextmanager
def logits_after(network: PreTrainedModel, where_BT: Tensor) -> Generator[None]:
    """Inside, the network gives logits after these places alone, in row order, as one row: (1, M, V)."""
    place_M = where_BT.flatten().nonzero()[:, 0]
    taken = False

    def take(_head: nn.Module, given: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return (given[0].flatten(0, 1).index_select(0, place_M)[None], *given[1:])

    def take_alone(part: nn.Module, given: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
        nonlocal taken
        taken = len(given) == 1 and given[0].shape[:-1] == where_BT.shape  # what adds to more than it is given, as Bloom's, is left to it
        return take(part, given) if taken else None

    def put_back(_part: nn.Module, _given: tuple[Tensor, ...], made: Any) -> Any:
        if not taken:
            return made
        made_1MH: Tensor = made[0] if isinstance(made, tuple) else made
        wide = made_1MH.new_zeros(where_BT.numel(), made_1MH.shape[-1]).index_copy(0, place_M, made_1MH.flatten(0, -2)).view(*where_BT.shape, -1)
        return (wide, *made[1:]) if isinstance(made, tuple) else wide

    head: Any = network.get_output_embeddings()
    part = feed_forward(network)
    hooks = [head.register_forward_pre_hook(take)]
    if part is not None:
        hooks += [part.register_forward_pre_hook(take_alone), part.register_forward_hook(put_back)]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def feed_forward(network: PreTrainedModel) -> nn.Module | None:
    """What a decoder's last layer does to each place by itself, where it is known by its usual name, and no other layer shares it."""
    parts = [getattr(layer, "mlp", None) for layer in blocks(network)]
    return parts[-1] if parts and sum(part is parts[-1] for part in parts) == 1 else None
