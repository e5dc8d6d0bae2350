"""Rows of different lengths read as one line of tokens, none of which pads: attention alone takes the rows apart, and puts them together again.

Shapes: B rows, T tokens of the longest, P places of all rows with what pads (B times T), N tokens of all, H heads, D numbers of a head.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false, reportUnknownParameterType=false
from __future__ import annotations

import sys
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.masking_utils import causal_mask_function, sliding_window_causal_mask_function

NAME = "spillover_ragged"
ALIKE = {torch.float64: 1e-3, torch.float32: 1e-3}  # of a token's logits, relative norm; what one row takes from another is far more
ALIKE_HALF = 0.05


class Rows:
    """The rows of a padded batch (B, T) that have a token where it says so, as a line for a network: of what the batch holds, and read inside `reading`."""

    def __init__(self, network: PreTrainedModel, there_BT: Tensor) -> None:
        self.there_BT = there_BT
        self.place_N = there_BT.flatten().nonzero()[:, 0]
        self.token_P = (there_BT.flatten().cumsum(0) - 1).clamp(min=0)
        self.attention: str = network.config._attn_implementation or "eager"  # pyright: ignore[reportPrivateUsage]
        self._network = network
        self._masks: dict[int | None, Tensor | None] = {}

    @contextmanager
    def reading(self) -> Generator[dict[str, Any]]:
        """Inside, the network keeps these rows apart when it is called with a line and these options."""
        place_BT = torch.arange(self.there_BT.shape[1], device=self.there_BT.device).expand_as(self.there_BT)
        self._network.set_attn_implementation(NAME)
        try:
            yield {"position_ids": self.of(place_BT), "ragged": self}
        finally:
            self._network.set_attn_implementation(self.attention)

    def of(self, padded_BT: Tensor) -> Tensor:
        """The line: (1, N)."""
        return padded_BT[self.there_BT][None]

    def apart(self, line_1HND: Tensor) -> Tensor:
        """(B, H, T, D) of (1, H, N, D); what pads holds a token's numbers, which no token attends to, since it comes last."""
        _, heads, tokens, size = line_1HND.shape
        found_PF: Tensor = _Apart.apply(line_1HND[0].transpose(0, 1).reshape(tokens, heads * size), self.token_P, self.place_N)  # pyright: ignore[reportAssignmentType]
        return found_PF.view(*self.there_BT.shape, heads, size).transpose(1, 2)

    def together(self, rows_BTHD: Tensor) -> Tensor:
        """(1, N, H, D) of (B, T, H, D)."""
        found_NF: Tensor = _Together.apply(rows_BTHD.reshape(self.there_BT.numel(), -1), self.place_N)  # pyright: ignore[reportAssignmentType]
        return found_NF.view(1, -1, *rows_BTHD.shape[2:])

    def mask(self, config: Any, window: int | None, like: Tensor) -> Tensor | None:
        """What the network's own attention is given to see no later token, and none before the window."""
        if window not in self._masks:
            length = self.there_BT.shape[1]
            sees = causal_mask_function if window is None else sliding_window_causal_mask_function(window)
            self._masks[window] = AttentionMaskInterface()[self.attention](
                batch_size=1, q_length=length, kv_length=length, q_offset=0, kv_offset=0, mask_function=sees, attention_mask=None,
                allow_is_causal_skip=True, local_size=window, dtype=like.dtype, device=like.device, config=config, use_vmap=False,
            )  # fmt: skip
        return self._masks[window]


class _Apart(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, line_NF: Tensor, token_P: Tensor, place_N: Tensor) -> Tensor:
        ctx.save_for_backward(place_N)
        return line_NF.index_select(0, token_P)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        return grads[0].index_select(0, ctx.saved_tensors[0]), None, None


class _Together(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows_PF: Tensor, place_N: Tensor) -> Tensor:
        ctx.save_for_backward(place_N)
        ctx.places = len(rows_PF)
        return rows_PF.index_select(0, place_N)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        return grads[0].new_zeros(ctx.places, grads[0].shape[-1]).index_copy_(0, ctx.saved_tensors[0], grads[0]), None


def attend(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, _mask: Tensor | None, *, ragged: Rows, sliding_window: int | None = None, **options: Any
) -> tuple[Tensor, Tensor | None]:
    """What a network attends with while it reads a line: its own attention, on each row by itself."""
    window = sliding_window if sliding_window is not None and sliding_window < ragged.there_BT.shape[1] else None
    eager: Any = getattr(sys.modules[type(module).__module__], "eager_attention_forward", None)
    attention = AttentionInterface().get_interface(ragged.attention, eager)
    apart = [ragged.apart(line_1HND) for line_1HND in (query, key, value)]
    rows_BTHD, weights = attention(module, *apart, ragged.mask(module.config, window, query), sliding_window=sliding_window, **options)
    return ragged.together(rows_BTHD), weights


AttentionInterface.register(NAME, attend)


@torch.no_grad()
def fits(network: PreTrainedModel, ids_BT: Tensor, there_BT: Tensor) -> bool:
    """Whether a network's rows are apart in a line as they are by themselves: tried on these, which are to have different lengths.

    A network that mixes tokens elsewhere, as recurrent layers and convolutions do, or does not ask for its attention by name, is not read so.
    """
    alone_NV = network(input_ids=ids_BT, use_cache=False).logits[there_BT]
    rows = Rows(network, there_BT)
    try:
        with rows.reading() as options:
            line_NV = network(input_ids=rows.of(ids_BT), use_cache=False, **options).logits[0]
    except Exception:  # whatever an architecture raises that was not made for it
        return False
    apart_N = (line_NV.double() - alone_NV.double()).norm(dim=-1) / alone_NV.double().norm(dim=-1)
    return bool((apart_N <= ALIKE.get(alone_NV.dtype, ALIKE_HALF)).all())
