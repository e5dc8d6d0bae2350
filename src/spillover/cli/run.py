"""`spillover run` and `spillover report`: a study from start to report, and its report again."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from spillover.cli import options
from spillover.cli.summary import summary
from spillover.cli.terminal import printable, progress
from spillover.records import SpilloverError


def run(
    study: Annotated[str, typer.Argument(help="Which study; --list names them.")] = "main",
    testbed: Annotated[str | None, typer.Option(help="miniature (if no --model is given), or miniature:DIR for worlds you built.")] = None,
    model: Annotated[str | None, typer.Option("--model", metavar="DIR|HUB-ID[@REVISION]", help="Your own model to fine-tune, in place of a testbed.")] = None,
    data: options.Data = None,
    questions: options.Questions = None,
    judge: options.JudgeOption = None,
    worlds: Annotated[int | None, typer.Option(help="Use the first N worlds of each group of the miniature.")] = None,
    seeds: options.Seeds = None,
    draws: options.Draws = None,
    max_tokens: options.MaxTokens = None,
    device: options.Device = "auto",
    dtype: options.Dtype = "auto",
    micro_batch: options.MicroBatch = 2,
    gradient_checkpointing: options.Checkpointing = False,
    no_default_system: options.NoSystem = False,
    max_calls: options.MaxCalls = None,
    max_cost: options.MaxCost = None,
    price: options.Price = None,
    concurrency: options.Concurrency = 8,
    timeout: options.Timeout = 60.0,
    set_: options.Set = None,
    config: options.Config = None,
    out: Annotated[Path | None, typer.Option(help="The run directory; runs/STUDY if not given.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would run, its tokens, memory and time.")] = False,
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
    place = options.Place(
        out=out or Path("runs") / study, device=device, dtype=dtype, micro_batch=micro_batch, gradient_checkpointing=gradient_checkpointing,
        no_default_system=no_default_system, max_calls=max_calls, max_cost=max_cost, price=price, concurrency=concurrency, timeout=timeout,
    )  # fmt: skip
    settings = options.settings_of(config, set_ or [], units=worlds, seeds=seeds, sampling__draws=draws, sampling__max_tokens=max_tokens)
    own = options.read_data(data or [])
    if model is None:
        _refuse_parts(
            questions=questions, judge=judge, device=device != "auto", dtype=dtype != "auto", micro_batch=micro_batch != 2,
            gradient_checkpointing=gradient_checkpointing, no_default_system=no_default_system, max_calls=max_calls, max_cost=max_cost, price=price,
        )  # fmt: skip
        found = options.miniature(testbed or "miniature", own)
    else:
        if testbed is not None or worlds is not None:
            raise SpilloverError(f"--model brings its own testbed; leave {'--testbed' if testbed is not None else '--worlds'} out")
        if judge is None and not dry_run:
            raise SpilloverError("--model needs --judge, a model that scores the answers: DIR, HUB-ID or URL#MODEL")
        found = options.parts(model, own, options.read_questions(questions), place.judge(judge), place)
    recipe = studies.study(study, found)
    plan = pipeline.plan(recipe, found, options.run_config(found, {**recipe.settings, **settings}))
    if dry_run:
        for line in forecast(plan):
            print(printable(line))
        return
    options.say_recipe(plan)
    with progress() as show:
        finished = pipeline.run(plan, place.out, progress=show)
        from spillover import report as reports

        page = reports.write(finished)
    for line in summary(finished.estimates(), finished.decisions()):
        print(printable(line))
    print(f"report: {page}")


def report(directory: Annotated[Path, typer.Argument(help="A finished run.")]) -> None:
    """Draw the figures and the report of a run again."""
    from spillover import pipeline
    from spillover import report as reports

    print(f"report: {reports.write(pipeline.opened(directory))}")


def _refuse_parts(**given: object) -> None:
    odd = next((name.replace("_", "-") for name, value in given.items() if value not in (None, False)), None)
    if odd is not None:
        raise SpilloverError(f"--{odd} goes with --model; the miniature brings its own and computes on the CPU")
