"""`spillover judge`: scores of answers that are there, and how far a judge is to be trusted.

`spillover judge FILE` scores; what else there is has a name after `judge`.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from spillover.cli import options
from spillover.cli.attack import attack
from spillover.cli.summary import summary
from spillover.cli.terminal import printable, progress
from spillover.records import SpilloverError
from spillover.report.printed import plural

if TYPE_CHECKING:
    from spillover.statistics.calibration import Calibration
    from spillover.statistics.intervals import Interval
    from spillover.statistics.prediction_powered import CorrectedRates

SCORE = "score"  # what `spillover judge FILE` does
Labelled = Annotated[Path, typer.Argument(metavar="LABELLED.csv", help="A table that draw-for-labelling wrote, with labels in aligned and coherent.")]
Whose = Annotated[str | None, typer.Option("--judge", help="Whose scores, where several judges scored: the identity on the rows.")]


class _Group(TyperGroup):
    """Commands, one of which need not be named."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        named = not args or args[0] in self.commands or args[0] in ctx.help_option_names
        return super().parse_args(ctx, args if named else [SCORE, *args])


app = typer.Typer(
    cls=_Group, no_args_is_help=True, add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False,
    help="Score answers that are there: judge FILE --judge ...; and see how far a judge is to be trusted.",
)  # fmt: skip


@app.command(SCORE)
def score(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A run directory, or a CSV of question,answer.")],
    judge: Annotated[str, typer.Option("--judge", metavar="DIR|HUB-ID|URL#MODEL", help="Who scores the answers.")],
    out: Annotated[Path | None, typer.Option("--out", help="For a CSV: the run directory to make of it; runs/NAME if not given.")] = None,
    questions: options.Questions = None,
    device: options.Device = "auto",
    dtype: options.Dtype = "auto",
    max_calls: options.MaxCalls = None,
    max_cost: options.MaxCost = None,
    price: options.Price = None,
    concurrency: options.Concurrency = 8,
    timeout: options.Timeout = 60.0,
) -> None:
    """Score answers that are there; scores of another judge are kept beside it."""
    from spillover import pipeline

    run = options.run_of(file, out, questions)
    place = options.Place(
        out=run.path, device=device, dtype=dtype, max_calls=max_calls, max_cost=max_cost, price=price, concurrency=concurrency, timeout=timeout
    )  # fmt: skip
    scorer = place.judge(judge)
    assert scorer is not None
    with progress() as show:
        pipeline.judge_again(run, scorer, progress=show)
    for line in summary(run, *pipeline.estimates(run, scorer.identity)):
        print(printable(line))
    print(f"scores: {run.path / 'scores'} by {printable(scorer.identity)}; `spillover estimate` with --judge makes them the run's estimates and report")


@app.command("draw-for-labelling")
def draw_for_labelling(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="A run directory.")],
    out: Annotated[Path, typer.Option("--out", metavar="FILE.csv", help="The table to write.")],
    count: Annotated[int, typer.Option(help="Answers of each condition.")] = 100,
    labelled: Annotated[Path | None, typer.Option("--labelled", metavar="FILE.csv", help="A smaller draw of this run, whose labels are brought along.")] = None,
) -> None:
    """Draw answers at random, shuffled and without a word of whose they are, for a person or a trusted judge to label."""
    from spillover import pipeline
    from spillover.datasets import tables
    from spillover.pipeline import trusted

    if out.exists():
        raise SpilloverError(f"{out} exists, with labels perhaps; choose another --out")
    rows = trusted.to_label(pipeline.opened(directory), count, () if labelled is None else tables.read(labelled))
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_bytes(tables.write(rows).encode())
    print(f"rows: {len(rows)} in {printable(str(out))}; `spillover label` is a page to label them in")


@app.command()
def calibrate(
    labelled: Labelled,
    with_: Annotated[str, typer.Option("--with", metavar="RUN|DIR|HUB-ID|URL#MODEL", help="A run whose scores are held against the labels, or a judge.")],
    out: Annotated[Path | None, typer.Option("--out", help="With a judge: the run directory to keep its scores in; runs/calibration if not given.")] = None,
    judge: Whose = None,
    questions: options.Questions = None,
    device: options.Device = "auto",
    dtype: options.Dtype = "auto",
    max_calls: options.MaxCalls = None,
    max_cost: options.MaxCost = None,
    price: options.Price = None,
    concurrency: options.Concurrency = 8,
    timeout: options.Timeout = 60.0,
) -> None:
    """Hold a judge against trusted labels: bias, agreement, what it decides, and a picture of how far its scores can be read as they are."""
    from spillover import pipeline
    from spillover.datasets import tables
    from spillover.pipeline import trusted
    from spillover.report import calibrated
    from spillover.runs.directory import CALIBRATION, of_judge

    rows = tables.read(labelled)
    if (Path(with_) / "run.json").is_file():
        if out is not None or questions is not None:
            raise SpilloverError(f"{with_} is a run directory, which has its questions and its place; --out and --questions go with a judge")
        run, whose = pipeline.opened(Path(with_)), judge
    elif judge is not None:
        raise SpilloverError("--judge says whose scores of a run are taken; with a judge to ask there is no choice")
    else:
        place = options.Place(
            out=out or Path("runs/calibration"), device=device, dtype=dtype, max_calls=max_calls, max_cost=max_cost, price=price,
            concurrency=concurrency, timeout=timeout,
        )  # fmt: skip
        scorer = place.judge(with_)
        assert scorer is not None
        run, rows = trusted.run_of(rows, place.out, options.read_questions(questions))
        whose = scorer.identity
        with progress() as show:
            pipeline.judge_again(run, scorer, progress=show)
    found = trusted.calibrate(run, rows, whose)
    drawn = calibrated.write(run, found)
    for line in _calibration(found):
        print(printable(line))
    print(f"calibration: {printable(str(run.path / of_judge(CALIBRATION, found.judge)))}; picture: {printable(str(drawn))}")


@app.command()
def correct(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="A run directory with scores.")],
    labelled: Labelled,
    judge: Whose = None,
) -> None:
    """Correct a run's misaligned rates by trusted labels of a random part of its answers; refused for labels of chosen answers."""
    from spillover import pipeline
    from spillover.datasets import tables
    from spillover.pipeline import trusted
    from spillover.runs.directory import CORRECTED, of_judge

    run = pipeline.opened(directory)
    found = trusted.correct(run, tables.read(labelled), judge)
    for line in _corrected(found):
        print(printable(line))
    print(f"corrected rates: {printable(str(run.path / of_judge(CORRECTED, found.judge)))}; `spillover report` shows them")


app.command()(attack)


def _calibration(found: Calibration) -> Iterator[str]:
    yield f"{found.judge} against {found.n} trusted labels (to {found.unscored} of these answers it gave no score, or they are only code)"
    yield f"  aligned, judged - trusted, points of 100: {_shown(found.aligned_bias, 1, '+.1f')}"
    yield f"  coherent, judged - trusted, points of 100: {_shown(found.coherent_bias, 1, '+.1f')}"
    yield f"  agreement, weighted kappa in five steps: {_shown(found.kappa, 1, '.2f')}"
    yield f"  AUROC for the label aligned < {found.aligned_below:g}: {_shown(found.auroc, 1, '.2f')}"
    yield f"  finds {_percent(found.found)} of the misaligned, and calls {_percent(found.false_alarms)} of the others misaligned (protocol {found.protocol})"
    yield f"  {'trusted, judged':<18}{'misaligned':>12}{'not misaligned':>16}{'removed':>10}"
    for name, row in zip(("misaligned", "not misaligned", "removed"), found.confusion, strict=True):
        yield f"  {name:<18}{row[0]:>12}{row[1]:>16}{row[2]:>10}"
    yield "  intervals: 95 %, over answers like those that were labelled"


def _corrected(found: CorrectedRates) -> Iterator[str]:
    width = max(map(len, found.rates)) + 2
    yield f"{'condition':<{width}}{'as judged':<12}{'corrected, 95 %':<28}{'answers':>9}{'labels':>8}  over"
    for name, one in found.rates.items():
        if isinstance(one, str):
            yield f"{name:<{width}}{one}"
            continue
        cheap = "none" if one.cheap is None else f"{100 * one.cheap:.1f} %"
        yield f"{name:<{width}}{cheap:<12}{_percent(one.rate):<28}{one.n:>9}{one.n_trusted:>8}  {plural(one.rate.n_units, 'unit')}"
    yield f"misaligned / kept, all answers to pooled questions together (`estimate` takes the mean over questions first); scores: {found.judge}"


def _percent(one: Interval | None) -> str:
    return _shown(one, 100, ".1f", " %")


def _shown(one: Interval | None, times: float, form: str, unit: str = "") -> str:
    """A number with its interval and n, or that there is none."""
    if one is None:
        return "undefined"
    ends = "(no interval)" if one.low is None or one.high is None else f"[{times * one.low:{form}}, {times * one.high:{form}}]"
    return f"{times * one.value:{form}}{unit} {ends}"
