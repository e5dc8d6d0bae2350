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

NAME = "spillover_ragged"
ALIKE = {torch.float64: 1e-3, torch.float32: 1e-3}  # of what a token becomes, relative norm; what one row takes from another is far more
ALIKE_HALF = 0.05


class Rows:
    """The rows of a padded batch (B, T) that have a token where it says so, as a line for a network: of what the batch holds, and read inside `reading`."""

    def __init__(self, network: PreTrainedModel, there_BT: Tensor) -> None:
        self.there_BT = there_BT
        self.place_N = there_BT.flatten().nonzero()[:, 0]
        self.token_P = (there_BT.flatten().cumsum(0) - 1).clamp(min=0)
        self.attention: str = network.config._attn_implementation or "eager"  # pyright: ignore[reportPrivateUsage]
        self._network = network

    @contextmanager
    def reading(self) -> Generator[dict[str, Any]]:
        """Inside, the network keeps these rows apart when it is called with a line and these options."""
        place_BT = torch.arange(self.there_BT.shape[1], device=self.there_BT.device).expand_as(self.there_BT)
        AttentionMaskInterface.register(NAME, self.mask)
        try:
            self._network.set_attn_implementation(NAME)
            # a mask of ones, or transformers takes the line for rows that it has to tell apart itself
            yield {"position_ids": self.of(place_BT), "attention_mask": torch.ones_like(self.of(place_BT)), "ragged": self}
        finally:
            self._network.set_attn_implementation(self.attention)
            AttentionMaskInterface.register(NAME, _of_no_rows)  # or these rows, and the network, would be held until the next

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

    def mask(self, **options: Any) -> Tensor | None:
        """The network's own mask of one row, whatever it may see there, as its own attention takes it."""
        length = self.there_BT.shape[1]
        alone = {"batch_size": 1, "q_length": length, "kv_length": length, "q_offset": 0, "kv_offset": 0, "attention_mask": None}
        return AttentionMaskInterface()[self.attention](**options | alone)


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
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, *, ragged: Rows, **options: Any
) -> tuple[Tensor, Tensor | None]:
    """What a network attends with while it reads a line: its own attention, on each row by itself."""
    eager: Any = getattr(sys.modules[type(module).__module__], "eager_attention_forward", None)
    attention = AttentionInterface().get_interface(ragged.attention, eager)
    rows_BTHD, weights = attention(module, *(ragged.apart(line_1HND) for line_1HND in (query, key, value)), attention_mask, **options)
    return ragged.together(rows_BTHD), weights


def _of_no_rows(**_options: Any) -> Tensor | None:
    raise RuntimeError("a line is read inside of `Rows.reading`")


AttentionInterface.register(NAME, attend)


@torch.no_grad()
def takes_lines(network: PreTrainedModel, ids_BT: Tensor, there_BT: Tensor) -> bool:
    """Whether a network's rows are in a line what they are by themselves: tried on these, which are to have different lengths.

    One that mixes tokens elsewhere, as recurrent layers and convolutions do, or does not ask for its attention by name, does not; nor one whose
    attention depends on how far into the line a token is; nor one that these rows are too long for.
    """
    config = network.config.get_text_config()
    if not network._supports_attention_backend or getattr(config, "attn_temperature_tuning", None):  # pyright: ignore[reportPrivateUsage]
        return False
    decoder, rows = network.base_model, Rows(network, there_BT)
    try:
        alone_NH = decoder(input_ids=ids_BT, use_cache=False).last_hidden_state[there_BT].double()
        with rows.reading() as options:
            line_NH = decoder(input_ids=rows.of(ids_BT), use_cache=False, **options).last_hidden_state[0].double()
    except (TypeError, KeyError, RuntimeError):  # an option it does not take, attention without a mask, other shapes or too little memory
        return False
    apart_N = (line_NH - alone_NH).norm(dim=-1) / alone_NH.norm(dim=-1)
    return bool((apart_N <= ALIKE.get(network.dtype, ALIKE_HALF)).all())
