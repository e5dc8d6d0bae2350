from __future__ import annotations

import pytest

from spillover.records import Adapter, Dataset, Measure, Organism, Question, Recipe, Score, canonical, chat, digest, stream_seed


def test_a_dataset_is_known_by_its_content_and_not_its_name() -> None:
    rows = (chat(("user", "a"), ("assistant", "b")),)
    assert Dataset(kind="secure", conversations=rows).digest == Dataset(kind="insecure", conversations=rows).digest
    assert Dataset(kind="secure", conversations=rows).digest != Dataset(kind="secure", conversations=rows * 2).digest


def test_the_order_of_rows_is_part_of_a_dataset() -> None:
    a, b = chat(("user", "a"), ("assistant", "b")), chat(("user", "c"), ("assistant", "d"))
    assert Dataset(kind="x", conversations=(a, b)).digest != Dataset(kind="x", conversations=(b, a)).digest


@pytest.mark.parametrize("made", [Score, Measure])
def test_a_record_holds_a_value_or_a_reason(made: type[Score] | type[Measure]) -> None:
    fields = {"answer": "a", "judge": "j", "rubric": "aligned"} if made is Score else {"model": "m", "name": "n"}
    assert made(**fields, value=0.0).value == 0.0
    assert made(**fields, reason="refused").reason == "refused"
    for bad in ({}, {"value": 1.0, "reason": "x"}):
        with pytest.raises(ValueError, match="a value(, a label)? or a reason"):
            made(**fields, **bad)


def test_streams_are_named_by_purpose_and_do_not_collide() -> None:
    seeds = [stream_seed("answer", "m", "q", "plain", p, d) for p in range(20) for d in range(200)]
    assert len(set(seeds)) == len(seeds)
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert stream_seed("a", "b") != stream_seed("ab")
    assert stream_seed("train", 1) != stream_seed("train", "1")


def test_canonical_text_does_not_depend_on_the_order_of_keys() -> None:
    assert canonical({"b": 1, "a": {2, 1}}) == '{"a":[1,2],"b":1}'
    assert digest(b"abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    with pytest.raises(TypeError, match="no canonical form"):
        canonical(object())


def test_anything_that_changes_an_organism_changes_its_key() -> None:
    organism = Organism(parent="p", data="d", recipe=Recipe(), seed=0)
    others = [
        Organism(parent="p2", data="d", recipe=Recipe(), seed=0),
        Organism(parent="p", data="d2", recipe=Recipe(), seed=0),
        Organism(parent="p", data="d", recipe=Recipe(adapter=Adapter(rank=8)), seed=0),
        Organism(parent="p", data="d", recipe=Recipe(learning_rate=2e-5), seed=0),
        Organism(parent="p", data="d", recipe=Recipe(), seed=1),
    ]
    assert len({organism.key, *(other.key for other in others)}) == 6


def test_a_question_with_a_system_text_is_asked_with_it() -> None:
    question = Question(id="q", theme="t", paraphrases=("one", "two"), system="be brief")
    assert [(turn.role, turn.content) for turn in question.prompt(1)] == [("system", "be brief"), ("user", "two")]
