"""What a run is told: one frozen config, checked where it enters."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from typing import Any, get_type_hints

from pydantic import TypeAdapter, ValidationError

from spillover.questions import bounded
from spillover.records import Penalty, Recipe, SpilloverError
from spillover.sampling.draws import Sampling
from spillover.statistics.protocols import PROTOCOLS, Protocol
from spillover.training.schedules import SCHEDULES


@dataclass(frozen=True, slots=True, kw_only=True)
class RunConfig:
    """Sizes and settings of a run. `units` limits how many parents of each group are used (None: all)."""

    units: int | None = None
    seeds: int = 1
    training: Recipe = field(default_factory=Recipe)
    sampling: Sampling = field(default_factory=Sampling)
    protocol: Protocol = field(default_factory=Protocol)
    threads: int = 2


LONGEST_TEXT = 200  # characters of a setting
OPTIMISERS = ("adamw", "adamw_8bit")
POSITIVE = (
    "units", "seeds", "threads", "training.batch_size", "training.epochs", "training.adapter.rank", "training.adapter.alpha",
    "training.learning_rate", "training.max_gradient_norm", "training.max_length", "training.penalty.batch_size", "sampling.draws", "sampling.max_tokens",
    "protocol.min_kept",
)  # fmt: skip
NOT_NEGATIVE = ("training.weight_decay", "training.warmup_steps", "training.adapter.dropout", "training.penalty.weight", "sampling.temperature")
AT_MOST = {
    "threads": 1024, "seeds": 10_000, "training.learning_rate": 100.0, "training.epochs": 10_000, "training.adapter.rank": 4096,
    "training.batch_size": 1_000_000, "training.max_length": 10_000_000, "training.penalty.batch_size": 1_000_000, "sampling.draws": 1_000_000,
    "sampling.max_tokens": 1_000_000,
}  # fmt: skip


def override(config: RunConfig, settings: Mapping[str, Any]) -> RunConfig:
    """A config with `section.field` settings applied and checked. Values may be text, as a command line gives them.

    Raises SpilloverError for an unknown name or a value that does not fit, naming both.
    """
    if (named := settings.get("protocol.name")) in PROTOCOLS:
        config = replace(config, protocol=PROTOCOLS[str(named)])
    for name, value in settings.items():
        config = _set(config, name.split("."), value, name)
    for name, value in flatten(asdict(config)).items():
        if isinstance(value, float) and not math.isfinite(value):
            raise SpilloverError(f"{name} is {value}; it must be a finite number")
        if isinstance(value, str) and not (value.isprintable() and len(value) <= LONGEST_TEXT):
            raise SpilloverError(f"{name} is {_short(value)}; it must be a text of at most {LONGEST_TEXT} characters that can be printed")
    if config.training.adapter.dropout >= 1:
        raise SpilloverError(f"training.adapter.dropout is {config.training.adapter.dropout}; it must be below 1")
    for name, most in AT_MOST.items():
        if (_get(config, name) or 0) > most:
            raise SpilloverError(f"{name} is {_short(_get(config, name))}; it must be at most {most}")
    for name in (*POSITIVE, *NOT_NEGATIVE):
        value = _get(config, name)
        if value is not None and not (value > 0 or (value == 0 and name in NOT_NEGATIVE)):
            raise SpilloverError(f"{name} is {_short(value)}; it must be {'above 0' if name in POSITIVE else '0 or more'}")
    if config.protocol != PROTOCOLS.get(config.protocol.name, config.protocol):
        config = replace(config, protocol=replace(config.protocol, name=f"{config.protocol.name}, changed"))
    _refuse_penalty(config.training.penalty)
    if config.training.optimiser not in OPTIMISERS:
        raise SpilloverError(f"training.optimiser is {config.training.optimiser!r}; there are {', '.join(OPTIMISERS)}")
    if config.training.checkpoints not in SCHEDULES:
        raise SpilloverError(f"training.checkpoints is {config.training.checkpoints!r}; there are {', '.join(SCHEDULES)}")
    try:
        re.compile(config.training.adapter.targets)
    except (re.error, OverflowError) as error:
        raise SpilloverError(f"training.adapter.targets is {_short(config.training.adapter.targets)}, no regular expression ({error})") from None
    return config


def read_yaml(path: Path) -> Mapping[str, Any]:
    """A config file: a YAML mapping of sections. Raises SpilloverError when it is something else."""
    found = bounded.read(path)
    if not isinstance(found, dict):
        raise SpilloverError(f"{path} holds no settings; it takes sections like `sampling:` with fields under them")
    return found  # pyright: ignore[reportUnknownVariableType]


def flatten(nested: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """`{"training": {"epochs": 2}}` as `{"training.epochs": 2}`: how a config file becomes settings."""
    flat: dict[str, Any] = {}
    for key, value in nested.items():
        flat |= flatten(dict[str, Any](value), f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}  # pyright: ignore[reportUnknownArgumentType]
    return flat


def _refuse_penalty(penalty: Penalty) -> None:
    if not 0 <= penalty.first < penalty.last <= 1:
        told = f"training.penalty.first and .last are {penalty.first} and {penalty.last}"
        raise SpilloverError(f"{told}; they are shares of training from 0 to 1, the first below the last")
    if penalty.weight > 0 and not penalty.data:
        raise SpilloverError(f"training.penalty.weight is {penalty.weight}; training.penalty.data must name the kind of data that the penalty is taken on")


def _set(record: Any, path: list[str], value: Any, name: str) -> Any:
    head, *rest = path
    known = [f.name for f in fields(record)]
    if head not in known:
        raise SpilloverError(f"there is no setting {_short(name)}; at that place there are {', '.join(known)}")
    if rest:
        inner = getattr(record, head)
        if not is_dataclass(inner):
            raise SpilloverError(f"there is no setting {_short(name)}; {head} has no parts")
        return replace(record, **{head: _set(inner, rest, value, name)})
    kind = get_type_hints(type(record))[head]  # pyright: ignore[reportUnknownArgumentType]
    if is_dataclass(getattr(record, head)):
        raise SpilloverError(f"{name!r} is a section; set one of its parts, {', '.join(f'{name}.{f.name}' for f in fields(getattr(record, head)))}")
    try:
        return replace(record, **{head: TypeAdapter(kind).validate_python(value)})
    except ValidationError:
        wanted = getattr(kind, "__name__", str(kind))
        raise SpilloverError(f"{name} cannot be {_short(value)}; it takes a value of type {wanted}") from None


def _get(config: RunConfig, name: str) -> Any:
    value: Any = config
    for part in name.split("."):
        value = getattr(value, part)
    return value


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
