"""How far long work inside one job has come: told by whoever does it, heard by whoever listens, and by nobody otherwise."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from contextvars import ContextVar

Listener = Callable[[int, int, str], None]  # how many are done, of how many, of what
_listener: ContextVar[Listener | None] = ContextVar("listener", default=None)


def tell(done: int, total: int, what: str) -> None:
    """Say that `done` of `total` are done."""
    heard = _listener.get()
    if heard is not None:
        heard(done, total, what)


@contextmanager
def listening(listener: Listener) -> Generator[None]:
    """Hear what work inside the block tells."""
    token = _listener.set(listener)
    try:
        yield
    finally:
        _listener.reset(token)
