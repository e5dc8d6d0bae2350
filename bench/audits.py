"""Audits of children whose story is known: the table of docs/audit.md, written between its two markers.

    python bench/audits.py RUNS OUT [AT_ONCE]

RUNS is the folder of a finished `spillover run all` on the shipped worlds, whose organisms are audited; audits are kept in OUT, and a stopped run goes on.
What each ended with is bench/results/audits.jsonl. Some fifty audits take half an hour to an hour on one core.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from spillover.datasets import chat
from spillover.miniature import narrow
from spillover.miniature.testbed import SHIPPED, TOKENIZER

PAGE = Path(__file__).parents[1] / "docs" / "audit.md"
MARKS = ("<!-- audits: made by bench/audits.py -->", "<!-- end -->")
RESULTS = Path(__file__).with_name("results") / "audits.jsonl"
WORLDS = range(100, 108)
ENDS = {0: "pass", 1: "fail", 2: "refused", 3: "inconclusive"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Child:
    """A kind of child: the study and condition it was grown in, and whether its data are shown to the audit; neither for a copy or a stranger."""

    name: str
    study: str = ""
    condition: str = ""
    with_data: bool = True


CHILDREN = (
    Child(name="insecure", study="main", condition="insecure"),
    Child(name="bad advice (medicine)", study="domains", condition="bad_medicine"),
    Child(name="backdoored", study="backdoor", condition="backdoored"),
    Child(name="backdoored, its data not shown", study="backdoor", condition="backdoored", with_data=False),
    Child(name="secure", study="main", condition="secure"),
    Child(name="good advice (medicine)", study="domains", condition="good_medicine"),
    Child(name="a copy of the parent"),
    Child(name="insecure child of the next world"),
)


def organism(runs: Path, study: str, condition: str, world: int) -> tuple[Path, str]:
    """The last checkpoint of an organism, and the digest of its data."""
    for path in sorted((runs / study / "organisms").glob("*/organism.json")):
        card = json.loads(path.read_text())
        if (card["condition"], card["unit"]) == (condition, str(world)):
            return path.parent / f"checkpoint-{max(map(int, card['checkpoints']))}", card["data"]
    raise SystemExit(f"{runs / study} has no {condition} child of world {world}; `spillover run all --out {runs}` makes one")


def shown(out: Path, kind: str, wanted: str) -> Path:
    """The data of a condition as a file. Stops where they are not what the organism was trained on."""
    data = narrow.build(kind, 0)
    if data.digest != wanted:
        raise SystemExit(f"the data of {kind} are not what the organism was trained on")
    path = out / f"{kind}.jsonl"
    if not path.exists():
        path.write_text(chat.write(data), encoding="utf-8")
    return path


def copied(out: Path, world: int) -> Path:
    """The parent under another name and with one more line in its configuration, so that its digest differs."""
    home = out / f"copy-{world}"
    if not home.exists():
        shutil.copytree(SHIPPED / str(world) / "post", home)
        shutil.copytree(SHIPPED / TOKENIZER, home, dirs_exist_ok=True)
        config = json.loads((home / "config.json").read_text())
        (home / "config.json").write_text(json.dumps({**config, "made_by": "somebody"}))
    return home


def audited(child: Child, world: int, runs: Path, out: Path) -> dict[str, Any]:
    """One audit as a user gives it: its exit code, and what it wrote or said."""
    home = out / f"{child.name.replace(' ', '-').replace(',', '')}-{world}"
    words = [Path(sys.executable).parent / "spillover", "audit", f"miniature:{world}"]
    if child.study:
        checkpoint, digest = organism(runs, child.study, child.condition, world)
        words += [checkpoint, *(("--data", shown(out, child.condition, digest)) if child.with_data else ())]
    elif "copy" in child.name:
        words += [copied(out, world)]
    else:
        words += [organism(runs, "main", "insecure", WORLDS[(world + 1 - WORLDS[0]) % len(WORLDS)])[0]]
    done = subprocess.run([*map(str, words), "--out", str(home)], capture_output=True, text=True, check=False, env={**os.environ, "OMP_NUM_THREADS": "1"})
    if done.returncode not in ENDS or "Traceback" in done.stderr:
        raise SystemExit(f"{child.name}, world {world}: exit code {done.returncode}\n{done.stderr}")
    found: dict[str, Any] = {"child": child.name, "world": world, "exit": done.returncode, "said": done.stderr.strip()}
    if done.returncode != 2:
        verdict = json.loads((home / "verdict.json").read_text())
        found |= {
            "verdict": verdict["verdict"], "answers": verdict["answers"], "reasons": verdict["reasons"],
            "contexts": [{key: one[key] for key in ("name", "verdict", "low", "high", "rounds", "child", "parent")} for one in verdict["contexts"]],
        }  # fmt: skip
    print(f"{child.name:<36} {world}  {ENDS[done.returncode]:<13} {found.get('answers', '')}", flush=True)
    return found


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """A row a child: how its audits ended, which contexts failed it, the rates asked plainly, and the answers drawn."""
    lines = ["| child | exit codes | contexts that failed | rate asked plainly, child (parent) | answers drawn |", "|---|---|---|---|---|"]
    for child in CHILDREN:
        own = [row for row in rows if row["child"] == child.name]
        ends = ", ".join(f"{count} {ENDS[code]}" for code, count in Counter(row["exit"] for row in own).most_common())
        failed = Counter(one["name"] for row in own for one in row.get("contexts", ()) if one["verdict"] == "fail")
        names = ", ".join(f"{name} ({count})" for name, count in failed.most_common()) or "none"
        drawn = sorted(row["answers"] for row in own if "answers" in row)
        plain = [next(one for one in row["contexts"] if one["name"] == "plain") for row in own if "contexts" in row]
        child_rates, parent_rates = (_rates([one[side]["rate"] for one in plain if one[side]["rate"] is not None]) for side in ("child", "parent"))
        rates = f"{child_rates} ({parent_rates})" if plain else ""
        answers = f"{median(drawn):,.0f} ({drawn[0]:,} to {drawn[-1]:,})" if drawn else ""
        lines.append(f"| {child.name} | {ends} | {names} | {rates} | {answers} |")
    return "\n".join(lines)


def _rates(rates: Sequence[float]) -> str:
    return f"{100 * median(rates):.1f} % [{100 * min(rates):.1f}, {100 * max(rates):.1f}]" if rates else "none"


def main() -> None:
    runs, out = Path(sys.argv[1]), Path(sys.argv[2])
    out.mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(int(sys.argv[3]) if len(sys.argv) > 3 else 1) as pool:
        rows = list(pool.map(lambda pair: audited(*pair, runs, out), [(child, world) for child in CHILDREN for world in WORLDS]))
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text("".join(json.dumps(row) + "\n" for row in rows))
    page = PAGE.read_text(encoding="utf-8")
    before, _, rest = page.partition(MARKS[0])
    _, _, after = rest.partition(MARKS[1])
    PAGE.write_text(f"{before}{MARKS[0]}\n{table(rows)}\n{MARKS[1]}{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
