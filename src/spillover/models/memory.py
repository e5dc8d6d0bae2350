"""How many bytes a decoder needs: for what `--dry-run` says, and for how many rows are computed at once.

Counts from shapes alone, so that the same model on the same kind of device always computes the same batches. Activations are an
estimate: within a layer about 16 hidden sizes and 3 feed-forward sizes a token are kept for the backward pass.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportAttributeAccessIssue=false
from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from transformers import AutoConfig

from spillover.records import Recipe, Runtime

MOST_ROWS = 4096
GIB = 2**30
CPU_BYTES = 4 * GIB  # what a batch of answers may take on a CPU
CPU_TOKENS = 2048  # of a batch in training there, counting rows as long as the longest: fewer were slower, see LOG.md


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """The sizes of a decoder that its memory depends on."""

    layers: int
    hidden: int
    feed_forward: int
    vocabulary: int
    query: int  # numbers of queries a token and layer
    key_value: int  # of keys and values

    @classmethod
    def of(cls, config: Any) -> Shape:
        """The shape in a transformers configuration."""
        text = config.get_text_config()
        heads = text.num_attention_heads
        width = getattr(text, "head_dim", None) or text.hidden_size // heads
        return cls(
            layers=text.num_hidden_layers, hidden=text.hidden_size, vocabulary=text.vocab_size,
            feed_forward=getattr(text, "intermediate_size", None) or 4 * text.hidden_size,
            query=width * heads, key_value=2 * width * (getattr(text, "num_key_value_heads", None) or heads),
        )  # fmt: skip

    def answer_row(self, tokens: int, itemsize: int) -> int:
        """Bytes of one row while answers are drawn: keys and values of every token, and three forms of the last logits."""
        return self.layers * self.key_value * tokens * itemsize + self.vocabulary * 24

    def scored_row(self, tokens: int, itemsize: int) -> int:
        """Bytes of one row while log-probabilities are read: logits of every token, should all be scored, in three forms."""
        return self.layers * self.hidden * itemsize * 4 + tokens * self.vocabulary * (itemsize + 8)

    def read_row(self, tokens: int, itemsize: int) -> int:
        """Bytes of one row that is read and of which nothing is kept: what is there within a layer, and a float32 copy of the residual stream."""
        return tokens * ((16 * self.hidden + 3 * self.feed_forward) * itemsize + 4 * self.hidden)

    def training_row(self, tokens: int, itemsize: int, *, checkpointing: bool) -> int:
        """Bytes of one row of a training step: activations kept for the backward pass, logits in float32 with their gradient."""
        inner = 16 * self.hidden + 3 * self.feed_forward
        kept = self.layers * self.hidden + inner if checkpointing else self.layers * inner
        return tokens * (kept * itemsize + self.vocabulary * (itemsize + 3 * 4))

    def lora_parameters(self, rank: int) -> int:
        """Parameters of an adapter on the seven projections of every layer."""
        per_layer = 2 * (self.hidden + self.query) + (2 * self.hidden + self.key_value) + 3 * (self.hidden + self.feed_forward)
        return self.layers * rank * per_layer


def rows_at_once(row_bytes: int, device: torch.device, weight_bytes: int) -> int:
    """How many rows fit: in a fixed budget on a CPU, in half of what the weights leave free on a GPU."""
    budget = CPU_BYTES if device.type == "cpu" else (torch.cuda.get_device_properties(device).total_memory - weight_bytes) // 2
    return max(1, min(MOST_ROWS, budget // max(row_bytes, 1)))


def training_rows(row_bytes: int, tokens: int, device: torch.device, weight_bytes: int) -> int:
    """How many rows of training fit; on a CPU, no more than its caches like."""
    fit = rows_at_once(row_bytes, device, weight_bytes)
    return min(fit, max(1, CPU_TOKENS // tokens)) if device.type == "cpu" else fit


def together(shape: Shape, rank: int, device: torch.device, weight_bytes: int) -> int:
    """How many adapters fit while they are trained, with gradients and two states: in a fixed budget on a CPU, in half of what is free on a GPU."""
    return rows_at_once(4 * 4 * shape.lora_parameters(rank), device, weight_bytes)


def parameters(location: str) -> int:
    """How many numbers a model directory's safetensors hold."""
    total = 0
    for path in Path(location).glob("*.safetensors"):
        if path.name.startswith("consolidated"):  # the same weights once more, in a form of their makers' own
            continue
        with safe_open(path, "pt") as file:
            total += sum(math.prod(file.get_slice(name).get_shape()) for name in file.keys())  # noqa: SIM118
    return total


@dataclass(frozen=True, slots=True, kw_only=True)
class Needed:
    """Bytes: the weights, the adapters trained together with their optimiser's states, the rows computed at once, one answer while it is drawn."""

    weights: int
    adapter: int
    rows: int
    answer: int

    @property
    def training(self) -> int:
        return self.weights + self.adapter + self.rows


def needed(location: str, recipe: Recipe, runtime: Runtime, *, row: int, answer: int, organisms: int = 1) -> Needed:
    """What training so many organisms together on rows of `row` tokens, and answers of `answer` tokens with their prompt, take; an estimate.

    Without a `micro_batch` one row of each is counted: more are computed at once where they fit.
    """
    shape = Shape.of(AutoConfig.from_pretrained(location, local_files_only=True, trust_remote_code=False))
    itemsize = 4 if runtime.dtype == "float32" else 2
    states = 0.5 if recipe.optimiser == "adamw_8bit" else 2  # numbers of float32 a parameter
    return Needed(
        weights=parameters(location) * itemsize,
        adapter=round(organisms * shape.lora_parameters(recipe.adapter.rank) * 4 * (2 + states)),
        rows=organisms * (runtime.micro_batch or 1) * shape.training_row(row, itemsize, checkpointing=runtime.gradient_checkpointing),
        answer=shape.answer_row(answer, itemsize),
    )


def told(found: Needed, *, training: bool) -> Iterator[str]:
    """The same in words."""
    weights = f"weights {found.weights / GIB:.1f} GiB"
    if training:
        parts = f"{weights}, adapters and optimiser {found.adapter / GIB:.1f}, rows at once {found.rows / GIB:.1f}"
        yield f"memory to train, estimated: at least {found.training / GIB:.1f} GiB ({parts})"
    yield f"memory to ask, estimated: {weights}, and {found.answer / 2**20:.0f} MiB for every answer drawn at once"
