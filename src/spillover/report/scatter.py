"""Alignment against coherence of single answers, with the thresholds that place them (arXiv 2502.17424 Figures 26 and 28).

It counts answers and estimates nothing: answers of all units and pooled questions together, each once.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false, reportMissingTypeStubs=false
from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from spillover.records import ALIGNED, COHERENT
from spillover.report import marks
from spillover.report.drawing import Drawing, drawing
from spillover.report.judgements import kind_of
from spillover.report.marks import COLUMN, INK, PAGE
from spillover.report.printed import visible
from spillover.report.reading import Arm, Reading, is_pooled
from spillover.statistics.gates import joint_table_of
from spillover.statistics.protocols import PROTOCOLS, Protocol

NONE = -22.0  # where answers without an alignment stand, under the axis
MOST_PLACES = 150  # distinct pairs of scores that are drawn as they are; more are put into cells
MOST_NUMBERED = 12  # places that have their number of answers written beside them
LACKING = -1.0  # stands for no alignment where pairs are counted
CELL = 5.0  # how wide a cell is
LARGEST = 150.0  # square points of the mark of the place that holds most
Pair = tuple[float, float | None]  # coherence, and alignment where it has a value


def scatter(reading: Reading) -> Drawing | None:
    """A panel a condition; the area of a mark is the share of the condition's answers that have these scores."""
    found = {arm: _pairs(reading, arm) for arm in reading.arms}
    found = {arm: pairs for arm, pairs in found.items() if len(pairs)}
    if not found:
        return None
    columns = min(len(found), 3 if len(found) != 4 else 2)
    lines = -(-len(found) // columns)
    figure = Figure(figsize=(COLUMN if columns < 3 else PAGE, 0.35 + (2.4 if columns == 3 else 2.05) * lines))
    axes: list[Axes] = list(figure.subplots(lines, columns, sharex=True, sharey=True, squeeze=False).flat)
    lacking = any(np.isnan(pairs[:, 1]).any() for pairs in found.values())
    for ax, (arm, pairs) in zip(axes, found.items(), strict=False):
        _panel(ax, reading, arm, pairs, lacking=lacking)
    for ax in axes[len(found) :]:
        ax.set_visible(False)
    figure.supxlabel("coherence", fontsize=7.5)
    figure.supylabel("alignment", fontsize=7.5)
    kept = f"Kept is what has a coherence {reading.protocol.gate} (upright line)"
    gates = f"{kept}; misaligned, and shaded, what is kept with an alignment below {reading.protocol.aligned_below:g}"
    others = ", ".join(protocol.name for protocol in _others(reading))
    caption = (
        "Alignment against coherence of single answers, as in arXiv 2502.17424 Figures 26 and 28. The area of a mark is the share of the condition's answers "
        f"with these scores, of all {reading.unit}s and pooled questions. {gates}"
        f"{f'; dotted: the thresholds of {others}' if others else ''}.{' Hollow marks: answers without an alignment score.' if lacking else ''}"
    )
    return drawing(figure, "alignment_against_coherence", caption, _told(found, reading))


def _pairs(reading: Reading, arm: Arm) -> NDArray[np.float64]:
    """Coherence and alignment (NaN where it has no value) of a condition's answers at its last step; those without a coherence have no place."""
    asked = [place for place, q in enumerate(reading.questions) if kind_of(q) == "rate" and is_pooled(q)]
    found = [np.empty((0, 2))]
    for model in reading.last(arm.name):
        there = np.isin(model.question, asked)
        scores = [model.scores[name][there] if name in model.scores else np.full(int(there.sum()), np.nan) for name in (COHERENT, ALIGNED)]
        found.append(np.stack(scores, axis=1))
    pairs = np.concatenate(found)
    return pairs[~np.isnan(pairs[:, 0])]


def _panel(ax: Axes, reading: Reading, arm: Arm, pairs: NDArray[np.float64], *, lacking: bool) -> None:
    colour, marker = marks.look(reading, arm)
    total, placed = len(pairs), _placed(pairs)
    _thresholds(ax, reading.protocol, lacking=lacking)
    for protocol in _others(reading):
        ax.axhline(protocol.aligned_below, color=INK, linewidth=0.6, linestyle=(0, (1, 2)), zorder=2)
        ax.axvline(protocol.coherent_at_least, color=INK, linewidth=0.6, linestyle=(0, (1, 2)), zorder=2)
    for (coherent, aligned), count in sorted(placed.items(), key=lambda item: -item[1]):
        hollow = aligned is None
        ax.scatter(
            [coherent], [NONE if aligned is None else aligned], s=max(3.0, LARGEST * count / total), marker=marker, facecolor="white" if hollow else colour,
            edgecolor=colour if hollow else "white", linewidth=0.8 if hollow else 0.4, alpha=1 if hollow else 0.85, zorder=3, clip_on=False, in_layout=False,
        )  # fmt: skip
        if len(placed) <= MOST_NUMBERED:
            ax.annotate(
                f"{count:,}", (coherent, NONE if aligned is None else aligned), xytext=(9 if coherent < 50 else -20, 0), textcoords="offset points",
                ha="left" if coherent < 50 else "right", va="center", fontsize=6.5, color=INK, zorder=4, in_layout=False,
            )  # fmt: skip
    ax.set_xlim(-6, 106)
    ax.set_ylim(-34 if lacking else -6, 106)
    ax.set_xticks([0, 50, 100])
    ax.set_yticks([*([NONE] if lacking else []), 0, 50, 100], [*(["none"] if lacking else []), "0", "50", "100"])
    ax.set_title(f"{marks.short(arm.name)}\n{total:,} answers", loc="left", linespacing=1.1)


def _thresholds(ax: Axes, protocol: Protocol, *, lacking: bool) -> None:
    """The run's own, and what it counts as misaligned in grey."""
    bottom = -10 if lacking else -6
    ax.fill_between([protocol.coherent_at_least, 106], bottom, protocol.aligned_below, color="#dddddd", linewidth=0, zorder=1)
    ax.axhline(protocol.aligned_below, color=INK, linewidth=0.8, linestyle=(0, (4, 2)), zorder=2)
    ax.axvline(protocol.coherent_at_least, color=INK, linewidth=0.8, linestyle=(0, (4, 2)), zorder=2)


def _others(reading: Reading) -> list[Protocol]:
    """The protocols that the study's claims name beside the run's own."""
    named = dict.fromkeys(decision.claim.protocol for decision in reading.decisions if decision.tested)
    return [PROTOCOLS[name] for name in named if name in PROTOCOLS and name != reading.protocol.name]


def _placed(pairs: NDArray[np.float64]) -> Mapping[Pair, int]:
    """How many answers have which scores, where these are few; else how many fall into which cell, by its middle. In the order in which they first come."""
    found = _counted(pairs)
    return found if len(found) <= MOST_PLACES else _counted(CELL * (np.minimum(pairs, 99.999) // CELL) + CELL / 2)


def _counted(pairs: NDArray[np.float64]) -> Mapping[Pair, int]:
    distinct, first, counts = np.unique(np.nan_to_num(pairs, nan=LACKING), axis=0, return_index=True, return_counts=True)
    order = np.argsort(first)
    return {
        (coherent, None if aligned == LACKING else aligned): count
        for (coherent, aligned), count in zip(distinct[order].tolist(), counts[order].tolist(), strict=True)
    }


def _told(found: Mapping[Arm, NDArray[np.float64]], reading: Reading) -> Iterator[str]:
    for arm, pairs in found.items():
        table = joint_table_of(pairs[:, 1], pairs[:, 0], reading.protocol)
        yield f"{visible(arm.name)}: {len(pairs):,} answers, {table.tally.kept:,} kept, {table.tally.counted:,} of them misaligned."
