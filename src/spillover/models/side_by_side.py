"""Several LoRA adapters on one frozen network, resident together and in one batch.

The rows of a batch lie in the order of their adapters. The base's matrix products are one for all rows; a low-rank product is each adapter's own. What an
adapter gets does not depend on its neighbours: their ranks are made equal with zeros, which stay zeros in training, and so are pairs that an adapter lacks.

Shapes: K adapters, P numbers of each, N places (tokens of all rows), I and O features in and out of a layer, R ranks.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false, reportUnknownParameterType=false
from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from itertools import islice
from math import prod
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from spillover.models.adapters import Pairs

_Pair = tuple[Tensor, Tensor]
Dropout = Callable[[str, Tensor], Tensor]  # a layer's name and its input -> what the input is multiplied with


class SideBySide:
    """Adapters put on a network, which they leave with `remove`. Only the adapters' pairs are trained, and only if `trained`.

    All numbers of an adapter lie in a row of `numbers_KP`, and their gradients, which backward passes add to, in that of `gradients_KP`.
    """

    def __init__(self, network: nn.Module, adapters: Sequence[Pairs], *, trained: bool = False) -> None:
        self.dropout: Dropout | None = None
        self.scales = [adapter.scale for adapter in adapters]
        self.adapters = len(adapters)
        self._counts: Sequence[int] | None = None
        self._sizes: dict[int, list[int]] = {}
        self._network, self._ranks = network, [{name: len(a) for name, (a, _) in adapter.tensors.items()} for adapter in adapters]
        network.requires_grad_(False)
        linears = {name: _linear(network, name) for adapter in adapters for name in adapter.tensors}
        ranks = {name: max(found[name] for found in self._ranks if name in found) for name in linears}
        shapes = [shape for name, linear in linears.items() for shape in ((ranks[name], linear.in_features), (linear.out_features, ranks[name]))]
        first = next(network.parameters())
        self.numbers_KP = torch.zeros(len(adapters), sum(map(prod, shapes)), dtype=torch.promote_types(torch.float32, first.dtype), device=first.device)
        self.gradients_KP = torch.zeros_like(self.numbers_KP) if trained else torch.zeros(0)
        numbers = _pairs(self.numbers_KP, shapes)
        gradients = _pairs(self.gradients_KP, shapes) if trained else [None] * len(linears)
        self.layers = {
            name: _Beside(name, linear, pair, gradient, self) for (name, linear), pair, gradient in zip(linears.items(), numbers, gradients, strict=True)
        }
        for place, adapter in enumerate(adapters):
            for name, (a, b) in adapter.tensors.items():
                a_KRI, b_KOR = self.layers[name].pair
                a_KRI[place, : len(a)], b_KOR[place, :, : len(a)] = a, b
        for name, layer in self.layers.items():
            _put(network, name, layer)

    @property
    def bytes(self) -> int:
        """What the pairs take, without gradients."""
        return self.numbers_KP.numel() * self.numbers_KP.element_size()

    def remove(self) -> None:
        """Give the network its own layers back."""
        for name, layer in self.layers.items():
            _put(self._network, name, layer.base)
            layer.leave()

    @contextmanager
    def rows(self, counts: Sequence[int], dropout: Dropout | None = None, *, lengths: Sequence[Sequence[int]] = ()) -> Generator[None]:
        """What the network computes inside: a batch with so many rows of each adapter, in their order. Outside it is the base alone.

        Rows have as many places each, but for those `lengths`: of every row, in each form in which a layer may be given them.
        """
        self._counts, self.dropout = counts, dropout
        for each in lengths:
            row = iter(each)
            self._sizes[sum(each)] = [sum(islice(row, count)) for count in counts]
        try:
            yield
        finally:
            self._counts, self.dropout, self._sizes = None, None, {}

    def sizes(self, places: int) -> list[int] | None:
        """How many of so many places are each adapter's; None: the base is alone."""
        if self._counts is None:
            return None
        rows = sum(self._counts)
        return self._sizes[places] if places in self._sizes else [count * (places // rows) for count in self._counts]

    def numbers_of(self, place: int) -> nn.Parameter:
        """One adapter's numbers in a row, to be trained: a view, and so is its gradient."""
        return _parameter(self.numbers_KP[place], self.gradients_KP[place])

    def tensors_of(self, place: int) -> list[nn.Parameter]:
        """The same, tensor by tensor."""
        layers = self.layers.values()
        return [_parameter(*(stacked[place] for stacked in both)) for layer in layers for both in zip(layer.pair, layer.gradients or (), strict=True)]

    def clear_gradients(self) -> None:
        self.gradients_KP.zero_()

    def pairs(self, place: int) -> dict[str, tuple[Tensor, Tensor]]:
        """One adapter's pairs by layer, as they are now: (R, I) and (O, R)."""
        found: dict[str, tuple[Tensor, Tensor]] = {}
        for name, rank in self._ranks[place].items():
            a_KRI, b_KOR = self.layers[name].pair
            found[name] = a_KRI[place, :rank].cpu().clone(), b_KOR[place, :, :rank].cpu().clone()
        return found


class _Beside(nn.Module):
    """A frozen linear layer with a low-rank pair of every adapter: (K, R, I) and (K, O, R)."""

    def __init__(self, name: str, base: nn.Linear, pair: _Pair, gradients: _Pair | None, all_: SideBySide) -> None:
        super().__init__()
        self.name, self.base, self.pair, self.gradients = name, base, pair, gradients
        self._all: tuple[SideBySide, ...] = (all_,)  # in a tuple, so that it is no part of the network
        self._asks = torch.zeros((), requires_grad=gradients is not None)  # has a backward pass come here, though no number does that autograd knows

    def leave(self) -> None:
        """Hold no longer what holds this: memory is free once nobody needs it, and not when the two are found to hold each other."""
        self._all = ()

    def forward(self, x: Tensor) -> Tensor:
        (beside,) = self._all
        sizes = beside.sizes(x.shape[:-1].numel())
        if sizes is None:
            return self.base(x)
        kept = beside.dropout(self.name, x) if beside.dropout is not None else None
        a_KRI, b_KOR = (stacked.to(x.dtype) for stacked in self.pair)
        y: Tensor = _Product.apply(x, kept, self.base.weight, self.base.bias, a_KRI, b_KOR, self._asks, self.gradients, sizes, beside.scales)  # pyright: ignore[reportAssignmentType]
        return y


class _Product(torch.autograd.Function):
    """x W' + bias + scale (x A') B', every place with its own adapter's A and B. W and the bias are frozen."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, kept: Tensor | None, weight: Tensor, bias: Tensor | None, a_KRI: Tensor, b_KOR: Tensor, _asks: Tensor,
        gradients: _Pair | None, sizes: list[int], scales: list[float],
    ) -> Tensor:  # fmt: skip
        x_NI = (x if kept is None else x * kept).reshape(-1, x.shape[-1])
        low_NR = _by_adapter(x_NI, a_KRI.mT, sizes, scales)
        y = F.linear(x, weight, bias)
        _by_adapter(low_NR, b_KOR.mT, sizes, None, into=y.view(-1, y.shape[-1]))
        ctx.save_for_backward(x_NI, low_NR, kept, weight, a_KRI, b_KOR)
        ctx.gradients, ctx.sizes, ctx.scales = gradients, sizes, scales
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x_NI, low_NR, kept, weight, a_KRI, b_KOR = ctx.saved_tensors
        dy = grads[0]
        dy_NO = dy.reshape(-1, dy.shape[-1])
        dlow_NR = _by_adapter(dy_NO, b_KOR, ctx.sizes, ctx.scales)
        if ctx.gradients is not None:
            da_KRI, db_KOR = ctx.gradients
            _add_across(dlow_NR, x_NI, ctx.sizes, da_KRI)
            _add_across(dy_NO, low_NR, ctx.sizes, db_KOR)
        dx: Tensor | None = None
        if ctx.needs_input_grad[0]:
            dx_NI = dy_NO @ weight
            if kept is None:
                _by_adapter(dlow_NR, a_KRI, ctx.sizes, None, into=dx_NI)
                dx = dx_NI.view(*dy.shape[:-1], -1)
            else:
                dx = dx_NI.view(*dy.shape[:-1], -1) + _by_adapter(dlow_NR, a_KRI, ctx.sizes).view_as(kept) * kept
        return dx, *[None] * 9


def _by_adapter(x_NI: Tensor, w_KIO: Tensor, sizes: list[int], scales: list[float] | None = None, into: Tensor | None = None) -> Tensor:
    """scale x_k W_k for the places of every adapter, added to `into` where there is one: (N, O)."""
    out = x_NI.new_empty(len(x_NI), w_KIO.shape[-1]) if into is None else into
    keep = int(into is not None)
    if len(set(sizes)) == 1 and len(set(scales or ())) <= 1:
        out.view(len(sizes), sizes[0], -1).baddbmm_(x_NI.view(len(sizes), sizes[0], -1), w_KIO, beta=keep, alpha=scales[0] if scales else 1)
        return out
    for x, w, y, scale in zip(x_NI.split(sizes), w_KIO, out.split(sizes), scales or [1.0] * len(sizes), strict=True):
        if len(x):
            y.addmm_(x, w, beta=keep, alpha=scale)
    return out


def _add_across(x_NI: Tensor, y_NO: Tensor, sizes: list[int], into_KIO: Tensor) -> None:
    """x_k' y_k for the places of every adapter, added: (K, I, O)."""
    for x, y, into in zip(x_NI.split(sizes), y_NO.split(sizes), into_KIO, strict=True):
        if into.dtype == x.dtype:
            into.addmm_(x.T, y)
        else:
            into.add_(x.T @ y)


def _pairs(numbers_KP: Tensor, shapes: Sequence[tuple[int, int]]) -> list[_Pair]:
    parts = numbers_KP.split([prod(shape) for shape in shapes], dim=1)
    stacked = [part.view(-1, *shape) for part, shape in zip(parts, shapes, strict=True)]
    return list(zip(stacked[::2], stacked[1::2], strict=True))


def _parameter(numbers: Tensor, gradient: Tensor) -> nn.Parameter:
    found = nn.Parameter(numbers)
    found.grad = gradient
    return found


def _linear(network: nn.Module, name: str) -> nn.Linear:
    found = network.get_submodule(name)
    assert isinstance(found, nn.Linear)
    return found


def _put(network: nn.Module, name: str, layer: nn.Module) -> None:
    home, _, leaf = name.rpartition(".")
    setattr(network.get_submodule(home), leaf, layer)
