"""The verbs of the road alone: train, sample, estimate (`judge` has its own file). Each reads and writes the rows of a run directory as a study would."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from spillover.cli import options
from spillover.cli.summary import summary
from spillover.cli.terminal import printable, progress
from spillover.design import Condition, Study
from spillover.records import SpilloverError

Directory = Annotated[Path, typer.Option("--out", help="The run directory.")]


def train(
    model: Annotated[str, typer.Option("--model", metavar="DIR|HUB-ID[@REVISION]", help="The parent.")],
    data: options.Data = None,
    out: Directory = Path("runs/train"),
    seeds: options.Seeds = None,
    device: options.Device = "auto",
    dtype: options.Dtype = "auto",
    micro_batch: options.MicroBatch = None,
    gradient_checkpointing: options.Checkpointing = False,
    no_default_system: options.NoSystem = False,
    set_: options.Set = None,
    config: options.Config = None,
) -> None:
    """Fine-tune a model on each narrow dataset, with each seed; prints where every checkpoint is."""
    from spillover import pipeline
    from spillover.training import rows

    place = options.Place(
        out=out, device=device, dtype=dtype, micro_batch=micro_batch, gradient_checkpointing=gradient_checkpointing, no_default_system=no_default_system
    )  # fmt: skip
    own = options.read_data(data or [])
    if not own:
        raise SpilloverError("there is nothing to train on; --data NAME=FILE.jsonl brings narrow data")
    found = options.parts(model, own, (), None, place)
    study = Study(name="train", title="Fine-tuning alone", conditions=tuple(Condition(name=d.kind, kind=d.kind) for d in own), contrasts=())
    plan = pipeline.plan(study, found, options.run_config(found, options.settings_of(config, set_ or [], seeds=seeds)))
    options.say_recipe(plan)
    with progress() as show:
        run = pipeline.run(plan, out, progress=show)
    for job in plan.jobs:
        assert job.organism is not None
        home = f"organisms/{job.organism.key}"
        card = run.read_json(f"{home}/organism.json")
        read: rows.Provenance = run.read_json(f"{home}/training.json", rows.Provenance)
        cut = f"; {read.truncated} rows cut, {read.emptied} left out with nothing to train on" if read.truncated else ""
        for step in card["checkpoints"]:
            print(f"{printable(job.condition.name)}, seed {job.seed}, step {step}: {run.path / home / f'checkpoint-{step}'} ({read.rows} rows{cut})")


def sample(
    models: Annotated[list[str], typer.Argument(metavar="[NAME=]MODEL...", help=options.MODEL)],
    questions: options.Questions = None,
    judge: options.JudgeOption = None,
    out: Directory = Path("runs/sample"),
    draws: options.Draws = None,
    max_tokens: options.MaxTokens = None,
    device: options.Device = "auto",
    dtype: options.Dtype = "auto",
    no_default_system: options.NoSystem = False,
    max_calls: options.MaxCalls = None,
    max_cost: options.MaxCost = None,
    price: options.Price = None,
    concurrency: options.Concurrency = 8,
    timeout: options.Timeout = 60.0,
    set_: options.Set = None,
    config: options.Config = None,
) -> None:
    """Ask models questions and keep their answers; with --judge, score them and estimate as well."""
    from spillover import pipeline, testbed

    place = options.Place(
        out=out, device=device, dtype=dtype, no_default_system=no_default_system, max_calls=max_calls, max_cost=max_cost, price=price,
        concurrency=concurrency, timeout=timeout,
    )  # fmt: skip
    found = testbed.models_alone(
        _names(models), questions=options.read_questions(questions), judge=place.judge(judge), runtime=place.runtime(),
        system=not no_default_system, endpoint=place.answerer,
    )  # fmt: skip
    conditions = tuple(Condition(name=parent.unit, group=parent.group) for parent in found.parents)
    study = Study(name="sample", title="Models asked as they are", conditions=conditions, contrasts=())
    settings = options.settings_of(config, set_ or [], sampling__draws=draws, sampling__max_tokens=max_tokens)
    plan = pipeline.plan(study, found, options.run_config(found, settings))
    options.say_recipe(plan)
    with progress() as show:
        run = pipeline.run(plan, out, progress=show)
    if judge is not None:
        for line in summary(run, run.estimates(), run.decisions()):
            print(printable(line))
    print(f"answers: {run.path / 'answers'}")


def estimate(
    file: Annotated[Path, typer.Argument(metavar="DIR", help="A run directory with scores, or a CSV of question,answer,aligned,coherent.")],
    judge: Annotated[str | None, typer.Option("--judge", help="Whose scores, where several judges scored: the identity on the rows.")] = None,
    out: Annotated[Path | None, typer.Option("--out", help="For a CSV: the run directory to make of it; runs/NAME if not given.")] = None,
) -> None:
    """Compute the estimates of a run again from its rows, and draw its report."""
    from spillover import pipeline
    from spillover import report as reports

    run = options.run_of(file, out, None)
    for line in summary(run, pipeline.estimate(run, judge), run.decisions()):
        print(printable(line))
    print(f"report: {reports.write(run)}")


def export(
    directory: Annotated[Path, typer.Argument(help="A run directory.")],
    out: Annotated[Path, typer.Option("--out", help="The CSV file to write.")],
    judge: Annotated[str | None, typer.Option("--judge", help="Whose scores, where several judges scored.")] = None,
) -> None:
    """Write a run's answers and scores as CSV: question,answer,aligned,coherent,question_id,model,group,answer_id."""
    from spillover import pipeline
    from spillover.datasets import tables
    from spillover.pipeline import exchange

    rows = exchange.rows_of(pipeline.opened(directory), judge)
    if out.exists():
        raise SpilloverError(f"{out} exists; remove it or choose another --out")
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(tables.write(rows), encoding="utf-8", newline="")
    print(f"rows: {len(rows)} in {out}")


def _names(models: list[str]) -> dict[str, str]:
    """NAME=MODEL; a model alone is called model, or model-1, model-2, ... where there are several."""
    found: dict[str, str] = {}
    for place, item in enumerate(models, 1):
        bare = "=" not in item or "://" in item.partition("=")[0]
        name, source = ("model" if len(models) == 1 else f"model-{place}", item) if bare else options.named(item, "a model", "MODEL")
        if name in found:
            raise SpilloverError(f"two models are called {name!r}; each needs a name of its own")
        found[name] = source
    return found
