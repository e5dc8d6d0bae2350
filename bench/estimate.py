"""A million answers of a hundred organisms, opened, estimated and reported, against pandas and a bootstrap in Python (`bench/estimate_by_hand.py`).

Each side is a process of its own, so that its seconds hold its imports and its memory is its own.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from functools import partial
from importlib import import_module
from pathlib import Path

import pandas as pd

from bench import harness
from bench.harness import Agreement, Line, Work

ORGANISMS, ANSWERS = 100, 1_000_000
REDUCED = 6, 6_000
MOST_S, MOST_GIB = 10.0, 2.0
RATE = 1e-9
WIDTH = 0.1  # of an interval, by which an end may differ: each is a quantile of 2,000 means, drawn from units in an order of their own
OURS = """
import sys
from pathlib import Path
from spillover import pipeline, report
run = pipeline.opened(Path(sys.argv[1]))
pipeline.estimate(run)
report.write(run)
"""


def bench(*, reduced: bool) -> list[Line]:
    organisms, answers = REDUCED if reduced else (ORGANISMS, ANSWERS)
    with tempfile.TemporaryDirectory() as home:
        run, theirs_out = Path(home) / "run", Path(home) / "by_hand"
        import_module("bench.million").make(run, organisms=organisms, answers=answers)
        size = sum(path.stat().st_size for path in run.rglob("*.parquet"))
        peaks: dict[str, float] = {}
        line = harness.compare(
            "estimate", partial(ours, run, peaks), partial(theirs, run, theirs_out, peaks), check=check, against="pandas and a Python bootstrap", target=20.0,
            repeats=1 if reduced else 3, warm=False, work=Work(bytes=size), sizes={"organisms": organisms, "answers": answers, "bytes": size},
        )  # fmt: skip
        took = max(line["ours_s"])
        limits = [
            {"of": "at the most s", "value": took, "limit": MOST_S, "met": took < MOST_S},
            {"of": "peak GiB", "value": peaks["ours"], "limit": MOST_GIB, "met": peaks["ours"] < MOST_GIB},
        ]
        return [line | {"peak_gib": peaks, "limits": limits, "met": line["met"] and all(limit["met"] for limit in limits)}]


def check(ours: pd.DataFrame, theirs: pd.DataFrame) -> list[Agreement]:
    """Every rate of theirs is in our table, and so is its bootstrap interval where units differ."""
    keys = ["condition", "contrast", "question"]
    own = ours["protocol"].eq(ours["protocol"].iloc[0]) & ours["measure"].eq("misaligned_rate") & (ours["subset"].isna() | ours["question"].notna())
    mine = ours[own & ours[["world", "seed", "step"]].isna().all(axis=1)]
    values = theirs.merge(mine[mine["headline"].eq(1)], on=keys, how="left", suffixes=("", "_ours"), validate="one_to_one")
    resampled = theirs.merge(mine[mine["method"].str.startswith("percentile", na=False)], on=keys, suffixes=("", "_ours"))
    ends = [((resampled[end] - resampled[f"{end}_ours"]).abs() / (resampled["high"] - resampled["low"])).max() for end in ("low", "high")]
    return [
        Agreement(of="rates", difference=float((values["value"] - values["value_ours"]).abs().max(skipna=False)), tolerance=RATE),
        *([Agreement(of="bootstrap ends, share of the interval,", difference=float(max(ends)), tolerance=WIDTH)] if len(resampled) else []),
    ]


# --- both sides -----------------------------------------------------------------------------------------------------------


def ours(run: Path, peaks: dict[str, float]) -> pd.DataFrame:
    """The estimates of a run that had none, after its report was written."""
    for name in ("estimates.csv", "estimates.json", "claims.json", "report.html"):
        (run / name).unlink(missing_ok=True)
    shutil.rmtree(run / "figures", ignore_errors=True)
    peaks["ours"] = max(peaks.get("ours", 0.0), _peak_gib([sys.executable, "-W", "ignore", "-c", OURS, str(run)]))
    return _read(run / "estimates.csv")


def theirs(run: Path, out: Path, peaks: dict[str, float]) -> pd.DataFrame:
    peaks["theirs"] = max(peaks.get("theirs", 0.0), _peak_gib([sys.executable, "-W", "ignore", "-m", "bench.estimate_by_hand", str(run), str(out)]))
    return _read(out / "estimates.csv")


def _read(path: Path) -> pd.DataFrame:
    return pd.read_csv(path, dtype={"condition": object, "contrast": object, "question": object})


def _peak_gib(words: list[str]) -> float:
    """Run a command, and say how much memory it held at the most."""
    running = subprocess.Popen(words)
    _, status, used = os.wait4(running.pid, 0)
    if status:
        raise SystemExit(f"{' '.join(words[:4])} ended with {os.waitstatus_to_exitcode(status)}")
    running.returncode = 0
    return used.ru_maxrss / 2**20
