"""What came with a model may ask for no more than it needs: a chat template for time, memory and length, a configuration for layers and sizes.

A template is a program. What it may reach is for transformers' sandbox to say. Limits of time and memory hold where Python can set them, in the
main thread of a POSIX system (memory on Linux alone); one long step inside the interpreter, between two of the template's own, is not interrupted.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportMissingTypeStubs=false
from __future__ import annotations

import json
import signal
import sys
import threading
import time
from collections.abc import Generator, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from spillover.records import SpilloverError

SECONDS = 2.0  # of work for one conversation; a usual one takes a thousandth
BYTES = 2**28  # beyond what this process has
CHARACTERS = 1_000_000  # of a conversation as the template writes it
SOURCE = 200_000  # characters of a template
SIZES = (
    "hidden_size", "intermediate_size", "vocab_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "head_dim", "num_labels",
)  # fmt: skip


def refuse_sizes(location: str) -> None:
    """Raise SpilloverError where a configuration has a size that none of its weights has: all of it would be made before it is compared with them."""
    where = Path(location) / "config.json"
    largest = max((size for path in sorted(where.parent.glob("*.safetensors")) for size in _sizes(path)), default=0)
    try:
        config: Any = json.loads(where.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):  # whoever reads it next says so
        return
    parts = (config, config.get("text_config")) if largest and isinstance(config, dict) else ()
    for part in (part for part in parts if isinstance(part, dict)):
        for name, size in ((name, part.get(name)) for name in SIZES):
            if type(size) is int and not 0 < size <= largest:
                raise SpilloverError(f"{where}: {name} is {str(size)[:40]}, and the largest size of its weights is {largest}; they are of another model")


def _sizes(path: Path) -> Iterator[int]:
    """Every size of every tensor in a file, and how many there are."""
    try:
        with safe_open(path, "pt") as file:
            names = list(file.keys())
            yield len(names)
            for name in names:
                yield from file.get_slice(name).get_shape()
    except (SafetensorError, OSError, ValueError, OverflowError, RuntimeError):
        raise SpilloverError(f"{path} is damaged: it is no whole safetensors file") from None


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
