"""A direction on disk: `direction.safetensors`, one vector a layer, and `card.json`, which says where it is from."""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from spillover.directions.fitting import Direction
from spillover.records import SpilloverError

VECTORS, CARD = "direction.safetensors", "card.json"


def save(direction: Direction, directory: Path) -> None:
    """Fill a directory, made where it is not there."""
    directory.mkdir(parents=True, exist_ok=True)
    save_file({f"layer.{layer}": vector_H.float().contiguous() for layer, vector_H in direction.vectors.items()}, directory / VECTORS)
    (directory / CARD).write_text(json.dumps(dict(direction.card), indent=1) + "\n", encoding="utf-8")


def load(directory: Path) -> Direction:
    """Raises SpilloverError where the files are missing, damaged, or something else."""
    try:
        tensors = load_file(directory / VECTORS)
        card: Any = json.loads((directory / CARD).read_text(encoding="utf-8"))
        vectors = {int(name.removeprefix("layer.")): vector_H for name, vector_H in tensors.items() if name.startswith("layer.")}
    except (OSError, ValueError, RecursionError, SafetensorError):
        raise SpilloverError(f"{directory} holds no direction: it takes {VECTORS} and {CARD}, whole") from None
    whole = isinstance(card, dict) and vectors and len(vectors) == len(tensors)
    if not whole or len({vector_H.shape for vector_H in vectors.values()}) != 1 or any(v.dim() != 1 or not v.isfinite().all() for v in vectors.values()):
        raise SpilloverError(f"{directory} holds no direction: one finite vector a layer, all of one width, is what {VECTORS} must hold")
    return Direction(vectors=dict(sorted(vectors.items())), card=card)
