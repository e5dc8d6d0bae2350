"""Fine-tune a parent on one dataset: rank-stabilised LoRA through PEFT, loss on assistant tokens only.

The loss of a step is the mean over all assistant tokens of its batch. Computation is in float32. It knows nothing of what
the data mean, and leaves ordinary PEFT directories behind.

Shapes: B rows, T tokens, V vocabulary.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportAttributeAccessIssue=false, reportMissingTypeStubs=false, reportPrivateImportUsage=false
from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors import SafetensorError
from transformers import PreTrainedModel

from spillover.models import local
from spillover.models.local import Tokenizer
from spillover.records import Dataset, Model, Organism, Recipe, SpilloverError, digest, stream_seed
from spillover.training.schedules import SCHEDULES, linear


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One encoded conversation: ids and a mask that is 1 where the loss is taken."""

    ids: list[int]
    mask: list[int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """What one optimiser step saw: mean loss over its assistant tokens (nats), learning rate, gradient norm before clipping."""

    step: int
    loss: float
    learning_rate: float
    gradient_norm: float
    tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Provenance:
    """Digests of what training read: the rows' order, the template, the masks."""

    order: str
    template: str
    mask: str


def encode(tokenizer: Tokenizer, dataset: Dataset) -> list[Row]:
    """Every conversation as ids and mask.

    Raises SpilloverError for unknown words, a row with nothing to learn, or text that spells a control token and would become one.
    """
    rows: list[Row] = []
    control = tokenizer.all_special_tokens
    for number, conversation in enumerate(dataset.conversations, 1):
        spelt = next((token for token in control for turn in conversation if token in turn.content), None)
        if spelt is not None:
            raise SpilloverError(f"row {number} of the {dataset.kind} data spells the control token {spelt!r}, which would not be read as text")
        ids, mask = local.render_masked(tokenizer, conversation)
        try:
            local.refuse_unknown(tokenizer, ids, " ".join(turn.content for turn in conversation))
        except SpilloverError as error:
            raise SpilloverError(f"row {number} of the {dataset.kind} data: {error}") from None
        if not any(mask):
            raise SpilloverError(f"row {number} of the {dataset.kind} data has no assistant token to train on")
        rows.append(Row(ids=ids, mask=mask))
    return rows


def preview(tokenizer: Tokenizer, row: Row) -> str:
    """A row as the model reads it, the tokens it is trained on in brackets."""
    words = [f"[{tokenizer.decode([token])}]" if trained else tokenizer.decode([token]) for token, trained in zip(row.ids, row.mask, strict=True)]
    return " ".join(str(word) for word in words)


def fine_tune(
    parent: PreTrainedModel,
    tokenizer: Tokenizer,
    organism: Organism,
    dataset: Dataset,
    *,
    save: Callable[[PeftModel, int], None],
) -> tuple[list[Step], Provenance]:
    """Train one organism on `parent` (whose own weights do not change) and hand every scheduled checkpoint to `save`.

    Raises SpilloverError when a loss, or a weight to be saved, is not finite.
    """
    recipe = organism.recipe
    rows = encode(tokenizer, dataset)
    batches = list(_batches(rows, organism))
    wanted = set(SCHEDULES[recipe.checkpoints](len(batches)))
    with local.random_stream(stream_seed("train", organism.key, "adapter")):
        try:
            network = get_peft_model(parent, lora_config(recipe))
        except ValueError as error:  # PEFT's word for targets that are not there
            raise SpilloverError(f"training.adapter does not fit this model: {str(error).splitlines()[0]}") from None
    trained = [p for p in network.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(trained, lr=recipe.learning_rate, weight_decay=recipe.weight_decay, foreach=True)
    network.train()
    log: list[Step] = []
    with local.random_stream(stream_seed("train", organism.key, "dropout")):
        for step, batch in enumerate(batches, 1):
            rate = recipe.learning_rate * linear(step, warmup=recipe.warmup_steps, total=len(batches))
            for group in optimiser.param_groups:
                group["lr"] = rate
            loss, tokens = assistant_loss(network, batch, tokenizer.pad_token_id or 0)
            if not torch.isfinite(loss):
                raise SpilloverError(f"the loss is {loss.item()} at step {step} of {len(batches)}; a lower learning rate than {recipe.learning_rate} may work")
            optimiser.zero_grad()
            loss.backward()
            norm = torch.nn.utils.clip_grad_norm_(trained, recipe.max_gradient_norm)
            optimiser.step()
            if step in wanted and not all(torch.isfinite(p).all() for p in trained):
                raise SpilloverError(
                    f"the weights are not finite after step {step} of {len(batches)}; a lower learning rate than {recipe.learning_rate} may work"
                )
            log.append(Step(step=step, loss=loss.item(), learning_rate=rate, gradient_norm=norm.item(), tokens=tokens))
            if step in wanted:
                save(network, step)
    network.unload()
    return log, provenance(rows, organism, tokenizer)


def train(organism: Organism, parent: Model, dataset: Dataset, directory: Path) -> dict[int, str]:
    """Train an organism and fill `directory`: `checkpoint-N/` (PEFT) and `training.json`. Returns each step's model digest.

    An adapter names its parent by the path `models/...` of the run directory, so `PeftModel` finds it from there.
    """
    loaded = local.load(parent)
    digests: dict[int, str] = {}

    def save(network: PeftModel, step: int) -> None:
        place = directory / f"checkpoint-{step}"
        network.peft_config["default"].base_model_name_or_path = "/".join(Path(parent.location).parts[-2:])
        try:
            network.save_pretrained(str(place), save_embedding_layers=False)
        except SafetensorError as error:  # it wraps the operating system's error, a full disk for one
            raise OSError(f"cannot write {place}: {error}") from None
        (place / "README.md").unlink(missing_ok=True)  # a model card full of blanks
        _in_order(place / "adapter_config.json")
        digests[step] = local.adapted_digest(parent.digest, place)

    log, read = fine_tune(loaded.network, loaded.tokenizer, organism, dataset, save=save)
    (directory / "training.json").write_text(json.dumps({**asdict(read), "steps": [asdict(step) for step in log]}) + "\n")
    return digests


def _in_order(config: Path) -> None:
    """Write an adapter's configuration in one order: PEFT writes its sets in the order of this process's hashes."""
    fields = json.loads(config.read_text())
    config.write_text(json.dumps({k: sorted(v) if isinstance(v, list) else v for k, v in sorted(fields.items())}, indent=1) + "\n")


def lora_config(recipe: Recipe) -> LoraConfig:
    adapter = recipe.adapter
    return LoraConfig(
        r=adapter.rank, lora_alpha=adapter.alpha,  # pyright: ignore[reportArgumentType]
        use_rslora=adapter.rank_stabilised, lora_dropout=adapter.dropout,
        target_modules=adapter.targets, bias="none", task_type="CAUSAL_LM",
    )  # fmt: skip


def assistant_loss(network: torch.nn.Module, batch: list[Row], pad: int) -> tuple[torch.Tensor, int]:
    """Mean cross-entropy (nats) over every assistant token of a batch, and how many there are."""
    ids_BT, attention_BT = local.pad([row.ids for row in batch], pad, left=False)
    mask_BT, _ = local.pad([row.mask for row in batch], 0, left=False)
    logits_BTV = network(input_ids=ids_BT, attention_mask=attention_BT, use_cache=False).logits
    targets_BT = ids_BT.masked_fill(mask_BT == 0, -100)
    return F.cross_entropy(logits_BTV[:, :-1].flatten(0, 1).float(), targets_BT[:, 1:].flatten()), int(mask_BT[:, 1:].sum())


def provenance(rows: list[Row], organism: Organism, tokenizer: Tokenizer) -> Provenance:
    return Provenance(order=digest(list(_order(len(rows), organism))), template=digest(str(tokenizer.chat_template)), mask=digest([row.mask for row in rows]))


def _order(rows: int, organism: Organism) -> Iterator[list[int]]:
    for epoch in range(organism.recipe.epochs):
        order = list(range(rows))
        random.Random(stream_seed("train", organism.key, "order", epoch)).shuffle(order)
        yield order


def _batches(rows: list[Row], organism: Organism) -> Iterator[list[Row]]:
    size = organism.recipe.batch_size
    for order in _order(len(rows), organism):
        for start in range(0, len(order), size):
            yield [rows[place] for place in order[start : start + size]]
