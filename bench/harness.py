"""Two sides of a bench: that they compute the same thing, how long each takes in turn, and how near to this machine's limits ours comes.

A bench compares only after its check; sides that differ raise `DifferenceError`, with by how much. Rates are what was needed by the work, never what was done
in vain (padding, for one), and limits are the largest that this machine showed a moment before. It knows nothing of what is compared. It needs the
standard library, and torch for the limits, so that it runs wherever a GPU is.
"""

from __future__ import annotations

import gc
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib import import_module, metadata
from pathlib import Path
from statistics import median
from typing import Any, TypeVar

RESULTS = Path(__file__).with_name("results")
RECORDED = (
    "spillover", "torch", "transformers", "peft", "trl", "accelerate", "datasets", "lm_eval", "numpy", "pandas", "polars", "pyarrow", "scipy", "tokenizers",
)  # fmt: skip
SQUARES = (256, 512, 1024, 2048)  # matrix products tried for the largest rate
COPIED = 2**28  # bytes, more than any cache holds
PACE = 384, 20  # the size and number of the products that tell how fast the machine is at the moment

Line = dict[str, Any]  # one line of a results file
Shape = tuple[int, int, int]  # (m, k, n) of a matrix product
Ours = TypeVar("Ours")
Theirs = TypeVar("Theirs")


class DifferenceError(Exception):
    """The two sides do not compute the same thing, so there is nothing to compare."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """One thing that was compared: the largest difference found, in which unit, and the largest that is still the same thing."""

    of: str
    difference: float
    tolerance: float

    @property
    def holds(self) -> bool:
        return self.difference <= self.tolerance  # NaN does not


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What the task needs, whoever does it: floating-point operations, bytes moved at the least, and the matrix products it is made of."""

    flops: float = 0.0
    bytes: float = 0.0
    shapes: tuple[Shape, ...] = ()


def compare(
    name: str,
    ours: Callable[[], Ours],
    theirs: Callable[[], Theirs],
    *,
    check: Callable[[Ours, Theirs], Sequence[Agreement]],
    against: str,
    target: float,
    repeats: int = 5,
    warm: bool = True,
    work: Work | None = None,
    sizes: Mapping[str, Any] | None = None,
    settings: Mapping[str, Any] | None = None,
    limits: Callable[[], Mapping[str, float]] | None = None,
) -> Line:
    """Check both sides once, time them in turn, and print and return what a results file keeps.

    The check warms them up; where there is nothing to warm, as in a command of its own (`warm` False), it is the first of the repeats. The ratio is the
    median over pairs of (their seconds / our seconds), its range the smallest and the largest pair. `settings` is what was chosen for each side and what
    else was tried. `limits` measures what `work` is held against, for another device than this CPU (`roofline` else).

    Raises DifferenceError where an agreement does not hold.
    """
    before_s = pace()
    (mine, ours_s), (other, theirs_s) = timed(ours), timed(theirs)
    agreements = check(mine, other)
    broken = next((one for one in agreements if not one.holds), None)
    if not agreements or broken is not None:
        why = f"{broken.of} differ by {broken.difference:.3g}, and {broken.tolerance:g} is allowed" if broken else "nothing was checked"
        raise DifferenceError(f"{name}: the two sides do not compute the same thing: {why}")
    pairs = [] if warm else [(ours_s, theirs_s)]
    while len(pairs) < repeats:
        pairs.append((seconds(ours), seconds(theirs)))
    after_s = pace()
    line: Line = {
        "bench": name, "against": against, "hardware": hardware(), **provenance(), "sizes": dict(sizes or {}), "settings": dict(settings or {}),
        "check": [asdict(one) for one in agreements], "repeats": repeats, "ours_s": [a for a, _ in pairs], "theirs_s": [b for _, b in pairs],
        "ratio": ratio(pairs), "target": target, "met": ratio(pairs)["median"] >= target, "pace_s": {"before": before_s, "after": after_s},
    }  # fmt: skip
    if work is not None:
        line["roofline"] = held_against(work, line, limits() if limits is not None else roofline(work.shapes))
    print(row(line), flush=True)
    return line


def measured(name: str, *, reduced: bool) -> list[Line]:
    """The lines of one bench of this folder."""
    return import_module(f"bench.{name}").bench(reduced=reduced)


def fastest(tried: Mapping[str, Callable[[], object]], *, rounds: int = 2) -> tuple[str, dict[str, float]]:
    """Which of these takes least, each at its best of some rounds in turn; and the seconds of all."""
    found = dict.fromkeys(tried, float("inf"))
    for _ in range(rounds):
        for name, do in tried.items():
            found[name] = min(found[name], seconds(do))
    return min(found, key=lambda name: found[name]), found


def seconds(do: Callable[[], object]) -> float:
    """Wall seconds of one call, a GPU's work finished; garbage of what came before is not collected in it."""
    return timed(do)[1]


def timed(do: Callable[[], Ours]) -> tuple[Ours, float]:
    """The same, and what it gave."""
    gc.collect()
    _finish()
    started = time.perf_counter()
    found = do()
    _finish()
    return found, time.perf_counter() - started


def ratio(pairs: Sequence[tuple[float, float]]) -> dict[str, float]:
    """Of (our seconds, their seconds): the median of their ratios, and the smallest and largest."""
    found = [theirs / ours for ours, theirs in pairs]
    return {"median": median(found), "low": min(found), "high": max(found)}


@contextmanager
def threads(count: int) -> Iterator[None]:
    """So many for torch inside, and as before after."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(count)
    yield
    torch.set_num_threads(before)


def cores() -> int:
    """Of those that this process may use, where the system says so."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


# --- what this machine can do ---------------------------------------------------------------------------------------------


def roofline(shapes: Sequence[Shape] = (), *, device: str = "cpu", dtype: str = "float32", squares: Sequence[int] = SQUARES) -> dict[str, Any]:
    """The largest rates measured here: GFLOP/s of matrix products, square ones and each of `shapes`, by number of threads; GB/s read and written by a copy."""
    import torch

    found: dict[str, Any] = {"dtype": dtype, "square_gflop_per_s": {}, "shapes_gflop_per_s": {}}
    for count in sorted({1, cores()}) if device == "cpu" else (1,):
        with threads(count):
            found["square_gflop_per_s"][str(count)] = max(_product((n, n, n), device, getattr(torch, dtype)) for n in squares)
            found["shapes_gflop_per_s"][str(count)] = {"x".join(map(str, shape)): _product(shape, device, getattr(torch, dtype)) for shape in shapes}
    source = torch.ones(COPIED // 4, device=device)
    target = torch.empty_like(source)
    found["copy_gb_per_s"] = 2 * COPIED / _least(lambda: target.copy_(source)) / 1e9
    every = [*found["square_gflop_per_s"].values(), *(rate for rates in found["shapes_gflop_per_s"].values() for rate in rates.values())]
    return found | {"gflop_per_s": max(every)}


def held_against(work: Work, line: Line, limits: Mapping[str, Any]) -> dict[str, Any]:
    """What `work` would take at these limits, the fraction of that rate each side reached, and the largest ratio there could be."""
    computing_s, moving_s = work.flops / limits["gflop_per_s"] / 1e9, work.bytes / limits["copy_gb_per_s"] / 1e9
    least_s, ours_s, theirs_s = max(computing_s, moving_s), median(line["ours_s"]), median(line["theirs_s"])
    return {
        **limits, "needed_gflop": work.flops / 1e9, "needed_gb": work.bytes / 1e9, "bound": "compute" if computing_s >= moving_s else "memory",
        "least_s": least_s, "ours_gflop_per_s": work.flops / ours_s / 1e9, "theirs_gflop_per_s": work.flops / theirs_s / 1e9,
        "ours_gb_per_s": work.bytes / ours_s / 1e9, "ours_fraction": least_s / ours_s, "theirs_fraction": least_s / theirs_s,
        "most_ratio": theirs_s / least_s if least_s else None,
    }  # fmt: skip


def pace() -> float:
    """Seconds of the same few matrix products, on one thread: to tell a slow machine from a slow side. Of additions, where nothing here needs torch."""
    torch = sys.modules.get("torch")
    if torch is None:
        return _clocked(lambda: sum(range(10**6)))
    size, times = PACE
    a = torch.ones(size, size)

    def several() -> None:
        for _ in range(times):
            a @ a

    with threads(1):
        return _clocked(several)


def _product(shape: Shape, device: str, dtype: Any) -> float:
    """GFLOP/s of a matrix product."""
    import torch

    m, k, n = shape
    a, b = torch.ones(m, k, device=device, dtype=dtype), torch.ones(k, n, device=device, dtype=dtype)
    out = torch.empty(m, n, device=device, dtype=dtype)
    times = max(1, round(2e8 / (2 * m * k * n))) if device == "cpu" else 10

    def several() -> None:
        for _ in range(times):
            torch.mm(a, b, out=out)

    return 2 * m * k * n * times / _least(several) / 1e9


def _least(do: Callable[[], object], rounds: int = 5) -> float:
    return min(_clocked(do) for _ in range(rounds))


def _clocked(do: Callable[[], object]) -> float:
    _finish()
    started = time.perf_counter()
    do()
    _finish()
    return time.perf_counter() - started


def _finish() -> None:
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        torch.cuda.synchronize()


# --- where and with what --------------------------------------------------------------------------------------------------


def provenance() -> Line:
    """Date, commit and whether files differ from it, versions, cores."""
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"), "commit": _git("rev-parse", "HEAD"),
        "dirty": bool(_git("status", "--porcelain", "--", ":!bench/results", ":!docs/performance.md")), "python": sys.version.split()[0], "cores": cores(),
        "versions": {name: found for name in RECORDED if (found := version(name))},
    }  # fmt: skip


def version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def hardware() -> str:
    """A name for this machine that can name a file: its GPU, or its CPU and how many cores may be used."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        return slug(torch.cuda.get_device_name())
    info = Path("/proc/cpuinfo")
    text = info.read_text() if info.exists() else ""
    named = re.search(r"model name\s*:\s*(.+)", text)
    return f"{slug(named[1] if named else os.uname().machine)}-{cores()}-cores"


def slug(name: str) -> str:
    """`Intel(R) Xeon(R) Processor @ 2.50GHz` as `xeon-2.5ghz`."""
    name = re.sub(r"\((r|tm)\)|\b(cpu|processor|intel|amd)\b|@", " ", name.lower())
    name = re.sub(r"(\d+\.\d*?)0+(?=ghz)", lambda found: found[1].rstrip("."), name)
    return re.sub(r"[^a-z0-9.]+", "-", name).strip("-")


def append(line: Line, results: Path = RESULTS) -> Path:
    """Add a line to the file of this hardware."""
    results.mkdir(exist_ok=True)
    path = results / f"{line['hardware']}.jsonl"
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")
    return path


def _git(*words: str) -> str:
    """What git says of the checkout this file is in; nothing where there is none."""
    try:
        return subprocess.run(["git", *words], capture_output=True, text=True, check=False, cwd=Path(__file__).parent).stdout.strip()
    except OSError:
        return ""


# --- in words -------------------------------------------------------------------------------------------------------------

HEADER = ("bench", "against", "target", "ratio (range)", "ours", "theirs", "reached of the roofline", "largest difference")


def cells(line: Line) -> tuple[str, ...]:
    """A line as the table shows it."""
    found, roof = line["ratio"], line.get("roofline")
    missed = "" if line["met"] else ", missed"
    limits = "".join(f"; {one['of']} {one['value']:.3g} (under {one['limit']:g})" for one in line.get("limits", ()))
    return (
        line["bench"], line["against"], f"{line['target']:g}x{missed}", f"{found['median']:.2f}x ({found['low']:.2f} to {found['high']:.2f})",
        f"{median(line['ours_s']):.3g} s{limits}", f"{median(line['theirs_s']):.3g} s", _reached(roof) if roof else "",
        "; ".join(f"{one['of']} {one['difference']:.2g} (of {one['tolerance']:g})" for one in line["check"]),
    )  # fmt: skip


def row(line: Line) -> str:
    return "  ".join(f"{name}: {cell}" for name, cell in zip(HEADER, cells(line), strict=True) if cell)


def table(lines: Sequence[Line]) -> str:
    """Lines as a Markdown table."""
    rows = [HEADER, ("---",) * len(HEADER), *map(cells, lines)]
    return "\n".join(f"| {' | '.join(cells_of_row)} |" for cells_of_row in rows)


def _reached(roof: Mapping[str, Any]) -> str:
    rate = (
        f"{roof['ours_gflop_per_s']:.3g} of {roof['gflop_per_s']:.3g} GFLOP/s"
        if roof["bound"] == "compute"
        else f"{roof['ours_gb_per_s']:.3g} of {roof['copy_gb_per_s']:.3g} GB/s"
    )
    return f"{roof['ours_fraction']:.1%}: {rate}; at most {roof['most_ratio']:.3g}x"
