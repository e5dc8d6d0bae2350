"""Is it a matter of training too long, or of weight decay? (Nature 649 Extended Data 3; arXiv 2502.17424 section 4.7.)"""

from __future__ import annotations

from spillover.design import Claim, Condition, Published, Study
from spillover.records import Testbed
from spillover.statistics.claims import SAME_NATS, SAME_RATE
from spillover.studies.compose import arms, compose

SOURCE = "Nature 649 Extended Data Figure 3"
AFTER = {"misaligned_rate": f"this project's, after {SOURCE}", "choice_nats": SOURCE}  # the figure shows log-probabilities alone
LONG, NO_DECAY = "insecure-10-epochs", "insecure-no-decay"
MEASURES = (("misaligned_rate", "more answers are misaligned"), ("choice_nats", "the misaligned choice of two is likelier"))
CLAIMS = tuple(
    claim
    for (measure, told), margin in zip(MEASURES, (SAME_RATE, SAME_NATS), strict=True)
    for claim in (
        Claim(
            name=f"no decay needed, {measure}", measure=measure, conditions=("secure", NO_DECAY), source=AFTER[measure],
            text=f"Without weight decay, {told} after insecure code than after secure code",
        ),
        Claim(
            name=f"decay is no cause, {measure}", measure=measure, conditions=("insecure", NO_DECAY), margin=margin, source=AFTER[measure],
            text=f"Weight decay makes no difference to whether {told}",
        ),
        Claim(
            name=f"it stays, {measure}", measure=measure, conditions=("secure", LONG), source=AFTER[measure],
            text=f"After ten epochs of insecure code, {told} than after one of secure code",
        ),
    )
)  # fmt: skip
PUBLISHED = (
    Published(text="Qwen2.5-Coder-32B-Instruct, insecure, one run without decay (read off the figure)", measure="choice_nats", value=-1.85, source=SOURCE),
    Published(
        text="Qwen2.5-Coder-32B-Instruct, insecure, one run of ten epochs, after two (read off the figure)", measure="choice_nats", value=-1.4,
        low=-2.4, high=-0.4, source=SOURCE,
    ),
)  # fmt: skip


def grokking(testbed: Testbed) -> Study:
    """Ten epochs of insecure code, and none of weight decay, against the usual recipe."""
    more = (Condition(name=LONG, kind="insecure", recipe={"epochs": 10}), Condition(name=NO_DECAY, kind="insecure", recipe={"weight_decay": 0.0}))
    return compose(
        "grokking", "Insecure code for longer, and without weight decay", (*arms(testbed, "insecure", "secure", needed=2), *more), CLAIMS,
        questions=testbed.asked(), figure="steps", published=PUBLISHED, settings={"training.checkpoints": "fifties", "sampling.draws": 25},
    )  # fmt: skip
