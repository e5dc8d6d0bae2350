"""Along the steps of training: the figure of what happens when, the training loss, and the table of divergence steps.

A divergence step is estimated, not seen: the first step from which two conditions stay apart by more than a margin (`docs/statistics.md`).
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false, reportMissingTypeStubs=false
from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import isnan, nan

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter

from spillover.records import DIVERGENCE, Estimate
from spillover.report import marks
from spillover.report.drawing import Drawing, drawing, title
from spillover.report.marks import COLUMN, FAINT, INK, PAGE
from spillover.report.measures import axis_of, in_brackets, measure_name, short_name
from spillover.report.printed import Cell, cell, visible
from spillover.report.reading import Arm, Compared, Reading
from spillover.report.tables import Row, Table

MEASURES = ("misaligned_rate", "task_rate", "choice_nats", "pivotal_nats", "log_odds")  # in the order of Nature 649 Figures 3 and 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Course:
    """A condition along its steps, the parent's numbers first where there are any: means over units, and the lowest and highest unit."""

    arm: Arm
    steps: tuple[int, ...]
    means: tuple[float, ...]
    lows: tuple[float, ...]
    highs: tuple[float, ...]


def by_step(reading: Reading) -> Drawing | None:
    """A panel a measure, under each other with the steps in line: do the narrow task and what spreads from it come at the same step?"""
    found = {(group, measure): _courses(reading, group, measure) for group in reading.groups for measure in MEASURES}
    groups = [group for group in reading.groups if any(found[group, measure] for measure in MEASURES)]
    there = [measure for measure in MEASURES if any(found[group, measure] for group in groups)]
    if not there:
        return None
    figure = Figure(figsize=(COLUMN if len(groups) == 1 else PAGE, 1))
    axes = figure.subplots(len(there), len(groups), sharex="col", sharey="row", squeeze=False)
    lines = 0
    for column, group in enumerate(groups):
        for ax, measure in zip(axes[:, column], there, strict=True):
            _course_panel(ax, reading, measure, found[group, measure])
            _divergence_marks(ax, reading, group, measure)
        arms = [course.arm for course in max((found[group, measure] for measure in there), key=len)]
        lines = max(lines, _legend(axes[0][column], reading, arms, title(reading, group)))
        axes[-1][column].set_xlabel("optimiser step")
    for line, measure in zip(axes, there, strict=True):
        line[0].set_ylabel(axis_of(measure)[0])
    figure.align_ylabels()
    figure.set_figheight(0.6 + 0.16 * lines + 1.12 * len(there))
    gaps = " A line has a gap where its value is undefined." if any(isnan(mean) for courses in found.values() for c in courses for mean in c.means) else ""
    caption = (
        f"By optimiser step, laid out as in Nature 649 Figures 3 and 4: {', '.join(map(measure_name, there))}. A line is the mean over {reading.unit}s, its "
        f"band reaches from the lowest {reading.unit} to the highest; step 0 is the parent.{gaps} {_lines_told(reading, there)}"
    )
    return drawing(figure, "by_step", caption, _ends_told(found, there))


def divergence(reading: Reading) -> Table | None:
    """Where each measure of each contrast leaves zero for good."""
    rows: list[Row] = []
    for contrast in reading.contrasts:
        for row in _divergences(reading, contrast):
            _, _, margin = row.method.partition("; ")
            rows.append(Row(label=measure_name(row.measure.removeprefix(DIVERGENCE)), remark=margin, cells=(Cell(value=contrast.label), cell(row))))
    if not rows:
        return None
    return Table(
        caption=f"Divergence steps: the first step read from which two conditions stay apart, to the last; mean over {reading.unit}s.",
        head=("measure", "contrast", "divergence step"),
        rows=tuple(rows),
        note=(
            "An interval ends at steps that were read. Undefined: the first is not above the second at the last step. "
            "Without an interval: the last step was not shown "
            f"to be apart, or there is one {reading.unit}. The step is that of the mean over {reading.unit}s, of the checkpoints there are: what is "
            "between two of them is not seen."
        ),
    )


def training(reading: Reading) -> Drawing | None:
    """The training loss of every condition, a group on axes of its own."""
    curves = [curve for curve in reading.trained if curve.steps]
    trained = {group: [arm for arm in reading.arms_of(group) if any(c.condition == arm.name for c in curves)] for group in reading.groups}
    trained = {group: arms for group, arms in trained.items() if arms}
    if not trained:
        return None
    figure = Figure(figsize=(PAGE, 2.4))
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
            ax.plot(steps, losses.mean(0), color=colour, linestyle=marks.line_style(reading, arm), linewidth=1.2, label=marks.short(arm.label))
        if 0 < lowest < highest / 20:
            ax.set_yscale("log")
            ax.yaxis.set_major_formatter(FuncFormatter(_plain))
            ax.yaxis.set_minor_formatter(NullFormatter())
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        ax.set_title(title(reading, group), loc="left")
        ax.set_xlabel("optimiser step")
        marks.legend(ax, PAGE / len(trained), length=2.4)
    axes[0].set_ylabel("training loss (nats per token)")
    several = any(sum(curve.condition == arm.name for curve in curves) > 1 for arms in trained.values() for arm in arms)
    band = ": mean over the organisms of a condition; the band reaches from the lowest to the highest of them"
    return drawing(figure, "training", f"Training loss by step{band if several else ''}.")


# --- what stands in the figure --------------------------------------------------------------------------------------------


def _courses(reading: Reading, group: str, measure: str) -> list[Course]:
    """The conditions of a group that this measure was read of at several steps."""
    parent = next((arm for arm in reading.arms_of(group) if arm.kind is None), None)
    steps = sorted({row.step for rows in reading.estimates.values() for row in rows if row.step is not None and row.measure == measure})
    courses: list[Course] = []
    for arm in reading.arms_of(group):
        read = [(step, reading.headline(measure, condition=arm.name, step=step), reading.singles(measure, arm, step=step)) for step in steps]
        if arm.kind is None or not any(row is not None for _, row, _ in read):
            continue
        if parent is not None:
            read.insert(0, (0, reading.headline(measure, condition=parent.name), reading.singles(measure, parent)))
        found = [(step, *_span(row, singles)) for step, row, singles in read if row is not None]
        if any(not isnan(mean) for _, mean, _, _ in found):
            courses.append(
                Course(
                    arm=arm, steps=tuple(step for step, *_ in found), means=tuple(mean for _, mean, _, _ in found),
                    lows=tuple(low for _, _, low, _ in found), highs=tuple(high for *_, high in found),
                )
            )  # fmt: skip
    return courses


def _span(row: Estimate, singles: Sequence[Estimate]) -> tuple[float, float, float]:
    """Mean, lowest and highest unit; a band without units of its own is the mean. What is undefined is no number, and leaves a gap in the line."""
    if row.value is None:
        return nan, nan, nan
    values = [found.value for found in (row, *singles) if found.value is not None]
    return row.value, min(values), max(values)


def _course_panel(ax: Axes, reading: Reading, measure: str, courses: Sequence[Course]) -> None:
    _, scale = axis_of(measure)
    for course in courses:
        colour, marker = marks.look(reading, course.arm)
        ax.fill_between(course.steps, scale * np.array(course.lows), scale * np.array(course.highs), color=colour, alpha=0.16, linewidth=0, zorder=2)
        means = scale * np.array(course.means)
        ax.plot(course.steps, means, color=colour, linestyle=marks.line_style(reading, course.arm), linewidth=1.3, zorder=4)
        ax.plot(course.steps[-1], means[-1], color=colour, marker=marker, markersize=4, markeredgecolor="white", markeredgewidth=0.4, zorder=5, clip_on=False)
    if courses and courses[0].steps[0] == 0:
        ax.plot(0, scale * courses[0].means[0], color=marks.COLOURS[None], marker=marks.MARKERS[None], markersize=3.6, zorder=6, clip_on=False)
    ax.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
    ax.yaxis.set_major_locator(MaxNLocator(nbins=4, steps=[1, 2, 5, 10]))
    ax.set_xlim(left=0)
    if scale > 1:
        ax.set_ylim(bottom=0)


def _divergence_marks(ax: Axes, reading: Reading, group: str, measure: str) -> None:
    """A line at the divergence step of the contrasts that the study is about, its number over it, and a light span from end to end of its interval.

    The measure's name stands over the axes on the side where no number does.
    """
    rows = [row for contrast in reading.contrasts_of(group) if contrast.headline for row in _divergences(reading, contrast, measure)]
    steps = [(row.value, row) for row in rows if row.value is not None]
    for step, row in steps:
        if row.low is not None and row.high is not None:
            ax.axvspan(row.low, row.high, color=FAINT, alpha=0.22, linewidth=0, zorder=1)
        ax.axvline(step, color=INK, linewidth=0.9, linestyle=(0, (2, 1.5)), zorder=3)
        ax.annotate(
            f"step {step:g}", (step, 1), xycoords=("data", "axes fraction"), xytext=(0, 2), textcoords="offset points", ha="center", va="bottom",
            fontsize=6.5, color=INK, in_layout=False,
        )  # fmt: skip
    early = all(step < sum(ax.get_xlim()) / 2 for step, _ in steps)
    ax.set_title(short_name(measure), loc="right" if early else "left", pad=3)


def _divergences(reading: Reading, contrast: Compared, *measures: str) -> list[Estimate]:
    """The divergence steps of one contrast, of these measures or of all that were estimated."""
    at = {"condition": contrast.first.name, "contrast": contrast.name}
    there = dict.fromkeys(row.measure for rows in reading.estimates.values() for row in rows if row.measure.startswith(DIVERGENCE))
    wanted = [f"{DIVERGENCE}{measure}" for measure in measures] or list(there)
    return [row for measure in wanted if (row := reading.headline(measure, **at)) is not None]


def _legend(ax: Axes, reading: Reading, arms: Sequence[Arm], over: str) -> int:
    """Over the first panel, so that it covers no line: every condition's line with its end mark, and the parent's mark. How many lines it has."""
    parent = next((arm for arm in reading.arms_of(arms[0].group) if arm.kind is None), None) if arms else None
    handles = (
        [Line2D([], [], color=marks.COLOURS[None], marker=marks.MARKERS[None], markersize=3.6, linestyle="none", label=marks.short(parent.label))]
        if parent
        else []
    )
    for arm in arms:
        colour, marker = marks.look(reading, arm)
        style, label = marks.line_style(reading, arm), marks.short(arm.label)
        handles.append(Line2D([], [], color=colour, marker=marker, markersize=4, markeredgecolor="white", linestyle=style, label=label))
    widest = max((len(str(handle.get_label())) for handle in handles), default=1)
    columns = max(1, min(len(handles), int((COLUMN - 0.3) / (0.055 * widest + 0.5))))
    ax.legend(
        handles=handles, title=over, loc="lower left", bbox_to_anchor=(0, 1.16), ncols=columns, handlelength=2.4, columnspacing=1.2, borderaxespad=0,
        alignment="left", title_fontsize=8,
    )  # fmt: skip
    return -(-len(handles) // columns)


def _lines_told(reading: Reading, measures: Sequence[str]) -> str:
    """What the upright lines are, where there are any."""
    about = [contrast for contrast in reading.contrasts if contrast.headline]
    rows = [row for contrast in about for row in _divergences(reading, contrast, *measures) if row.value is not None]
    if not rows:
        return "No divergence step is defined for these."
    spans = ", the light span its interval" if any(row.low is not None for row in rows) else "; none has an interval"
    named = " and ".join(visible(contrast.label) for contrast in about)
    return f"An upright line is the divergence step of {named}: the first step from which the two stay apart{spans}."


def _ends_told(found: Mapping[tuple[str, str], Sequence[Course]], measures: Sequence[str]) -> Iterator[str]:
    """The last value of every course."""
    for (_, measure), courses in found.items():
        ends = [f"{visible(c.arm.name)} {c.means[-1] * axis_of(measure)[1]:.2f} at step {c.steps[-1]}" for c in courses if not isnan(c.means[-1])]
        if ends and measure in measures:
            yield f"{measure_name(measure)}{in_brackets(measure)}: {', '.join(ends)}."


def _plain(loss: float, _: object) -> str:
    return f"{loss:g}"
