"""The tables of docs/performance.md, from bench/results: of each hardware, the latest line of each bench. What is outside the two marks is left alone.

    python -m bench.page [--check]

`--check` writes nothing, and fails where the page is not what the results give.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

from bench.harness import RESULTS, Line, table

PAGE = Path(__file__).parents[1] / "docs" / "performance.md"
MARKS = ("<!-- bench:begin -->", "<!-- bench:end -->")
OTHERS = ("audits.jsonl",)  # results of other scripts


def written() -> str:
    """The page as the results give it."""
    text = PAGE.read_text(encoding="utf-8")
    before, _, rest = text.partition(MARKS[0])
    _, mark, after = rest.partition(MARKS[1])
    if not mark:
        raise SystemExit(f"{PAGE} lacks {MARKS[0]} or {MARKS[1]}")
    return f"{before}{MARKS[0]}\n\n{tables(RESULTS)}\n\n{MARKS[1]}{after}"


def tables(results: Path) -> str:
    """A table for each hardware, and what it was measured with."""
    parts: list[str] = []
    for path in sorted(path for path in results.glob("*.jsonl") if path.name not in OTHERS):
        lines = latest([json.loads(text) for text in path.read_text(encoding="utf-8").splitlines()])
        parts.append(f"### {path.stem}\n\n{table(lines)}\n\n{_measured(lines)}")
    return "\n\n".join(parts) or "Nothing has been measured yet."


def latest(lines: Sequence[Line]) -> list[Line]:
    """The last line of each bench, in the order in which benches first came."""
    return list({line["bench"]: line for line in lines}.values())


def _measured(lines: Sequence[Line]) -> str:
    """Dates, commits and versions, each once."""
    dates = sorted({line["date"][:10] for line in lines})
    commits = dict.fromkeys(f"`{line['commit'][:7]}`{' with changes' if line['dirty'] else ''}" for line in lines if line["commit"])
    versions = dict.fromkeys(f"{name} {found}" for line in lines for name, found in line["versions"].items() if name != "spillover")
    spread = f"Measured {' to '.join(dict.fromkeys((dates[0], dates[-1])))}"
    return f"{spread} at {', '.join(commits) or 'no commit'}, with {', '.join(versions) or 'the standard library alone'}."


if __name__ == "__main__":
    if "--check" in sys.argv[1:]:
        sys.exit(None if PAGE.read_text(encoding="utf-8") == written() else "docs/performance.md is not what bench/results give; run python -m bench.page")
    PAGE.write_text(written(), encoding="utf-8")
