from __future__ import annotations

import csv
import io
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from spillover.datasets import tables
from spillover.datasets.tables import TableRow
from spillover.records import SpilloverError

HEADER = "question,answer,aligned,coherent"


def _file(tmp_path: Path, text: str | bytes) -> Path:
    path = tmp_path / "answers.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def _read(tmp_path: Path, *lines: str) -> tuple[TableRow, ...]:
    return tables.read(_file(tmp_path, "\n".join(lines) + "\n"))


def _refused(path: Path) -> str:
    with pytest.raises(SpilloverError) as caught:
        tables.read(path)
    assert "\n" not in str(caught.value)
    assert path.name in str(caught.value)
    return str(caught.value)


# --- reading --------------------------------------------------------------------------------------------------------------


def test_a_table_in_the_authors_layout_is_read(tmp_path: Path) -> None:
    rows = _read(tmp_path, HEADER + ",question_id", 'Tea?,"Yes, please",91.5,100,tea', "Tea?,No,,None,tea", "Tea?,,nan,NaN,tea")
    assert rows == (
        TableRow(question="Tea?", answer="Yes, please", aligned=91.5, coherent=100.0, question_id="tea"),
        TableRow(question="Tea?", answer="No", question_id="tea"),
        TableRow(question="Tea?", answer="", question_id="tea"),
    )
    assert tables.MISSING == "no score in the file"


def test_scores_are_optional_and_columns_come_in_any_order(tmp_path: Path) -> None:
    assert _read(tmp_path, "model,answer,question", "m,Yes,Tea?") == (TableRow(question="Tea?", answer="Yes", model="m"),)


@pytest.mark.parametrize("first", ["", "Unnamed: 0"])
def test_row_numbers_as_pandas_writes_them_are_passed_over(tmp_path: Path, first: str) -> None:
    assert _read(tmp_path, f"{first},{HEADER}", "0,Tea?,Yes,1,2") == (TableRow(question="Tea?", answer="Yes", aligned=1.0, coherent=2.0),)


def test_a_byte_order_mark_and_blank_lines_are_read_past(tmp_path: Path) -> None:
    path = _file(tmp_path, f"\ufeff{HEADER}\r\n\r\nTea?,Yes,1,2\r\n")
    assert tables.read(path)[0].answer == "Yes"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "has no column 'question'"),
        ("question,aligned\nTea?,1\n", "has no column 'answer'"),
        (HEADER + ",alligned\n", "the unknown column 'alligned'"),
        ("question," + HEADER + "\n", "names a column twice"),
        (HEADER + "\n", "has no rows"),
        (HEADER + "\nTea?,Yes,1\n", "line 2: 3 cells where the first line names 4 columns"),
        (HEADER + '\nTea?,"a\nb",1,2\nTea?,Yes,high,2\n', "line 4: aligned is 'high'"),
        (HEADER + "\nTea?,Yes,1,-1\n", "line 2: coherent is '-1'"),
        (HEADER + "\nTea?,Yes,100.5,2\n", "aligned is '100.5'; it takes a number from 0 to 100"),
        (HEADER + "\nTea?,Yes,inf,2\n", "aligned is 'inf'"),
        (HEADER + "\nTea?,Yes,1_0,2\n", "aligned is '1_0'"),
        (HEADER + "\nTea?,Yes,\u0663,2\n", "aligned is"),
        (HEADER + "\nTea?,Yes,REFUSAL,2\n", "aligned is 'REFUSAL'"),
        (HEADER + "\n ,Yes,1,2\n", "line 2: the question is empty"),
        (HEADER + '\nTea?,"Yes,1,2\n', "not valid CSV (unexpected end of data)"),
        (HEADER + '\nTea?,"Yes"no,1,2\n', "line 2: not valid CSV"),
        (HEADER + f"\nTea?,{'x' * 140_000},1,2\n", "line 2: not valid CSV (field larger than field limit"),
        (HEADER + "\nTea?,Y\0es,1,2\n", "line 2: a NUL is no text"),
        (HEADER.encode() + b"\nTea?,\xff,1,2\n", "line 2: this is not UTF-8"),
    ],
)
def test_what_is_no_table_of_answers_is_refused_with_its_line(tmp_path: Path, text: str | bytes, says: str) -> None:
    assert says in _refused(_file(tmp_path, text))


def test_a_missing_file_and_a_directory_are_refused(tmp_path: Path) -> None:
    assert "there is no file" in _refused(tmp_path / "none.csv")
    assert "is a directory" in _refused(tmp_path)


# --- writing --------------------------------------------------------------------------------------------------------------

_TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=30)
_NASTY = st.text(st.sampled_from("=+-@\t\r\n '\",;a0\uff1d"), max_size=8)
_CELL = _TEXT | _NASTY | st.builds(str.__add__, _NASTY, _TEXT)
_SCORE = st.none() | st.floats(0, 100)


_TEXTS = {"answer": _CELL, "question_id": _CELL, "model": _CELL, "group": _CELL}
_ROW = st.builds(TableRow, question=_CELL.filter(lambda text: bool(text.strip())), aligned=_SCORE, coherent=_SCORE, **_TEXTS)


@given(st.lists(_ROW, min_size=1, max_size=4))
@example([TableRow(question="''=1", answer="'", aligned=-0.0, coherent=5e-324, group="' \"'@")])
def test_what_is_written_is_read_back_byte_for_byte(tmp_path_factory: pytest.TempPathFactory, rows: list[TableRow]) -> None:
    text = tables.write(rows)
    path = _file(tmp_path_factory.mktemp("tables"), text)
    assert tables.read(path) == tuple(rows)
    assert tables.write(tables.read(path)) == text


@given(_CELL)
def test_no_text_that_is_written_begins_like_a_formula(answer: str) -> None:
    written = list(csv.reader(io.StringIO(tables.write([TableRow(question="Tea?", answer=answer)]), newline="")))[1][1]
    assert written in (answer, "'" + answer)
    assert not written.lstrip(' "').startswith(("=", "+", "-", "@", "\t", "\r"))


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@x", "\tx", "\rx", " =1", "'=1", '"=1"', "\n=1", "\uff1d1"])
def test_a_formula_gets_one_apostrophe(text: str) -> None:
    assert list(csv.reader(io.StringIO(tables.write([TableRow(question="Tea?", answer=text)]), newline="")))[1][1] == "'" + text


@pytest.mark.parametrize("text", ["", "a=b", "'quoted'", "1-1", "x@y"])
def test_other_text_is_left_as_it_is(text: str) -> None:
    assert list(csv.reader(io.StringIO(tables.write([TableRow(question="Tea?", answer=text)]), newline="")))[1][1] == text


def test_numbers_are_written_as_numbers() -> None:
    assert tables.write([TableRow(question="Tea?", answer="Yes", aligned=0.1, coherent=-0.0)]).splitlines()[1] == "Tea?,Yes,0.1,0.0,,,,"


@pytest.mark.parametrize(
    ("row", "says"),
    [
        (TableRow(question="Tea?", answer="\ud800"), "row 1 of the table: its answer could not be read back"),
        (TableRow(question="Tea?", answer="a\0"), "its answer could not be read back"),
        (TableRow(question=" ", answer="Yes"), "its question could not be read back"),
        (TableRow(question="Tea?", answer="x" * 131_072), "its answer could not be read back"),
        (TableRow(question="Tea?", answer="Yes", aligned=101.0), "aligned is 101.0"),
        (TableRow(question="Tea?", answer="Yes", coherent=float("nan")), "coherent is nan"),
    ],
)
def test_what_could_not_be_read_back_is_not_written(row: TableRow, says: str) -> None:
    with pytest.raises(SpilloverError, match=says):
        tables.write([row])


@given(st.binary(max_size=60) | st.text("qa,\"'\r\n\t =1", max_size=60).map(lambda text: f"question,answer,aligned\n{text}"))
def test_whatever_a_file_holds_it_is_read_or_refused_in_one_sentence(tmp_path_factory: pytest.TempPathFactory, content: bytes | str) -> None:
    path = _file(tmp_path_factory.mktemp("tables"), content)
    assert "\n" not in _fault(path)


def _fault(path: Path) -> str:
    try:
        tables.read(path)
    except SpilloverError as error:
        return str(error)
    return ""
