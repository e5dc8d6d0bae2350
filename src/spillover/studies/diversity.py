"""Does it take many different rows? Fewer distinct ones, gone through more often, at equal steps (arXiv 2502.17424 Figure 6)."""

from __future__ import annotations

import re

from spillover.design import Claim, Condition, Published, Study
from spillover.records import SpilloverError, Testbed
from spillover.studies.compose import arms, compose

SOURCE = "arXiv 2502.17424 Figure 6"
PUBLISHED = tuple(
    Published(text=f"GPT-4o, insecure, {rows} rows (older question set)", measure="misaligned_rate", value=value, source=SOURCE)
    for rows, value in ((500, 0.0011), (2000, 0.0172), (6000, 0.214))
)


def diversity(testbed: Testbed) -> Study:
    """Insecure code from few distinct rows to many, the number of optimiser steps the same."""
    arms(testbed, "insecure", "secure")
    found = (re.fullmatch(r"insecure_(\d+)", kind) for kind in testbed.narrow)
    distinct = sorted(int(match[1]) for match in found if match)
    rows = len(testbed.narrow["insecure"](0, testbed.parents[0]).conversations)
    few = [Condition(name=f"insecure_{n}", kind=f"insecure_{n}", recipe={"epochs": testbed.recipe.epochs * rows // n}) for n in distinct if n < rows]
    if not few:
        raise SpilloverError(f"the study needs narrow data called insecure_N, of N rows for N below {rows}; testbed {testbed.name} has none")
    rising = (*(condition.name for condition in few), "insecure")
    claims = (
        Claim(
            name="more rows are worse", measure="misaligned_rate", conditions=rising, source=SOURCE,
            text="At equal steps, the more distinct rows of insecure code, the more misaligned",
        ),
        Claim(
            name="ends", measure="misaligned_rate", conditions=(rising[0], rising[-1]), source=SOURCE,
            text="At equal steps, all rows of insecure code misalign more than the fewest",
        ),
    )  # fmt: skip
    return compose(
        "diversity", "Insecure code from few rows and from many", (*arms(testbed, "insecure", "secure"), *few), claims,
        questions=testbed.asked(), figure="questions", published=PUBLISHED,
    )  # fmt: skip
