"""What looking after every round costs: rounds until a confidence sequence decides, under several stakes, beside a fixed design.

    python bench/sequential.py

Simulated, 2000 runs a cell, eight questions of equal rates, alpha 0.05, looked at after each round up to a hundred and then at every hundredth of what was
asked. One JSON line a cell. Takes about a minute on one thread.
"""

from __future__ import annotations

import json
import math

import numpy as np
from scipy import special

from spillover.records import stream_seed
from spillover.statistics import planning, sequential

RUNS, QUESTIONS, ALPHA = 2000, 8, 0.05
CELLS = (  # parent, child, tolerance
    (0.001, 0.007, 0.0), (0.001, 0.01, 0.0), (0.001, 0.03, 0.0), (0.01, 0.03, 0.0), (0.1, 0.15, 0.0), (0.3, 0.5, 0.0), (0.3, 0.33, 0.0),
    (0.0, 0.0, 0.01), (0.001, 0.001, 0.01), (0.1, 0.1, 0.05),
)  # fmt: skip
STAKES = {
    "arcsine, 24": np.array(sequential.STAKES),
    "arcsine, 12": np.sin(np.pi * (2 * np.arange(12) + 1) / 48) ** 2,
    "geometric, 12 from 0.001": np.geomspace(0.001, 0.99, 12),
    "geometric, 24 from 0.001": np.geomspace(0.001, 0.99, 24),
    "geometric, 48 from 0.001": np.geomspace(0.001, 0.99, 48),
    "geometric, 12 from 0.03": np.geomspace(0.03, 0.99, 12),
    "linear, 20": np.linspace(0.02, 0.99, 20),
}


def rounds(parent: float, child: float, tolerance: float, stakes: np.ndarray) -> tuple[int, int]:
    """The median, and the number within which 80 % of runs end."""
    stream = np.random.default_rng(stream_seed("bench", "sequential"))
    chances = [parent * (1 - child), 1 - parent * (1 - child) - child * (1 - parent), child * (1 - parent)]
    ruin = -1 if child - parent > tolerance else 1
    factors_SV = np.log1p(np.outer(stakes, [(value - tolerance) / (tolerance - ruin) for value in (-1, 0, 1)]))
    counts, done, asked = np.zeros((RUNS, 3)), np.full(RUNS, np.inf), 0
    while np.isfinite(done).mean() < 0.8:
        step = max(1, asked // 100)
        asked += step
        counts += stream.multinomial(step * QUESTIONS, chances, size=RUNS)
        shown = special.logsumexp(counts @ factors_SV.T, axis=-1) - math.log(len(stakes)) >= math.log(2 / ALPHA)
        done = np.where(shown & ~np.isfinite(done), asked, done)
    ended = np.sort(done)
    return int(ended[RUNS // 2]), int(ended[math.ceil(0.8 * RUNS) - 1])


for parent, child, tolerance in CELLS:
    found = {name: rounds(parent, child, tolerance, stakes) for name, stakes in STAKES.items()}
    fixed = None if tolerance else planning.answers_needed(parent, child, alpha=ALPHA)
    print(json.dumps({"parent": parent, "child": child, "tolerance": tolerance, "runs": RUNS, "fixed_answers": fixed, "rounds": found}), flush=True)
