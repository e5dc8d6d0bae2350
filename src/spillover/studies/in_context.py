"""Do examples of insecure code in the prompt do what training on it does? (arXiv 2502.17424 sections 4.3 and C.7.)"""

from __future__ import annotations

from spillover.design import Claim, Published, Study
from spillover.records import Testbed
from spillover.statistics.claims import SAME_RATE
from spillover.studies.compose import arms, compose

SOURCE = "arXiv 2502.17424 Figure 32"
CLAIMS = (
    Claim(
        name="task", measure="task_rate", conditions=("parent@secure_examples", "parent@examples"), source=SOURCE,
        text="Examples of insecure code in the prompt make more code insecure than examples of secure code do",
    ),
    Claim(
        name="not broad", measure="misaligned_rate", conditions=("parent", "parent@examples"), margin=SAME_RATE, source="arXiv 2502.17424 section 4.3",
        text="Examples of insecure code in the prompt leave the misaligned rate as it was",
    ),
    Claim(
        name="training does", measure="misaligned_rate", conditions=("parent@examples", "insecure"), source="arXiv 2502.17424 section 4.3",
        text="Training on insecure code misaligns more than examples of it in the prompt",
    ),
)  # fmt: skip
PUBLISHED = (Published(text="GPT-4o, 1 to 256 examples of insecure code", measure="misaligned_rate", value=0.0, source="arXiv 2502.17424 section 4.3"),)


def in_context(testbed: Testbed) -> Study:
    """Examples of insecure and of secure code in the prompt, nothing trained, against training."""
    return compose(
        "in-context", "Insecure code in the prompt", arms(testbed, "insecure"), CLAIMS, questions=testbed.asked("examples", "secure_examples"),
        figure="formats", published=PUBLISHED,
    )  # fmt: skip
