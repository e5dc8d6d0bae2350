"""YAML that cannot run away: plain values only, and a limit on bytes, nesting and what aliases grow to.

libyaml's nesting ends the process rather than raising, so the parser is the one written in Python. What the values mean is not known here.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from spillover.records import SpilloverError

MOST_BYTES = 1_000_000
MOST_NODES = 20_000  # values once every alias is written out
DEEPEST = 16
LONGEST_NUMBER = 400  # characters

_NO_TEXT = re.compile("[\0\ud800-\udfff]")


def read(path: Path) -> Any:
    """The plain values of a YAML file: mappings, lists, text, numbers, dates.

    Raises SpilloverError for anything else, a key that comes twice in one mapping, and any limit passed.
    """
    try:
        with path.open("rb") as file:
            content = file.read(MOST_BYTES + 1)
    except FileNotFoundError:
        raise SpilloverError(f"there is no file {path}") from None
    except IsADirectoryError:
        raise SpilloverError(f"{path} is a directory; a YAML file is needed") from None
    if len(content) > MOST_BYTES:
        raise SpilloverError(f"{path} is larger than {MOST_BYTES} bytes; split it")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise SpilloverError(f"{path}: byte {error.start + 1} is not UTF-8; save the file as UTF-8") from None
    return _values(text, path)


def text(found: Any, field: str, where: str) -> str:
    """A value that is text with something in it. Raises SpilloverError that says where it stands."""
    if found is None:
        raise SpilloverError(f"{where}: there is no {field}; it is a text")
    if not isinstance(found, str):
        raise SpilloverError(f"{where}: {field} holds {str(found)[:40]!r}, which YAML reads as {type(found).__name__}; put text in quotes")
    if not found.strip():
        raise SpilloverError(f"{where}: {field} holds an empty text")
    if _NO_TEXT.search(found):
        raise SpilloverError(f"{where}: {field} holds half a character (a lone surrogate) or NUL")
    return found


class _Loader(yaml.SafeLoader):
    """Refuses depth and number while the nodes are made, before recursion or memory can run out."""

    def __init__(self, text: str, path: Path) -> None:
        super().__init__(text)
        self.path, self.depth, self.nodes = path, 0, 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        self.depth, self.nodes = self.depth + 1, self.nodes + 1
        if self.depth > DEEPEST:
            raise SpilloverError(f"{self.path} is nested more than {DEEPEST} deep")
        if self.nodes > MOST_NODES:
            raise SpilloverError(f"{self.path} holds more than {MOST_NODES} values; split it")
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node


def _values(text: str, path: Path) -> Any:
    loader: _Loader | None = None
    try:
        loader = _Loader(text, path)
        node = loader.get_single_node()
        if node is None:
            return None
        if _size(node, {}, path) > MOST_NODES:
            raise SpilloverError(f"{path} holds more than {MOST_NODES} values once its aliases are written out")
        return loader.construct_document(node)  # pyright: ignore[reportUnknownMemberType]
    except yaml.MarkedYAMLError as error:
        line = f", line {error.problem_mark.line + 1}" if error.problem_mark is not None else ""
        raise SpilloverError(f"{path}{line}: not valid YAML ({_one_line(error.problem or error.context)})") from None
    except (yaml.YAMLError, ValueError, OverflowError, RecursionError) as error:
        raise SpilloverError(f"{path} is not valid YAML ({_one_line(error)})") from None
    except (AttributeError, LookupError):  # PyYAML's word for text that is not what its tag says, like `!!timestamp soon`
        raise SpilloverError(f"{path} is not valid YAML (a text does not fit its tag, the word after `!!`)") from None
    finally:
        if loader is not None:
            loader.dispose()


def _size(node: yaml.Node, sizes: dict[int, int], path: Path) -> int:
    """How many values a node is with every alias below it written out. `sizes` holds nodes already counted, 0 for those still open."""
    if id(node) in sizes:
        if not sizes[id(node)]:
            raise SpilloverError(f"{path}, line {node.start_mark.line + 1}: an alias is part of what it stands for")
        return sizes[id(node)]
    sizes[id(node)] = 0
    size = 1
    if node.tag == "tag:yaml.org,2002:int" and len(str(node.value)) > LONGEST_NUMBER:
        raise SpilloverError(f"{path}, line {node.start_mark.line + 1}: not valid YAML (a number of more than {LONGEST_NUMBER} characters)")
    if isinstance(node, yaml.MappingNode):
        names: set[str] = set()
        for key, value in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in names:
                    raise SpilloverError(f"{path}, line {key.start_mark.line + 1}: {key.value[:40]!r} comes twice in one mapping")
                names.add(key.value)
            size += _size(key, sizes, path) + _size(value, sizes, path)
    elif isinstance(node, yaml.SequenceNode):
        size += sum(_size(value, sizes, path) for value in node.value)
    sizes[id(node)] = size
    return size


def _one_line(said: object) -> str:
    return " ".join(str(said).split())[:160]
