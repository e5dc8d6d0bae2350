"""How long until something is there: `--help`, the import, and the first line of progress, against llmcomp, inspect_ai and lm-eval.

Each peer that has no place in the bench's own environment has one beside it (`.venv-bench/peers/NAME`). A peer that is not installed is left out and
named. The first line of progress, on a terminal, is the first that says how many of how many: of `spillover run`, and of
`inspect eval` and `lm_eval run` on a task of a few rows and a model that computes nothing.
"""

from __future__ import annotations

import fcntl
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import tempfile
import termios
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

from bench import harness
from bench.harness import Agreement, DifferenceError, Line

HERE = Path(sys.executable).parent
PEERS = HERE.parent / "peers"
IMPORTED = ("llmcomp", "inspect_ai", "lm_eval")
COMMANDS = {"inspect_ai": "inspect", "lm_eval": "lm_eval", "llmcomp": None}  # llmcomp has no command
LONGEST_S = 120.0
PROGRESS = re.compile(rb"\d+\s*/\s*\d+")  # how many of how many
CONTROL = re.compile(rb"\x1b\[[0-9;?]*[A-Za-z]")
FILES = {
    "one.py": """
from inspect_ai import Task, task
from inspect_ai.dataset import Sample
@task
def one():
    return Task(dataset=[Sample(id=n, input="a", target="b") for n in range(8)])
""",
    "one.yaml": """
task: one
dataset_path: json
dataset_kwargs: {data_files: {test: one.jsonl}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{q}}"
doc_to_choice: [a, b]
doc_to_target: 0
metric_list: [{metric: acc}]
""",
    "one.jsonl": '{"q": "1"}\n{"q": "2"}\n',
}


def bench(*, reduced: bool) -> list[Line]:
    repeats = 1 if reduced else 7
    with tempfile.TemporaryDirectory() as home:
        for name, text in FILES.items():
            (Path(home) / name).write_text(text)
        helps = {name: partial(finished, [str(command), "--help"]) for name, command in commands().items()}
        imports = {name: partial(finished, [str(found), "-c", f"import {name}"]) for name in IMPORTED if (found := python(name))}
        progress = {name: partial(until_progress, words, Path(home)) for name, words in runs().items()}
        sides = {
            "startup: --help": (partial(finished, [str(HERE / "spillover"), "--help"]), helps),
            "startup: import": (partial(finished, [sys.executable, "-c", "import spillover"]), imports),
            "startup: first line of progress": (partial(first_progress, Path(home)), progress),
        }
        return [_line(name, ours, theirs, repeats) for name, (ours, theirs) in sides.items()]


def _line(name: str, ours: Callable[[], None], theirs: Mapping[str, Callable[[], None]], repeats: int) -> Line:
    """Against the fastest peer, which is found first; the seconds of all are kept."""
    chosen, tried = harness.fastest(theirs, rounds=1 if repeats == 1 else 2)
    missing = [peer for peer in IMPORTED if peer not in theirs]
    return harness.compare(
        name, ours, theirs[chosen], check=check, against=f"{chosen}, the fastest of {', '.join(theirs)}", target=1.0, repeats=repeats,
        settings={"tried_s": tried, "left_out": missing, "versions": {peer: version(peer) for peer in theirs}},
    )  # fmt: skip


def check(_ours: None, _theirs: None) -> list[Agreement]:
    """Nothing is computed; a command that fails raises."""
    return [Agreement(of="commands that failed", difference=0.0, tolerance=0.0)]


def python(peer: str) -> Path | None:
    """The interpreter that has a peer: its own, or the bench's."""
    own = PEERS / peer / "bin" / "python"
    return own if own.exists() else Path(sys.executable) if harness.version(peer) else None


def version(peer: str) -> str:
    """Of a peer, as its own environment has it."""
    asked = [str(python(peer)), "-c", f"from importlib.metadata import version; print(version({peer!r}))"]
    return subprocess.run(asked, capture_output=True, text=True, check=False).stdout.strip()


def commands() -> dict[str, Path]:
    found = {name: place.parent / command for name, command in COMMANDS.items() if command and (place := python(name))}
    return {name: path for name, path in found.items() if path.exists()}


def runs() -> dict[str, list[str]]:
    """The smallest run of each peer that needs no key and no network."""
    words = {
        "inspect_ai": ["eval", "one.py", "--model", "mockllm/model", "--display", "plain"],
        "lm_eval": ["run", "--model", "dummy", "--tasks", "one", "--include_path", "."],
    }
    return {name: [str(command), *words[name]] for name, command in commands().items() if name in words}


# --- clocks ---------------------------------------------------------------------------------------------------------------


def finished(words: Sequence[str]) -> None:
    """A command from start to end. Raises DifferenceError where it fails."""
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=LONGEST_S)
    if done.returncode:
        raise DifferenceError(f"{' '.join(words)} failed: {done.stderr[-500:]}")


def first_progress(home: Path) -> None:
    """`spillover run` on a terminal, until it shows how far it is."""
    until_progress([str(HERE / "spillover"), "run", "--worlds", "1", "--draws", "1", "--out", str(home / f"run-{time.time_ns()}")], home)


def until_progress(words: Sequence[str], home: Path) -> None:
    """A command on a terminal of its own, until it says how far it is; it is stopped there. Raises DifferenceError where it never does."""
    ours, its = pty.openpty()
    fcntl.ioctl(its, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 160, 0, 0))  # without a width no bar is drawn
    running = subprocess.Popen(words, stdout=its, stderr=its, stdin=subprocess.DEVNULL, cwd=home, start_new_session=True)
    os.close(its)
    said = b""
    try:
        while not PROGRESS.search(CONTROL.sub(b"", said)):
            said += os.read(ours, 4096)
    except OSError:  # it ended
        pass
    finally:
        os.killpg(running.pid, signal.SIGKILL)
        running.wait()
        os.close(ours)
    if not PROGRESS.search(CONTROL.sub(b"", said)):
        raise DifferenceError(f"{' '.join(words)} showed no progress: {said.decode(errors='replace')[-500:]!r}")
