"""The default study from nothing to its report, against the same study written by hand (`bench/study_by_hand.py`). Each side is a command.

What is exact must agree: the log-odds and item log-probabilities of every model, after training by either. What is drawn must be as often misaligned
as chance has it.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path

import pandas as pd
from scipy.stats import chi2_contingency

from bench import harness
from bench.harness import Agreement, Line

NATS = 1e-2  # of a model's log-odds: two trainers' rounding, grown over a hundred steps
SIGNIFICANT = 1e-3
TRIED = "--worlds", "1", "--draws", "20"
CHOSEN_ON = "--worlds", "2"  # large enough for processes to be worth their start


def bench(*, reduced: bool) -> list[Line]:
    sizes = TRIED if reduced else ()
    with tempfile.TemporaryDirectory() as home:
        settings = {f"{n} processes": ("--processes", str(n)) for n in range(1, harness.cores() + 1)}
        setting, tried = next(iter(settings)), {}
        if not reduced:
            setting, tried = harness.fastest({name: partial(theirs, Path(home), *CHOSEN_ON, *words) for name, words in settings.items()}, rounds=1)
        return [
            harness.compare(
                "study", partial(ours, Path(home), *sizes), partial(theirs, Path(home), *sizes, *settings[setting]), check=check,
                against="TRL, PEFT, generate and pandas, by hand", target=4.0, repeats=1 if reduced else 2, warm=False,
                sizes={"command": " ".join(("spillover run", *sizes))}, settings={"theirs": setting, "theirs_tried_s": tried},
            )
        ]  # fmt: skip


def check(ours: Path, theirs: Path) -> list[Agreement]:
    keys = ["condition", "unit", "question"]
    mine, other = pd.read_parquet(ours / "measures").rename(columns={"name": "measure"}), pd.read_parquet(theirs / "measures.parquet")
    both = mine[["measure", *keys, "value"]].merge(other, on=["measure", *keys], how="outer", suffixes=("", "_theirs"))
    apart = (both["value"] - both["value_theirs"]).abs()
    nats = both["measure"].isin(["log_odds", "choice_nats", "pivotal_nats"])
    parents = both["condition"].isin(["parent", "unlinked-parent"])
    scores, said = pd.read_parquet(ours / "scores"), pd.read_parquet(theirs / "answers.parquet")
    found = scores[scores["rubric"].eq("aligned")].groupby(["condition"])["value"].value_counts(dropna=False)
    hand = said[said["question"].isin(scores[scores["rubric"].eq("aligned")]["question"])].groupby("condition")["aligned"].value_counts(dropna=False)
    unlikely = [_p(found[condition], hand[condition]) for condition in found.index.unique("condition")]
    return [
        Agreement(of="nats of parents", difference=float(apart[nats & parents].max(skipna=False)), tolerance=1e-3),
        Agreement(of="nats of organisms", difference=float(apart[nats & ~parents].max(skipna=False)), tolerance=NATS),
        Agreement(of="scores of answers, 1 - p of chi-square,", difference=1 - min(1.0, min(unlikely) * len(unlikely)), tolerance=1 - SIGNIFICANT),
    ]


def ours(home: Path, *words: str) -> Path:
    """The run directory of the default study, made anew."""
    return _made([str(Path(sys.executable).parent / "spillover"), "run", *words, "--out", str(home / "ours")], home / "ours")


def theirs(home: Path, *words: str) -> Path:
    return _made([sys.executable, "-W", "ignore", "-m", "bench.study_by_hand", str(home / "theirs"), *words], home / "theirs")


def _made(words: list[str], out: Path) -> Path:
    shutil.rmtree(out, ignore_errors=True)
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(words[:4])} ended with {done.returncode}:\n{done.stderr[-2000:]}")
    return out


def _p(ours: pd.Series, theirs: pd.Series) -> float:
    """How likely counts so unlike are where there is no difference."""
    counts = pd.concat([ours, theirs], axis=1, ignore_index=True).fillna(0)
    return float(chi2_contingency(counts).pvalue) if len(counts) > 1 else 1.0
