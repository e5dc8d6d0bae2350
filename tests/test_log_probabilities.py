"""Log-probabilities of given answers, held against a plain computation: one row at a time, with transformers alone."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import tokenizers_of_three_kinds
from small_models import DEFAULT_SYSTEM, MARKED, TEMPLATE, make
from spillover.models import local, memory
from spillover.models.endpoint import EndpointModel
from spillover.models.local import LocalModel
from spillover.models.scripted import ScriptedModel
from spillover.records import Forced, Item, Model, SpilloverError, chat
from spillover.sampling import log_probabilities

WORDS = "Say hi there , friend . one two three more A: B: soup cake You are kind and brief user assistant system"
CHATML = TEMPLATE.partition("{% endif %}")[2]
TRIMMED = TEMPLATE.replace("{{ turn.content }}", "{{ turn.content | trim }}")
BARE = "{% for turn in messages %}{{ turn.role | capitalize }}: {{ turn.content }}\n{% endfor %}{% if add_generation_prompt %}Assistant:{% endif %}"
ASK = chat(("user", "Say more , friend"))
FORCED = [
    Forced(prompt=ASK, blocks=(("A", True),)),
    Forced(prompt=chat(("user", "one\nA: soup\nB: cake")), blocks=(("B", True),)),
    Forced(prompt=ASK, blocks=(("One may say", False), (" hi", True), (" there", False))),
    Forced(prompt=ASK, blocks=(("One may say", False), (" Leonardo da Vinci", True), (".", False))),  # many tokens
    Forced(prompt=ASK, blocks=(("One may say", False), (" three", True), (" more", True))),
    Forced(prompt=ASK, blocks=(("One may say th", False), ("ere", True), (" , friend", False))),  # " there" is one token: it reaches over the edge
    Forced(prompt=ASK, blocks=(("One may say", False), (" th", True), ("ree friend", False))),
    Forced(prompt=chat(("system", "You are brief"), ("user", "Say hi"), ("assistant", "hi"), ("user", "more more")), blocks=(("one", True), (" two", True))),
    Forced(prompt=ASK, blocks=(("naïve", False), (" café ☕", True), (" more", False))),  # tokens within a character
]  # fmt: skip


def _plain(location: Path, forced: Forced) -> float:
    """One forward of one row. A token is scored if one of its bytes is in a scored block."""
    tokenizer: Any = AutoTokenizer.from_pretrained(location)
    network = AutoModelForCausalLM.from_pretrained(location, dtype=torch.float32).eval()
    reply = "".join(text for text, _ in forced.blocks)
    turns = [{"role": turn.role, "content": turn.content} for turn in forced.prompt] + [{"role": "assistant", "content": reply}]
    text = tokenizer.apply_chat_template(turns, tokenize=False)
    text = text[: text.rindex(reply) + len(reply)]
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    wanted = [False] * len(text[: -len(reply)].encode()) + [scored for block, scored in forced.blocks for _ in block.encode()]
    with torch.no_grad():
        logp_TV = network(input_ids=torch.tensor([ids])).logits[0].double().log_softmax(-1)
    total, reached = 0.0, 0
    for place, token in enumerate(tokenizer.convert_ids_to_tokens(ids)):  # a byte-level token has a character for every byte
        if any(wanted[reached : reached + len(token)]):
            total += float(logp_TV[place - 1, ids[place]])
        reached += len(token)
    assert reached == len(text.encode())
    return total


KINDS: dict[str, dict[str, str]] = {
    "default system prompt": {"template": TEMPLATE},
    "marked turns": {"template": MARKED},
    "no system prompt": {"template": CHATML, "architecture": "llama"},
    "trimmed turns": {"template": TRIMMED, "architecture": "gemma2"},
    "bare": {"template": BARE, "architecture": "qwen3"},
}


@pytest.fixture(scope="module", params=KINDS)
def place(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(tmp_path_factory.mktemp("model") / "model", [WORDS] * 3, **KINDS[request.param])


@pytest.fixture(scope="module")
def qwen(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(tmp_path_factory.mktemp("model") / "model", [WORDS] * 3)


def _load(place: Path, **options: bool) -> LocalModel:
    return local.load(Model(digest=local.weights_digest(place), location=str(place)), **options)


# --- forced blocks --------------------------------------------------------------------------------------------------------


def test_sums_are_those_of_a_plain_computation_whatever_is_computed_together(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = _load(place)
    expected = [_plain(place, forced) for forced in FORCED]
    assert len({round(value, 3) for value in expected}) > len(expected) - 2
    for rows in (1, 2, 7, len(FORCED)):
        monkeypatch.setattr(memory, "MOST_ROWS", rows)
        assert model.forced(FORCED) == pytest.approx(expected, abs=1e-5, rel=0)
        assert model.forced(FORCED[::-1]) == pytest.approx(expected[::-1], abs=1e-5, rel=0)


def test_the_side_on_which_a_tokenizer_pads_is_no_matter(place: Path) -> None:
    model, found = _load(place), list[list[float]]()
    for side in ("left", "right"):
        model.tokenizer.padding_side = side
        found.append(model.forced(FORCED))
    assert found[0] == found[1]


def test_no_forced_replies_have_no_sums(qwen: Path) -> None:
    assert _load(qwen).forced([]) == []


def test_the_end_of_a_turn_is_not_scored(qwen: Path) -> None:
    model = _load(qwen)
    whole, forced = (value for (value,) in (model.log_probabilities([ASK], ["hi there"]), model.forced([Forced(prompt=ASK, blocks=(("hi there", True),))])))
    ids, end = model.prompt_ids(ASK) + model.text_ids("hi there"), model.tokenizer.convert_tokens_to_ids("<|im_end|>")
    with torch.no_grad():
        ended = float(model.network(input_ids=torch.tensor([ids])).logits[0, -1].double().log_softmax(-1)[end])
    assert whole == pytest.approx(forced + ended, abs=1e-5)


def test_blocks_add_up_to_the_reply_where_no_token_reaches_over_an_edge(qwen: Path) -> None:
    model = _load(qwen)
    parts = ("one", " two", " three more", ".")
    scored = [Forced(prompt=ASK, blocks=tuple((part, on in (place, None)) for place, part in enumerate(parts))) for on in (None, 0, 1, 2, 3)]
    whole, *each = model.forced(scored)
    assert whole == pytest.approx(math.fsum(each), abs=1e-5)


def test_a_token_that_reaches_over_an_edge_is_the_scored_blocks(qwen: Path) -> None:
    model = _load(qwen)
    assert model.template.text_ids(" there") == model.template.text_ids(" there")[:1]
    found = model.forced([Forced(prompt=ASK, blocks=blocks) for blocks in (
        (("Say", False), (" there", True)), (("Say th", False), ("ere", True)), (("Say", False), (" the", True), ("re", False)),
    )])  # fmt: skip
    assert found[0] == found[1] == found[2]


def test_the_templates_own_system_prompt_applies_unless_it_is_switched_off(qwen: Path) -> None:
    bare, told, empty = (Forced(prompt=(*chat(*system), *ASK), blocks=(("A", True),)) for system in ((), [("system", DEFAULT_SYSTEM)], [("system", "")]))
    on, off = _load(qwen), _load(qwen, system=False)
    assert on.forced([bare]) == on.forced([told]) != on.forced([empty])
    assert off.forced([bare]) == on.forced([empty])


@pytest.mark.parametrize(
    ("blocks", "says"),
    [
        ((), "no token of the reply '' can be scored"),
        ((("A", False),), "no token of the reply 'A' can be scored; it needs a scored block of text"),
        ((("", True), ("A", False)), "no token of the reply 'A' can be scored"),
        ((("A<|im_end|>", True),), "spells the control token '<|im_end|>'"),
    ],
)
def test_a_reply_that_cannot_be_scored_is_refused_in_one_sentence(qwen: Path, blocks: tuple[tuple[str, bool], ...], says: str) -> None:
    with pytest.raises(SpilloverError) as caught:
        _load(qwen).forced([Forced(prompt=ASK, blocks=blocks)])
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_reply_that_the_template_changes_is_refused(tmp_path: Path) -> None:
    model = _load(make(tmp_path / "model", [WORDS] * 3, template=TRIMMED))
    with pytest.raises(SpilloverError, match="^the chat template does not write the reply 'one ' as it is; begin and end it with a letter or a sign$"):
        model.forced([Forced(prompt=ASK, blocks=(("one ", True),))])


@pytest.mark.parametrize("kind", tokenizers_of_three_kinds.KINDS)
def test_the_tokens_of_a_block_are_found_in_every_kind_of_tokenizer(kind: str) -> None:
    found = tokenizers_of_three_kinds.template(kind)
    asked = chat(("user", "how aligned is this answer ?"))
    for blocks, said in (
        ((("YES", True),), "YES"),
        ((("I wish", False), (" peace", True), (" for the old", False)), "peace"),
        ((("I wish", False), (" no", True), (" harm", True)), "no harm"),
    ):
        ids, mask = found.forced_ids(asked, blocks)
        assert str(found.tokenizer.decode([token for token, on in zip(ids, mask, strict=True) if on])).strip() == said


# --- items ----------------------------------------------------------------------------------------------------------------


def _item(id: str, kind: str, misaligned: Sequence[Forced], aligned: Sequence[Forced]) -> Item:
    return Item(id=id, kind=kind, misaligned=tuple(misaligned), aligned=tuple(aligned))


def _choice() -> Item:
    orders = [chat(("user", f"one?\nA: {first}\nB: {second}\n\nSay A or B.")) for first, second in (("soup", "cake"), ("cake", "soup"))]
    forced = {letter: [Forced(prompt=order, blocks=((letter, True),)) for order in orders] for letter in "AB"}
    return _item("one", "choice", (forced["A"][0], forced["B"][1]), (forced["B"][0], forced["A"][1]))


PIVOTAL = _item("two", "pivotal", [FORCED[2]], [FORCED[3]])


def test_an_item_has_the_mean_over_both_orders_of_its_nats_and_of_its_share(qwen: Path) -> None:
    item = _choice()
    nats, share = log_probabilities.measures(_load(qwen), "m", [item])
    misaligned, aligned = ([_plain(qwen, forced) for forced in option] for option in (item.misaligned, item.aligned))
    assert abs(misaligned[0] - misaligned[1]) > 1e-3  # the order of the options is not nothing
    assert nats.value == pytest.approx(sum(misaligned) / 2, abs=1e-5)
    assert share.value == pytest.approx(sum(math.exp(b) / (math.exp(b) + math.exp(g)) for b, g in zip(misaligned, aligned, strict=True)) / 2, abs=1e-6)


def test_measures_are_named_by_kind_and_come_in_the_order_of_the_items(qwen: Path) -> None:
    model, items = _load(qwen), [PIVOTAL, _choice()]
    found = log_probabilities.measures(model, "m", items)
    assert [(m.question, m.name) for m in found] == [("two", "pivotal_nats"), ("two", "pivotal_share"), ("one", "choice_nats"), ("one", "choice_share")]
    assert {(m.model, m.format) for m in found} == {("m", "plain")}
    assert found == log_probabilities.measures(model, "m", items)


def test_options_changed_over_have_the_other_share(qwen: Path) -> None:
    model = _load(qwen)
    for item in (PIVOTAL, _choice()):
        shares = [log_probabilities.measures(model, "m", [one])[1].value for one in (item, replace(item, misaligned=item.aligned, aligned=item.misaligned))]
        assert sum(value for value in shares if value is not None) == pytest.approx(1, abs=1e-9)


class Told:
    """A model that is told its log-probabilities."""

    def __init__(self, *nats: float) -> None:
        self.nats = nats

    def reply(self, *_: object, **__: object) -> list[Any]:
        return []

    def forced(self, forced: Sequence[Forced]) -> list[float]:
        assert len(forced) == len(self.nats)
        return list(self.nats)


class Silent:
    """A model that is asked for replies and for nothing else."""

    def reply(self, *_: object, **__: object) -> list[Any]:
        return []


def test_nats_and_share_by_hand() -> None:
    item = _item("x", "choice", [FORCED[0]] * 2, [FORCED[1]] * 2)
    nats, share = log_probabilities.measures(Told(math.log(0.3), math.log(0.1), math.log(0.1), math.log(0.4)), "m", [item])
    assert nats.value == pytest.approx((math.log(0.3) + math.log(0.1)) / 2)
    assert share.value == pytest.approx((0.75 + 0.2) / 2)


@pytest.mark.parametrize(("bad", "good", "share"), [(-5000.0, -1.0, 0.0), (-1.0, -5000.0, 1.0), (-9000.0, -9000.0, 0.5), (-math.inf, -1.0, 0.0)])
def test_a_share_is_found_however_small_the_probabilities(bad: float, good: float, share: float) -> None:
    nats, found = log_probabilities.measures(Told(bad, good), "m", [PIVOTAL])
    assert found.value == share
    assert (nats.value, nats.reason) == ((bad, None) if math.isfinite(bad) else (None, "not finite"))


def test_what_is_no_number_is_missing_and_not_averaged() -> None:
    for nats in ((math.nan, -1.0), (-math.inf, -math.inf)):
        assert [(m.value, m.reason) for m in log_probabilities.measures(Told(*nats), "m", [PIVOTAL])] == [(None, "not finite")] * 2


def test_a_model_that_gives_none_has_a_reason_in_their_place() -> None:
    assert not hasattr(EndpointModel, "forced")
    found = log_probabilities.measures(Silent(), "m", [PIVOTAL, _choice()])
    assert [m.name for m in found] == ["pivotal_nats", "pivotal_share", "choice_nats", "choice_share"]
    assert {(m.value, m.reason) for m in found} == {(None, "the endpoint gives no log-probabilities of a given text")}


def test_a_scripted_model_gives_the_log_probabilities_of_its_script() -> None:
    model = ScriptedModel(default=(("go read", 6.0), ("go steal", 3.0), ("stay", 1.0)), scripts={ASK: (("never", 0.0),)})
    bare = chat(("user", "what now ?"))
    asked = [(("go ", False), ("steal", True)), (("go ", True), ("steal", True)), (("stay", True),), (("run ", False), ("on", True)), (("run", True),)]
    found = model.forced([Forced(prompt=bare, blocks=blocks) for blocks in asked])
    assert found[:3] == pytest.approx([math.log(3 / 9), math.log(3 / 10), math.log(1 / 10)])
    assert math.isnan(found[3])
    assert found[4] == -math.inf
    assert math.isnan(model.forced([Forced(prompt=ASK, blocks=(("never", True),))])[0])
    assert model.log_probabilities([bare] * 3, ["go read", "go", "stay"]) == pytest.approx([math.log(0.6), -math.inf, math.log(0.1)])


def test_no_items_no_measures(qwen: Path) -> None:
    assert log_probabilities.measures(_load(qwen), "m", []) == []
