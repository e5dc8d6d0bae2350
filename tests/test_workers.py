"""Work on several processes: every item once, errors here, and no worker that outlives the process that started it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest

from spillover.records import SpilloverError
from spillover.workers import spread

WAITS = """
import os, sys, time
from pathlib import Path
from spillover.workers import spread

def wait(place):
    (Path(sys.argv[1]) / str(os.getpid())).touch()
    time.sleep(600)

if __name__ == "__main__":
    list(spread(wait, [1, 2, 3], 2))
"""


def _square(number: int) -> tuple[int, int]:
    return number**2, os.getpid()


def _refuse(number: int) -> int:
    if number == 2:
        raise SpilloverError("two is refused")
    time.sleep(600 if number else 0)
    return number


def _end(number: int) -> int:
    os.kill(os.getpid(), signal.SIGKILL)
    return number


def _warn(_number: int) -> None:
    warnings.warn("of no interest", FutureWarning, stacklevel=1)


@pytest.mark.parametrize("workers", [1, 2, 9])
def test_every_item_is_done_once_whoever_does_it(workers: int) -> None:
    done = dict(spread(_square, range(7), workers))
    assert {place: square for place, (square, _) in done.items()} == {n: n**2 for n in range(7)}
    assert ({pid for _, pid in done.values()} == {os.getpid()}) == (workers == 1)


def test_nothing_to_do_is_nothing_done() -> None:
    assert list(spread(_square, [], 2)) == []


def test_what_one_worker_raises_is_raised_here_and_the_others_stop() -> None:
    began = time.perf_counter()
    with pytest.raises(SpilloverError, match="two is refused"):
        list(spread(_refuse, [0, 1, 2, 3], 2))
    assert time.perf_counter() - began < 60


def test_a_worker_that_is_ended_is_one_sentence() -> None:
    with pytest.raises(SpilloverError, match="a worker process was ended"):
        list(spread(_end, [0, 1], 2))


def test_a_worker_warns_of_what_this_process_warns_of() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        assert len(list(spread(_warn, [0, 1], 2))) == 2
    with warnings.catch_warnings():
        warnings.simplefilter("error", FutureWarning)
        with pytest.raises(FutureWarning, match="of no interest"):
            list(spread(_warn, [0, 1], 2))


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_no_worker_outlives_the_process_that_started_it(how: signal.Signals, tmp_path: Path) -> None:
    script, home = tmp_path / "waits.py", tmp_path / "workers"
    script.write_text(WAITS)
    home.mkdir()
    process = subprocess.Popen([sys.executable, str(script), str(home)], stderr=subprocess.DEVNULL)
    _until(lambda: len(list(home.iterdir())) == 2)
    workers = [int(path.name) for path in home.iterdir()]
    assert all(_runs(pid) for pid in workers)
    process.send_signal(how)
    process.wait(timeout=60)
    _until(lambda: not any(_runs(pid) for pid in workers))


def _until(come: Callable[[], bool]) -> None:
    for _ in range(600):
        if come():
            return
        time.sleep(0.1)
    raise AssertionError("it did not come in a minute")


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
