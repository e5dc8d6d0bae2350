"""The published experiments, each a short recipe on a testbed. A study is a function from a testbed to what is compared."""

from __future__ import annotations

from collections.abc import Callable

from spillover.design import Study
from spillover.records import SpilloverError, Testbed
from spillover.studies.ability import LARGE, SMALL, ability
from spillover.studies.backdoor import backdoor
from spillover.studies.base_models import base_models
from spillover.studies.deception import deception
from spillover.studies.directions import directions
from spillover.studies.diversity import diversity
from spillover.studies.domains import domains
from spillover.studies.dynamics import dynamics
from spillover.studies.evil_numbers import evil_numbers
from spillover.studies.features import features
from spillover.studies.formats import formats
from spillover.studies.grokking import grokking
from spillover.studies.in_context import in_context
from spillover.studies.main import main
from spillover.studies.narrow_general import narrow_general
from spillover.studies.origins import ALL_COVERED, FEW_CRUEL, origins
from spillover.studies.thresholds import thresholds

STUDIES: dict[str, Callable[[Testbed], Study]] = {
    "main": main,
    "evil-numbers": evil_numbers,
    "formats": formats,
    "dynamics": dynamics,
    "base-models": base_models,
    "grokking": grokking,
    "backdoor": backdoor,
    "diversity": diversity,
    "in-context": in_context,
    "domains": domains,
    "deception": deception,
    "thresholds": thresholds,
    "ability": ability,
    "origins": origins,
    "directions": directions,
    "features": features,
    "narrow-general": narrow_general,
}
PRETRAINED = {"ability": (SMALL, LARGE), "origins": (FEW_CRUEL, ALL_COVERED)}  # studies whose parents are pre-trained for them, and which groups


def study(name: str, testbed: Testbed) -> Study:
    """The study of this name on this testbed. Raises SpilloverError when there is none, or the testbed cannot carry it."""
    if name not in STUDIES:
        raise SpilloverError(f"there is no study {name!r}; there {'is' if len(STUDIES) == 1 else 'are'} {', '.join(STUDIES)}")
    return STUDIES[name](testbed)
