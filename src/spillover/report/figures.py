"""The figures: which a run has the numbers for, in which order, and those of rates: by condition, question, format and group, differences, labels.

A study names the one that is drawn first, after the published layout. A figure is drawn where it has a value to show; where all it could show
is undefined, `undrawn` says so.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false, reportMissingTypeStubs=false
from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

from spillover.design import CONTROLS, Layout
from spillover.records import Estimate
from spillover.report import marks
from spillover.report.asked import formats, of_question, pooled, question_label, share_measures, subset_name
from spillover.report.drawing import Drawing, bars, defined, drawing, title, told_panels
from spillover.report.marks import Line, Panel, Place, Strip
from spillover.report.measures import axis_of, in_brackets, measure_name, short_name
from spillover.report.printed import capital, plural, value, visible
from spillover.report.reading import PLAIN, Arm, Compared, Reading, format_name, is_pooled
from spillover.report.scatter import scatter
from spillover.report.steps import by_step, training

MOST_ASKED = 18  # questions along one axis
MOST_TOLD = 40  # numbers in the words for those who do not see a figure
Maker = Callable[[Reading], Drawing | None]


def draw(reading: Reading) -> list[Drawing]:
    """Every figure that this run has the numbers for, in the order of the report."""
    with marks.styled():
        return [drawn for make in _makers(reading) if (drawn := make(reading)) is not None]


def first(reading: Reading) -> Drawing | None:
    """The figure that the report begins with; None for a run that has none."""
    with marks.styled():
        return next((drawn for make in _makers(reading) if (drawn := make(reading)) is not None), None)


def _makers(reading: Reading) -> list[Maker]:
    layouts: dict[Layout, tuple[Maker, ...]] = {
        "questions": (_by_question,), "formats": (_by_format, _by_question_and_format), "steps": (by_step,), "scatter": (scatter,), "groups": (_by_group,),
        "labels": (_labels,), "conditions": (_by_condition,), "altered": (_altered,),
    }  # fmt: skip
    leading = layouts.get(reading.identity.get("figure", ""), ())
    beside: tuple[Maker, ...] = (_altered,) if any(arm.control for arm in reading.arms) else ()
    usual: tuple[Maker, ...] = (_by_condition, *beside, _differences, _by_question, _by_format, _labels, by_step, training, _coherent_and_task)
    return [*leading, *(make for make in usual if make not in leading)]


def undrawn(reading: Reading) -> list[str]:
    """The quantities of figures that are not there because every value of theirs is undefined."""
    rows = [row for found in reading.estimates.values() for row in found if not row.question]
    names = {("misaligned_rate", False): "misaligned rate", ("misaligned_rate", True): "differences in it", ("coherent_rate", False): "coherent rate"}
    there = {name: [row for row in rows if (row.measure, bool(row.contrast)) == which] for which, name in names.items()}
    return [name for name, found in there.items() if found and not defined(found)]


# --- the figures ----------------------------------------------------------------------------------------------------------


def _by_condition(reading: Reading) -> Drawing | None:
    panels = _panels(reading, "misaligned_rate")
    if not panels:
        return None
    figure = marks.grid([panels], height=2.5)
    marks.rate_limits(figure.axes[0], [row for panel in panels for row in _rows(panel)])
    return drawing(figure, "misaligned_rate", f"Misaligned rate by condition. {bars(reading)}{_apart(reading)}", told_panels(panels))


def _altered(reading: Reading) -> Drawing | None:
    """What is done to models while they answer: under each other, a model as it is, altered, and with every control in the direction's place."""
    arms, conditions = {arm.name: arm for arm in reading.arms}, reading.identity["conditions"]
    labels: list[str] = ["as it is", "altered", *CONTROLS]
    looks = dict(zip(labels, marks.FORMATS, strict=True))  # the same in every panel
    panels: list[Panel] = []
    for head in (c for c in conditions if c.get("altered") and not c["altered"]["control"]):
        same = [c for c in conditions if all(c[key] == head[key] for key in ("kind", "group", "recipe"))]
        shown = [*[("as it is", c) for c in same if not c["altered"]][:1], ("altered", head)]
        shown += [(c["altered"]["control"], c) for c in same if c["altered"] and c is not head and {**c["altered"], "control": ""} == head["altered"]]
        there = [(label, arms[c["name"]]) for label, c in shown if c["name"] in arms]
        places = [_place(label, looks[label], *_values(reading, "misaligned_rate", arm)) for label, arm in there]
        panels.append(Panel(title=marks.short(head["name"]), quantity="misaligned (%)", scale=100, places=places))
    if not panels or not defined(row for panel in panels for row in _rows(panel)):
        return None
    figure = marks.grid([[panel] for panel in panels], height=0.6 + 1.3 * len(panels))
    marks.rate_limits(figure.axes[0], [row for panel in panels for row in _rows(panel)])
    return drawing(figure, "altered", f"Misaligned rate of models as they are, altered, and under each control. {bars(reading)}", told_panels(panels))


def _differences(reading: Reading) -> Drawing | None:
    """One row a contrast, each on the scale it is told by; the contrasts of a group and scale on axes of their own."""
    found: dict[tuple[str, str], list[Compared]] = {}
    for contrast in reading.contrasts:
        groups = f"{reading.group_label(contrast.first.group)} against {reading.group_label(contrast.second.group)}"
        over = visible(groups) if contrast.crosses else title(reading, contrast.first.group)
        found.setdefault((reading.measure_of(contrast), over), []).append(contrast)
    panels = [_difference_panel(reading, measure, over, contrasts) for (measure, over), contrasts in found.items()]
    panels = [panel for panel in panels if defined(_rows(panel))]
    if not panels:
        return None
    kinds = " and ".join(dict.fromkeys(measure_name(row.measure) for panel in panels for row in _rows(panel)))
    caption = (
        f"Paired differences in the {visible(kinds)} within each {reading.unit}; zero is no difference. {bars(reading)} "
        "Colour and marker are those of the condition compared with."
    )
    return drawing(marks.forest(panels), "differences", caption, told_panels(panels))


def _by_question(reading: Reading) -> Drawing | None:
    """As in arXiv 2502.17424 Figure 4: questions along x, one colour a condition. Each group has axes of its own, and so has each part of many questions.

    Where the study is about the answers in one format, as Nature 649 Figure 5 is, these are drawn, and the plain ones stand in the tables.
    """
    forms = [contrast.first.form for contrast in reading.contrasts if contrast.headline and contrast.first.form == contrast.second.form]
    form = forms[0] if forms and reading.identity.get("figure") == "questions" else ""
    there = [q for q in reading.questions if (q["format"] == form if form else is_pooled(q))]
    asked = [q for q in there if any(of_question(reading, "misaligned_rate", arm, q) for arm in reading.arms)]
    which = f", asked as {visible(format_name(form))}" if form else "" if all(map(is_pooled, reading.questions)) else " of the pooled rate"
    caption = f"Misaligned rate by question{which}, laid out as in {'Nature 649 Figure 5' if form else 'arXiv 2502.17424 Figure 4'}."
    strips = _asked_strips(reading, "misaligned_rate", asked, whole=not form)
    return _stripped(reading, "misaligned_rate_by_question", "misaligned rate (%)", strips, caption)


def _by_format(reading: Reading) -> Drawing | None:
    """The pooled rate of each format a question was dressed in, as in Nature 649 Extended Data Figure 6."""
    found = formats(reading, "misaligned_rate")
    caption = "Misaligned rate by format, each the mean over its questions, the plain ones being those of the pooled rate."
    strips = _form_strips(reading, "misaligned_rate", found)
    return _stripped(reading, "misaligned_rate_by_format", "misaligned rate (%)", strips, caption) if len(found) > 1 else None


def _by_question_and_format(reading: Reading) -> Drawing | None:
    """As in Nature 649 Figure 2: questions along x, one look a format, for each condition that the study is about."""
    found, conditions = formats(reading, "misaligned_rate"), dict.fromkeys(c.first.name for c in reading.contrasts if c.headline)
    names = dict.fromkeys(q["id"] for q in reading.questions if any(of_question(reading, "misaligned_rate", arm, q) for arm in reading.arms))
    strips = [
        Strip(
            title=f"{marks.short(arm.name)}: {title(reading, arm.group)}", names=tuple(names), subsets=("",) * len(names),
            lines=tuple(_line_of_format(reading, arm, form, place, list(names)) for place, form in enumerate(found)),
        )
        for arm in reading.arms if arm.name in conditions
    ]  # fmt: skip
    caption = "Misaligned rate by question and format, laid out as in Nature 649 Figure 2."
    return _stripped(reading, "misaligned_rate_by_question_and_format", "misaligned rate (%)", strips, caption) if len(found) > 1 else None


def _by_group(reading: Reading) -> Drawing | None:
    """Groups of parents along x, a look for each kind of narrow data."""
    groups = list(dict.fromkeys(arm.group for arm in reading.arms))
    arms = {(arm.group, arm.label): arm for arm in reading.arms if reading.rows("misaligned_rate", condition=arm.name)}
    lines: list[Line] = []
    for label in dict.fromkeys(label for _, label in arms):
        own = [arms.get((group, label)) for group in groups]
        rows = [None if arm is None else reading.headline("misaligned_rate", condition=arm.name) for arm in own]
        lines.append(_line(reading, next(arm for arm in own if arm is not None), rows))
    names = tuple(f"{visible(reading.group_label(group))} ({plural(reading.count(group), reading.unit)})" for group in groups)
    strip = Strip(title="", names=names, subsets=("",) * len(names), lines=tuple(lines))
    caption = f"Misaligned rate by group of parents, in brackets how many {reading.unit}s each has."
    return _stripped(reading, "misaligned_rate_by_group", "misaligned rate (%)", [strip], caption) if len(groups) > 1 else None


def _labels(reading: Reading) -> Drawing | None:
    """Shares of labels along questions, or along formats where questions were asked in several (arXiv 2502.17424 Figure 9). One rubric; of several the first.

    Of two labels one is drawn, since the other is the rest: the one that is claimed, or the first.
    """
    rubric = next((rubric for question in reading.questions for rubric in question.get("labels", {})), None)
    asked = [question for question in reading.questions if rubric in question.get("labels", {})]
    shares = list(dict.fromkeys(measure for question in asked for measure in share_measures(question, rubric or "")))
    if len(shares) == 2:
        claimed = [decision.claim.measure for decision in reading.decisions if decision.tested and decision.claim.measure in shares]
        shares = [*claimed, *shares][:1]
    forms = sorted(dict.fromkeys(question["format"] for question in asked), key=lambda form: form != PLAIN)
    made = [(share, strip) for share in shares for strip in (_form_strips(reading, share, forms) if len(forms) > 1 else _asked_strips(reading, share, asked))]
    strips = [replace(strip, title=f"{visible(short_name(share))}{f'; {strip.title}' if strip.title else ''}") for share, strip in made]
    along = "format that the questions were asked in" if len(forms) > 1 else "question"
    return _stripped(reading, "labels", "answers (%)", strips, f"What the judge said of {visible(rubric or '')}: the share of a label by {along}.")


def _stripped(reading: Reading, name: str, quantity: str, strips: Sequence[Strip], caption: str) -> Drawing | None:
    rows = [row for strip in strips for line in strip.lines for row in line.rows if row is not None]
    if not defined(rows):
        return None
    crossed = " A cross on the axis is an undefined value." if any(row.value is None for row in rows) else ""
    return drawing(marks.strips(strips, quantity), name, f"{caption} {bars(reading, hollow=False)}{crossed}", _told_strips(strips))


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
    named = capital(" and ".join(map(measure_name, rows)))
    caption = f"{' '.join(asks[measure] for measure in rows)} {named} by condition. {bars(reading)}{_apart(reading)}"
    return drawing(figure, "coherent_and_task_rate", caption, told_panels(panels))


def _apart(reading: Reading) -> str:
    """Where the conditions are that a figure by condition has no room for."""
    return " The controls of what is altered stand in the tables." if any(arm.control for arm in reading.arms) else ""


# --- what stands in them --------------------------------------------------------------------------------------------------


def _panels(reading: Reading, measure: str) -> list[Panel]:
    """One panel a group: every condition that has this measure. None where every value is undefined."""
    panels: list[Panel] = []
    for group in reading.groups:
        arms = [arm for arm in reading.drawn_of(group) if reading.rows(measure, condition=arm.name)]
        if arms:
            places = [_place(marks.short(arm.label), marks.look(reading, arm), *_values(reading, measure, arm)) for arm in arms]
            panels.append(Panel(title=title(reading, group), quantity=f"{measure_name(measure)} (%)", scale=100, places=places))
    return panels if defined(row for panel in panels for row in _rows(panel)) else []


def _difference_panel(reading: Reading, measure: str, over: str, found: Sequence[Compared]) -> Panel:
    """The contrasts of a group, or of two, that are told by one measure."""

    def place(contrast: Compared) -> Place:
        return _place(marks.versus(contrast.label), marks.look(reading, contrast.second), *_values(reading, measure, contrast.first, contrast.name))

    quantity = f"difference in {visible(short_name(measure))}{in_brackets(measure, difference=True)}"
    return Panel(title=over, quantity=quantity, scale=axis_of(measure)[1], places=[*map(place, found)])


def _place(label: str, look: tuple[str, str], row: Estimate | None, units: tuple[float, ...]) -> Place:
    return Place(label=label, colour=look[0], marker=look[1], row=row, units=units)


def _values(reading: Reading, measure: str, arm: Arm, contrast: str = "") -> tuple[Estimate | None, tuple[float, ...]]:
    """The pooled row, and the values of single units."""
    units = tuple(row.value for row in reading.singles(measure, arm, contrast) if row.value is not None)
    return reading.headline(measure, condition=arm.name, contrast=contrast), units


def _rows(panel: Panel) -> list[Estimate]:
    return [place.row for place in panel.places if place.row is not None]


def _arms(reading: Reading, measure: str) -> Iterator[tuple[str, list[Arm]]]:
    """The conditions of each group that have a measure, under the group's title."""
    for group in reading.groups:
        arms = [arm for arm in reading.drawn_of(group) if reading.rows(measure, condition=arm.name)]
        if arms:
            yield title(reading, group), arms


def _line(reading: Reading, arm: Arm, rows: Sequence[Estimate | None]) -> Line:
    colour, marker = marks.look(reading, arm)
    return Line(label=marks.short(arm.label), colour=colour, marker=marker, rows=rows)


def _form_strips(reading: Reading, measure: str, forms: Sequence[str]) -> list[Strip]:
    """Formats along x, each the mean over its questions, for each group."""
    return [
        Strip(
            title=over, names=tuple(map(format_name, forms)), subsets=("",) * len(forms),
            lines=tuple(_line(reading, arm, [pooled(reading, measure, arm, form) for form in forms]) for arm in arms),
        )
        for over, arms in _arms(reading, measure)
    ]  # fmt: skip


def _line_of_format(reading: Reading, arm: Arm, form: str, place: int, names: Sequence[str]) -> Line:
    """One condition's answers in one format, question by question."""
    asked = {question["id"]: question for question in reading.questions if question["format"] == form}
    colour, marker = marks.FORMATS[place % len(marks.FORMATS)]
    rows = [of_question(reading, "misaligned_rate", arm, asked[name]) if name in asked else None for name in names]
    return Line(label=marks.short(format_name(form)), colour=colour, marker=marker, rows=rows)


def _asked_strips(reading: Reading, measure: str, asked: Sequence[Mapping[str, Any]], *, whole: bool = True) -> list[Strip]:
    """Questions along x, for each group; many in parts under each other. Their names say the format where they are `whole`."""
    return [
        Strip(
            title="" if place else over, names=tuple(question_label(q) if whole else q["id"] for q in part),
            subsets=tuple(subset_name(q["subset"]).removeprefix("themes ") for q in part),
            lines=tuple(_line(reading, arm, [of_question(reading, measure, arm, question) for question in part]) for arm in arms),
        )
        for over, arms in _arms(reading, measure)
        for place, part in enumerate(_parts(asked))
    ]  # fmt: skip


def _parts(asked: Sequence[Mapping[str, Any]]) -> list[list[Mapping[str, Any]]]:
    """Questions in parts that fit on an axis, a subset kept together where it fits."""
    parts: list[list[Mapping[str, Any]]] = [[]]
    for subset in dict.fromkeys(question["subset"] for question in asked):
        own = [question for question in asked if question["subset"] == subset]
        pieces = -(-len(own) // MOST_ASKED)
        cuts = [round(piece * len(own) / pieces) for piece in range(pieces + 1)]
        for start, end in pairwise(cuts):
            if len(parts[-1]) + end - start > MOST_ASKED:
                parts.append([])
            parts[-1] += own[start:end]
    return [part for part in parts if part]


def _told_strips(strips: Sequence[Strip]) -> Iterator[str]:
    """The numbers of strips that hold few; of many the tables tell."""
    if sum(len(strip.names) * len(strip.lines) for strip in strips) > MOST_TOLD:
        return
    for strip in strips:
        for line in strip.lines:
            found = [f"{visible(name)} {value(row)}" for name, row in zip(strip.names, line.rows, strict=True) if row is not None]
            if found:
                yield f"{f'{strip.title}, ' if strip.title else ''}{line.label}: {', '.join(found)}."
