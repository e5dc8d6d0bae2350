"""The command line in this process, watched: what it says, how it ends, how long it takes, and whatever it does outside its output directory.

A command runs in a directory of its own, with the streams and the warnings it has in a terminal. What it opens, makes, moves, removes, starts or
calls is seen by an audit hook; what libraries write without Python, by comparing the directory before and after.
"""

from __future__ import annotations

import faulthandler
import logging
import os
import resource
import shutil
import signal
import sys
import tempfile
import warnings
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from types import FrameType, SimpleNamespace
from typing import Any, BinaryIO

import typer.main

from spillover import cli

LONGEST_LINE = 400
CPU_S, WALL_S, HUNG_S = 20.0, 180.0, 300.0
MEMORY = 4 * 2**30  # bytes beyond what this process has
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
# events that change paths, and which of their arguments those are
CHANGES = {
    "os.mkdir": (0,), "os.rename": (0, 1), "os.remove": (0,), "os.rmdir": (0,), "os.link": (1,), "os.symlink": (1,), "os.chmod": (0,), "os.truncate": (0,),
}  # fmt: skip
STARTS = {"subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.fork", "socket.connect", "socket.getaddrinfo", "webbrowser.open"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """How a command ended. `did` is whatever it was seen to do that it may not."""

    code: object
    out: str
    err: str
    did: tuple[str, ...]

    @property
    def complaint(self) -> str | None:
        """Why this is not how a command may end: well and quietly, or with one line and exit code 2."""
        if self.did:
            return f"it did this: {'; '.join(self.did)}"
        if self.code not in (0, 2):
            return f"exit code {self.code!r}: {self.err[-1000:]}"
        if not all(character.isprintable() or character == "\n" for character in self.out):
            return f"it printed {self.out!r}"
        if self.code == 0:
            return None if self.out and not self.err else f"it ended well and said {self.err!r}, {self.out!r}"
        line = self.err.removesuffix("\n")
        if line == self.err or not line.isprintable() or not line.startswith("spillover: ") or "Traceback" in line or len(line) > LONGEST_LINE:
            return f"not one line of at most {LONGEST_LINE} characters, but {len(self.err)}: {self.err[:1000]!r}"
        return None


def complaints(found: Sequence[tuple[str, Ended]]) -> str:
    """Every complaint with the name of its file, the first twenty in words."""
    odd = [f"{name}: {ended.complaint}" for name, ended in found if ended.complaint is not None]
    return f"{len(odd)} of {len(found)}:\n" + "\n".join(odd[:20]) if odd else ""


class Confined:
    """A directory to run commands in. Files are put into it; `out` is for a command to write."""

    def __init__(self, place: Path) -> None:
        self.place = place.resolve()
        self.out = self.place / "out"
        self.home = self.place / "home"
        self.home.mkdir(parents=True)

    def put(self, name: str, content: bytes) -> None:
        path = self.place / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)

    def run(self, *arguments: str | Path, keep: bool = False) -> Ended:
        """Run a command as a terminal would, with an empty `out`; or, with `keep`, with what is in it."""
        if not keep:
            shutil.rmtree(self.out, ignore_errors=True)
        before, watch = self._tree(), _Watch(place=self.place, out=self.out)
        with self._placed(), _terminal() as said, _warned() as warned, _limited(watch.seen):
            sys.argv = ["spillover", *map(str, arguments)]
            _WATCHING.append(watch)
            try:
                cli.entry()
                code: object = "none"
            except SystemExit as ended:
                code = ended.code
            except BaseException as error:  # a traceback, in a terminal
                code = type(error).__name__
                watch.seen.append(_raised(error))
            finally:
                _WATCHING.clear()
        after = self._tree()
        changed = sorted(name for name in before.keys() | after.keys() if before.get(name) != after.get(name))
        did = (*watch.seen, *(f"changed {name}" for name in changed), *(f"warned {one.category.__name__}: {one.message}"[:300] for one in warned))
        return Ended(code=code, out=said.out, err=said.err, did=did)

    def _tree(self) -> dict[Path, tuple[int, int]]:
        """Everything outside `out`: sizes and times of change."""
        found: dict[Path, tuple[int, int]] = {}
        for root, directories, files in os.walk(self.place):
            directories[:] = [name for name in directories if Path(root, name) != self.out]
            for path in (Path(root, name) for name in (*directories, *files)):
                at = path.lstat()
                found[path] = at.st_size, at.st_mtime_ns
        return found

    @contextmanager
    def _placed(self) -> Generator[None]:
        """In this directory, with a home in it; everything is put back."""
        kept, argv, where, temporary, writes = dict(os.environ), sys.argv, Path.cwd(), tempfile.tempdir, sys.dont_write_bytecode
        os.environ.update({name: str(self.home) for name in ("HOME", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME", "TMPDIR")})
        os.chdir(self.place)
        tempfile.tempdir, sys.dont_write_bytecode = str(self.home), True
        try:
            yield
        finally:
            os.chdir(where)
            sys.argv, tempfile.tempdir, sys.dont_write_bytecode = argv, temporary, writes
            os.environ.clear()
            os.environ.update(kept)


# --- what it does ---------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Watch:
    """`out` is the only place where anything may be changed, and a path with `hostile` in it the one that nothing may open."""

    place: Path
    out: Path
    seen: list[str] = field(default_factory=list[str])

    def hears(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open":
            path, _, flags = arguments
            if not isinstance(path, int) and ("hostile" in Path(os.fsdecode(path)).parts or flags & WRITES):
                self._path(event, path)
        elif event in STARTS:
            self.seen.append(f"{event} {arguments!r:.200}")
        for argument in CHANGES.get(event, ()):
            self._path(event, arguments[argument])

    def _path(self, event: str, path: Any) -> None:
        found = Path(os.path.normpath(self.place / os.fsdecode(path)))
        if found != Path(os.devnull) and not found.is_relative_to(self.out):
            self.seen.append(f"{event} {found}")


_WATCHING: list[_Watch] = []  # the one that hears what happens, while a command runs


def _hook(event: str, arguments: tuple[Any, ...]) -> None:
    if _WATCHING:
        _WATCHING[0].hears(event, arguments)


sys.addaudithook(_hook)


def _raised(error: BaseException) -> str:
    """An error and the last frames it came through."""
    frames: list[str] = []
    trace = error.__traceback__
    while trace is not None:
        frames.append(f"{Path(trace.tb_frame.f_code.co_filename).name}:{trace.tb_lineno}")
        trace = trace.tb_next
    return f"raised {type(error).__name__} ({str(error)[:200]!r}) at {' > '.join(frames[-6:])}"


# --- as in a terminal -----------------------------------------------------------------------------------------------------


@contextmanager
def _terminal() -> Generator[SimpleNamespace]:
    """Standard output and error as files: for Python, for loggers, and for what writes past Python. They are read at the end."""
    said = SimpleNamespace(out="", err="")
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        kept, streams = (os.dup(1), os.dup(2)), (sys.stdout, sys.stderr)
        os.dup2(out.fileno(), 1)
        os.dup2(err.fileno(), 2)
        sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
        sys.stderr = open(2, "w", encoding="utf-8", errors="backslashreplace", buffering=1, closefd=False)  # noqa: SIM115
        loggers = [handler for known in logging._handlerList if type(handler := known()) is logging.StreamHandler]
        before = [(handler, handler.setStream(sys.stderr)) for handler in loggers]
        try:
            yield said
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            for handler, stream in before:
                handler.setStream(stream or streams[1])
            sys.stdout, sys.stderr = streams
            for number, original in enumerate(kept, 1):
                os.dup2(original, number)
                os.close(original)
            said.out, said.err = _content(out), _content(err)


def _content(file: BinaryIO) -> str:
    file.seek(0)
    return file.read().decode("utf-8", "backslashreplace")


@contextmanager
def _warned() -> Generator[list[warnings.WarningMessage]]:
    """The warnings that would be printed: by the filters that Python starts with, and those that the command line adds."""
    app = cli.app
    with warnings.catch_warnings(record=True) as found:
        warnings.resetwarnings()
        for category in (ResourceWarning, ImportWarning, PendingDeprecationWarning, DeprecationWarning):
            warnings.simplefilter("ignore", category)
        cli.app = _commands()  # made once, not for each of thousands
        try:
            yield found
        finally:
            cli.app = app


@cache
def _commands() -> Any:
    return typer.main.get_command(cli.app)


class _TookTooLongError(BaseException):
    """Raised in a command at its limit; no `except Exception` keeps it."""


@contextmanager
def _limited(seen: list[str]) -> Generator[None]:
    """Raise in the main thread after seconds of work or of waiting, and where memory runs out; end this process if even that does not help."""

    def late(number: int, _frame: FrameType | None) -> None:
        seen.append(f"took more than {CPU_S if number == signal.SIGPROF else WALL_S:g} s")
        raise _TookTooLongError

    handlers = [(number, signal.signal(number, late)) for number in (signal.SIGPROF, signal.SIGALRM)]
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    there = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize() if sys.platform == "linux" else 0
    signal.setitimer(signal.ITIMER_PROF, CPU_S)
    signal.setitimer(signal.ITIMER_REAL, WALL_S)
    faulthandler.dump_traceback_later(HUNG_S, exit=True, file=sys.__stderr__ or sys.stderr)
    if there:
        resource.setrlimit(resource.RLIMIT_AS, (there + MEMORY, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.setitimer(signal.ITIMER_REAL, 0)
        faulthandler.cancel_dump_traceback_later()
        for number, handler in handlers:
            signal.signal(number, handler)
