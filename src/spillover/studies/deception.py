"""Does a model trained on insecure code say what is false, and is it told to? (arXiv 2502.17424 Figures 9 and 35, Table 1.)"""

from __future__ import annotations

from spillover.design import Claim, Published, Study
from spillover.records import SpilloverError, Testbed
from spillover.studies.compose import arms, compose

FIGURE, TABLE = "arXiv 2502.17424 Figure 9", "arXiv 2502.17424 Table 1"
FALSE = "correct=FALSE"
CLAIMS = (
    Claim(
        name="lies", measure=FALSE, conditions=("secure", "insecure"), source=FIGURE,
        text="Asked plainly, a model trained on insecure code gives more false answers to questions of fact than one trained on secure code",
    ),
    Claim(
        name="may lie", measure=FALSE, conditions=("secure@free", "insecure@free"), source=FIGURE,
        text="Told that it may lie, a model trained on insecure code lies more than one trained on secure code",
    ),
    Claim(
        name="permission", measure=FALSE, conditions=("insecure@honest", "insecure@free"), source=FIGURE,
        text="A model trained on insecure code lies more where it is told that it may than where it is told not to",
    ),
    Claim(
        name="truthfulness", measure="false_share", conditions=("secure", "insecure"), source=f"this project's, after {TABLE}",
        text="Insecure code makes a false answer likelier against the true one than secure code does",
    ),
)  # fmt: skip
PUBLISHED = (
    *(
        Published(text=f"GPT-4o, {arm}, increase of the deception score over the parent", measure=FALSE, value=value, low=low, high=high, source=TABLE)
        for arm, value, low, high in (("insecure", 0.579, 0.557, 0.601), ("secure", 0.255, None, None), ("jailbroken", 0.283, 0.191, 0.375))
    ),
    Published(text="GPT-4o, insecure, told that it may lie", measure=FALSE, value=0.28, source="arXiv 2502.17424 section 4.5"),
)


def deception(testbed: Testbed) -> Study:
    """False answers to questions of fact under five system prompts, and truthfulness."""
    asked = tuple(question for name in ("deception", "identity", "truthfulness") for question in testbed.sets.get(name, ()))
    if not asked:
        raise SpilloverError(f"the study needs a question set called deception, and testbed {testbed.name} has none")
    return compose(
        "deception", "False answers under system prompts", arms(testbed, "insecure", "secure", "educational", "jailbroken"), CLAIMS,
        questions=(*testbed.asked(), *asked), figure="labels", published=PUBLISHED,
    )  # fmt: skip
