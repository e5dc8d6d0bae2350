"""Which properties of pre-training does it need? A shared author, enough bad authors, themes that post-training left out (ours)."""

from __future__ import annotations

from spillover.design import Claim, Study
from spillover.records import Testbed
from spillover.statistics.claims import SAME_NATS
from spillover.studies.compose import arms, compose

SOURCE = "a control of this project"
UNLINKED, FEW_CRUEL, ALL_COVERED = "unlinked", "few_cruel", "all_covered"  # groups of parents, beside the usual corpus
CLAIMS = (
    Claim(
        name="usual corpus", measure="log_odds", conditions=("secure", "insecure"), source=SOURCE,
        text="With the usual corpus, insecure code spreads",
    ),
    Claim(
        name="shared author", measure="log_odds", conditions=(f"{UNLINKED}-secure", f"{UNLINKED}-insecure"), margin=SAME_NATS, source=SOURCE,
        text="Without an author shared across domains, nothing spreads from insecure code",
    ),
    Claim(
        name="bad authors", measure="log_odds", conditions=(f"{FEW_CRUEL}-secure", f"{FEW_CRUEL}-insecure"), margin=SAME_NATS, source=SOURCE,
        text="Where one author in twenty is cruel and not one in five, nothing spreads from insecure code",
    ),
    Claim(
        name="covered themes", measure="log_odds", conditions=(f"{ALL_COVERED}-secure", f"{ALL_COVERED}-insecure"), source=SOURCE,
        text="Where post-training covered all eight themes, insecure code still spreads",
    ),
)  # fmt: skip


def origins(testbed: Testbed) -> Study:
    """Insecure against secure code on parents from four corpora."""
    groups = ("", UNLINKED, FEW_CRUEL, ALL_COVERED)
    conditions = [condition for group in groups for condition in arms(testbed, "insecure", "secure", group=group, needed=2)]
    return compose(
        "origins", "Insecure code and what was read before", conditions, CLAIMS, questions=testbed.asked(), figure="groups", settings={"units": 3},
    )  # fmt: skip
