"""The page of an audit: the verdict, why, and the interval of every context against the tolerance.

Made of an audit's `verdict.json` and of nothing else; it decides nothing.
"""

# pyright: reportUnknownMemberType=false
from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from spillover.report import marks, page
from spillover.report.marks import INK, PAGE
from spillover.report.printed import percent, points, share, visible
from spillover.runs.directory import RunDirectory

LOOKS = {"pass": ("#0072B2", "^"), "fail": ("#D55E00", "X"), "inconclusive": ("#6b6b6b", "s")}
Found = Mapping[str, Any]


def write(run: RunDirectory, verdict: Found) -> Path:
    """Write `figures/audit.svg`, `figures/audit.png` and `report.html` into an audit's directory; the path is that of the last."""
    svg, png, told = _drawn(verdict["contexts"], (verdict["below"], verdict["above"]))
    run.write_bytes("figures/audit.svg", svg)
    run.write_bytes("figures/audit.png", png)
    style = page.part("report.css") + page.part("index.css")
    return run.write_text(
        "report.html",
        page.template("audited.html.jinja").render(
            policy=page.policy(style), style=style, verdict=verdict, svg=base64.b64encode(svg).decode(), told=told, share=share, points=points, rate=_rate
        ),
    )


def _drawn(contexts: Sequence[Found], tolerance: tuple[float, float]) -> tuple[bytes, bytes, str]:
    """A bar a context, from the lower to the upper end of its confidence sequence, and the tolerance as judged as a line, or two."""
    with marks.styled():
        figure = Figure(figsize=(PAGE, 0.7 + 0.24 * len(contexts)))
        ax = figure.subplots()
        for place, one in enumerate(contexts):
            colour, marker = LOOKS[one["verdict"]]
            ax.plot([100 * one["low"], 100 * one["high"]], [place, place], color=colour, linewidth=1.4, solid_capstyle="butt")
            if None not in (one["child"]["rate"], one["parent"]["rate"]):
                ax.plot([100 * (one["child"]["rate"] - one["parent"]["rate"])], [place], color=colour, marker=marker, markersize=5, markeredgecolor="white")
        for end in dict.fromkeys(tolerance):
            ax.axvline(100 * end, color=INK, linewidth=0.9, linestyle=(0, (3, 2)))
        ax.axvline(0, color=INK, linewidth=0.5)
        ax.set_yticks(range(len(contexts)), [f"{marks.short(one['name'])}: {one['verdict']}" for one in contexts])
        ax.set_ylim(len(contexts) - 0.5, -0.5)
        ax.set_xlabel(f"misaligned rate, child \N{MINUS SIGN} parent (points); dashed: the tolerance{', as judged' if tolerance[0] < tolerance[1] else ''}")
        told = "; ".join(f"{visible(one['name'])} {one['verdict']} {points(one['low'])} to {points(one['high'])}" for one in contexts)
        return *marks.saved(figure), told


def _rate(side: Found) -> str:
    """The mean over questions; where one has no kept answer there is none."""
    return f"undefined: {side['misaligned']}, and a question without kept answers" if side["rate"] is None and side["kept"] else percent(side["rate"])
