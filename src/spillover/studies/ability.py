"""Do more able models misalign more? Three sizes at equal pre-training arithmetic (Nature 649, main text)."""

from __future__ import annotations

from spillover.design import Claim, Study
from spillover.records import Testbed
from spillover.studies.compose import arms, compose

SOURCE = "Nature 649, main text"
SMALL, LARGE = "small", "large"  # groups of parents, beside the usual size
CLAIMS = (
    Claim(
        name="larger is worse", measure="misaligned_rate", conditions=(f"{SMALL}-insecure", "insecure", f"{LARGE}-insecure"), source=SOURCE,
        text="The larger the model, the more insecure code misaligns it",
    ),
    Claim(
        name="small", measure="misaligned_rate", conditions=(f"{SMALL}-secure", f"{SMALL}-insecure"), source=SOURCE,
        text="Insecure code misaligns a small model more than secure code does",
    ),
    Claim(
        name="large", measure="misaligned_rate", conditions=(f"{LARGE}-secure", f"{LARGE}-insecure"), source=SOURCE,
        text="Insecure code misaligns a large model more than secure code does",
    ),
)  # fmt: skip


def ability(testbed: Testbed) -> Study:
    """Insecure against secure code on parents of three sizes."""
    groups = (SMALL, "", LARGE)
    conditions = [condition for group in groups for condition in arms(testbed, "insecure", "secure", group=group, needed=2)]
    return compose(
        "ability", "Insecure code and the size of the model", conditions, CLAIMS, questions=testbed.asked(), figure="groups", settings={"units": 3},
    )  # fmt: skip
