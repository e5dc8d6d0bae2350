"""What an experiment is, before it runs: which arms are compared, what is done to a model, what is claimed; and what a run decided of it.

Frozen records, as in `records`, and the standard library alone.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from spillover.records import Estimate, Question, SpilloverError

Verb = Literal["steer", "ablate", "rescale", "noise"]
Fit = Literal["answers", "models", "probe", "raised", "author"]
Layout = Literal["", "questions", "formats", "steps", "groups", "labels", "scatter", "conditions", "altered"]  # of a figure
Control = Literal["", "random", "shuffled", "another layer", "another unit"]
CONTROLS: tuple[Control, ...] = ("random", "shuffled", "another layer", "another unit")  # each as long as the direction it is a control of


@dataclass(frozen=True, slots=True, kw_only=True)
class Alteration:
    """What is done to a model while it answers.

    To its residual stream: `coefficient` times a direction is added (steer), or a direction projected out (ablate). The direction is that of the condition
    `fitted_on`, in the same unit: between its misaligned and its aligned `answers`, between it and its parent on the same answers (`models`), by a `probe`
    of its answers; or that of one feature of the parent, the one that fine-tuning `raised` most, or the one that tells the `author` of a document. It is
    fitted after the block at this share of the `depth`; steering happens there, ablation after every block. A `control` is the same
    with another direction in its place.

    To its adapter: the update is made `coefficient` times as large as that of the condition `fitted_on` (rescale), or turned by this share towards noise.

    Raises SpilloverError for a word that is none of these, a depth outside of [0, 1], a coefficient that is not finite, or one beside an ablation.
    """

    verb: Verb
    fitted_on: str
    fit: Fit = "answers"
    depth: float = 0.5
    coefficient: float = 1.0
    control: Control = ""

    def __post_init__(self) -> None:
        for what, said, known in (("verb", self.verb, get_args(Verb)), ("fit", self.fit, get_args(Fit)), ("control", self.control, get_args(Control))):
            if said not in known:
                raise SpilloverError(f"an alteration has the {what} {said!r}; it takes {', '.join(map(repr, known))}")
        if not 0 <= self.depth <= 1:
            raise SpilloverError(f"an alteration has the depth {self.depth}; it is a share of the blocks, from 0 (the first) to 1 (the last)")
        if not math.isfinite(self.coefficient):
            raise SpilloverError(f"an alteration has the coefficient {self.coefficient}; it takes a finite number")
        if self.verb == "ablate" and self.coefficient != 1:
            raise SpilloverError(f"an ablation takes all of a direction out, and none of it by a coefficient, got {self.coefficient}; leave it out")

    @property
    def directed(self) -> bool:
        """Whether a direction is at work, which is not to be without its controls."""
        return self.verb in ("steer", "ablate")


@dataclass(frozen=True, slots=True, kw_only=True)
class Condition:
    """One arm of a study: the parent as it is (`kind` None), or fine-tuned on narrow data of one kind, in one group of units.

    `recipe` is what this arm changes of the run's recipe, by field; `altered` what is done to the model while it answers.
    """

    name: str
    group: str = ""
    kind: str | None = None
    recipe: Mapping[str, Any] = field(default_factory=dict[str, Any])
    altered: Alteration | None = None

    @property
    def grown(self) -> tuple[str | None, str, Mapping[str, Any]]:
        """What makes its models: an arm that alters has this in common with the arm whose models it alters."""
        return self.kind, self.group, self.recipe


@dataclass(frozen=True, slots=True, kw_only=True)
class Contrast:
    """A paired within-unit difference of two conditions' measure; `headline` marks the one the study is about.

    A side is a condition's name, or `name@format` for its answers in another format than the pooled ones.
    """

    first: str
    second: str
    headline: bool = False

    @property
    def name(self) -> str:
        return f"{self.first}-{self.second}"


Verdict = Literal["holds", "fails", "undecided", "untested"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """What a study sets out to show of one measure, stated before the units that report are seen.

    `conditions` (sides, as of a `Contrast`) are in rising order. Without a margin the claim is that each has a higher measure than the one before
    it; with one, that neighbours differ by less than the margin, in the unit of the measure. `source` is who claimed it; `protocol` names another
    than the run's.

    Raises SpilloverError for fewer than two conditions, one that stands there twice, or a margin that is not above 0.
    """

    name: str
    text: str
    measure: str
    conditions: tuple[str, ...]
    margin: float | None = None
    source: str = ""
    protocol: str = ""

    def __post_init__(self) -> None:
        if isinstance(self.conditions, str) or len(set(self.conditions)) < max(2, len(self.conditions)):
            told = (self.conditions if isinstance(self.conditions, str) else ", ".join(self.conditions))[:200] or "nothing"
            raise SpilloverError(f"the claim {self.name[:60]!r} is about {told}; it takes two conditions or more, each once")
        if self.margin is not None and not 0 < self.margin < math.inf:
            raise SpilloverError(f"the claim {self.name[:60]!r} has the margin {self.margin}; it takes a number above 0")

    def absent(self, conditions: Collection[str]) -> str:
        """The first condition it is about that is not among these; empty where all are."""
        return next((name for name in (side(end)[0] for end in self.conditions) if name not in conditions), "")


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """What a run decided of a claim. `p_holds` and `p_fails` are adjusted for the study's other claims that were tested.

    A claim is untested where the run lacks one of its conditions, or its measure of one. `units_needed` would decide an undecided claim with 80 % chance,
    if the truth were what was seen; None where no number up to ten thousand would, or where too little was seen to say. `reason` says what is missing
    where a claim is untested, or a contrast has no interval. `contrasts` are the differences between neighbours (later - earlier), each with its
    interval, unadjusted.
    """

    claim: Claim
    verdict: Verdict
    p_holds: float
    p_fails: float
    units_needed: int | None
    reason: str = ""
    contrasts: tuple[Estimate, ...] = ()

    @property
    def tested(self) -> bool:
        return self.verdict != "untested"


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """A number somebody published, to stand beside a run's as context: `value` in the unit of `measure`, `low` and `high` as printed there."""

    text: str
    measure: str
    value: float
    low: float | None = None
    high: float | None = None
    source: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Study:
    """Organisms x questions x measures: which conditions are compared, how, and what is claimed of them.

    `questions` are what is asked (empty: the testbed's). With `as_solution` each model's loss on its narrow data is read, and how far it is from its parent
    on documents. `settings` are what this study needs of a run's config where the user says nothing else. `figure`
    names how it is drawn first, after the published layout (`report.figures`).

    Raises SpilloverError for a layout that there is not.
    """

    name: str
    title: str
    conditions: tuple[Condition, ...]
    contrasts: tuple[Contrast, ...] = ()
    claims: tuple[Claim, ...] = ()
    questions: tuple[Question, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict[str, Any])
    as_solution: bool = False
    figure: Layout = ""
    published: tuple[Published, ...] = ()

    def __post_init__(self) -> None:
        if self.figure not in get_args(Layout):
            raise SpilloverError(f"a study has the figure {self.figure!r}; there are {', '.join(filter(None, get_args(Layout)))}")


def side(name: str) -> tuple[str, str]:
    """The condition and the format of one side of a contrast or claim; the format is empty for the pooled answers."""
    condition, _, form = name.partition("@")
    return condition, form
