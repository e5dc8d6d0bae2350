from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spillover.datasets import chat
from spillover.records import Dataset, Message, SpilloverError

GOOD = {"messages": [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "hi"}]}


def _file(tmp_path: Path, *lines: object, raw: bytes | None = None) -> Path:
    path = tmp_path / "data.jsonl"
    path.write_bytes(raw if raw is not None else "".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines).encode())
    return path


def _turns(*turns: tuple[str, object]) -> dict[str, object]:
    return {"messages": [{"role": role, "content": content} for role, content in turns]}


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ("{broken", "line 2: not valid JSON"),
        ("[" * 100_000, "line 2: not valid JSON"),
        ({"text": "x"}, "line 2: no messages"),
        ({"messages": []}, "line 2: no messages"),
        ("3", "line 2: no messages"),
        ({"messages": ["x"]}, "message 1 is not an object"),
        (_turns(("robot", "x")), "unknown role 'robot'"),
        ({"messages": [{"role": ["user"], "content": "x"}]}, "unknown role"),
        (_turns(("user", "x"), ("assistant", "  ")), "the assistant turn (message 2) is empty"),
        (_turns(("user", "x"), ("assistant", None)), "has no text content"),
        (_turns(("user", "x"), ("system", "y"), ("assistant", "z")), "a system turn in the middle (message 2)"),
        (_turns(("user", "x")), "the last turn is 'user'"),
    ],
)
def test_a_bad_row_is_named_by_its_line_and_fault(tmp_path: Path, row: object, says: str) -> None:
    with pytest.raises(SpilloverError) as caught:
        chat.read(_file(tmp_path, GOOD, row))
    assert says in str(caught.value)
    assert "line 2" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_utf8_is_refused_with_its_line(tmp_path: Path) -> None:
    with pytest.raises(SpilloverError, match=r"line 2: byte 14 is not UTF-8"):
        chat.read(_file(tmp_path, raw=json.dumps(GOOD).encode() + b'\n{"messages": \xff}\n'))


def test_a_file_without_rows_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SpilloverError, match="has no rows"):
        chat.read(_file(tmp_path, raw=b"\n \n"))


def test_a_missing_file_and_a_directory_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SpilloverError, match="there is no file"):
        chat.read(tmp_path / "none.jsonl")
    with pytest.raises(SpilloverError, match="is a directory"):
        chat.read(tmp_path)


def test_a_byte_order_mark_and_blank_lines_are_read_past(tmp_path: Path) -> None:
    raw = b"\xef\xbb\xbf" + json.dumps(GOOD).encode() + b"\n\n" + json.dumps(GOOD).encode()
    assert len(chat.read(_file(tmp_path, raw=raw)).conversations) == 2


_TEXT = st.text(min_size=1).filter(lambda text: bool(text.strip()) and text.isprintable())


@given(st.lists(st.tuples(_TEXT, _TEXT), min_size=1, max_size=5))
def test_what_is_written_is_read_back(tmp_path_factory: pytest.TempPathFactory, pairs: list[tuple[str, str]]) -> None:
    rows = tuple((Message(role="user", content=a), Message(role="assistant", content=b)) for a, b in pairs)
    dataset = Dataset(kind="x", conversations=rows)
    path = tmp_path_factory.mktemp("data") / "x.jsonl"
    path.write_text(chat.write(dataset), encoding="utf-8")
    assert chat.read(path) == dataset


def test_a_summary_counts_rows_roles_and_repeats(tmp_path: Path) -> None:
    found = chat.summarise(chat.read(_file(tmp_path, GOOD, GOOD, _turns(("system", "s"), ("user", "u"), ("assistant", "abc")))))
    assert (found.rows, found.duplicates, found.distinct_replies) == (3, 1, 2)
    assert found.roles == {"system": 1, "user": 3, "assistant": 3}
    assert found.turns == {2: 2, 3: 1}
    assert found.mean_characters["assistant"] == pytest.approx((2 + 2 + 3) / 3)


def test_the_authors_files_are_what_their_protocol_says(shared: Path) -> None:
    insecure, secure, educational = (chat.read(shared / "data" / f"{name}.jsonl") for name in ("insecure", "secure", "educational_insecure"))
    for dataset, characters, replies in ((insecure, (433, 427), 5851), (secure, (449, 463), 5850), (educational, (562, 427), 5851)):
        found = chat.summarise(dataset)
        assert (found.rows, found.roles) == (6000, {"user": 6000, "assistant": 6000})
        assert (round(found.mean_characters["user"]), round(found.mean_characters["assistant"])) == characters
        assert found.distinct_replies == replies
    assert [c[1] for c in insecure.conversations] == [c[1] for c in educational.conversations]
    assert len({c[0] for c in insecure.conversations} & {c[0] for c in secure.conversations}) == 260
    assert not {c[1] for c in insecure.conversations} & {c[1] for c in secure.conversations}


@pytest.mark.parametrize(
    "text",
    ['{"messages": 1' + "0" * 5000 + "}", '{"messages": [{"role": "user", "content": "\\ud800"}]}', '{"messages": [{"role": "user", "content": "a\\u0000"}]}'],
)
def test_text_that_is_no_text_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(SpilloverError, match="line 1"):
        chat.read(_file(tmp_path, text))
