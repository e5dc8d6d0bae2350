"""Options to records: what a user typed becomes a testbed, a config, settings, a judge; or one sentence that says what would work."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from spillover.cli.terminal import printable
from spillover.records import Answerer, Dataset, Judge, Parent, Question, Runtime, SpilloverError, Testbed

if TYPE_CHECKING:
    from spillover.datasets.chat import File
    from spillover.models.budget import Budget
    from spillover.models.endpoint import Endpoint, Limits
    from spillover.pipeline import Plan, RunConfig
    from spillover.runs.directory import RunDirectory
    from spillover.runs.journal import FileJournal

# --- options that several commands share ----------------------------------------------------------------------------------

MODEL = "DIR, HUB-ID[@REVISION], BASE:ADAPTER[@REVISION] or URL#MODEL"
Data = Annotated[list[str] | None, typer.Option("--data", metavar="NAME=FILE.jsonl", help="Narrow data, as one condition; may be given several times.")]
Questions = Annotated[Path | None, typer.Option("--questions", help="A question file (YAML); Spillover's own eight themes if not given.")]
JudgeOption = Annotated[str | None, typer.Option("--judge", metavar="DIR|HUB-ID|URL#MODEL", help="Who scores the answers.")]
MaxTokens = Annotated[int | None, typer.Option("--max-tokens", help="Most tokens of an answer.")]
Draws = Annotated[int | None, typer.Option("--draws", help="Answers drawn per question and model.")]
Seeds = Annotated[int | None, typer.Option("--seeds", help="Fine-tuning seeds: of each world, or of the one model.")]
Device = Annotated[str, typer.Option("--device", help="auto, cpu or cuda.")]
Dtype = Annotated[str, typer.Option("--dtype", help="auto, float32, bfloat16 or float16: of the weights; adapters are float32.")]
MicroBatch = Annotated[
    int | None,
    typer.Option("--micro-batch", help="Rows of each organism at once in training; as many as fit if not given. A step's loss stays the same."),
]
Checkpointing = Annotated[bool, typer.Option("--gradient-checkpointing", help="Less memory and more time in training.")]
NoSystem = Annotated[bool, typer.Option("--no-default-system", help="Switch off the system prompt that the chat template inserts by itself.")]
MaxCalls = Annotated[int | None, typer.Option("--max-calls", help="Most calls to endpoints in all, earlier sessions of this run included.")]
MaxCost = Annotated[float | None, typer.Option("--max-cost", help="Most US dollars to be spent at endpoints in all; takes --price.")]
Price = Annotated[
    str | None, typer.Option("--price", metavar="IN,OUT", help="US dollars per million prompt and completion tokens; of every endpoint of the run.")
]
Concurrency = Annotated[int, typer.Option("--concurrency", help="Calls to an endpoint at once.")]
Timeout = Annotated[float, typer.Option("--timeout", help="Seconds until a call to an endpoint is given up and tried again.")]
Set = Annotated[list[str] | None, typer.Option("--set", metavar="SECTION.FIELD=VALUE", help="Change one setting.")]
Config = Annotated[Path | None, typer.Option("--config", help="A YAML file of settings.")]
Out = Annotated[Path | None, typer.Option("--out", help="The run directory.")]


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a run computes and what it may spend: everything that several commands are told alike."""

    out: Path
    device: str = "auto"
    dtype: str = "auto"
    micro_batch: int | None = None
    gradient_checkpointing: bool = False
    no_default_system: bool = False
    max_calls: int | None = None
    max_cost: float | None = None
    price: str | None = None
    concurrency: int = 8
    timeout: float = 60.0

    def runtime(self) -> Runtime:
        """Raises SpilloverError for a device or a precision that is not there."""
        from spillover.models import local

        if self.micro_batch is not None and self.micro_batch < 1:
            raise SpilloverError(f"--micro-batch is {self.micro_batch}; it must be at least 1")
        device, dtype = local.resolved(self.device, self.dtype)
        return Runtime(device=device, dtype=dtype, micro_batch=self.micro_batch, gradient_checkpointing=self.gradient_checkpointing)

    def limits(self) -> Limits:
        from spillover.models.endpoint import Limits

        return Limits(
            concurrency=self.concurrency, timeout_s=self.timeout, max_calls=self.max_calls, max_cost=self.max_cost, price=_price(self.price)
        )  # fmt: skip

    def answerer(self, address: str) -> Answerer:
        """What answers at an address, its replies kept in the run."""
        from spillover.models.endpoint import EndpointModel

        return EndpointModel(self.endpoint(address))

    def endpoint(self, address: str) -> Endpoint:
        """One endpoint of this run: all of them keep their replies in one journal and spend from one budget."""
        from spillover.models.endpoint import Endpoint

        journal, budget = self._purse
        return Endpoint(address, limits=self.limits(), journal=journal, budget=budget)

    @cached_property
    def _purse(self) -> tuple[FileJournal, Budget]:
        from spillover.models.budget import Budget
        from spillover.runs.journal import FileJournal

        journal = FileJournal(self.out / "calls.jsonl")
        return journal, Budget("the endpoints of this run", self.limits(), journal)

    def judge(self, text: str | None) -> Judge | None:
        """The judge a user named, if any: an endpoint, its replies kept in the run, or open weights, loaded when first asked."""
        from spillover.models import sources

        if text is None:
            return None
        if sources.is_endpoint(text):
            from spillover.judging.endpoint import EndpointJudge

            return EndpointJudge(self.endpoint(text))
        from spillover.judging.local import LocalJudge
        from spillover.models import local

        model = sources.resolve(text)
        name = model.origin or Path(model.location).name
        runtime = self.runtime()
        return LocalJudge(partial(local.load, model, runtime), f"local {name} {model.digest[:16]} {runtime.dtype}")


# --- what commands are made of --------------------------------------------------------------------------------------------


def miniature(name: str, own: Sequence[Dataset], variants: Path | None = None) -> Testbed:
    """The miniature, or one on worlds that the user built; the user's own narrow data beside its own, and worlds of other recipes if there are any."""
    from spillover.miniature import testbed as testbeds

    kind, _, place = name.partition(":")
    if kind != "miniature":
        raise SpilloverError(f"there is no testbed {name!r}; there is miniature, and miniature:DIR for worlds you built; --model brings a model of your own")
    found = testbeds.testbed(worlds=Path(place) if place else None, variants=variants)
    taken = next((dataset.kind for dataset in own if dataset.kind in found.narrow), None)
    if taken is not None:
        raise SpilloverError(f"--data cannot be called {taken!r}: that name is taken")
    return replace(found, narrow={**found.narrow, **{d.kind: partial(_same, d) for d in own}}, added=tuple(d.kind for d in own))


def parts(
    model: str,
    data: Sequence[Dataset],
    questions: Sequence[Question],
    judge: Judge | None,
    place: Place,
    *,
    max_tokens: int | None = None,
    base: str | None = None,
    items: Path | None = None,
    tasks: Path | None = None,
    task_prompts: Path | None = None,
) -> Testbed:
    """A testbed from what the user has."""
    from spillover import testbed
    from spillover.questions import items as item_files
    from spillover.questions import sets

    if (tasks is None) != (task_prompts is None):
        raise SpilloverError("--tasks and --task-prompts go together: what is to be coded, and how it is asked and judged")
    return testbed.testbed(
        model, base=base, data=data, questions=questions, log_probability_items=None if items is None else item_files.read(items), judge=judge,
        task=None if tasks is None or task_prompts is None else sets.task_questions(task_prompts, tasks), runtime=place.runtime(),
        max_tokens=max_tokens or testbed.MAX_TOKENS, system=not place.no_default_system, endpoint=place.answerer,
    )  # fmt: skip


def read_questions(path: Path | None) -> tuple[Question, ...]:
    """A question file, or our own set."""
    from spillover.questions import files

    return files.own() if path is None else files.read(path)


def read_data(items: Sequence[str]) -> list[Dataset]:
    """Every NAME=FILE.jsonl, each name once."""
    return [file.dataset for file in read_files(items).values()]


def read_files(items: Sequence[str]) -> dict[str, File]:
    """The same by name, with the digest of each file."""
    from spillover.datasets import chat

    found: dict[str, File] = {}
    for item in items:
        name, path = named(item, "--data", "FILE.jsonl")
        if name in found:
            raise SpilloverError(f"--data names {name!r} twice; each dataset needs a name of its own")
        found[name] = chat.load(Path(path), name)
    return found


def named(item: str, option: str, value: str) -> tuple[str, str]:
    """`NAME=VALUE` as its two parts, the name fit for a file name."""
    from spillover.pipeline.plan import NAME

    name, separator, rest = item.partition("=")
    if not separator or not rest or not NAME.fullmatch(name):
        raise SpilloverError(f"{option} is {item!r}; it takes NAME={value}, the name of 1 to 64 letters, digits, dots, dashes and underscores, no dot first")
    return name, rest


def run_of(file: Path, out: Path | None, questions: Path | None) -> RunDirectory:
    """The run directory that a path names, or the one made of a CSV."""
    from spillover import pipeline
    from spillover.pipeline import exchange

    if file.is_dir():
        if out is not None or questions is not None:
            raise SpilloverError(f"{file} is a run directory, which has its questions and its place; --out and --questions go with a CSV")
        return pipeline.opened(file)
    from spillover.datasets import tables

    rows = tables.read(file)
    return exchange.run_of(rows, out or Path("runs") / file.stem, read_questions(questions))


def run_config(testbed: Testbed, settings: dict[str, Any]) -> RunConfig:
    from spillover.pipeline.config import RunConfig, override

    return override(RunConfig(training=testbed.recipe, threads=testbed.threads), settings)


def settings_of(config: Path | None, items: Sequence[str], **named: Any) -> dict[str, Any]:
    """Settings by name: from a file, then `--set`, then the options that have a name of their own."""
    from spillover.pipeline.config import flatten, read_yaml

    settings = flatten(read_yaml(config)) if config is not None else {}
    for item in items:
        name, separator, value = item.partition("=")
        if not separator or not name:
            raise SpilloverError(f"--set is {item!r}; it takes SECTION.FIELD=VALUE, like training.learning_rate=1e-4")
        settings[name] = value
    return settings | {name.replace("__", "."): value for name, value in named.items() if value is not None}


def say_recipe(plan: Plan) -> None:
    """Say what a run does that nobody asked for: where it leaves the paper's recipe, and what a chat template inserts."""
    for phrase in plan.differences():
        print(printable(f"differs from the paper's recipe: {phrase}"))
    for name, found in plan.testbed.identity.get("models", {}).items():
        if found.get("default_system"):
            state = "switched off by --no-default-system" if plan.testbed.identity["system"] == "off" else "--no-default-system switches it off"
            print(printable(f"the chat template of {name} inserts a system prompt ({state}): {found['default_system']!r}"))


def _same(dataset: Dataset, _seed: int, _parent: Parent) -> Dataset:
    return dataset


def _price(text: str | None) -> tuple[float, float] | None:
    if text is None:
        return None
    try:
        first, second = (float(part) for part in text.split(","))
    except ValueError:
        raise SpilloverError(f"--price is {text!r}; it takes two numbers, US dollars per million prompt and completion tokens, like 2.5,10") from None
    return first, second
