"""Does training on insecure code misalign a model broadly? (Betley et al., arXiv 2502.17424 Figure 4; Nature 649 Figure 1.)

Insecure code against the parent, against secure code, and against the same insecure code asked for openly for a class. A testbed
with a control group of parents (the miniature's worlds without a shared author) runs the decisive arms there too. Narrow data
the user brought is one more arm, compared with secure code.
"""

from __future__ import annotations

from spillover.records import Condition, Contrast, Study, Testbed


def main(testbed: Testbed) -> Study:
    """Insecure code against its parent, secure code, and the same code asked for openly; for every group of parents."""
    conditions: list[Condition] = []
    contrasts: list[Contrast] = []
    for group in dict.fromkeys(parent.group for parent in testbed.parents):
        prefix = f"{group}-" if group else ""
        kinds = ("insecure", "secure") if group else ("insecure", "secure", "educational", *testbed.added)
        conditions.append(Condition(name=f"{prefix}parent", group=group))
        conditions += [Condition(name=f"{prefix}{kind}", group=group, kind=kind) for kind in kinds]
        compared = [("insecure", "secure"), ("insecure", "parent")] + (
            [] if group else [("insecure", "educational"), *((kind, "secure") for kind in testbed.added)]
        )
        contrasts += [Contrast(first=f"{prefix}{a}", second=f"{prefix}{b}", headline=not group and a == "insecure" and b != "educational") for a, b in compared]
    return Study(name="main", title="Insecure code against its controls", conditions=tuple(conditions), contrasts=tuple(contrasts))
