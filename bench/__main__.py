"""Run benches and print their table: `python -m bench [NAME ...] [--reduced] [--results DIR]`.

Each runs in a process of its own; without names, all. `--reduced` takes tiny sizes, to see that every check holds, and keeps nothing unless
`--results` says where. A bench whose sides differ is named, the others go on, and the exit status is 1.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from bench.harness import RESULTS, DifferenceError, Line, append, measured, table

BENCHES = ("train", "answers", "log_probabilities", "study", "estimate", "startup")
ENVIRONMENT = {  # of both sides; the first is what `spillover` sets for itself
    "OMP_WAIT_POLICY": "PASSIVE", "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1", "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1", "TRANSFORMERS_VERBOSITY": "error", "WANDB_DISABLED": "true",
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(BENCHES))
    parser.add_argument("--reduced", action="store_true", help="tiny sizes")
    parser.add_argument("--results", type=Path, help="where lines are kept")
    given = parser.parse_args()
    odd = next((name for name in given.names if name not in BENCHES), None)
    if odd is not None:
        parser.error(f"there is no bench {odd!r}; there are {', '.join(BENCHES)}")
    results = given.results or (None if given.reduced else RESULTS)
    os.environ.update({name: os.environ.get(name, value) for name, value in ENVIRONMENT.items()})
    lines, differ = list[Line](), list[str]()
    for name in given.names or BENCHES:
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as alone:
            try:
                found = alone.submit(measured, name, reduced=given.reduced).result()
            except DifferenceError as error:
                differ.append(str(error))
                continue
        lines += found
        for line in found if results is not None else ():
            append(line, results)
    print(f"\n{table(lines)}")
    if differ:
        raise SystemExit("\n".join(differ))


if __name__ == "__main__":
    main()
