"""How long until something is there: `--help`, the import, and the first line of progress, against llmcomp, inspect_ai and lm-eval.

Each peer that has no place in the bench's own environment has one beside it (`.venv-bench/peers/NAME`). A peer that is not installed is left out and
named. The first line of progress is held against the first output of a peer's run: `inspect eval` and `lm_eval run` on a model that needs nothing.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

from bench import harness
from bench.harness import Agreement, Line

HERE = Path(sys.executable).parent
PEERS = HERE.parent / "peers"
IMPORTED = ("llmcomp", "inspect_ai", "lm_eval")
COMMANDS = {"inspect_ai": "inspect", "lm_eval": "lm_eval", "llmcomp": None}  # llmcomp has no command
TASK = """
from inspect_ai import Task, task
from inspect_ai.dataset import Sample
@task
def one():
    return Task(dataset=[Sample(input="a", target="b")] * 8)
"""
LONGEST_S = 120.0


def bench(*, reduced: bool) -> list[Line]:
    repeats = 1 if reduced else 7
    with tempfile.TemporaryDirectory() as home:
        (Path(home) / "one.py").write_text(TASK)
        helps = {name: partial(finished, [str(command), "--help"]) for name, command in commands().items()}
        imports = {name: partial(finished, [str(found), "-c", f"import {name}"]) for name in IMPORTED if (found := python(name))}
        progress = {name: partial(first_output, words, Path(home)) for name, words in runs().items()}
        sides = {
            "startup: --help": (partial(finished, [str(HERE / "spillover"), "--help"]), helps),
            "startup: import": (partial(finished, [sys.executable, "-c", "import spillover"]), imports),
            "startup: first line of progress": (partial(first_progress, Path(home)), progress),
        }
        return [_line(name, ours, theirs, repeats) for name, (ours, theirs) in sides.items()]


def _line(name: str, ours: Callable[[], str], theirs: Mapping[str, Callable[[], str]], repeats: int) -> Line:
    """Against the fastest peer, which is found first; the seconds of all are kept."""
    chosen, tried = harness.fastest(theirs, rounds=1 if repeats == 1 else 2)
    missing = [peer for peer in IMPORTED if peer not in theirs]
    return harness.compare(
        name, ours, theirs[chosen], check=check, against=f"{chosen}, the fastest of {', '.join(theirs)}", target=1.0, repeats=repeats,
        settings={"tried_s": tried, "left_out": missing},
    )  # fmt: skip


def check(ours: str, theirs: str) -> list[Agreement]:
    """Both ended well, which `finished` and `first_output` see to."""
    return [Agreement(of="sides that failed", difference=float(ours != "ended well") + float(theirs != "ended well"), tolerance=0.0)]


def python(peer: str) -> Path | None:
    """The interpreter that has a peer: its own, or the bench's."""
    own = PEERS / peer / "bin" / "python"
    return own if own.exists() else Path(sys.executable) if harness.version(peer) else None


def commands() -> dict[str, Path]:
    found = {name: place.parent / command for name, command in COMMANDS.items() if command and (place := python(name))}
    return {name: path for name, path in found.items() if path.exists()}


def runs() -> dict[str, list[str]]:
    """The smallest run of each peer that needs no key and no network."""
    words = {
        "inspect_ai": ["eval", "one.py", "--model", "mockllm/model", "--display", "plain", "--no-log-realtime"],
        "lm_eval": ["run", "--model", "dummy", "--tasks", "arithmetic_1dc", "--limit", "8"],
    }
    return {name: [str(command), *words[name]] for name, command in commands().items() if name in words}


# --- clocks ---------------------------------------------------------------------------------------------------------------


def finished(words: Sequence[str]) -> str:
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=LONGEST_S)
    return "ended well" if done.returncode == 0 else done.stderr


def first_progress(home: Path) -> str:
    """`spillover run` on a terminal, until it shows how far it is."""
    return first_output([str(HERE / "spillover"), "run", "--worlds", "1", "--draws", "1", "--out", str(home / f"run-{time.time_ns()}")], home)


def first_output(words: Sequence[str], home: Path) -> str:
    """A command on a terminal of its own, until its first output; it is stopped there."""
    import pty

    ours, its = pty.openpty()
    running = subprocess.Popen(words, stdout=its, stderr=its, stdin=subprocess.DEVNULL, cwd=home, start_new_session=True)
    os.close(its)
    try:
        said = b""
        while not said.strip():
            said = os.read(ours, 4096)
    except OSError:  # it ended without a word
        return "nothing was said"
    finally:
        running.kill()
        running.wait()
        os.close(ours)
    return "ended well" if b"rror" not in said else said.decode(errors="replace")
