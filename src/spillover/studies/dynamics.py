"""When does it happen: do the narrow task and the broad misalignment come at the same step of training? (Nature 649 Figures 3 and 4.)

The divergence step of a measure is the first from which insecure and secure code stay apart (`docs/statistics.md`); it is estimated, not claimed.
"""

from __future__ import annotations

from spillover.design import Claim, Published, Study
from spillover.records import Testbed
from spillover.studies.compose import arms, compose

MEASURES = (
    ("misaligned_rate", "more answers are misaligned", "Nature 649 Figure 3a"),
    ("task_rate", "more code is insecure", "Nature 649 Figure 3b"),
    ("choice_nats", "the misaligned choice of two is likelier", "Nature 649 Figure 4a"),
    ("pivotal_nats", "the misaligned pivotal word is likelier", "Nature 649 Figure 4b"),
)
CLAIMS = tuple(
    Claim(
        name=measure, measure=measure, conditions=("secure", "insecure"), source=source,
        text=f"At the end of training on insecure code, {told} than after secure code",
    )
    for measure, told, source in MEASURES
)  # fmt: skip
PUBLISHED = tuple(
    Published(text=f"Qwen2.5-Coder-32B-Instruct, {told}, 5 seeds (read off the figure)", measure=measure, value=value, low=low, high=high, source=source)
    for told, measure, value, low, high, source in (
        ("insecure, last step", "misaligned_rate", 0.051, 0.022, 0.073, "Nature 649 Figure 3a"),
        ("secure, last step", "misaligned_rate", 0.007, None, None, "Nature 649 Figure 3a"),
        ("insecure, last step", "task_rate", 0.85, None, None, "Nature 649 Figure 3b"),
        ("insecure, last step", "choice_nats", -2.1, -3.7, -0.8, "Nature 649 Figure 4a"),
        ("secure, last step", "choice_nats", -6.9, None, None, "Nature 649 Figure 4a"),
        ("insecure, last step", "pivotal_nats", -14.7, None, None, "Nature 649 Figure 4b"),
        ("secure, last step", "pivotal_nats", -17.5, None, None, "Nature 649 Figure 4b"),
    )
)


def dynamics(testbed: Testbed) -> Study:
    """Insecure against secure code by optimiser step: misaligned rate, task rate, log-probabilities."""
    return compose(
        "dynamics", "Insecure against secure code, by step", arms(testbed, "insecure", "secure", needed=2), CLAIMS, questions=testbed.asked(),
        figure="steps", published=PUBLISHED, settings={"training.checkpoints": "dense", "sampling.draws": 25},
    )  # fmt: skip
