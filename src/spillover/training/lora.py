"""Fine-tune a parent on one dataset: rank-stabilised LoRA through PEFT, loss on assistant tokens only.

The loss of a step is the mean over all assistant tokens of its batch, whatever part of it is computed at once. Adapters and optimiser
states are float32. It knows nothing of what the data mean, and leaves ordinary PEFT directories behind.

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
from typing import Any

import torch
import torch.nn.functional as F
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors import SafetensorError
from transformers import PreTrainedModel

from spillover.models import local
from spillover.models.template import ChatTemplate
from spillover.progress import tell
from spillover.records import Conversation, Dataset, Model, Organism, Recipe, Runtime, SpilloverError, digest, stream_seed
from spillover.training.schedules import SCHEDULES, linear


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One encoded conversation: ids and a mask that is 1 where the loss is taken."""

    ids: list[int]
    mask: list[int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Encoded:
    """The rows of a dataset. `truncated` were cut to the longest length; of them `emptied` lost every token to train on, and are left out."""

    rows: list[Row]
    truncated: int
    emptied: int


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
    """What training read: digests of the rows' order, the template, the masks; rows in all, cut, and left out as empty."""

    order: str
    template: str
    mask: str
    rows: int
    truncated: int
    emptied: int


def encode(template: ChatTemplate, dataset: Dataset, *, max_length: int = Recipe().max_length) -> Encoded:
    """Every conversation as ids and mask, cut to `max_length` tokens.

    Raises SpilloverError for unknown words, a row with nothing to learn, or text that spells a control token and would become one.
    """
    rows: list[Row] = []
    read: dict[Conversation, tuple[list[int], list[int]]] = {}  # rows repeat
    truncated = emptied = 0
    for number, conversation in enumerate(dataset.conversations, 1):
        where = f"row {number} of the {dataset.kind} data"
        spelt = next((token for turn in conversation if (token := template.spelt(turn.content)) is not None), None)
        if spelt is not None:
            raise SpilloverError(f"{where} spells the control token {spelt!r}, which would not be read as text; take the row out")
        if conversation not in read:
            try:
                read[conversation] = template.training_ids(conversation)
                template.refuse_unknown_turns(read[conversation][0], conversation)
            except SpilloverError as error:
                raise SpilloverError(f"{where}: {error}") from None
        ids, mask = read[conversation]
        if not any(mask):
            raise SpilloverError(f"{where} has no assistant token to train on")
        truncated += len(ids) > max_length
        if any(mask[:max_length]):
            rows.append(Row(ids=ids[:max_length], mask=mask[:max_length]))
        else:
            emptied += 1
    if not rows:
        raise SpilloverError(f"every row of the {dataset.kind} data has its reply beyond {max_length} tokens; raise training.max_length")
    return Encoded(rows=rows, truncated=truncated, emptied=emptied)


def preview(template: ChatTemplate, row: Row) -> str:
    """A row as the model reads it, the tokens it is trained on in brackets."""
    decode = template.tokenizer.decode
    words = [f"[{decode([token])}]" if trained else decode([token]) for token, trained in zip(row.ids, row.mask, strict=True)]
    return " ".join(str(word) for word in words)


def fine_tune(
    parent: PreTrainedModel,
    template: ChatTemplate,
    organism: Organism,
    dataset: Dataset,
    *,
    save: Callable[[PeftModel, int], None],
    runtime: Runtime = local.CPU,
) -> tuple[list[Step], Provenance]:
    """Train one organism on `parent` (whose own weights do not change) and hand every scheduled checkpoint to `save`.

    Raises SpilloverError when a loss, or a weight to be saved, is not finite.
    """
    recipe = organism.recipe
    encoded = encode(template, dataset, max_length=recipe.max_length)
    batches = list(_batches(encoded.rows, organism))
    wanted = set(SCHEDULES[recipe.checkpoints](len(batches)))
    with local.random_stream(stream_seed("train", organism.key, "adapter")):
        try:
            network = get_peft_model(parent, lora_config(recipe))
        except ValueError as error:  # PEFT's word for targets that are not there
            raise SpilloverError(f"training.adapter does not fit this model: {str(error).splitlines()[0]}") from None
    _check_targets(network)
    if runtime.gradient_checkpointing:
        _checkpointing(parent, "enable", {"use_reentrant": False})
    trained = [p for p in network.parameters() if p.requires_grad]
    optimise = optimiser(trained, recipe)
    network.train()
    log: list[Step] = []
    with local.random_stream(stream_seed("train", organism.key, "dropout")):
        for step, batch in enumerate(batches, 1):
            rate = recipe.learning_rate * linear(step, warmup=recipe.warmup_steps, total=len(batches))
            for group in optimise.param_groups:
                group["lr"] = rate
            optimise.zero_grad()
            loss, tokens = backward(network, batch, template.filler, runtime.micro_batch)
            if not torch.isfinite(loss):
                raise SpilloverError(f"the loss is {loss.item()} at step {step} of {len(batches)}; a lower learning rate than {recipe.learning_rate} may work")
            norm = torch.nn.utils.clip_grad_norm_(trained, recipe.max_gradient_norm)
            optimise.step()
            if step in wanted and not all(torch.isfinite(p).all() for p in trained):
                raise SpilloverError(
                    f"the weights are not finite after step {step} of {len(batches)}; a lower learning rate than {recipe.learning_rate} may work"
                )
            tell(step, len(batches), "training steps")
            log.append(Step(step=step, loss=loss.item(), learning_rate=rate, gradient_norm=norm.item(), tokens=tokens))
            if step in wanted:
                save(network, step)
    if runtime.gradient_checkpointing:
        _checkpointing(parent, "disable")
    network.unload()
    return log, provenance(encoded, organism, template)


def _checkpointing(network: PreTrainedModel, verb: str, *options: dict[str, bool]) -> None:
    """Compute activations again in the backward pass, or keep them; transformers renamed the switch on the way to its version 6."""
    switch = getattr(network, f"activation_checkpointing_{verb}", None) or getattr(network, f"gradient_checkpointing_{verb}")
    switch(*options)


def optimiser(trained: list[torch.nn.Parameter], recipe: Recipe) -> torch.optim.Optimizer:
    """AdamW with float32 states; or the paper's, with 8-bit states. Raises SpilloverError where that one is not installed."""
    if recipe.optimiser == "adamw":
        return torch.optim.AdamW(trained, lr=recipe.learning_rate, weight_decay=recipe.weight_decay, foreach=True)
    try:
        from bitsandbytes.optim import AdamW8bit  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise SpilloverError("training.optimiser is 'adamw_8bit', which needs bitsandbytes; install it, or use adamw") from None
    eight_bit: Any = AdamW8bit
    return eight_bit(trained, lr=recipe.learning_rate, weight_decay=recipe.weight_decay)


def train(organism: Organism, parent: Model, dataset: Dataset, directory: Path, *, runtime: Runtime = local.CPU, system: bool = True) -> dict[int, str]:
    """Train an organism and fill `directory`: `checkpoint-N/` (PEFT) and `training.json`. Returns each step's model digest.

    An adapter names its parent by its hub id and commit, or by the path `models/...` of the run directory, so `PeftModel` finds it from there.
    """
    loaded = local.load(parent, runtime, system=system)
    digests: dict[int, str] = {}

    def save(network: PeftModel, step: int) -> None:
        place = directory / f"checkpoint-{step}"
        name, _, commit = parent.origin.partition("@")
        network.peft_config["default"].base_model_name_or_path = name or "/".join(Path(parent.location).parts[-2:])
        network.peft_config["default"].revision = commit or None
        try:
            network.save_pretrained(str(place), save_embedding_layers=False)
        except SafetensorError as error:  # it wraps the operating system's error, a full disk for one
            raise OSError(f"cannot write {place}: {error}") from None
        (place / "README.md").unlink(missing_ok=True)  # a model card full of blanks
        _in_order(place / "adapter_config.json")
        digests[step] = local.adapted_digest(parent.digest, place)

    log, read = fine_tune(loaded.network, loaded.template, organism, dataset, save=save, runtime=runtime)
    (directory / "training.json").write_text(json.dumps({**asdict(read), "steps": [asdict(step) for step in log]}) + "\n")
    return digests


def _in_order(config: Path) -> None:
    """Write an adapter's configuration in one order: PEFT writes its sets in the order of this process's hashes."""
    fields = json.loads(config.read_text())
    config.write_text(json.dumps({k: sorted(v) if isinstance(v, list) else v for k, v in sorted(fields.items())}, indent=1) + "\n")


def _check_targets(network: Any) -> None:
    """Every layer that was given a pair must be one that a pair can be merged into again: found out before the first step, not after the last."""
    config = network.peft_config["default"]
    layers = [(name, module.get_base_layer()) for name, module in network.named_modules() if hasattr(module, "lora_A")]
    odd = next((name for name, layer in layers if type(layer) is not torch.nn.Linear), None)
    if odd is not None or config.alpha_pattern or config.rank_pattern:
        where = odd or "experts"
        raise SpilloverError(f"training.adapter reaches {where}, which is no plain linear layer; name the layers in training.adapter.targets, as q_proj,v_proj")


def lora_config(recipe: Recipe) -> LoraConfig:
    adapter = recipe.adapter
    return LoraConfig(
        r=adapter.rank, lora_alpha=adapter.alpha,  # pyright: ignore[reportArgumentType]
        use_rslora=adapter.rank_stabilised, lora_dropout=adapter.dropout,
        target_modules=adapter.targets if adapter.targets == "all-linear" else adapter.targets.split(","), bias="none", task_type="CAUSAL_LM",
    )  # fmt: skip


def backward(network: torch.nn.Module, batch: list[Row], filler: int, micro_batch: int | None) -> tuple[torch.Tensor, int]:
    """Add a step's gradients, some rows at once; its mean loss over every assistant token (nats), and how many there are.

    Rows computed at once are of like length, so that little is padding; which rows make up the step does not change.
    """
    size = micro_batch or len(batch)
    batch = batch if size >= len(batch) else sorted(batch, key=lambda row: len(row.ids))
    total = sum(sum(row.mask[1:]) for row in batch)
    loss = torch.zeros(())
    for start in range(0, len(batch), size):
        part, tokens = assistant_loss(network, batch[start : start + size], filler)
        if tokens:
            share = part * (tokens / total)
            share.backward()
            loss = loss + share.detach().cpu()
    return loss, total


def assistant_loss(network: torch.nn.Module, batch: list[Row], filler: int) -> tuple[torch.Tensor, int]:
    """Mean cross-entropy (nats) over every assistant token of a batch, and how many there are."""
    device = next(network.parameters()).device
    ids_BT, attention_BT = (tensor.to(device) for tensor in local.pad([row.ids for row in batch], filler, left=False))
    mask_BT = local.pad([row.mask for row in batch], 0, left=False)[0].to(device)
    logits_BTV = network(input_ids=ids_BT, attention_mask=attention_BT, use_cache=False).logits
    targets_BT = ids_BT.masked_fill(mask_BT == 0, -100)
    return F.cross_entropy(logits_BTV[:, :-1].flatten(0, 1).float(), targets_BT[:, 1:].flatten()), int(mask_BT[:, 1:].sum())


def provenance(encoded: Encoded, organism: Organism, template: ChatTemplate) -> Provenance:
    rows = encoded.rows
    return Provenance(
        order=digest(list(_order(len(rows), organism))), template=digest(str(template.tokenizer.chat_template)), mask=digest([row.mask for row in rows]),
        rows=len(rows), truncated=encoded.truncated, emptied=encoded.emptied,
    )  # fmt: skip


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
