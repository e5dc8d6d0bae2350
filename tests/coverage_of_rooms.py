"""Fails unless each of the rooms that every number passes through is covered by at least 90 %. Run after pytest --cov.

Files of tests marked no_cover are not traced, which takes a quarter to almost a half off their time: the shares are of what the others reach.
"""

from __future__ import annotations

import sys
from pathlib import Path

from coverage import Coverage

ROOMS = ("records", "design", "datasets", "statistics", "runs", "sampling", "pipeline")
FLOOR = 90.0


def main() -> int:
    coverage = Coverage()
    coverage.load()
    low = 0
    for room in ROOMS:
        run = total = 0
        for path in Path("src/spillover").rglob("*.py"):
            if path.relative_to("src/spillover").parts[0].removesuffix(".py") == room:
                _, statements, _, missing, _ = coverage.analysis2(str(path))
                total += len(statements)
                run += len(statements) - len(missing)
        share = 100 * run / total
        print(f"{room:<12} {share:5.1f} % of {total} statements")
        low += share < FLOOR
    return min(low, 1)


if __name__ == "__main__":
    sys.exit(main())
