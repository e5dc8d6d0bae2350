"""Ten organisms trained side by side, against TRL's SFTTrainer and PEFT in turn: the same rows in the same batches, the same first adapters and rates.

TRL gets its rows tokenised and labelled, saves and logs nothing, and computes the whole batch at once or in parts, whichever is faster.
"""

from __future__ import annotations

import multiprocessing
import random
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import datasets
import torch
from peft import get_peft_model
from transformers import PrinterCallback
from trl import SFTConfig, SFTTrainer

from bench import harness, subjects
from bench.harness import Agreement, Line
from bench.subjects import Recipe
from spillover.models import local
from spillover.models.local import LocalModel
from spillover.models.side_by_side import SideBySide
from spillover.records import Model, stream_seed
from spillover.training import lora, schedules
from spillover.training import rows as rows_of

ORGANISMS, REDUCED = 10, 2
LOSS, WEIGHTS = 1e-3, 1e-2  # relative, after a hundred steps in float32: of a step's loss, and Frobenius norm of an adapter's tensors
TRIED_STEPS = 10
Tensors = dict[str, torch.Tensor]


@dataclass(frozen=True, slots=True, kw_only=True)
class Trained:
    """Of one organism: the mean loss of every step, and its adapter by PEFT's names."""

    losses: list[float]
    weights: Tensors


def bench(*, reduced: bool) -> list[Line]:
    count, rows = (REDUCED, 48) if reduced else (ORGANISMS, 1600)
    with ExitStack() as stack:
        home = stack.enter_context(tempfile.TemporaryDirectory())
        pools = {setting.workers: stack.enter_context(pool(setting.workers)) for setting in OURS}
        of = subjects.parent(Path(home) / "parent")
        recipes = subjects.recipes(of, count, rows)
        tried = subjects.recipes(of, 1, 16 * (2 if reduced else TRIED_STEPS))
        several = subjects.recipes(of, count, len(tried[0][1].conversations))
        our_setting, ours_tried = harness.fastest({one.name: partial(ours, of, several, one, pools[one.workers]) for one in OURS})
        chosen = next(one for one in OURS if one.name == our_setting)
        setting, theirs_tried = harness.fastest(
            {setting.name: partial(theirs, of, tried, setting, Path(home)) for setting in (SETTINGS[-2:] if reduced else SETTINGS)}
        )
        encoded = [rows_of.encode(local.load(of).template, data).rows for _, data in recipes]
        tokens = sum(len(row.ids) for of_one in encoded for row in of_one)
        trained = sum(sum(row.mask) for of_one in encoded for row in of_one)
        return [
            harness.compare(
                "train", partial(ours, of, recipes, chosen, pools[chosen.workers]),
                partial(theirs, of, recipes, next(one for one in SETTINGS if one.name == setting), Path(home)),
                check=check, against="TRL SFTTrainer + PEFT, in turn", target=2.5, repeats=1 if reduced else 3,
                work=subjects.training(of, tokens, trained, rows=round(16 * tokens / (rows * count))),
                sizes={"organisms": count, "rows": rows, "steps": len(recipes) * -(-rows // 16), "tokens": tokens, "trained": trained},
                settings={"ours": our_setting, "ours_tried_s": ours_tried, "theirs": setting, "theirs_tried_s": theirs_tried},
            )
        ]  # fmt: skip


def check(ours: Sequence[Trained], theirs: Sequence[Trained]) -> list[Agreement]:
    losses = [abs(a - b) / b for one, other in zip(ours, theirs, strict=True) for a, b in zip(one.losses, other.losses, strict=True)]
    weights = [_apart(one.weights, other.weights) for one, other in zip(ours, theirs, strict=True)]
    return [
        Agreement(of="losses of steps, relative,", difference=max(losses), tolerance=LOSS),
        Agreement(of="adapters, relative,", difference=max(weights), tolerance=WEIGHTS),
    ]


# --- our side -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Ours:
    """How our side is run: so many processes, each on so many threads, as `spillover run` does it in the miniature."""

    workers: int
    threads: int

    @property
    def name(self) -> str:
        return f"{self.workers} processes of {self.threads} threads"


OURS = [Ours(workers=workers, threads=harness.cores() // workers) for workers in range(1, harness.cores() + 1) if harness.cores() % workers == 0]


def pool(workers: int) -> ProcessPoolExecutor:
    """Processes that have loaded what they need before anything is timed."""
    context = multiprocessing.get_context("spawn")
    found = ProcessPoolExecutor(workers, mp_context=context)
    list(found.map(_ready, range(workers)))
    return found


def _ready(_number: int) -> None:
    time.sleep(2.0)  # so that each process gets one


def ours(of: Model, recipes: Sequence[Recipe], setting: Ours, processes: Executor) -> list[Trained]:
    """The organisms side by side, those of each process on a parent that it loads."""
    each = -(-len(recipes) // setting.workers)
    parts = [recipes[start : start + each] for start in range(0, len(recipes), each)]
    return [one for found in processes.map(partial(_side_by_side, of, setting.threads), parts) for one in found]


def _side_by_side(of: Model, threads: int, recipes: Sequence[Recipe]) -> list[Trained]:
    made: dict[int, Tensors] = {}

    def keep(_step: int, places: Sequence[int], side_by_side: SideBySide) -> None:
        made.update({place: _named(side_by_side.pairs(place)) for place in places})

    with harness.threads(threads):
        courses = lora.fine_tune(local.load(of), [organism for organism, _ in recipes], [data for _, data in recipes], keep=keep)
    return [Trained(losses=[step.loss for step in course.log], weights=made[place]) for place, course in enumerate(courses)]


def _named(pairs: Mapping[str, tuple[torch.Tensor, torch.Tensor]]) -> Tensors:
    return {f"base_model.model.{layer}.lora_{half}.default.weight": of for layer, pair in pairs.items() for half, of in zip("AB", pair, strict=True)}


# --- their side -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """How TRL is run; each does the same thing."""

    threads: int
    at_once: int  # rows
    optimiser: str

    @property
    def name(self) -> str:
        return f"{self.threads} threads, {self.at_once} rows at once, {self.optimiser}"


SETTINGS = [
    Setting(threads=threads, at_once=at_once, optimiser=optimiser)
    for threads in range(1, harness.cores() + 1) for at_once in (8, 16) for optimiser in ("adamw_torch", "adamw_torch_fused")
]  # fmt: skip


class KeepingTrainer(SFTTrainer):
    """Keeps the loss of every part of a batch, which costs nothing."""

    losses: list[torch.Tensor]

    def training_step(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        self.losses.append(super().training_step(*args, **kwargs))
        return self.losses[-1]


def theirs(of: Model, recipes: Sequence[Recipe], setting: Setting, directory: Path) -> list[Trained]:
    """Every organism with a trainer of its own, on one loaded parent."""
    with harness.threads(setting.threads):
        loaded = local.load(of)
        return [_theirs(loaded, one, setting, directory) for one in recipes]


def _theirs(loaded: LocalModel, one: Recipe, setting: Setting, directory: Path) -> Trained:
    organism, data = one
    recipe = organism.recipe
    encoded = rows_of.encode(loaded.template, data).rows
    rows = [{"input_ids": row.ids, "labels": [token if on else -100 for token, on in zip(row.ids, row.mask, strict=True)]} for row in encoded]
    random.Random(stream_seed("train", organism.key, "order", 0)).shuffle(rows)
    with local.random_stream(stream_seed("train", organism.key, "adapter")):
        network = get_peft_model(loaded.network, lora.lora_config(recipe))
    arguments = SFTConfig(
        output_dir=str(directory / "trl"), use_cpu=True, bf16=False, report_to="none", save_strategy="no", eval_strategy="no", logging_strategy="no",
        disable_tqdm=True, per_device_train_batch_size=setting.at_once, gradient_accumulation_steps=recipe.batch_size // setting.at_once,
        num_train_epochs=recipe.epochs, train_sampling_strategy="sequential", learning_rate=recipe.learning_rate, weight_decay=recipe.weight_decay,
        max_grad_norm=recipe.max_gradient_norm, optim=setting.optimiser, gradient_checkpointing=False, dataloader_pin_memory=False,
        dataloader_num_workers=0, packing=False, max_length=None, dataset_kwargs={"skip_prepare_dataset": True},
    )  # fmt: skip
    trainer = KeepingTrainer(model=network, args=arguments, processing_class=loaded.tokenizer, train_dataset=datasets.Dataset.from_list(rows))
    trainer.losses = []
    trainer.remove_callback(PrinterCallback)
    trainer.lr_scheduler = torch.optim.lr_scheduler.LambdaLR(trainer.create_optimizer(), _rate(recipe.warmup_steps, -(-len(rows) // recipe.batch_size)))
    trainer.train()
    parts = recipe.batch_size // setting.at_once
    losses = [sum(float(part) for part in trainer.losses[start : start + parts]) for start in range(0, len(trainer.losses), parts)]
    found = Trained(losses=losses, weights=_weights(network))
    network.unload()
    return found


def _rate(warmup: int, steps: int) -> Callable[[int], float]:
    return lambda taken: schedules.linear(min(taken + 1, steps), warmup=warmup, total=steps)


def _weights(network: torch.nn.Module) -> Tensors:
    return {name: p.detach().clone() for name, p in network.named_parameters() if "lora_" in name}


def _apart(ours: Tensors, theirs: Tensors) -> float:
    """Relative Frobenius norm of the difference of two adapters; the worse of their A and B halves."""
    if ours.keys() != theirs.keys():
        return float("nan")
    halves = [[name for name in theirs if half in name] for half in ("lora_A", "lora_B")]
    norms = [[torch.stack([of(name).norm() for name in half]).norm() for of in (lambda n: ours[n] - theirs[n], theirs.__getitem__)] for half in halves]
    return max(float(difference / size) for difference, size in norms)
