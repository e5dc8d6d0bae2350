"""What reaches the terminal: text that can only be printed, one line of error, a bar that stays out of pipes."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import NoReturn


def fail(message: str) -> NoReturn:
    """One line on standard error, exit code 2."""
    print(f"spillover: {' '.join(printable(message).split())}", file=sys.stderr)
    sys.exit(2)


def printable(text: str) -> str:
    """Text that a terminal only prints: anything that is not printable becomes its escape."""
    return "".join(c if c.isprintable() or c == " " else c.encode("unicode_escape").decode() for c in text)


@contextmanager
def progress() -> Generator[Callable[[int, int, str], None]]:
    """A bar with rate and time left on a terminal; nothing in a pipe."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[rate]}"), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as bar:
        task = bar.add_task("", total=None, rate="")
        started = time.perf_counter()

        def show(done: int, total: int, label: str) -> None:
            rate = f"{60 * done / max(time.perf_counter() - started, 1e-9):.0f} a minute, left"
            bar.update(task, completed=done, total=total, description=f"{printable(label):<28}", rate=rate)

        yield show
