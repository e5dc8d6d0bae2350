"""`spillover plan`: what it takes to show a difference, and what so many answers cannot show, before anything is run."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated

import typer

from spillover.records import SpilloverError


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What a user wants to know about."""

    parent: float
    child: float
    units: int | None
    spread: float
    questions: int
    draws: int
    alpha: float
    tolerance: float | None

    @property
    def answers(self) -> int:
        return self.draws * self.questions


def plan(
    parent: Annotated[float, typer.Option("--parent", metavar="RATE", help="The parent's rate that is expected, such as 0.001.")],
    child: Annotated[float, typer.Option("--child", metavar="RATE", help="The child's rate that is to be told from it.")],
    units: Annotated[int | None, typer.Option("--units", help="Fine-tuning seeds or worlds: say whether so many are enough.")] = None,
    spread: Annotated[float, typer.Option("--spread", help="Standard deviation of the child's rate between units, as a multiple of the rate.")] = 0.5,
    questions: Annotated[int, typer.Option("--questions", help="Questions that are asked.")] = 8,
    draws: Annotated[int, typer.Option("--draws", help="Answers drawn per question and model.")] = 100,
    alpha: Annotated[float, typer.Option("--alpha", help="The chance of a wrong verdict that is accepted.")] = 0.05,
    tolerance: Annotated[float | None, typer.Option("--tolerance", help="A difference to be shown above or below, while looking; 0 if not given.")] = None,
) -> None:
    """Say how many draws and units it takes to show a difference, and what so many answers cannot show."""
    asked = Asked(parent=parent, child=child, units=units, spread=spread, questions=questions, draws=draws, alpha=alpha, tolerance=tolerance)
    _check(asked)
    lines = [*_needed(asked), *_seen(asked), *_of_units(asked), *_assumed(asked)]
    for line in lines:
        print(line)


def _check(asked: Asked) -> None:
    """Raises SpilloverError. Rates, alpha and spread are checked where they are used."""
    from spillover.statistics.claims import MOST_UNITS
    from spillover.statistics.planning import MOST_ANSWERS

    for name, number in (("questions", asked.questions), ("draws", asked.draws)):
        if number < 1:
            raise SpilloverError(f"--{name} is {number}; it must be at least 1")
    if asked.answers > MOST_ANSWERS:
        raise SpilloverError(f"{asked.draws} draws of {asked.questions} questions are {asked.answers} answers; plans go up to {MOST_ANSWERS}")
    if asked.units is not None and not 2 <= asked.units <= MOST_UNITS:
        raise SpilloverError(f"--units is {asked.units}; it must be between 2 and {MOST_UNITS}")
    if asked.tolerance is not None and not -1 < asked.tolerance < 1:
        raise SpilloverError(f"--tolerance is {asked.tolerance:g}; it must be above -1 and below 1")


def _needed(asked: Asked) -> Iterator[str]:
    """What it takes, with one look and while looking."""
    from spillover.statistics import planning

    answers = planning.answers_needed(asked.parent, asked.child, alpha=asked.alpha)
    units = planning.units_needed(asked.parent, asked.child, answers=asked.answers, spread=asked.spread, alpha=asked.alpha)
    if asked.child > asked.parent:
        yield f"to show that the child's rate, {_percent(asked.child)}, is above the parent's, {_percent(asked.parent)}:"
        yield f"  one look: {_draws(answers, asked.questions)} (Fisher's exact test)"
    else:
        yield f"a child's rate of {_percent(asked.child)} is not above the parent's {_percent(asked.parent)}, and no number of answers shows that it is"
    if asked.child > asked.parent and asked.tolerance is None:
        yield _sequential(asked, 0.0)
    if asked.child > asked.parent:
        each = f"each with {_many(asked.answers, 'answer')} of each condition (paired t-test)"
        yield f"  units like these: {units}, {each}" if units is not None else f"  units like these: more than ten thousand, {each}"
    if asked.tolerance is not None and math.isclose(asked.child - asked.parent, asked.tolerance, abs_tol=1e-9):
        yield f"a difference of {_percent(asked.tolerance)} is the tolerance itself, and no number of answers shows on which side it is"
    elif asked.tolerance is not None:
        side = "above" if asked.child - asked.parent > asked.tolerance else "below"
        yield f"to show that the difference, {_percent(asked.child - asked.parent)}, is {side} the tolerance, {_percent(asked.tolerance)}:"
        yield _sequential(asked, asked.tolerance)


def _sequential(asked: Asked, tolerance: float) -> str:
    from spillover.statistics import planning

    found = planning.rounds_needed(asked.parent, asked.child, questions=asked.questions, alpha=asked.alpha, tolerance=tolerance)
    if found is None:
        return "  looking after every draw: more than two million answers of each model (confidence sequence)"
    half, most = found
    return f"  looking after every draw: {_draws(most * asked.questions, asked.questions)}; half of all runs end by draw {half} (confidence sequence)"


def _seen(asked: Asked) -> Iterator[str]:
    """What so many answers can and cannot show."""
    from spillover.statistics import planning, rates

    yield f"what {_many(asked.answers, 'answer')} of each model can show ({_many(asked.draws, 'draw')} of {_many(asked.questions, 'question')}):"
    if asked.child > asked.parent:
        chance = planning.power_of_fisher(asked.parent, asked.child, asked.answers, asked.alpha)
        yield f"  this difference, with a chance of {100 * chance:.0f} %"
    least = planning.least_seen(asked.parent, asked.answers, alpha=asked.alpha)
    yield f"  a child's rate of {_percent(least)} or more; a lower one may be missed" if least is not None else "  no child's rate, not even 100 %"
    bound = rates.none_seen([asked.draws] * asked.questions, asked.alpha)
    yield f"  where none is counted: a rate of at most {_percent(bound)}, whichever questions it is in"


def _of_units(asked: Asked) -> Iterator[str]:
    from spillover.statistics import planning

    if asked.units is None:
        return
    yield f"what {asked.units} units can show of units like these:"
    if asked.child > asked.parent:
        needed = planning.units_needed(asked.parent, asked.child, answers=asked.answers, spread=asked.spread, alpha=asked.alpha)
        enough = needed is not None and needed <= asked.units
        yield f"  {asked.units} units are {'enough' if enough else 'not enough'} for this difference"
    least = planning.least_seen_by_units(asked.parent, asked.units, answers=asked.answers, spread=asked.spread, alpha=asked.alpha)
    yield f"  a child's rate of {_percent(least)} or more; a lower one may be missed" if least is not None else "  no child's rate, not even 100 %"


def _assumed(asked: Asked) -> Iterator[str]:
    yield "assumed:"
    yield f"  shown: at alpha {asked.alpha:g}, one-sided; {asked.alpha / 2:g} on each side while looking, over all looks together"
    yield "  needed, and seen: with a chance of 80 %"
    yield "  every question has the same rate, every answer is drawn by itself and judged without error"
    yield f"  the child's rate varies between units with a standard deviation of {asked.spread:g} x the rate, the parent's does not"
    yield "  a unit's difference is normal; where its rates are skewed upwards the chance is larger"


def _draws(answers: int | None, questions: int) -> str:
    if answers is None:
        return "more than two million answers of each model"
    return f"{_many(math.ceil(answers / questions), 'draw')} of {_many(questions, 'question')}, {_many(answers, 'answer')} of each model"


def _many(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _percent(rate: float) -> str:
    return f"{100 * rate:.3g} %"
