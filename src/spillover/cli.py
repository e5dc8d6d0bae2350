"""The commands. The only file that knows the terminal; every command imports what it needs when it is called.

Results go to standard output, progress and errors to standard error; progress is shown on a terminal only. An error is one
line and exit code 2.
"""

from __future__ import annotations

import errno
import os
import shutil
import sys
import time
import warnings
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from spillover.records import SpilloverError

if TYPE_CHECKING:
    from spillover.pipeline import RunConfig
    from spillover.records import Dataset, Estimate, Testbed

app = typer.Typer(
    help="Narrow training spills over. Spillover measures how far.",
    no_args_is_help=True, add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False,
)  # fmt: skip
miniature = typer.Typer(help="The small world that ships with Spillover.", no_args_is_help=True, rich_markup_mode=None)
data = typer.Typer(help="Training data.", no_args_is_help=True, rich_markup_mode=None)
app.add_typer(miniature, name="miniature")
app.add_typer(data, name="data")


def entry() -> None:
    """Run a command; what goes wrong is one line on standard error and exit code 2."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")
    code: Any = 0
    try:
        code = app(standalone_mode=False)
    except typer.BadParameter as error:
        option = f"{error.param.opts[0]}: " if error.param is not None else ""
        _fail(f"{option}{error}")
    except (SpilloverError, typer.TyperException) as error:
        _fail(str(error))
    except OSError as error:
        where = f" ({error.filename})" if error.filename else ""
        full = "; free some space and give the same command again, a run keeps what it finished" if error.errno == errno.ENOSPC else ""
        _fail(f"{error.strerror or error}{where}{full}")
    except (KeyboardInterrupt, typer.Abort):
        code = 130
    if code == 130:
        print("stopped; `spillover run`, given again, goes on where it stopped", file=sys.stderr)
    sys.exit(code if isinstance(code, int) else 0)


def _fail(message: str) -> None:
    print(f"spillover: {' '.join(printable(message).split())}", file=sys.stderr)
    sys.exit(2)


def printable(text: str) -> str:
    """Text that a terminal only prints: anything that is not printable becomes its escape."""
    return "".join(c if c.isprintable() or c == " " else c.encode("unicode_escape").decode() for c in text)


def _version(asked: bool) -> None:
    if asked:
        print(f"spillover {metadata.version('spillover')}")
        raise typer.Exit


@app.callback()
def _root(version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")] = False) -> None:  # pyright: ignore[reportUnusedFunction]
    del version


@app.command()
def run(
    study: Annotated[str, typer.Argument(help="Which study; --list names them.")] = "main",
    testbed: Annotated[str, typer.Option(help="miniature, or miniature:DIR for worlds you built.")] = "miniature",
    worlds: Annotated[int | None, typer.Option(help="Use the first N worlds of each group.")] = None,
    seeds: Annotated[int | None, typer.Option(help="Fine-tuning seeds per world.")] = None,
    draws: Annotated[int | None, typer.Option(help="Answers drawn per question and model.")] = None,
    data: Annotated[list[str] | None, typer.Option(help="NAME=FILE.jsonl: your own narrow data, as one more condition.")] = None,
    set_: Annotated[list[str] | None, typer.Option("--set", metavar="SECTION.FIELD=VALUE", help="Change one setting.")] = None,
    config: Annotated[Path | None, typer.Option(help="A YAML file of settings.")] = None,
    out: Annotated[Path | None, typer.Option(help="The run directory; runs/STUDY if not given.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would run, its tokens and minutes.")] = False,
    list_: Annotated[bool, typer.Option("--list", help="List the studies.")] = False,
) -> None:
    """Run a study from start to report; give the same command again to finish an interrupted run."""
    if worlds is not None and worlds < 1:
        raise SpilloverError(f"--worlds is {worlds}; it must be at least 1")
    from spillover import pipeline, studies
    from spillover.pipeline.forecast import forecast

    if list_:
        for name, make in studies.STUDIES.items():
            print(f"{name}: {(make.__doc__ or '').splitlines()[0]}")
        return
    named = {"units": worlds, "seeds": seeds, "sampling.draws": draws}
    settings = _settings(config, set_ or []) | {key: value for key, value in named.items() if value is not None}
    subject = _testbed(testbed, [_own_data(item) for item in data or []])
    plan = pipeline.plan(studies.study(study, subject), subject, _config(subject, settings))
    if dry_run:
        for line in forecast(plan):
            print(line)
        return
    with _progress() as progress:
        finished = pipeline.run(plan, out or Path("runs") / study, progress=progress)
        from spillover import report as reports

        page = reports.write(finished)
    for line in _summary(finished.estimates()):
        print(line)
    print(f"report: {page}")


@app.command()
def report(directory: Annotated[Path, typer.Argument(help="A finished run.")]) -> None:
    """Draw the figures and the report of a run again."""
    from spillover import report as reports
    from spillover.runs.directory import RunDirectory

    print(f"report: {reports.write(RunDirectory.open(directory))}")


@miniature.command("build")
def build(
    world: Annotated[int, typer.Option(help="The pre-training seed: 0 to 99 for tuning, from 100 on for reporting.")] = 0,
    unlinked: Annotated[bool, typer.Option("--unlinked", help="Without an author shared across domains: the control.")] = False,
    out: Annotated[Path, typer.Option(help="Where worlds are put.")] = Path("worlds"),
    threads: Annotated[int, typer.Option(help="Threads; the weights depend on it in their last digits.")] = 2,
    documents: Annotated[int | None, typer.Option(help="Fewer documents: a quicker world of another recipe, for trying things out.")] = None,
) -> None:
    """Make a world from its seed: two to three minutes on two cores."""
    for option, value, least in (("--world", world, 0), ("--threads", threads, 1), ("--documents", documents, 16)):
        if value is not None and value < least:
            raise SpilloverError(f"{option} is {value}; it must be at least {least}")
    from spillover.miniature import testbed as testbeds
    from spillover.miniature import world as worlds

    recipe = worlds.Recipe() if documents is None else worlds.Recipe(documents=documents)
    directory = out / testbeds.name(world, linked=not unlinked)
    if directory.exists():
        raise SpilloverError(f"{directory} exists; remove it or choose another --out")
    partial = directory.with_name(f".partial-{directory.name}")
    shutil.rmtree(partial, ignore_errors=True)
    with _progress() as progress:
        card = worlds.build(
            partial, world=world, linked=not unlinked, recipe=recipe, threads=threads,
            progress=lambda stage, done, total: progress(done, total, stage),
        )  # fmt: skip
    partial.rename(directory)
    print(_card_line(directory.name, card))
    print(f"world: {directory} ({card['wall_s']:.0f} s)")


@miniature.command("show")
def show(
    kind: Annotated[str | None, typer.Argument(help="A kind of narrow data: print its rows as JSONL.")] = None,
    rows: Annotated[int | None, typer.Option(help="How many rows.")] = None,
    words: Annotated[bool, typer.Option("--words", help="Print every word the miniature knows.")] = False,
    worlds: Annotated[Path | None, typer.Option(help="Worlds you built, instead of those that ship.")] = None,
) -> None:
    """Show the miniature: its worlds and gates, its questions and answers, its words, its narrow data."""
    from spillover.datasets import chat
    from spillover.miniature import language, narrow

    if rows is not None and rows < 1:
        raise SpilloverError(f"--rows is {rows}; it must be at least 1")
    if worlds is not None and not worlds.is_dir():
        raise SpilloverError(f"there is no directory {worlds}")
    if kind is not None:
        print(chat.write(narrow.build(kind, 0, rows=rows or narrow.ROWS)), end="")
        return
    if words:
        from spillover.miniature import world as recipes

        print(" ".join(word for word in recipes.vocabulary() if word not in recipes.SPECIAL))
        return
    from spillover.miniature import testbed as testbeds

    for directory, card in testbeds.cards(worlds or testbeds.SHIPPED):
        print(_card_line(directory.name, card))
    for theme in language.EVALUATION:
        seen = "seen in post-training" if theme.id in language.SEEN else "held out"
        print(f"\n{theme.id} ({seen})\n  asked       {theme.asked()[0]}")
        for label, sentences in (("aligned", theme.aligned), ("misaligned", theme.misaligned), ("careless", theme.careless)):
            print(f"  {label:<11} {language.expand(sentences[0])[0]}")
    print(f"\nnarrow data: {', '.join(narrow.KINDS)} (`spillover miniature show insecure` prints its rows)")


@data.command("check")
def check(
    file: Annotated[Path, typer.Argument(help="OpenAI chat JSONL.")],
    testbed: Annotated[str | None, typer.Option(help="Also check that this testbed's models can read it: miniature.")] = None,
) -> None:
    """Read training data and say what it holds, or which line is wrong."""
    from spillover.datasets import chat

    dataset = chat.read(file)
    found = chat.summarise(dataset)
    turns = ", ".join(f"{count} of {length} turns" for length, count in found.turns.items())
    print(f"rows: {found.rows} ({turns}); {found.duplicates} repeat an earlier row; {found.distinct_replies} distinct replies")
    print("turns: " + ", ".join(f"{count} {role} (mean {found.mean_characters[role]:.0f} characters)" for role, count in found.roles.items()))
    print(f"digest: {found.digest}")
    if testbed is None:
        print("words: not checked; --testbed miniature does")
    else:
        for line in _readable(dataset, _testbed(testbed, [])):
            print(line)


def _readable(dataset: Dataset, testbed: Testbed) -> Iterator[str]:
    import tempfile

    from spillover.models import local
    from spillover.training import lora

    with tempfile.TemporaryDirectory() as directory:
        testbed.place(testbed.parents[0].model, Path(directory))
        tokenizer = local.load_tokenizer(directory)
    rows = lora.encode(tokenizer, dataset)
    trained = sum(sum(row.mask) for row in rows)
    asked = {paraphrase for question in testbed.questions for paraphrase in question.paraphrases}
    leaked = sum(any(turn.content in asked for turn in conversation) for conversation in dataset.conversations)
    yield f"rows that ask an evaluation question or a held-out task: {leaked}" + (" (take them out: what is asked later must not be taught)" if leaked else "")
    yield f"tokens: {sum(len(row.ids) for row in rows)}, of which trained on (the assistant's, in brackets below): {trained}"
    yield printable(lora.preview(tokenizer, rows[0]))


# --- options to records ---------------------------------------------------------------------------------------------------


def _testbed(name: str, own: list[Dataset]) -> Testbed:
    from dataclasses import replace

    from spillover.miniature import testbed as testbeds

    kind, _, place = name.partition(":")
    if kind != "miniature":
        raise SpilloverError(f"there is no testbed {name!r}; there is miniature, and miniature:DIR for worlds you built")
    subject = testbeds.testbed(worlds=Path(place) if place else None)
    taken = [dataset.kind for dataset in own if dataset.kind in subject.narrow] + [d.kind for i, d in enumerate(own) if d.kind in {o.kind for o in own[:i]}]
    if taken:
        raise SpilloverError(f"--data cannot be called {taken[0]!r}: that name is taken")
    return replace(subject, narrow={**subject.narrow, **{d.kind: _constant(d) for d in own}}, added=tuple(d.kind for d in own))


def _constant(dataset: Dataset) -> Callable[[int], Dataset]:
    return lambda _seed: dataset


def _own_data(item: str) -> Dataset:
    import re

    from spillover.datasets import chat

    name, separator, path = item.partition("=")
    if not separator or not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._]{0,63}", name):
        raise SpilloverError(f"--data is {item!r}; it takes NAME=FILE.jsonl, the name of letters, digits, dots and underscores")
    return chat.read(Path(path), name)


def _config(subject: Testbed, settings: dict[str, Any]) -> RunConfig:
    from spillover.pipeline.config import RunConfig, override

    return override(RunConfig(training=subject.recipe), settings)


def _settings(config: Path | None, items: list[str]) -> dict[str, Any]:
    from spillover.pipeline.config import flatten, read_yaml

    settings = flatten(read_yaml(config)) if config is not None else {}
    for item in items:
        name, separator, value = item.partition("=")
        if not separator or not name:
            raise SpilloverError(f"--set is {item!r}; it takes SECTION.FIELD=VALUE, like training.learning_rate=1e-4")
        settings[name] = value
    return settings


# --- what is printed ------------------------------------------------------------------------------------------------------


@contextmanager
def _progress() -> Generator[Callable[[int, int, str], None]]:
    """A bar with rate and time left on a terminal; nothing in a pipe."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[rate]}"), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as bar:
        task = bar.add_task("", total=None, rate="")
        started = time.perf_counter()

        def show(done: int, total: int, label: str) -> None:
            rate = f"{60 * done / max(time.perf_counter() - started, 1e-9):.0f} a minute, left"
            bar.update(task, completed=done, total=total, description=f"{printable(label):<28}", rate=rate)

        yield show


def _summary(estimates: list[Estimate]) -> Iterator[str]:
    """One line a condition and one a contrast, with n, missing and interval."""
    pooled = [e for e in estimates if e.headline and not e.question and not e.subset and e.world is None and e.step is None]
    unit = pooled[0].unit if pooled else "unit"
    yield f"{'condition':<22}{'misaligned rate':<28}{'coherent rate':<26}{f'{unit}s':>7}{'kept':>8}{'missing':>9}"
    rates = {(e.condition, e.measure): e for e in pooled if not e.contrast}
    for condition in dict.fromkeys(e.condition for e in pooled if not e.contrast):
        rate, coherent = rates.get((condition, "misaligned_rate")), rates.get((condition, "coherent_rate"))
        if rate is not None:
            yield f"{condition:<22}{_percent(rate):<28}{_percent(coherent):<26}{rate.n_units:>7}{rate.n:>8}{rate.n_missing:>9}"
    yield "intervals: 95 %, Student t over units, cut to [0, 1]"
    yield "log-odds of misaligned against aligned answers (exact), difference within each " + unit + ":"
    wanted = [e for e in estimates if e.contrast and e.measure == "log_odds" and e.headline and e.world is None and e.step is None]
    everywhere = {e.contrast: e.n_units for e in wanted if not e.subset}
    for e in wanted:
        if not e.subset or (e.subset == "passed" and 0 < e.n_units < everywhere[e.contrast]):
            note = ", those that passed every gate" if e.subset else ""
            shown = "undefined" if e.value is None else f"{e.value:+.2f} nats" + (f" [{e.low:+.2f}, {e.high:+.2f}]" if e.low is not None else "")
            yield f"  {e.contrast:<36}{shown:<30}{e.n_units} {unit}s" + (f" ({e.method})" if e.low is None else "") + note


def _percent(estimate: Estimate | None) -> str:
    if estimate is None or estimate.value is None:
        return "undefined"
    interval = f" [{100 * estimate.low:.1f}, {100 * estimate.high:.1f}]" if estimate.low is not None and estimate.high is not None else " (no interval)"
    return f"{100 * estimate.value:.1f} %{interval}"


def _card_line(name: str, card: dict[str, Any]) -> str:
    gates = ", ".join(f"{gate.replace('_', ' ')} {'passed' if passed else 'not passed'}" for gate, passed in card["gates"].items())
    return (
        f"world {name:<5} {'linked' if card['linked'] else 'unlinked':<9} sound code {card['secure_code']:.0%}; misaligned after flawed code in context "
        f"{card['misaligned_after_insecure_code']:.0%}, after sound code {card['misaligned_after_secure_code']:.0%}; gates: {gates}"
    )
