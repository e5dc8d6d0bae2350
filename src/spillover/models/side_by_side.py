"""Several LoRA adapters on one frozen network, resident together and in one batch.

The rows of a batch lie in the order of their adapters. The base's matrix products are one for all rows; a low-rank product is each adapter's own. What an
adapter gets does not depend on its neighbours: their ranks are made equal with zeros, which stay zeros in training, and so are pairs that an adapter lacks.

Shapes: K adapters, B rows, N places (rows times tokens), I and O features in and out of a layer, R ranks.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false, reportUnknownParameterType=false
from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from spillover.models.adapters import Pairs

Dropout = Callable[[str, Tensor], Tensor]  # a layer's name and its input -> what the input is multiplied with


class SideBySide:
    """Adapters put on a network, which they leave with `remove`. Only the adapters' pairs are trained, and only if `trained`."""

    def __init__(self, network: nn.Module, adapters: Sequence[Pairs], *, trained: bool = False) -> None:
        self.counts: list[int] | None = None  # rows of each adapter in the batch under way; None: the base alone
        self.dropout: Dropout | None = None
        self.scale_B = torch.zeros(0)
        self.adapters = len(adapters)
        self._network, self._adapters = network, adapters
        network.requires_grad_(False)
        names = dict.fromkeys(name for adapter in adapters for name in adapter.tensors)
        self.layers = {name: _Beside(name, network.get_submodule(name), adapters, self, trained) for name in names}
        for name, layer in self.layers.items():
            _put(network, name, layer)

    @property
    def bytes(self) -> int:
        """What the pairs take, without gradients."""
        return sum(p.numel() * p.element_size() for layer in self.layers.values() for p in (layer.a_KRI, layer.b_KOR))

    def remove(self) -> None:
        """Give the network its own layers back."""
        for name, layer in self.layers.items():
            _put(self._network, name, layer.base)

    @contextmanager
    def rows(self, counts: Sequence[int] | None, dropout: Dropout | None = None) -> Generator[None]:
        """What the network computes inside: a batch with so many rows of each adapter, in their order."""
        self.counts, self.dropout = None if counts is None else list(counts), dropout
        if counts is not None:
            device = next(self._network.parameters()).device
            scales = [adapter.scale for adapter, count in zip(self._adapters, counts, strict=True) for _ in range(count)]
            self.scale_B = torch.tensor(scales, dtype=torch.float64).to(device)
        try:
            yield
        finally:
            self.counts = self.dropout = None

    def parameters_of(self, place: int) -> list[nn.Parameter]:
        """One adapter's numbers, to be trained: views, and so are their gradients."""
        found: list[nn.Parameter] = []
        for layer in self.layers.values():
            for stacked in (layer.a_KRI, layer.b_KOR):
                if stacked.grad is None:
                    stacked.grad = torch.zeros_like(stacked)
                one = nn.Parameter(stacked.data[place])
                one.grad = stacked.grad[place]
                found.append(one)
        return found

    def clear_gradients(self) -> None:
        for layer in self.layers.values():
            for stacked in (layer.a_KRI, layer.b_KOR):
                if stacked.grad is not None:
                    stacked.grad.zero_()

    def pairs(self, place: int) -> dict[str, tuple[Tensor, Tensor]]:
        """One adapter's pairs by layer, as they are now: (R, I) and (O, R)."""
        found: dict[str, tuple[Tensor, Tensor]] = {}
        for name, (a, _) in self._adapters[place].tensors.items():
            layer = self.layers[name]
            found[name] = layer.a_KRI[place, : len(a)].detach().cpu().clone(), layer.b_KOR[place, :, : len(a)].detach().cpu().clone()
        return found


class _Beside(nn.Module):
    """A frozen linear layer with a low-rank pair of every adapter."""

    def __init__(self, name: str, base: nn.Module, adapters: Sequence[Pairs], all_: SideBySide, trained: bool) -> None:
        super().__init__()
        assert isinstance(base, nn.Linear)
        self.name, self.base, self._all = name, base, (all_,)  # in a tuple, so that it is no part of the network
        weight = base.weight
        rank = max(len(adapter.tensors[name][0]) for adapter in adapters if name in adapter.tensors)
        kind: Any = {"dtype": torch.promote_types(torch.float32, weight.dtype), "device": weight.device}
        a_KRI, b_KOR = torch.zeros(len(adapters), rank, base.in_features, **kind), torch.zeros(len(adapters), base.out_features, rank, **kind)
        for place, adapter in enumerate(adapters):
            if name in adapter.tensors:
                a, b = adapter.tensors[name]
                a_KRI[place, : len(a)], b_KOR[place, :, : len(a)] = a, b
        self.a_KRI, self.b_KOR = nn.Parameter(a_KRI, requires_grad=trained), nn.Parameter(b_KOR, requires_grad=trained)

    def forward(self, x: Tensor) -> Tensor:
        (beside,) = self._all
        if beside.counts is None:
            return self.base(x)
        places = x.shape[:-1].numel() // sum(beside.counts)  # of one row
        sizes = [count * places for count in beside.counts]
        kept = beside.dropout(self.name, x) if beside.dropout is not None else None
        y: Tensor = _Product.apply(x, kept, self.base.weight, self.base.bias, self.a_KRI.to(x.dtype), self.b_KOR.to(x.dtype), beside.scale_B, sizes)  # pyright: ignore[reportAssignmentType]
        return y


class _Product(torch.autograd.Function):
    """x W' + bias + scale (x A') B', every row with its own adapter's A and B. W and the bias are frozen."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, kept: Tensor | None, weight: Tensor, bias: Tensor | None, a_KRI: Tensor, b_KOR: Tensor, scale_B: Tensor, sizes: list[int]
    ) -> Tensor:
        x_NI = (x if kept is None else x * kept).reshape(-1, x.shape[-1])
        low_NR = _scaled(_by_adapter(x_NI, a_KRI.mT, sizes), scale_B)
        y = F.linear(x, weight, bias)
        _by_adapter(low_NR, b_KOR.mT, sizes, y.view(-1, y.shape[-1]))
        ctx.save_for_backward(x_NI, low_NR, kept, weight, a_KRI, b_KOR, scale_B)
        ctx.sizes = sizes
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x_NI, low_NR, kept, weight, a_KRI, b_KOR, scale_B = ctx.saved_tensors
        dy = grads[0]
        dy_NO = dy.reshape(-1, dy.shape[-1])
        dlow_NR = _scaled(_by_adapter(dy_NO, b_KOR, ctx.sizes), scale_B)
        da_KRI = _across(dlow_NR, x_NI, ctx.sizes) if ctx.needs_input_grad[4] else None
        db_KOR = _across(dy_NO, low_NR, ctx.sizes) if ctx.needs_input_grad[5] else None
        dx: Tensor | None = None
        if ctx.needs_input_grad[0]:
            dx_NI = dy_NO @ weight
            if kept is None:
                _by_adapter(dlow_NR, a_KRI, ctx.sizes, dx_NI)
                dx = dx_NI.view(*dy.shape[:-1], -1)
            else:
                dx = dx_NI.view(*dy.shape[:-1], -1) + _by_adapter(dlow_NR, a_KRI, ctx.sizes).view_as(kept) * kept
        return dx, None, None, None, da_KRI, db_KOR, None, None


def _by_adapter(x_NI: Tensor, w_KIO: Tensor, sizes: list[int], into: Tensor | None = None) -> Tensor:
    """x_k W_k for the places of every adapter, added to `into` where there is one: (N, O)."""
    if len(set(sizes)) == 1:
        x_KNI = x_NI.view(len(sizes), sizes[0], -1)
        if into is None:
            return torch.bmm(x_KNI, w_KIO).view(len(x_NI), -1)
        into.view(len(sizes), sizes[0], -1).baddbmm_(x_KNI, w_KIO)
        return into
    out = x_NI.new_zeros(len(x_NI), w_KIO.shape[-1]) if into is None else into
    for x, w, y in zip(x_NI.split(sizes), w_KIO, out.split(sizes), strict=True):
        if len(x):
            y.addmm_(x, w)
    return out


def _across(x_NI: Tensor, y_NO: Tensor, sizes: list[int]) -> Tensor:
    """x_k' y_k for the places of every adapter: (K, I, O)."""
    if len(set(sizes)) == 1:
        return torch.bmm(x_NI.view(len(sizes), sizes[0], -1).mT, y_NO.view(len(sizes), sizes[0], -1))
    return torch.stack([x.T @ y for x, y in zip(x_NI.split(sizes), y_NO.split(sizes), strict=True)])


def _scaled(low_NR: Tensor, scale_B: Tensor) -> Tensor:
    low_NR.view(len(scale_B), -1).mul_(scale_B.to(low_NR.dtype)[:, None])
    return low_NR


def _put(network: nn.Module, name: str, layer: nn.Module) -> None:
    home, _, leaf = name.rpartition(".")
    setattr(network.get_submodule(home), leaf, layer)
