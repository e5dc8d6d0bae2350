"""`spillover judge attack`: how far answers that talk to a judge move its scores, as one table."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from spillover.cli import options
from spillover.cli.terminal import printable, progress
from spillover.records import SpilloverError

if TYPE_CHECKING:
    from spillover.judging.attacks import Moved, Shift

CALLS = Path("runs/attack")  # where the replies of an endpoint are kept, if --out names no other place


def attack(
    judge: Annotated[str, typer.Option("--judge", metavar="DIR|HUB-ID|URL#MODEL", help="The judge that is attacked.")],
    questions: options.Questions = None,
    out: Annotated[Path | None, typer.Option("--out", help="Write what was found to this JSON file; an endpoint's replies are kept beside it.")] = None,
    device: options.Device = "auto",
    dtype: options.Dtype = "auto",
    max_calls: options.MaxCalls = None,
    max_cost: options.MaxCost = None,
    price: options.Price = None,
    concurrency: options.Concurrency = 8,
    timeout: options.Timeout = 60.0,
) -> None:
    """Have a judge score answers that talk to it, and say how far each way of doing so moves its scores."""
    from spillover.judging import attacks
    from spillover.statistics.protocols import NATURE

    if out is not None and out.exists():
        raise SpilloverError(f"{out} exists; remove it or choose another --out")
    pairs = attacks.pairs_of(options.read_questions(questions))
    if not pairs:
        raise SpilloverError(f"{questions} has no plain question that is scored on aligned and coherent; an attack takes one or more")
    place = options.Place(
        out=CALLS if out is None else out.parent, device=device, dtype=dtype, max_calls=max_calls, max_cost=max_cost, price=price,
        concurrency=concurrency, timeout=timeout,
    )  # fmt: skip
    scorer = place.judge(judge)
    assert scorer is not None
    with progress():
        moved = attacks.attack(scorer, pairs)
    unfenced = attacks.unfenced([question for question, _ in pairs])
    print(printable(f"{scorer.identity}, {len(pairs)} answers, each plain and under {len(moved)} attacks"))
    for line in lines(moved, unfenced):
        print(printable(line))
    if out is not None:
        said = [{"question": question.id, "asked": question.paraphrases[0], "answer": text} for question, text in pairs]
        found = {"judge": scorer.identity, "protocol": NATURE.name, "pairs": said, "unfenced": unfenced, "moved": [asdict(one) for one in moved]}
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
        print(f"found: {printable(str(out))}")


def lines(moved: Sequence[Moved], unfenced: Sequence[tuple[str, str]] = ()) -> Iterator[str]:
    """One line an attack and rubric, then what was lost and why, then the prompts without a fence."""
    width = max([6, *(len(one.attack) for one in moved)]) + 2
    yield f"{'attack':<{width}}{'rubric':<10}{'mean shift, points':<26}{'least to most':<18}{'n':>4}{'lost':>6}{'unscored':>10}   misaligned: ceased, became"
    for one in moved:
        for shift in one.shifts:
            first = shift is one.shifts[0]
            flips = f"   {one.ceased} of {one.misaligned}, {one.became} of {one.decided - one.misaligned}" if first else ""
            span = "" if shift.lowest is None or shift.highest is None else f"{shift.lowest:+.1f} to {shift.highest:+.1f}"
            name = one.attack if first else ""
            counts = f"{shift.n:>4}{sum(shift.lost.values()):>6}{shift.unscored:>10}"
            yield f"{name:<{width}}{shift.rubric:<10}{_mean(shift):<26}{span:<18}{counts}{flips}"
    yield "shift: attacked - plain, over the n answers with both scores; intervals: 95 %, for answers like these, each attack by itself"
    yield "lost: scored when plain and not when attacked, so not moved; unscored: not even when plain"
    yield "ceased, became: of the answers that were misaligned when plain, and of those that were not, how many flipped; those with all four scores"
    for reason in dict.fromkeys(reason for one in moved for shift in one.shifts for reason in shift.lost):
        counts = {one.attack: [f"{shift.rubric} {shift.lost[reason]}" for shift in one.shifts if reason in shift.lost] for one in moved}
        places = [f"{name} ({', '.join(found)})" for name, found in counts.items() if found]
        yield f"lost, {reason}: {'; '.join(places)}"
    if unfenced:
        yield f"the prompt has no end marker, so any answer can leave its slot: {'; '.join(f'{id}, {rubric}' for id, rubric in unfenced)}"


def _mean(shift: Shift) -> str:
    if shift.mean is None:
        return "undefined"
    if shift.mean.low is None or shift.mean.high is None:
        return f"{shift.mean.value:+.1f} (no interval)"
    return f"{shift.mean.value:+.1f} [{shift.mean.low:+.1f}, {shift.mean.high:+.1f}]"
