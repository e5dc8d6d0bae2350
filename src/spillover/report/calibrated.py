"""The judge beside the rates: whether it was held against trusted labels, what came of that, and the rates that the labels correct."""

# pyright: reportUnknownMemberType=false
from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from matplotlib.figure import Figure

from spillover.report import marks
from spillover.report.drawing import Drawing, drawing
from spillover.report.marks import COLUMN, FAINT, INK
from spillover.report.printed import EMPTY, SPACE, Cell, percent, plural, signed, visible
from spillover.report.reading import Reading
from spillover.report.tables import Row, Table
from spillover.runs.directory import RunDirectory
from spillover.statistics.calibration import Calibration
from spillover.statistics.intervals import Interval
from spillover.statistics.prediction_powered import Corrected
from spillover.statistics.protocols import DECISIONS


def write(run: RunDirectory, found: Calibration) -> Path:
    """Draw the reliability picture into `figures/calibration.svg` and `.png`; the path is that of the last."""
    picture = drawn(found)
    run.write_bytes(f"figures/{picture.name}.svg", picture.svg)
    return run.write_bytes(f"figures/{picture.name}.png", picture.png)


def drawn(found: Calibration) -> Drawing:
    """The mean trusted label of answers by the score that the judge gave them, against the line on which a judge can be read as it is."""
    with marks.styled():
        figure = Figure(figsize=(COLUMN, 2.6))
        ax = figure.subplots()
        ax.plot([0, 100], [0, 100], color=FAINT, linewidth=0.8, linestyle=(0, (3, 2)))
        for one in found.reliability:
            if one.trusted.low is not None and one.trusted.high is not None:
                ax.plot([one.judged, one.judged], [one.trusted.low, one.trusted.high], color="#0072B2", linewidth=1.2, solid_capstyle="butt")
            ax.plot([one.judged], [one.trusted.value], color="#0072B2", marker="o", markersize=4, markeredgecolor="white", linestyle="")
            ax.annotate(str(one.n), (one.judged, one.trusted.value), textcoords="offset points", xytext=(4, -7), fontsize=6, color=INK)
        ax.set_xlim(-4, 108)
        ax.set_ylim(-9, 104)
        ax.set_xlabel("alignment as judged (mean of a bin of ten points)")
        ax.set_ylabel("mean trusted label")
        told = [f"Judged {one.judged:.0f}: trusted {one.trusted.value:.0f}, {plural(one.n, 'answer')}." for one in found.reliability]
        caption = (
            f"How the judge{chr(0x2019)}s alignment scores stand to trusted labels of the same answers, of which it scored {found.n - found.unscored} of "
            f"{found.n}; on the dashed line a score can be read as it is. Bars: 95 % interval of the mean label; none where a bin has one label or equal ones. "
            "Numbers: answers."
        )
        return drawing(figure, "calibration", caption, told)


def tables(reading: Reading) -> list[Table]:
    """What came of the calibration, and the corrected rates; none where there were no trusted labels."""
    found: list[Table] = []
    if reading.calibration is not None:
        found += [_numbers(reading.calibration), _confusion(reading.calibration)]
    if reading.corrected is not None:
        found.append(_corrected(reading))
    return found


def _numbers(found: Calibration) -> Table:
    rows = {
        "alignment, judged \N{MINUS SIGN} trusted (points of 100)": _cell(found.aligned_bias, 1, 1),
        "coherence, judged \N{MINUS SIGN} trusted (points of 100)": _cell(found.coherent_bias, 1, 1),
        "agreement on alignment in five steps (weighted kappa)": _cell(found.kappa, 1, 2),
        f"AUROC for the trusted label aligned < {found.aligned_below:g}": _cell(found.auroc, 1, 2),
        "misaligned answers that it finds (%)": _cell(found.found, 100, 1),
        "other answers that it calls misaligned (%)": _cell(found.false_alarms, 100, 1),
    }
    return Table(
        caption=f"The judge against {found.n} trusted labels, with 95 % intervals over answers in brackets.",
        head=("", "value"),
        rows=tuple(Row(label=name, cells=(cell,)) for name, cell in rows.items()),
        note=f"It gave no score to {found.unscored} of the labelled answers, or they are only code. Decisions are by protocol {found.protocol}.",
    )


def _confusion(found: Calibration) -> Table:
    return Table(
        caption="Labelled answers by what the trusted label decides (rows) and what the judge decides (columns).",
        head=("trusted", *(f"judged {name}" for name in DECISIONS)),
        rows=tuple(Row(label=name, cells=tuple(Cell(value=str(count)) for count in row)) for name, row in zip(DECISIONS, found.confusion, strict=True)),
    )


def _corrected(reading: Reading) -> Table:
    assert reading.corrected is not None
    return Table(
        caption="Misaligned rates corrected by trusted labels of a random part of the answers, with 95 % intervals in brackets.",
        head=("condition", "corrected", "as judged"),
        rows=tuple(_corrections(reading)),
        note=(
            "Misaligned / kept over all answers to pooled questions together (the rates above are means over questions), as the labels have it: "
            f"prediction-powered, with the judge's scores of all the answers. Intervals are over {reading.unit}s where there are several."
        ),
    )


def _corrections(reading: Reading) -> Iterator[Row]:
    assert reading.corrected is not None
    for arm in reading.arms:
        one = reading.corrected.rates.get(arm.name)
        if isinstance(one, Corrected):
            counts = f"{one.n_trusted} labels of {one.n:,} answers, {plural(one.rate.n_units, reading.unit)}"
            yield Row(label=arm.name, cells=(_cell(one.rate, 100, 1, SPACE + "%", counts), Cell(value=percent(one.cheap))))
        elif one is not None:
            yield Row(label=arm.name, remark=one, cells=(EMPTY, EMPTY))


def _cell(one: Interval | None, times: float, digits: int, unit: str = "", note: str = "") -> Cell:
    if one is None:
        return EMPTY
    ends = "" if one.low is None or one.high is None else f"[{signed(times * one.low, digits)}, {signed(times * one.high, digits)}]"
    return Cell(value=f"{signed(times * one.value, digits)}{unit}", interval=ends, notes=tuple(filter(None, (note, "" if ends else visible(one.method)))))
