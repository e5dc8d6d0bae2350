"""What was paid for is never lost: a file of replies by key, appended to and never rewritten.

One line of JSON an entry: its key, its value, and a digest of both; the last entry of a key counts. A line is with the operating
system before `put` returns, so killing the process loses nothing; it is on the disk within about a second, or at the next entry
after that, so a power cut loses at most the last moments. One process at a time writes a journal. What keys and values mean is not known here.
"""

from __future__ import annotations

import json
import os
import threading
import time
from pathlib import Path

from spillover.records import SpilloverError, digest

SYNC_S = 1.0  # the longest that entries wait for the disk while more of them come


class FileJournal:
    """A `records.Journal` in a file. The file and its directory are made at the first `put`; nothing is read before the first use."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()
        self._values: dict[str, str] | None = None
        self._seen: int = 0  # bytes of the file, as this object last saw it
        self._whole: int = 0  # those of them in whole lines
        self._unended = False  # whether the last of those lines wants its end
        self._synced = time.monotonic()

    def get(self, key: str) -> str | None:
        """The last value put under `key`. Raises SpilloverError when the file is damaged anywhere but in its last line."""
        with self._lock:
            return self._entries().get(key)

    def put(self, key: str, value: str) -> None:
        """Append an entry. Raises SpilloverError when it cannot be written."""
        line = json.dumps({"key": key, "value": value, "digest": _checksum(key, value)}).encode() + b"\n"
        with self._lock:
            entries = self._entries()
            try:
                self._append(line)
            except OSError as error:
                self._seen = self.path.stat().st_size if self.path.is_file() else 0
                raise SpilloverError(f"{self.path} cannot be written ({error.strerror}); mend that and give the same command again") from None
            entries[key] = value

    def _append(self, line: bytes) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("ab") as file:
            end = file.tell()
            if end == self._seen:  # or somebody else has mended it
                end = file.truncate(self._whole)
                line = b"\n" + line if self._unended else line
            self._whole = end
            file.write(line)
            file.flush()
            if time.monotonic() - self._synced >= SYNC_S:
                os.fsync(file.fileno())
                self._synced = time.monotonic()
        self._seen = self._whole = end + len(line)
        self._unended = False

    def _entries(self) -> dict[str, str]:
        if self._values is None:
            self._values = self._read()
        return self._values

    def _read(self) -> dict[str, str]:
        """Every entry; a last line that was cut while it was written is not one."""
        values: dict[str, str] = {}
        self._whole = 0
        try:
            lines = self.path.read_bytes().split(b"\n")
        except FileNotFoundError:
            return values
        except OSError as error:
            raise SpilloverError(f"{self.path} cannot be read ({error.strerror}); a journal is a file of its own") from None
        last = max((number for number, line in enumerate(lines, 1) if line), default=0)
        for number, line in enumerate(lines[:last], 1):
            entry = _entry(line)
            if entry is not None:
                values[entry[0]] = entry[1]
                self._whole += len(line) + 1
            elif number < last:
                raise SpilloverError(f"{self.path} is damaged in line {number}; delete that line, and only what it held is asked again")
        self._seen = sum(map(len, lines)) + len(lines) - 1
        self._unended = self._whole > self._seen
        self._whole = min(self._whole, self._seen)
        return values


def _entry(line: bytes) -> tuple[str, str] | None:
    try:
        entry = json.loads(line)
        key, value = entry["key"], entry["value"]
        whole = isinstance(key, str) and isinstance(value, str) and entry["digest"] == _checksum(key, value)
    except (ValueError, TypeError, KeyError, RecursionError):
        return None
    return (key, value) if whole else None


def _checksum(key: str, value: str) -> str:
    return digest(json.dumps([key, value]).encode())[:16]
