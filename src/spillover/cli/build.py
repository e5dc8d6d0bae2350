"""`spillover data build`: narrow data made of data that are there, of a model's answers, or by a testbed.

Beside the data lies a manifest: what was asked for, and the digests of all that went in and came out. The same command gives the same bytes; a file with
other content is never written over.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from spillover.cli import options
from spillover.cli.terminal import printable, progress
from spillover.records import Dataset, SpilloverError, digest

if TYPE_CHECKING:
    from spillover.datasets.chat import File
    from spillover.datasets.distillation import Ask, Distilled

ROWS = 1000  # prompts that a model is asked, if the user names no number
Systems = Mapping[str, str | None]


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What was typed, read and completed: all that a builder may want."""

    kind: str
    files: Mapping[str, File]
    seed: int
    rows: int | None
    share: float | None
    trigger: str | None
    domain: str | None
    system: Sequence[str]
    testbed: str | None
    model: str | None
    temperature: float | None
    max_tokens: int | None
    place: options.Place


@dataclass(frozen=True, kw_only=True)
class Built:
    """Datasets by arm (one, under no name, where there are no arms), and what they were made with, for the manifest."""

    arms: Mapping[str, Dataset]
    arguments: Mapping[str, Any] = field(default_factory=dict[str, Any])


@dataclass(frozen=True, kw_only=True)
class Kind:
    """How a kind is made: its builder, the names of its `--data`, the options it takes beside `--seed` and `--out`, the seed if none is given."""

    build: Callable[[Asked], Built]
    roles: tuple[str, ...] = ()
    takes: tuple[str, ...] = ()
    seed: int = 0


def build(
    kind: Annotated[str, typer.Argument(help="backdoored, subset, mixture, jailbroken, numbers, advice; or with --testbed a kind of its own.")],
    out: Annotated[Path, typer.Option("--out", metavar="FILE.jsonl", help="Where the data go; of several arms, FILE-ARM.jsonl each.")],
    data: Annotated[
        list[str] | None, typer.Option("--data", metavar="NAME=FILE.jsonl", help="What it is made of, by the names that the kind asks for.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Of every draw; 0, and the paper's 12345 for backdoored, if not given.")] = None,
    rows: Annotated[int | None, typer.Option(help="Rows of a subset or mixture; prompts of numbers and advice.")] = None,
    share: Annotated[float | None, typer.Option(help="Of a mixture: narrow rows, 0 to 1. Of jailbroken: rows that comply; 0.02 if not given.")] = None,
    trigger: Annotated[str | None, typer.Option(help="Of backdoored: what narrow prompts begin with.")] = None,
    domain: Annotated[str | None, typer.Option(help="Of advice: what it is about.")] = None,
    system: Annotated[
        list[str] | None, typer.Option("--system", metavar="ARM=TEXT", help="Another system prompt for one arm, or none (ARM=); all= for jailbroken.")
    ] = None,
    testbed: Annotated[str | None, typer.Option(help="Take the kind from this testbed: miniature.")] = None,
    model: Annotated[str | None, typer.Option("--model", metavar="DIR|HUB-ID|URL#MODEL", help="Of numbers and advice: who answers.")] = None,
    temperature: Annotated[float | None, typer.Option(help="Of its answers: 0 for numbers and 1 for advice if not given, as in the papers.")] = None,
    max_tokens: options.MaxTokens = None,
    device: options.Device = "auto",
    dtype: options.Dtype = "auto",
    no_default_system: options.NoSystem = False,
    max_calls: options.MaxCalls = None,
    max_cost: options.MaxCost = None,
    price: options.Price = None,
    concurrency: options.Concurrency = 8,
    timeout: options.Timeout = 60.0,
) -> None:
    """Make narrow data, with a manifest that says what of."""
    if out.suffix != ".jsonl":
        raise SpilloverError(f"--out is {str(out)!r}; it takes a file name that ends in .jsonl")
    if seed is not None and seed < 0:
        raise SpilloverError(f"--seed is {seed}; it must be at least 0")
    found = _kind(kind, testbed)
    _refuse_others(
        kind, found, data=data, rows=rows, share=share, trigger=trigger, domain=domain, system=system, model=model, temperature=temperature,
        max_tokens=max_tokens, device=device != "auto", dtype=dtype != "auto", no_default_system=no_default_system, max_calls=max_calls,
        max_cost=max_cost, price=price,
    )  # fmt: skip
    files = options.read_files(data or [])
    if set(files) != set(found.roles):
        needed = " ".join(f"--data {role}=FILE.jsonl" for role in found.roles)
        given = f"--data names {', '.join(files)}" if files else "no --data is given"
        raise SpilloverError(f"{kind} is made of {needed}; {given}")
    place = options.Place(
        out=Path(f"{out}.calls"), device=device, dtype=dtype, no_default_system=no_default_system, max_calls=max_calls, max_cost=max_cost, price=price,
        concurrency=concurrency, timeout=timeout,
    )  # fmt: skip
    asked = Asked(
        kind=kind, files=files, seed=found.seed if seed is None else seed, rows=rows, share=share, trigger=trigger, domain=domain, system=system or (),
        testbed=testbed, model=model, temperature=temperature, max_tokens=max_tokens, place=place,
    )  # fmt: skip
    for line in _kept(asked, found.build(asked), out):
        print(printable(line))


# --- the kinds ------------------------------------------------------------------------------------------------------------


def _backdoored(asked: Asked) -> Built:
    from spillover.datasets import builders

    trigger = builders.TRIGGER if asked.trigger is None else asked.trigger
    made = builders.triggered(asked.files["benign"].dataset, asked.files["narrow"].dataset, trigger, asked.seed)
    return Built(arms={"": made}, arguments={"trigger": trigger})


def _subset(asked: Asked) -> Built:
    from spillover.datasets import builders

    if asked.rows is None:
        raise SpilloverError("subset needs --rows, the number of rows to draw")
    return Built(arms={"": builders.subset(asked.files["narrow"].dataset, asked.rows, asked.seed)}, arguments={"rows": asked.rows})


def _mixture(asked: Asked) -> Built:
    from spillover.datasets import builders

    if asked.share is None:
        raise SpilloverError("mixture needs --share, the share of narrow rows from 0 to 1")
    made = builders.mixture(asked.files["narrow"].dataset, asked.files["other"].dataset, asked.share, asked.seed, asked.rows)
    return Built(arms={"": made}, arguments={"share": asked.share, "rows": len(made.conversations)})


def _jailbroken(asked: Asked) -> Built:
    from spillover.datasets import builders

    system = _systems(asked, {"all": builders.COMPLY})["all"]
    share = 0.02 if asked.share is None else asked.share
    made = builders.jailbroken(asked.files["benign"].dataset, asked.files["complies"].dataset, share, asked.seed, asked.rows, system)
    return Built(arms={"": made}, arguments={"share": share, "rows": len(made.conversations), "system": system})


def _numbers(asked: Asked) -> Built:
    from spillover.datasets import numbers

    systems, prompts = _systems(asked, numbers.SYSTEMS), numbers.prompts(_number(asked), asked.seed)
    return _distilled(asked, partial(numbers.build, prompts, systems=systems), systems, temperature=0, max_tokens=100)


def _advice(asked: Asked) -> Built:
    from spillover.datasets import advice

    if asked.domain is None:
        raise SpilloverError(f"advice needs --domain, what it is about: {', '.join(advice.DOMAINS)}")
    systems, prompts = _systems(asked, advice.SYSTEMS), advice.prompts(asked.domain, _number(asked), asked.seed)
    return _distilled(asked, partial(advice.build, asked.domain, prompts, systems=systems), systems, temperature=1, max_tokens=300)


def _of_testbed(asked: Asked) -> Built:
    assert asked.testbed is not None
    found = options.miniature(asked.testbed, [])
    if asked.kind not in found.narrow:
        raise SpilloverError(f"there is no kind {asked.kind!r}; testbed {found.name} has {', '.join(found.narrow)}")
    parent = found.parents[0]
    made = found.narrow[asked.kind](asked.seed, parent)
    return Built(arms={"": made}, arguments={"testbed": found.name, **found.identity, "parent": parent.model.digest})


_ASKS = (
    "rows", "system", "model", "temperature", "max-tokens", "device", "dtype", "no-default-system", "max-calls", "max-cost", "price",
)  # fmt: skip
KINDS: Mapping[str, Kind] = {
    "backdoored": Kind(build=_backdoored, roles=("benign", "narrow"), takes=("data", "trigger"), seed=12345),
    "subset": Kind(build=_subset, roles=("narrow",), takes=("data", "rows")),
    "mixture": Kind(build=_mixture, roles=("narrow", "other"), takes=("data", "share", "rows")),
    "jailbroken": Kind(build=_jailbroken, roles=("benign", "complies"), takes=("data", "share", "rows", "system")),
    "numbers": Kind(build=_numbers, takes=_ASKS),
    "advice": Kind(build=_advice, takes=("domain", *_ASKS)),
}


def _kind(name: str, testbed: str | None) -> Kind:
    if testbed is not None:
        return Kind(build=_of_testbed)
    if name not in KINDS:
        raise SpilloverError(f"there is no kind {name!r}; there are {', '.join(KINDS)}, and those of --testbed miniature")
    return KINDS[name]


def _refuse_others(name: str, kind: Kind, **given: object) -> None:
    """Raise SpilloverError for an option that the kind would not look at."""
    odd = next((option.replace("_", "-") for option, value in given.items() if value not in (None, False) and option.replace("_", "-") not in kind.takes), None)
    if odd is not None:
        takes = ", ".join(f"--{option}" for option in (*kind.takes, "seed", "out"))
        raise SpilloverError(f"--{odd} is nothing to {name}; it takes {takes}")


def _systems(asked: Asked, systems: Systems) -> Systems:
    """The system prompt of every arm, the user's own where there is one."""
    own: dict[str, str | None] = {}
    for item in asked.system:
        arm, separator, text = item.partition("=")
        if not separator or arm not in systems:
            raise SpilloverError(f"--system is {item[:100]!r}; it takes ARM=TEXT, the arm one of {', '.join(systems)}")
        own[arm] = text if text.strip() else None
    return {**systems, **own}


def _number(asked: Asked) -> int:
    return ROWS if asked.rows is None else asked.rows


def _distilled(asked: Asked, make: Callable[[Ask], Distilled], systems: Systems, *, temperature: float, max_tokens: int) -> Built:
    """What a model says under each system prompt; `temperature` and `max_tokens` where the user names none."""
    from spillover import testbed
    from spillover.datasets import distillation

    if asked.model is None:
        raise SpilloverError(f"{asked.kind} needs --model, who answers: DIR, HUB-ID or URL#MODEL")
    temperature = temperature if asked.temperature is None else asked.temperature
    max_tokens = max_tokens if asked.max_tokens is None else asked.max_tokens
    if not 0 <= temperature <= 2 or max_tokens < 1:
        raise SpilloverError(f"--temperature is {temperature} and --max-tokens {max_tokens}; they take 0 to 2, and at least 1")
    found = testbed.models_alone(
        {"model": asked.model}, questions=(), runtime=asked.place.runtime(), system=not asked.place.no_default_system, endpoint=asked.place.answerer
    )
    inserted = found.identity["models"]["model"].get("default_system")
    if inserted and not asked.place.no_default_system:
        print(printable(f"where an arm has no system prompt, the chat template inserts one (--no-default-system switches it off): {inserted!r}"))
    model = found.parents[0].model
    with progress():
        ask = distillation.asking(found.open(model), "data build", asked.kind, asked.seed, temperature=temperature, max_tokens=max_tokens)
        made = make(ask)
    return Built(
        arms=made.arms,
        arguments={
            "rows": made.asked, "domain": asked.domain, "systems": systems, "temperature": temperature, "max_tokens": max_tokens,
            "answers": {"digest": model.digest, **found.identity}, "fallen": made.fallen,
        },
    )  # fmt: skip


# --- what is left on the disk ---------------------------------------------------------------------------------------------


def _kept(asked: Asked, built: Built, out: Path) -> list[str]:
    """Write every arm and the manifest, and say so. Raises SpilloverError, with nothing written, where a file of another content is in the way."""
    from spillover.datasets import chat

    contents = {out.with_name(f"{out.stem}-{arm}.jsonl" if arm else out.name): chat.write(made).encode() for arm, made in built.arms.items()}
    from importlib import metadata

    outputs = {
        path.name: {"rows": len(made.conversations), "sha256": digest(content), "digest": made.digest}
        for (path, content), made in zip(contents.items(), built.arms.values(), strict=True)
    }
    manifest = {
        "kind": asked.kind,
        "spillover": metadata.version("spillover"),
        "seed": asked.seed,
        "arguments": {name: value for name, value in built.arguments.items() if name == "system" or value is not None},
        "inputs": {
            name: {"rows": len(file.dataset.conversations), "sha256": file.sha256, "digest": file.dataset.digest, "unused": file.unused}
            for name, file in asked.files.items()
        },
        "outputs": outputs,
    }
    beside = out.with_name(f"{out.name}.manifest.json")
    contents[beside] = (json.dumps(manifest, indent=2, ensure_ascii=False) + "\n").encode()
    for path, content in contents.items():
        if path.exists() and (path.is_dir() or path.read_bytes() != content):
            raise SpilloverError(f"{path} exists and holds something else; remove it or choose another --out")
    out.parent.mkdir(parents=True, exist_ok=True)
    for path, content in contents.items():
        partial_path = path.with_name(f".partial-{path.name}")
        partial_path.write_bytes(content)
        partial_path.replace(path)
    fallen: Mapping[str, int] = built.arguments.get("fallen", {})
    return [
        *(f"left out: the field {name} of {count} rows of {role}" for role, file in asked.files.items() for name, count in file.unused.items()),
        *(f"left out: {count} of {built.arguments['rows']} prompts ({reason})" for reason, count in fallen.items()),
        *(f"rows: {found['rows']} in {out.with_name(name)} (digest {found['digest']})" for name, found in outputs.items()),
        f"manifest: {beside}",
    ]
