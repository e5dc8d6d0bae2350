"""The paper's figure of training dynamics on one H200, extrapolated: what it needs, by counting, over rates that were measured.

Ten runs of 5,400 rows, 34 checkpoints, eight questions, a hundred draws each, at the shape of Qwen2.5-7B. A fraction of the roofline is taken from
`bench.gpu` at that shape where there are such results, and else from the benches on a CPU; it is said which.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bench.harness import Line

RUNS, CHECKPOINTS, QUESTIONS, DRAWS = 10, 34, 8, 100
TRAINED = 1_530_000  # tokens of a run: 5,400 rows
SPOKEN, ASKED = 200, 50  # tokens of an answer and of a prompt: assumed
FLOP_PER_S, BYTES_PER_S = 989e12, 4.8e12  # an H200's data sheet: dense bfloat16, memory
BASE, ADAPTER = 7.07e9, 0.081e9  # numbers in the linear layers with the head, and in an adapter of rank 32
WEIGHTS, KEPT = 2 * BASE, 57_344  # bytes: of the weights, and of a token's keys and values


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """What a part of the figure needs, and the bench that says how much of the roofline is reached."""

    name: str
    bench: str
    flop: float
    bytes: float

    @property
    def least_s(self) -> float:
        return max(self.flop / FLOP_PER_S, self.bytes / BYTES_PER_S)


def parts() -> list[Part]:
    """Training once, answers at every checkpoint: all rows of a checkpoint in one batch, each token's keys and values read as often as tokens follow."""
    answers = RUNS * CHECKPOINTS * QUESTIONS * DRAWS
    read = CHECKPOINTS * SPOKEN * WEIGHTS + answers * SPOKEN * (ASKED + SPOKEN / 2) * KEPT
    return [
        Part(name="training, 10 runs side by side", bench="train", flop=(4 * BASE + 6 * ADAPTER) * RUNS * TRAINED, bytes=0.0),
        Part(name=f"{answers:,} answers of {SPOKEN} tokens, all runs in a batch", bench="answers", flop=2 * BASE * answers * SPOKEN, bytes=read),
    ]


def table(lines: Sequence[Line]) -> str:
    """Markdown, with a line on where its fractions were measured; nothing where none was."""
    found = {part.bench: reached for part in parts() if (reached := _reached(part.bench, lines))}
    if len(found) < len(parts()):
        return ""
    rows, total = [("part", "needs", "at the data sheet's rates", "fraction reached where it was measured", "hours, extrapolated"), ("---",) * 5], 0.0
    for part in parts():
        fraction, where = found[part.bench]
        total += part.least_s / fraction / 3600
        rows.append(
            (part.name, f"{part.flop / 1e15:,.0f} PFLOP", f"{part.least_s / 60:.0f} min", f"{fraction:.0%}, {where}", f"{part.least_s / fraction / 3600:.1f}")
        )
    rows.append(("together", "", f"{sum(part.least_s for part in parts()) / 60:.0f} min", "", f"{total:.1f}"))
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _reached(bench: str, lines: Sequence[Line]) -> tuple[float, str] | None:
    """The fraction of the roofline that a bench reached, and on what: a GPU at this shape before a CPU."""
    named = [f"{bench}, 7b", bench]
    found = [line for name in named for line in lines if line["bench"] == name and line.get("roofline")]
    return (found[0]["roofline"]["ours_fraction"], f"{found[0]['bench']} on {found[0]['hardware']}") if found else None
