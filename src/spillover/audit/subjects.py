"""Who is audited: a parent and a child as a user names them, and whether the child can have been made of the parent.

A child that is a bare PEFT directory stands on PARENT. What it says of its base is never followed, but where it names another one it is refused.
"""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

from spillover.models import adapters, local, sources
from spillover.records import Model, SpilloverError
from spillover.testbed import find

ORGANISM = "organism.json"
HERE = re.compile(r"models/([0-9a-f]{16})")  # how a run's own adapters name the parent that lies in the run


def child_of(parent: Model, text: str) -> Model:
    """The child that a user named. Raises SpilloverError when it cannot be had, or is an adapter on another base than the parent."""
    if not sources.is_endpoint(text) and (Path(text) / ORGANISM).is_file():
        raise SpilloverError(f"{text[:200]} is an organism of a run; name one of the checkpoints in it, {text[:200]}/checkpoint-N")
    if sources.is_endpoint(text) or not _is_adapter(text):
        child = find(text)
        if child.adapter is not None and (sources.is_endpoint(parent.location) or local.weights_digest(child.location) != parent.digest):
            raise SpilloverError(f"{text[:200]} is an adapter whose base is not PARENT; name as PARENT the base it was trained on")
        return child
    place = Path(text)
    if sources.is_endpoint(parent.location) or parent.adapter is not None:
        raise SpilloverError(f"{text[:200]} is an adapter and stands on PARENT, which has to be a model directory or a hub id")
    named = _named_parent(place)
    if named is not None and named not in (parent.digest, parent.digest[: len(named)], parent.origin.partition("@")[0]):
        there = named[:16] if len(named) == 64 else named[:60]
        raise SpilloverError(f"{text[:200]} is an adapter whose base is not PARENT: it was trained on {there}, and PARENT is {_called(parent)}")
    adapters.read_scale(place)
    return replace(parent, digest=local.adapted_digest(parent.digest, place), adapter=str(place))


def _is_adapter(text: str) -> bool:
    try:
        return (Path(text) / adapters.CONFIG).is_file() and not (Path(text) / "config.json").is_file()
    except OSError:
        return False


def _named_parent(place: Path) -> str | None:
    """The digest, or the hub id, of what an adapter says it was trained on; None where it says nothing that can be checked."""
    card = place.resolve().parent / ORGANISM
    told: Any = _json(card).get("parent") if card.is_file() else None
    if isinstance(told, str) and re.fullmatch("[0-9a-f]{64}", told):
        return told
    base: Any = _json(place / adapters.CONFIG).get("base_model_name_or_path")
    if not isinstance(base, str):
        return None
    inside = HERE.fullmatch(base)
    return inside[1] if inside else base if sources.HUB_ID.fullmatch(base) and not Path(base).exists() else None


def _json(path: Path) -> dict[str, Any]:
    try:
        found: Any = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError, RecursionError):
        raise SpilloverError(f"{path} is damaged; it is no JSON object") from None
    if not isinstance(found, dict):
        raise SpilloverError(f"{path} is damaged; it is no JSON object")
    return dict[str, Any](found)  # pyright: ignore[reportUnknownArgumentType]


def _called(model: Model) -> str:
    return model.origin or model.digest[:16]
