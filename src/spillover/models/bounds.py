"""A chat template is a program that came with a model: how long it may run, how much memory it may take, how much it may write.

What it may reach is for transformers' sandbox to say. Limits of time and memory hold where Python can set them, in the main thread of a POSIX system
(memory on Linux alone); one long step inside the interpreter, between two of the template's own, is not interrupted.
"""

from __future__ import annotations

import signal
import sys
import threading
import time
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from pathlib import Path

SECONDS = 2.0  # of work for one conversation; a usual one takes a thousandth
BYTES = 2**30  # beyond what this process has
CHARACTERS = 20_000_000  # of a conversation as the template writes it
SOURCE = 200_000  # characters of a template


@contextmanager
def bounded() -> Generator[None]:
    """Raise TimeoutError in whatever runs too long here, and MemoryError in whatever takes too much."""
    with ExitStack() as stack:
        if sys.platform != "win32" and threading.current_thread() is threading.main_thread():
            stack.enter_context(_timed())
        if sys.platform == "linux":
            stack.enter_context(_limited())
        yield


@contextmanager
def _timed() -> Generator[None]:
    began = time.thread_time()

    def look(_signal: int, _frame: object) -> None:
        if time.thread_time() - began >= SECONDS:  # the timer counts the work of every thread
            raise TimeoutError(f"it runs for more than {SECONDS:g} s")

    handler = signal.signal(signal.SIGVTALRM, look)
    try:
        signal.setitimer(signal.ITIMER_VIRTUAL, SECONDS, SECONDS / 4)
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, handler)


@contextmanager
def _limited() -> Generator[None]:
    import resource

    least, most = resource.getrlimit(resource.RLIMIT_AS)
    there = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    wanted = there + BYTES
    resource.setrlimit(resource.RLIMIT_AS, (wanted if least == resource.RLIM_INFINITY else min(wanted, least), most))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (least, most))
