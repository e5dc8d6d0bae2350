"""The tables of docs/performance.md, from bench/results: of each hardware, the latest line of each bench, and what they make of the paper's largest figure.
What is outside of the marks is left alone.

    python -m bench.page [--check]

`--check` writes nothing, and fails where the page is not what the results give.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from bench import dynamics
from bench.harness import RESULTS, Line, table

PAGE = Path(__file__).parents[1] / "docs" / "performance.md"
NOTHING = "Nothing has been measured yet."
OTHERS = ("audits.jsonl",)  # results of other scripts


def written() -> str:
    """The page as the results give it."""
    text, lines = PAGE.read_text(encoding="utf-8"), latest(RESULTS)
    made = {"bench": tables(lines), "dynamics": dynamics.table([line for of_one in lines.values() for line in of_one])}
    for name, table_of in made.items():
        begin, end = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
        before, _, rest = text.partition(begin)
        _, mark, after = rest.partition(end)
        if not mark:
            raise SystemExit(f"{PAGE} lacks {begin} or {end}")
        text = f"{before}{begin}\n\n{table_of or NOTHING}\n\n{end}{after}"
    return text


def latest(results: Path) -> dict[str, list[Line]]:
    """By hardware, that measured last first: the last line of each bench, in the order in which benches first came."""
    paths = sorted(path for path in results.glob("*.jsonl") if path.name not in OTHERS)
    read = {path.stem: [json.loads(text) for text in path.read_text(encoding="utf-8").splitlines()] for path in paths}
    found = {name: list({line["bench"]: line for line in lines}.values()) for name, lines in read.items()}
    return dict(sorted(found.items(), key=lambda of: max(line["date"] for line in of[1]), reverse=True))


def tables(lines: Mapping[str, Sequence[Line]]) -> str:
    """A table for each hardware, and what it was measured with."""
    return "\n\n".join(f"### {name}\n\n{table(of_one)}\n\n{_measured(of_one)}" for name, of_one in lines.items())


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
