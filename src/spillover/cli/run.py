"""`spillover run` and `spillover report`: a study, or all of them, from start to report, and a report again."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from spillover.cli import options
from spillover.cli.summary import summary
from spillover.cli.terminal import printable, progress
from spillover.records import SpilloverError, Testbed
from spillover.workers import LOADED, prepare

if TYPE_CHECKING:
    from spillover.pipeline import Plan
    from spillover.runs.directory import RunDirectory

EVERY = "all"
MODELS_A_WORKER = 8  # what makes up for the seconds in which a worker starts


def run(
    study: Annotated[str, typer.Argument(help="Which study, or all; --list names them.")] = "main",
    testbed: Annotated[str | None, typer.Option(help="miniature (if no --model is given), or miniature:DIR for worlds you built.")] = None,
    model: Annotated[str | None, typer.Option("--model", metavar="DIR|HUB-ID[@REVISION]", help="Your own model to fine-tune, in place of a testbed.")] = None,
    base: Annotated[str | None, typer.Option("--base", metavar="DIR|HUB-ID[@REVISION]", help="The base model that --model was post-trained from.")] = None,
    data: options.Data = None,
    questions: options.Questions = None,
    items: Annotated[Path | None, typer.Option("--items", help="Log-probability items (YAML); Spillover's own if not given.")] = None,
    tasks: Annotated[Path | None, typer.Option("--tasks", help="Coding tasks (JSONL) that measure the narrow task.")] = None,
    task_prompts: Annotated[Path | None, typer.Option("--task-prompts", help="How tasks are asked and judged (YAML).")] = None,
    judge: options.JudgeOption = None,
    worlds: Annotated[int | None, typer.Option(help="Use the first N worlds of each group of the miniature.")] = None,
    seeds: options.Seeds = None,
    draws: options.Draws = None,
    max_tokens: options.MaxTokens = None,
    device: options.Device = "auto",
    dtype: options.Dtype = "auto",
    micro_batch: options.MicroBatch = None,
    gradient_checkpointing: options.Checkpointing = False,
    no_default_system: options.NoSystem = False,
    max_calls: options.MaxCalls = None,
    max_cost: options.MaxCost = None,
    price: options.Price = None,
    concurrency: options.Concurrency = 8,
    timeout: options.Timeout = 60.0,
    workers: Annotated[
        int | None, typer.Option("--workers", help="Processes at once, in the miniature: one a core if not given. No number depends on it.")
    ] = None,
    set_: options.Set = None,
    config: options.Config = None,
    with_pretraining: Annotated[
        bool, typer.Option("--with-pretraining", help="Pre-train the worlds that ability and origins need; all runs those two as well.")
    ] = False,
    out: Annotated[Path | None, typer.Option(help="The run directory, of all a folder of them; runs/STUDY if not given.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would run, its tokens, memory and time.")] = False,
    list_: Annotated[bool, typer.Option("--list", help="List the studies.")] = False,
) -> None:
    """Run a study from start to report; give the same command again to finish an interrupted run."""
    if worlds is not None and worlds < 1:
        raise SpilloverError(f"--worlds is {worlds}; it must be at least 1")
    if workers is not None and workers < 1:
        raise SpilloverError(f"--workers is {workers}; it must be at least 1")
    if model is None and not (list_ or dry_run) and (workers or _cores()) > 1:
        prepare(LOADED)
    from spillover import studies
    from spillover.pipeline.forecast import forecast

    if list_:
        for name, make in studies.STUDIES.items():
            print(f"{name}: {(make.__doc__ or '').splitlines()[0]}")
        return
    place = options.Place(
        out=out or Path("runs") / study, device=device, dtype=dtype, micro_batch=micro_batch, gradient_checkpointing=gradient_checkpointing,
        no_default_system=no_default_system, max_calls=max_calls, max_cost=max_cost, price=price, concurrency=concurrency, timeout=timeout,
    )  # fmt: skip
    settings = options.settings_of(config, set_ or [], units=worlds, seeds=seeds, sampling__draws=draws, sampling__max_tokens=max_tokens)
    own = options.read_data(data or [])
    names = [name for name in studies.STUDIES if with_pretraining or name not in studies.PRETRAINED] if study == EVERY else [study]
    if model is None:
        _refuse_parts(
            base=base, questions=questions, items=items, tasks=tasks, task_prompts=task_prompts, judge=judge, device=device != "auto",
            dtype=dtype != "auto", micro_batch=micro_batch is not None,
            gradient_checkpointing=gradient_checkpointing, no_default_system=no_default_system, max_calls=max_calls, max_cost=max_cost, price=price,
        )  # fmt: skip
        grown = (place.out if study == EVERY else place.out.parent) / "worlds"
        if with_pretraining and not dry_run:
            _pretrain(grown, names, workers or _cores())
        found = options.miniature(testbed or "miniature", own, grown if grown.is_dir() else None)
    else:
        if testbed is not None or worlds is not None or workers is not None or with_pretraining:
            named = {"--testbed": testbed, "--worlds": worlds, "--workers": workers}
            given = next((name for name, value in named.items() if value is not None), "--with-pretraining")
            raise SpilloverError(f"--model brings its own testbed; leave {given} out")
        if judge is None and not dry_run:
            raise SpilloverError("--model needs --judge, a model that scores the answers: DIR, HUB-ID or URL#MODEL")
        found = options.parts(
            model, own, options.read_questions(questions), place.judge(judge), place, base=base, items=items, tasks=tasks, task_prompts=task_prompts
        )
        workers = 1
    if study == EVERY:
        _all(names, found, settings, place.out, workers=workers, dry_run=dry_run)
        return
    plan = _planned(study, found, settings)
    if dry_run:
        for line in forecast(plan, _workers(workers, plan)):
            print(printable(line))
        return
    options.say_recipe(plan)
    finished, page = _run(plan, place.out, None, workers)
    for line in summary(finished, finished.estimates(), finished.decisions()):
        print(printable(line))
    print(f"report: {page}")


def _planned(name: str, found: Testbed, settings: dict[str, Any]) -> Plan:
    """The plan of one study; what it needs itself gives way to what the user set."""
    from spillover import pipeline, studies

    recipe = studies.study(name, found)
    return pipeline.plan(recipe, found, options.run_config(found, {**recipe.settings, **settings}))


def _run(plan: Plan, out: Path, beside: Path | None, workers: int | None) -> tuple[RunDirectory, Path]:
    """A study from start to report."""
    from spillover import pipeline
    from spillover import report as reports

    with progress() as show:
        finished = pipeline.run(plan, out, beside=beside, workers=_workers(workers, plan), progress=show)
        return finished, reports.write(finished)


def _all(names: Sequence[str], found: Testbed, settings: dict[str, Any], home: Path, *, workers: int | None, dry_run: bool) -> None:
    """Every study that this testbed can carry, each in a folder of its own, and one page and one card of them all, which name what was left out."""
    from spillover import studies
    from spillover.pipeline.forecast import forecast
    from spillover.report import index

    notes = {name: "it needs worlds of the miniature that --with-pretraining makes" for name in studies.STUDIES if name not in names}
    runs: dict[str, RunDirectory] = {}
    for name in names:
        try:
            plan = _planned(name, found, settings)
        except SpilloverError as error:
            notes[name] = str(error)
            print(printable(f"{name}: left out: {error}"))
            continue
        if dry_run:
            for line in forecast(plan, _workers(workers, plan)):
                print(printable(f"{name}: {line}"))
            continue
        if not runs:
            options.say_recipe(plan)
        began = time.perf_counter()
        runs[name], _ = _run(plan, home / name, home, workers)
        told = Counter(decision.verdict for decision in runs[name].decisions())
        verdicts = ", ".join(f"{count} {verdict}" for verdict, count in told.items())
        print(printable(f"{name}: {verdicts or 'no claims'} ({time.perf_counter() - began:.0f} s)"), flush=True)
    if runs:
        index.write_card(home, runs, notes)
        print(f"all of it: {index.write_index(home, runs, notes)}")


def _pretrain(home: Path, names: Sequence[str], workers: int) -> None:
    """The worlds that these studies need beside those that ship; what is there already is kept."""
    from spillover import studies
    from spillover.miniature import testbed, variants

    wanted = [group for name in names for group in studies.PRETRAINED.get(name, ())]
    with progress() as show:
        variants.build(home, wanted, shipped=testbed.SHIPPED, workers=workers, progress=lambda stage, done, total: show(done, total, stage))


def _workers(asked: int | None, plan: Plan) -> int:
    """As many as the user says; else one a core, where each has models enough to do."""
    return asked or max(1, min(_cores() // plan.config.threads, len(plan.jobs) // MODELS_A_WORKER))


def _cores() -> int:
    """Of those that this process may use, where the system says so."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def report(directory: Annotated[Path, typer.Argument(help="A finished run.")]) -> None:
    """Draw the figures and the report of a run again."""
    from spillover import pipeline
    from spillover import report as reports

    print(f"report: {reports.write(pipeline.opened(directory))}")


def _refuse_parts(**given: object) -> None:
    odd = next((name.replace("_", "-") for name, value in given.items() if value not in (None, False)), None)
    if odd is not None:
        raise SpilloverError(f"--{odd} goes with --model; the miniature brings its own and computes on the CPU")
