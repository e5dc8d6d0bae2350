"""What differs between a run and the paper's open-model recipe: said before it starts, and recorded.

The recipe is that of the public release (`open_models/train.json`, `eval.py`), which made the published open-weight results. The defaults of
`Recipe` are its values; what else it fixes is listed here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

from spillover.pipeline.config import flatten
from spillover.records import Recipe
from spillover.sampling.draws import Sampling
from spillover.statistics.protocols import Protocol

PAPER: Mapping[str, Any] = {
    **flatten({"training": asdict(replace(Recipe(), optimiser="adamw_8bit"))}),
    **flatten({"sampling": asdict(replace(Sampling(), max_tokens=600))}),
    **flatten({"protocol": asdict(Protocol())}),
    "seeds": 6,
    "runtime.dtype": "bfloat16",
    "system": "template default",
}
SILENT = (  # names, and what the release does not name, or has no place for
    "training.checkpoints", "training.max_gradient_norm", "training.penalty.batch_size", "training.penalty.first", "training.penalty.last", "protocol.name",
    "protocol.task_at_least",
)  # fmt: skip


def differences(found: Mapping[str, Any]) -> list[str]:
    """One phrase for every setting that is not the paper's. Settings that `found` lacks are not compared."""
    return [
        f"{name} {_plain(found[name])} (paper: {_plain(value)})"
        for name, value in PAPER.items()
        if name in found and name not in SILENT and found[name] != value
    ]


def _plain(value: object) -> str:
    return "the whole batch" if value is None else f"{value:g}" if isinstance(value, float) else str(value) or "none"
