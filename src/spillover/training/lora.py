"""Fine-tune organisms side by side on one frozen parent: rank-stabilised LoRA, loss on assistant tokens only.

Each organism keeps its own data, order, schedule, clipping and random streams, so that it becomes what it would have become alone; only the base's matrix
products are shared (`models.side_by_side`). Its loss of a step is the mean over all assistant tokens of its own batch, whatever is computed at once; terms of
its own may be added to it (`training.penalties`).
Adapters and optimiser states are float32. It knows nothing of what the data mean, and leaves ordinary PEFT directories behind.

Shapes: K organisms, M assistant tokens, V vocabulary.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportAttributeAccessIssue=false, reportMissingTypeStubs=false, reportPrivateImportUsage=false
from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from math import isfinite
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn

from spillover.models import adapters, local
from spillover.models.local import LocalModel
from spillover.models.memory import Shape, together, training_rows
from spillover.models.side_by_side import Dropout, SideBySide
from spillover.progress import tell
from spillover.records import Dataset, Model, Organism, Reached, Recipe, Runtime, SpilloverError, stream_seed
from spillover.training import penalties
from spillover.training.penalties import Term
from spillover.training.reading import in_line, logits_after
from spillover.training.rows import Provenance, Row, batches, encode, provenance
from spillover.training.schedules import SCHEDULES, linear


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """What one optimiser step saw: mean loss over its assistant tokens (nats), learning rate, gradient norm before clipping.

    `penalty` is what the loss's terms came to (nats, a mean over their tokens, unweighted): 0 where there was none.
    """

    step: int
    loss: float
    learning_rate: float
    gradient_norm: float
    tokens: int
    penalty: float = 0.0


@dataclass(slots=True, kw_only=True)
class Course:
    """An organism on its way: the rows of every step, the steps that leave a checkpoint, the terms added to its loss, what was seen so far; `stopped` says
    why it went no further.
    """

    organism: Organism
    batches: Sequence[Sequence[Row]]
    kept: frozenset[int]
    terms: Sequence[Term] = ()
    read: Provenance | None = None
    log: list[Step] = field(default_factory=list[Step])
    stopped: str = ""

    def goes_on(self, step: int) -> bool:
        return not self.stopped and step <= len(self.batches)

    def stop(self, what: str, step: int) -> None:
        rate = self.organism.recipe.learning_rate
        self.stopped = f"{what} step {step} of {len(self.batches)}; a lower learning rate than {rate} may work"


Kept = Callable[[int, Sequence[int], SideBySide], None]  # a step, the places of the organisms that leave a checkpoint there, all adapters as they are


def fine_tune(
    model: LocalModel,
    organisms: Sequence[Organism],
    datasets: Sequence[Dataset],
    elsewhere: Sequence[Dataset | None] = (),
    *,
    keep: Kept = lambda _step, _places, _all: None,
    runtime: Runtime = local.CPU,
) -> list[Course]:
    """Train organisms on a parent, whose own weights do not change, and call `keep` at every scheduled checkpoint.

    `elsewhere` has the conversations that each one's penalty is taken on, if it has one (empty: none has). An organism whose loss, or weight to be kept, is
    not finite stops there; the others go on. Raises SpilloverError where nothing can be trained.
    """
    courses = _courses(model, organisms, datasets, elsewhere)
    return follow(model, courses, [start(model.network, organism)[0] for organism in organisms], keep=keep, runtime=runtime)


def follow(
    model: LocalModel,
    courses: Sequence[Course],
    starts: Sequence[adapters.Pairs],
    *,
    keep: Kept = lambda _step, _places, _all: None,
    runtime: Runtime = local.CPU,
) -> list[Course]:
    """Take organisms, from the pairs that each starts with, through all of their steps."""
    side_by_side = SideBySide(model.network, starts, trained=True)
    last = max(len(course.batches) for course in courses)
    try:
        optimise = optimiser(side_by_side, [course.organism.recipe for course in courses])
        plan = _Plan(model, side_by_side, courses, runtime)
        with _training(model.network, runtime):
            for step in range(1, last + 1):
                going = {place: course for place, course in enumerate(courses) if course.goes_on(step)}
                if not going:
                    break
                losses, penalised = plan.backward(side_by_side, {place: course.batches[step - 1] for place, course in going.items()}, step)
                norms = _descend(optimise, going, step)
                seen = torch.stack([losses, penalised, norms]).tolist()
                for course, rate, loss, penalty, norm in zip(going.values(), _rates(optimise, going), *seen, strict=True):
                    tokens = _tokens(course.batches[step - 1])
                    course.log.append(Step(step=step, loss=loss, learning_rate=rate, gradient_norm=norm, tokens=tokens, penalty=penalty))
                    if not isfinite(loss + penalty):
                        course.stop(f"the loss is {loss + penalty} at", step)
                there = [place for place, course in going.items() if step in course.kept and not course.stopped]
                for place in there:
                    if not side_by_side.numbers_KP[place].isfinite().all():
                        courses[place].stop("the weights are not finite after", step)
                tell(step, last, "training steps" if len(courses) == 1 else f"training steps of {len(courses)} organisms")
                good = [place for place in there if not courses[place].stopped]
                if good:
                    with _asking(model.network):
                        keep(step, good, side_by_side)
    finally:
        side_by_side.remove()
    return list(courses)


def _descend(optimise: torch.optim.Optimizer, going: Mapping[int, Course], step: int) -> Tensor:
    """One step of the optimiser for all that go on, each clipped by itself and at its own rate; the norms of their gradients before clipping."""
    norms: list[Tensor] = []
    for place, group in enumerate(optimise.param_groups):
        if place in going:
            recipe = going[place].organism.recipe
            group["lr"] = recipe.learning_rate * linear(step, warmup=recipe.warmup_steps, total=len(going[place].batches))
            norms.append(nn.utils.clip_grad_norm_(group["params"], recipe.max_gradient_norm))
        else:
            for parameter in group["params"]:
                parameter.grad = None  # the optimiser passes over it from here on
    optimise.step()
    return torch.stack(norms).double()


def _rates(optimise: torch.optim.Optimizer, going: Mapping[int, Course]) -> list[float]:
    return [optimise.param_groups[place]["lr"] for place in going]


def train(
    model: LocalModel,
    parent: Model,
    organisms: Sequence[Organism],
    datasets: Sequence[Dataset],
    directories: Sequence[Path],
    reached: Reached = lambda _step, _digests: None,
    elsewhere: Sequence[Dataset | None] = (),
    *,
    runtime: Runtime = local.CPU,
) -> list[Course]:
    """Train organisms and fill their directories: `checkpoint-N/` (PEFT) and `training.json`. Where organisms have a checkpoint, `reached` is called
    with the step and the digests of their models by place, and `model` answers as any of them (its `adapters`). `elsewhere` as of `fine_tune`.

    An adapter names its parent by its hub id and commit, or by the path `models/...` of the run directory, so `PeftModel` finds it from there.
    """
    courses = _courses(model, organisms, datasets, elsewhere)
    starts, configs = zip(*(start(model.network, organism) for organism in organisms), strict=True)
    name, _, commit = parent.origin.partition("@")

    def save(step: int, places: Sequence[int], side_by_side: SideBySide) -> None:
        digests: dict[int, str] = {}
        for place in places:
            configs[place].base_model_name_or_path = name or "/".join(Path(parent.location).parts[-2:])
            configs[place].revision = commit or None
            home = directories[place] / f"checkpoint-{step}"
            adapters.write(home, side_by_side.pairs(place), configs[place])
            digests[place] = local.adapted_digest(parent.digest, home)
        with model.as_(side_by_side):
            reached(step, digests)

    follow(model, courses, starts, keep=save, runtime=runtime)
    for course, directory in zip(courses, directories, strict=True):
        assert course.read is not None
        told = {**asdict(course.read), "steps": [asdict(step) for step in course.log]}
        (directory / "training.json").write_text(json.dumps(told) + "\n")
    return courses


def at_once(model: LocalModel, organisms: Sequence[Organism]) -> int:
    """How many of these organisms are trained side by side: as many as fit beside the parent, in half of what it leaves free."""
    most = together(Shape.of(model.network.config), max(organism.recipe.adapter.rank for organism in organisms), model.device, model.weight_bytes)
    return min(most, len(organisms))


def _courses(model: LocalModel, organisms: Sequence[Organism], datasets: Sequence[Dataset], elsewhere: Sequence[Dataset | None]) -> list[Course]:
    return [_course(model, *own) for own in zip(organisms, datasets, elsewhere or [None] * len(organisms), strict=True)]


def _course(model: LocalModel, organism: Organism, dataset: Dataset, elsewhere: Dataset | None = None) -> Course:
    encoded = encode(model.template, dataset, max_length=organism.recipe.max_length)
    steps = list(batches(encoded.rows, organism))
    kept = frozenset(SCHEDULES[organism.recipe.checkpoints](len(steps)))
    terms = penalties.terms(model, organism, elsewhere, len(steps))
    return Course(organism=organism, batches=steps, kept=kept, terms=terms, read=provenance(encoded, organism, model.template))


def start(network: Any, organism: Organism) -> tuple[adapters.Pairs, LoraConfig]:
    """An organism's pairs before its first step, as PEFT draws them from the organism's own stream, and what its directory says of them.

    Raises SpilloverError for targets that are not there, or are no plain linear layers: found out before the first step, not after the last.
    """
    with local.random_stream(stream_seed("train", organism.key, "adapter")):
        try:
            wrapped: Any = get_peft_model(network, lora_config(organism.recipe))
        except ValueError as error:  # PEFT's word for targets that are not there
            raise SpilloverError(f"training.adapter does not fit this model: {str(error).splitlines()[0]}") from None
    config = wrapped.peft_config["default"]
    layers = {name.removeprefix("base_model.model."): module for name, module in wrapped.named_modules() if hasattr(module, "lora_A")}
    odd = next((name for name, layer in layers.items() if type(layer.get_base_layer()) is not nn.Linear), None)
    if odd is not None or config.alpha_pattern or config.rank_pattern:
        where = odd or "experts"
        raise SpilloverError(f"training.adapter reaches {where}, which is no plain linear layer; name the layers in training.adapter.targets, as q_proj,v_proj")
    tensors = {name: (layer.lora_A["default"].weight.detach(), layer.lora_B["default"].weight.detach()) for name, layer in layers.items()}
    scale = next(iter(layers.values())).scaling["default"]
    wrapped.unload()
    return adapters.Pairs(scale=scale, tensors=tensors), config


def lora_config(recipe: Recipe) -> LoraConfig:
    adapter = recipe.adapter
    return LoraConfig(
        r=adapter.rank, lora_alpha=adapter.alpha,  # pyright: ignore[reportArgumentType]
        use_rslora=adapter.rank_stabilised, lora_dropout=adapter.dropout,
        target_modules=adapter.targets if adapter.targets == "all-linear" else adapter.targets.split(","), bias="none", task_type="CAUSAL_LM",
    )  # fmt: skip


def optimiser(side_by_side: SideBySide, recipes: Sequence[Recipe]) -> torch.optim.Optimizer:
    """One for all, a group of parameters for each: AdamW with float32 states; or the paper's, with 8-bit states but for small tensors. These round in
    blocks of a tensor, so that organisms whose ranks differ (and are made equal with zeros) are there only about what they are alone.

    Raises SpilloverError where that one is not installed.
    """
    eight_bit = recipes[0].optimiser == "adamw_8bit"
    numbers = [side_by_side.tensors_of(place) if eight_bit else [side_by_side.numbers_of(place)] for place in range(len(recipes))]
    groups: Any = [{"params": own, "lr": recipe.learning_rate, "weight_decay": recipe.weight_decay} for own, recipe in zip(numbers, recipes, strict=True)]
    if not eight_bit:
        return torch.optim.AdamW(groups, fused=True)
    try:
        from bitsandbytes.optim import AdamW8bit  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise SpilloverError("training.optimiser is 'adamw_8bit', which needs bitsandbytes; install it, or use adamw") from None
    made: Any = AdamW8bit
    return made(groups)


class _Plan:
    """How many rows are computed at once: fewer from then on where they do not fit. The step, and what it means, stay."""

    def __init__(self, model: LocalModel, side_by_side: SideBySide, courses: Sequence[Course], runtime: Runtime) -> None:
        self.model, self.courses = model, courses
        longest = max(len(row.ids) for course in courses for batch in course.batches for row in batch)
        row = Shape.of(model.network.config).training_row(longest, model.network.dtype.itemsize, checkpointing=runtime.gradient_checkpointing)
        at_once = runtime.micro_batch * len(courses) if runtime.micro_batch is not None else None
        self.rows = at_once or training_rows(row, longest, model.device, model.weight_bytes + 3 * side_by_side.bytes)  # gradients, and two states
        self.in_line = in_line(model, [row for course in courses for batch in course.batches for row in batch])

    def backward(self, side_by_side: SideBySide, batch: Mapping[int, Sequence[Row]], step: int) -> tuple[Tensor, Tensor]:
        """The gradients of a step; each organism's mean loss over every assistant token of it, and what its terms add up to (nats), in the order of `batch`."""
        while True:
            side_by_side.clear_gradients()
            losses = {place: torch.zeros((), dtype=torch.float64, device=self.model.device) for place in batch}
            penalised = dict(losses)
            try:
                for part in self._parts(batch):
                    for place, loss in self._part(side_by_side, part, batch, step).items():
                        losses[place] = losses[place] + loss
                for place in batch:
                    for term in self.courses[place].terms:
                        penalised[place] = penalised[place] + term(self.model, side_by_side, place, step=step, at_once=self.rows)
                return torch.stack(list(losses.values())), torch.stack(list(penalised.values()))
            except torch.OutOfMemoryError:
                if self.rows == 1:
                    raise SpilloverError("one row of training does not fit this device; try --gradient-checkpointing, or a lower training.max_length") from None
            self.rows = (self.rows + 1) // 2
            torch.cuda.empty_cache()
            warnings.warn(f"out of memory at step {step}: {self.rows} rows are computed at once from here on; the step stays the same", stacklevel=2)

    def _parts(self, batch: Mapping[int, Sequence[Row]]) -> list[dict[int, list[tuple[int, Row]]]]:
        """The rows of a step, numbered, in parts to be computed at once: as many of each organism, those of like length together."""
        places = list(batch)
        parts: list[dict[int, list[tuple[int, Row]]]] = []
        for first in range(0, len(places), self.rows):
            some = places[first : first + self.rows]
            each = self.rows // len(some)
            ordered = {place: sorted(enumerate(batch[place]), key=lambda numbered: len(numbered[1].ids)) for place in some}
            for start in range(0, max(map(len, ordered.values())), each):
                parts.append({place: rows[start : start + each] for place, rows in ordered.items() if rows[start : start + each]})
        return parts

    def _part(
        self, side_by_side: SideBySide, part: Mapping[int, Sequence[tuple[int, Row]]], batch: Mapping[int, Sequence[Row]], step: int
    ) -> dict[int, Tensor]:
        """Add the gradients of some rows; each organism's share of its loss."""
        counts = [len(part.get(place, ())) for place in range(len(self.courses))]
        numbered = [(place, number, row) for place in part for number, row in part[place]]
        rows = [row for _, _, row in numbered]
        tokens = [_tokens([row]) for row in rows]
        longest = max(len(row.ids) for row in rows)
        lengths = [[len(row.ids) if self.in_line else longest for row in rows], tokens]  # as a layer gets them: whole, and what is trained on alone
        dropout = _dropout(self.courses, numbered, lengths, step)
        with side_by_side.rows(counts, dropout, lengths=lengths), token_losses(self.model, rows, in_line=self.in_line) as loss_M:
            each = loss_M.split([_tokens([row for _, row in own]) for own in part.values()])
            shares = {place: own.sum() / max(_tokens(batch[place]), 1) for place, own in zip(part, each, strict=True)}
            torch.stack(list(shares.values())).sum().backward()
        return {place: share.detach() for place, share in shares.items()}


@contextmanager
def token_losses(model: LocalModel, rows: Sequence[Row], *, in_line: bool) -> Generator[Tensor]:
    """Cross-entropy (nats) of every assistant token of some rows, in row order (M). Only these get logits. Gradients are to be taken inside."""
    targets = [token for row in rows for token, trained in zip(row.ids[1:], row.mask[1:], strict=True) if trained]
    with logits_after(model, rows, [[*row.mask[1:], 0] for row in rows], in_line=in_line) as logits_MV:
        targets_M = torch.tensor(targets, dtype=torch.long, device=model.device)
        yield F.cross_entropy(logits_MV.to(torch.promote_types(logits_MV.dtype, torch.float32)), targets_M, reduction="none")


def _tokens(batch: Sequence[Row]) -> int:
    return sum(sum(row.mask[1:]) for row in batch)


def _dropout(courses: Sequence[Course], rows: Sequence[tuple[int, int, Row]], lengths: Sequence[Sequence[int]], step: int) -> Dropout | None:
    """What drops inputs of a layer's pair: a mask of each row's own, named by (organism, step, row, layer), so that it does not depend on its neighbours."""
    if not any(course.organism.recipe.adapter.dropout for course in courses):
        return None

    def kept(layer: str, x: Tensor) -> Tensor:
        mask = torch.ones_like(x)
        each = next(each for each in lengths if sum(each) == x.shape[:-1].numel())
        for one, (place, number, row) in zip(mask.view(-1, x.shape[-1]).split(list(each)), rows, strict=True):
            organism = courses[place].organism
            stream = torch.Generator(x.device).manual_seed(stream_seed("train", organism.key, "dropout", step, number, layer))
            share = 1 - organism.recipe.adapter.dropout
            own = one[: len(row.ids)]
            own.copy_((torch.rand(own.shape, generator=stream, device=x.device) < share).to(x.dtype) / share)
        return mask

    return kept


@contextmanager
def _training(network: Any, runtime: Runtime) -> Any:
    """The network in training mode, and its activations kept or computed again in the backward pass."""
    network.train()
    if runtime.gradient_checkpointing:
        _checkpointing(network, "enable", {"use_reentrant": False})
    try:
        yield
    finally:
        if runtime.gradient_checkpointing:
            _checkpointing(network, "disable")
        network.eval()


@contextmanager
def _asking(network: Any) -> Any:
    """The network as it answers, in the midst of training."""
    network.eval()
    try:
        yield
    finally:
        network.train()


def _checkpointing(network: Any, verb: str, *options: dict[str, bool]) -> None:
    """Compute activations again in the backward pass, or keep them; transformers renamed the switch on the way to its version 6."""
    switch = getattr(network, f"activation_checkpointing_{verb}", None) or getattr(network, f"gradient_checkpointing_{verb}")
    switch(*options)
