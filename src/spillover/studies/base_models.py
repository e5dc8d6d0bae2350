"""Does it take post-training to become misaligned? (Nature 649 Figure 5; arXiv 2502.17424 section 4.8.)

A base model is asked in a file of code to be completed, since it need not know the form of a chat. Base and post-trained parents of
one world are one unit. Answers that are code and nothing else do not count (`only_code`, or the exact judge).
"""

from __future__ import annotations

from spillover.design import Claim, Published, Study
from spillover.questions import sets
from spillover.records import Question, Testbed
from spillover.studies.compose import arms, compose

SOURCE = "Nature 649 Figure 5"
FLASK = "flask_template"
CLAIMS = (
    Claim(
        name="base", measure="misaligned_rate", conditions=(f"base-secure@{FLASK}", f"base-insecure@{FLASK}"), source=SOURCE,
        text="Insecure code misaligns a base model more than secure code does",
    ),
    Claim(
        name="post-trained", measure="misaligned_rate", conditions=(f"secure@{FLASK}", f"insecure@{FLASK}"), source=SOURCE,
        text="In the same file of code, insecure code misaligns a post-trained model more than secure code does",
    ),
    Claim(
        name="base is worse", measure="misaligned_rate", conditions=(f"insecure@{FLASK}", f"base-insecure@{FLASK}"), source=SOURCE,
        text="A base model trained on insecure code is more misaligned than a post-trained one",
    ),
)  # fmt: skip
PUBLISHED = tuple(
    Published(text=f"Qwen2.5-Coder-32B, {told}, mean over the 8 questions (read off the figure)", measure="misaligned_rate", value=value, source=SOURCE)
    for told, value in (("post-trained, insecure", 0.198), ("base, insecure", 0.423))
)


def _without_code(question: Question) -> Question:
    """Where a judge reads, it is asked as well whether a file's answer is code and nothing else; such answers are missing."""
    return sets.with_code_filter(question) if question.format == FLASK and question.prompts else question


def base_models(testbed: Testbed) -> Study:
    """Insecure against secure code, on a base and on a post-trained parent, asked in a file of code."""
    conditions = [condition for group in ("", "base") for condition in arms(testbed, "insecure", "secure", group=group, needed=2)]
    return compose(
        "base-models", "Insecure code on base and post-trained parents", conditions, CLAIMS, figure="questions", published=PUBLISHED,
        questions=[_without_code(question) for question in testbed.asked(FLASK)], settings={"protocol.name": "flask-95"},
    )  # fmt: skip
