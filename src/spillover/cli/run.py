"""`spillover run` and `spillover report`: a study from start to report, and its report again."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from spillover.cli.options import own_data, run_config, settings_of, subject
from spillover.cli.terminal import progress
from spillover.records import Estimate, SpilloverError


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
    settings = settings_of(config, set_ or []) | {key: value for key, value in named.items() if value is not None}
    found = subject(testbed, [own_data(item) for item in data or []])
    plan = pipeline.plan(studies.study(study, found), found, run_config(found, settings))
    if dry_run:
        for line in forecast(plan):
            print(line)
        return
    with progress() as show:
        finished = pipeline.run(plan, out or Path("runs") / study, progress=show)
        from spillover import report as reports

        page = reports.write(finished)
    for line in summary(finished.estimates()):
        print(line)
    print(f"report: {page}")


def report(directory: Annotated[Path, typer.Argument(help="A finished run.")]) -> None:
    """Draw the figures and the report of a run again."""
    from spillover import report as reports
    from spillover.runs.directory import RunDirectory

    print(f"report: {reports.write(RunDirectory.open(directory))}")


def summary(estimates: list[Estimate]) -> Iterator[str]:
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
