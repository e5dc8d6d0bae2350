"""The published experiments, each a short recipe on a testbed. A study is a function from a testbed to what is compared."""

from __future__ import annotations

from collections.abc import Callable

from spillover.records import SpilloverError, Study, Testbed
from spillover.studies.main import main

STUDIES: dict[str, Callable[[Testbed], Study]] = {"main": main}


def study(name: str, testbed: Testbed) -> Study:
    """The study of this name on this testbed. Raises SpilloverError when there is none."""
    if name not in STUDIES:
        raise SpilloverError(f"there is no study {name!r}; there {'is' if len(STUDIES) == 1 else 'are'} {', '.join(STUDIES)}")
    return STUDIES[name](testbed)
