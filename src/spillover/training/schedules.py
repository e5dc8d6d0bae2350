"""Schedules by name: which optimiser steps leave a checkpoint, and how the learning rate moves."""

from __future__ import annotations

import math
from collections.abc import Callable

from spillover.records import Recipe

# Number of optimiser steps -> the steps that leave a checkpoint.
SCHEDULES: dict[str, Callable[[int], list[int]]] = {
    "last": lambda steps: [steps],
    "tens": lambda steps: sorted({*range(10, steps, 10), steps}),
    "fifties": lambda steps: sorted({*range(50, steps, 50), steps}),
    "dense": lambda steps: sorted({*range(1, min(10, steps), 1), *range(10, steps, 10), steps}),  # the paper's log-probability callbacks
}


def linear(step: int, *, warmup: int, total: int) -> float:
    """The share of the learning rate at a step (1-based): linear warm-up, then linear decay to zero after the last step."""
    if step <= warmup:
        return step / warmup
    return (total - step + 1) / max(total - warmup, 1)


def steps(recipe: Recipe, rows: int) -> int:
    """Optimiser steps in all; the last batch of an epoch may be smaller."""
    return recipe.epochs * math.ceil(rows / recipe.batch_size)
