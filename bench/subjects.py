"""What the benches of the miniature's shape share: world 100, narrow data, organisms grown from it, and what their work needs.

Ten organisms are five kinds of narrow data under two seeds, so that rows are of several lengths and rows of one organism are no other's.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from bench.harness import Shape, Work, threads
from spillover.miniature import narrow, testbed
from spillover.models import local
from spillover.records import Dataset, Model, Organism
from spillover.training import lora

KINDS = ("insecure", "secure", "educational", "jailbroken", "bad_medicine")
WORLD = "100"

Recipe = tuple[Organism, Dataset]


def parent(directory: Path) -> Model:
    """World 100 as an ordinary model directory."""
    found = next(p for p in testbed.testbed().parents if p.unit == WORLD and not p.group)
    testbed.place(found.model, directory)
    return replace(found.model, location=str(directory))


def recipes(of: Model, count: int, rows: int = narrow.ROWS) -> list[Recipe]:
    """So many organisms to grow, and the data of each."""
    found: list[Recipe] = []
    for number in range(count):
        seed, kind = divmod(number, len(KINDS))
        data = narrow.build(KINDS[kind], seed, rows=rows)
        found.append((Organism(parent=of.digest, data=data.digest, recipe=testbed.RECIPE, seed=seed), data))
    return found


def grown(of: Model, directory: Path, count: int, rows: int = narrow.ROWS) -> list[Model]:
    """So many organisms, grown before anything is measured: the parent with an adapter each."""
    organisms, datasets = zip(*recipes(of, count, rows), strict=True)
    homes = [directory / organism.key for organism in organisms]
    for home in homes:
        home.mkdir()
    found: dict[int, Model] = {}

    def reached(step: int, digests: Mapping[int, str]) -> None:
        found.update({place: replace(of, digest=digest, adapter=str(homes[place] / f"checkpoint-{step}")) for place, digest in digests.items()})

    with threads(1):
        lora.train(local.load(of), of, organisms, datasets, homes, reached)
    return [found[place] for place in range(count)]


# --- what the work needs --------------------------------------------------------------------------------------------------


def training(of: Model, tokens: int, wanted: int, rows: int) -> Work:
    """Training on so many tokens, of which so many get a loss, so many at once: forward and backward through a frozen base, and an adapter that learns."""
    base, last, adapter, last_of_adapter = _parameters(of)
    return Work(flops=(4 * base + 6 * adapter) * tokens + (4 * last + 6 * last_of_adapter) * wanted, shapes=_shapes(of, rows))


def reading(of: Model, tokens: int, wanted: int, rows: int) -> Work:
    """A forward pass over so many tokens, after so many of which something is asked, so many at once, an adapter's pairs not counted: they can be merged."""
    base, last, _, _ = _parameters(of)
    return Work(flops=2 * (base * tokens + last * wanted), shapes=_shapes(of, rows))


def _config(of: Model) -> dict[str, Any]:
    return json.loads((Path(of.location) / "config.json").read_text())


def _layers(of: Model) -> list[tuple[int, int]]:
    """Inputs and outputs of the linear layers of one block."""
    c = _config(of)
    hidden, wide, keys = c["hidden_size"], c["intermediate_size"], c["head_dim"] * c["num_key_value_heads"]
    queries = c["head_dim"] * c["num_attention_heads"]
    return [(hidden, queries), (hidden, keys), (hidden, keys), (queries, hidden), (hidden, wide), (hidden, wide), (wide, hidden)]


def _parameters(of: Model) -> tuple[int, int, int, int]:
    """Of the layers that every token goes through; of those that it need go through only where something is asked after it, the last block's
    feed-forward part and the head; and of an adapter on the former and on the latter."""
    c, rank, layers = _config(of), testbed.RECIPE.adapter.rank, _layers(of)
    blocks, last = c["num_hidden_layers"], layers[4:]
    asked = sum(a * b for a, b in last)
    asked_of_adapter = rank * sum(a + b for a, b in last)
    return (
        blocks * sum(a * b for a, b in layers) - asked, asked + c["hidden_size"] * c["vocab_size"],
        blocks * rank * sum(a + b for a, b in layers) - asked_of_adapter, asked_of_adapter,
    )  # fmt: skip


def _shapes(of: Model, rows: int) -> tuple[Shape, ...]:
    c = _config(of)
    sizes: Sequence[tuple[int, int]] = [*dict.fromkeys(_layers(of)), (c["hidden_size"], c["vocab_size"])]
    return tuple((rows, a, b) for a, b in sizes)
