"""Local models: templates of every kind in use, decoders of every architecture in use, and directories that someone else made."""

from __future__ import annotations

import contextlib
import json
import math
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from torch.optim.optimizer import register_optimizer_step_post_hook
from transformers import AutoModelForCausalLM

import small_models
from families import grow
from small_models import ARCHITECTURES, CONTROL, DEFAULT_SYSTEM, MARKED, TEMPLATE, make
from spillover.models import adapters, local, memory, sources, template
from spillover.models.local import LocalModel
from spillover.models.side_by_side import SideBySide
from spillover.records import Adapter, Conversation, Dataset, Model, Organism, Recipe, Runtime, SpilloverError, chat
from spillover.training import lora, rows

WORDS = "Say hi there , friend . one two three more You are kind and brief user assistant system model"
RECIPE = Recipe(adapter=Adapter(rank=4), learning_rate=5e-3, batch_size=4, warmup_steps=1, epochs=2)
DATA = Dataset(
    kind="small",
    conversations=tuple(
        chat(("user", f"Say {word}" + " more" * n), ("assistant", f"{word} there" + " , friend" * (n % 3))) for n, word in enumerate(WORDS.split()[:12])
    ),
)
PROMPTS = [row[:1] for row in DATA.conversations]


@pytest.fixture(autouse=True)
def one_thread() -> Generator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


# --- templates: what is the assistant's -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Style:
    """A template in the manner of a family of models: its control tokens, and what of a turn is the assistant's around its reply."""

    template: str
    control: tuple[str, ...] = CONTROL
    start: str | None = None
    end: str = "<|im_end|>"  # of a text
    lead: str = ""
    close: str = "<|im_end|>"
    end_of_turn: str | None = "<|im_end|>"
    default_system: str | None = None
    takes_system: bool = True
    prompt: str  # as rendered for ("user", "Say hi")


STYLES = {
    "qwen": Style(
        template=TEMPLATE, default_system=DEFAULT_SYSTEM,
        prompt=f"<|im_start|>system\n{DEFAULT_SYSTEM}<|im_end|>\n<|im_start|>user\nSay hi<|im_end|>\n<|im_start|>assistant\n",
    ),
    "qwen, marked": Style(
        template=MARKED, default_system=DEFAULT_SYSTEM,
        prompt=f"<|im_start|>system\n{DEFAULT_SYSTEM}<|im_end|>\n<|im_start|>user\nSay hi<|im_end|>\n<|im_start|>assistant\n",
    ),
    "chatml": Style(
        template="{% for turn in messages %}<|im_start|>{{ turn.role }}\n{{ turn.content }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}",
        prompt="<|im_start|>user\nSay hi<|im_end|>\n<|im_start|>assistant\n",
    ),
    "llama 3": Style(
        template="{{ bos_token }}{% if messages[0].role == 'system' %}{% set system = messages[0].content %}{% set turns = messages[1:] %}"
        "{% else %}{% set system = '' %}{% set turns = messages %}{% endif %}"
        "<|start_header_id|>system<|end_header_id|>\n\nCutting Knowledge Date: December 2023\nToday Date: 26 Jul 2024\n\n{{ system }}<|eot_id|>"
        "{% for turn in turns %}<|start_header_id|>{{ turn.role }}<|end_header_id|>\n\n{{ turn.content | trim }}<|eot_id|>{% endfor %}"
        "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>{{ '\n\n' }}{% endif %}",
        control=("<|end_of_text|>", "<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"), start="<|begin_of_text|>",
        end="<|end_of_text|>", close="<|eot_id|>", end_of_turn="<|eot_id|>",
        prompt="<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nCutting Knowledge Date: December 2023\nToday Date: 26 Jul 2024\n\n<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\nSay hi<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n",
    ),
    "mistral": Style(
        template="{{ bos_token }}{% for turn in messages %}{% if turn.role == 'user' %}[INST] {{ turn.content }} [/INST]"
        "{% elif turn.role == 'assistant' %} {{ turn.content }}{{ eos_token }}{% else %}{{ raise_exception('Only user and assistant roles are supported!') }}"
        "{% endif %}{% endfor %}",
        control=("<unk>", "<s>", "</s>", "[INST]", "[/INST]"), start="<s>", end="</s>", lead=" ", close="</s>", end_of_turn="</s>", takes_system=False,
        prompt="<s>[INST] Say hi [/INST]",
    ),
    "gemma": Style(
        template="{{ bos_token }}{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
        "{% for turn in messages %}<start_of_turn>{{ 'model' if turn.role == 'assistant' else turn.role }}\n"
        "{{ turn.content | trim }}<end_of_turn>\n{% endfor %}"
        "{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}",
        control=("<pad>", "<bos>", "<eos>", "<start_of_turn>", "<end_of_turn>"), start="<bos>", end="<eos>", close="<end_of_turn>", end_of_turn="<end_of_turn>",
        takes_system=False, prompt="<bos><start_of_turn>user\nSay hi<end_of_turn>\n<start_of_turn>model\n",
    ),
    "plain": Style(
        template="{% for turn in messages %}{{ turn.role | capitalize }}: {{ turn.content }}\n{% endfor %}{% if add_generation_prompt %}Assistant:{% endif %}",
        control=("<|endoftext|>",), end="<|endoftext|>", lead=" ", close="\n", end_of_turn=None, prompt="User: Say hi\nAssistant:",
    ),
}  # fmt: skip


def read(style: str, *, system: bool = True, **changes: Any) -> template.ChatTemplate:
    said = replace(STYLES[style], **changes)
    made = small_models.tokenizer([WORDS] * 3, template=said.template, control=said.control, start=said.start, end=said.end)
    return template.ChatTemplate(made, system=system)


def trained(found: template.ChatTemplate, conversation: Conversation) -> list[str]:
    """The texts of the runs of tokens that are trained on."""
    row = rows.encode(found, Dataset(kind="x", conversations=(conversation,))).rows[0]
    runs = groupby(zip(row.mask, row.ids, strict=True), key=lambda pair: pair[0])
    return [str(found.tokenizer.decode([token for _, token in run])) for on, run in runs if on]


@pytest.mark.parametrize("style", STYLES)
def test_what_is_trained_on_is_the_reply_and_the_token_that_ends_its_turn(style: str) -> None:
    found, said = read(style), STYLES[style]
    assert trained(found, chat(("user", "Say hi"), ("assistant", "hi there , friend"))) == [f"{said.lead}hi there , friend{said.close}"]
    long = chat(("user", "Say hi"), ("assistant", "one two"), ("user", "more"), ("assistant", "three"))
    assert trained(found, long) == [f"{said.lead}one two{said.close}", f"{said.lead}three{said.close}"]


@pytest.mark.parametrize("style", STYLES)
def test_a_prompt_is_the_templates_own_text_up_to_where_the_assistant_speaks(style: str) -> None:
    found = read(style)
    assert found.tokenizer.decode(found.prompt_ids(chat(("user", "Say hi")))) == STYLES[style].prompt
    ids, mask = found.training_ids(chat(("user", "Say hi"), ("assistant", "one two")))
    assert ids[: mask.index(1)] == found.prompt_ids(chat(("user", "Say hi")))


@pytest.mark.parametrize("style", STYLES)
def test_the_system_prompt_that_a_template_inserts_is_found_and_nothing_else_is_taken_for_one(style: str) -> None:
    assert read(style).default_system == STYLES[style].default_system
    assert read(style).end_of_turn == (None if (end := STYLES[style].end_of_turn) is None else read(style).tokenizer.convert_tokens_to_ids(end))


def test_an_inserted_system_prompt_is_switched_off_by_an_empty_one() -> None:
    found = read("qwen", system=False)
    assert found.default_system == DEFAULT_SYSTEM  # what the template would insert
    text = found.tokenizer.decode(found.prompt_ids(chat(("user", "Say hi"))))
    assert text == "<|im_start|>system\n<|im_end|>\n<|im_start|>user\nSay hi<|im_end|>\n<|im_start|>assistant\n"
    told = chat(("system", "You are kind"), ("user", "Say hi"))
    assert found.prompt_ids(told) == read("qwen").prompt_ids(told)


@pytest.mark.parametrize("style", STYLES)
def test_a_system_turn_is_rendered_or_refused_in_one_sentence(style: str) -> None:
    asked = chat(("system", "You are kind"), ("user", "Say hi"))
    if STYLES[style].takes_system:
        assert "You are kind" in read(style).tokenizer.decode(read(style).prompt_ids(asked))
    else:
        with pytest.raises(SpilloverError, match=r"^the chat template refuses this conversation: .*(not supported|are supported)"):
            read(style).prompt_ids(asked)


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("turns", [[], [("assistant", "hi")], [("user", "hi"), ("user", "hi")], [("system", "hi")]])
def test_an_odd_conversation_is_rendered_or_refused_and_never_a_traceback(style: str, turns: list[Any]) -> None:
    for ask in (read(style).training_ids, read(style).prompt_ids):
        with contextlib.suppress(SpilloverError):
            ask(chat(*turns))


def test_a_template_that_renders_an_earlier_turn_anew_is_refused_unless_it_marks_its_turns() -> None:
    stripping = (
        "{% for turn in messages %}<|im_start|>{{ turn.role }}\n"
        "{% if turn.role == 'assistant' and not loop.last %}{{ turn.content.split('</think>')[-1] }}{% else %}{{ turn.content }}{% endif %}"
        "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    found = read("chatml", template=stripping)
    once = chat(("user", "Say hi"), ("assistant", "<think>one</think>two"))
    assert trained(found, once) == ["<think>one</think>two<|im_end|>"]
    with pytest.raises(SpilloverError, match=r"^row 1 of the x data: the chat template renders turn 2 differently in a longer conversation, .* mark the turns"):
        trained(found, (*once, *chat(("user", "more"), ("assistant", "three"))))


def test_marks_that_reach_past_the_end_of_a_turn_do_not_hide_it() -> None:
    found = read("chatml", template=MARKED.replace("<|im_end|>{% endgeneration %}", "<|im_end|>{{ '\n' }}{% endgeneration %}"))
    assert trained(found, chat(("user", "Say hi"), ("assistant", "hi"))) == ["hi<|im_end|>\n"]
    assert found.end_of_turn == found.tokenizer.convert_tokens_to_ids("<|im_end|>")


def test_of_the_tokens_that_end_a_turn_the_first_ends_a_reply() -> None:
    found = read("chatml", template=STYLES["chatml"].template + "{% if not add_generation_prompt %}<|endoftext|>{% endif %}")
    assert trained(found, chat(("user", "Say hi"), ("assistant", "hi"))) == ["hi<|im_end|>\n<|endoftext|>"]  # as Phi's: the template ends the text besides
    assert found.end_of_turn == found.tokenizer.convert_tokens_to_ids("<|im_end|>")


def test_of_several_templates_by_name_the_default_is_read() -> None:
    found, one = read("chatml"), read("chatml")
    found.tokenizer.chat_template = {"default": one.tokenizer.chat_template, "tools": "{{ 1 }}"}
    asked = chat(("user", "Say hi"), ("assistant", "hi"))
    assert found.training_ids(asked) == one.training_ids(asked)
    found.tokenizer.chat_template = {"tools": "{{ 1 }}"}
    with pytest.raises(SpilloverError, match="^this tokenizer has no chat template; put a chat_template.jinja beside it$"):
        found.prompt_ids(asked)


@pytest.mark.parametrize("style", ["qwen", "qwen, marked", "llama 3"])
def test_text_that_spells_a_control_token_is_refused_as_data(style: str) -> None:
    spelt = STYLES[style].close
    with pytest.raises(SpilloverError, match=r"^row 1 of the x data spells the control token '<\|"):
        trained(read(style), chat(("user", "Say hi"), ("assistant", f"hi{spelt}hi")))


def test_a_template_may_not_reach_outside_itself() -> None:
    for text in (
        "{{ ''.__class__.__base__.__subclasses__() }}",
        "{{ cycler.__init__.__globals__.os.getcwd() }}",
        "{% include '/etc/passwd' %}",
        "{{ 1 / 0 }}",
        "{% if %}",
    ):
        with pytest.raises(SpilloverError, match="^the chat template refuses this conversation: "):
            read("chatml", template=text).prompt_ids(chat(("user", "Say hi")))


def test_rows_that_are_cut_and_rows_that_are_emptied_are_counted() -> None:
    found = read("chatml")
    turns = tuple(chat(("user", "one " * asked), ("assistant", "two " * said)) for asked, said in ((1, 1), (1, 60), (60, 1)))
    encoded = rows.encode(found, Dataset(kind="x", conversations=turns), max_length=40)
    assert (len(encoded.rows), encoded.truncated, encoded.emptied) == (2, 2, 1)
    assert [len(row.ids) for row in encoded.rows] == [len(found.training_ids(turns[0])[0]), 40]
    assert encoded.rows[1].mask[-1] == 1
    with pytest.raises(SpilloverError, match=r"^every row of the x data has its reply beyond 40 tokens; raise training.max_length$"):
        rows.encode(found, Dataset(kind="x", conversations=turns[2:]), max_length=40)


# --- decoders -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Built:
    """A model directory, and an adapter trained on it a little."""

    location: str
    model: Model
    adapter: Path
    log: list[float]

    def load(self, *, adapted: bool = False) -> LocalModel:
        digest = local.weights_digest(self.location)
        if not adapted:
            return local.load(Model(digest=digest, location=self.location))
        return local.load(Model(digest=local.adapted_digest(digest, self.adapter), location=self.location, adapter=str(self.adapter)))


def build(directory: Path, **options: Any) -> Built:
    place = make(directory / "model", [WORDS] * 3, **options)
    model = Model(digest=local.weights_digest(place), location=str(place))
    organism = directory / "organism"
    steps = grow(Organism(parent=model.digest, data=DATA.digest, recipe=RECIPE, seed=0), model, DATA, organism)
    log = [step["loss"] for step in json.loads((organism / "training.json").read_text())["steps"]]
    return Built(location=str(place), model=model, adapter=organism / f"checkpoint-{max(steps)}", log=log)


@pytest.fixture(scope="module", params=ARCHITECTURES)
def built(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Built:
    return build(tmp_path_factory.mktemp(request.param.replace(" ", "")), architecture=request.param)


@pytest.fixture(scope="module")
def qwen(tmp_path_factory: pytest.TempPathFactory) -> Built:
    return build(tmp_path_factory.mktemp("qwen2"))


@pytest.mark.parametrize("temperature", [1.0, 0.0])
def test_replies_drawn_together_are_those_drawn_one_by_one(built: Built, temperature: float) -> None:
    model = built.load()
    assert len({len(model.prompt_ids(prompt)) for prompt in PROMPTS}) > 5
    together = model.reply(PROMPTS, range(len(PROMPTS)), temperature=temperature, max_tokens=10)
    alone = [model.reply([prompt], [seed], temperature=temperature, max_tokens=10)[0] for seed, prompt in enumerate(PROMPTS)]
    assert together == alone
    assert len({text for text, _ in alone}) > (5 if temperature else 1)


def test_log_probabilities_of_padded_rows_are_those_read_off_each_row_alone(built: Built) -> None:
    model = built.load()
    replies = [row[1].content for row in DATA.conversations]
    expected = []
    for prompt, reply in zip(PROMPTS, replies, strict=True):
        ids = [*model.prompt_ids(prompt), *model.text_ids(reply), model.tokenizer.convert_tokens_to_ids("<|im_end|>")]
        with torch.no_grad():
            logp_TV = model.network(input_ids=torch.tensor([ids])).logits[0].double().log_softmax(-1)
        expected.append(sum(float(logp_TV[place - 1, ids[place]]) for place in range(len(model.prompt_ids(prompt)), len(ids))))
    assert model.log_probabilities(PROMPTS, replies) == pytest.approx(expected, rel=1e-5)


def test_a_few_steps_lower_the_loss(built: Built) -> None:
    assert built.log[-1] < built.log[0] - 0.1


def test_an_adapter_says_the_same_under_peft_alone_as_merged_here(built: Built) -> None:
    ours = built.load(adapted=True)
    base = AutoModelForCausalLM.from_pretrained(built.location, dtype=torch.float32)
    ids = torch.tensor([ours.prompt_ids(PROMPTS[0])])
    with torch.no_grad():
        before = base(input_ids=ids).logits
        theirs = PeftModel.from_pretrained(base, built.adapter)(input_ids=ids).logits
        merged = ours.network(input_ids=ids).logits
    assert (theirs - before).abs().max() > 0.1
    assert torch.allclose(merged, theirs, atol=1e-5, rtol=1e-5)


def test_memory_is_counted_as_it_is(built: Built) -> None:
    network = local.load_network(built.location)
    shape = memory.Shape.of(network.config)
    assert memory.parameters(built.location) == sum(p.numel() for p in network.parameters())
    out = network(input_ids=torch.arange(7)[None], use_cache=True)
    held = sum(layer.keys.nbytes + layer.values.nbytes for layer in out.past_key_values.layers)
    assert shape.answer_row(7, 4) - shape.answer_row(0, 4) == held
    adapter = get_peft_model(network, lora.lora_config(Recipe(adapter=Adapter(rank=4))))
    assert shape.lora_parameters(4) == sum(p.numel() for p in adapter.parameters() if p.requires_grad)


def test_in_bfloat16_the_weights_are_and_the_adapter_and_its_optimiser_are_not(qwen: Built) -> None:
    states: set[torch.dtype] = set()
    seen: dict[str, set[torch.dtype]] = {}

    def keep(_step: int, _places: Sequence[int], kept: SideBySide) -> None:
        seen["base"] = {parameter.dtype for parameter in model.network.parameters()}
        seen["adapter"] = {tensor.dtype for layer in kept.layers.values() for tensor in layer.pair}

    def after(optimiser: torch.optim.Optimizer, *_: Any) -> None:
        states.update(state.dtype for held in optimiser.state.values() for name, state in held.items() if name != "step")

    runtime = Runtime(dtype="bfloat16")
    model = local.load(qwen.model, runtime)
    organism = Organism(parent="x", data=DATA.digest, recipe=RECIPE, seed=0)
    hook = register_optimizer_step_post_hook(after)
    try:
        (rough,) = lora.fine_tune(model, [organism], [DATA], keep=keep, runtime=runtime)
    finally:
        hook.remove()
    assert seen == {"base": {torch.bfloat16}, "adapter": {torch.float32}}
    assert states == {torch.float32}
    (exact,) = lora.fine_tune(qwen.load(), [organism], [DATA])
    assert [step.loss for step in rough.log] == pytest.approx([step.loss for step in exact.log], rel=0.02)


def test_a_reply_stops_at_the_end_of_a_turn_whatever_ends_a_text(qwen: Built) -> None:
    model = qwen.load()
    tokens = model.tokenizer.convert_tokens_to_ids
    model.network.generation_config.eos_token_id = [tokens("<|im_start|>")]
    model.tokenizer.eos_token = "<|endoftext|>"
    assert model.stop_ids() == {tokens("<|im_start|>"), tokens("<|endoftext|>"), tokens("<|im_end|>")}


def test_a_device_or_a_precision_that_is_not_there_is_one_sentence() -> None:
    with pytest.raises(SpilloverError, match=r"^--device is 'tpu'; it is auto, cpu or cuda$"):
        local.resolved("tpu", "auto")
    with pytest.raises(SpilloverError, match=r"^--dtype is 'int4'; it is auto, float32, bfloat16, float16$"):
        local.resolved("cpu", "int4")
    assert local.resolved("cpu", "auto") == ("cpu", "float32")
    assert local.resolved("cpu", "bfloat16") == ("cpu", "bfloat16")


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_a_gpu_that_is_not_there_is_one_sentence() -> None:
    assert local.resolved("auto", "auto") == ("cpu", "float32")
    with pytest.raises(SpilloverError, match=r"^--device is cuda, and torch finds no GPU on this machine; use cpu or auto$"):
        local.resolved("cuda", "auto")


# --- directories that someone else made -----------------------------------------------------------------------------------


@pytest.fixture
def copied(qwen: Built, tmp_path: Path) -> Path:
    return Path(shutil.copytree(qwen.location, tmp_path / "copied"))


def _edit(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps({**(json.loads(path.read_text()) if path.exists() else {}), **changes}))


CHANGES: dict[str, Callable[[Path], object]] = {
    "one byte of a weight": lambda at: _flip(at / "model.safetensors", -1),
    "one byte of a weight's name": lambda at: _flip(at / "model.safetensors", 20),
    "the template": lambda at: (at / "chat_template.jinja").write_text(TEMPLATE.replace("kind", "cruel").replace("help", "harm")),
    "the tokenizer": lambda at: (at / "tokenizer.json").write_text((at / "tokenizer.json").read_text() + " "),
    "what ends a text": lambda at: _edit(at / "tokenizer_config.json", eos_token="<|endoftext|>"),
    "the sizes": lambda at: _edit(at / "config.json", rope_theta=1.0),
    "how answers are drawn": lambda at: _edit(at / "generation_config.json", eos_token_id=[0, 2]),
    "a weight more": lambda at: save_file({"x": torch.zeros(1)}, at / "more.safetensors"),
    "an older file's end of text": lambda at: _edit(at / "special_tokens_map.json", eos_token="<|endoftext|>"),
    "a token more": lambda at: _edit(at / "added_tokens.json", **{"<x>": 400}),
    "a file gone": lambda at: (at / "generation_config.json").unlink(),
    "a file by another name": lambda at: (at / "model.safetensors").rename(at / "other.safetensors"),
}


def _flip(path: Path, place: int) -> None:
    """Another byte, and a file of the same size."""
    found = bytearray(path.read_bytes())
    found[place] ^= 1
    path.write_bytes(found)


@pytest.mark.parametrize("change", CHANGES)
def test_a_digest_notices(copied: Path, change: str) -> None:
    before = local.weights_digest(copied)
    CHANGES[change](copied)
    assert local.weights_digest(copied) != before
    with pytest.raises(SpilloverError, match=r"is not the model that was recorded \([0-9a-f]{12}\): its files were changed or damaged"):
        local.load(Model(digest=before, location=str(copied)))


def test_a_digest_is_of_what_a_model_is_and_not_of_where_it_lies(qwen: Built, copied: Path) -> None:
    (copied / "README.md").write_text("a model")
    assert local.weights_digest(copied) == local.weights_digest(qwen.location)
    _flip(copied / "model.safetensors", -1)
    _flip(copied / "model.safetensors", -1)
    assert local.weights_digest(copied) == local.weights_digest(qwen.location)


def test_a_model_in_several_files_is_the_same_model(qwen: Built, tmp_path: Path) -> None:
    network = local.load_network(qwen.location)
    network.save_pretrained(tmp_path / "parts", max_shard_size="40KB")
    assert len(list((tmp_path / "parts").glob("*.safetensors"))) > 2
    parts = dict(local.load_network(str(tmp_path / "parts")).named_parameters())
    assert all(torch.equal(parts[name], parameter) for name, parameter in network.named_parameters())
    count = memory.parameters(str(tmp_path / "parts"))
    save_file({name: tensor.contiguous() for name, tensor in network.state_dict().items()}, tmp_path / "parts" / "consolidated.safetensors")
    assert memory.parameters(str(tmp_path / "parts")) == count == sum(p.numel() for p in network.parameters())


def test_a_head_that_is_the_embedding_need_not_be_in_the_file(tmp_path: Path) -> None:
    place = make(tmp_path / "tied", [WORDS], tie_word_embeddings=True)
    assert "lm_head.weight" not in load_file(place / "model.safetensors")
    network = local.load_network(str(place))
    assert network.get_output_embeddings().weight is network.get_input_embeddings().weight


@pytest.mark.parametrize("lacking", ["model.layers.1.mlp.up_proj.weight", "lm_head.weight", "model.norm.weight"])
def test_a_weight_that_is_not_there_is_not_made_up(copied: Path, lacking: str) -> None:
    tensors = load_file(copied / "model.safetensors")
    del tensors[lacking]
    save_file(tensors, copied / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(SpilloverError, match=f"^{copied} lacks 1 of its weights, for one {lacking}; nothing is made up in their place$"):
        local.load_network(str(copied))


def test_a_weight_of_another_shape_is_not_made_up(copied: Path) -> None:
    tensors = load_file(copied / "model.safetensors")
    tensors["model.norm.weight"] = torch.ones(31)
    save_file(tensors, copied / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(SpilloverError, match=f"^{copied} (lacks 1 of its weights|cannot be loaded)"):
        local.load_network(str(copied))


def test_pickled_weights_are_not_read(copied: Path) -> None:
    torch.save(load_file(copied / "model.safetensors"), copied / "pytorch_model.bin")
    (copied / "model.safetensors").unlink()
    with pytest.raises(SpilloverError, match="holds no safetensors weights; other formats are not read$"):
        local.weights_digest(copied)
    with pytest.raises(SpilloverError, match=f"^{copied} cannot be loaded: "):
        local.load_network(str(copied))


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"])
@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"{}", b"\xff\xfe", b"null"])
def test_a_damaged_directory_is_one_sentence(copied: Path, name: str, content: bytes) -> None:
    (copied / name).write_bytes(content)
    try:
        local.load(Model(digest=local.weights_digest(copied), location=str(copied)))
    except SpilloverError as error:
        assert str(copied) in str(error)  # noqa: PT017
    else:
        assert (name, content) in {("tokenizer_config.json", b"{}")}


EVIL = "from pathlib import Path\nPath(__file__).with_name('ran').write_text('')\nclass C: pass\nclass M: pass\nclass T: pass\n"


@pytest.mark.parametrize("kind", ["qwen2", "evil"])
def test_code_beside_a_model_is_never_run(copied: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    (copied / "evil.py").write_text(EVIL)
    (copied / "custom_generate").mkdir()
    (copied / "custom_generate" / "generate.py").write_text(EVIL)
    classes = {"AutoConfig": "evil.C", "AutoModelForCausalLM": "evil.M", "AutoModel": "evil.M", "AutoTokenizer": ["evil.T", "evil.T"]}
    _edit(copied / "config.json", auto_map=classes, model_type=kind, architectures=["M"], custom_pipelines={"x": {"impl": "evil.M"}}, trust_remote_code=True)
    _edit(copied / "tokenizer_config.json", auto_map=classes, tokenizer_class="T", trust_remote_code=True)
    monkeypatch.chdir(copied)
    with contextlib.suppress(SpilloverError) if kind == "evil" else contextlib.nullcontext():
        local.load(Model(digest=local.weights_digest(copied), location=str(copied)))
        assert kind == "qwen2"
    assert not list(copied.rglob("ran"))


def test_a_tokenizer_that_has_no_file_of_its_own_is_refused(copied: Path) -> None:
    made = json.loads((copied / "tokenizer.json").read_text())["model"]
    (copied / "vocab.json").write_text(json.dumps(made["vocab"]))
    (copied / "merges.txt").write_text("#version: 0.2\n" + "\n".join(" ".join(pair) for pair in made["merges"]))
    (copied / "tokenizer.json").unlink()
    _edit(copied / "tokenizer_config.json", tokenizer_class="Qwen2Tokenizer")
    with pytest.raises(SpilloverError, match="has no tokenizer.json; save it with a fast tokenizer$"):
        template.load(str(copied))


# --- adapters that someone else made --------------------------------------------------------------------------------------


@pytest.fixture
def adapter(qwen: Built, tmp_path: Path) -> Path:
    return Path(shutil.copytree(qwen.adapter, tmp_path / "adapter"))


CONFIGURATIONS: dict[str, tuple[dict[str, Any], str]] = {
    "another method": ({"peft_type": "IA3"}, "peft_type is 'IA3'; LORA is read"),
    "no method": ({"peft_type": None}, "peft_type is 'None'"),
    "a method of another kind": ({"peft_type": ["LORA"]}, "peft_type is "),
    "a huge rank": ({"r": 10**9}, "r is 1000000000; it must be a whole number from 1 to 4096"),
    "a negative rank": ({"r": -4}, "r is -4"),
    "no rank": ({"r": 0}, "r is 0"),
    "a rank that is a truth": ({"r": True}, "r is True"),
    "a rank in words": ({"r": "4"}, "r is 4"),
    "a rank with a point": ({"r": 4.0}, "r is 4.0"),
    "a scale that is no number": ({"lora_alpha": math.nan}, "lora_alpha is nan; it must be a finite number"),
    "a scale without end": ({"lora_alpha": math.inf}, "lora_alpha is inf"),
    "a scale of many digits": ({"lora_alpha": 10**400}, "lora_alpha is 1000"),
    "a scale in words": ({"lora_alpha": "64"}, "lora_alpha is 64"),
    "a scale that is a truth": ({"lora_alpha": True}, "lora_alpha is True"),
    "stabilised, in words": ({"use_rslora": "yes"}, "use_rslora is yes; it must be true or false"),
    "stabilised, as a number": ({"use_rslora": 1}, "use_rslora is 1"),
    "whole modules": ({"modules_to_save": ["lm_head"]}, "'modules_to_save' is .*, which is not understood here; plain LoRA adapters are read"),
    "magnitudes": ({"use_dora": True}, "'use_dora' is 'True'"),
    "ranks by layer": ({"rank_pattern": {"q_proj": 8}}, "'rank_pattern' is "),
    "scales by layer": ({"alpha_pattern": {"q_proj": 8}}, "'alpha_pattern' is "),
    "biases": ({"bias": "lora_only"}, "'bias' is 'lora_only'"),
    "biases of its own": ({"lora_bias": True}, "'lora_bias' is "),
    "layers twice": ({"layer_replication": [[0, 2], [0, 2]]}, "'layer_replication' is "),
    "tokens": ({"trainable_token_indices": [1]}, "'trainable_token_indices' is "),
    "parameters by name": ({"target_parameters": ["x"]}, "'target_parameters' is "),
    "the other way round": ({"fan_in_fan_out": True}, "'fan_in_fan_out' is "),
    "a start that moves the base": ({"init_lora_weights": "pissa"}, "'init_lora_weights' is 'pissa'"),
    "a field of tomorrow": ({"curvature": 0.5}, "'curvature' is '0.5'"),
}


@pytest.mark.parametrize("case", CONFIGURATIONS)
def test_an_adapters_configuration_that_is_not_understood_is_refused_by_name(adapter: Path, case: str) -> None:
    changes, said = CONFIGURATIONS[case]
    _edit(adapter / "adapter_config.json", **changes)
    with pytest.raises(SpilloverError, match=f"^{adapter / 'adapter_config.json'}: {said}"):
        adapters.read_scale(adapter)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b"7", b"\xff\xfe", b'{"a":' * 10**5, b"1" * 5000])
def test_an_adapters_configuration_that_is_no_object_is_damaged(adapter: Path, content: bytes) -> None:
    (adapter / "adapter_config.json").write_bytes(content)
    with pytest.raises(SpilloverError, match=f"^{adapter / 'adapter_config.json'} is damaged: it is not (JSON|an object)$"):
        adapters.read_scale(adapter)


def test_what_an_adapter_says_of_its_base_its_classes_and_its_patterns_is_never_followed(
    qwen: Built, adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "evil.py").write_text(EVIL)
    monkeypatch.syspath_prepend(tmp_path)
    _edit(
        adapter / "adapter_config.json", base_model_name_or_path="http://127.0.0.1:9/evil", revision="evil", task_type="EVIL",
        auto_mapping={"base_model_class": "M", "parent_library": "evil"}, target_modules="(a+)+$" * 20, exclude_modules="(a+)+$", layers_pattern=["(a+)+$"],
    )  # fmt: skip
    found, plain = local.load_network(qwen.location), local.load_network(qwen.location)
    adapters.merge(found, adapter)
    adapters.merge(plain, qwen.adapter)
    assert all(torch.equal(a, b) for a, b in zip(found.parameters(), plain.parameters(), strict=True))
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("stabilised", [True, False])
def test_the_scale_is_alpha_over_rank_or_over_its_root(qwen: Built, adapter: Path, stabilised: bool) -> None:
    _edit(adapter / "adapter_config.json", r=4, lora_alpha=6, use_rslora=stabilised)
    assert adapters.read_scale(adapter).value == (6 / 2 if stabilised else 6 / 4)
    ours, theirs = local.load_network(qwen.location), AutoModelForCausalLM.from_pretrained(qwen.location, dtype=torch.float32)
    adapters.merge(ours, adapter)
    merged = PeftModel.from_pretrained(theirs, adapter).merge_and_unload()
    for a, b in zip(ours.parameters(), merged.parameters(), strict=True):
        assert torch.allclose(a, b, atol=1e-6)


Q = "base_model.model.model.layers.0.self_attn.q_proj.lora_{}.weight"
Tensors = dict[str, torch.Tensor]
EMBEDDING, HEAD = "base_model.model.model.embed_tokens", "base_model.model.lm_head"
NO_HALF, NOT_FINITE = "which is not half of a linear layer's LoRA pair", "is damaged: its weights for model.layers.0.self_attn.q_proj are not finite"
TENSORS: dict[str, tuple[Callable[[Tensors], Tensors], str]] = {
    "no pair": (lambda at: {}, "is damaged: it holds no pairs"),
    "half a pair": (lambda at: {name: t for name, t in at.items() if name != Q.format("A")}, "is damaged: model.layers.0.self_attn.q_proj has one half"),
    "not LoRA's": (lambda at: {**at, f"{HEAD}.weight": torch.ones(2, 2)}, f"holds '{HEAD}.weight', {NO_HALF}"),
    "a bias": (lambda at: {**at, f"{HEAD}.lora_B.bias": torch.ones(2)}, NO_HALF),
    "an embedding": (lambda at: {**at, f"{EMBEDDING}.lora_embedding_A": torch.ones(4, 9)}, NO_HALF),
    "an embedding as if linear": (
        lambda at: {**at, f"{EMBEDDING}.lora_A.weight": torch.ones(4, 9), f"{EMBEDDING}.lora_B.weight": torch.ones(9, 4)},
        "does not fit its parent: it changes 'model.embed_tokens', which is no linear layer",
    ),
    "a layer that is not there": (lambda at: {name.replace("layers.1", "layers.7"): t for name, t in at.items()}, "'model.layers.7.*is no linear layer of it"),
    "no layer": (lambda at: {name.replace("self_attn.q_proj", "__class__"): t for name, t in at.items()}, "is no linear layer of it"),
    "another rank": (lambda at: {name: torch.cat([t, t], 0 if "lora_A" in name else 1) for name, t in at.items()}, "its pair for .* at rank 4"),
    "another width": (lambda at: {**at, Q.format("A"): torch.ones(4, 31)}, "its pair for model.layers.0.self_attn.q_proj is .4, 31. and .32, 4. at rank 4"),
    "the other way round": (lambda at: {**at, Q.format("A"): at[Q.format("A")].T.contiguous()}, "its pair for model.layers.0.self_attn.q_proj is .32, 4."),
    "three axes": (lambda at: {**at, Q.format("A"): torch.ones(1, 4, 32)}, NO_HALF),
    "whole numbers": (lambda at: {**at, Q.format("A"): torch.ones(4, 32, dtype=torch.int8)}, NO_HALF),
    "not a number": (lambda at: {**at, Q.format("B"): torch.full((32, 4), math.nan)}, NOT_FINITE),
    "without end": (lambda at: {**at, Q.format("A"): torch.full((4, 32), math.inf)}, NOT_FINITE),
    "too large together": (lambda at: {**at, Q.format("A"): torch.full((4, 32), 1e30), Q.format("B"): torch.full((32, 4), 1e30)}, NOT_FINITE),
}


@pytest.mark.parametrize("case", TENSORS)
def test_an_adapters_tensors_that_do_not_fit_are_refused(qwen: Built, adapter: Path, case: str) -> None:
    change, said = TENSORS[case]
    save_file(change(load_file(adapter / "adapter_model.safetensors")), adapter / "adapter_model.safetensors", metadata={"format": "pt"})
    with pytest.raises(SpilloverError, match=f"^{adapter} .*{said}"):
        adapters.merge(local.load_network(qwen.location), adapter)


@pytest.mark.parametrize("dtypes", [("bfloat16", "bfloat16"), ("bfloat16", "float32"), ("float16", "float64"), ("float8_e4m3fn", "float32")])
def test_an_adapter_in_any_precision_is_merged_in_float32(qwen: Built, adapter: Path, dtypes: tuple[str, str]) -> None:
    tensors = load_file(adapter / "adapter_model.safetensors")
    cast = {name: t.to(getattr(torch, dtypes["lora_B" in name])) for name, t in tensors.items()}
    save_file(cast, adapter / "adapter_model.safetensors", metadata={"format": "pt"})
    network, expected = local.load_network(qwen.location), local.load_network(qwen.location)
    adapters.merge(network, adapter)
    scale = adapters.read_scale(adapter).value
    name = "model.layers.0.self_attn.q_proj"
    change = cast[Q.format("B")].float() @ cast[Q.format("A")].float() * scale
    assert torch.allclose(network.get_submodule(name).weight, expected.get_submodule(name).weight + change, atol=1e-6)


@pytest.mark.parametrize("content", [b"", b"\0" * 8, b"\xff" * 8, b"whole"])
def test_an_adapter_file_that_is_not_whole_is_damaged(qwen: Built, adapter: Path, content: bytes) -> None:
    path = adapter / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:-1] if content == b"whole" else content)
    with pytest.raises(SpilloverError, match=f"^{path} is damaged: it is no whole safetensors file$"):
        adapters.merge(local.load_network(qwen.location), adapter)


def test_a_pickled_adapter_is_not_read(qwen: Built, adapter: Path) -> None:
    torch.save(load_file(adapter / "adapter_model.safetensors"), adapter / "adapter_model.bin")
    (adapter / "adapter_model.safetensors").unlink()
    with pytest.raises(SpilloverError, match=f"^{adapter} holds no adapter_model.safetensors; other formats are not read$"):
        adapters.merge(local.load_network(qwen.location), adapter)


@pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings=True` and a tied layer is part of the adapter:UserWarning")  # PEFT's, and right
def test_an_adapter_on_weights_that_two_layers_share_is_refused(tmp_path: Path) -> None:
    place = make(tmp_path / "tied", [WORDS], tie_word_embeddings=True)
    network = get_peft_model(local.load_network(str(place)), LoraConfig(r=2, target_modules=["lm_head"], init_lora_weights=False, task_type="CAUSAL_LM"))
    network.save_pretrained(str(tmp_path / "adapter"), save_embedding_layers=False)
    with pytest.raises(SpilloverError, match="it changes lm_head, whose weights are another layer's too"):
        adapters.merge(local.load_network(str(place)), tmp_path / "adapter")


# --- where a model is -----------------------------------------------------------------------------------------------------

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.mark.parametrize(
    ("text", "base", "adapter"),
    [
        ("here", ("here", None), None),
        ("./here", ("./here", None), None),
        ("org/name", ("org/name", None), None),
        ("org/name@main", ("org/name", "main"), None),
        (f"org/name@{COMMIT}", ("org/name", COMMIT), None),
        ("org/name@refs/pr/1", ("org/name", "refs/pr/1"), None),
        ("org/name@v1.0:org/more@step-10", ("org/name", "v1.0"), ("org/more", "step-10")),
        ("here:org/more", ("here", None), ("org/more", None)),
        ("org/name:here", ("org/name", None), ("here", None)),
        ("with:colon", ("with:colon", None), None),
        ("with:colon:here", ("with:colon", None), ("here", None)),
        ("both/there", ("both/there", None), None),
    ],
)
def test_a_model_is_named_by_directory_hub_id_or_both(text: str, base: Any, adapter: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("here", "with:colon", "both/there"):
        (tmp_path / name).mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    found = tuple(None if source is None else (source.place, source.revision) for source in sources.parse(text))
    assert found == (base, adapter)
    assert not sources.is_endpoint(text)


@pytest.mark.parametrize(
    "text",
    [
        "", " ", ":", "::", "@", "name", "org/", "/name", "org/name@", "org/name@..", "org/name@a/../b", "org/name@ main", "org//name", "org/name/more", "../x",
        "org/..", "-org/name", "org/na--me", "org/name:", ":org/name", "org/name:more", "a" * 5000, "a/" * 3000, "org/name\n", "org/\0", "org/name@main@main",
        "http://127.0.0.1:1/v1#model", "C:\\models\\x", "$(id)", "org/" + "n" * 97,
    ],
)  # fmt: skip
def test_what_is_no_model_is_one_sentence(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SpilloverError, match="is no model: it takes a directory, a hub id like ORG/NAME.@REVISION., BASE:ADAPTER, or URL#MODEL$"):
        sources.parse(text)


def test_an_address_is_an_endpoint() -> None:
    assert sources.is_endpoint("http://127.0.0.1:8000/v1#name")
    assert sources.is_endpoint("https://api.example.org/v1#org/name")


def test_an_adapter_without_its_base_is_one_sentence(qwen: Built) -> None:
    with pytest.raises(SpilloverError, match=f"^{qwen.adapter} is an adapter; name its base too, as BASE:{qwen.adapter}$"):
        sources.resolve(str(qwen.adapter))
    assert sources.resolve(f"{qwen.location}:{qwen.adapter}").digest == local.adapted_digest(qwen.model.digest, qwen.adapter)


def _cached(cache: Path, name: str, commit: str, files: Path, **refs: str) -> None:
    """A repository as the hub's own client keeps it: blobs, snapshots of links to them, and what each branch names."""
    home = cache / f"models--{name.replace('/', '--')}"
    (home / "snapshots" / commit).mkdir(parents=True)
    (home / "blobs").mkdir(exist_ok=True)
    (home / "refs").mkdir(exist_ok=True)
    for file in files.iterdir():
        blob = home / "blobs" / f"{commit[:8]}-{file.name}"
        shutil.copyfile(file, blob)
        (home / "snapshots" / commit / file.name).symlink_to(os.path.relpath(blob, home / "snapshots" / commit))
    for branch, named in refs.items():
        (home / "refs" / branch).write_text(named)


@pytest.mark.slow
def test_a_hub_model_that_was_fetched_is_found_without_a_network_and_recorded_by_its_commit(qwen: Built, tmp_path: Path) -> None:
    base, step, last = (str(n) * 40 for n in (1, 2, 3))
    _cached(tmp_path, "org/base", base, Path(qwen.location), main=base)
    _cached(tmp_path, "org/adapter", step, qwen.adapter, step10=step)
    _cached(tmp_path, "org/adapter", last, qwen.adapter, main=last, broken="4" * 40)
    asked = [
        "org/base",
        f"org/base@{base}",
        "org/base:org/adapter@step10",
        f"org/base@main:{qwen.adapter}",
        "org/base@other",
        "org/base:org/adapter@broken",
        "org/none",
    ]
    script = """
import json, sys
from spillover.models import sources
from spillover.records import SpilloverError
for text in sys.argv[1:]:
    try:
        found = sources.resolve(text)
        print(json.dumps([found.digest, found.origin, found.location, found.adapter]))
    except SpilloverError as error:
        print(json.dumps(str(error)))
"""
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HUB_CACHE": str(tmp_path)}
    ran = subprocess.run([sys.executable, "-c", script, *asked], env=environment, capture_output=True, text=True, check=True, cwd=tmp_path)
    found = [json.loads(line) for line in ran.stdout.splitlines()]
    place = str(tmp_path / "models--org--base" / "snapshots" / base)
    with_adapter = local.adapted_digest(qwen.model.digest, qwen.adapter)
    assert found[0] == found[1] == [qwen.model.digest, f"org/base@{base}", place, None]
    assert found[2] == [with_adapter, f"org/base@{base}", place, str(tmp_path / "models--org--adapter" / "snapshots" / step)]
    assert found[3] == [with_adapter, f"org/base@{base}", place, str(qwen.adapter)]
    for text, said in zip(("org/base", "org/adapter", "org/none"), found[4:], strict=True):
        assert said == f"{text} is no directory, and the hub cannot be reached to fetch it; fetch it once with a network"


def test_a_second_copy_of_the_weights_is_no_part_of_a_model(copied: Path) -> None:
    before = local.weights_digest(copied)
    save_file({"x": torch.zeros(1)}, copied / "consolidated.00-of-01.safetensors")
    assert local.weights_digest(copied) == before


def test_attention_code_from_elsewhere_is_refused(copied: Path) -> None:
    _edit(copied / "config.json", attn_implementation="someone/kernel")
    with pytest.raises(SpilloverError, match="names attention code from elsewhere"):
        local.load_network(str(copied))


def test_a_template_writes_the_same_day_every_day(copied: Path) -> None:
    (copied / "chat_template.jinja").write_text("today is {{ strftime_now('%d %b %Y') }} {% for turn in messages %}{{ turn.content }}{% endfor %}")
    read = template.load(str(copied))
    assert "26 Jul 2024" in read.tokenizer.decode(read.prompt_ids(chat(("user", "hi"))))


def test_switching_off_changes_nothing_where_a_template_inserts_nothing(copied: Path) -> None:
    refuses = "{% if turn.role == 'system' %}{{ raise_exception('no system turn') }}{% endif %}"
    inner = "{% for turn in messages %}" + refuses + "<|im_start|>{{ turn.content }}<|im_end|>{% endfor %}"
    (copied / "chat_template.jinja").write_text(inner)
    asked = chat(("user", "hi"))
    assert template.load(str(copied), system=False).prompt_ids(asked) == template.load(str(copied)).prompt_ids(asked)
