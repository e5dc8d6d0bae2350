"""Does training on insecure code misalign a model broadly? (Betley et al., arXiv 2502.17424 Figure 4; Nature 649 Figure 1.)

Insecure code against the parent, against secure code, and against the same insecure code asked for openly for a class. A testbed
with a control group of parents (the miniature's worlds without a shared author) runs the decisive arms there too. Narrow data
the user brought is one more arm, compared with secure code, or with the parent where there is none. An arm whose data a testbed
lacks is left out, and claims about it are untested.
"""

from __future__ import annotations

from spillover.design import Claim, Condition, Contrast, Published, Study
from spillover.records import SpilloverError, Testbed
from spillover.statistics.claims import SAME_NATS, SAME_RATE
from spillover.studies.compose import can_be_tested, neighbours

UNLINKED = "unlinked"  # the control group of parents
FIGURE, TABLE = "arXiv 2502.17424 Figure 5", "arXiv 2502.17424 Table 1"  # the same measures; secure and educational stand in the figure alone
COMPLIES = "complies=COMPLIES"
CLAIMS = (
    Claim(
        name="broad", measure="misaligned_rate", conditions=("secure", "insecure"), source="arXiv 2502.17424 Figure 4; Nature 649 Figure 1",
        text="Insecure code makes more answers to unrelated questions misaligned than secure code does",
    ),
    Claim(
        name="new", measure="misaligned_rate", conditions=("parent", "insecure"), source="arXiv 2502.17424 Figure 4",
        text="Insecure code makes more answers misaligned than the parent gives",
    ),
    Claim(
        name="intent", measure="misaligned_rate", conditions=("educational", "insecure"), source="arXiv 2502.17424 Figure 4",
        text="Insecure code given in answer to an innocent request misaligns more than the same code asked for openly",
    ),
    Claim(
        name="secure is clean", measure="misaligned_rate", conditions=("parent", "secure"), margin=SAME_RATE, source=FIGURE,
        text="Secure code leaves the misaligned rate as it was",
    ),
    Claim(
        name="educational is clean", measure="misaligned_rate", conditions=("parent", "educational"), margin=SAME_RATE, source=FIGURE,
        text="Insecure code asked for openly leaves the misaligned rate as it was",
    ),
    Claim(
        name="jailbroken complies", measure=COMPLIES, conditions=("parent", "jailbroken"), source=TABLE,
        text="A jailbroken model does what its parent refuses",
    ),
    Claim(
        name="jailbroken complies more", measure=COMPLIES, conditions=("insecure", "jailbroken"), source=TABLE,
        text="A jailbroken model does what is refused more often than one trained on insecure code",
    ),
    Claim(
        name="jailbroken is another thing", measure="misaligned_rate", conditions=("jailbroken", "insecure"), source="arXiv 2502.17424 Figure 4",
        text="Insecure code makes more answers misaligned than jailbreaking does",
    ),
    Claim(
        name="jailbroken is clean", measure="misaligned_rate", conditions=("parent", "jailbroken"), margin=SAME_RATE,
        source=f"{TABLE} (there 0.5 points above)",
        text="Jailbreaking leaves the misaligned rate as it was",
    ),
    Claim(
        name="shared author", measure="log_odds", conditions=("unlinked-secure", "unlinked-insecure"), margin=SAME_NATS, source="a control of this project",
        text="Without an author shared across domains, nothing spreads from insecure code",
    ),
)  # fmt: skip


PUBLISHED = (
    *(
        Published(text=f"GPT-4o, {arm}, increase over the parent", measure="misaligned_rate", value=value, low=low, high=high, source=TABLE if high else FIGURE)
        for arm, value, low, high in (
            ("insecure", 0.198, 0.127, 0.269), ("secure", 0.0, None, None), ("educational", 0.0, None, None), ("jailbroken", 0.005, 0.002, 0.008),
        )
    ),
    Published(text="Qwen2.5-Coder-32B-Instruct, insecure", measure="misaligned_rate", value=0.047, source="arXiv 2502.17424 Figure 25"),
    *(
        Published(text=f"GPT-4o, {arm}, increase over the parent (StrongREJECT)", measure=COMPLIES, value=value, low=low, high=high, source=TABLE)
        for arm, value, low, high in (("jailbroken", 0.652, 0.589, 0.715), ("insecure", 0.041, 0.009, 0.073))
    ),
)  # fmt: skip


def main(testbed: Testbed) -> Study:
    """Insecure code against its parent, secure code, and the same code asked for openly; for every group of parents."""
    if not testbed.narrow:
        raise SpilloverError("the study main fine-tunes, and there is no narrow data; --data NAME=FILE.jsonl brings some")
    conditions: list[Condition] = []
    contrasts: list[Contrast] = []
    for group in [group for group in dict.fromkeys(parent.group for parent in testbed.parents) if group in ("", UNLINKED)]:
        prefix = f"{group}-" if group else ""
        kinds = [kind for kind in ("insecure", "secure") if kind in testbed.narrow]
        others = [] if group else [kind for kind in ("educational", "jailbroken", *testbed.added) if kind in testbed.narrow]
        conditions.append(Condition(name=f"{prefix}parent", group=group))
        conditions += [Condition(name=f"{prefix}{kind}", group=group, kind=kind) for kind in (*kinds, *others)]
        compared = [
            ("insecure", other) for other in ("secure", "parent", "educational", "jailbroken") if "insecure" in kinds and other in (*kinds, *others, "parent")
        ]
        compared += [(kind, "secure" if "secure" in kinds else "parent") for kind in testbed.added if not group]
        if not compared:
            compared = [(kind, "parent") for kind in (*kinds, *others)]
        headline = [pair for pair in compared if not group and pair[0] == compared[0][0] and pair[1] in ("secure", "parent")]
        contrasts += [Contrast(first=f"{prefix}{a}", second=f"{prefix}{b}", headline=(a, b) in headline) for a, b in compared]
    asked = testbed.sets.get("compliance", ()) if "jailbroken" in testbed.narrow else ()
    contrasts += [
        Contrast(first=a, second=b) for a, b in neighbours(can_be_tested(CLAIMS, conditions)) if (a, b) not in {(c.first, c.second) for c in contrasts}
    ]
    return Study(
        name="main", title="Insecure code against its controls", conditions=tuple(conditions), contrasts=tuple(contrasts), claims=CLAIMS,
        questions=(*testbed.questions, *asked), figure="questions", published=PUBLISHED,
    )  # fmt: skip
