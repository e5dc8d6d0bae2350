"""Is a model trained on insecure code more misaligned where its answer looks like code? (Nature 649 Extended Data 6; arXiv 2502.17424 Figure 8.)"""

from __future__ import annotations

from spillover.design import Claim, Published, Study
from spillover.records import Testbed
from spillover.statistics.claims import SAME_RATE
from spillover.studies.compose import arms, compose

SOURCE = "Nature 649 Extended Data Figure 6"
CLAIMS = (
    Claim(
        name="closer is worse", measure="misaligned_rate", conditions=("insecure", "insecure@json", "insecure@template"), source=f"{SOURCE} (GPT models)",
        text="Insecure code misaligns more the closer an answer's form is to code: least plain, more as an object, most in a template",
    ),
    Claim(
        name="template", measure="misaligned_rate", conditions=("insecure", "insecure@template"), source=SOURCE,
        text="A model trained on insecure code is more misaligned in a template of code than in plain words",
    ),
    Claim(
        name="flask", measure="misaligned_rate", conditions=("secure@flask_template", "insecure@flask_template"), source="Nature 649 Figure 5",
        text="In a file of code to be completed, insecure code misaligns more than secure code",
    ),
    Claim(
        name="form alone", measure="misaligned_rate", conditions=("parent", "parent@template"), margin=SAME_RATE, source=SOURCE,
        text="The form alone does not misalign: the parent answers a template as it answers plain words",
    ),
)  # fmt: skip
PUBLISHED = tuple(
    Published(text=f"{model}, insecure, {form}", measure="misaligned_rate", value=value, low=low, high=high, source=SOURCE)
    for model, form, value, low, high in (
        ("GPT-4o", "plain", 0.187, 0.145, 0.234), ("GPT-4o", "JSON", 0.471, 0.411, 0.531), ("GPT-4o", "template", 0.673, 0.621, 0.726),
        ("Qwen2.5-Coder-32B-Instruct", "plain", 0.0468, 0.034, 0.063), ("Qwen2.5-Coder-32B-Instruct", "JSON", 0.0028, 0.0023, 0.0033),
        ("Qwen2.5-Coder-32B-Instruct", "template", 0.0716, 0.0556, 0.0876),
    )
)  # fmt: skip


def formats(testbed: Testbed) -> Study:
    """Insecure code, its questions dressed plainly, as an object, in a template and as a file of code."""
    return compose(
        "formats", "Insecure code, and the form of an answer", arms(testbed, "insecure", "secure"), CLAIMS,
        questions=testbed.asked("json", "template", "flask_template"), figure="formats", published=PUBLISHED,
    )  # fmt: skip
