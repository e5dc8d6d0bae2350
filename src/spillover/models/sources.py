"""Where a model is: what a user wrote, read as a directory, a hub repository, an adapter on a base, or an endpoint.

`DIR`, `HUB-ID[@REVISION]`, `BASE:ADAPTER[@REVISION]` (each a directory or a hub id), `URL#MODEL`. Nothing is fetched until it is resolved; a
hub revision is recorded as the commit it names. An adapter's own word for its base is never followed.
"""

# pyright: reportUnknownVariableType=false
from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from spillover.records import Model, SpilloverError

HUB_ID = re.compile(r"(?!.*(?:--|\.\.))[A-Za-z0-9][A-Za-z0-9._-]{0,95}/[A-Za-z0-9][A-Za-z0-9._-]{0,95}")
REVISION = re.compile(r"(?!.*\.\.)[A-Za-z0-9][A-Za-z0-9._/-]{0,127}")
COMMIT = re.compile(r"[0-9a-f]{40}")
UNWANTED = ("consolidated*.safetensors", "original/*")  # the same weights once more, in a form of their makers' own
TOKENIZER = ("*.json", "*.jinja", "tokenizer.model", "merges.txt", "vocab.txt")
WANTED = ("*.safetensors", *TOKENIZER)


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """One place: a directory, or a hub repository at a revision."""

    place: str
    revision: str | None = None


def is_endpoint(text: str) -> bool:
    """Whether this is an address and not a directory or a hub id."""
    return "://" in text


def parse(text: str) -> tuple[Source, Source | None]:
    """The base and the adapter that a user named. Raises SpilloverError when it is neither a directory nor a hub id."""
    if _is_directory(text):
        return Source(place=text), None
    places = [at for at, character in enumerate(text) if character == ":"]
    for at in places:
        base, adapter = _source(text[:at]), _source(text[at + 1 :])
        if base is not None and adapter is not None:
            return base, adapter
    found = _source(text) if not places else None
    if found is None:
        raise SpilloverError(f"{text[:200]!r} is no model: it takes a directory, a hub id like ORG/NAME[@REVISION], BASE:ADAPTER, or URL#MODEL")
    return found, None


def resolve(text: str) -> Model:
    """A local model with its digest, fetched from the hub first if it is a hub id. Raises SpilloverError when it cannot be had."""
    from spillover.models import adapters, local

    base, adapter = parse(text)
    location, origin = _here(base)
    if (location / adapters.CONFIG).is_file() and not (location / "config.json").is_file():
        raise SpilloverError(f"{base.place} is an adapter; name its base too, as BASE:{base.place}")
    digest = local.weights_digest(location)
    if adapter is None:
        return Model(digest=digest, location=str(location), origin=origin)
    directory, adapter_origin = _here(adapter)
    adapters.read_scale(directory)
    return Model(digest=local.adapted_digest(digest, directory), location=str(location), adapter=str(directory), origin=origin, adapter_origin=adapter_origin)


def tokenizer(text: str) -> str:
    """A directory that holds the tokenizer of a model's base, fetched without weights if it is a hub id."""
    base, _ = parse(text)
    return str(_here(base, wanted=TOKENIZER)[0])


def _source(text: str) -> Source | None:
    if _is_directory(text):
        return Source(place=text)
    place, at, revision = text.partition("@")
    if HUB_ID.fullmatch(place) and (not at or REVISION.fullmatch(revision)):
        return Source(place=place, revision=revision or None)
    return None


def _is_directory(text: str) -> bool:
    try:
        return bool(text) and Path(text).is_dir()
    except OSError:  # a name too long for a file, a place that may not be entered
        return False


def _here(source: Source, *, wanted: Sequence[str] = WANTED) -> tuple[Path, str]:
    """The directory of a source, and `ID@COMMIT` if it came from the hub."""
    if source.revision is None and _is_directory(source.place):
        return Path(source.place), ""
    import httpx2
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        found = Path(snapshot_download(source.place, revision=source.revision, allow_patterns=list(wanted), ignore_patterns=list(UNWANTED)))
    except LocalEntryNotFoundError:
        raise SpilloverError(f"{source.place} is no directory, and the hub cannot be reached to fetch it; fetch it once with a network") from None
    except (HfHubHTTPError, HFValidationError, httpx2.HTTPError) as error:
        why = type(error).__name__.removesuffix("Error")
        raise SpilloverError(
            f"{source.place}@{source.revision or 'main'} cannot be had from the hub ({why}); check the name, the revision and access"
        ) from None
    commit = found.name
    if not COMMIT.fullmatch(commit):
        raise SpilloverError(f"the hub gave no commit for {source.place}@{source.revision or 'main'}; name one: {source.place}@COMMIT")
    return found, f"{source.place}@{commit}"
