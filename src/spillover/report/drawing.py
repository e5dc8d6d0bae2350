"""A finished figure, and the words that every figure shares: what a mark is, what stands over the axes of a group."""

# pyright: reportUnknownMemberType=false
from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from matplotlib.figure import Figure

from spillover.records import Estimate
from spillover.report import marks
from spillover.report.marks import COLUMN, Panel
from spillover.report.printed import is_general, is_single, value, visible
from spillover.report.reading import Reading


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawing:
    """A finished figure. `told` says in words what it shows, for those who do not see it; `wide` and `tall` are over a column of a page."""

    name: str
    caption: str
    told: str
    svg: bytes
    png: bytes
    wide: bool
    tall: bool


def drawing(figure: Figure, name: str, caption: str, told: Iterable[str] = ()) -> Drawing:
    """`told` are sentences with the numbers that the figure shows."""
    svg, png = marks.saved(figure)
    width, height = figure.get_size_inches()
    return Drawing(name=name, caption=caption, told=" ".join([caption, *told]), svg=svg, png=png, wide=width > COLUMN, tall=height > COLUMN)


def told_panels(panels: Sequence[Panel]) -> Iterator[str]:
    for panel in panels:
        values = [f"{place.label.replace(chr(10), ' ')} {value(place.row)}" for place in panel.places if place.row is not None]
        yield f"{panel.title}, {panel.quantity}: {', '.join(values)}."


def title(reading: Reading, group: str) -> str:
    """What stands over a group's axes: its name, where there are several, and its number of units."""
    count = reading.count(group)
    units = f"{count} {reading.unit}{'' if count == 1 else 's'}"
    return units if len(reading.groups) == 1 else f"{visible(reading.group_label(group))}{' (control)' if reading.is_control(group) else ''}: {units}"


def bars(reading: Reading, *, hollow: bool = True) -> str:
    """What a mark and its bar are."""
    rows = [row for found in reading.estimates.values() for row in found if row.headline]
    levels = {f"{100 * row.level:g} %" for row in rows if row.level is not None}
    singles = hollow and any(reading.units_of(group) for group in reading.groups)
    mark = f"Hollow marks are single {reading.unit}s; the filled mark is their mean" if singles else f"A mark is the mean over {reading.unit}s"
    if not levels:
        return f"{mark}, without an interval."
    bar = f"its bar the {f'{levels.pop()} ' if len(levels) == 1 else ''}interval for {reading.unit}s like these"
    alone = any(row.low is not None and not is_general(row) and not is_single(row) for row in rows)
    of_answers = f"; of its answers alone for one {reading.unit}, or where none or all were counted" if alone else ""
    return f"{mark}, {bar}{of_answers}; no bar where there is no interval."


def defined(rows: Iterable[Estimate | None]) -> bool:
    return any(row is not None and row.value is not None for row in rows)
