"""What studies are put together from: arms that a testbed can grow, and claims. Contrasts follow from the claims whose sides are there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

from spillover.design import CONTROLS, Alteration, Claim, Condition, Contrast, Layout, Published, Study
from spillover.records import Question, SpilloverError, Testbed


def arms(testbed: Testbed, *kinds: str, group: str = "", needed: int = 1) -> tuple[Condition, ...]:
    """The parent, then one arm for each kind of narrow data that the testbed has; in another group than the main one, its name before theirs.

    Raises SpilloverError when one of the first `needed` kinds is not there, or the group.
    """
    lacking = next((kind for kind in kinds[:needed] if kind not in testbed.narrow), None)
    if lacking is not None:
        raise SpilloverError(f"the study needs narrow data of kind {lacking!r}; testbed {testbed.name} has {', '.join(testbed.narrow) or 'none'}")
    if group not in {parent.group for parent in testbed.parents}:
        made = "; --with-pretraining makes those that do not ship" if testbed.name == "miniature" else ""
        raise SpilloverError(f"the study needs parents of group {group!r}, and testbed {testbed.name} has none{made}")
    prefix = f"{group}-" if group else ""
    there = [kind for kind in kinds if kind in testbed.narrow]
    return (Condition(name=f"{prefix}parent", group=group), *(Condition(name=f"{prefix}{kind}", group=group, kind=kind) for kind in there))


def altered(condition: Condition, name: str, change: Alteration) -> tuple[Condition, ...]:
    """A condition whose model is altered while it answers, and the same with every control in the place of the direction."""
    made = replace(condition, name=name, altered=change)
    controls = (replace(made, name=f"{name}-{control.replace(' ', '-')}", altered=replace(change, control=control)) for control in CONTROLS)
    return (made, *controls)


def can_be_tested(claims: Sequence[Claim], conditions: Sequence[Condition]) -> list[Claim]:
    """The claims whose conditions are all there."""
    names = {condition.name for condition in conditions}
    return [claim for claim in claims if not claim.absent(names)]


def neighbours(claims: Sequence[Claim]) -> dict[tuple[str, str], None]:
    """The pairs that claims are decided by, as (later, earlier), in the order of the claims and each once."""
    return dict.fromkeys((later, earlier) for claim in claims for earlier, later in pairwise(claim.conditions))


def compose(
    name: str,
    title: str,
    conditions: Sequence[Condition],
    claims: Sequence[Claim],
    *,
    questions: Sequence[Question],
    figure: Layout,
    published: Sequence[Published] = (),
    settings: Mapping[str, Any] | None = None,
    as_solution: bool = False,
) -> Study:
    """A study whose contrasts are the neighbours of its claims, later - earlier; those of the first claim that can be tested are the ones it is about.

    A claim that compares an arm that is not there stays untested; a format that is not asked is refused when the study is planned.
    """
    kept = can_be_tested(claims, conditions)
    first = neighbours(kept[:1])
    return Study(
        name=name, title=title, conditions=tuple(conditions), claims=tuple(claims), questions=tuple(questions), figure=figure, published=tuple(published),
        contrasts=tuple(Contrast(first=a, second=b, headline=(a, b) in first) for a, b in neighbours(kept)), settings=dict(settings or {}),
        as_solution=as_solution,
    )  # fmt: skip
