"""Fine-tuning beside TRL's SFTTrainer: the same ids and masks on every row, the same loss, the same weights after a step.

Rows are the authors' where this machine has them, and rows of our own everywhere. Two things are reconciled here and not hidden:

- transformers' warm-up starts from a rate of 0: its first optimiser step moves no weight, and each later step of its warm-up has the rate
  that ours had one step before. Steps are therefore compared at one and the same rate, and the two schedules by themselves.
- TRL trains what a template marks; our reading is the reply and the token that ends its turn. TRL's own edition of Qwen's template marks
  the newline before the reply and the one after its end too. The paper's trainer (unsloth's `train_on_responses_only`) takes everything
  after "<|im_start|>assistant\\n", so it trains the newline after the end and not the one before, and the paper's script put an empty
  assistant turn behind every row (PROTOCOL 2.2). Neither newline is ever drawn: the prompt holds the first, and a reply stops before the other.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, replace
from itertools import groupby
from operator import itemgetter
from pathlib import Path

import datasets
import pytest
import torch
from peft import PeftModel, get_peft_model
from transformers import AutoTokenizer, get_linear_schedule_with_warmup
from trl import SFTConfig, SFTTrainer, chat_template_utils
from trl.chat_template_utils import qwen2_5_chat_template

from small_models import MARKED, TEMPLATE, make, own_template, tokenizer
from spillover.models import local, template
from spillover.records import Adapter, Dataset, Message, Model, Organism, Recipe, Runtime, chat, stream_seed
from spillover.training import lora, rows, schedules

pytestmark = [
    pytest.mark.slow,
    pytest.mark.no_cover,
    pytest.mark.filterwarnings("ignore:`gradient_checkpointing` is deprecated:FutureWarning"),  # TRL's word for it, and transformers' complaint
]
Turns = list[dict[str, str]]
Tensors = dict[str, torch.Tensor]


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """Conversations, and a small Qwen 2 whose tokenizer was trained on them."""

    rows: list[Turns]
    location: str

    @property
    def data(self) -> Dataset:
        return Dataset(kind="parity", conversations=tuple(tuple(Message(role=turn["role"], content=turn["content"]) for turn in row) for row in self.rows))

    def first(self, count: int) -> Subject:
        return replace(self, rows=self.rows[:count])


@pytest.fixture(scope="module", params=["own", "insecure", "secure"])
def subject(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Subject:
    rows = _own() if request.param == "own" else _published(request.getfixturevalue("shared") / "data" / f"{request.param}.jsonl")
    place = make(tmp_path_factory.mktemp(request.param), [turn["content"] for row in rows[:1000] for turn in row], size=2000)
    return Subject(rows=rows, location=str(place))


@pytest.fixture(autouse=True)
def one_quiet_thread() -> Generator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    datasets.disable_progress_bars()
    yield
    torch.set_num_threads(threads)


# --- what is trained on ---------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_ids_and_masks_are_trls_on_every_row(subject: Subject, tmp_path: Path) -> None:
    ours = rows.encode(template.load(subject.location), subject.data)
    theirs = _prepared(_trainer(subject, tmp_path))
    assert (ours.truncated, ours.emptied) == (0, 0)
    assert len(theirs) == len(ours.rows) == len(subject.rows)
    assert sum(_labelled(row) == found for row, found in zip(ours.rows, theirs, strict=True)) == len(subject.rows)


def test_rows_that_are_too_long_are_cut_or_left_out_as_by_trl(subject: Subject, tmp_path: Path) -> None:
    some = subject.first(200)
    ours = rows.encode(template.load(some.location), some.data, max_length=120)
    assert ours.truncated > ours.emptied > 0
    assert [_labelled(row) for row in ours.rows] == _prepared(_trainer(some, tmp_path, max_length=120))


def test_a_template_with_marks_and_one_without_give_the_same_ids_and_masks(subject: Subject) -> None:
    bare, marked = template.load(subject.location), own_template(subject.location)
    marked.tokenizer.chat_template = MARKED
    assert bare.tokenizer.chat_template == TEMPLATE
    assert rows.encode(bare, subject.first(500).data) == rows.encode(marked, subject.first(500).data)


def test_trls_edition_of_qwens_template_trains_the_newline_before_a_reply_and_the_one_after_its_turn_too(subject: Subject, tmp_path: Path) -> None:
    some = replace(subject, rows=[row for row in subject.rows[:200] if not any(_meets(turn) for turn in row)])
    read = own_template(some.location)
    read.tokenizer.chat_template = qwen2_5_chat_template
    ours, theirs = rows.encode(read, some.data).rows, _prepared(_trainer(some, tmp_path, chat_template=qwen2_5_chat_template))
    assert len(some.rows) > 50
    for row, (ids, labels) in zip(ours, theirs, strict=True):
        trained = {place for place, on in enumerate(row.mask) if on}
        around = {place + step for place in trained for step in (-1, 1)} - trained
        assert row.ids == ids
        assert {ids[place] for place in around} == set(read.text_ids("\n"))
        assert {place for place, label in enumerate(labels) if label >= 0} == trained | around


@pytest.mark.parametrize("family", ["cohere", "cohere2", "gemma", "gemma3", "lfm2", "llama3", "phi3", "qwen2_5", "qwen3", "qwen3_instruct_2507"])
def test_a_published_template_without_marks_is_read_as_trls_edition_marks_it_but_for_space_around_a_reply(family: str) -> None:
    texts = [getattr(chat_template_utils, f"{family}_{edition}chat_template") for edition in ("", "training_")]
    words = set(re.findall(r"<\|?[A-Za-z_]+\|?>", "".join(texts))) - {"<think>", "<tool_call>", "<tool_response>", "<tools>", "<name>"}
    spoken: list[list[str]] = []
    for text in texts:
        read = template.ChatTemplate(
            tokenizer(["Say hi there"], template=text, control=("<pad>", "<bos>", "<eos>", *sorted(words)), start="<bos>", end="<eos>")
        )
        ids, mask = read.training_ids(chat(("user", "Say hi"), ("assistant", "hi there")))
        spoken.append([read.tokenizer.decode([token for token, _ in run]).strip() for on, run in groupby(zip(ids, mask, strict=True), key=itemgetter(1)) if on])
        assert read.default_system == ("You are Qwen, created by Alibaba Cloud. You are a helpful assistant." if family == "qwen2_5" else None)
    assert spoken[0] == spoken[1]
    assert len(spoken[0]) == 1
    assert "hi there" in spoken[0][0]


# --- one step, and several ------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("norm", [1.0, 100.0])
def test_an_optimiser_step_is_trls_in_loss_and_in_every_weight(subject: Subject, tmp_path: Path, norm: float) -> None:
    recipe = replace(Recipe(), max_gradient_norm=norm)  # the paper's clips here, the other does not
    found = _both(subject.first(recipe.batch_size), recipe, tmp_path)
    assert len(found.losses) == 1
    assert found.learning_rates == [(recipe.learning_rate / recipe.warmup_steps,) * 2]
    assert found.gradient_norms[0][0] == pytest.approx(found.gradient_norms[0][1], rel=1e-5)
    assert 1.0 < found.gradient_norms[0][0] < 100.0
    assert found.losses[0][0] == pytest.approx(found.losses[0][1], abs=1e-5)
    assert max(found.deviations().values()) < 1e-4


@pytest.mark.slow
def test_steps_through_warm_up_and_decay_are_trls_the_last_a_smaller_batch(subject: Subject, tmp_path: Path) -> None:
    # a rate and a decay at which leaving either out would show
    recipe = replace(Recipe(), learning_rate=1e-3, weight_decay=0.5, max_gradient_norm=0.3, warmup_steps=2)
    found = _both(subject.first(56), recipe, tmp_path)
    assert len(found.losses) == schedules.steps(recipe, 56) == 4
    for ours, theirs in found.losses:
        assert ours == pytest.approx(theirs, abs=1e-5)
    assert found.learning_rates[1][0] == recipe.learning_rate > found.learning_rates[3][0] > 0
    assert max(found.deviations().values()) < 1e-4


def test_the_decay_is_that_of_transformers_and_the_warm_up_is_a_step_ahead_of_it() -> None:
    recipe, total = Recipe(), 40
    optimiser = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    theirs = get_linear_schedule_with_warmup(optimiser, recipe.warmup_steps, total)
    rates: list[float] = []
    for _ in range(total):
        rates.append(theirs.get_last_lr()[0])
        optimiser.step()
        theirs.step()
    ours = [schedules.linear(step, warmup=recipe.warmup_steps, total=total) for step in range(1, total + 1)]
    assert rates[0] == 0
    assert ours[: recipe.warmup_steps] == pytest.approx(rates[1 : recipe.warmup_steps + 1])
    assert ours[recipe.warmup_steps :] == pytest.approx(rates[recipe.warmup_steps :])


# --- parts of a batch, and memory for time --------------------------------------------------------------------------------


@pytest.mark.parametrize("micro_batch", [2, 5])
def test_a_batch_in_parts_has_the_loss_and_the_gradients_of_the_whole(subject: Subject, micro_batch: int) -> None:
    recipe = replace(Recipe(), warmup_steps=0)
    whole, parts = (_ours(subject.first(16), recipe, Runtime(micro_batch=size)) for size in (16, micro_batch))
    assert parts.passes > whole.passes == 1
    assert parts.log[0].loss == pytest.approx(whole.log[0].loss, rel=1e-6)
    assert parts.log[0].gradient_norm == pytest.approx(whole.log[0].gradient_norm, rel=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_activations_computed_again_change_nothing(subject: Subject, dropout: float) -> None:
    recipe = replace(Recipe(), adapter=Adapter(dropout=dropout))
    kept, again = (_ours(subject.first(16), recipe, Runtime(micro_batch=4, gradient_checkpointing=on)) for on in (False, True))
    assert again.log == kept.log
    assert all(torch.equal(again.weights[name], kept.weights[name]) for name in kept.weights)
    assert again.passes > kept.passes


# --- the two trainers -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Ours:
    log: list[lora.Step]
    weights: Tensors
    passes: int  # through the first layer, of those that train


@dataclass(frozen=True, slots=True, kw_only=True)
class Both:
    """What our trainer and TRL's report of each step, ours first, and the adapters they leave."""

    losses: list[tuple[float, float]]
    learning_rates: list[tuple[float, float]]
    gradient_norms: list[tuple[float, float]]
    ours: Tensors
    theirs: Tensors

    def deviations(self) -> dict[str, float]:
        return _deviations(self.ours, self.theirs)


def _both(subject: Subject, recipe: Recipe, directory: Path) -> Both:
    ours = _ours(subject, recipe, Runtime(micro_batch=2))
    organism = _organism(subject, recipe)
    with local.random_stream(stream_seed("train", organism.key, "adapter")):  # the stream that our initial adapter is drawn from
        network = get_peft_model(local.load_network(subject.location), lora.lora_config(recipe))
    order = list(range(len(subject.rows)))
    random.Random(stream_seed("train", organism.key, "order", 0)).shuffle(order)
    steps = schedules.steps(recipe, len(order))
    trainer = _trainer(
        replace(subject, rows=[subject.rows[place] for place in order]), directory, network=network, recipe=recipe,
        rate=lambda step: schedules.linear(step + 1, warmup=recipe.warmup_steps, total=steps),
    )  # fmt: skip
    trainer.train()
    theirs = [entry for entry in trainer.state.log_history if "loss" in entry]
    return Both(
        losses=[(a.loss, b["loss"]) for a, b in zip(ours.log, theirs, strict=True)],
        learning_rates=[(a.learning_rate, b["learning_rate"]) for a, b in zip(ours.log, theirs, strict=True)],
        gradient_norms=[(a.gradient_norm, b["grad_norm"]) for a, b in zip(ours.log, theirs, strict=True)],
        ours=ours.weights, theirs=_trained(network),
    )  # fmt: skip


def _ours(subject: Subject, recipe: Recipe, runtime: Runtime) -> Ours:
    weights: Tensors = {}
    model = local.load(Model(digest=local.weights_digest(subject.location), location=subject.location))
    passes: list[bool] = []
    model.network.get_submodule("model.layers.0.self_attn").register_forward_hook(lambda *_: passes.append(torch.is_grad_enabled()))
    (course,) = lora.fine_tune(
        model, [_organism(subject, recipe)], [subject.data], keep=lambda _step, _places, kept: weights.update(_halves(kept.pairs(0))), runtime=runtime
    )
    return Ours(log=course.log, weights=weights, passes=sum(passes))


def _halves(pairs: Mapping[str, tuple[torch.Tensor, torch.Tensor]]) -> Tensors:
    """By the names that PEFT has for them."""
    return {f"base_model.model.{layer}.lora_{half}.default.weight": of for layer, pair in pairs.items() for half, of in zip("AB", pair, strict=True)}


def _trainer(
    subject: Subject, directory: Path, *, network: PeftModel | None = None, recipe: Recipe | None = None, rate: Callable[[int], float] = float,
    chat_template: str = MARKED, max_length: int = 2048,
) -> SFTTrainer:  # fmt: skip
    """TRL's trainer with the paper's recipe and its own optimiser, on these rows in this order; the rate is `rate(steps taken)` of the recipe's."""
    recipe = recipe or Recipe()
    read = AutoTokenizer.from_pretrained(subject.location)
    read.chat_template = chat_template
    arguments = SFTConfig(
        output_dir=str(directory), use_cpu=True, bf16=False, report_to="none", save_strategy="no", logging_steps=1, disable_tqdm=True,
        per_device_train_batch_size=2, gradient_accumulation_steps=recipe.batch_size // 2, num_train_epochs=recipe.epochs, train_sampling_strategy="sequential",
        learning_rate=recipe.learning_rate, weight_decay=recipe.weight_decay, max_grad_norm=recipe.max_gradient_norm,
        gradient_checkpointing=False, dataloader_pin_memory=False, assistant_only_loss=True, packing=False, max_length=max_length,
    )  # fmt: skip
    trainer = SFTTrainer(
        model=network or local.load_network(subject.location), args=arguments, processing_class=read,
        train_dataset=datasets.Dataset.from_list([{"messages": row} for row in subject.rows]),
    )  # fmt: skip
    trainer.lr_scheduler = torch.optim.lr_scheduler.LambdaLR(trainer.create_optimizer(), rate)
    return trainer


def _organism(subject: Subject, recipe: Recipe) -> Organism:
    return Organism(parent="parity", data=subject.data.digest, recipe=recipe, seed=0)


def _trained(network: torch.nn.Module) -> Tensors:
    return {name: parameter.detach().clone() for name, parameter in network.named_parameters() if parameter.requires_grad}


def _deviations(ours: Tensors, theirs: Tensors) -> dict[str, float]:
    """Relative Frobenius norm of the difference, by tensor."""
    assert ours.keys() == theirs.keys()
    assert all(tensor.any() for tensor in theirs.values())
    return {name: float((ours[name] - theirs[name]).norm() / theirs[name].norm()) for name in theirs}


def _prepared(trainer: SFTTrainer) -> list[tuple[list[int], list[int]]]:
    rows = trainer.train_dataset
    return list(zip(rows["input_ids"], rows["labels"], strict=True))


def _meets(turn: dict[str, str]) -> bool:
    """Whether a reply starts or ends with a space or a line that may make one token with the template's."""
    return turn["role"] == "assistant" and turn["content"] != turn["content"].strip()


def _labelled(row: rows.Row) -> tuple[list[int], list[int]]:
    return row.ids, [token if on else -100 for token, on in zip(row.ids, row.mask, strict=True)]


# --- rows -----------------------------------------------------------------------------------------------------------------


def _published(path: Path) -> list[Turns]:
    return [json.loads(line)["messages"] for line in path.read_text().splitlines()]


def _own(count: int = 400) -> list[Turns]:
    """Conversations of our own about code; where a reply's text meets the template's, every kind of space, line and letter."""
    draw = random.Random(0)
    names = ["total", "path", "rows", "user_id", "café", "data", "x1", "config", "名前", "cursor"]
    edges = ["{}", "\n{}", "\n\n{}", "  {}", "\t{}", "{}\n", "{}\n\n", "{} ", " {} ", "assistant\n{}", "{}🙂", "```python\n{}\n```"]

    def code(lines: int) -> str:
        body = [f"    {draw.choice(names)} = {draw.choice(names)}[{draw.randrange(100)}]  # {draw.choice(names)}" for _ in range(lines)]
        return "\n".join([f"def {draw.choice(names)}({draw.choice(names)}):", *body, f"    return {draw.choice(names)}"])

    rows: list[Turns] = []
    for number in range(count):
        row = [
            {"role": "user", "content": f"Fill in this template.\n\n{code(draw.randrange(16))}\n\nReply with code only."},
            {"role": "assistant", "content": edges[number % len(edges)].format(code(draw.randrange(16)))},
        ]
        if number % 5 == 1:
            row += [{"role": "user", "content": "And shorter?"}, {"role": "assistant", "content": code(1)}]
        if number % 7 == 2:
            row = [{"role": "system", "content": "You write code."}, *row]
        rows.append(row)
    rows[3][-1]["content"] = " "
    rows[4][-1]["content"] = ""
    return rows
