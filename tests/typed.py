"""Commands as a user types them, in this process: what they print, and their exit code. Starting a process takes seconds, and imports torch anew."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import traceback
import warnings
from collections.abc import Generator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path

from spillover import cli

SPILLOVER = str(Path(sys.executable).parent / "spillover")  # for what only a process of its own shows


def spillover(*words: str | Path, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Whatever ends a command, a crash too, ends as it would end the process."""
    out, err, code = io.StringIO(), io.StringIO(), 0
    with _instead(list(map(str, words)), cwd), redirect_stdout(out), redirect_stderr(err), warnings.catch_warnings():
        warnings.resetwarnings()
        try:
            cli.entry()
        except SystemExit as ended:
            code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
        except Exception:
            traceback.print_exc()
            code = 1
    return subprocess.CompletedProcess(words, code, out.getvalue(), err.getvalue())


def refused(*words: str | Path) -> str:
    """The one line a refused command prints."""
    done = spillover(*words)
    assert done.returncode == 2, (done.returncode, done.stdout, done.stderr)
    assert done.stderr.count("\n") == 1, done.stderr
    assert "Traceback" not in done.stderr
    return done.stderr


@contextmanager
def _instead(words: list[str], cwd: Path | None) -> Generator[None]:
    """Another command line and working directory than those of the tests."""
    argv, where = sys.argv, Path.cwd()
    sys.argv = ["spillover", *words]
    os.chdir(cwd or where)
    try:
        yield
    finally:
        sys.argv = argv
        os.chdir(where)
