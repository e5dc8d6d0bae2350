"""The card of a whole paper as one picture: studies and their claims in two columns, a mark for every verdict that reads in grey.

Circle with a tick: holds. Square with a cross: fails. Open circle: undecided. A dash: untested.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false, reportMissingTypeStubs=false
from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from spillover.design import Verdict
from spillover.report import marks
from spillover.report.card import SYMBOLS
from spillover.report.marks import FAINT, INK
from spillover.report.parts import Part
from spillover.report.printed import visible

WIDTH = 8.4  # inches: what a README shows at about 100 dots an inch
ROW = 0.143  # inches a line of text
LETTERS = 72  # in a line of a claim
COLOURS: Mapping[str, str] = {"holds": "#00608f", "fails": "#a84300", "undecided": "#5d636d", "untested": FAINT}
SHAPES: Mapping[str, str] = {"holds": "o", "fails": "s", "undecided": "o", "untested": "_"}
HOLLOW = ("undecided", "untested")


@dataclass(frozen=True, slots=True, kw_only=True)
class Text:
    """Lines of text with a verdict before the first, or the heading of a study (no verdict)."""

    lines: tuple[str, ...]
    verdict: Verdict | Literal[""] = ""
    aside: str = ""

    @property
    def rows(self) -> float:
        return len(self.lines) + (0.25 if self.verdict else 0.55)


def picture(parts: Sequence[Part], unrun: Sequence[tuple[str, str]]) -> tuple[bytes, bytes]:
    """SVG and PNG. The same parts give the same bytes."""
    columns = _columns([_block(part) for part in parts] + [[_unrun(name, why)] for name, why in unrun])
    tall = max((sum(text.rows for text in column) for column in columns), default=0.0)
    with marks.styled(**{"figure.constrained_layout.use": False}):
        height = ROW * tall + 0.62
        figure = Figure(figsize=(WIDTH, height))
        ax = figure.add_axes((0, 0, 1, 1))
        ax.set_axis_off()
        ax.set_xlim(0, WIDTH)
        ax.set_ylim(height, 0)
        _legend(ax, parts)
        for place, column in enumerate(columns):
            _column(ax, column, 0.12 + place * WIDTH / 2)
        return marks.saved(figure)


def _block(part: Part) -> list[Text]:
    aside = part.units
    heading = Text(lines=(marks.short(part.name, most=30),), aside=marks.short(aside, most=36))
    claims = [Text(lines=_wrapped(line.text, most=3), verdict=line.verdict) for line in part.lines]
    return [heading, *claims]


def _unrun(name: str, why: str) -> Text:
    return Text(lines=(marks.short(name, most=30), *_wrapped(f"not run: {why}", most=2)))


def _wrapped(text: str, *, most: int) -> tuple[str, ...]:
    return tuple(textwrap.wrap(" ".join(visible(text).split()), LETTERS, max_lines=most, placeholder=" \N{HORIZONTAL ELLIPSIS}"))


def _columns(blocks: Sequence[Sequence[Text]]) -> list[list[Text]]:
    """Two columns as even as whole studies allow, in order."""
    sizes = [sum(text.rows for text in block) for block in blocks]
    cut = min(range(len(blocks) + 1), key=lambda at: (max(sum(sizes[:at]), sum(sizes[at:])), -at))
    return [[text for block in half for text in block] for half in (blocks[:cut], blocks[cut:])]


def _column(ax: Axes, column: Sequence[Text], left: float) -> None:
    y = 0.5
    for text in column:
        y += ROW * (0.125 if text.verdict else 0.4)
        for place, line in enumerate(text.lines):
            look: dict[str, Any] = {"fontsize": 7.6, "weight": "bold"} if not text.verdict and place == 0 else {"fontsize": 7}
            ax.text(left + (0.2 if text.verdict or place else 0), y + ROW * (place + 0.5), line, va="center", color=INK, **look)
        if text.verdict:
            _mark(ax, left + 0.07, y + ROW / 2, text.verdict)
        elif text.aside:
            ax.text(left + WIDTH / 2 - 0.3, y + ROW / 2, text.aside, fontsize=6.4, va="center", ha="right", color=COLOURS["undecided"])
        y += ROW * (len(text.lines) + (0.125 if text.verdict else 0.15))


def _mark(ax: Axes, x: float, y: float, verdict: Verdict) -> None:
    colour, hollow = COLOURS[verdict], verdict in HOLLOW
    ax.plot(
        [x], [y], marker=SHAPES[verdict], markersize=7.6, color=colour, markerfacecolor="white" if hollow else colour, markeredgewidth=1.0, linestyle="none"
    )  # fmt: skip
    if verdict != "untested":
        ax.text(x, y + 0.003, SYMBOLS[verdict], fontsize=6.4, ha="center", va="center_baseline", color=colour if hollow else "white", weight="bold")


def _legend(ax: Axes, parts: Sequence[Part]) -> None:
    """How many claims have which verdict, over the columns."""
    x = 0.12
    for verdict in SYMBOLS:
        count = sum(line.verdict == verdict for part in parts for line in part.lines)
        if count:
            _mark(ax, x + 0.07, 0.27, verdict)
            ax.text(x + 0.2, 0.27, f"{count} {verdict}", fontsize=8.5, va="center", color=INK)
            x += 1.25
    ax.plot([0.12, WIDTH - 0.12], [0.46, 0.46], color=FAINT, linewidth=0.6)
