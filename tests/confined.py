# ruff: noqa: PTH100, PTH109, PTH118, PTH206
"""The command line in this process, watched: what it says, how it ends, how long it takes, and whatever it does outside its output directory.

A command runs in a directory of its own, with the warnings and the streams it has in a terminal. What it opens, makes, moves, removes, starts or
calls is seen by an audit hook; what libraries write without Python, by comparing the directory before and after.
"""

from __future__ import annotations

import faulthandler
import logging
import os
import shutil
import signal
import sys
import tempfile
import warnings
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import typer.main

from spillover import cli

LONGEST_LINE = 400
CPU_S, WALL_S, HUNG_S = 5.0, 60.0, 300.0
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
MOVES = {"os.mkdir": 1, "os.rename": 2, "os.remove": 1, "os.rmdir": 1, "os.link": 2, "os.symlink": 2, "os.chmod": 1, "os.truncate": 1}  # and how many paths
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
            return f"exit code {self.code!r}: {self.err[-1500:]}"
        if not all(character.isprintable() or character == "\n" for character in self.out):
            return f"it printed {self.out!r}"
        if self.code == 0:
            return None if self.err == "" and self.out else f"it ended well and said {self.err!r}, {self.out!r}"
        one = self.err.endswith("\n") and self.err.count("\n") == 1 and self.err[:-1].isprintable()
        if not one or not self.err.startswith("spillover: ") or "Traceback" in self.err:
            return f"it is not one line: {self.err[:1500]!r}"
        return f"{len(self.err)} characters: {self.err[:600]}" if len(self.err) > LONGEST_LINE else None


class _TookTooLongError(BaseException):
    """Raised in a command at its limit; no `except Exception` keeps it."""


@dataclass(slots=True)
class _Watch:
    """What is allowed and what was seen. `out` is the only place where anything may be changed."""

    place: Path
    out: Path
    seen: list[str] = field(default_factory=list[str])

    def hears(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open":
            path, _, flags = arguments
            if not isinstance(path, int) and ("hostile" in os.fsdecode(path).split(os.sep) or flags & WRITES):
                self._path(event, path)
        elif event in MOVES:
            for path in arguments[: MOVES[event]]:
                self._path(event, path)
        elif event in STARTS:
            self.seen.append(f"{event} {arguments!r:.200}")

    def _path(self, event: str, path: Any) -> None:
        found = Path(os.path.abspath(self.place / os.fsdecode(path)))
        if found != Path(os.devnull) and not found.is_relative_to(self.out):
            self.seen.append(f"{event} {found}")


_watch: _Watch | None = None


def _hook(event: str, arguments: tuple[Any, ...]) -> None:
    if _watch is not None:
        _watch.hears(event, arguments)


sys.addaudithook(_hook)


class Confined:
    """A directory to run commands in. Files are put into it; `out` is for a command to write, and is empty before each."""

    def __init__(self, place: Path) -> None:
        self.place = place.resolve()
        self.out = self.place / "out"
        self._home = self.place / "home"
        self._home.mkdir(parents=True)

    def run(self, *arguments: str | Path, keep: bool = False) -> Ended:
        """Run a command as a terminal would. With `keep`, `out` is left as it is before."""
        global _watch
        if not keep:
            shutil.rmtree(self.out, ignore_errors=True)
        before = self._tree()
        watch = _Watch(place=self.place, out=self.out)
        with self._placed(), _streams(self.place) as (out, err), _as_at_start() as warned, _limited(watch.seen):
            sys.argv = ["spillover", *map(str, arguments)]
            _watch = watch
            try:
                cli.entry()
                code: object = "no exit"
            except SystemExit as ended:
                code = ended.code
            except BaseException as error:  # what a terminal would show as a traceback
                code = f"{type(error).__name__}: {error}"[:300]
                watch.seen.append(_where(error))
            finally:
                _watch = None
        after = self._tree()
        changed = sorted(name for name in before.keys() | after.keys() if before.get(name) != after.get(name))
        watch.seen += [f"changed {name}" for name in changed]
        watch.seen += [f"warned: {one.category.__name__}: {one.message}"[:300] for one in warned]
        return Ended(code=code, out=out(), err=err(), did=tuple(watch.seen))

    def _tree(self) -> dict[str, tuple[int, int]]:
        """Everything outside `out`: sizes and times of change."""
        found: dict[str, tuple[int, int]] = {}
        for root, directories, files in os.walk(self.place):
            directories[:] = [name for name in directories if Path(root, name) != self.out]
            for name in (*directories, *files):
                at = os.lstat(os.path.join(root, name))
                found[os.path.join(root, name)] = (at.st_size, at.st_mtime_ns)
        return found

    @contextmanager
    def _placed(self) -> Generator[None]:
        """In this directory, with a home in it, and with everything put back."""
        kept, argv, where, temporary, written = dict(os.environ), sys.argv, os.getcwd(), tempfile.tempdir, sys.dont_write_bytecode
        home = str(self._home)
        os.environ.update({"HOME": home, "XDG_CACHE_HOME": home, "XDG_CONFIG_HOME": home, "XDG_DATA_HOME": home, "TMPDIR": home, "COLUMNS": "200"})
        os.chdir(self.place)
        tempfile.tempdir, sys.dont_write_bytecode = home, True
        try:
            yield
        finally:
            os.chdir(where)
            sys.argv, tempfile.tempdir, sys.dont_write_bytecode = argv, temporary, written
            os.environ.clear()
            os.environ.update(kept)


def _where(error: BaseException) -> str:
    """The last frames of an error, innermost last."""
    frames: list[str] = []
    trace = error.__traceback__
    while trace is not None:
        code = trace.tb_frame.f_code
        frames.append(f"{Path(code.co_filename).name}:{trace.tb_lineno} {code.co_name}")
        trace = trace.tb_next
    return f"raised {type(error).__name__} ({str(error)[:200]!r}) at {' > '.join(frames[-5:])}"


@contextmanager
def _streams(place: Path) -> Generator[tuple[Any, Any]]:
    """Standard output and error as files, for Python, for loggers, and for what writes past Python."""
    del place
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        kept, streams = [os.dup(1), os.dup(2)], (sys.stdout, sys.stderr)
        os.dup2(out.fileno(), 1), os.dup2(err.fileno(), 2)
        sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
        sys.stderr = open(2, "w", encoding="utf-8", errors="backslashreplace", closefd=False, buffering=1)  # noqa: SIM115
        handlers = [(found, found.stream) for reference in logging._handlerList if _writes_to_terminal(found := reference())]
        for handler, _ in handlers:
            handler.setStream(sys.stderr)

        def read(file: Any) -> Any:
            return lambda: (file.seek(0), file.read().decode("utf-8", "backslashreplace"))[1]

        said: dict[str, str] = {}
        try:
            yield (lambda: said["out"]), (lambda: said["err"])
        finally:
            sys.stdout.flush(), sys.stderr.flush()
            for handler, stream in handlers:
                handler.setStream(stream)
            sys.stdout, sys.stderr = streams
            os.dup2(kept[0], 1), os.dup2(kept[1], 2)
            os.close(kept[0]), os.close(kept[1])
            said |= {"out": read(out)(), "err": read(err)()}


def _writes_to_terminal(handler: Any) -> bool:
    return type(handler) is logging.StreamHandler


@contextmanager
def _as_at_start() -> Generator[list[warnings.WarningMessage]]:
    """The filters of warnings that Python starts with, and the commands, which are made once and not for each."""
    app = cli.app
    with warnings.catch_warnings(record=True) as found:
        warnings.resetwarnings()
        for category in (ResourceWarning, ImportWarning, PendingDeprecationWarning, DeprecationWarning):
            warnings.simplefilter("ignore", category)
        cli.app = _commands()
        try:
            yield found
        finally:
            cli.app = app


_made: list[Any] = []


def _commands() -> Any:
    if not _made:
        _made.append(typer.main.get_command(cli.app))
    return _made[0]


@contextmanager
def _limited(seen: list[str]) -> Generator[None]:
    """Raise in the main thread after seconds of work or of waiting; end this process if even that does not help."""

    def late(number: int, frame: FrameType | None) -> None:
        del frame
        seen.append(f"took more than {CPU_S if number == signal.SIGPROF else WALL_S} s")
        raise _TookTooLongError

    kept = [(number, signal.signal(number, late)) for number in (signal.SIGPROF, signal.SIGALRM)]
    signal.setitimer(signal.ITIMER_PROF, CPU_S)
    signal.setitimer(signal.ITIMER_REAL, WALL_S)
    faulthandler.dump_traceback_later(HUNG_S, exit=True, file=sys.__stderr__ or sys.stderr)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.setitimer(signal.ITIMER_REAL, 0)
        faulthandler.cancel_dump_traceback_later()
        for number, handler in kept:
            signal.signal(number, handler)


def complaints(found: Sequence[tuple[str, Ended]]) -> str:
    """Every complaint with the name of its file, the first twenty in words."""
    odd = [f"{name}: {ended.complaint}" for name, ended in found if ended.complaint is not None]
    return f"{len(odd)} of {len(found)}:\n" + "\n".join(odd[:20]) if odd else ""
