"""PEFT directories: LoRA pairs of linear layers, read from safetensors and from nothing else, merged into their base, and written.

An adapter's configuration comes from whoever made it. Its rank, scale and kind are read; its base, its class names and its patterns are
never followed: which layers it changes is what its tensors say, and each must fit. A field we do not understand is refused by name
where it is not at its default.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportAttributeAccessIssue=false, reportMissingTypeStubs=false
from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftConfig
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from spillover.records import SpilloverError

WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"
MOST_RANK = 4096
# what does not change what a linear layer computes once its pairs are known
DESCRIPTIVE = {
    "auto_mapping", "base_model_name_or_path", "exclude_modules", "inference_mode", "layers_pattern", "layers_to_transform", "lora_dropout",
    "peft_version", "revision", "target_modules", "task_type",
}  # fmt: skip
READ = {"peft_type", "r", "lora_alpha", "use_rslora"}
PLAIN_STARTS = (True, False, None, "gaussian", "orthogonal")  # ways to initialise a pair that leave the base as it is
_TENSOR = re.compile(r"base_model\.model\.(?P<layer>[A-Za-z0-9_.]+)\.lora_(?P<half>[AB])\.weight")


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """What an adapter's configuration says of its arithmetic."""

    rank: int
    value: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Pairs:
    """An adapter: its scale, and by the name of a linear layer A (rank, features in) and B (features out, rank), in float32 or finer."""

    scale: float
    tensors: Mapping[str, tuple[torch.Tensor, torch.Tensor]]


def read(network: nn.Module, directory: Path) -> Pairs:
    """The adapter in a directory.

    Raises SpilloverError for a configuration or a tensor that is not understood or does not fit the network.
    """
    scale = read_scale(directory)
    layers = dict(network.named_modules())
    owners = Counter(id(layer.weight) for layer in layers.values() if isinstance(getattr(layer, "weight", None), nn.Parameter))
    found: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}
    for name, pair in _pairs(directory).items():
        layer = layers.get(name)
        if not isinstance(layer, nn.Linear):
            raise SpilloverError(f"{directory} does not fit its parent: it changes {name[:80]!r}, which is no linear layer of it")
        if owners[id(layer.weight)] > 1:
            raise SpilloverError(f"{directory} does not fit its parent: it changes {name}, whose weights are another layer's too (they are tied)")
        a, b = (pair[half].to(layer.weight.device, torch.promote_types(layer.weight.dtype, torch.float32)) for half in "AB")
        if (a.shape, b.shape) != ((scale.rank, layer.in_features), (layer.out_features, scale.rank)):
            raise SpilloverError(f"{directory} does not fit its parent: its pair for {name} is {tuple(a.shape)} and {tuple(b.shape)} at rank {scale.rank}")
        if not (scale.value * a.abs().amax() * b.abs().amax()).isfinite():
            raise SpilloverError(f"{directory} is damaged: its weights for {name} are not finite, or too large for {layer.weight.dtype}")
        found[name] = a, b
    return Pairs(scale=scale.value, tensors=found)


def saved(directory: Path) -> Pairs:
    """What a directory holds, whatever network it is for, in float32. Raises SpilloverError for a configuration or a tensor that is not understood."""
    return Pairs(scale=read_scale(directory).value, tensors={name: (pair["A"].float(), pair["B"].float()) for name, pair in _pairs(directory).items()})


def merge(network: nn.Module, directory: Path) -> None:
    """Add scale x B A to every layer the adapter has a pair for, in the precision of the network's own weights. Raises SpilloverError as `read` does."""
    pairs = read(network, directory)
    for name, (a, b) in pairs.tensors.items():
        layer: Any = network.get_submodule(name)
        change = ((b @ a) * pairs.scale).to(layer.weight.dtype)
        if not change.isfinite().all():
            raise SpilloverError(f"{directory} is damaged: its weights for {name} are not finite, or too large for {layer.weight.dtype}")
        with torch.no_grad():
            layer.weight += change


def write(directory: Path, tensors: Mapping[str, tuple[torch.Tensor, torch.Tensor]], config: PeftConfig) -> None:
    """A directory that PEFT loads: the pairs by layer, and their configuration in one order (PEFT's own is that of this process's hashes)."""
    directory.mkdir(parents=True)
    halves = {
        f"base_model.model.{layer}.lora_{half}.weight": half_of.contiguous()
        for layer, pair in tensors.items()
        for half, half_of in zip("AB", pair, strict=True)
    }
    try:
        save_file(halves, directory / WEIGHTS, metadata={"format": "pt"})
    except SafetensorError as error:  # it wraps the operating system's error, a full disk for one
        raise OSError(f"cannot write {directory}: {error}") from None
    config.save_pretrained(str(directory))
    fields = json.loads((directory / CONFIG).read_text())
    fields["inference_mode"] = True
    (directory / CONFIG).write_text(json.dumps({k: sorted(v) if isinstance(v, list) else v for k, v in sorted(fields.items())}, indent=1) + "\n")


def read_scale(directory: Path) -> Scale:
    """Rank and scale of an adapter, its configuration checked field by field."""
    where = directory / CONFIG
    try:
        found: Any = json.loads(where.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise SpilloverError(f"{directory} holds no {CONFIG}") from None
    except (ValueError, RecursionError, OSError):
        raise SpilloverError(f"{where} is damaged: it is not JSON") from None
    if not isinstance(found, dict):
        raise SpilloverError(f"{where} is damaged: it is not an object")
    if found.get("peft_type") != "LORA":
        raise SpilloverError(f"{where}: peft_type is {str(found.get('peft_type'))[:40]!r}; LORA is read")
    rank: Any = found.get("r")
    alpha: Any = found.get("lora_alpha")
    stabilised: Any = found.get("use_rslora", False)
    if type(rank) is not int or not 1 <= rank <= MOST_RANK:
        raise SpilloverError(f"{where}: r is {str(rank)[:40]}; it must be a whole number from 1 to {MOST_RANK}")
    if type(alpha) not in (int, float) or not abs(alpha) <= 1e6:  # NaN is not
        raise SpilloverError(f"{where}: lora_alpha is {str(alpha)[:40]}; it must be a finite number")
    if type(stabilised) is not bool:
        raise SpilloverError(f"{where}: use_rslora is {str(stabilised)[:40]}; it must be true or false")
    plain = LoraConfig().to_dict()
    for name, value in found.items():
        if name in READ or name in DESCRIPTIVE or value == plain.get(name) or value in (None, False, "", [], {}) or (name == "bias" and value == "none"):
            continue
        if name == "init_lora_weights" and value in PLAIN_STARTS:
            continue
        raise SpilloverError(f"{where}: {name[:40]!r} is {str(value)[:40]!r}, which is not understood here; plain LoRA adapters are read")
    return Scale(rank=rank, value=alpha / math.sqrt(rank) if stabilised else alpha / rank)


def _pairs(directory: Path) -> dict[str, dict[str, torch.Tensor]]:
    if not (directory / WEIGHTS).is_file():
        raise SpilloverError(f"{directory} holds no {WEIGHTS}; other formats are not read")
    try:
        tensors = load_file(directory / WEIGHTS)
    except (SafetensorError, OSError, ValueError, KeyError, OverflowError, RuntimeError, MemoryError, TypeError):
        raise SpilloverError(f"{directory / WEIGHTS} is damaged: it is no whole safetensors file") from None
    pairs: dict[str, dict[str, torch.Tensor]] = {}
    for name, tensor in tensors.items():
        found = _TENSOR.fullmatch(name)
        if found is None or tensor.ndim != 2 or not tensor.is_floating_point():
            raise SpilloverError(f"{directory} holds {name[:80]!r}, which is not half of a linear layer's LoRA pair")
        pairs.setdefault(found["layer"], {})[found["half"]] = tensor
    broken = next((layer for layer, pair in pairs.items() if len(pair) != 2), None)
    if broken is not None or not pairs:
        raise SpilloverError(f"{directory} is damaged: " + (f"{broken} has one half of its pair" if broken else "it holds no pairs"))
    return pairs
