"""The report of a run: figures and one self-contained HTML file, made from the run directory and from nothing else.

It computes no estimate: every number it prints is a row of `estimates.csv`, a count of rows, or copied from `run.json`. It does not know
which study or testbed it shows. Text that a model wrote is shown, never obeyed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from spillover.runs.directory import RunDirectory


def write(run: RunDirectory) -> Path:
    """Write `figures/*.svg`, `figures/*.png` and `report.html` into a finished run and return the path of the last.

    The same run gives the same bytes. Raises SpilloverError when the run has no estimates yet or a file in it is damaged.
    """
    from spillover.report import figures, page, reading  # matplotlib is loaded when a report is asked for

    found = reading.read(run)
    drawn = figures.draw(found)
    for figure in drawn:
        run.write_bytes(f"figures/{figure.name}.svg", figure.svg)
        run.write_bytes(f"figures/{figure.name}.png", figure.png)
    return run.write_text("report.html", page.render(found, drawn))
