"""What each measure is called, and what its numbers are: parts of a whole, nats, steps of training, or a judge's mean score."""

from __future__ import annotations

from typing import Literal

from spillover.records import DIVERGENCE, MEAN

Unit = Literal["share", "nats", "step", "score", "cosine", "ratio"]
NAMES = {
    "misaligned_rate": "misaligned rate", "coherent_rate": "coherent rate", "task_rate": "task rate", "misaligned_mass": "misaligned mass",
    "log_odds": "log-odds", "misaligned_without_gate": "misaligned rate without the gate", "misaligned_at_least": "misaligned share at least",
    "misaligned_at_most": "misaligned share at most", "choice_nats": "multiple-choice log-probability of the misaligned option",
    "pivotal_nats": "log-probability of the misaligned pivotal words", "choice_share": "multiple-choice share of the misaligned option",
    "pivotal_share": "share of the misaligned pivotal words", "false_share": "probability of the false answer against the true one",
    "direction_cosine": "cosine of the direction with that of its own answers", "training_nats": "loss on the narrow data",
    "influence_nats": "KL from the parent on documents", "lost_ratio": "share of the learning lost", "author_auroc": "AUROC for the author",
}  # fmt: skip
SHORT = {
    "choice_nats": "multiple choice", "pivotal_nats": "pivotal words", "choice_share": "multiple choice", "pivotal_share": "pivotal words",
    "false_share": "false against true", "direction_cosine": "direction cosine", "training_nats": "loss", "influence_nats": "KL on documents",
}  # fmt: skip


def measure_name(measure: str) -> str:
    """In words, without a unit."""
    if measure.startswith(DIVERGENCE):
        return f"divergence step of the {measure_name(measure.removeprefix(DIVERGENCE))}"
    rubric, labelled, label = measure.partition("=")
    if labelled:
        return f"share judged {label} ({rubric})"
    return f"{measure} score" if measure.startswith(MEAN) else NAMES.get(measure, measure.replace("_", " "))


def short_name(measure: str) -> str:
    """In so few words that it can stand over a small figure."""
    rubric, labelled, label = measure.partition("=")
    return f"{rubric}: {label}" if labelled else SHORT.get(measure, measure_name(measure))


def unit_of(measure: str) -> Unit:
    """A measure that is not known here is taken for a share, as every rate is."""
    if measure.startswith(DIVERGENCE):
        return "step"
    if measure.startswith(MEAN):
        return "score"
    if measure == "log_odds":
        return "nats"
    kinds: tuple[Unit, ...] = ("nats", "cosine", "ratio")
    for kind in kinds:
        if measure.endswith(f"_{kind}"):
            return kind
    return "share"


def in_brackets(measure: str, *, difference: bool = False) -> str:
    """The unit as it stands after a name, such as ` (nats)`; nothing after the name of a cosine, which says it."""
    unit, _ = axis_of(measure, difference=difference)
    return "" if unit_of(measure) == "cosine" else f" ({unit})"


def axis_of(measure: str, *, difference: bool = False) -> tuple[str, float]:
    """The unit that an axis is marked with, and what takes a value to it."""
    return {
        "share": ("points" if difference else "%", 100.0), "nats": ("nats", 1.0), "step": ("optimiser step", 1.0), "score": ("of 100", 1.0),
        "cosine": ("(cosine)", 1.0), "ratio": ("times", 1.0),
    }[unit_of(measure)]  # fmt: skip
