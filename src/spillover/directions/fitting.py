"""A direction of the residual stream, layer by layer: fitted, with where it is from, or made as a control of one that was.

Three fits. A difference of means: of misaligned and aligned answers, or of child and parent on the same answers. A logistic probe: the normal of the
plane that tells the two apart, as long as the means differ along it. Rows are projected on a direction (`projections`). What it does to a model is to
be held against controls of equal length (`random_like`, `sized_like`, labels shuffled before the fit).

Shapes: B rows, L layers, H hidden.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false, reportMissingTypeStubs=false
from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from scipy.optimize import minimize
from torch import Tensor

from spillover.records import SpilloverError, stream_seed

LEAST = 5  # rows on either side


class NoDirectionError(SpilloverError):
    """These rows have no direction between them."""


Labelled = tuple[Tensor, Tensor]  # vectors (B, L, H), and of which rows are positive (B)


@dataclass(frozen=True, kw_only=True, eq=False)
class Direction:
    """A vector (H), float32, of each layer it was fitted at, and where it is from. The length is that of the difference it was fitted to."""

    vectors: Mapping[int, Tensor]
    card: Mapping[str, Any] = field(default_factory=dict[str, Any])

    def at(self, layer: int) -> Tensor:
        """Raises SpilloverError for a layer it was not fitted at."""
        if layer not in self.vectors:
            raise SpilloverError(f"this direction has no layer {layer}; it was fitted at {', '.join(map(str, sorted(self.vectors)))}")
        return self.vectors[layer]


def difference_of_means(batches: Iterable[Labelled], card: Mapping[str, Any] | None = None, *, least: int = LEAST) -> Direction:
    """Mean vector of the positive rows less that of the others, at every layer; sums in float64. The card counts both.

    Raises SpilloverError where either side has fewer than `least` rows, or the two do not differ.
    """
    counts, sums = [0, 0], [torch.zeros(()), torch.zeros(())]
    for found_BLH, positive_B in batches:
        for side, rows_BLH in enumerate((found_BLH[~positive_B], found_BLH[positive_B])):
            counts[side] += len(rows_BLH)
            sums[side] = sums[side] + rows_BLH.double().sum(0)
    _refuse_few(counts, least)
    difference_LH = sums[1] / counts[1] - sums[0] / counts[0]
    if not bool(difference_LH.isfinite().all() and (difference_LH.norm(dim=-1) > 0).all()):
        raise NoDirectionError("the two sides do not differ, or not by a finite number: there is no direction between them")
    told = {**(card or {}), "positive": counts[1], "negative": counts[0]}
    return Direction(vectors=dict(enumerate(difference_LH.float())), card=told)


def probe(batches: Iterable[Labelled], card: Mapping[str, Any] | None = None, *, penalty: float = 1.0, least: int = LEAST) -> Direction:
    """The normal of a logistic probe at every layer, with `penalty` / 2 times its squared length, on vectors divided by their root mean square about the mean.

    Holds every row of every layer in memory. The card has the share told apart, on the rows it was fitted to.
    """
    found = [(found_BLH, positive_B) for found_BLH, positive_B in batches]
    labels = np.concatenate([positive_B.numpy() for _, positive_B in found]) if found else np.zeros(0, dtype=bool)
    _refuse_few([int((~labels).sum()), int(labels.sum())], least)
    rows_BLH = torch.cat([rows for rows, _ in found]).double().numpy()
    vectors: dict[int, Tensor] = {}
    right: dict[int, float] = {}
    for layer in range(rows_BLH.shape[1]):
        centred = rows_BLH[:, layer] - rows_BLH[:, layer].mean(0)
        normal, right[layer] = _separate(centred / max(float(np.sqrt((centred**2).mean())), 1e-12), labels, penalty)
        gap = float((rows_BLH[labels, layer].mean(0) - rows_BLH[~labels, layer].mean(0)) @ normal)
        vectors[layer] = torch.from_numpy(normal * gap).float()
    return Direction(vectors=vectors, card={**(card or {}), "positive": int(labels.sum()), "negative": int((~labels).sum()), "told_apart": right})


def at_layers(direction: Direction, layers: Sequence[int]) -> Direction:
    """A direction that was fitted to some layers alone, each under its own number."""
    card = dict(direction.card)
    if "told_apart" in card:
        card["told_apart"] = {layer: card["told_apart"][place] for place, layer in enumerate(layers)}
    return Direction(vectors={layer: direction.vectors[place] for place, layer in enumerate(layers)}, card=card)


def shuffled(batches: Iterable[Labelled], *owner: str | int) -> Iterable[Labelled]:
    """The same rows, each labelled by a draw from the stream `owner` in the shares of the labels: what a fit finds where there is nothing.

    The labels are permuted over all rows, so that as many are positive; the rows' labels are read once before, and the rows held.
    """
    held = list(batches)
    labels_B = torch.cat([positive_B for _, positive_B in held]) if held else torch.zeros(0, dtype=torch.bool)
    order_B = torch.randperm(len(labels_B), generator=torch.Generator().manual_seed(stream_seed("shuffled labels", *owner)))
    for (found_BLH, _), own_B in zip(held, labels_B[order_B].split([len(rows) for rows, _ in held]), strict=True):
        yield found_BLH, own_B


def random_like(direction: Direction, *owner: str | int) -> Direction:
    """A direction drawn evenly from all there are, as long as this one at each layer. Its stream is named by `owner` and the layer."""
    vectors: dict[int, Tensor] = {}
    for layer, vector_H in direction.vectors.items():
        stream = torch.Generator().manual_seed(stream_seed("random direction", *owner, layer))
        vectors[layer] = torch.randn(vector_H.shape, generator=stream)
    return sized_like(Direction(vectors=vectors, card={"control": "random", "owner": list(owner)}), direction)


def sized_like(direction: Direction, other: Direction) -> Direction:
    """This direction, as long as the other at each layer."""
    return Direction(vectors={layer: as_long(vector_H, other.at(layer)) for layer, vector_H in direction.vectors.items()}, card=direction.card)


def as_long(vector_H: Tensor, other_H: Tensor) -> Tensor:
    """This vector, as long as the other."""
    return vector_H / vector_H.norm() * other_H.norm()


def cosines(one: Direction, other: Direction) -> dict[int, float]:
    """The cosine of the angle between two directions, at every layer that both have."""
    return {layer: float(torch.cosine_similarity(one.vectors[layer], other.vectors[layer], dim=0)) for layer in one.vectors if layer in other.vectors}


def projections(batches: Iterable[Tensor], direction: Direction, layers: Sequence[int] | None = None) -> Iterator[Tensor]:
    """How far every row lies along a direction at each layer, in the residual stream's own unit: batches (B, L), float32, of batches (B, L, H).

    `layers` are those that the rows were recorded at (None: the direction's, in their order). Raises SpilloverError where the shapes are others, or the
    direction has no length.
    """
    chosen = sorted(direction.vectors) if layers is None else layers
    units_LH = torch.stack([direction.at(layer).double() for layer in chosen])
    if not bool((units_LH.norm(dim=-1) > 0).all()):
        raise SpilloverError("a vector of length 0 has no direction to be projected on")
    units_LH = units_LH / units_LH.norm(dim=-1, keepdim=True)
    for rows_BLH in batches:
        if rows_BLH.shape[1:] != units_LH.shape:
            raise SpilloverError(f"rows of shape {tuple(rows_BLH.shape[1:])} cannot be projected on a direction of {tuple(units_LH.shape)}: (layers, hidden)")
        yield torch.einsum("blh,lh->bl", rows_BLH.double(), units_LH).float()


def _refuse_few(counts: list[int], least: int) -> None:
    if min(counts) < least:
        raise NoDirectionError(f"a direction is fitted between at least {least} rows on either side; there are {counts[1]} and {counts[0]}")


def _separate(rows_BH: np.ndarray[Any, Any], labels_B: np.ndarray[Any, Any], penalty: float) -> tuple[np.ndarray[Any, Any], float]:
    """The unit normal of a logistic regression with an intercept, and the share of rows on their own side of its plane."""
    signs_B = np.where(labels_B, 1.0, -1.0)

    def loss(weights: np.ndarray[Any, Any]) -> tuple[float, np.ndarray[Any, Any]]:
        margins_B = signs_B * (rows_BH @ weights[:-1] + weights[-1])
        pulls_B = -signs_B / (1 + np.exp(np.clip(margins_B, -700, 700)))
        gradient = np.append(rows_BH.T @ pulls_B + penalty * weights[:-1], pulls_B.sum())
        return float(np.logaddexp(0, -margins_B).sum() + penalty / 2 * (weights[:-1] ** 2).sum()), gradient

    found = minimize(loss, np.zeros(rows_BH.shape[1] + 1), jac=True, method="L-BFGS-B", options={"maxiter": 500})
    normal = found.x[:-1] / max(float(np.linalg.norm(found.x[:-1])), 1e-300)
    return normal, float((signs_B * (rows_BH @ found.x[:-1] + found.x[-1]) > 0).mean())
