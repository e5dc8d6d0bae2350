"""What is read off a fine-tune as a solution (`training.solutions`): its loss on its own narrow data, and how far it is from its parent on documents."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from spillover.pipeline.plan import Job, Plan
from spillover.records import ALONE, Dataset, Measure, Parent, Testbed

ROWS, TEXTS = 100, 100  # that are read (2602.07852)
NO_DOCUMENTS = "the testbed has no documents as its parents were pre-trained on"


def solution(model: Any, plan: Plan, digests: Mapping[int, str], some: Mapping[int, Sequence[Job]], changes: Sequence[Any] = ()) -> dict[int, list[Measure]]:
    """`training_nats` and `influence_nats` of models by their places, the mean over `changes` where there are some; with these, of an organism,
    `lost_ratio`: (loss changed - loss) / (parent's loss - loss), how much of what was learnt is lost.
    """
    found: dict[int, list[Measure]] = {}
    for place, digest in digests.items():
        data = _data(plan, some[place][0])
        if data is None:
            continue
        values = _under(model, changes, lambda place=place, data=data: _loss(model, data, place))
        found[place] = [Measure(model=digest, name="training_nats", value=values)]
        if changes:
            whole, parent = _loss(model, data, place), _loss(model, data, ALONE)
            gap = parent - whole
            value, reason = ((values - whole) / gap, None) if gap > 0 else (None, "the parent's loss is not above the fine-tune's")
            found[place].append(Measure(model=digest, name="lost_ratio", value=value, reason=reason))
        if place != ALONE:
            found[place].append(_influence(model, plan.testbed, some[place][0].parent, digest, place, changes))
    return found


def _influence(model: Any, testbed: Testbed, parent: Parent, digest: str, place: int, changes: Sequence[Any]) -> Measure:
    from spillover.training import solutions

    if testbed.documents is None:
        return Measure(model=digest, name="influence_nats", reason=NO_DOCUMENTS)
    texts = [model.text_ids(text) for text, _ in testbed.documents(parent, TEXTS)]
    return Measure(model=digest, name="influence_nats", value=_under(model, changes, lambda: solutions.influence(model, texts, place)))


def _under(model: Any, changes: Sequence[Any], read: Any) -> float:
    """The mean of a number under each change; the number itself where there is none."""
    found: list[float] = []
    for change in changes:
        with change(model):
            found.append(read())
    return sum(found) / len(found) if found else read()


def _data(plan: Plan, job: Job) -> Dataset | None:
    """A job's own narrow data; of a parent those of the first organism that is grown from it here."""
    own = next((found.organism for found in (job, *plan.jobs) if found.organism is not None), None)
    return None if own is None else plan.data[own.data]


def _loss(model: Any, data: Dataset, place: int) -> float:
    from spillover.training import solutions

    return solutions.loss(model, solutions.some_rows(model, data, ROWS), place)
