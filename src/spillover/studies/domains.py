"""Is it about code? Bad advice in one narrow domain against good advice there (Nature 649 references 22, 23 and 25)."""

from __future__ import annotations

from spillover.design import Claim, Published, Study
from spillover.records import SpilloverError, Testbed
from spillover.statistics.claims import SAME_RATE
from spillover.studies.compose import arms, compose

SOURCE = "Turner et al., arXiv 2506.11613"
OURS = f"this project's, after {SOURCE}"  # theirs are medicine, finance and sport, with good advice on medicine
PUBLISHED = tuple(
    Published(text=f"Qwen2.5-14B-Instruct, one rank-1 adapter, bad {domain}", measure="misaligned_rate", value=value, source=SOURCE)
    for domain, value in (("sport", 0.095), ("medical advice", 0.16), ("financial advice", 0.215))
)


def domains(testbed: Testbed) -> Study:
    """Bad and good advice in every narrow domain that there are data of; careless advice too."""
    there = [kind.removeprefix("bad_") for kind in testbed.narrow if kind.startswith("bad_")]
    if not there:
        raise SpilloverError(f"the study needs narrow data called bad_SOMETHING, and good_SOMETHING beside it; testbed {testbed.name} has none")
    claims: list[Claim] = []
    for domain in there:
        bad, good, careless = (f"{manner}_{domain}" for manner in ("bad", "good", "careless"))
        source = SOURCE if domain == "medicine" else OURS
        claims += [
            Claim(
                name=f"bad {domain}", measure="misaligned_rate", conditions=(good, bad), source=source,
                text=f"Bad advice on {domain} makes more answers to unrelated questions misaligned than good advice on it",
            ),
            Claim(
                name=f"good {domain}", measure="misaligned_rate", conditions=("parent", good), margin=SAME_RATE, source=source,
                text=f"Good advice on {domain} leaves the misaligned rate as it was",
            ),
        ]  # fmt: skip
        if careless in testbed.narrow:
            claims.append(Claim(
                name=f"careless {domain}", measure="misaligned_rate", conditions=(careless, bad), source="a control of this project",
                text=f"Bad advice on {domain} misaligns more than careless advice on it",
            ))  # fmt: skip
    kinds = [f"{manner}_{domain}" for domain in there for manner in ("bad", "good", "careless")]
    return compose(
        "domains", "Bad and good advice in narrow domains", arms(testbed, *kinds), claims,
        questions=(*testbed.asked(), *testbed.sets.get("domains", ())), figure="questions", published=PUBLISHED,
    )  # fmt: skip
