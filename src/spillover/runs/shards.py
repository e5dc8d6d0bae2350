"""One shard: rows of one table in one Parquet file, whole or refused, as rows or as columns. It does not know what the rows mean.

A shard carries a checksum of each column's values, so that damage is seen. `docs/files.md` specifies the columns.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false, reportMissingTypeStubs=false
# pyright: reportUnknownParameterType=false, reportAttributeAccessIssue=false
from __future__ import annotations

import io
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import nan
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from spillover.records import SpilloverError, digest

SCHEMA = 2
Table = Literal["answers", "scores", "measures"]
SUBJECT = [
    ("unit", pa.string()), ("group", pa.string()), ("world", pa.int64()), ("condition", pa.string()), ("seed", pa.int64()),
    ("step", pa.int64()), ("model", pa.string()),
]  # fmt: skip
ASKED = [("question", pa.string()), ("format", pa.string())]
JUDGED = [("value", pa.float64()), ("reason", pa.string())]
COLUMNS: dict[Table, pa.Schema] = {
    "answers": pa.schema(
        [
            *SUBJECT,
            ("answer", pa.string()),
            *ASKED,
            ("paraphrase", pa.int64()),
            ("draw", pa.int64()),
            ("prompt", pa.string()),
            ("text", pa.string()),
            ("stop", pa.string()),
        ]
    ),
    "scores": pa.schema(
        [
            *SUBJECT,
            ("answer", pa.string()),
            *ASKED,
            ("judge", pa.string()),
            ("date", pa.string()),
            ("rubric", pa.string()),
            *JUDGED,
            ("label", pa.string()),
            ("mass", pa.float64()),
        ]
    ),
    "measures": pa.schema([*SUBJECT, *ASKED, ("name", pa.string()), *JUDGED]),
}
TABLES: tuple[Table, ...] = tuple(COLUMNS)
MAY_LACK = ("world", "value", "reason", "label", "mass")  # columns that may hold nothing


@dataclass(frozen=True, slots=True)
class Columns:
    """The rows of a shard by column. A text is a place among the distinct texts of its column."""

    path: Path
    table: pa.Table

    def __len__(self) -> int:
        return self.table.num_rows

    def rows(self) -> list[dict[str, Any]]:
        columns = _plain(self.table).to_pydict()
        return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]

    def numbers(self, name: str) -> NDArray[np.float64]:
        """A column of numbers, NaN where one is missing."""
        return self.table.column(name).cast(pa.float64()).fill_null(nan).to_numpy()

    def whole(self, name: str) -> NDArray[np.int64]:
        """A column of whole numbers that lacks none."""
        return self.table.column(name).to_numpy()

    def codes(self, name: str) -> tuple[pa.Array, NDArray[np.int64]]:
        """The distinct values of a column in the order in which they first come, and the place of each row's; -1 where one is missing."""
        column = _coded(self.table.column(name))
        return column.dictionary, column.indices.fill_null(-1).to_numpy().astype(np.int64)

    def texts(self, name: str) -> tuple[list[str], NDArray[np.int64]]:
        """The same of a column of few texts."""
        distinct, places = self.codes(name)
        return distinct.to_pylist(), places

    def lengths(self, name: str) -> NDArray[np.int64]:
        """How many characters the texts of a column have."""
        distinct, places = self.codes(name)
        return pc.utf8_length(distinct).to_numpy()[places]

    def part(self, rows: NDArray[np.int64], *names: str) -> Columns:
        """Some rows of some columns, without the texts of all others."""
        return Columns(self.path, _plain(self.table.select(list(names)).take(rows)))

    def one(self, name: str) -> Any:
        """The value that all rows have in common. Raises SpilloverError where there are several."""
        found = self.table.column(name).unique()
        if len(found) != 1:
            raise SpilloverError(f"{self.path} holds rows of more than one {name}; delete it and give the same command again")
        return found[0].as_py()


def content(rows: Sequence[Mapping[str, Any]], table: Table) -> bytes:
    """The file of these rows."""
    made = pa.Table.from_pylist([dict(row) for row in rows], schema=COLUMNS[table])
    made = made.replace_schema_metadata({"schema": str(SCHEMA), "checks": checks_of(made)})
    sink = io.BytesIO()
    pq.write_table(made, sink, compression="zstd", use_dictionary=_texts(COLUMNS[table]))  # pyright: ignore[reportArgumentType]
    return sink.getvalue()


def read(path: Path, table: Table) -> Columns:
    """The rows of a file. Raises SpilloverError where it is damaged, or has other columns."""
    expected = COLUMNS[table]
    try:
        file = pq.ParquetFile(path)
        if not expected.equals(file.schema_arrow):
            raise SpilloverError(f"{path} has columns of another version of this file (schema {SCHEMA} is read here)")
        found = _read(path, _texts(expected), expected.names)
        whole = _is_whole(found, file.schema_arrow.metadata or {})
    except (pa.ArrowException, OSError, ValueError, TypeError):
        raise damaged(path) from None
    if not whole:
        raise damaged(path)
    lacks = any(found.column(name).null_count for name in expected.names if name not in MAY_LACK)
    numbers = [found.column(field.name) for field in expected if pa.types.is_floating(field.type)]
    if lacks or not all(np.isfinite(column.drop_null().to_numpy()).all() for column in numbers):
        raise damaged(path)
    return Columns(path, found)


def about(path: Path, names: Sequence[str]) -> list[tuple[Any, ...]]:
    """What a shard's rows are about: everything that comes together in one of them in these columns."""
    try:
        columns = _plain(_read(path, names, names).group_by(list(names)).aggregate([])).to_pydict()
        return list(zip(*(columns[name] for name in names), strict=True))
    except (pa.ArrowException, OSError, ValueError, TypeError, KeyError):
        raise damaged(path) from None


def damaged(path: Path) -> SpilloverError:
    return SpilloverError(f"{path} is damaged; delete it and give the same command again, and only what it held is made anew")


def checks_of(table: pa.Table) -> str:
    """A CRC-32 of each column's values, however Arrow lays them out: of floats, or of the distinct values and where they stand."""
    return " ".join(f"{_check(column):08x}" for column in table.columns)


def _check(column: pa.ChunkedArray) -> int:
    if pa.types.is_floating(column.type):
        return zlib.crc32(column.fill_null(nan).to_numpy())
    coded = _coded(column)
    distinct = coded.dictionary.cast(pa.string())
    found = zlib.crc32(f"{len(column)} {len(distinct)} {coded.null_count}".encode())
    found = zlib.crc32(pc.binary_length(distinct).to_numpy(), found)
    found = zlib.crc32(pc.binary_join(pa.ListArray.from_arrays([0, len(distinct)], distinct), "")[0].as_buffer(), found)
    if len(distinct) + (coded.null_count > 0) > 1:
        found = zlib.crc32(coded.indices.fill_null(-1).to_numpy(), found)
    return found


def _is_whole(table: pa.Table, metadata: Mapping[bytes, bytes]) -> bool:
    """Whether the values are those that were written. Up to version 0.5 a shard had a digest of its rows."""
    if b"checks" in metadata:
        return metadata[b"checks"] == checks_of(table).encode()
    return metadata.get(b"rows") == digest(_plain(table).to_pydict()).encode()


def _texts(schema: pa.Schema) -> list[str]:
    return [field.name for field in schema if pa.types.is_string(field.type)]


def _read(path: Path, coded: Sequence[str], names: Sequence[str]) -> pa.Table:
    """These columns of a file, some of them as codes. Codes of a damaged file may point at nothing: they are checked before they are followed."""
    found = pq.ParquetFile(path, read_dictionary=coded).read(columns=list(names), use_threads=False)  # too small to be worth a second thread
    found.validate(full=True)
    return found


def _coded(column: pa.ChunkedArray) -> pa.DictionaryArray:
    whole = column.unify_dictionaries().combine_chunks()
    return whole if pa.types.is_dictionary(whole.type) else whole.dictionary_encode()


def _plain(table: pa.Table) -> pa.Table:
    """The table with texts in place of codes for them."""
    fields = [field.with_type(field.type.value_type) if pa.types.is_dictionary(field.type) else field for field in table.schema]
    return table.cast(pa.schema(fields, metadata=table.schema.metadata))
