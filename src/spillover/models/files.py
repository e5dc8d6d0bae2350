"""The files of a model directory that make it what it is, and their digest: known without loading any."""

from __future__ import annotations

import hashlib
from functools import lru_cache
from pathlib import Path

from spillover.records import SpilloverError, digest

TEMPLATE_CHECK = "template_check.json"  # optional, beside a model: a conversation and the ids its template must give
TEMPLATE_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "config.json",
    TEMPLATE_CHECK,
)
MORE_TEMPLATES = "additional_chat_templates/*.jinja"
IDENTITY_FILES = (*TEMPLATE_FILES, "generation_config.json", "adapter_config.json")
SECOND_COPY = "consolidated"  # the same weights once more, in a form of their makers' own: not read


def weights_digest(directory: str | Path) -> str:
    """sha256 over the names and bytes of a directory's safetensors and configuration: the identity of a model."""
    if not Path(directory).is_dir():
        raise SpilloverError(f"there is no model directory {directory}")
    home = Path(directory)
    files = sorted(p for p in home.iterdir() if p.name in IDENTITY_FILES or (p.suffix == ".safetensors" and not p.name.startswith(SECOND_COPY)))
    files += sorted(home.glob(MORE_TEMPLATES))
    if not any(p.suffix == ".safetensors" for p in files):
        raise SpilloverError(f"{directory} holds no safetensors weights; other formats are not read")
    return digest([[p.relative_to(home).as_posix(), _file_digest(p.resolve(), p.stat().st_size, p.stat().st_mtime_ns)] for p in files])


@lru_cache(maxsize=4096)
def _file_digest(path: Path, size: int, changed_ns: int) -> str:
    """sha256 of a file's bytes, read once while its size and time of change stay."""
    del size, changed_ns
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def adapted_digest(base: str, adapter: str | Path) -> str:
    """The identity of a model that is an adapter on a base."""
    return digest([base, weights_digest(adapter)])
