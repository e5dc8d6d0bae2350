"""The figures: misaligned rate by condition, format and question, paired differences, labels, training, coherence and task.

A figure is drawn where it has a value to show; where all it could show is undefined, `undrawn` says so.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false, reportMissingTypeStubs=false
from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter

from spillover.records import Estimate
from spillover.report import marks
from spillover.report.asked import formats, of_question, pooled, question_label, share_measures, subset_name
from spillover.report.marks import COLUMN, INK, PAGE, Line, Panel, Place, Strip
from spillover.report.printed import is_general, is_single, value, visible
from spillover.report.reading import Arm, Compared, Reading, is_pooled
from spillover.report.tables import MEASURE_NAMES

MOST_ASKED = 18  # questions along one axis


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawing:
    """A finished figure. `told` says in words what it shows, for those who do not see it."""

    name: str
    caption: str
    told: str
    svg: bytes
    png: bytes
    wide: bool


def draw(reading: Reading) -> list[Drawing]:
    """Every figure that this run has the numbers for, in the order of the report."""
    with mpl.rc_context():
        mpl.rcdefaults()  # not the user's matplotlibrc: the same run looks the same everywhere
        mpl.rcParams.update(marks.STYLE)  # pyright: ignore[reportCallIssue, reportArgumentType]
        makers = (_by_condition, _differences, _by_question, _by_format, _labels, _training, _coherent_and_task)
        return [drawing for make in makers if (drawing := make(reading)) is not None]


def undrawn(reading: Reading) -> list[str]:
    """The quantities of figures that are not there because every value of theirs is undefined."""
    rows = [row for found in reading.estimates.values() for row in found if not row.question]
    names = {("misaligned_rate", False): "misaligned rate", ("misaligned_rate", True): "differences in it", ("coherent_rate", False): "coherent rate"}
    there = {name: [row for row in rows if (row.measure, bool(row.contrast)) == which] for which, name in names.items()}
    return [name for name, found in there.items() if found and not _defined(found)]


# --- the figures ----------------------------------------------------------------------------------------------------------


def _by_condition(reading: Reading) -> Drawing | None:
    panels = _panels(reading, "misaligned_rate")
    if not panels:
        return None
    figure = marks.grid([panels], height=2.5)
    marks.rate_limits(figure.axes[0], [row for panel in panels for row in _rows(panel)])
    return _drawing(figure, "misaligned_rate", panels, f"Misaligned rate by condition. {_bars(reading)}")


def _differences(reading: Reading) -> Drawing | None:
    panels = next((panels for measure in ("log_odds", "misaligned_rate") if (panels := _difference_panels(reading, measure))), None)
    if not panels:
        return None
    nats = panels[0].scale == 1
    figure = marks.grid([panels], height=2.5)
    flat = all(row.value == 0 and row.low is None for panel in panels for row in _rows(panel) if row.value is not None)
    for ax in figure.axes:
        ax.axhline(0, color=INK, linewidth=0.8)
        if flat:
            ax.set_ylim(*((-1, 1) if nats else (-10, 10)))
    kind = "log-odds of misaligned text" if nats else "misaligned rate"
    caption = (
        f"Paired differences in the {kind} within each {reading.unit}; zero is no difference. {_bars(reading)} "
        "Colour and marker are those of the condition compared with."
    )
    return _drawing(figure, "differences", panels, caption)


def _by_question(reading: Reading) -> Drawing | None:
    """As in the paper's Figure 4: questions along x, one colour a condition. Each group has axes of its own, and so has each part of many questions."""
    asked = [q for q in reading.questions if is_pooled(q) and any(of_question(reading, "misaligned_rate", arm, q) for arm in reading.arms)]
    which = "" if all(map(is_pooled, reading.questions)) else " of the pooled rate"
    caption = f"Misaligned rate by question{which}, laid out as in Figure 4 of the paper."
    return _stripped(reading, "misaligned_rate_by_question", "misaligned rate (%)", _asked_strips(reading, "misaligned_rate", asked), caption)


def _by_format(reading: Reading) -> Drawing | None:
    """The pooled rate of each format a question was dressed in."""
    found = tuple(formats(reading, "misaligned_rate"))
    strips = [
        Strip(
            title=title, names=found, subsets=("",) * len(found),
            lines=tuple(_line(reading, arm, [pooled(reading, "misaligned_rate", arm, form) for form in found]) for arm in arms),
        )
        for title, arms in _arms(reading, "misaligned_rate")
    ]  # fmt: skip
    caption = "Misaligned rate by format, each the mean over its questions, the plain ones being those of the pooled rate."
    return _stripped(reading, "misaligned_rate_by_format", "misaligned rate (%)", strips, caption) if len(found) > 1 else None


def _labels(reading: Reading) -> Drawing | None:
    """Shares of labels: axes for each label, questions along x. One rubric; of several the first."""
    rubric = next((rubric for question in reading.questions for rubric in question.get("labels", {})), None)
    asked = [question for question in reading.questions if rubric in question.get("labels", {})]
    measures = dict.fromkeys(measure for question in asked for measure in share_measures(question, rubric or ""))
    strips = [replace(strip, title=visible(m.partition("=")[2])) for m in measures for strip in _asked_strips(reading, m, asked)]
    return _stripped(reading, "labels", "answers (%)", strips, f"What the judge said of {visible(rubric or '')}: the share of each label by question.")


def _stripped(reading: Reading, name: str, quantity: str, strips: Sequence[Strip], caption: str) -> Drawing | None:
    rows = [row for strip in strips for line in strip.lines for row in line.rows if row is not None]
    if not _defined(rows):
        return None
    crossed = " A cross on the axis is an undefined value." if any(row.value is None for row in rows) else ""
    return _drawing(marks.strips(strips, quantity), name, [], f"{caption} {_bars(reading, hollow=False)}{crossed}")


def _training(reading: Reading) -> Drawing | None:
    curves = [curve for curve in reading.trained if curve.steps]
    trained = {group: [arm for arm in reading.arms_of(group) if any(c.condition == arm.name for c in curves)] for group in reading.groups}
    trained = {group: arms for group, arms in trained.items() if arms}
    if not trained:
        return None
    figure = Figure(figsize=(PAGE, 2.3))
    axes: Sequence[Axes] = figure.subplots(1, len(trained), sharey=True, squeeze=False)[0]
    lowest = min(loss for curve in curves for loss in curve.losses)
    highest = max(loss for curve in curves for loss in curve.losses)
    for ax, (group, arms) in zip(axes, trained.items(), strict=True):
        for arm in arms:
            own = [curve for curve in curves if curve.condition == arm.name]
            length = min(len(curve.losses) for curve in own)
            losses = np.array([curve.losses[:length] for curve in own])  # organism, step
            colour, _ = marks.look(reading, arm)
            steps = own[0].steps[:length]
            if len(own) > 1:
                ax.fill_between(steps, losses.min(0), losses.max(0), color=colour, alpha=0.16, linewidth=0)
            ax.plot(steps, losses.mean(0), color=colour, linestyle=marks.LINES.get(arm.kind, "-."), linewidth=1.2, label=marks.short(arm.label))
        if 0 < lowest < highest / 20:
            ax.set_yscale("log")
            ax.yaxis.set_major_formatter(FuncFormatter(_plain))
            ax.yaxis.set_minor_formatter(NullFormatter())
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        ax.set_title(_title(reading, group))
        ax.set_xlabel("optimiser step")
        ax.legend(loc="best", handlelength=2.6)
    axes[0].set_ylabel("training loss (nats per token)")
    several = any(sum(curve.condition == arm.name for curve in curves) > 1 for arms in trained.values() for arm in arms)
    band = ": mean over the organisms of a condition; the band reaches from the lowest to the highest of them"
    return _drawing(figure, "training", [], f"Training loss by step{band if several else ''}.")


def _plain(loss: float, _: object) -> str:
    return f"{loss:g}"


def _coherent_and_task(reading: Reading) -> Drawing | None:
    """A row a rate where there are several groups, one row of both where there is one."""
    rows = {measure: found for measure in ("coherent_rate", "task_rate") if (found := _panels(reading, measure))}
    if not rows:
        return None
    panels = [panel for row in rows.values() for panel in row]
    several = len({len(row) for row in rows.values()}) == 1 and len(next(iter(rows.values()))) > 1
    if not several:
        panels = [replace(panel, title=panel.quantity.removesuffix(" (%)"), quantity="answers (%)") for panel in panels]
    figure = marks.grid(list(rows.values()) if several else [panels], height=3.4 if several else 2.2)
    for ax in figure.axes:
        ax.set_ylim(-4, 104)
    asks = {"coherent_rate": "Does the model still talk?", "task_rate": "Does it do the narrow task?"}
    named = " and ".join(MEASURE_NAMES[measure] for measure in rows)
    caption = f"{' '.join(asks[measure] for measure in rows)} {named.capitalize()} by condition. {_bars(reading)}"
    return _drawing(figure, "coherent_and_task_rate", panels, caption)


# --- what stands in them --------------------------------------------------------------------------------------------------


def _panels(reading: Reading, measure: str) -> list[Panel]:
    """One panel a group: every condition that has this measure. None where every value is undefined."""
    panels: list[Panel] = []
    for group in reading.groups:
        arms = [arm for arm in reading.arms_of(group) if reading.rows(measure, condition=arm.name)]
        if arms:
            places = [_place(marks.short(arm.label), marks.look(reading, arm), *_values(reading, measure, arm)) for arm in arms]
            panels.append(Panel(title=_title(reading, group), quantity=f"{MEASURE_NAMES[measure]} (%)", scale=100, places=places))
    return panels if _defined(row for panel in panels for row in _rows(panel)) else []


def _difference_panels(reading: Reading, measure: str) -> list[Panel]:
    def place(contrast: Compared) -> Place:
        label = f"{marks.short(contrast.first.label)}\n\N{MINUS SIGN} {marks.short(contrast.second.label)}"
        return _place(label, marks.look(reading, contrast.second), *_values(reading, measure, contrast.first, contrast.name))

    nats = measure == "log_odds"
    quantity = "difference in log-odds (nats)" if nats else "difference in rate (points)"
    panels = [
        Panel(title=_title(reading, group), quantity=quantity, scale=1 if nats else 100, places=[place(contrast) for contrast in found])
        for group in reading.groups
        if (found := reading.contrasts_of(group))
    ]
    return panels if _defined(row for panel in panels for row in _rows(panel)) else []


def _place(label: str, look: tuple[str, str], row: Estimate | None, units: tuple[float, ...]) -> Place:
    return Place(label=label, colour=look[0], marker=look[1], row=row, units=units)


def _values(reading: Reading, measure: str, arm: Arm, contrast: str = "") -> tuple[Estimate | None, tuple[float, ...]]:
    """The pooled row, and the values of single units."""
    units = tuple(row.value for row in reading.singles(measure, arm, contrast) if row.value is not None)
    return reading.headline(measure, condition=arm.name, contrast=contrast), units


def _rows(panel: Panel) -> list[Estimate]:
    return [place.row for place in panel.places if place.row is not None]


def _defined(rows: Iterator[Estimate | None] | Sequence[Estimate | None]) -> bool:
    return any(row is not None and row.value is not None for row in rows)


def _arms(reading: Reading, measure: str) -> Iterator[tuple[str, list[Arm]]]:
    """The conditions of each group that have a measure, under the group's title."""
    for group in reading.groups:
        arms = [arm for arm in reading.arms_of(group) if reading.rows(measure, condition=arm.name)]
        if arms:
            yield _title(reading, group), arms


def _line(reading: Reading, arm: Arm, rows: Sequence[Estimate | None]) -> Line:
    colour, marker = marks.look(reading, arm)
    return Line(label=marks.short(arm.label), colour=colour, marker=marker, rows=rows)


def _asked_strips(reading: Reading, measure: str, asked: Sequence[Mapping[str, Any]]) -> list[Strip]:
    """Questions along x, for each group; many in parts under each other."""
    return [
        Strip(
            title="" if place else title, names=tuple(map(question_label, part)), subsets=tuple(subset_name(q["subset"]).removeprefix("themes ") for q in part),
            lines=tuple(_line(reading, arm, [of_question(reading, measure, arm, question) for question in part]) for arm in arms),
        )
        for title, arms in _arms(reading, measure)
        for place, part in enumerate(_parts(asked))
    ]  # fmt: skip


def _parts(asked: Sequence[Mapping[str, Any]]) -> list[list[Mapping[str, Any]]]:
    """Questions in parts that fit on an axis, a subset kept together where it fits."""
    parts: list[list[Mapping[str, Any]]] = [[]]
    for subset in dict.fromkeys(question["subset"] for question in asked):
        own = [question for question in asked if question["subset"] == subset]
        pieces = -(-len(own) // MOST_ASKED)
        cuts = [round(piece * len(own) / pieces) for piece in range(pieces + 1)]
        for first, end in pairwise(cuts):
            if len(parts[-1]) + end - first > MOST_ASKED:
                parts.append([])
            parts[-1] += own[first:end]
    return [part for part in parts if part]


def _title(reading: Reading, group: str) -> str:
    count = reading.count(group)
    units = f"{count} {reading.unit}{'' if count == 1 else 's'}"
    return units if len(reading.groups) == 1 else f"{visible(reading.group_label(group))}{' (control)' if group else ''}: {units}"


def _bars(reading: Reading, *, hollow: bool = True) -> str:
    """What a mark and its bar are."""
    rows = [row for found in reading.estimates.values() for row in found if row.headline]
    levels = {f"{100 * row.level:g} %" for row in rows if row.level is not None}
    singles = hollow and any(reading.units_of(group) for group in reading.groups)
    mark = f"Hollow marks are single {reading.unit}s; the filled mark is their mean" if singles else f"A mark is the mean over {reading.unit}s"
    if not levels:
        return f"{mark}, without an interval."
    bar = f"its bar the {f'{levels.pop()} ' if len(levels) == 1 else ''}interval for {reading.unit}s like these"
    alone = any(row.low is not None and not is_general(row) and not is_single(row) for row in rows)
    return f"{mark}, {bar}{f'; of its answers alone for one {reading.unit}, or where none was counted' if alone else ''}; no bar where there is no interval."


# --- to bytes -------------------------------------------------------------------------------------------------------------


def _drawing(figure: Figure, name: str, panels: Sequence[Panel], caption: str) -> Drawing:
    told = " ".join([caption, *_told(panels)])
    svg, png = marks.saved(figure, "svg", {"Date": None, "Creator": None}), marks.saved(figure, "png", {"Software": None})
    return Drawing(name=name, caption=caption, told=told, svg=svg, png=png, wide=figure.get_figwidth() > COLUMN)


def _told(panels: Sequence[Panel]) -> Iterator[str]:
    for panel in panels:
        values = [f"{place.label.replace(chr(10), ' ')} {value(place.row)}" for place in panel.places if place.row is not None]
        yield f"{panel.title}, {panel.quantity}: {', '.join(values)}."
