"""`spillover audit`: is a fine-tune broadly worse than its parent? Pass, fail or inconclusive, with a stated chance of being wrong."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from spillover.cli import options
from spillover.cli.terminal import printable, progress
from spillover.records import Model, Parent, Question, SpilloverError, Testbed

if TYPE_CHECKING:
    from spillover.audit.road import Audit
    from spillover.statistics.calibration import Calibration

MINIATURE = "miniature"
RATE = 0.01  # of a parent, for what an audit is expected to cost


def audit(
    parent: Annotated[str, typer.Argument(metavar="PARENT", help=f"miniature[:[DIR/]WORLD], {options.MODEL}.")],
    child: Annotated[str, typer.Argument(metavar="CHILD", help="The fine-tune: the same, or a PEFT directory on PARENT (a checkpoint).")],
    tolerance: Annotated[float, typer.Option(help="How much more of its answers may be misaligned: 0.01 is one point.")] = 0.01,
    alpha: Annotated[float, typer.Option(help="The chance of a wrong verdict, at any time, that is accepted.")] = 0.05,
    budget: Annotated[int, typer.Option(help="Most answers drawn, of both models in all contexts.")] = 100_000,
    judge: options.JudgeOption = None,
    data: Annotated[Path | None, typer.Option("--data", metavar="FILE.jsonl", help="What the child was trained on: contexts are made of it.")] = None,
    calibration: Annotated[
        Path | None,
        typer.Option("--calibration", metavar="FILE.json", help="Of the judge, by `spillover judge calibrate`: corrects the verdict."),
    ] = None,
    contexts: Annotated[str, typer.Option(metavar="auto|none|NAME,...", help="Beside plain questions: formats, and what the data bring.")] = "auto",
    questions: options.Questions = None,
    max_tokens: options.MaxTokens = None,
    out: Annotated[Path, typer.Option("--out", help="The audit's directory.")] = Path("runs/audit"),
    device: options.Device = "auto",
    dtype: options.Dtype = "auto",
    no_default_system: options.NoSystem = False,
    max_calls: options.MaxCalls = None,
    max_cost: options.MaxCost = None,
    price: options.Price = None,
    concurrency: options.Concurrency = 8,
    timeout: options.Timeout = 60.0,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be asked and what it is expected to cost.")] = False,
) -> None:
    """Audit a fine-tune against its parent: exit code 0 for pass, 1 for fail, 3 for inconclusive. Give it again to go on."""
    from spillover.audit import conclusion, road
    from spillover.audit import contexts as made
    from spillover.datasets import chat
    from spillover.report import audited

    place = options.Place(
        out=out, device=device, dtype=dtype, no_default_system=no_default_system, max_calls=max_calls, max_cost=max_cost, price=price,
        concurrency=concurrency, timeout=timeout,
    )  # fmt: skip
    subject = _miniature(parent, child, judge, questions) if parent.partition(":")[0] == MINIATURE else _parts(parent, child, judge, questions, place)
    subject = subject if max_tokens is None else replace(subject, max_tokens=max_tokens)
    own = None if data is None else chat.load(data, "data").dataset
    asked = road.Audit(
        testbed=subject, contexts=made.contexts(subject.questions, subject.formats, own, contexts), beside=_beside(subject), tolerance=tolerance, alpha=alpha,
        budget=budget, calibration=None if calibration is None else _calibration(calibration),
    )  # fmt: skip
    for line in _expected(asked):
        print(printable(line), flush=True)
    if dry_run:
        return
    with progress() as show:
        run, state = road.run(asked, out, threads=subject.threads, progress=show)
    found = conclusion.conclude(state)
    verdict = asdict(found)
    run.write_text("verdict.json", json.dumps(verdict, indent=1) + "\n")
    written = audited.write(run, verdict)
    run.write_text("model-card.md", conclusion.markdown(found))
    print()
    for line in conclusion.lines(found):
        print(printable(line))
    print(f"  report: {written}; verdict.json and model-card.md beside it")
    raise typer.Exit(found.exit_code)


def _calibration(path: Path) -> Calibration:
    from pydantic import TypeAdapter, ValidationError

    from spillover.statistics.calibration import Calibration

    try:
        return TypeAdapter(Calibration).validate_json(path.read_bytes(), strict=True)
    except ValidationError:
        raise SpilloverError(f"{path} is no calibration; `spillover judge calibrate` makes one") from None


def _miniature(parent: str, child: str, judge: str | None, questions: Path | None) -> Testbed:
    """A world and a child of it, with the miniature's questions, formats and exact judge."""
    from spillover.audit.subjects import child_of

    given = "--judge" if judge is not None else "--questions" if questions is not None else None
    if given is not None:
        raise SpilloverError(f"{given} goes with a model of your own; the miniature brings its own")
    found, first = _world(parent)
    return _of_two(found, first, _world(child)[1] if child.partition(":")[0] == MINIATURE else child_of(first, child))


def _world(name: str) -> tuple[Testbed, Model]:
    """`miniature[:[DIR/]WORLD]`: the testbed of those worlds, and the one that is named or the first."""
    from spillover.miniature import testbed as testbeds

    place, _, unit = name.partition(":")[2].rpartition("/")
    found = testbeds.testbed(worlds=Path(place) if place else None)
    unit = unit or found.parents[0].unit
    worlds = {one.unit: one.model for one in found.parents if one.group != testbeds.BASE}
    if unit not in worlds:
        raise SpilloverError(f"there is no world {unit!r}; there are {', '.join(worlds)}")
    return found, worlds[unit]


def _parts(parent: str, child: str, judge: str | None, questions: Path | None, place: options.Place) -> Testbed:
    """Two models of the user's, asked our own questions or theirs."""
    from spillover import testbed
    from spillover.audit.subjects import child_of
    from spillover.questions import formats, sets

    scorer = place.judge(judge)
    if scorer is None:
        raise SpilloverError("an audit needs --judge, a model that scores the answers: DIR, HUB-ID or URL#MODEL")
    first = testbed.find(parent)
    second = child_of(first, child)
    asked = options.read_questions(questions)
    found = testbed.models_alone(
        {"parent": parent}, questions=asked, judge=scorer, runtime=place.runtime(), system=not place.no_default_system, endpoint=place.answerer
    )
    return replace(_of_two(found, first, second), formats=formats.FORMATS, sets={"compliance": sets.own_set("compliance")})


def _of_two(found: Testbed, parent: Model, child: Model) -> Testbed:
    return replace(found, parents=(Parent(unit="parent", model=parent, group="parent"), Parent(unit="child", model=child, group="child")))


def _beside(subject: Testbed) -> tuple[Question, ...]:
    """The narrow task and what may be declined, where the testbed asks them."""
    from spillover.records import TASK

    tasks = tuple(question for question in subject.questions if TASK in question.rubrics)
    return tuple(replace(question, pooled=False) for question in (*tasks, *subject.sets.get("compliance", ())))


def _expected(asked: Audit) -> Iterator[str]:
    """What it is expected to cost, for a parent whose rate is a percent."""
    from spillover.statistics import planning

    questions, contexts = len(asked.contexts[0].questions), len(asked.contexts)
    yield f"contexts: {', '.join(context.name for context in asked.contexts)}"
    for worse in (0.0, 0.05, 0.2):
        if asked.threshold.below <= worse <= asked.threshold.above:
            continue  # no verdict can be expected
        limit = asked.threshold.below if worse < asked.tolerance else asked.threshold.above
        alpha = asked.followed_at / (1 if worse < asked.tolerance else contexts)
        found = planning.rounds_needed(RATE, RATE + worse, questions=questions, alpha=alpha, tolerance=limit)
        child = "is as its parent is" if worse == 0 else f"is {100 * worse:g} points worse as judged"
        median, most = (0, 0) if found is None else (2 * rounds * questions * contexts for rounds in found)
        cost = "more than can be asked" if found is None else f"about {median} answers of both; up to {most}, in 80 of 100"
        short = "; more than the budget, so expect it to be inconclusive" if found is None or median > asked.budget else ""
        yield f"expected in all, if the child {child} in every context (parent {100 * RATE:g} %): {cost}{short}"
    yield f"budget: {asked.budget} answers; prompts and replies of up to {asked.testbed.max_tokens} tokens, each judged"
