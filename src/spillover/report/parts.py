"""What the card of a whole paper shows, however it is drawn: studies, and a line for each of their claims."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from spillover.design import Published, Verdict
from spillover.report.printed import Cell


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One claim in a row: its verdict, and every contrast behind it by name, or why it is untested.

    `spans` is how many rows its published numbers stand beside; 0 in the others.
    """

    text: str
    source: str
    verdict: Verdict
    symbol: str
    contrasts: tuple[tuple[str, Cell], ...]
    untested: str
    published: tuple[tuple[Published, Cell], ...]
    spans: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One study: its claims, how many of them hold and so on, and where its report is, from the page."""

    name: str
    title: str
    units: str
    lines: tuple[Line, ...]
    tally: Mapping[str, int]
    link: str
