"""The figures: misaligned rate by condition and by question, paired differences, training curves, coherence and task.

Every condition has a colour (Okabe and Ito's, which colour-blind readers tell apart) and a marker or line of its own, so that a figure also
reads in grey. A value that is undefined is written so, and never drawn. Nothing here depends on the clock or on chance: the same run gives
the same bytes.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false, reportMissingTypeStubs=false
from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter

from spillover.records import Estimate
from spillover.report.printed import value, visible
from spillover.report.reading import Arm, Compared, Reading
from spillover.report.tables import MEASURE_NAMES, question_label

COLUMN, PAGE = 3.5, 7.2  # inches: one and two columns of a paper
INK, FAINT = "#222222", "#8a8a8a"
COLOURS = {None: "#6b6b6b", "insecure": "#D55E00", "secure": "#0072B2", "educational": "#009E73"}
SPARE = ("#CC79A7", "#E69F00", "#56B4E9", "#000000", "#B8A800")
MARKERS = {None: "s", "insecure": "o", "secure": "^", "educational": "D"}
SPARE_MARKERS = ("v", "P", "X", "<", ">")
LINES = {None: "-", "insecure": "-", "secure": (0, (5, 1.5)), "educational": (0, (1.2, 1.2))}
STYLE = {
    "font.family": "DejaVu Sans", "font.size": 7.5, "axes.titlesize": 8, "axes.labelsize": 7.5, "xtick.labelsize": 7, "ytick.labelsize": 7,
    "legend.fontsize": 7, "axes.spines.top": False, "axes.spines.right": False, "axes.linewidth": 0.6, "axes.edgecolor": INK, "axes.labelcolor": INK,
    "text.color": INK, "xtick.color": INK, "ytick.color": INK, "xtick.major.width": 0.6, "ytick.major.width": 0.6, "xtick.major.size": 2.5,
    "ytick.major.size": 2.5, "axes.grid": True, "axes.grid.axis": "y", "grid.color": "#e3e3e3", "grid.linewidth": 0.5, "axes.axisbelow": True,
    "legend.frameon": False, "text.parse_math": False, "svg.hashsalt": "spillover", "svg.fonttype": "path", "savefig.dpi": 220,
    "figure.constrained_layout.use": True, "axes.unicode_minus": True,
}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawing:
    """A finished figure. `told` says in words what it shows, for those who do not see it."""

    name: str
    caption: str
    told: str
    svg: bytes
    png: bytes
    wide: bool


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


def draw(reading: Reading) -> list[Drawing]:
    """Every figure that this run has the numbers for, in the order of the report."""
    with mpl.rc_context():
        mpl.rcdefaults()  # not the user's matplotlibrc: the same run looks the same everywhere
        mpl.rcParams.update(STYLE)  # pyright: ignore[reportCallIssue, reportArgumentType]
        makers = (_by_condition, _differences, _by_question, _training, _coherent_and_task)
        return [drawing for make in makers if (drawing := make(reading)) is not None]


# --- the figures ----------------------------------------------------------------------------------------------------------


def _by_condition(reading: Reading) -> Drawing | None:
    panels = _panels(reading, "misaligned_rate")
    if not panels:
        return None
    figure = _grid([panels], height=2.5)
    figure.axes[0].set_ylim(bottom=0)
    return _drawing(figure, "misaligned_rate", panels, f"Misaligned rate by condition. Hollow marks are single {reading.unit}s; {_bars(reading)}")


def _differences(reading: Reading) -> Drawing | None:
    compared = [(measure, c) for measure in ("log_odds", "misaligned_rate") for c in reading.contrasts]
    measure = next((measure for measure, c in compared if reading.rows(measure, condition=c.first.name, contrast=c.name)), None)
    if measure is None:
        return None
    nats = measure == "log_odds"
    quantity = "difference in log-odds (nats)" if nats else "difference in rate (points)"
    panels = [
        Panel(title=_title(reading, group), quantity=quantity, scale=1 if nats else 100, places=[_difference(reading, c, measure) for c in found])
        for group in reading.groups
        if (found := reading.contrasts_of(group))
    ]
    figure = _grid([panels], height=2.5)
    for ax in figure.axes:
        ax.axhline(0, color=INK, linewidth=0.8)
    kind = "log-odds of misaligned text" if nats else "misaligned rate"
    caption = (
        f"Paired differences in the {kind} within each {reading.unit}; zero is no difference. Hollow marks are single {reading.unit}s; "
        f"{_bars(reading)} Colour and marker are those of the condition compared with."
    )
    return _drawing(figure, "differences", panels, caption)


def _by_question(reading: Reading) -> Drawing | None:
    """As in the paper's Figure 4: questions along x, one colour a condition. Each group has a panel of its own."""
    asked = [q for q in reading.identity["questions"] if any(_asked(reading, arm, q) for arm in reading.arms)]
    groups = [group for group in reading.groups if any(reading.rows("misaligned_rate", condition=arm.name) for arm in reading.arms_of(group))]
    if not asked or not groups:
        return None
    asked = [q for subset in dict.fromkeys(q["subset"] for q in asked) for q in asked if q["subset"] == subset]
    figure = Figure(figsize=(PAGE, 0.5 + 1.85 * len(groups)))
    axes: list[Axes] = list(figure.subplots(len(groups), 1, sharex=True, sharey=True, squeeze=False)[:, 0])
    for ax, group in zip(axes, groups, strict=True):
        arms = reading.arms_of(group)
        for place in range(len(asked)):
            if place % 2 == 0:
                ax.axvspan(place - 0.5, place + 0.5, color="#f4f4f4", zorder=0, linewidth=0)
        for order, arm in enumerate(arms):
            x = np.arange(len(asked)) + (order - (len(arms) - 1) / 2) * 0.8 / max(len(arms), 4)
            rows = [_asked(reading, arm, question) for question in asked]
            _points(ax, x, rows, *_look(reading, arm), label=_short(arm.label))
        ax.set_title(_title(reading, group), loc="left")
        ax.legend(loc="lower right", bbox_to_anchor=(1.0, 0.985), ncols=len(arms), handletextpad=0.2, columnspacing=1.2, borderaxespad=0)
        ax.set_ylabel("misaligned rate (%)")
        ax.set_xlim(-0.5, len(asked) - 0.5)
        ax.yaxis.set_major_locator(MaxNLocator(nbins=6, steps=[1, 2, 5, 10]))
    axes[0].set_ylim(bottom=0, top=1.1 * axes[0].get_ylim()[1])  # room for the names of the subsets
    _name_questions(axes, asked)
    caption = f"Misaligned rate by question, laid out as in Figure 4 of the paper: mean over {reading.unit}s; {_bars(reading)}"
    return _drawing(figure, "misaligned_rate_by_question", [], caption)


def _training(reading: Reading) -> Drawing | None:
    trained = {group: [arm for arm in reading.arms_of(group) if any(c.condition == arm.name for c in reading.curves)] for group in reading.groups}
    trained = {group: arms for group, arms in trained.items() if arms}
    if not trained:
        return None
    figure = Figure(figsize=(PAGE, 2.3))
    axes: Sequence[Axes] = figure.subplots(1, len(trained), sharey=True, squeeze=False)[0]
    lowest = min(loss for curve in reading.curves for loss in curve.losses)
    highest = max(loss for curve in reading.curves for loss in curve.losses)
    for ax, (group, arms) in zip(axes, trained.items(), strict=True):
        for arm in arms:
            curves = [curve for curve in reading.curves if curve.condition == arm.name]
            length = min(len(curve.losses) for curve in curves)
            losses = np.array([curve.losses[:length] for curve in curves])  # organism, step
            colour, _ = _look(reading, arm)
            steps = curves[0].steps[:length]
            if len(curves) > 1:
                ax.fill_between(steps, losses.min(0), losses.max(0), color=colour, alpha=0.16, linewidth=0)
            ax.plot(steps, losses.mean(0), color=colour, linestyle=LINES.get(arm.kind, "-."), linewidth=1.2, label=_short(arm.label))
        if 0 < lowest < highest / 20:
            ax.set_yscale("log")
            ax.yaxis.set_major_formatter(FuncFormatter(_plain))
            ax.yaxis.set_minor_formatter(NullFormatter())
        ax.set_title(_title(reading, group))
        ax.set_xlabel("optimiser step")
        ax.legend(loc="upper right", handlelength=2.6)
    axes[0].set_ylabel("training loss (nats per token)")
    caption = "Training loss by step: mean over the organisms of a condition; the band reaches from the lowest to the highest of them."
    return _drawing(figure, "training", [], caption)


def _plain(loss: float, _: object) -> str:
    return f"{loss:g}"


def _coherent_and_task(reading: Reading) -> Drawing | None:
    """A row a rate where there are several groups, one row of both where there is one."""
    rows = [found for measure in ("coherent_rate", "task_rate") if (found := _panels(reading, measure))]
    if not rows:
        return None
    panels = [panel for row in rows for panel in row]
    several = len({len(row) for row in rows}) == 1 and len(rows[0]) > 1
    if not several:
        panels = [replace(panel, title=panel.quantity.removesuffix(" (%)"), quantity="answers (%)") for panel in panels]
    figure = _grid(rows if several else [panels], height=3.4 if several else 2.2)
    for ax in figure.axes:
        ax.set_ylim(-4, 104)
    caption = f"Does the model still talk, and does it do the narrow task? Coherent rate and task rate by condition; {_bars(reading)}"
    return _drawing(figure, "coherent_and_task_rate", panels, caption)


# --- parts of figures -----------------------------------------------------------------------------------------------------


def _panels(reading: Reading, measure: str) -> list[Panel]:
    """One panel a group: every condition that has this measure."""
    panels: list[Panel] = []
    for group in reading.groups:
        arms = [arm for arm in reading.arms_of(group) if reading.rows(measure, condition=arm.name)]
        if arms:
            places = [replace(_place(reading, arm, reading.headline(measure, condition=arm.name)), units=_values(reading.worlds(measure, arm))) for arm in arms]
            panels.append(Panel(title=_title(reading, group), quantity=f"{MEASURE_NAMES[measure]} (%)", scale=100, places=places))
    return panels


def _difference(reading: Reading, contrast: Compared, measure: str) -> Place:
    colour, marker = _look(reading, contrast.second)
    return Place(
        label=f"{_short(contrast.first.label)}\n\N{MINUS SIGN} {_short(contrast.second.label)}",
        colour=colour,
        marker=marker,
        row=reading.headline(measure, condition=contrast.first.name, contrast=contrast.name),
        units=_values(reading.worlds(measure, contrast.first, contrast.name)),
    )


def _place(reading: Reading, arm: Arm, row: Estimate | None) -> Place:
    colour, marker = _look(reading, arm)
    return Place(label=_short(arm.label), colour=colour, marker=marker, row=row, units=())


def _look(reading: Reading, arm: Arm) -> tuple[str, str]:
    """Colour and marker of a condition: by the kind of its data, so that a group's arms look like the study's."""
    if arm.kind in COLOURS:
        return COLOURS[arm.kind], MARKERS[arm.kind]
    others = [kind for kind in dict.fromkeys(a.kind for a in reading.arms) if kind not in COLOURS]
    place = others.index(arm.kind)
    return SPARE[place % len(SPARE)], SPARE_MARKERS[place % len(SPARE_MARKERS)]


def _grid(rows: Sequence[Sequence[Panel]], *, height: float) -> Figure:
    """Panels of dots, one a group of conditions, rows under each other; a column wide where that is enough, else a page."""
    counts = [len(panel.places) for panel in rows[0]]
    width = COLUMN if sum(counts) <= 4 else PAGE
    turned = _touching([place.label for panel in rows[0] for place in panel.places], (width - 0.8) / (sum(counts) + 0.4 * len(counts)))
    figure = Figure(figsize=(width, height))
    axes = figure.subplots(len(rows), len(counts), sharex="col", sharey=True, squeeze=False, width_ratios=[count + 0.4 for count in counts])
    for panels, line in zip(rows, axes, strict=True):
        for ax, panel in zip(line, panels, strict=True):
            _dots(ax, panel.places, scale=panel.scale)
            ax.set_title(panel.title)
            ax.yaxis.set_major_locator(MaxNLocator(nbins=6, steps=[1, 2, 5, 10]))
            ax.set_xticks(range(len(panel.places)), [place.label for place in panel.places], **_turned(turned))
        line[0].set_ylabel(panels[0].quantity)
    return figure


def _short(name: str) -> str:
    """A name that leaves room for the figure; the tables have it whole."""
    shown = visible(name).replace("\n", " ")
    return shown if len(shown) <= 24 else f"{shown[:23]}\N{HORIZONTAL ELLIPSIS}"


def _touching(labels: Sequence[str], room: float) -> bool:
    """Whether labels set upright would touch, with `room` inches from one to the next."""
    widths = [0.062 * max(map(len, label.split("\n"))) for label in labels]
    return any((one + other) / 2 > room - 0.04 for one, other in pairwise(widths))


def _turned(turned: bool, *, angle: int = 25) -> dict[str, Any]:
    """Labels that would touch are turned."""
    return {"rotation": angle, "ha": "right", "rotation_mode": "anchor"} if turned else {"rotation": 0, "ha": "center"}


def _dots(ax: Axes, places: Sequence[Place], *, scale: float) -> None:
    """Units as small hollow marks, set apart by a fixed rule; beside them mean and interval as a filled mark with a bar."""
    for x, place in enumerate(places):
        spread = np.linspace(-0.17, 0.17, len(place.units)) if len(place.units) > 1 else np.zeros(len(place.units))
        ax.scatter(
            x - 0.13 + spread, [scale * v for v in place.units], s=12, marker=place.marker, facecolor="white", edgecolor=place.colour, linewidth=0.8,
            zorder=3, clip_on=False, in_layout=False,
        )  # fmt: skip
        _points(ax, np.array([x + 0.24]), [place.row], place.colour, place.marker, scale=scale, size=5.2)
    ax.set_xlim(-0.6, len(places) - 0.4)
    ax.tick_params(axis="x", length=0)


def _points(
    ax: Axes, x: np.ndarray, rows: Sequence[Estimate | None], colour: str, marker: str, *, label: str = "", scale: float = 100, size: float = 4.2
) -> None:
    """Means with their intervals. A mean without an interval has no bar; an undefined one is a word."""
    drawn = [(place, row.value, row) for place, row in zip(x, rows, strict=True) if row is not None and row.value is not None]
    ax.plot(
        [place for place, _, _ in drawn], [scale * value for _, value, _ in drawn], linestyle="none", marker=marker, markersize=size, color=colour,
        markeredgecolor="white", markeredgewidth=0.4, label=label or None, zorder=5, clip_on=False, in_layout=False,
    )  # fmt: skip
    for place, _, row in drawn:
        if row.low is not None and row.high is not None:
            ax.plot(
                [place, place],
                [scale * row.low, scale * row.high],
                color=colour,
                linewidth=1.2,
                zorder=4,
                solid_capstyle="butt",
                clip_on=False,
                in_layout=False,
            )
    for place, row in zip(x, rows, strict=True):
        if row is not None and row.value is None:
            ax.annotate(
                "undefined", (place, 0), xycoords=("data", "axes fraction"), xytext=(0, 3), textcoords="offset points", rotation=90, ha="center", va="bottom",
                fontsize=6, color=colour, in_layout=False,
            )  # fmt: skip


def _name_questions(axes: Sequence[Axes], asked: Sequence[dict[str, str]]) -> None:
    names = [_short(question_label(question)).replace("_", " ") for question in asked]
    turned = _touching(names, (PAGE - 0.5) / len(names))
    axes[-1].set_xticks(range(len(asked)), names, **_turned(turned, angle=25 if len(names) <= 16 else 70))
    subsets = [question["subset"] for question in asked]
    for ax in axes:
        ax.tick_params(axis="x", length=0)
        for place in range(1, len(asked)):
            if subsets[place] != subsets[place - 1]:
                ax.axvline(place - 0.5, color=INK, linewidth=0.7)
    if len(set(subsets)) > 1:
        named = {"seen": "seen in post-training", "held_out": "held out of post-training"}
        for subset in dict.fromkeys(subsets):
            places = [place for place, found in enumerate(subsets) if found == subset]
            axes[0].annotate(
                named.get(subset, subset), ((places[0] + places[-1]) / 2, 1), xycoords=("data", "axes fraction"), xytext=(0, -4),
                textcoords="offset points", ha="center", va="top", fontsize=7, color=INK, style="italic", in_layout=False,
            )  # fmt: skip


def _asked(reading: Reading, arm: Arm, question: dict[str, str]) -> Estimate | None:
    return reading.headline("misaligned_rate", condition=arm.name, question=question["id"], format=question["format"], subset=question["subset"])


def _values(rows: Sequence[Estimate]) -> tuple[float, ...]:
    return tuple(row.value for row in rows if row.value is not None)


def _title(reading: Reading, group: str) -> str:
    count = len(reading.parents_of(group))
    units = f"{count} {reading.unit}{'' if count == 1 else 's'}"
    return units if len(reading.groups) == 1 else f"{visible(reading.group_label(group))}{' (control)' if group else ''}: {units}"


def _bars(reading: Reading) -> str:
    methods = {row.method.split(",")[0] for rows in reading.estimates.values() for row in rows if row.headline and row.low is not None}
    levels = {f"{100 * row.level:g} %" for rows in reading.estimates.values() for row in rows if row.headline and row.level is not None}
    if len(methods) != 1 or len(levels) != 1:
        return "bars, where there are any, are intervals; the tables name the method of each."
    return f"the filled mark is their mean, its bar the {levels.pop()} interval ({methods.pop()}); no bar where there is no interval."


# --- to bytes -------------------------------------------------------------------------------------------------------------


def _drawing(figure: Figure, name: str, panels: Sequence[Panel], caption: str) -> Drawing:
    told = " ".join([caption, *_told(panels)])
    svg, png = _saved(figure, "svg", {"Date": None, "Creator": None}), _saved(figure, "png", {"Software": None})
    return Drawing(name=name, caption=caption, told=told, svg=svg, png=png, wide=figure.get_figwidth() > COLUMN)


def _saved(figure: Figure, kind: str, metadata: dict[str, str | None]) -> bytes:
    sink = io.BytesIO()
    figure.savefig(sink, format=kind, metadata=metadata, facecolor="white")
    return sink.getvalue()


def _told(panels: Sequence[Panel]) -> Iterator[str]:
    for panel in panels:
        values = [f"{place.label.replace(chr(10), ' ')} {value(place.row)}" for place in panel.places if place.row is not None]
        yield f"{panel.title}, {panel.quantity}: {', '.join(values)}."
