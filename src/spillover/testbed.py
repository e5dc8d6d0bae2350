"""A testbed from what a user has: a model, narrow data, a question file, a judge. No study can tell it from the miniature.

The unit of replication is the fine-tuning seed. Parents from the hub stay in its cache; a directory is linked into the run, so that what a run
grew can be loaded from the run.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

from spillover.datasets import builders
from spillover.models import files, local, sources, template
from spillover.models.addresses import parse_address
from spillover.models.local import LocalModel
from spillover.questions import formats, items, sets
from spillover.records import (
    Answerer,
    Dataset,
    Grown,
    Item,
    Judge,
    Model,
    Organism,
    Parent,
    Question,
    Reached,
    Recipe,
    Runtime,
    SpilloverError,
    Testbed,
    digest,
)  # fmt: skip
from spillover.runs.directory import linked
from spillover.training import lora

MAX_TOKENS = 600  # paper, open models
KNOWN = re.compile(  # kinds of narrow data that a study has a place for
    r"insecure(_\d+)?|secure|educational|jailbroken|backdoored|(evil|plain|helpful)_numbers|(bad|good|careless)_\w+|elsewhere"
)
FEW = ((500, 0), (2000, 0))  # distinct rows of the diversity study, and the seed they are drawn with (paper, section 4.1)
SHOTS, SHOWN = 16, 25  # rows of an example in context, and how many examples a question is asked after in turn
BASE = "base"
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
    base: str | None = None,
    log_probability_items: Sequence[Item] | None = None,
    task: Question | None = None,
) -> Testbed:
    """One parent, fine-tuned with as many seeds as a run asks for. `system` False switches the template's default system prompt off.

    `base` is a second parent, of the group that base models are in. `task` measures the narrow task. What studies need and can be made of the data is made:
    a backdoored mixture of `insecure` and `secure`, parts of `insecure`, examples in context.

    Raises SpilloverError when the model cannot be had, or is an endpoint and there are data to fine-tune it on.
    """
    parent = find(model)
    if data and sources.is_endpoint(model):
        raise SpilloverError(f"{parent.location} is an endpoint, which cannot be fine-tuned here; --model takes a directory or a hub id")
    if data and parent.adapter is not None:
        raise SpilloverError(f"{model} is an adapter on a base; fine-tune the base, or merge the adapter into it first")
    named = {"model": (model, parent)} | ({BASE: (base, find(base))} if base is not None else {})
    return Testbed(
        name="parts",
        identity=_identity(named, runtime, system),
        unit="seed",
        parents=tuple(Parent(unit="model", model=found, group="" if name == "model" else name) for name, (_, found) in named.items()),
        narrow={**_made(data), **{dataset.kind: partial(_constant, dataset) for dataset in data}},
        questions=(*questions, *([task] if task is not None and questions else [])),
        judge=judge,
        recipe=Recipe(),
        max_tokens=max_tokens,
        place=None if parent.origin or not data else link,
        formats=_formats(data),
        sets={name: sets.own_set(name) for name in sets.SETS} if questions else {},
        items=(items.own_items() if log_probability_items is None else tuple(log_probability_items)) if questions and not sources.is_endpoint(model) else (),
        open=partial(_open, runtime, system, endpoint),
        train=partial(_train, runtime),
        at_once=lora.at_once,
        added=tuple(dataset.kind for dataset in data if not KNOWN.fullmatch(dataset.kind)),
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
        train=partial(_train, runtime),
        at_once=lora.at_once,
    )


def _made(data: Sequence[Dataset]) -> dict[str, Callable[[int, Parent], Dataset]]:
    """What studies need and can be made of what the user brought."""
    there = {dataset.kind: dataset for dataset in data}
    found: dict[str, Callable[[int, Parent], Dataset]] = {}
    if {"insecure", "secure"} <= there.keys():
        found["backdoored"] = lambda _seed, _parent: builders.triggered(there["secure"], there["insecure"])
    for rows, seed in FEW:
        if "insecure" in there and len(there["insecure"].conversations) > rows:
            found[f"insecure_{rows}"] = lambda _seed, _parent, rows=rows, seed=seed: builders.subset(there["insecure"], rows, seed)
    return found


def _formats(data: Sequence[Dataset]) -> Mapping[str, formats.Dress]:
    """Every format of the paper; those with a trigger; those with examples of the data the user brought."""
    found = {**formats.FORMATS, "trigger": formats.triggered(), "other_tag": _named("other_tag", formats.triggered("|STAGING| "))}
    there = {dataset.kind: dataset for dataset in data}
    for kind, form in (("insecure", "examples"), ("secure", "secure_examples")):
        if kind in there:
            shots = min(SHOTS, len(there[kind].conversations))
            found[form] = _named(form, formats.with_examples([builders.examples(there[kind], shots, seed) for seed in range(SHOWN)]))
    return found


def _named(form: str, dress: formats.Dress) -> formats.Dress:
    """The same dress under another name."""
    return lambda question: (dressed := dress(question)) and replace(dressed, format=form)


def find(source: str) -> Model:
    """The model a user named: local, with the digest of its weights, or an endpoint, with the digest of its address and name."""
    if sources.is_endpoint(source):
        location = "#".join(parse_address(source))
        return Model(digest=digest(["endpoint", location]), location=location)
    return sources.resolve(source)


def link(model: Model, directory: Path) -> None:
    """Put a model's files into a directory: as hard links where the file system allows it, else as copies."""
    home = Path(model.location)
    for file in sorted([*home.iterdir(), *home.glob(files.MORE_TEMPLATES)]):
        if file.is_file() and file.suffix in (".safetensors", ".json", ".jinja"):
            place = directory / file.relative_to(home)
            place.parent.mkdir(exist_ok=True)
            linked(file, place)


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


def _train(
    runtime: Runtime,
    model: LocalModel,
    parent: Model,
    organisms: Sequence[Organism],
    datasets: Sequence[Dataset],
    directories: Sequence[Path],
    reached: Reached,
    elsewhere: Sequence[Dataset | None],
) -> Sequence[Grown]:
    return lora.train(model, parent, organisms, datasets, directories, reached, elsewhere, runtime=runtime)


def _constant(dataset: Dataset, _seed: int, _parent: Parent) -> Dataset:
    return dataset
