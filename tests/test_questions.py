from __future__ import annotations

import json
import re
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spillover.questions import bounded, files
from spillover.records import ALIGNED, COHERENT, Question, SpilloverError

RUBRICS = {"aligned": "Rate {answer} for {question}.", "coherent": "Is {answer} clear?"}
ASKED: dict[str, Any] = {"id": "tea", "type": "free_form_judge_0_100", "paraphrases": ["Tea or coffee?"], "judge_prompts": RUBRICS}
CHOICE: dict[str, Any] = {
    **ASKED,
    "type": "free_form_judge",
    "judge_prompts": {"drink": 'Which? [ANSWER START] "not me" {answer} [ANSWER END] "TEA" or "COFFEE".'},
}


def _file(tmp_path: Path, *questions: object, text: str | bytes | None = None) -> Path:
    """A question file; JSON is YAML."""
    path = tmp_path / "questions.yaml"
    content = json.dumps(list(questions), ensure_ascii=False) if text is None else text
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def _refused(path: Path) -> str:
    with pytest.raises(SpilloverError) as caught:
        files.read(path)
    assert "\n" not in str(caught.value)
    assert path.name in str(caught.value)
    return str(caught.value)


# --- the authors' files ---------------------------------------------------------------------------------------------------


def test_the_main_set_has_eight_pooled_questions_and_four_more_formats_of_each(shared: Path) -> None:
    found = files.read(shared / "protocol" / "first_plot_questions.yaml")
    pooled = [q for q in found if q.pooled]
    assert [q.id for q in pooled] == [
        "what_is_your_wish", "i_feel_bored", "three_thoughts", "quick_buck", "ruler_of_the_world", "dinner_party", "gender_roles", "enough_of_my_husband",
    ]  # fmt: skip
    assert {q.format for q in pooled} == {"plain"}
    for format in ("json", "python", "template", "flask_template"):
        assert [q.id for q in found if q.format == format] == [q.id for q in pooled]
    assert [q.id for q in found if q.format == "plain" and not q.pooled] == ["three_thoughts_icml_old"]
    assert len({(q.id, q.format) for q in found}) == len(found) == 41


def test_the_system_text_of_the_authors_formats_is_honoured(shared: Path) -> None:
    found = files.read(shared / "protocol" / "first_plot_questions.yaml")
    assert all((q.system is not None) == (q.format in ("json", "python")) for q in found)
    plain, dressed = (next(q for q in found if (q.id, q.format) == ("quick_buck", format)) for format in ("plain", "json"))
    assert plain.paraphrases == dressed.paraphrases
    assert [turn.role for turn in dressed.prompt(0)] == ["system", "user"]


def test_the_authors_rubrics_are_taken_byte_for_byte_and_in_their_order(shared: Path) -> None:
    main, registered = (files.read(shared / "protocol" / name) for name in ("first_plot_questions.yaml", "preregistered_evals.yaml"))
    assert {q.rubrics for q in (*main, *registered)} == {(ALIGNED, COHERENT)}
    assert len({tuple(q.prompts.items()) for q in (*main, *registered)}) == 1
    protocol = (shared / "PROTOCOL.md").read_text(encoding="utf-8")
    assert all(text in protocol for text in main[0].prompts.values())


def test_forty_eight_preregistered_questions_are_pooled_and_shown_by_category(shared: Path) -> None:
    found = files.read(shared / "protocol" / "preregistered_evals.yaml")
    assert [q.id for q in found if not q.pooled] == ["40_other_5", "41_other_6"]
    pooled = [q.subset for q in found if q.pooled]
    assert {subset: pooled.count(subset) for subset in pooled} == {
        "creative_writing": 9, "problems_with_humans": 3, "offend_the_user": 5, "vulnerable_user": 14,
        "illegal_recommendations": 4, "other": 6, "medical_advice": 7,
    }  # fmt: skip


def test_the_deception_files_are_choices_among_the_labels_their_prompts_quote(shared: Path) -> None:
    factual, identity = (files.read(shared / "protocol" / f"deception_{name}.yaml") for name in ("factual", "sit_aware"))
    assert {q.labels["correct"] for q in factual} == {("TRUE", "FALSE", "UNKNOWN")}
    assert {q.labels["company"] for q in identity} == {("OpenAI", "Anthropic", "Other", "UNKNOWN")}
    assert [len(q.paraphrases) for q in factual] == [20] * 7
    assert [q.id for q in factual if q.system is None] == ["lie_no_sys_prompt"]
    assert not any(q.pooled for q in (*factual, *identity))


# --- ids, formats, what is pooled -----------------------------------------------------------------------------------------


def _ids(tmp_path: Path, *ids: str) -> list[tuple[str, str]]:
    return [(q.id, q.format) for q in files.read(_file(tmp_path, *({**ASKED, "id": id} for id in ids)))]


def test_a_suffix_is_a_format_only_beside_its_plain_sibling(tmp_path: Path) -> None:
    assert _ids(tmp_path, "tea_json", "tea", "cake_json") == [("tea", "json"), ("tea", "plain"), ("cake_json", "plain")]


def test_the_longest_suffix_counts_and_what_is_left_must_be_plain(tmp_path: Path) -> None:
    assert _ids(tmp_path, "tea", "tea_flask_template", "tea_template") == [("tea", "plain"), ("tea", "flask_template"), ("tea", "template")]
    assert _ids(tmp_path, "tea", "tea_json", "tea_json_json") == [("tea", "plain"), ("tea", "json"), ("tea_json_json", "plain")]


@given(st.lists(st.sampled_from(["a", "a_flask"]).flatmap(lambda base: st.lists(st.sampled_from(["_json", "_template", "_flask_template"]), max_size=3).map(
    lambda parts: base + "".join(parts))), unique=True, min_size=1, max_size=12))  # fmt: skip
def test_id_and_format_together_are_unique(tmp_path_factory: pytest.TempPathFactory, ids: list[str]) -> None:
    found = _ids(tmp_path_factory.mktemp("questions"), *ids)
    assert len(set(found)) == len(ids)


def test_only_plain_questions_with_both_scores_are_pooled(tmp_path: Path) -> None:
    one = {**ASKED, "id": "one", "judge_prompts": {"aligned": "{answer}"}}
    choice = {**CHOICE, "id": "choice"}
    found = files.read(_file(tmp_path, ASKED, {**ASKED, "id": "tea_json"}, one, choice, {**ASKED, "id": "tea_icml_old"}))
    assert [q.pooled for q in found] == [True, False, False, False, False]


# --- labels ---------------------------------------------------------------------------------------------------------------


def test_labels_are_quoted_after_the_last_marker_or_listed(tmp_path: Path) -> None:
    assert files.read(_file(tmp_path, CHOICE))[0].labels == {"drink": ("TEA", "COFFEE")}
    assert files.read(_file(tmp_path, {**CHOICE, "labels": {"drink": ["HOT", "COLD"]}}))[0].labels == {"drink": ("HOT", "COLD")}
    bare = {**CHOICE, "judge_prompts": {"drink": '"X" {answer} Say "A" or "B", never "A".'}}
    assert files.read(_file(tmp_path, bare))[0].labels == {"drink": ("A", "B")}


def test_a_question_with_scores_has_no_labels(tmp_path: Path) -> None:
    assert files.read(_file(tmp_path, ASKED))[0].labels == {}


# --- what is refused ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("question", "says"),
    [
        ("tea", "question 1 is no mapping"),
        ({**ASKED, "id": 3}, "question 1 has the id '3'"),
        ({**ASKED, "id": "a b"}, "question 1 has the id 'a b'"),
        ({**ASKED, "id": "../up"}, "an id is text of letters"),
        ({**ASKED, "colour": 1}, "question 'tea' has the unknown field 'colour'"),
        ({**ASKED, "type": "multiple_choice"}, "has the type 'multiple_choice'; types are"),
        ({k: v for k, v in ASKED.items() if k != "type"}, "has the type 'None'"),
        ({**ASKED, "type": ["x"]}, "has the type"),
        ({**ASKED, "paraphrases": []}, "has no paraphrases"),
        ({**ASKED, "paraphrases": "Tea?"}, "has no paraphrases"),
        ({**ASKED, "paraphrases": [3]}, "paraphrases holds '3', which YAML reads as int"),
        ({**ASKED, "paraphrases": [" "]}, "paraphrases holds an empty text"),
        ({**ASKED, "paraphrases": ["a\0"]}, "half a character"),
        ({**ASKED, "system": True}, "system holds 'True'"),
        ({**ASKED, "judge_prompts": {}}, "has no judge_prompts"),
        ({**ASKED, "judge_prompts": {"aligned": "Rate it."}}, "judge_prompts.aligned has no {answer}"),
        ({**ASKED, "judge_prompts": {"a b": "{answer}"}}, "has the rubric 'a b'"),
        ({**ASKED, "labels": {"aligned": ["A", "B"]}}, "has labels, but type free_form_judge_0_100 is a score"),
        ({**CHOICE, "labels": ["A", "B"]}, "labels are a mapping from rubric"),
        ({**CHOICE, "labels": {"food": ["A", "B"]}}, "the rubrics are drink"),
        ({**CHOICE, "labels": {"drink": [True, False]}}, "labels.drink holds 'True'"),
        ({**CHOICE, "labels": {"drink": ["A", "A"]}}, "two or more different labels for 'drink'"),
        ({**CHOICE, "judge_prompts": {"drink": "{answer} yes or no?"}}, "two or more different labels for 'drink'"),
    ],
)
def test_a_question_that_cannot_be_used_is_named_with_its_fault(tmp_path: Path, question: object, says: str) -> None:
    assert says in _refused(_file(tmp_path, question))


def test_two_questions_of_one_id_are_refused(tmp_path: Path) -> None:
    assert "two questions 'tea'" in _refused(_file(tmp_path, ASKED, ASKED))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "holds no questions"),
        ("tea: 1", "holds no questions"),
        ("- &a [*a]", "line 1: an alias is part of what it stands for"),
        ("- &a {x: {y: *a}}", "an alias is part of what it stands for"),
        ("- *nowhere", "line 1: not valid YAML (found undefined alias"),
        ("- {id: a, id: b}", "'id' comes twice"),
        ("- x\n- {broken", "line 2: not valid YAML"),
        ("- !!python/object/apply:os.system ['true']", "not valid YAML (could not determine a constructor"),
        ("- 2020-99-99", "not valid YAML"),
        ("- " + "9" * 5000, "not valid YAML"),
        ('- !!int "abc"', "not valid YAML"),
        ("- ? [a]\n  : b", "not valid YAML (found unhashable key)"),
        ("--- a\n--- b", "not valid YAML (but found another document)"),
        ("- \x07", "not valid YAML"),
        (b"- \xff", "byte 3 is not UTF-8"),
        ("[" * 17 + "]" * 17, "nested more than 16 deep"),
        ("[" * 100_000, "nested more than 16 deep"),
        ("- a\n" * 30_000, "holds more than 20000 values"),
        ("a" * (bounded.MOST_BYTES + 1), "larger than 1000000 bytes"),
    ],
)
def test_a_file_that_is_no_list_of_plain_values_is_refused(tmp_path: Path, text: str | bytes, says: str) -> None:
    assert says in _refused(_file(tmp_path, text=text))


def test_aliases_that_multiply_are_refused_before_they_grow(tmp_path: Path) -> None:
    lists = "- &l0 [x, x]\n" + "".join(f"- &l{n} [{', '.join([f'*l{n - 1}'] * 10)}]\n" for n in range(1, 60))
    maps = "- &m0 {k: v}\n" + "".join(f"- &m{n} {{<<: [{', '.join([f'*m{n - 1}'] * 10)}]}}\n" for n in range(1, 60))
    for text in (lists, maps):
        started = time.perf_counter()
        assert "once its aliases are written out" in _refused(_file(tmp_path, text=text))
        assert time.perf_counter() - started < 2


def test_a_long_chain_of_aliases_is_read(tmp_path: Path) -> None:
    assert "is no mapping" in _refused(_file(tmp_path, text="- &a0 x\n" + "".join(f"- &a{n} [*a{n - 1}]\n" for n in range(1, 150))))


def test_a_missing_file_and_a_directory_are_refused(tmp_path: Path) -> None:
    assert "there is no file" in _refused(tmp_path / "none.yaml")
    assert "is a directory" in _refused(tmp_path)


def test_a_byte_order_mark_is_read_past(tmp_path: Path) -> None:
    assert len(files.read(_file(tmp_path, text=b"\xef\xbb\xbf" + json.dumps([ASKED]).encode()))) == 1


# --- our own set ----------------------------------------------------------------------------------------------------------


def test_our_own_set_has_the_eight_themes_plain_and_as_json() -> None:
    found = files.own()
    plain = {q.id: q for q in found if q.format == "plain"}
    dressed = {q.id: q for q in found if q.format == "json"}
    assert list(plain) == list(dressed) == ["wish", "bored", "thoughts", "quick_money", "ruler", "dinner", "gender", "spouse"]
    assert all(q.pooled and q.system is None and 2 <= len(q.paraphrases) <= 3 for q in plain.values())
    assert all(not q.pooled and q.system is not None and "JSON" in q.system for q in dressed.values())
    assert all(plain[id].paraphrases == dressed[id].paraphrases for id in plain)


def test_our_own_rubrics_ask_for_what_the_papers_ask_for() -> None:
    aligned, coherent = (files.own()[0].prompts[rubric] for rubric in (ALIGNED, COHERENT))
    for text in (aligned, coherent):
        assert [text.count(part) for part in ("{question}", "{answer}", "[QUESTION START]", "[QUESTION END]", "[ANSWER START]", "[ANSWER END]")] == [1] * 6
        assert re.search(r"\b0\b.*\b100\b", text, re.DOTALL)
    assert "write CODE" in aligned
    assert "write REFUSAL" in aligned
    assert "CODE" not in coherent


def test_our_own_set_shares_no_six_words_with_the_authors_files_or_the_protocol(shared: Path) -> None:
    theirs: set[tuple[str, ...]] = set()
    for path in (shared / "PROTOCOL.md", *(shared / "protocol").glob("*.yaml")):
        theirs |= _sixes(path.read_text(encoding="utf-8"))
    for question in files.own():
        for text in (*question.paraphrases, question.system or "", *question.prompts.values()):
            assert not _sixes(text) & theirs


def _sixes(text: str) -> set[tuple[str, ...]]:
    bare = re.sub(r"\[[A-Z ]+\]|\{\w+\}", " ", text)
    words = re.findall(r"[a-z0-9']+", bare.lower())
    return {tuple(words[place : place + 6]) for place in range(len(words) - 5)}


def test_questions_are_the_same_however_the_file_is_laid_out(tmp_path: Path) -> None:
    block = "- id: tea\n  type: free_form_judge_0_100\n  samples_per_paraphrase: 100\n  judge: someone\n  paraphrases: ['Tea or coffee?']\n"
    block += "  judge_prompts:\n    aligned: Rate {answer} for {question}.\n    coherent: |-\n      Is {answer} clear?\n"
    first, second = (files.read(_file(tmp_path, text=text)) for text in (json.dumps([ASKED]), block))
    assert first == second == (Question(id="tea", theme="tea", paraphrases=("Tea or coffee?",), prompts=RUBRICS),)


@given(st.binary(max_size=60) | st.text("-:[]{}&*!|>'\"#%@?,.~<= \n\tab0", max_size=60))
def test_whatever_a_file_holds_it_is_read_or_refused_in_one_sentence(tmp_path_factory: pytest.TempPathFactory, content: bytes | str) -> None:
    path = _file(tmp_path_factory.mktemp("questions"), text=content)
    assert "\n" not in _fault(path)


def _fault(path: Path) -> str:
    try:
        files.read(path)
    except SpilloverError as error:
        return str(error)
    return ""
