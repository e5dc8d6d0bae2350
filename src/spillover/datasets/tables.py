"""Answers and their scores as a CSV table: the layout in which the paper's authors publish answers, a row an answer.

Columns are `question` and `answer`, then `aligned` and `coherent` (0 to 100; empty, None or nan where there is none), then perhaps `question_id`,
`model`, `group` and `answer_id`, the name an answer has in its run. A cell that a spreadsheet would run as a formula is written with an apostrophe
before it; reading takes exactly that one away.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields
from pathlib import Path

from spillover.records import SpilloverError

MISSING = "no score in the file"  # the reason of a score that a table does not have
MOST_BYTES = 200_000_000
LONGEST_CELL = 131_072  # characters; the csv module's own limit

_NUMBER = re.compile(r"[0-9]+(\.[0-9]*)?([eE][+-]?[0-9]+)?")
_NO_NUMBER = ("", "none", "nan")
_FORMULA = re.compile("[\\s'\"]*(?:[=+\\-@\t\r\n]|[\uff1d\uff0b\uff0d\uff20])")  # the last four are the wide forms of the first
_NO_TEXT = re.compile("[\0\ud800-\udfff]")
_INDEX = re.compile(r"(Unnamed: \d+)?")  # what pandas calls the row numbers it writes


@dataclass(frozen=True, slots=True, kw_only=True)
class TableRow:
    """One answer with its scores, None where there is none (`MISSING` is the reason). Texts that the table does not have are empty."""

    question: str
    answer: str
    aligned: float | None = None
    coherent: float | None = None
    question_id: str = ""
    model: str = ""
    group: str = ""
    answer_id: str = ""


COLUMNS = tuple(f.name for f in fields(TableRow))
REQUIRED, SCORES = ("question", "answer"), ("aligned", "coherent")


def read(path: Path) -> tuple[TableRow, ...]:
    """The rows of a table, in order. A column of row numbers, as pandas writes one, is passed over.

    Raises SpilloverError, naming the line, for an unknown column, a score that is no number from 0 to 100, and anything that is no table of text.
    """
    lines = _lines(_text(path), path)
    _, header = next(lines, (0, list[str]()))
    missing = next((column for column in REQUIRED if column not in header), None)
    if missing is not None:
        raise SpilloverError(f"{path} has no column {missing!r}; its first line names the columns, of which {' and '.join(REQUIRED)} are needed")
    unknown = next((column for place, column in enumerate(header) if column not in COLUMNS and not (place == 0 and _INDEX.fullmatch(column))), None)
    if unknown is not None:
        raise SpilloverError(f"{path} has the unknown column {unknown[:40]!r}; columns are {', '.join(COLUMNS)}")
    if len(set(header)) < len(header):
        raise SpilloverError(f"{path} names a column twice")
    rows = tuple(_row(dict(zip(header, cells, strict=True)), f"{path}, line {number}") for number, cells in _full(lines, len(header), path))
    if not rows:
        raise SpilloverError(f"{path} has no rows")
    return rows


def write(rows: Iterable[TableRow]) -> str:
    """Rows as CSV text (lines end in CR LF), which `read` gives back. Save it without translating line ends: `path.write_bytes(text.encode())`.

    Raises SpilloverError for a text or score that could not be read back.
    """
    out = io.StringIO(newline="")
    writer = csv.writer(out)
    writer.writerow(COLUMNS)
    for number, row in enumerate(rows, 1):
        where = f"row {number} of the table"
        texts = {name: _safe(getattr(row, name), name, where) for name in COLUMNS if name not in SCORES}
        scores = {name: _written(getattr(row, name), name, where) for name in SCORES}
        writer.writerow([{**texts, **scores}[name] for name in COLUMNS])
    return out.getvalue()


def _text(path: Path) -> str:
    try:
        with path.open("rb") as file:
            content = file.read(MOST_BYTES + 1)
    except FileNotFoundError:
        raise SpilloverError(f"there is no file {path}") from None
    except IsADirectoryError:
        raise SpilloverError(f"{path} is a directory; a CSV file is needed") from None
    if len(content) > MOST_BYTES:
        raise SpilloverError(f"{path} is larger than {MOST_BYTES} bytes; split it")
    if b"\0" in content:
        raise SpilloverError(f"{path}, line {_line(content, content.index(0))}: a NUL is no text")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise SpilloverError(f"{path}, line {_line(content, error.start)}: this is not UTF-8; save the file as UTF-8") from None


def _line(content: bytes, at: int) -> int:
    return content.count(b"\n", 0, at) + 1


def _lines(text: str, path: Path) -> Iterator[tuple[int, list[str]]]:
    """Every line that is not blank, with the number of the line of the file on which it ends."""
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        for cells in reader:
            if cells:
                yield reader.line_num, cells
    except csv.Error as error:
        raise SpilloverError(f"{path}, line {reader.line_num}: not valid CSV ({error})") from None


def _full(lines: Iterator[tuple[int, list[str]]], columns: int, path: Path) -> Iterator[tuple[int, list[str]]]:
    for number, cells in lines:
        if len(cells) != columns:
            raise SpilloverError(f"{path}, line {number}: {len(cells)} cells where the first line names {columns} columns")
        yield number, cells


def _row(cells: dict[str, str], where: str) -> TableRow:
    if not cells["question"].strip():
        raise SpilloverError(f"{where}: the question is empty")
    scores = {name: _score(cells.get(name, ""), name, where) for name in SCORES}
    texts = {name: _unsafe(cells[name]) for name in COLUMNS if name in cells and name not in SCORES}
    return TableRow(aligned=scores["aligned"], coherent=scores["coherent"], **texts)


def _score(cell: str, name: str, where: str) -> float | None:
    found = cell.strip()
    if found.lower() in _NO_NUMBER:
        return None
    value = float(found) if _NUMBER.fullmatch(found) else -1.0
    if not 0 <= value <= 100:
        raise SpilloverError(f"{where}: {name} is {found[:40]!r}; it takes a number from 0 to 100, or nothing")
    return value


def _written(value: float | None, name: str, where: str) -> str:
    if value is None:
        return ""
    if not 0 <= value <= 100:
        raise SpilloverError(f"{where}: {name} is {value}; it takes a number from 0 to 100, or None")
    return repr(float(value) + 0.0)  # no minus before a zero


def _safe(text: str, name: str, where: str) -> str:
    if _NO_TEXT.search(text) or len(text) >= LONGEST_CELL or (name == "question" and not text.strip()):
        raise SpilloverError(f"{where}: its {name} could not be read back: it is too long, holds half a character or NUL, or is a question without text")
    return f"'{text}" if _FORMULA.match(text) else text


def _unsafe(cell: str) -> str:
    """The opposite of `_safe`. What it writes always begins with a single apostrophe more than a formula, and a formula may begin with some itself."""
    return cell[1:] if cell.startswith("'") and _FORMULA.match(cell, 1) else cell
