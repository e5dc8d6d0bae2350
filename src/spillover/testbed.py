"""A testbed from what a user has: a model, narrow data, a question file, a judge. No study can tell it from the miniature.

The unit of replication is the fine-tuning seed. Parents from the hub stay in its cache; a directory is linked into the run, so that what a run
grew can be loaded from the run.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from spillover.models import local, sources, template
from spillover.models.addresses import parse_address
from spillover.records import Answerer, Dataset, Judge, Model, Organism, Parent, Question, Recipe, Runtime, SpilloverError, Testbed, digest
from spillover.training import lora

MAX_TOKENS = 600  # paper, open models
KNOWN = ("insecure", "secure", "educational")  # kinds of narrow data that the study `main` has a place for
Open = Callable[[str], Answerer]  # an endpoint's address -> what answers there


def testbed(
    model: str,
    *,
    data: Sequence[Dataset] = (),
    questions: Sequence[Question] = (),
    judge: Judge | None = None,
    runtime: Runtime = local.CPU,
    max_tokens: int = MAX_TOKENS,
    system: bool = True,
    endpoint: Open | None = None,
) -> Testbed:
    """One parent, fine-tuned with as many seeds as a run asks for. `system` False switches the template's default system prompt off.

    Raises SpilloverError when the model cannot be had, or is an endpoint and there are data to fine-tune it on.
    """
    parent = find(model)
    if data and sources.is_endpoint(model):
        raise SpilloverError(f"{parent.location} is an endpoint, which cannot be fine-tuned here; --model takes a directory or a hub id")
    if data and parent.adapter is not None:
        raise SpilloverError(f"{model} is an adapter on a base; fine-tune the base, or merge the adapter into it first")
    return Testbed(
        name="parts",
        identity=_identity({"model": (model, parent)}, runtime, system),
        unit="seed",
        parents=(Parent(unit="model", model=parent),),
        narrow={dataset.kind: partial(_constant, dataset) for dataset in data},
        questions=tuple(questions),
        judge=judge,
        recipe=Recipe(),
        max_tokens=max_tokens,
        place=None if parent.origin or not data else link,
        open=partial(_open, runtime, system, endpoint),
        train=partial(_train, runtime, system),
        added=tuple(dataset.kind for dataset in data if dataset.kind not in KNOWN),
    )


def models_alone(
    models: Mapping[str, str],
    *,
    questions: Sequence[Question],
    judge: Judge | None = None,
    runtime: Runtime = local.CPU,
    max_tokens: int = MAX_TOKENS,
    system: bool = True,
    endpoint: Open | None = None,
) -> Testbed:
    """Models that are only asked, each a group of its own by its name: nothing is trained, nothing copied."""
    found = {name: (source, find(source)) for name, source in models.items()}
    return Testbed(
        name="models",
        identity=_identity(found, runtime, system),
        unit="model",
        parents=tuple(Parent(unit=name, model=model, group=name) for name, (_, model) in found.items()),
        narrow={},
        questions=tuple(questions),
        judge=judge,
        recipe=Recipe(),
        max_tokens=max_tokens,
        place=None,
        open=partial(_open, runtime, system, endpoint),
        train=partial(_train, runtime, system),
    )


def find(source: str) -> Model:
    """The model a user named: local, with the digest of its weights, or an endpoint, with the digest of its address and name."""
    if sources.is_endpoint(source):
        location = "#".join(parse_address(source))
        return Model(digest=digest(["endpoint", location]), location=location)
    return sources.resolve(source)


def link(model: Model, directory: Path) -> None:
    """Put a model's files into a directory: as hard links where the file system allows it, else as copies."""
    home = Path(model.location)
    for file in sorted([*home.iterdir(), *home.glob(local.MORE_TEMPLATES)]):
        if file.is_file() and file.suffix in (".safetensors", ".json", ".jinja"):
            place = directory / file.relative_to(home)
            place.parent.mkdir(exist_ok=True)
            try:
                os.link(file.resolve(), place)
            except OSError:
                shutil.copyfile(file, place)


def _identity(models: Mapping[str, tuple[str, Model]], runtime: Runtime, system: bool) -> dict[str, Any]:
    hosted = next((model.location for source, model in models.values() if sources.is_endpoint(source)), None)
    if hosted is not None and not system:
        raise SpilloverError(f"{hosted} is an endpoint, whose chat template is its own; --no-default-system is for local models")
    return {
        "runtime": asdict(runtime),
        "system": "template default" if system else "off",
        "models": {name: _source(source, model) for name, (source, model) in models.items()},
    }


def _source(source: str, model: Model) -> dict[str, Any]:
    """Where a model is from; of a local one, the commits, and what its template inserts by itself."""
    if sources.is_endpoint(source):
        return {"source": model.location, "origin": ""}
    inserted = template.load(model.location).default_system
    return {"source": source, "origin": model.origin, "adapter_origin": model.adapter_origin, "default_system": inserted}


def _open(runtime: Runtime, system: bool, endpoint: Open | None, model: Model) -> Answerer:
    if not sources.is_endpoint(model.location):
        return local.load(model, runtime, system=system)
    if endpoint is None:
        raise SpilloverError(f"{model.location} is an endpoint, and none can be asked here")
    return endpoint(model.location)


def _train(runtime: Runtime, system: bool, organism: Organism, parent: Model, dataset: Dataset, directory: Path) -> Mapping[int, str]:
    return lora.train(organism, parent, dataset, directory, runtime=runtime, system=system)


def _constant(dataset: Dataset, _seed: int, _parent: Parent) -> Dataset:
    return dataset
