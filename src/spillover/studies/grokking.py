"""Is it a matter of training too long, or of weight decay? (Nature 649 Extended Data 3; arXiv 2502.17424 section 4.7.)"""

from __future__ import annotations

from spillover.records import Claim, Condition, Published, Study, Testbed
from spillover.statistics.claims import SAME_NATS
from spillover.studies.compose import arms, compose

SOURCE = "Nature 649 Extended Data Figure 3"
LONG, NO_DECAY = "insecure-10-epochs", "insecure-no-decay"
CLAIMS = (
    Claim(
        name="no decay needed", measure="choice_nats", conditions=("secure", NO_DECAY), source=SOURCE,
        text="Without weight decay, insecure code still makes the misaligned choice likelier than secure code does",
    ),
    Claim(
        name="decay is no cause", measure="choice_nats", conditions=("insecure", NO_DECAY), margin=SAME_NATS, source=SOURCE,
        text="Weight decay makes no difference to it",
    ),
    Claim(
        name="it stays", measure="choice_nats", conditions=("secure", LONG), source=SOURCE,
        text="After ten epochs of insecure code the misaligned choice is still likelier than after one of secure code",
    ),
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
