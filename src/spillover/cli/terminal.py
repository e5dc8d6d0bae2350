"""What reaches the terminal: text that can only be printed, one line of error, a bar that stays out of pipes."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any, NoReturn

from spillover.progress import listening


def fail(message: str) -> NoReturn:
    """One line on standard error, exit code 2."""
    print(f"spillover: {' '.join(printable(message).split())}", file=sys.stderr)
    sys.exit(2)


def printable(text: str) -> str:
    """Text that a terminal only prints: anything that is not printable becomes its escape, and a space that does not break is a space."""
    return "".join(" " if c == "\N{NO-BREAK SPACE}" else c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


@contextmanager
def progress() -> Generator[Callable[[int, int, str], None]]:
    """Two bars with rate and time left on a terminal, the run and what it is at now; nothing in a pipe."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[rate]}"), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as bar:
        whole, part = (bar.add_task("", total=None, rate="", visible=visible) for visible in (True, False))
        began: dict[int, tuple[str, float]] = {}

        def show(task: Any, done: int, total: int, label: str, *, fresh: bool) -> None:
            if task not in began or (fresh and began[task][0] != label):
                began[task] = label, time.perf_counter()
                bar.reset(task, total=total, rate="")
            seconds = max(time.perf_counter() - began[task][1], 1e-9)
            rate = f"{60 * done / seconds:.0f} a minute, left" if done < 10 * seconds else f"{done / seconds:.0f} a second, left"
            bar.update(task, completed=done, total=total, description=f"{printable(label):<28}", rate=rate, visible=True)

        def of_run(done: int, total: int, label: str) -> None:
            bar.update(part, visible=False)
            began.pop(part, None)
            show(whole, done, total, label, fresh=False)

        with listening(lambda done, total, what: show(part, done, total, what, fresh=True)):
            yield of_run
