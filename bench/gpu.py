"""Several LoRA organisms on one frozen base at the shapes of Qwen2.5 0.5B and 7B, random weights: trained, asked and read together, against PEFT in turn.

    python -m bench.gpu [--results DIR] [--reduced] [tiny] [0.5b] [7b]

It needs torch, transformers, PEFT, this folder and the package's own files. No language comes out, so prompts are random ids and every answer has the same
length. On a GPU weights are bfloat16 and adapters float32; without one everything is float32 (`tiny --reduced` takes seconds).
"""

from __future__ import annotations

import argparse
import math
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F
from peft import LoraConfig, get_peft_model, set_peft_model_state_dict
from transformers import AutoModelForCausalLM, PreTrainedModel, Qwen2Config

from bench import harness
from bench.harness import Agreement, Line, Shape, Work
from spillover.models import local
from spillover.models.adapters import Pairs
from spillover.models.local import LocalModel
from spillover.models.side_by_side import SideBySide
from spillover.records import Organism, Recipe
from spillover.training import lora
from spillover.training.lora import Course
from spillover.training.rows import Row as TrainingRow
from spillover.training.schedules import linear

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
DTYPE = torch.bfloat16 if DEVICE == "cuda" else torch.float32
SHAPES: dict[str, dict[str, Any]] = {
    "tiny": {
        "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 8000,
        "tie_word_embeddings": True,
    },
    "0.5b": {
        "hidden_size": 896, "intermediate_size": 4864, "num_hidden_layers": 24, "num_attention_heads": 14, "num_key_value_heads": 2, "vocab_size": 151936,
        "tie_word_embeddings": True,
    },
    "7b": {
        "hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28, "num_attention_heads": 28, "num_key_value_heads": 4, "vocab_size": 152064,
        "tie_word_embeddings": False,
    },
}  # fmt: skip
RANK, ALPHA = 32, 64.0
SCALE = ALPHA / math.sqrt(RANK)
LEARNING_RATE, WEIGHT_DECAY, MOST_NORM, WARMUP = 1e-5, 0.01, 1.0, 5
FILLER = 0
PREFIX = "base_model.model."
SQUARES = (4096, 8192) if DEVICE == "cuda" else harness.SQUARES

Adapter = dict[str, torch.Tensor]  # by PEFT's name in a saved file, `base_model.model.LAYER.lora_A.weight`: float32, on the device
Trained = tuple[list[float], Adapter]


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """Ids, and how many at the start are read and neither trained on nor scored."""

    ids: list[int]
    head: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """How much is done."""

    organisms: int = 10
    steps: int = 10
    rows: int = 16  # a step
    row: tuple[int, int] = (150, 350)  # tokens of a row, at the least and the most
    prompts: int = 8
    draws: int = 100
    prompt: tuple[int, int] = (30, 60)
    answer: int = 100
    replies: int = 48
    reply: tuple[int, int] = (40, 120)
    repeats: int = 3
    squares: tuple[int, ...] = SQUARES  # matrix products tried for the largest rate


FULL, REDUCED = (
    Sizes(),
    Sizes(organisms=2, steps=3, rows=4, row=(10, 20), draws=4, prompt=(4, 8), answer=6, replies=6, reply=(8, 16), repeats=1, squares=(256, 512)),
)
# relative, and in nats; bfloat16 rounds every product to 8 bits
TOLERANCE = (
    {"losses": 2e-2, "adapters": 2e-1, "greedy": 0.1, "nats": 0.5}
    if torch.bfloat16 == DTYPE
    else {"losses": 1e-3, "adapters": 1e-2, "greedy": 0.0, "nats": 1e-3}
)


# --- our side -------------------------------------------------------------------------------------------------------------


def ours_train(network: PreTrainedModel, adapters: Sequence[Adapter], batches: Sequence[Sequence[Sequence[Row]]], rates: Sequence[float]) -> list[Trained]:
    """Train adapters from what they are (which stays), adapter k at step s on the rows `batches[k][s]` at the rate `rates[s]`.

    A step's loss is the mean over the ids after each row's head. AdamW with `WEIGHT_DECAY`, the gradients of each adapter cut to `MOST_NORM`. Of each: the
    losses, and the trained adapter.
    """
    recipe = Recipe(learning_rate=LEARNING_RATE, weight_decay=WEIGHT_DECAY, max_gradient_norm=MOST_NORM, warmup_steps=WARMUP)
    made: dict[int, Adapter] = {}

    def keep(_step: int, places: Sequence[int], side_by_side: SideBySide) -> None:
        for place in places:
            pairs = side_by_side.pairs(place)
            made[place] = {f"{PREFIX}{layer}.lora_{half}.weight": of.to(DEVICE) for layer, pair in pairs.items() for half, of in zip("AB", pair, strict=True)}

    courses = [
        Course(
            organism=Organism(parent="", data="", recipe=recipe, seed=number), kept=frozenset({len(rates)}),
            batches=[[TrainingRow(ids=row.ids, mask=[int(place >= row.head) for place in range(len(row.ids))]) for row in rows] for rows in steps],
        )
        for number, steps in enumerate(batches)
    ]  # fmt: skip
    lora.follow(local_model(network), courses, [pairs_of(adapter) for adapter in adapters], keep=keep)
    return [([step.loss for step in course.log], made[place]) for place, course in enumerate(courses)]


def ours_answers(
    network: PreTrainedModel, adapters: Sequence[Adapter], prompts: Sequence[Sequence[int]], draws: int, answer: int, temperature: float
) -> list[list[list[int]]]:
    """Of each adapter, the `answer` ids of `draws` replies to every prompt, in order of prompt and draw. Nothing ends a reply; temperature 0 is greedy."""
    each = len(prompts) * draws
    with resident(network, adapters) as model:
        rows = [local.Row(ids=tuple(prompt), adapter=place) for place in range(len(adapters)) for prompt in prompts for _ in range(draws)]
        found = model.reply_ids(rows, range(len(rows)), temperature=temperature, max_tokens=answer)
    return [found[start : start + each] for start in range(0, len(found), each)]


def ours_log_probabilities(network: PreTrainedModel, adapters: Sequence[Adapter], rows: Sequence[Row]) -> list[list[float]]:
    """Of each adapter, log P(ids after the head | all before each) of every row, in nats."""
    with resident(network, adapters) as model:
        asked = [(row.ids, range(row.head, len(row.ids))) for row in rows]
        found = model.sums(asked * len(adapters), [place for place in range(len(adapters)) for _ in rows])
    return [found[start : start + len(rows)] for start in range(0, len(found), len(rows))]


def local_model(network: PreTrainedModel) -> LocalModel:
    """The network without a tokenizer: ids are all that is read here."""
    return LocalModel(network, SimpleNamespace(filler=FILLER, end_of_turn=None, tokenizer=SimpleNamespace(eos_token_id=None)))  # pyright: ignore[reportArgumentType]


@contextmanager
def resident(network: PreTrainedModel, adapters: Sequence[Adapter]) -> Iterator[LocalModel]:
    model, side_by_side = local_model(network), SideBySide(network, [pairs_of(adapter) for adapter in adapters])
    with model.as_(side_by_side):
        yield model
    side_by_side.remove()


def pairs_of(adapter: Adapter) -> Pairs:
    layers = dict.fromkeys(name.removeprefix(PREFIX).rpartition(".lora_")[0] for name in adapter)
    return Pairs(scale=SCALE, tensors={layer: (adapter[f"{PREFIX}{layer}.lora_A.weight"], adapter[f"{PREFIX}{layer}.lora_B.weight"]) for layer in layers})


# --- their side -----------------------------------------------------------------------------------------------------------


def theirs_train(model: Any, adapters: Sequence[Adapter], batches: Sequence[Sequence[Sequence[Row]]], rates: Sequence[float], *, at_once: int) -> list[Trained]:
    """The same with PEFT, one after another, so many rows of a step at once; fused AdamW."""
    load(model, adapters)
    found: list[Trained] = []
    for number, steps in enumerate(batches):
        model.set_adapter(str(number))
        model.train()
        named = {name: p for name, p in model.named_parameters() if p.requires_grad}
        optimiser = torch.optim.AdamW(named.values(), lr=0.0, weight_decay=WEIGHT_DECAY, fused=True)
        losses: list[torch.Tensor] = []
        for rows, rate in zip(steps, rates, strict=True):
            optimiser.param_groups[0]["lr"] = rate
            optimiser.zero_grad()
            total = sum(len(row.ids) - row.head for row in rows)
            parts: list[torch.Tensor] = []
            for start in range(0, len(rows), at_once):
                ids_BT, attention_BT, counts_BT = padded(rows[start : start + at_once])
                logits_BTV = model(input_ids=ids_BT, attention_mask=attention_BT, use_cache=False).logits
                targets_BT = ids_BT.masked_fill(~counts_BT, -100)[:, 1:]
                loss = F.cross_entropy(logits_BTV[:, :-1].flatten(0, 1).float(), targets_BT.flatten(), reduction="sum") / total
                loss.backward()
                parts.append(loss.detach())
            torch.nn.utils.clip_grad_norm_(named.values(), MOST_NORM)
            optimiser.step()
            losses.append(torch.stack(parts).sum())
        after = {f"{name.removesuffix(f'.{number}.weight')}.weight": p.detach().clone() for name, p in named.items()}
        optimiser.zero_grad()
        found.append((torch.stack(losses).tolist(), after))
    return found


@torch.no_grad()
def theirs_answers(
    model: Any, count: int, prompts: Sequence[Sequence[int]], draws: int, answer: int, temperature: float, *, at_once: int, merged: bool
) -> list[list[list[int]]]:
    """The same with `generate`, the first `count` adapters one after another, so many rows at once, with PEFT's layers or merged for the while."""
    rows = [list(prompt) for prompt in prompts for _ in range(draws)]
    how: dict[str, Any] = {"do_sample": True, "temperature": temperature, "top_k": 0, "top_p": 1.0} if temperature else {"do_sample": False}
    found: list[list[list[int]]] = []
    model.eval()
    for number in range(count):
        model.set_adapter(str(number))
        if merged:
            model.merge_adapter([str(number)])
        replies: list[list[int]] = []
        for start in range(0, len(rows), at_once):
            some = rows[start : start + at_once]
            width = max(map(len, some))
            ids_BT = torch.tensor([[FILLER] * (width - len(row)) + row for row in some], device=DEVICE)
            attention_BT = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in some], device=DEVICE)
            out_BT = model.generate(
                input_ids=ids_BT, attention_mask=attention_BT, max_new_tokens=answer, min_new_tokens=answer, pad_token_id=FILLER, eos_token_id=None, **how
            )  # fmt: skip
            replies += out_BT[:, width:].tolist()
        if merged:
            model.unmerge_adapter()
        found.append(replies)
    return found


@torch.no_grad()
def theirs_log_probabilities(model: Any, count: int, rows: Sequence[Row], *, at_once: int) -> list[list[float]]:
    """The same with PEFT, the first `count` adapters one after another, so many rows at once, those of like length together."""
    order = sorted(range(len(rows)), key=lambda place: len(rows[place].ids))
    found: list[list[float]] = []
    model.eval()
    for number in range(count):
        model.set_adapter(str(number))
        values = [0.0] * len(rows)
        for start in range(0, len(order), at_once):
            some = order[start : start + at_once]
            ids_BT, attention_BT, counts_BT = padded([rows[place] for place in some])
            logits_BTV = model(input_ids=ids_BT, attention_mask=attention_BT, use_cache=False).logits[:, :-1]
            logp_BT = logits_BTV.float().log_softmax(-1).gather(-1, ids_BT[:, 1:, None])[..., 0]
            for place, value in zip(some, (logp_BT * counts_BT[:, 1:]).double().sum(1).tolist(), strict=True):
                values[place] = value
        found.append(values)
    return found


def peft(network: PreTrainedModel, adapters: Sequence[Adapter]) -> Any:
    """A copy of the base with these adapters in PEFT's layers, by the names 0, 1, ...: made before anything is timed."""
    config = LoraConfig(r=RANK, lora_alpha=ALPHA, use_rslora=True, target_modules="all-linear", lora_dropout=0.0, bias="none", task_type="CAUSAL_LM")  # pyright: ignore[reportArgumentType]
    model = get_peft_model(deepcopy(network), config, adapter_name="0")
    for number in range(1, len(adapters)):
        model.add_adapter(str(number), config)
    load(model, adapters)
    return model


def load(model: Any, adapters: Sequence[Adapter]) -> None:
    """Put adapters into PEFT's layers, in place of what is there."""
    for number, adapter in enumerate(adapters):
        left = set_peft_model_state_dict(model, adapter, adapter_name=str(number)).unexpected_keys
        assert not left, left


def padded(rows: Sequence[Row]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Ids, which of them are there, and which of them count, each (B, T)."""
    width = max(len(row.ids) for row in rows)
    ids_BT = torch.tensor([row.ids + [FILLER] * (width - len(row.ids)) for row in rows], device=DEVICE)
    place_T = torch.arange(width, device=DEVICE)
    lengths_B1, heads_B1 = (torch.tensor(numbers, device=DEVICE)[:, None] for numbers in ([len(row.ids) for row in rows], [row.head for row in rows]))
    there_BT = place_T < lengths_B1
    return ids_BT, there_BT.long(), there_BT & (place_T >= heads_B1)


# --- the three benches ----------------------------------------------------------------------------------------------------


def benches(name: str, sizes: Sizes) -> Iterator[Line]:
    network = build(name)
    stream = random.Random(0)
    vocabulary = SHAPES[name]["vocab_size"]
    base, pair = parameters(network)
    layers = [module for module in network.modules() if isinstance(module, torch.nn.Linear)]

    def row(between: tuple[int, int]) -> Row:
        length = stream.randint(*between)
        return Row(ids=[stream.randrange(1, vocabulary) for _ in range(length)], head=length // 2)

    def shapes(rows: int) -> tuple[Shape, ...]:
        return tuple((rows, *size) for size in dict.fromkeys((layer.in_features, layer.out_features) for layer in layers))

    common = {"shape": name, "organisms": sizes.organisms, "rank": RANK, "dtype": str(DTYPE).removeprefix("torch.")}
    batches = [[[row(sizes.row) for _ in range(sizes.rows)] for _ in range(sizes.steps)] for _ in range(sizes.organisms)]
    tokens = sum(len(one.ids) for steps in batches for rows in steps for one in rows)
    rates = [LEARNING_RATE * linear(step, warmup=WARMUP, total=sizes.steps) for step in range(1, sizes.steps + 1)]
    fresh = [drawn(network, seed, trained=False) for seed in range(sizes.organisms)]
    model = peft(network, fresh)
    first = [steps[:2] for steps in batches[:1]]
    setting, tried = fitting({n: partial(theirs_train, model, fresh[:1], first, rates[:2], at_once=n) for n in (2, 4, 8, 16)})
    yield from compared(
        f"train, {name}", partial(ours_train, network, fresh, batches, rates), partial(theirs_train, model, fresh, batches, rates, at_once=setting),
        check=same_training, target=2.5, sizes=common | {"steps": sizes.steps, "rows": sizes.rows, "tokens": tokens}, tried=tried, of=sizes,
        work=Work(flops=(4 * base + 6 * pair) * tokens, shapes=shapes(round(tokens / sizes.steps / sizes.organisms))),
    )  # fmt: skip

    adapters = [drawn(network, seed, trained=True) for seed in range(sizes.organisms)]
    load(model, adapters)
    prompts = [row(sizes.prompt).ids for _ in range(sizes.prompts)]
    drawn_rows = sizes.prompts * sizes.draws
    asked = [prompts, sizes.draws, sizes.answer, 1.0]
    settings = {
        (n, merged): partial(theirs_answers, model, 1, prompts, sizes.draws, min(16, sizes.answer), 1.0, at_once=n, merged=merged)
        for n in sorted({min(drawn_rows, n) for n in (100, 200, 400, 800)}) for merged in (False, True)
    }  # fmt: skip
    (at_once, merged), tried = fitting(settings)
    theirs = partial(theirs_answers, model, sizes.organisms, at_once=at_once, merged=merged)
    greedy = partial(ours_answers, network, adapters, prompts, 1, 8, 0.0), partial(theirs, prompts, 1, 8, 0.0)
    spoken = sizes.organisms * (drawn_rows * sizes.answer + sum(map(len, prompts)))
    yield from compared(
        f"answers, {name}", partial(ours_answers, network, adapters, *asked), partial(theirs, *asked),
        check=partial(same_answers, vocabulary=vocabulary, greedy=greedy),
        target=3.0, sizes=common | {"prompts": sizes.prompts, "draws": sizes.draws, "tokens": spoken}, tried=tried, of=sizes,
        work=Work(flops=2 * base * spoken, bytes=moved(network, sizes, base, sum(map(len, prompts)) / len(prompts)), shapes=shapes(drawn_rows)),
    )  # fmt: skip

    replies = [row(sizes.reply) for _ in range(sizes.replies)]
    scored = sizes.organisms * sum(len(one.ids) for one in replies)
    theirs = partial(theirs_log_probabilities, model, rows=replies)
    setting, tried = fitting({n: partial(theirs, count=min(2, sizes.organisms), at_once=n) for n in (1, 4, 8, 16, 48)})
    yield from compared(
        f"log_probabilities, {name}", partial(ours_log_probabilities, network, adapters, replies), partial(theirs, count=sizes.organisms, at_once=setting),
        check=same_nats, target=5.0, sizes=common | {"replies": sizes.replies, "tokens": scored}, tried=tried, of=sizes,
        work=Work(flops=2 * base * scored, bytes=base * DTYPE.itemsize, shapes=shapes(round(scored / sizes.organisms))),
    )  # fmt: skip


def compared(
    name: str, ours: Callable[[], Any], theirs: Callable[[], Any], *, tried: dict[str, float], work: Work, sizes: dict[str, Any], of: Sizes, **more: Any
) -> Iterator[Line]:  # fmt: skip
    limits = partial(harness.roofline, work.shapes, device=DEVICE, dtype=sizes["dtype"], squares=of.squares)
    settings = {"theirs": min(tried, key=lambda one: tried[one]), "theirs_tried_s": tried}
    yield harness.compare(
        name, ours, theirs, against="PEFT, adapter by adapter", work=work, sizes=sizes, settings=settings, limits=limits, repeats=of.repeats, **more
    )


def same_training(ours: Sequence[Trained], theirs: Sequence[Trained]) -> list[Agreement]:
    losses = [abs(a - b) / b for (one, _), (other, _) in zip(ours, theirs, strict=True) for a, b in zip(one, other, strict=True)]
    apart: list[float] = []
    for (_, one), (_, other) in zip(ours, theirs, strict=True):
        for half in ("lora_A", "lora_B"):
            names = [name for name in other if half in name]
            apart.append(
                float(torch.stack([(one[name] - other[name]).norm() for name in names]).norm() / torch.stack([other[name].norm() for name in names]).norm())
            )
    return [
        Agreement(of="losses of steps, relative,", difference=max(losses), tolerance=TOLERANCE["losses"]),
        Agreement(of="adapters, relative,", difference=max(apart), tolerance=TOLERANCE["adapters"]),
    ]


def same_answers(
    ours: Sequence[Sequence[Sequence[int]]], theirs: Sequence[Sequence[Sequence[int]]], *, vocabulary: int, greedy: tuple[Callable[[], Any], Callable[[], Any]]
) -> list[Agreement]:  # fmt: skip
    """As many ids, greedy ones the same; of drawn ones the mean in standard errors, for ids of random networks are nearly uniform."""
    mine, other = (call() for call in greedy)
    differ = [a != b for one, two in zip(mine, other, strict=True) for a, b in zip(one, two, strict=True)]
    means = [torch.tensor([i for replies in side for reply in replies for i in reply], dtype=torch.float64) for side in (ours, theirs)]
    error = vocabulary / math.sqrt(12) * math.sqrt(2 / len(means[0]))
    return [
        Agreement(of="greedy answers, share that differs,", difference=sum(differ) / len(differ), tolerance=TOLERANCE["greedy"]),
        Agreement(of="numbers of ids", difference=float(abs(len(means[0]) - len(means[1]))), tolerance=0.0),
        Agreement(of="mean ids, in standard errors,", difference=float(abs(means[0].mean() - means[1].mean())) / error, tolerance=5.0),
    ]


def same_nats(ours: Sequence[Sequence[float]], theirs: Sequence[Sequence[float]]) -> list[Agreement]:
    apart = [abs(a - b) for one, other in zip(ours, theirs, strict=True) for a, b in zip(one, other, strict=True)]
    return [Agreement(of="nats", difference=max(apart), tolerance=TOLERANCE["nats"])]


# --- subjects -------------------------------------------------------------------------------------------------------------


def build(name: str) -> PreTrainedModel:
    """A frozen decoder of this shape, its weights random."""
    torch.manual_seed(0)
    with torch.device(DEVICE):
        network = AutoModelForCausalLM.from_config(
            Qwen2Config(**SHAPES[name], max_position_embeddings=32768, eos_token_id=None, bos_token_id=None), dtype=DTYPE
        )
    network.generation_config.eos_token_id = None
    return network.requires_grad_(False).eval()


def drawn(network: PreTrainedModel, seed: int, *, trained: bool) -> Adapter:
    """An adapter as training begins with, its B halves 0, or with B halves that change what is said."""
    stream = torch.Generator(DEVICE).manual_seed(seed)
    found: Adapter = {}
    for name, layer in network.named_modules():
        if isinstance(layer, torch.nn.Linear) and name != "lm_head":
            bound = 1 / math.sqrt(layer.in_features)
            found[f"base_model.model.{name}.lora_A.weight"] = (2 * torch.rand(RANK, layer.in_features, generator=stream, device=DEVICE) - 1) * bound
            b = (
                torch.randn(layer.out_features, RANK, generator=stream, device=DEVICE) * 0.002
                if trained
                else torch.zeros(layer.out_features, RANK, device=DEVICE)
            )
            found[f"base_model.model.{name}.lora_B.weight"] = b
    return found


def parameters(network: PreTrainedModel) -> tuple[int, int]:
    """Of the layers that a token goes through, the head among them, and of an adapter on all but the head."""
    layers = {name: module for name, module in network.named_modules() if isinstance(module, torch.nn.Linear)}
    sizes = [(m.in_features, m.out_features) for name, m in layers.items() if name != "lm_head"]
    return sum(m.in_features * m.out_features for m in layers.values()), sum(RANK * (a + b) for a, b in sizes)


def moved(network: PreTrainedModel, sizes: Sizes, base: int, prompt: float) -> float:
    """Bytes that must be read to draw answers: the weights once a token, whatever the number of adapters, and each row's own keys and values."""
    config: Any = network.config
    each = 2 * config.num_hidden_layers * config.num_key_value_heads * (config.hidden_size // config.num_attention_heads) * DTYPE.itemsize
    rows = sizes.organisms * sizes.prompts * sizes.draws
    return sizes.answer * (base * DTYPE.itemsize + rows * each * (prompt + sizes.answer / 2))


def fitting(tried: dict[Any, Callable[[], object]]) -> tuple[Any, dict[str, float]]:
    """The fastest of those that fit into memory."""
    fit: dict[str, Callable[[], object]] = {}
    keys = {str(key): key for key in tried}
    for name, key in keys.items():
        try:
            tried[key]()
        except torch.OutOfMemoryError:
            torch.cuda.empty_cache()
        else:
            fit[name] = tried[key]
    name, found = harness.fastest(fit, rounds=1)
    return keys[name], found


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.gpu")
    parser.add_argument("shapes", nargs="*", choices=SHAPES, default=["0.5b", "7b"])
    parser.add_argument("--reduced", action="store_true")
    parser.add_argument("--results", type=Path)
    given = parser.parse_args()
    lines: list[Line] = []
    for name in given.shapes:
        for line in benches(name, REDUCED if given.reduced else FULL):
            lines.append(line)
            if given.results is not None:
                harness.append(line, given.results)
    print(f"\n{harness.table(lines)}")


if __name__ == "__main__":
    main()
