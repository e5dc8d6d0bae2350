"""The run directory: append, read, know what is whole; nothing else.

Every shard, file and checkpoint directory is written under a temporary name and renamed when it is complete, so it is whole or
absent wherever the process is killed. `run.json` is written first and says whose run this is; a directory that holds
another run is refused. It does not know what the rows mean. `docs/files.md` specifies what is written here.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
from __future__ import annotations

import csv
import io
import json
import os
import shutil
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, fields
from math import isfinite
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from spillover.design import Decision
from spillover.records import Estimate, SpilloverError, Subject, digest
from spillover.runs import shards
from spillover.runs.shards import SCHEMA, Columns, Table, damaged

try:
    import fcntl
except ImportError:  # Windows has no such lock
    fcntl = None

JUDGED_BY = "~"  # between a model's name and a digest of the judge, in the name of a shard of scores that were made later
PARTIAL = ".partial-"  # what an interrupted write leaves behind: never read, removed when the run is opened for writing
CALIBRATION, CORRECTED = "calibration", "corrected"  # files of one judge: how it stands to trusted labels, and the rates that these correct
SET_ASIDE = ("created",)  # fields of run.json that may differ between two starts of one run


def of_judge(name: str, judge: str) -> str:
    """The name of a file about one judge of a run."""
    return f"{name}-{digest(judge)[:8]}.json"


class RunDirectory:
    """An opened run. `identity` is the content of its `run.json`."""

    def __init__(self, path: Path, identity: Mapping[str, Any]) -> None:
        self.path, self.identity = path, identity

    @classmethod
    def start(cls, path: Path, identity: Mapping[str, Any]) -> RunDirectory:
        """Begin a run here, or go on with the same one.

        Raises SpilloverError when the directory holds something else: another run, or files that are no run's.
        """
        identity = {"schema": SCHEMA, **json.loads(json.dumps(identity, default=list))}
        if (path / "run.json").exists():
            found = cls.open(path)
            for key in {**found.identity, **identity}:
                if key not in SET_ASIDE and found.identity.get(key) != identity.get(key):
                    where, there, here = _difference(key, found.identity.get(key), identity.get(key))
                    raise SpilloverError(f"{path} holds another run: its {where} is {_short(there)}, this one's {_short(here)}; choose another --out")
            return found
        if path.exists() and (not path.is_dir() or any(not p.name.startswith(PARTIAL) for p in path.iterdir())):
            raise SpilloverError(f"{path} exists and is not a run directory; choose another --out")
        path.mkdir(parents=True, exist_ok=True)
        run = cls(path, identity)
        run.write_text("run.json", json.dumps(identity, indent=1) + "\n")
        return run

    @classmethod
    def open(cls, path: Path) -> RunDirectory:
        """Open a run that exists, for reading. Raises SpilloverError when there is none or its `run.json` is not whole."""
        try:
            identity = json.loads((path / "run.json").read_text(encoding="utf-8"))
            if not isinstance(identity, dict) or "schema" not in identity:
                raise ValueError("not an object with a schema")
            return cls(path, identity)
        except (FileNotFoundError, NotADirectoryError):
            raise SpilloverError(f"{path} is not a run directory: it has no run.json") from None
        except (ValueError, RecursionError):
            raise SpilloverError(f"{path / 'run.json'} is damaged; the run cannot be told from another: choose another --out") from None

    # --- rows -------------------------------------------------------------------------------------------------------------

    def has(self, table: Table, key: str) -> bool:
        """Whether this shard is there, and so whole."""
        return self._shard(table, key).exists()

    def write(self, table: Table, key: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Write one shard, whole or not at all."""
        self._write_bytes(self._shard(table, key), shards.content(rows, table))

    def read(self, table: Table, key: str | None = None) -> list[dict[str, Any]]:
        """The rows of one shard, or of every shard in name order. Raises SpilloverError for a damaged one."""
        paths = [self._shard(table, key)] if key is not None else self.shards(table)
        return [row for path in paths for row in shards.read(path, table).rows()]

    def models(self, table: Table) -> Generator[tuple[Subject, Columns]]:
        """Every shard that has rows, in name order: what model they are of, and its rows.

        Raises SpilloverError for a damaged one, one of several models, and one in another's place.
        """
        for path in self.shards(table):
            found = shards.read(path, table)
            if not len(found):
                continue
            subject = Subject(**{field.name: found.one(field.name) for field in fields(Subject)})
            if subject.key != path.stem.partition(JUDGED_BY)[0]:
                raise SpilloverError(f"{path} holds rows of {subject.key}; delete it and give the same command again")
            yield subject, found

    def shards(self, table: Table) -> list[Path]:
        return sorted(p for p in (self.path / table).glob("*.parquet") if not p.name.startswith(PARTIAL))

    def _shard(self, table: Table, key: str) -> Path:
        return self.path / table / f"{key}.parquet"

    # --- estimates --------------------------------------------------------------------------------------------------------

    def write_estimates(self, rows: Sequence[Estimate]) -> None:
        """Write `estimates.csv` and `estimates.json`: empty for none, numbers with the digits that give them back."""
        out = io.StringIO()
        writer = csv.writer(out, lineterminator="\n")
        names = [field.name for field in fields(Estimate)]
        writer.writerow(names)
        for row in rows:
            values = (getattr(row, name) for name in names)
            writer.writerow("" if value is None else repr(value) if isinstance(value, float) else value for value in values)
        self.write_text("estimates.csv", out.getvalue())
        entries = (json.dumps({name: getattr(row, name) for name in names}, separators=(",\n  ", ": "))[1:-1] for row in rows)
        listed = ",\n".join(f" {{\n  {entry}\n }}" for entry in entries)  # as json.dumps(rows, indent=1) has it, ten times as fast
        self.write_text("estimates.json", f"[\n{listed}\n]\n" if rows else "[]\n")

    def estimates(self) -> list[Estimate]:
        """The estimates a finished run holds. Raises SpilloverError when it is not finished."""
        if not (self.path / "estimates.json").exists():
            raise SpilloverError(f"{self.path} has no estimates yet; give its `spillover run` command again to finish it")
        rows: list[Estimate] = self.read_json("estimates.json", list[Estimate])
        if not all(number is None or isfinite(number) for row in rows for number in (row.value, row.low, row.high, row.level)):
            raise damaged(self.path / "estimates.json")
        return rows

    def write_decisions(self, decisions: Sequence[Decision]) -> None:
        """Write `claims.json`: what was decided of every claim of the study."""
        self.write_text("claims.json", json.dumps([asdict(decision) for decision in decisions], indent=1) + "\n")

    def decisions(self) -> list[Decision]:
        """What was decided of the study's claims; empty for a run that claims nothing."""
        return self.read_json("claims.json", list[Decision]) if (self.path / "claims.json").exists() else []

    # --- files ------------------------------------------------------------------------------------------------------------

    def write_text(self, name: str, text: str) -> Path:
        """Write a text file, whole or not at all."""
        return self.write_bytes(name, text.encode("utf-8"))

    def write_bytes(self, name: str, content: bytes) -> Path:
        return self._write_bytes(self.path / name, content)

    def _write_bytes(self, target: Path, content: bytes) -> Path:
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = target.with_name(PARTIAL + target.name)
        partial.unlink(missing_ok=True)
        try:
            with partial.open("xb") as file:  # a file of its own, and never where a link leads
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
        except OSError:
            partial.unlink(missing_ok=True)
            raise
        partial.replace(target)
        return target

    def read_json(self, name: str, shape: Any = Any) -> Any:
        """A JSON file of this run, as a type says it must be. Raises SpilloverError when it is not whole, or is something else."""
        try:
            return TypeAdapter(shape).validate_json((self.path / name).read_bytes(), strict=True)
        except (ValidationError, SpilloverError, FileNotFoundError):
            raise damaged(self.path / name) from None

    @contextmanager
    def new_directory(self, name: str) -> Generator[Path]:
        """A directory to fill; it gets its name when the block ends without an error."""
        target = self.path / name
        partial = target.with_name(PARTIAL + target.name)
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        yield partial
        shutil.rmtree(target, ignore_errors=True)
        partial.replace(target)

    @contextmanager
    def alone(self) -> Generator[None]:
        """Write to this run, and nobody else meanwhile; what an interrupted write left behind is removed first.

        Raises SpilloverError when another process is at it.
        """
        with (self.path / "run.json").open("rb") as file:
            try:
                if fcntl is not None:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise SpilloverError(f"another process is writing to {self.path}; wait for it, or choose another --out") from None
            for left in list(self.path.rglob(PARTIAL + "*")):
                shutil.rmtree(left) if left.is_dir() else left.unlink(missing_ok=True)
            yield


def copy(source: Path, target: Path) -> None:
    """Give the files of a directory names in another one that is there: hard links where the file system allows it, else copies."""
    shutil.copytree(source, target, copy_function=linked, dirs_exist_ok=True)


def linked(source: str | Path, target: str | Path) -> None:
    """One more name for a file, or a copy of it."""
    try:
        os.link(os.path.realpath(source), target)
    except OSError:
        shutil.copyfile(source, target)


def _difference(name: str, there: Any, here: Any) -> tuple[str, Any, Any]:
    """The first place where two values differ, by its dotted name."""
    if isinstance(there, dict) and isinstance(here, dict):
        for key in {**there, **here}:
            if there.get(key) != here.get(key):
                return _difference(f"{name}.{key}", there.get(key), here.get(key))
    return name, there, here


def _short(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."
