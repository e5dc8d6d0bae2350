"""The card of a whole paper: every claim of every study with its verdict, on one page, as a picture and as a Markdown table.

Like a report it computes no estimate. Published numbers stand beside a run's as context. A study that was not run is named with the reason.
"""

from __future__ import annotations

import base64
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path
from urllib.parse import quote

from spillover.design import Decision, Published
from spillover.report import card, page, reading
from spillover.report.card import SYMBOLS
from spillover.report.parts import Line, Part
from spillover.report.printed import Cell, in_markdown
from spillover.report.reading import Reading
from spillover.runs.directory import PARTIAL, RunDirectory

NO_NOTE = "no reason was given"


def write_index(home: Path, runs: Mapping[str, RunDirectory], notes: Mapping[str, str] | None = None) -> Path:
    """Write `index.html` into a directory: one row a claim, then each study's first figure. `runs` and `notes` are by study; a note says why one was not run.

    The same runs give the same bytes. Raises SpilloverError when a run has no estimates yet or is damaged.
    """
    from spillover.report import figures  # matplotlib is loaded when a figure is asked for

    parts: list[Part] = []
    drawings: list[tuple[Part, figures.Drawing, str]] = []
    for name, run in runs.items():
        found = reading.read(run)
        parts.append(_part(name, found, _link(home, run)))
        drawn = figures.first(found)
        if drawn is not None:
            drawings.append((parts[-1], drawn, base64.b64encode(drawn.svg).decode()))
    style = page.part("report.css") + page.part("index.css")
    text = page.template("index.html.jinja").render(
        policy=page.policy(style), style=style, parts=parts, drawings=drawings, tally=_tally(parts), symbols=SYMBOLS, unrun=_unrun(runs, notes),
    )  # fmt: skip
    return _written(home / "index.html", text.encode())


def write_card(home: Path, runs: Mapping[str, RunDirectory], notes: Mapping[str, str] | None = None) -> Path:
    """Write the same claims and verdicts as a picture, `card.svg` and `card.png`, and as a Markdown table, `card.md`; the path is that of the PNG."""
    from spillover.report import overview  # matplotlib is loaded when a picture is asked for

    parts = [_part(name, reading.read(run, answers=False), _link(home, run)) for name, run in runs.items()]
    svg, png = overview.picture(parts, _unrun(runs, notes))
    _written(home / "card.svg", svg)
    _written(home / "card.md", markdown(parts, _unrun(runs, notes)).encode())
    return _written(home / "card.png", png)


def markdown(parts: Sequence[Part], unrun: Sequence[tuple[str, str]]) -> str:
    """A Markdown table with a row a claim. No text in it can make a link, markup, or another row."""
    rows = [
        "| study | claim | claimed by | verdict | this run | published, for context |",
        "|---|---|---|---|---|---|",
        *(_markdown_row(part, line, first=place == 0) for part in parts for place, line in enumerate(part.lines)),
    ]
    counts = _tally(parts)
    told = ", ".join(f"{count} {verdict}" for verdict, count in counts.items())
    lines = [*rows, "", f"{sum(counts.values())} claims: {told}." if counts else "No claim was tested."]
    lines += [f"- not run: {in_markdown(name)}: {in_markdown(why)}" for name, why in unrun]
    return "\n".join(lines) + "\n"


# --- what stands in it ----------------------------------------------------------------------------------------------------


def _part(name: str, found: Reading, link: str) -> Part:
    lines = _lines(found)
    groups = [f"{found.count(group)}{f' {found.group_label(group)}' if len(found.groups) > 1 else ''}" for group in found.groups]
    return Part(
        name=name, title=found.identity["title"], units=f"{' + '.join(groups)} {found.unit}{'' if groups == ['1'] else 's'}", lines=tuple(lines),
        tally=_ordered(Counter(line.verdict for line in lines)), link=link,
    )  # fmt: skip


def _lines(found: Reading) -> list[Line]:
    """Every claim of the study, in its order. The published numbers of a measure stand beside its first claims."""
    lines: list[Line] = []
    shown: set[str] = set()
    for measure, together in groupby(found.decisions, key=lambda decision: decision.claim.measure):
        own = list(together)
        numbers = () if measure in shown else tuple((n, card.printed(n)) for n in found.published if n.measure == measure)
        shown.add(measure)
        lines += [_line(decision, found, numbers, 0 if place else len(own)) for place, decision in enumerate(own)]
    return lines


def _line(decision: Decision, found: Reading, numbers: tuple[tuple[Published, Cell], ...], spans: int) -> Line:
    return Line(
        text=decision.claim.text, source=decision.claim.source, verdict=decision.verdict, symbol=SYMBOLS[decision.verdict],
        contrasts=tuple(card.brief(row, decision, found) for row in decision.contrasts), untested="" if decision.tested else decision.reason,
        published=numbers if spans else (), spans=spans,
    )  # fmt: skip


def _tally(parts: Sequence[Part]) -> Mapping[str, int]:
    return _ordered(Counter(line.verdict for part in parts for line in part.lines))


def _ordered(counts: Counter[str]) -> Mapping[str, int]:
    return {verdict: counts[verdict] for verdict in SYMBOLS if counts[verdict]}


def _unrun(runs: Mapping[str, RunDirectory], notes: Mapping[str, str] | None) -> list[tuple[str, str]]:
    """Studies without a run, and why."""
    return [(name, why or NO_NOTE) for name, why in (notes or {}).items() if name not in runs]


def _link(home: Path, run: RunDirectory) -> str:
    """The run's report from the page, as a relative address; empty where there is no report."""
    there = run.path / "report.html"
    if not there.exists():
        return ""
    return quote(Path(os.path.relpath(there.resolve(), home.resolve())).as_posix(), safe="/")


def _markdown_row(part: Part, line: Line, *, first: bool) -> str:
    name = in_markdown(part.name)
    study = f"[{name}]({part.link})" if first and part.link else name if first else ""
    contrasts = "<br>".join(f"{in_markdown(label)}: {_cell(cell)}; {in_markdown(cell.notes[-1])}" for label, cell in line.contrasts) or in_markdown(
        line.untested
    )
    numbers = "<br>".join(f"{in_markdown(number.text)}: {_cell(cell)}" for number, cell in line.published)
    return f"| {study} | {in_markdown(line.text)} | {in_markdown(line.source)} | {line.symbol} {line.verdict} | {contrasts} | {numbers} |"


def _cell(cell: Cell) -> str:
    return in_markdown(" ".join(filter(None, (cell.value, cell.interval))))


def _written(target: Path, content: bytes) -> Path:
    """Write a file, whole or not at all."""
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(PARTIAL + target.name)
    partial.write_bytes(content)
    return partial.replace(target)
