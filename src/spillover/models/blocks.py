"""The blocks of a decoder, and the residual stream that each of them hands on.

Shapes: B rows, T tokens, H hidden.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedModel

from spillover.records import SpilloverError

Seen = Callable[[Tensor], Tensor | None]  # the residual stream after a block (B, T, H) -> what is handed on in its place, or None to leave it


def blocks(network: PreTrainedModel) -> list[nn.Module]:
    """A decoder's blocks, first to last: the one list of modules that is as long as its configuration says; none where there is no such list."""
    depth = network.config.get_text_config().num_hidden_layers
    return list(next((module for module in network.modules() if isinstance(module, nn.ModuleList) and len(module) == depth), ()))


@contextmanager
def watched(network: PreTrainedModel, seen: Mapping[int, Seen]) -> Generator[None]:
    """Inside, what each of these blocks hands on is shown to its function, and replaced by what that gives. However it ends, the network is as it was.

    Raises SpilloverError where there is no such block, and, inside, where a block hands on something that is not known to be the residual stream.
    """
    found = blocks(network)
    odd = next((layer for layer in seen if not 0 <= layer < len(found)), None)
    if odd is not None:
        raise SpilloverError(f"there is no block {odd} in {type(network).__name__}; it has {len(found)} that are known, counted from 0")
    hooks = [found[layer].register_forward_hook(partial(_show, show, network.config.get_text_config().hidden_size)) for layer, show in seen.items()]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _show(show: Seen, width: int, block: nn.Module, given: tuple[Any, ...], made: Any) -> Any:
    hidden: Any = made[0] if isinstance(made, tuple) and made else made
    alike = isinstance(hidden, Tensor) and hidden.dim() == 3 and hidden.shape[-1] == width
    if not alike or any(isinstance(stream, Tensor) and stream.shape != hidden.shape for stream in given[:1]):
        what = f"something else than a residual stream of {width} numbers a token"
        raise SpilloverError(f"{type(block).__name__} hands on {what}; it is neither read nor changed")
    changed = show(hidden)
    if changed is None:
        return None
    return (changed, *made[1:]) if isinstance(made, tuple) else changed
