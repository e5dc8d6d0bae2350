"""OpenAI chat JSONL: one `{"messages": [{"role": ..., "content": ...}, ...]}` a line, checked where it enters.

A file is read whole or refused with one sentence that names the line. Fields beside `messages`, and beside role and content in a message, are
counted and not used. What a conversation means is not known here.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

from spillover.records import Conversation, Dataset, Message, Role, SpilloverError

ROLES: tuple[str, ...] = get_args(Role)

_NO_TEXT = re.compile("[\0\ud800-\udfff]")


@dataclass(frozen=True, slots=True, kw_only=True)
class File:
    """A file as it was read. `unused` counts, by name, fields that a row has and nothing here reads (`weight`, `messages.name`)."""

    dataset: Dataset
    sha256: str
    unused: dict[str, int] = field(default_factory=dict[str, int])


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """What a file holds. `duplicates` counts rows that repeat an earlier one; lengths are mean characters a turn."""

    rows: int
    digest: str
    roles: dict[str, int]
    turns: dict[int, int]
    duplicates: int
    distinct_replies: int
    mean_characters: dict[str, float]


def read(path: Path, kind: str | None = None) -> Dataset:
    """The conversations of a file. `kind` names the data; the file's stem if none is given.

    Raises SpilloverError, naming the line, for anything that is not a conversation to train on; FileNotFoundError becomes one too.
    """
    return load(path, kind).dataset


def load(path: Path, kind: str | None = None) -> File:
    """What `read` gives, with the digest of the file's bytes and the fields that were not used."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise SpilloverError(f"there is no file {path}") from None
    except IsADirectoryError:
        raise SpilloverError(f"{path} is a directory; a JSONL file is needed") from None
    conversations: list[Conversation] = []
    unused: Counter[str] = Counter()
    for number, line in enumerate(content.split(b"\n"), 1):
        try:
            text = line.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as error:
            raise SpilloverError(f"{path}, line {number}: byte {error.start + 1} is not UTF-8; save the file as UTF-8") from None
        if text.strip():
            where = f"{path}, line {number}"
            conversations.append(_conversation(_json(text, where), where, unused))
    if not conversations:
        raise SpilloverError(f"{path} has no rows")
    dataset = Dataset(kind=kind or path.stem, conversations=tuple(conversations))
    return File(dataset=dataset, sha256=hashlib.sha256(content).hexdigest(), unused=dict(unused))


def write(dataset: Dataset) -> str:
    """A dataset as JSONL text, which `read` gives back."""
    rows = ({"messages": [{"role": m.role, "content": m.content} for m in conversation]} for conversation in dataset.conversations)
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def summarise(dataset: Dataset) -> Summary:
    """Counts of what a dataset holds."""
    turns = [turn for conversation in dataset.conversations for turn in conversation]
    by_role: dict[str, list[int]] = {role: [] for role in ROLES}
    for turn in turns:
        by_role[turn.role].append(len(turn.content))
    return Summary(
        rows=len(dataset.conversations),
        digest=dataset.digest,
        roles={role: len(lengths) for role, lengths in by_role.items() if lengths},
        turns=dict(sorted(Counter(map(len, dataset.conversations)).items())),
        duplicates=len(dataset.conversations) - len(set(dataset.conversations)),
        distinct_replies=len({turn.content for turn in turns if turn.role == "assistant"}),
        mean_characters={role: sum(lengths) / len(lengths) for role, lengths in by_role.items() if lengths},
    )


class _RepeatedKeyError(ValueError):
    """An object has a key twice; which of the two counts is anybody's guess."""


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise _RepeatedKeyError(next(key for place, (key, _) in enumerate(pairs) if key in dict(pairs[:place])))
    return found


_DECODER = json.JSONDecoder(object_pairs_hook=_object)


def _json(text: str, where: str) -> Any:
    try:
        return _DECODER.decode(text)
    except json.JSONDecodeError as error:
        raise SpilloverError(f"{where}: not valid JSON ({error.msg} at column {error.colno})") from None
    except _RepeatedKeyError as error:
        raise SpilloverError(f"{where}: the key {str(error)[:40]!r} comes twice in one object") from None
    except (RecursionError, ValueError):
        raise SpilloverError(f"{where}: not valid JSON (nested too deeply, or a number too long to read)") from None


def _conversation(row: Any, where: str, unused: Counter[str]) -> Conversation:
    fields = dict[str, Any](row) if isinstance(row, dict) else {}  # pyright: ignore[reportUnknownArgumentType]
    messages = fields.pop("messages", None)
    if not isinstance(messages, list) or not messages:
        raise SpilloverError(f'{where}: no messages; a row is {{"messages": [{{"role": "user", "content": "..."}}, ...]}}')
    extra = set(fields)
    turns = tuple(_turn(turn, place, where, extra) for place, turn in enumerate(list[Any](messages), 1))  # pyright: ignore[reportUnknownArgumentType]
    if turns[-1].role != "assistant":
        raise SpilloverError(f"{where}: the last turn is {turns[-1].role!r}; a conversation to train on ends with the assistant")
    unused.update(extra)
    return turns


def _turn(turn: Any, place: int, where: str, extra: set[str]) -> Message:
    if not isinstance(turn, dict):
        raise SpilloverError(f"{where}: message {place} is not an object with role and content")
    fields = dict[str, Any](turn)  # pyright: ignore[reportUnknownArgumentType]
    role, content = fields.pop("role", None), fields.pop("content", None)
    if role not in ROLES:
        raise SpilloverError(f"{where}: message {place} has the unknown role {str(role)[:40]!r}; roles are {', '.join(ROLES)}")
    if not isinstance(content, str):
        raise SpilloverError(f"{where}: the {role} turn (message {place}) has no text content")
    if not content.strip():
        raise SpilloverError(f"{where}: the {role} turn (message {place}) is empty")
    if _NO_TEXT.search(content):
        raise SpilloverError(f"{where}: the {role} turn (message {place}) holds half a character (a lone surrogate) or NUL")
    if role == "system" and place > 1:
        raise SpilloverError(f"{where}: a system turn in the middle (message {place}); it can only come first")
    extra.update(f"messages.{name}" for name in fields)
    return Message(role=role, content=content)
