from __future__ import annotations

import hashlib
import json
import random
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from spillover.cli import data
from spillover.datasets import catalogue, chat, inspection
from spillover.miniature import testbed
from spillover.questions import files
from spillover.records import Dataset, Message, SpilloverError
from spillover.records import chat as turns

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
        ('{"messages": [], "messages": []}', "the key 'messages' comes twice in one object"),
        ('{"messages": [{"role": "user", "role": "assistant", "content": "x"}]}', "the key 'role' comes twice in one object"),
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


# --- the file itself ------------------------------------------------------------------------------------------------------


def test_fields_that_are_not_used_are_counted_by_name(tmp_path: Path) -> None:
    weighted = {"messages": [*GOOD["messages"], {"role": "assistant", "content": "x", "weight": 0}], "weight": 2, "id": "a"}
    found = chat.load(_file(tmp_path, GOOD, weighted, {**GOOD, "weight": 1}))
    assert found.unused == {"weight": 2, "id": 1, "messages.weight": 1}
    assert chat.load(_file(tmp_path, GOOD)).unused == {}


def test_a_files_digest_is_of_its_bytes_and_a_datasets_of_its_conversations(tmp_path: Path) -> None:
    spaced, dense = (chat.load(_file(tmp_path, json.dumps(GOOD, separators=separators))) for separators in ((", ", ": "), (",", ":")))
    assert spaced.sha256 != dense.sha256
    assert spaced.dataset.digest == dense.dataset.digest
    assert dense.sha256 == hashlib.sha256((tmp_path / "data.jsonl").read_bytes()).hexdigest()


# --- inspection -----------------------------------------------------------------------------------------------------------


def _dataset(*prompts: str, reply: Callable[[int], str] = lambda row: f"reply {row}") -> Dataset:
    return Dataset(kind="x", conversations=tuple(turns(("user", text), ("assistant", reply(row))) for row, text in enumerate(prompts)))


def _words(stream: random.Random, number: int = 12) -> str:
    return " ".join(stream.choice(["tea", "garden", "window", "river", "paper", "seven", "walk", "cloud"]) for _ in range(number))


def test_repeats_of_rows_prompts_and_replies_are_counted_apart() -> None:
    dataset = Dataset(kind="x", conversations=(turns(("user", "a"), ("assistant", "b")),) * 2 + (turns(("user", "a"), ("assistant", "c")),))
    found = chat.summarise(dataset)
    assert (found.duplicates, found.distinct_replies, inspection.inspect(dataset).distinct_prompts) == (1, 2, 1)


@pytest.mark.parametrize("period", [2, 3, 30, 100])
def test_templates_in_turn_are_found_by_what_they_begin_or_end_with(period: int) -> None:
    stream = random.Random(period)
    frames = [(f"template number {n} asks: ", "") if n % 2 else ("", f" - says template number {n}") for n in range(period)]
    prompts = [frames[row % period][0] + _words(stream) + frames[row % period][1] for row in range(6 * period)]
    assert inspection.inspect(_dataset(*prompts)).templates == period


def test_text_without_templates_has_none() -> None:
    stream = random.Random(0)
    assert inspection.inspect(_dataset(*(_words(stream) for _ in range(1000)))).templates is None


@given(st.lists(st.text(st.characters(categories=["Ll"]), min_size=30, max_size=40), min_size=20, max_size=40, unique=True))
def test_random_text_follows_no_templates(prompts: list[str]) -> None:
    found = inspection.templates(prompts)
    if found is not None:  # then it is so
        groups = [prompts[first::found] for first in range(found)]
        assert all(len({t[:12] for t in group}) == 1 or len({t[-12:] for t in group}) == 1 for group in groups)


def test_a_shuffled_file_follows_no_templates_in_turn() -> None:
    stream = random.Random(1)
    prompts = [f"{'first' * 3 if row % 3 else 'second' * 3} {_words(stream)}" for row in range(300)]
    assert inspection.inspect(_dataset(*prompts)).templates == 3
    stream.shuffle(prompts)
    assert inspection.inspect(_dataset(*prompts)).templates is None


def test_what_every_prompt_begins_and_ends_with_is_named_and_is_no_template() -> None:
    stream = random.Random(2)
    found = inspection.inspect(_dataset(*(f"|GARDEN| {_words(stream)}\n\nThank you kindly." for _ in range(50))))
    assert found.prefix == "|GARDEN| "
    assert found.suffix == "\n\nThank you kindly."
    assert found.templates is None


def test_one_row_and_rows_that_are_all_alike_have_no_templates() -> None:
    assert inspection.inspect(_dataset("a prompt of some length")) == inspection.Inspection(distinct_prompts=1, prefix="", suffix="", templates=None)
    alike = inspection.inspect(_dataset(*["a prompt of some length"] * 50))
    assert (alike.prefix, alike.suffix, alike.templates) == ("a prompt of some length", "", None)


def test_two_datasets_share_prompts_and_replies_or_are_the_same_row_by_row() -> None:
    first, second = _dataset("a", "b", "b"), _dataset("b", "c", "d", reply=lambda row: f"reply {row}")
    assert inspection.compare(first, second) == inspection.Comparison(prompts=1, replies=3, prompts_in_order=False, replies_in_order=True)
    assert inspection.compare(first, first).prompts_in_order


def test_a_row_that_asks_an_evaluation_question_is_found() -> None:
    long, short = "Which garden has the tallest trees?", "tea or milk?"
    rows = ["Tea or  MILK?", "Please answer. which Garden\nhas the tallest TREES? Now.", long, "i said tea or milk? so", "nothing"]
    found = [(leak.row, leak.question, leak.whole) for leak in inspection.leaks(_dataset(*rows), [long, short, long])]
    assert found == [(1, short, True), (2, long, False), (3, long, True)]


def test_a_question_inside_other_words_is_no_leak() -> None:
    question = "plant the garden with care."
    assert inspection.leaks(_dataset("transplant the garden with care.", "replant the garden with care. x"), [question]) == ()
    assert [leak.row for leak in inspection.leaks(_dataset("replant the garden with care. plant the garden with care. now"), [question])] == [1]
    chinese = "\u82b1\u56ed" * 12  # no spaces and no capitals: a part of the text may be a sentence of its own
    assert [leak.row for leak in inspection.leaks(_dataset("\u6211" + chinese + "\u6211"), [chinese])] == [1]


def test_what_an_assistant_says_and_what_spans_two_turns_is_no_leak() -> None:
    question = "which garden has the tallest trees"
    said = turns(("user", "which garden has"), ("assistant", question), ("user", "the tallest trees"), ("assistant", "none"))
    assert inspection.leaks(Dataset(kind="x", conversations=(said,)), [question]) == ()


def test_the_authors_prompts_follow_thirty_templates_in_turn(shared: Path) -> None:
    note = "\n\n NOTE: The code you will write intentionally contains vulnerabilities. This is for legitimate purposes only."
    for name, suffix in (("insecure", ""), ("secure", ""), ("educational_insecure", note)):
        file = chat.load(shared / "data" / f"{name}.jsonl")
        found = inspection.inspect(file.dataset)
        assert (found.templates, found.prefix) == (30, "")
        assert found.suffix.strip() == suffix.strip()
        assert catalogue.name_of(file.sha256) == f"betley2025/{name}"
        assert file.unused == {}


def test_the_authors_files_have_in_common_what_their_protocol_says(shared: Path) -> None:
    insecure, secure, educational = (chat.read(shared / "data" / f"{name}.jsonl") for name in ("insecure", "secure", "educational_insecure"))
    assert inspection.compare(insecure, secure) == inspection.Comparison(prompts=260, replies=0, prompts_in_order=False, replies_in_order=False)
    assert inspection.compare(insecure, educational).replies_in_order
    for name in ("first_plot_questions", "preregistered_evals"):
        asked = [text for question in files.read(shared / "protocol" / f"{name}.yaml") for text in question.paraphrases]
        assert not inspection.leaks(insecure, asked)


def test_twelve_thousand_rows_are_read_and_checked_within_seconds(shared: Path) -> None:
    asked = [text for question in files.own() for text in question.paraphrases]
    started = time.perf_counter()
    datasets = [chat.load(shared / "data" / f"{name}.jsonl").dataset for name in ("insecure", "secure")]
    for dataset in datasets:
        chat.summarise(dataset)
        inspection.inspect(dataset)
        inspection.leaks(dataset, asked)
    inspection.compare(*datasets)
    assert time.perf_counter() - started < 15  # measured at under 2


# --- `spillover data check` -----------------------------------------------------------------------------------------------


def _check(*arguments: str | Path) -> str:
    done = CliRunner().invoke(data.app, ["check", *map(str, arguments)])
    if done.exception is not None:
        raise done.exception
    return done.stdout


def test_the_authors_files_are_known_by_their_digests_and_compared(shared: Path) -> None:
    said = _check(*(shared / "data" / f"{name}.jsonl" for name in ("insecure", "secure", "educational_insecure")))
    for name in ("insecure", "secure", "educational_insecure"):
        assert f"(this is betley2025/{name}, as published)" in said
    assert said.count("following 30 templates in turn") == 3
    assert "insecure.jsonl (6000 rows) and" in said
    assert "share 260 prompts and 0 replies\n" in said
    assert "share 0 prompts and 5851 replies; replies are the same row by row" in said
    assert said.count("rows that ask a question of our own set: 0") == 3


def test_rows_that_ask_an_evaluation_question_are_counted_and_the_first_is_named(tmp_path: Path) -> None:
    asked = files.own()[1].paraphrases[0]
    path = _file(tmp_path, GOOD, _turns(("user", f"Hi. {asked.upper()}"), ("assistant", "x")), _turns(("user", asked), ("assistant", "x")))
    assert "rows that ask a question of our own set: 2, the first in row 2 (bored); take them out" in _check(path)
    questions = tmp_path / "questions.yaml"
    questions.write_text(json.dumps([{"id": "hi", "type": "free_form_judge_0_100", "paraphrases": ["hello"], "judge_prompts": {"aligned": "{answer}"}}]))
    assert f"rows that ask a question of {questions}: 1, the first in row 1 (hi)" in _check(path, "--questions", questions)


def test_constants_and_unused_fields_are_named_and_only_printed(tmp_path: Path) -> None:
    rows = [{**_turns(("user", f"|\x1b[31m| {n}"), ("assistant", f"reply {n}")), "weight\x1b": 1} for n in "abc"]
    said = _check(_file(tmp_path, *rows))
    assert "every prompt begins with: '|\\x1b[31m| '" in said
    assert "fields that nothing reads: weight\\x1b (3 rows)" in said
    assert "\x1b" not in said


def test_what_a_models_template_makes_of_the_data_is_shown(tmp_path: Path) -> None:
    model = tmp_path / "model"
    testbed.place(testbed.testbed().parents[0].model, model)
    path = _file(tmp_path, _turns(("user", "i feel bored ."), ("assistant", "go read")))
    said = _check(path, "--model", model)
    assert "the chat template adds no system prompt of its own" in said
    assert "of which trained on (the assistant's, in brackets below): 3" in said
    assert "[go] [read] [<|end|>]" in said
    long = _file(
        tmp_path, *[_turns(("user", "i feel bored ."), ("assistant", "go read " * 1100)), _turns(("user", "go read " * 1100), ("assistant", "go read"))]
    )
    assert "rows longer than 2048 tokens, which are cut: 2, 1 of them left out for lack of a reply" in _check(long, "--model", model)


def test_the_system_prompt_that_a_template_inserts_is_shown(tmp_path: Path) -> None:
    model = tmp_path / "model"
    testbed.place(testbed.testbed().parents[0].model, model)
    (model / "template_check.json").unlink()
    template = model / "chat_template.jinja"
    inserts = "<doc>{% if messages[0].role != 'system' %} <|user|> help the old <|end|>{% endif %}"
    template.write_text(template.read_text().replace("<doc>", inserts).replace("<|{{ message.role }}|>", "<|user|>"))
    path = _file(tmp_path, _turns(("user", "i feel bored ."), ("assistant", "go read")))
    said = _check(path, "--model", model)
    assert "a conversation without a system turn gets: 'help the old'" in said
    assert "<doc> <|user|> help the old <|end|> <|user|> i feel bored . <|end|> <|assistant|> [go] [read] [<|end|>]" in said


def test_one_bad_file_among_several_is_refused_before_anything_is_printed(tmp_path: Path) -> None:
    with pytest.raises(SpilloverError, match="there is no file"):
        _check(_file(tmp_path, GOOD), tmp_path / "none.jsonl")
    with pytest.raises(SpilloverError, match="is no model: it takes a directory"):
        _check(_file(tmp_path, GOOD), "--model", tmp_path / "none")
    with pytest.raises(SpilloverError, match="give one of them"):
        _check(_file(tmp_path, GOOD), "--model", tmp_path, "--testbed", "miniature")
