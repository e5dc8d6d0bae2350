"""Options to records: what a user typed becomes a testbed, a config, settings; or one sentence that says what would work."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spillover.records import Dataset, SpilloverError, Testbed

if TYPE_CHECKING:
    from spillover.pipeline import RunConfig


def subject(name: str, own: list[Dataset]) -> Testbed:
    from dataclasses import replace

    from spillover.miniature import testbed as testbeds

    kind, _, place = name.partition(":")
    if kind != "miniature":
        raise SpilloverError(f"there is no testbed {name!r}; there is miniature, and miniature:DIR for worlds you built")
    found = testbeds.testbed(worlds=Path(place) if place else None)
    taken = [dataset.kind for dataset in own if dataset.kind in found.narrow] + [d.kind for i, d in enumerate(own) if d.kind in {o.kind for o in own[:i]}]
    if taken:
        raise SpilloverError(f"--data cannot be called {taken[0]!r}: that name is taken")
    return replace(found, narrow={**found.narrow, **{d.kind: _constant(d) for d in own}}, added=tuple(d.kind for d in own))


def _constant(dataset: Dataset) -> Callable[[int], Dataset]:
    return lambda _seed: dataset


def own_data(item: str) -> Dataset:
    import re

    from spillover.datasets import chat

    name, separator, path = item.partition("=")
    if not separator or not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._]{0,63}", name):
        raise SpilloverError(f"--data is {item!r}; it takes NAME=FILE.jsonl, the name of letters, digits, dots and underscores")
    return chat.read(Path(path), name)


def run_config(testbed: Testbed, settings: dict[str, Any]) -> RunConfig:
    from spillover.pipeline.config import RunConfig, override

    return override(RunConfig(training=testbed.recipe), settings)


def settings_of(config: Path | None, items: list[str]) -> dict[str, Any]:
    from spillover.pipeline.config import flatten, read_yaml

    settings = flatten(read_yaml(config)) if config is not None else {}
    for item in items:
        name, separator, value = item.partition("=")
        if not separator or not name:
            raise SpilloverError(f"--set is {item!r}; it takes SECTION.FIELD=VALUE, like training.learning_rate=1e-4")
        settings[name] = value
    return settings
