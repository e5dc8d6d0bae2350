"""How well a score tells two sorts apart: the area under the ROC curve. The number alone, for choosing among many scores.

A judge's area with its interval is `calibration.auroc`.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false, reportMissingTypeStubs=false
from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from spillover.records import SpilloverError


def auroc(scores: Sequence[float] | NDArray[np.floating], positive: Sequence[bool] | NDArray[np.bool_]) -> float:
    """The chance that one drawn from the positive has a higher score than one drawn from the others, ties counted half (Mann and Whitney 1947).

    Raises SpilloverError where lengths differ, a score is not finite, or one of the two sorts is absent.
    """
    score_N, positive_N = np.asarray(scores, dtype=np.float64), np.asarray(positive, dtype=bool)
    if score_N.ndim != 1 or score_N.shape != positive_N.shape:
        raise SpilloverError(f"an area under the curve needs one score for each that is sorted, got {score_N.shape} scores and {positive_N.shape} sorts")
    if not np.isfinite(score_N).all():
        raise SpilloverError("a score is not finite, so it has no rank among the others")
    found = int(positive_N.sum())
    others = len(score_N) - found
    if not found or not others:
        raise SpilloverError(f"an area under the curve needs both sorts, got {found} positive and {others} others")
    above = float(stats.rankdata(score_N)[positive_N].sum()) - found * (found + 1) / 2
    return above / (found * others)
