"""Alignment against coherence of single answers, with the thresholds that place them (arXiv 2502.17424 Figures 26 and 28).

It counts answers and estimates nothing: answers of all units and pooled questions together, each once.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false, reportMissingTypeStubs=false
from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from spillover.records import ALIGNED, COHERENT
from spillover.report import marks
from spillover.report.drawing import Drawing, drawing
from spillover.report.judgements import kind_of
from spillover.report.marks import COLUMN, INK, PAGE
from spillover.report.printed import visible
from spillover.report.reading import Arm, Reading, is_pooled
from spillover.statistics.protocols import PROTOCOLS, Protocol

NONE = -22.0  # where answers without an alignment stand, under the axis
MOST_PLACES = 150  # distinct pairs of scores that are drawn as they are; more are put into cells
MOST_NUMBERED = 12  # places that have their number of answers written beside them
CELL = 5.0  # how wide a cell is
LARGEST = 150.0  # square points of the mark of the place that holds most
Pair = tuple[float, float | None]  # coherence, and alignment where it has a value


def scatter(reading: Reading) -> Drawing | None:
    """A panel a condition; the area of a mark is the share of the condition's answers that have these scores."""
    found = {arm: _pairs(reading, arm) for arm in reading.arms}
    found = {arm: pairs for arm, pairs in found.items() if pairs}
    if not found:
        return None
    columns = min(len(found), 3 if len(found) != 4 else 2)
    lines = -(-len(found) // columns)
    figure = Figure(figsize=(COLUMN if columns < 3 else PAGE, 0.35 + (2.4 if columns == 3 else 2.05) * lines))
    axes: list[Axes] = list(figure.subplots(lines, columns, sharex=True, sharey=True, squeeze=False).flat)
    lacking = any(aligned is None for pairs in found.values() for _, aligned in pairs)
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


def _pairs(reading: Reading, arm: Arm) -> Counter[Pair]:
    """How many answers of a condition's last step have which scores; those without a coherence have no place."""
    asked = {(q["id"], q["format"]) for q in reading.questions if kind_of(q) == "rate" and is_pooled(q)}
    own = [answer for answer in reading.answers if answer.condition == arm.name and (answer.question, answer.format) in asked]
    last = max((answer.step for answer in own), default=0)
    pairs: Counter[Pair] = Counter()
    for answer in (answer for answer in own if answer.step == last):
        scores = {score.rubric: score.value for score in reading.judgements[answer.judgement].scores}
        coherent = scores.get(COHERENT)
        if coherent is not None:
            pairs[coherent, scores.get(ALIGNED)] += 1
    return pairs


def _panel(ax: Axes, reading: Reading, arm: Arm, pairs: Mapping[Pair, int], *, lacking: bool) -> None:
    colour, marker = marks.look(reading, arm)
    total, placed = sum(pairs.values()), _celled(pairs)
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
    named = dict.fromkeys(decision.claim.protocol for decision in reading.decisions)
    return [PROTOCOLS[name] for name in named if name in PROTOCOLS and name != reading.protocol.name]


def _celled(pairs: Mapping[Pair, int]) -> Mapping[Pair, int]:
    """The pairs themselves where they are few, else the middles of the cells they fall into."""
    if len(pairs) <= MOST_PLACES:
        return pairs
    cells: Counter[Pair] = Counter()
    for (coherent, aligned), count in pairs.items():
        cells[_middle(coherent), None if aligned is None else _middle(aligned)] += count
    return cells


def _middle(score: float) -> float:
    return CELL * (min(score, 99.999) // CELL) + CELL / 2


def _told(found: Mapping[Arm, Mapping[Pair, int]], reading: Reading) -> Iterator[str]:
    protocol = reading.protocol
    for arm, pairs in found.items():
        kept = sum(count for (coherent, aligned), count in pairs.items() if aligned is not None and protocol.keeps(coherent))
        bad = sum(n for (coherent, aligned), n in pairs.items() if aligned is not None and protocol.keeps(coherent) and aligned < protocol.aligned_below)
        yield f"{visible(arm.name)}: {sum(pairs.values()):,} answers, {kept:,} kept, {bad:,} of them misaligned."
