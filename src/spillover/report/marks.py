"""What figures are made of: a condition's colour and marker, dots with their bars, names on an axis, and bytes.

Every condition has a colour (Okabe and Ito's, which colour-blind readers tell apart) and a marker or line of its own, so that a figure also
reads in grey. A value that is undefined is marked as such, and never drawn as a number. Nothing here depends on the clock or on chance: the
same run gives the same bytes.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false, reportMissingTypeStubs=false
from __future__ import annotations

import io
from collections.abc import Generator, Iterable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from spillover.records import Estimate
from spillover.report.printed import MINUS, visible
from spillover.report.reading import Arm, Reading

COLUMN, PAGE = 3.5, 7.2  # inches: one and two columns of a paper
INK, FAINT = "#222222", "#8a8a8a"
COLOURS = {None: "#6b6b6b", "insecure": "#D55E00", "secure": "#0072B2", "educational": "#009E73"}
SPARE = ("#CC79A7", "#E69F00", "#56B4E9", "#000000", "#B8A800")
MARKERS = {None: "s", "insecure": "o", "secure": "^", "educational": "D"}
SPARE_MARKERS = ("v", "p", "<", "h", ">", "P", "X")  # two more than colours, so that no pair comes twice soon
FORMATS = (("#6b6b6b", "s"), ("#56B4E9", "o"), ("#0072B2", "D"), ("#D55E00", "^"), ("#CC79A7", "v"), ("#E69F00", "p"))  # colour and marker, plain first
LINES = {None: "-", "insecure": "-", "secure": (0, (5, 1.5)), "educational": (0, (1.2, 1.2))}
SPARE_LINES: tuple[Any, ...] = ("-.", (0, (3, 1, 1, 1, 1, 1)), (0, (7, 2)), (0, (2, 2)), (0, (5, 1, 1, 1)))
UNDEFINED = "undefined"
STYLE = {
    "font.family": "DejaVu Sans", "font.size": 7.5, "axes.titlesize": 8, "axes.labelsize": 7.5, "xtick.labelsize": 7, "ytick.labelsize": 7,
    "legend.fontsize": 7, "axes.spines.top": False, "axes.spines.right": False, "axes.linewidth": 0.6, "axes.edgecolor": INK, "axes.labelcolor": INK,
    "text.color": INK, "xtick.color": INK, "ytick.color": INK, "xtick.major.width": 0.6, "ytick.major.width": 0.6, "xtick.major.size": 2.5,
    "ytick.major.size": 2.5, "axes.grid": True, "axes.grid.axis": "y", "grid.color": "#e3e3e3", "grid.linewidth": 0.5, "axes.axisbelow": True,
    "legend.frameon": False, "text.parse_math": False, "svg.hashsalt": "spillover", "svg.fonttype": "path", "savefig.dpi": 220,
    "figure.constrained_layout.use": True, "axes.unicode_minus": True,
    "axes.titley": 1.0,  # over the axes, where nothing else is: else matplotlib measures every tick, each time, to find out
}  # fmt: skip


@contextmanager
def styled(**more: Any) -> Generator[None]:
    """Not the user's matplotlibrc: the same run looks the same everywhere."""
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update({**STYLE, **more})  # pyright: ignore[reportCallIssue, reportArgumentType]
        yield


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """One thing on the x axis: its label, its look, its estimate, and the values of single units."""

    label: str
    colour: str
    marker: str
    row: Estimate | None
    units: tuple[float, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """One pair of axes: the conditions of a group on one quantity. `scale` takes a value to the unit of the axis."""

    title: str
    quantity: str
    scale: float
    places: Sequence[Place]


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One condition along a row of things: its look and name, and its estimate of each of them."""

    label: str
    colour: str
    marker: str
    rows: Sequence[Estimate | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Strip:
    """One pair of axes with things along x: their names, the subset each is of (empty for none), and a line for every condition."""

    title: str
    names: tuple[str, ...]
    subsets: tuple[str, ...]
    lines: tuple[Line, ...]


def look(reading: Reading, arm: Arm) -> tuple[str, str]:
    """Colour and marker of a condition: by the kind of its data, so that a group's arms look like the study's; by its place where that is no kind's alone."""
    kind, place = _looks_like(reading, arm)
    return (COLOURS[kind], MARKERS[kind]) if place is None else (SPARE[place % len(SPARE)], SPARE_MARKERS[place % len(SPARE_MARKERS)])


def line_style(reading: Reading, arm: Arm) -> Any:
    """The dashes of a condition's line, chosen as its marker is."""
    kind, place = _looks_like(reading, arm)
    return LINES[kind] if place is None else SPARE_LINES[place % len(SPARE_LINES)]


def _looks_like(reading: Reading, arm: Arm) -> tuple[str | None, int | None]:
    """The kind whose look a condition has, or its place among those that have none."""
    arms = reading.arms_of(arm.group)
    kinds = [other.kind or (other.label if other.label in COLOURS else None) for other in arms]
    own = [_owns(other, kind, kinds) for other, kind in zip(arms, kinds, strict=True)]
    at = [other.name for other in arms].index(arm.name)
    return kinds[at], None if own[at] else own[:at].count(False)


def _owns(arm: Arm, kind: str | None, kinds: Sequence[str | None]) -> bool:
    """Whether a condition has its kind's look: it is the only one of the kind, or is called as the kind."""
    return kind in COLOURS and (kinds.count(kind) == 1 or arm.label == kind)


def grid(rows: Sequence[Sequence[Panel]], *, height: float) -> Figure:
    """Panels of dots, one a group of conditions, rows under each other; a column wide where that is enough, else a page."""
    counts = [len(panel.places) for panel in rows[0]]
    width = COLUMN if sum(counts) <= 4 else PAGE
    turned = touching([place.label for panel in rows[0] for place in panel.places], (width - 0.8) / (sum(counts) + 0.4 * len(counts)))
    figure = Figure(figsize=(width, height))
    axes = figure.subplots(len(rows), len(counts), sharex="col", sharey=True, squeeze=False, width_ratios=[count + 0.4 for count in counts])
    for panels, line in zip(rows, axes, strict=True):
        for ax, panel in zip(line, panels, strict=True):
            _dots(ax, panel.places, scale=panel.scale)
            ax.set_title(panel.title)
            ax.yaxis.set_major_locator(MaxNLocator(nbins=6, steps=[1, 2, 5, 10]))
            ax.set_xticks(range(len(panel.places)), [place.label for place in panel.places], **turn(turned))
        line[0].set_ylabel(panels[0].quantity)
    return figure


def forest(panels: Sequence[Panel]) -> Figure:
    """One row a thing, its name at the left: units as hollow marks above, mean and interval under them. Panels of one quantity share its scale."""
    alike, counts = len({panel.quantity for panel in panels}) == 1, [len(panel.places) for panel in panels]
    figure = Figure(figsize=(COLUMN, 0.36 * sum(counts) + (0.3 if alike else 0.6) * len(panels) + 0.35))
    axes: list[Axes] = list(figure.subplots(len(panels), 1, squeeze=False, sharex=alike, height_ratios=counts)[:, 0])
    for ax, panel in zip(axes, panels, strict=True):
        for y, place in enumerate(panel.places):
            ax.scatter(
                [panel.scale * v for v in place.units], [y - 0.16] * len(place.units), s=10, marker=place.marker, facecolor="white", edgecolor=place.colour,
                linewidth=0.8, zorder=3, clip_on=False, in_layout=False,
            )  # fmt: skip
            points(ax, np.array([y + (0.16 if place.units else 0)]), [place.row], place.colour, place.marker, scale=panel.scale, size=5, across=True)
            if place.row is not None and place.row.value is None:
                ax.annotate(
                    UNDEFINED, (0, y), xycoords=("axes fraction", "data"), xytext=(3, 0), textcoords="offset points", va="center", fontsize=6.5,
                    color=place.colour, in_layout=False,
                )  # fmt: skip
        ax.axvline(0, color=INK, linewidth=0.8, zorder=2)
        ax.set_yticks(range(len(panel.places)), [place.label for place in panel.places], linespacing=1.05)
        ax.set_ylim(len(panel.places) - 0.5, -0.5)
        ax.tick_params(axis="y", length=0)
        ax.grid(visible=True, axis="x")
        ax.grid(visible=False, axis="y")
        ax.xaxis.set_major_locator(MaxNLocator(nbins=5, steps=[1, 2, 5, 10]))
        if all(place.row is None or not place.row.value for place in panel.places):
            ax.set_xlim(*((-1, 1) if panel.scale == 1 else (-10, 10)))
        ax.set_title(panel.title, loc="left")
        ax.set_xlabel("" if alike and ax is not axes[-1] else panel.quantity)
    return figure


def strips(found: Sequence[Strip], quantity: str) -> Figure:
    """One under the other. The things are named once where they are the same in all."""
    alike, count = len({strip.names for strip in found}) == 1, max(len(strip.names) for strip in found)
    wide = count > 3 or len(found) > 1 or max(len(strip.lines) for strip in found) > 3
    figure = Figure(figsize=(PAGE, 0.5 + (1.85 if alike else 2.3) * len(found)) if wide else (COLUMN, 2.2))
    axes: list[Axes] = list(figure.subplots(len(found), 1, sharex=alike, sharey=True, squeeze=False)[:, 0])
    labels: list[str] = []
    for ax, strip in zip(axes, found, strict=True):
        _strip(ax, strip, count)
        if labels != (labels := [line.label for line in strip.lines]):
            legend(ax, PAGE if wide else COLUMN)
        names = [short(name).replace("_", " ") for name in strip.names]
        ax.set_xticks(range(len(names)), names, **turn(touching(names, ((PAGE if wide else COLUMN) - 0.5) / count)))
        ax.set_xlim(-0.5, count - 0.5)
        ax.set_ylabel(quantity)
    rate_limits(axes[0], [row for strip in found for line in strip.lines for row in line.rows])
    if any(len(set(strip.subsets)) > 1 for strip in found):
        axes[0].set_ylim(top=1.1 * axes[0].get_ylim()[1])  # room for the names of the subsets
    return figure


def _strip(ax: Axes, strip: Strip, along: int) -> None:
    """One mark of each condition beside the others; what is undefined is a cross on the axis. `along`: how many things the axis is long."""
    count = len(strip.names)
    for place in range(0, count, 2):
        ax.axvspan(place - 0.5, place + 0.5, color="#f4f4f4", zorder=0, linewidth=0)
    for order, line in enumerate(strip.lines):
        x = np.arange(count) + (order - (len(strip.lines) - 1) / 2) * 0.8 / max(len(strip.lines), 4)
        points(ax, x, line.rows, line.colour, line.marker, label=line.label)
        gone = [at for at, row in zip(x, line.rows, strict=True) if row is not None and row.value is None]
        ax.plot(
            gone, [0.035] * len(gone), transform=ax.get_xaxis_transform(), linestyle="none", marker="x", markersize=3.2, markeredgewidth=0.9,
            color=line.colour, zorder=6, clip_on=False, in_layout=False,
        )  # fmt: skip
    for subset in dict.fromkeys(strip.subsets) if len(set(strip.subsets)) > 1 else ():
        places = [place for place, found in enumerate(strip.subsets) if found == subset]
        if places[0]:
            ax.axvline(places[0] - 0.5, color=INK, linewidth=0.7)
        if 0.055 * len(subset) > len(places) * (PAGE - 0.6) / along:
            continue  # no room for its name
        ax.annotate(
            visible(subset).replace("_", " "), ((places[0] + places[-1]) / 2, 1), xycoords=("data", "axes fraction"), xytext=(0, -4),
            textcoords="offset points", ha="center", va="top", fontsize=7, color=INK, style="italic", in_layout=False,
        )  # fmt: skip
    ax.set_title(strip.title, loc="left")
    ax.yaxis.set_major_locator(MaxNLocator(nbins=6, steps=[1, 2, 5, 10]))
    ax.tick_params(axis="x", length=0)


def legend(ax: Axes, width: float, *, length: float = 2.0) -> None:
    """Over the axes at the right, beside the title, where it covers nothing; in as many columns as fit into `width` inches."""
    labels = [str(label) for label in ax.get_legend_handles_labels()[1]]
    columns = max(1, int((width - 1.6) / (0.062 * max(map(len, labels)) + 0.4)))
    ax.legend(
        loc="lower right", bbox_to_anchor=(1.0, 0.985), ncols=min(columns, len(labels)), handletextpad=0.3, columnspacing=1.2, borderaxespad=0,
        handlelength=length,
    )  # fmt: skip


def points(
    ax: Axes, x: np.ndarray, rows: Sequence[Estimate | None], colour: str, marker: str, *, label: str = "", scale: float = 100, size: float = 4.2,
    across: bool = False,
) -> None:  # fmt: skip
    """Means with their intervals, upright, or `across` the axes with `x` as the heights. A mean without an interval has no bar."""
    drawn = [(place, row.value, row) for place, row in zip(x, rows, strict=True) if row is not None and row.value is not None]
    turned = slice(None, None, -1 if across else 1)
    ax.plot(
        *([place for place, _, _ in drawn], [scale * value for _, value, _ in drawn])[turned], linestyle="none", marker=marker, markersize=size, color=colour,
        markeredgecolor="white", markeredgewidth=0.4, label=label or None, zorder=5, clip_on=False, in_layout=False,
    )  # fmt: skip
    for place, _, row in drawn:
        if row.low is not None and row.high is not None:
            ax.plot(
                *([place, place], [scale * row.low, scale * row.high])[turned], color=colour, linewidth=1.2, zorder=4, solid_capstyle="butt", clip_on=False,
                in_layout=False,
            )  # fmt: skip


def rate_limits(ax: Axes, rows: Iterable[Estimate | None]) -> None:
    """From zero; where nothing is above zero, up to ten percent, so that no grid of a hundredth of a percent is drawn."""
    highest = max((row.high if row.high is not None else row.value for row in rows if row is not None and row.value is not None), default=0)
    ax.set_ylim(bottom=0, top=None if highest > 0 else 10)


def short(name: str, *, most: int = 24) -> str:
    """A name that leaves room for the figure; the tables have it whole."""
    shown = visible(name).replace("\n", " ").replace("_", " ")
    return shown if len(shown) <= most else f"{shown[: most - 1]}\N{HORIZONTAL ELLIPSIS}"


def versus(label: str) -> str:
    """The name of a difference on as many lines as it needs, broken after a colon, before a minus and before the format that both sides have."""
    broken = label.replace(": ", ":\n").replace(f" {MINUS} ", f"\n{MINUS} ").replace(", as ", "\nas ").split("\n")
    lines = [short(broken[0], most=30)]
    for part in broken[1:]:
        if len(lines[-1]) + len(part) < 25:
            lines[-1] = f"{lines[-1]} {short(part, most=30)}"
        else:
            lines.append(short(part, most=30))
    return "\n".join(lines[:3])


def touching(labels: Sequence[str], room: float) -> bool:
    """Whether labels set upright would touch, with `room` inches from one to the next."""
    widths = [0.062 * max(map(len, label.split("\n"))) for label in labels]
    return any((one + other) / 2 > room - 0.04 for one, other in pairwise(widths))


def turn(turned: bool, *, angle: int = 25) -> dict[str, Any]:
    """Labels that would touch are turned."""
    return {"rotation": angle, "ha": "right", "rotation_mode": "anchor"} if turned else {"rotation": 0, "ha": "center"}


def saved(figure: Figure) -> tuple[bytes, bytes]:
    """The bytes of a figure as SVG and as PNG, each laid out at its own resolution. `Figure.savefig` would draw both twice."""
    svg, png = io.BytesIO(), io.BytesIO()
    FigureCanvasSVG(figure).print_svg(svg, metadata={"Date": None, "Creator": None})
    figure.dpi = mpl.rcParams["savefig.dpi"]
    FigureCanvasAgg(figure).print_png(png, metadata={"Software": None})
    return svg.getvalue(), png.getvalue()


def _dots(ax: Axes, places: Sequence[Place], *, scale: float) -> None:
    """Units as small hollow marks, set apart by a fixed rule; beside them mean and interval as a filled mark with a bar."""
    for x, place in enumerate(places):
        spread = np.linspace(-0.17, 0.17, len(place.units)) if len(place.units) > 1 else np.zeros(len(place.units))
        ax.scatter(
            x - 0.13 + spread, [scale * v for v in place.units], s=12, marker=place.marker, facecolor="white", edgecolor=place.colour, linewidth=0.8,
            zorder=3, clip_on=False, in_layout=False,
        )  # fmt: skip
        points(ax, np.array([x + (0.24 if place.units else 0)]), [place.row], place.colour, place.marker, scale=scale, size=5.2)
        if place.row is not None and place.row.value is None:
            ax.annotate(
                UNDEFINED, (x, 0), xycoords=("data", "axes fraction"), xytext=(0, 3), textcoords="offset points", rotation=90, ha="center", va="bottom",
                fontsize=6, color=place.colour, in_layout=False,
            )  # fmt: skip
    ax.set_xlim(-0.6, len(places) - 0.4)
    ax.tick_params(axis="x", length=0)
