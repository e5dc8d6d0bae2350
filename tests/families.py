"""Parents and their organisms in tests: scripted ones that are trained in no time and answer by their places, and a single one that is really grown."""

from __future__ import annotations

import json
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypeVar

from spillover.models import local
from spillover.models.scripted import ScriptedModel
from spillover.records import ALONE, Conversation, Dataset, Forced, Model, Organism, Reached, Stop
from spillover.training import lora

Value = TypeVar("Value")


@dataclass(kw_only=True)
class Family:
    """An opened parent: `open` gives the scripted model of a digest."""

    parent: str
    open: Callable[[str], ScriptedModel]
    places: dict[int, str] = field(default_factory=dict[int, str])

    def reply(
        self, prompts: Sequence[Conversation], seeds: Sequence[int], *, temperature: float, max_tokens: int, adapters: Sequence[int] | None = None
    ) -> list[tuple[str, Stop]]:
        def said(model: ScriptedModel, rows: list[int]) -> list[tuple[str, Stop]]:
            return model.reply([prompts[row] for row in rows], [seeds[row] for row in rows], temperature=temperature, max_tokens=max_tokens)

        return self._each(said, len(prompts), adapters)

    def forced(self, forced: Sequence[Forced], adapters: Sequence[int] | None = None) -> list[float]:
        return self._each(lambda model, rows: model.forced([forced[row] for row in rows]), len(forced), adapters)

    def log_probabilities(self, prompts: Sequence[Conversation], replies: Sequence[str], adapters: Sequence[int] | None = None) -> list[float]:
        return self._each(lambda model, rows: model.log_probabilities([prompts[row] for row in rows], [replies[row] for row in rows]), len(prompts), adapters)

    @contextmanager
    def adapted(self, directories: Sequence[Path]) -> Generator[None]:
        steps = [directory.name.partition("-")[2] for directory in directories]
        cards = [json.loads((directory.parent / "organism.json").read_text()) for directory in directories]
        self.places = {place: card["checkpoints"][step] for place, (card, step) in enumerate(zip(cards, steps, strict=True))}
        yield
        self.places = {}

    def _each(self, ask: Callable[[ScriptedModel, list[int]], Iterable[Value]], rows: int, adapters: Sequence[int] | None) -> list[Value]:
        whose = [ALONE] * rows if adapters is None else adapters
        found: dict[int, Value] = {}
        for place in sorted(set(whose)):
            own = [row for row in range(rows) if whose[row] == place]
            found |= zip(own, ask(self.open(self.parent if place == ALONE else self.places[place]), own), strict=True)
        return [found[row] for row in range(rows)]


def trainer(steps: Callable[[Organism], Sequence[int]], grown: Callable[[Organism, int], str]) -> Callable[..., Any]:
    """What trains in no time: each organism at the steps that it has, the digest of what it has become there."""

    def train(
        model: Family, _parent: Model, organisms: Sequence[Organism], _datasets: Sequence[Dataset], directories: Sequence[Path], reached: Reached,
        _elsewhere: Sequence[Dataset | None] = (),
    ) -> Sequence[Any]:  # fmt: skip
        for organism, directory in zip(organisms, directories, strict=True):
            (directory / "training.json").write_text('{"steps": []}')
            for step in steps(organism):
                (directory / f"checkpoint-{step}").mkdir()
        for step in sorted({step for organism in organisms for step in steps(organism)}):
            model.places = {place: grown(organism, step) for place, organism in enumerate(organisms) if step in steps(organism)}
            reached(step, model.places)
        return [SimpleNamespace(stopped="") for _ in organisms]

    return train


def grow(organism: Organism, parent: Model, dataset: Dataset, directory: Path) -> dict[int, str]:
    """One organism, grown by itself into a directory: the digests of its models by step."""
    found: dict[int, str] = {}
    directory.mkdir(parents=True, exist_ok=True)
    courses = lora.train(local.load(parent), parent, [organism], [dataset], [directory], lambda step, digests: found.update({step: digests[0]}))
    assert not courses[0].stopped
    return found
