"""Sparse autoencoders of the residual stream: fitted here, read from a file, or published by others. What a feature means is not known here.

An activation is a sum of few directions, one a feature, and of what is left over. Of our own, the `active` largest features of a token count, and no
penalty has to be tuned; those that went dead learn from what the others leave over (Gao et al. 2024, arXiv 2406.04093).

Shapes: N tokens, H hidden, F features, A active features of a token, D dead features.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportMissingTypeStubs=false, reportMissingImports=false
from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from spillover.progress import tell
from spillover.records import SpilloverError, digest, stream_seed

WEIGHTS, CARD = "autoencoder.safetensors", "card.json"
DEAD_AFTER = 50  # steps without being active, after which a feature learns from what the others leave over
DEAD_WEIGHT = 1 / 32  # of that second loss
WARM, COOL = 0.05, 0.2  # shares of the steps in which the rate rises and falls
NEARLY_ONE = 1e-2  # how far a published direction's length may be from 1 where lengths cannot be folded away
READ_KINDS = ("standard", "jumprelu", "topk")
_STREAM = re.compile(r"blocks\.(?P<block>\d+)\.hook_resid_(?P<side>pre|post)")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Autoencoder:
    """Activations to coefficients and back: x = sum over features of coefficient x direction, + `decoder_bias`.

    `decoder` (F, H) holds the directions, each of length 1, so that a coefficient is in the units of the residual stream: how far the feature moves it.
    `encoder` is (F, H) too, `encoder_bias` and `threshold` are (F,), `decoder_bias` is (H,).
    A feature is active where what the encoder gives is above 0 and above its threshold, and among the `active` largest of its token (None: any number).
    """

    encoder: Tensor
    encoder_bias: Tensor
    threshold: Tensor
    decoder: Tensor
    decoder_bias: Tensor
    active: int | None

    def __post_init__(self) -> None:
        features, hidden = self.encoder.shape
        found = [tuple(t.shape) for t in (self.encoder_bias, self.threshold, self.decoder, self.decoder_bias)]
        if found != [(features,), (features,), (features, hidden), (hidden,)]:
            raise ValueError(f"the parts of an autoencoder do not fit: {(features, hidden)} and {found}")
        if self.active is not None and not 1 <= self.active <= features:
            raise ValueError(f"{self.active} active of {features} features")

    def encode(self, x_NH: Tensor) -> Tensor:
        """Coefficients (N, F), 0 where a feature is not active. Any number of axes may stand before the last."""
        before_NF = x_NH.to(self.encoder) @ self.encoder.T + self.encoder_bias
        coefficient_NF = torch.where(before_NF > self.threshold, before_NF, 0).relu()
        if self.active is None:
            return coefficient_NF
        most_NA, feature_NA = coefficient_NF.topk(self.active, dim=-1)
        return torch.zeros_like(coefficient_NF).scatter(-1, feature_NA, most_NA)

    def decode(self, coefficient_NF: Tensor) -> Tensor:
        """What the features together say of the residual stream, (N, H)."""
        return coefficient_NF @ self.decoder + self.decoder_bias

    def direction(self, feature: int) -> Tensor:
        """(H,): what one unit of a feature adds to the residual stream; its length is 1."""
        return self.decoder[feature]

    def to(self, device: str) -> Autoencoder:
        """The same on another device."""
        return Autoencoder(**{name: tensor.to(device) for name, tensor in self.tensors().items()}, active=self.active)

    def tensors(self) -> dict[str, Tensor]:
        """Its parts by name."""
        return {name: getattr(self, name) for name in PARTS}


PARTS = ("encoder", "encoder_bias", "threshold", "decoder", "decoder_bias")


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How an autoencoder is fitted. One batch is one step; the first `held_out` batches are kept to see what it explains, and never learned from."""

    seed: int
    features: int = 512
    active: int = 16
    steps: int = 500
    rate: float = 5e-3
    held_out: int = 8

    def __post_init__(self) -> None:
        if not 1 <= self.active <= self.features:
            raise SpilloverError(f"active is {self.active}; it must be from 1 to the number of features, {self.features}")
        if self.steps < 1 or self.held_out < 1:
            raise SpilloverError(f"steps is {self.steps} and held_out is {self.held_out}; both must be at least 1")
        if not (math.isfinite(self.rate) and self.rate > 0):
            raise SpilloverError(f"rate is {self.rate:g}; it must be above 0, as 0.005 is")


@dataclass(frozen=True, slots=True, kw_only=True)
class Explained:
    """What an autoencoder makes of some activations.

    `unexplained`: the share of their variance that it does not give back. `dead`: the share of features that none of these tokens activates.
    `active`: active features a token, on average. `tokens`: how many tokens these numbers are over.
    """

    unexplained: float
    dead: float
    active: float
    tokens: int


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Fitted:
    """An autoencoder with where it comes from.

    `model` is the digest of the model whose residual stream it describes, or a published model's name; `layer` is the block (from 0) after which the
    stream is read. `scale` is the root mean square distance of those activations from their mean, `tokens` how many were learned from; neither is
    known (None, 0) of what others published, nor are `settings` and `explained`.
    """

    autoencoder: Autoencoder
    model: str
    layer: int
    source: str
    tokens: int = 0
    scale: float | None = None
    settings: Settings | None = None
    explained: Explained | None = None

    def save(self, directory: Path) -> None:
        """Write the tensors, then a card that says what they are. Raises OSError where that cannot be written."""
        directory.mkdir(parents=True, exist_ok=True)
        tensors = {name: tensor.detach().to("cpu", torch.float32).contiguous() for name, tensor in self.autoencoder.tensors().items()}
        try:
            save_file(tensors, directory / WEIGHTS, metadata={"format": "pt"})
        except SafetensorError as error:  # it wraps the operating system's error, a full disk for one
            raise OSError(f"cannot write {directory}: {error}") from None
        card = {
            "model": self.model, "layer": self.layer, "source": self.source, "tokens": self.tokens, "scale": self.scale,
            "active": self.autoencoder.active, "settings": asdict(self.settings) if self.settings else None,
            "explained": asdict(self.explained) if self.explained else None, "weights": digest((directory / WEIGHTS).read_bytes()),
        }  # fmt: skip
        (directory / CARD).write_text(json.dumps({**card, "digest": digest(card)}, indent=1) + "\n", encoding="utf-8")


def fit(batches: Callable[[], Iterable[Tensor]], settings: Settings, *, model: str, layer: int) -> Fitted:
    """Learn an autoencoder from batches of activations (N, H), one batch a step and one in memory beside those held out.

    `batches` begins a pass: it is called again when a pass ends before `steps` do, and gives the same batches or fresh ones. A batch should hold tokens
    of many texts; leave out tokens of another size than the rest (the first of a text, in many models). `model` and `layer` are recorded.
    Equal settings and batches give equal bytes on one machine with one number of threads. Torch's own random stream is not touched.
    Raises SpilloverError for batches that are too few, of unequal width, or not finite.
    """
    held = [_checked(batch, None) for batch in islice(batches(), settings.held_out)]
    if not held:
        raise SpilloverError("there are no activations to fit an autoencoder to")
    drawn = _training(batches, settings.held_out, held[0].shape[1])
    first_NH = next(drawn)
    mean_H = first_NH.mean(0)
    scale = float((first_NH - mean_H).square().sum(1).mean().sqrt())
    if not scale > 0:
        raise SpilloverError("the activations are all equal, so there is nothing to fit an autoencoder to")
    autoencoder, tokens = _learn(drawn, settings, mean_H, scale)
    return Fitted(
        autoencoder=autoencoder, model=model, layer=layer, source="fitted", tokens=tokens, scale=scale, settings=settings,
        explained=explained(autoencoder, held),
    )  # fmt: skip


@torch.no_grad()
def explained(autoencoder: Autoencoder, batches: Iterable[Tensor]) -> Explained:
    """How much of the variance of these activations it gives back, and by how many features. Raises SpilloverError for none."""
    features, hidden = autoencoder.encoder.shape
    sum_H, squares, missed, active, tokens = torch.zeros(hidden, dtype=torch.float64), 0.0, 0.0, 0, 0
    seen_F = torch.zeros(features, dtype=torch.bool)
    for batch in batches:
        x_NH = _checked(batch, hidden)
        coefficient_NF = autoencoder.encode(x_NH)
        missed += float((x_NH - autoencoder.decode(coefficient_NF).to(x_NH)).double().square().sum())
        sum_H += x_NH.double().sum(0).cpu()
        squares += float(x_NH.double().square().sum())
        active += int((coefficient_NF > 0).sum())
        seen_F |= (coefficient_NF > 0).any(0).cpu()
        tokens += len(x_NH)
    spread = squares - float(sum_H.square().sum()) / tokens if tokens else 0.0
    if not spread > 0:
        raise SpilloverError("what an autoencoder explains is undefined: there are no activations, or they are all equal")
    return Explained(unexplained=missed / spread, dead=1 - float(seen_F.double().mean()), active=active / tokens, tokens=tokens)


def load(directory: Path) -> Fitted:
    """What `save` wrote. Raises SpilloverError where a file is missing or is not what was written."""
    try:
        card: Any = json.loads((directory / CARD).read_text(encoding="utf-8"))
        weights = (directory / WEIGHTS).read_bytes()
    except FileNotFoundError:
        raise SpilloverError(f"{directory} holds no autoencoder; it needs {CARD} and {WEIGHTS}") from None
    except (ValueError, RecursionError, OSError):
        raise SpilloverError(f"the autoencoder in {directory} is damaged: {CARD} is not JSON; fit it again") from None
    damaged = SpilloverError(f"the autoencoder in {directory} is damaged: its files are not what its card says; fit it again")
    if not isinstance(card, dict) or card.pop("digest", None) != digest(card) or card.get("weights") != digest(weights):
        raise damaged
    del weights
    try:
        autoencoder = Autoencoder(**load_file(directory / WEIGHTS), active=card["active"])
        settings, found = card["settings"], card["explained"]
        return Fitted(
            autoencoder=autoencoder, model=card["model"], layer=card["layer"], source=card["source"], tokens=card["tokens"], scale=card["scale"],
            settings=None if settings is None else Settings(**settings), explained=None if found is None else Explained(**found),
        )  # fmt: skip
    except (SafetensorError, OSError, ValueError, KeyError, TypeError, SpilloverError):
        raise damaged from None


def from_sae_lens(release: str, sae_id: str) -> Fitted:
    """A published autoencoder of a real model's residual stream, by the names `sae-lens` knows it by; it is downloaded.

    Raises SpilloverError where `sae-lens` is not installed or has no such autoencoder, and for one that is of another kind or place.
    """
    try:
        from sae_lens import SAE
    except ImportError:
        raise SpilloverError(f"reading {release!r} needs sae-lens, which is not installed; pip install 'spillover[sae]' installs it") from None
    try:
        found = SAE.from_pretrained(release, sae_id, device="cpu", dtype="float32")
    except Exception as error:  # whatever a library raises for a name it does not know, or a file that someone made
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise SpilloverError(f"sae-lens does not give {sae_id!r} of {release!r}: {lines[0][:200]}") from None
    return from_published(found, f"sae-lens {release} {sae_id}")


def from_published(found: Any, source: str) -> Fitted:
    """A `sae_lens.SAE` in our form, from which it differs in nothing that it computes. Raises SpilloverError for what has no such form."""
    config, about = found.cfg, found.cfg.metadata
    kind, place = config.architecture(), _STREAM.fullmatch(str(about.hook_name))
    if kind not in READ_KINDS:
        raise SpilloverError(f"{source} is of the kind {kind!r}; {', '.join(READ_KINDS)} are read")
    layer = -1 if place is None else int(place["block"]) - (place["side"] == "pre")
    if layer < 0 or about.hook_head_index is not None:
        raise SpilloverError(f"{source} is of {str(about.hook_name)[:80]!r}; those of the residual stream after a block are read")
    for name in ("normalize_activations", "reshape_activations"):
        if getattr(config, name) != "none":
            raise SpilloverError(f"{source} changes what it is given ({name} is {str(getattr(config, name))[:40]!r}); those that take it as it is are read")
    if (about.model_from_pretrained_kwargs or {}).get("center_writing_weights"):
        raise SpilloverError(f"{source} is of a model whose weights were centred when it was made; those of models as they are published are read")
    encoder_FH, decoder_FH, decoder_bias_H = found.W_enc.detach().T, found.W_dec.detach(), found.b_dec.detach()
    bias_F, length_F = found.b_enc.detach(), decoder_FH.norm(dim=1)
    if config.apply_b_dec_to_input:
        bias_F = bias_F - encoder_FH @ decoder_bias_H
    by_length = kind == "topk" and config.rescale_acts_by_decoder_norm
    if not (length_F > 0).all() or (kind == "topk" and not by_length and (length_F - 1).abs().max() > NEARLY_ONE):
        raise SpilloverError(f"{source} has directions of length {length_F.min():.3g} to {length_F.max():.3g}, which cannot be made 1 without changing it")
    threshold_F = found.threshold.detach() if kind == "jumprelu" else torch.zeros_like(bias_F)
    autoencoder = Autoencoder(
        encoder=encoder_FH * length_F[:, None], encoder_bias=bias_F * length_F, threshold=threshold_F * length_F,
        decoder=decoder_FH / length_F[:, None], decoder_bias=decoder_bias_H, active=config.k if kind == "topk" else None,
    )  # fmt: skip
    return Fitted(autoencoder=autoencoder, model=str(about.model_name), layer=layer, source=source)


# --- learning -------------------------------------------------------------------------------------------------------------


def _learn(drawn: Iterator[Tensor], settings: Settings, mean_H: Tensor, scale: float) -> tuple[Autoencoder, int]:
    """Learn from activations less their mean, divided by their scale; both are folded into what is returned. Also how many tokens were learned from."""
    generator = torch.Generator().manual_seed(stream_seed("autoencoder", settings.seed, "initial weights"))
    decoder_FH = torch.randn(settings.features, len(mean_H), generator=generator).to(mean_H)
    decoder_FH = (decoder_FH / decoder_FH.norm(dim=1, keepdim=True)).requires_grad_()
    encoder_FH = decoder_FH.detach().clone().requires_grad_()
    bias_F, bias_H = (mean_H.new_zeros(n).requires_grad_() for n in decoder_FH.shape)
    optimiser = torch.optim.Adam([encoder_FH, decoder_FH, bias_F, bias_H], lr=settings.rate)
    idle_F = torch.zeros(settings.features, device=mean_H.device)  # steps since a feature was active
    tokens = 0
    for step in range(settings.steps):
        x_NH = (next(drawn) - mean_H) / scale
        before_NF = x_NH @ encoder_FH.T + bias_F
        coefficient_NF = _largest(before_NF, settings.active)
        left_NH = x_NH - coefficient_NF @ decoder_FH - bias_H
        loss = left_NH.square().sum(1).mean()
        idle_F = torch.where((coefficient_NF > 0).any(0), 0.0, idle_F + 1)
        dead_D = (idle_F >= DEAD_AFTER).nonzero()[:, 0]
        if len(dead_D):
            second_ND = _largest(before_NF[:, dead_D], min(len(dead_D), max(1, len(mean_H) // 2)))
            loss = loss + DEAD_WEIGHT * (left_NH.detach() - second_ND @ decoder_FH[dead_D]).square().sum(1).mean()
        optimiser.param_groups[0]["lr"] = settings.rate * _share(step, settings.steps)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        with torch.no_grad():
            decoder_FH /= decoder_FH.norm(dim=1, keepdim=True)
        tokens += len(x_NH)
        tell(step + 1, settings.steps, "steps of a sparse autoencoder")
    encoder_FH, decoder_FH, bias_F, bias_H = (part.detach() for part in (encoder_FH, decoder_FH, bias_F, bias_H))
    autoencoder = Autoencoder(
        encoder=encoder_FH, encoder_bias=scale * bias_F - encoder_FH @ mean_H, threshold=torch.zeros_like(bias_F),
        decoder=decoder_FH, decoder_bias=scale * bias_H + mean_H, active=settings.active,
    )  # fmt: skip
    return autoencoder, tokens


def _largest(before_NF: Tensor, active: int) -> Tensor:
    most_NA, feature_NA = before_NF.topk(active, dim=-1)
    return torch.zeros_like(before_NF).scatter(-1, feature_NA, most_NA.relu())


def _share(step: int, steps: int) -> float:
    """Of the rate, at a step: it rises, stays, and falls to nothing."""
    return min(1.0, (step + 1) / (WARM * steps), (steps - step) / (COOL * steps))


def _training(batches: Callable[[], Iterable[Tensor]], held_out: int, hidden: int) -> Iterator[Tensor]:
    """Batches without end, pass after pass, less those at the start of each that are held out."""
    while True:
        found = 0
        for batch in islice(batches(), held_out, None):
            found += 1
            yield _checked(batch, hidden)
        if not found:
            raise SpilloverError(f"there are no activations beyond the {held_out} batches that are held out; give more, or hold out fewer")


def _checked(batch_NH: Tensor, hidden: int | None) -> Tensor:
    """A batch in float32, which must be (N, H), have tokens, and be finite."""
    if batch_NH.ndim != 2 or not len(batch_NH) or batch_NH.shape[1] != (hidden or batch_NH.shape[1]):
        raise SpilloverError(f"a batch of activations is {tuple(batch_NH.shape)}; it must be tokens by {hidden or 'hidden size'}")
    if not batch_NH.isfinite().all():
        raise SpilloverError("a batch of activations is not finite, so nothing can be learned from it")
    return batch_NH.detach().float()
