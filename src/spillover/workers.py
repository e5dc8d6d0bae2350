"""Independent pieces of work on several processes at once. No worker outlives the process that started it, however that ends."""

from __future__ import annotations

import gc
import multiprocessing
import os
import signal
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import forkserver
from typing import Any, TypeVar

from spillover.records import SpilloverError

LOADED = "spillover.loaded"  # what those of a run begin with
Item = TypeVar("Item")
Result = TypeVar("Result")


def spread(do: Callable[[Item], Result], items: Sequence[Item], workers: int, *, load: str = "") -> Iterator[tuple[int, Result]]:
    """Do every item and yield its place and result as each is done: here and in order with one worker, else on so many processes.

    `do`, the items and the results must be picklable for more than one; `load` names a module that workers begin with. Workers start afresh: they
    share no memory, threads or open files with this process. What one raises is raised here, and the others stop.
    """
    if min(workers, len(items)) <= 1:
        gc.freeze()  # what was loaded stays: the collector need not look through it again and again
        yield from ((place, do(item)) for place, item in enumerate(items))
        return
    context = _context(load)
    reader, writer = context.Pipe(duplex=False)  # nothing is ever written: it closes with this process, or before
    pool = ProcessPoolExecutor(min(workers, len(items)), mp_context=context, initializer=_begin, initargs=(reader, list(warnings.filters)))
    try:
        places = {pool.submit(do, item): place for place, item in enumerate(items)}
        for done in as_completed(places):
            yield places[done], done.result()
        pool.shutdown()
    except BrokenProcessPool:
        raise SpilloverError("a worker process was ended, for want of memory perhaps; give the same command again, with fewer --workers") from None
    finally:
        writer.close()
        pool.shutdown(cancel_futures=True)
        reader.close()


def prepare(load: str) -> None:
    """Begin at once to load what workers begin with, beside whatever this process does first."""
    if _context(load).get_start_method() == "forkserver":
        forkserver.ensure_running()


def _context(load: str) -> Any:
    context = multiprocessing.get_context("forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn")
    context.set_forkserver_preload([load] if load else [])
    return context


def _begin(reader: Any, filters: Sequence[Any]) -> None:
    """In a worker: warn of what the starting process warns of, leave interrupts from the keyboard to it, and end when its end of the pipe is closed."""
    gc.freeze()
    warnings.filters[:] = filters  # pyright: ignore[reportIndexIssue]
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def wait() -> None:
        try:
            reader.recv_bytes()
        except EOFError:
            os._exit(1)

    threading.Thread(target=wait, daemon=True).start()
