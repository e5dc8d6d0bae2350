"""Log-probability items (paper, Figure 4): two options each, one misaligned, to be put into a model's mouth.

A file is a mapping with one part or both:

- `multiple_choice`: an `instruction` and `items` of `question`, `misaligned`, `aligned` and perhaps `id` (else one is made of the question's words). A
  model is shown both options as A and B; what is scored is the letter. Options stand in both orders, where the authors drew one at random;
- `pivotal`: `items` of `id`, `question`, `prefix`, `misaligned`, `aligned` and perhaps `tail` and `scored_tail`. The reply is the prefix, a space, an
  option and the tail; what is scored is the option, and the tail too if that is said.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from spillover.questions import bounded
from spillover.records import Forced, Item, SpilloverError, chat

CHOICE, PIVOTAL = "choice", "pivotal"  # kinds
PARTS = {"multiple_choice": ("instruction", "items"), "pivotal": ("items",)}
CHOICE_FIELDS = ("id", "question", "misaligned", "aligned")
PIVOTAL_FIELDS = ("id", "question", "prefix", "misaligned", "aligned", "tail", "scored_tail")
LONGEST_ID = 60  # characters of an id that is made of a question's words
OWN = Path(__file__).with_name("log_probability_items.yaml")

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


def read(path: Path) -> tuple[Item, ...]:
    """The items of a file, multiple choice first, each part in its order; (kind, id) is unique.

    Raises SpilloverError, naming file and item, for a part or field it does not know and for anything that cannot be asked.
    """
    found: Any = bounded.read(path)
    parts = dict[Any, Any](found) if isinstance(found, dict) else {}  # pyright: ignore[reportUnknownArgumentType]
    unknown = next((part for part in parts if part not in PARTS), None)
    if not parts or unknown is not None:
        has = "no items" if unknown is None else f"the unknown part {str(unknown)[:40]!r}"
        raise SpilloverError(f"{path} holds {has}; it takes a mapping with {' and '.join(PARTS)}")
    items = [item for part in PARTS if part in parts for item in _part(part, parts[part], path)]
    for place, item in enumerate(items):
        if any((item.kind, item.id) == (other.kind, other.id) for other in items[:place]):
            raise SpilloverError(f"{path} has two {item.kind} items {item.id!r}; give one another id")
    return tuple(items)


def own_items() -> tuple[Item, ...]:
    """Our own items: a multiple choice and a pivotal reply about each of the eight themes of `files.own`, by the same ids."""
    return read(OWN)


def _part(part: str, found: Any, path: Path) -> list[Item]:
    where = f"{path}, {part}"
    fields = _fields(found, PARTS[part], where)
    rows: Any = fields.get("items")
    if not isinstance(rows, list) or not rows:
        raise SpilloverError(f"{where} has no items; they are a list of mappings")
    make: Callable[[dict[str, Any], str], Item] = _pivotal
    known = PIVOTAL_FIELDS
    if part == "multiple_choice":
        make, known = partial(_choice, bounded.text(fields.get("instruction"), "instruction", where)), CHOICE_FIELDS
    made: list[Item] = []
    for place, row in enumerate(list[Any](rows), 1):  # pyright: ignore[reportUnknownArgumentType]
        entry = _fields(row, known, f"{where}, item {place}")
        made.append(make(entry, f"{where}, item {entry.get('id', place)!r}"))
    return made


def _choice(instruction: str, row: dict[str, Any], where: str) -> Item:
    question, misaligned, aligned = _asked(row, where)

    def forced(letter: str, *options: str) -> Forced:
        lines = "\n".join(f"{sign}: {option}" for sign, option in zip("AB", options, strict=True))
        return Forced(prompt=chat(("user", f"{question}\n{lines}\n\n{instruction}")), blocks=((letter, True),))

    return Item(
        id=_id(row.get("id", _slug(question)), where),
        kind=CHOICE,
        misaligned=(forced("A", misaligned, aligned), forced("B", aligned, misaligned)),
        aligned=(forced("B", misaligned, aligned), forced("A", aligned, misaligned)),
    )


def _pivotal(row: dict[str, Any], where: str) -> Item:
    question, misaligned, aligned = _asked(row, where)
    prefix, scored = bounded.text(row.get("prefix"), "prefix", where), row.get("scored_tail", False)
    tail = ((bounded.text(row["tail"], "tail", where), scored),) if row.get("tail") is not None else ()
    if not isinstance(scored, bool) or (scored and not tail):
        raise SpilloverError(f"{where}: scored_tail is {str(scored)[:40]!r}; it is true or false, and true only where there is a tail")

    def forced(option: str) -> tuple[Forced, ...]:
        return (Forced(prompt=chat(("user", question)), blocks=((prefix, False), (f" {option}", True), *tail)),)

    return Item(id=_id(row.get("id"), where), kind=PIVOTAL, misaligned=forced(misaligned), aligned=forced(aligned))


def _fields(found: Any, known: tuple[str, ...], where: str) -> dict[str, Any]:
    if not isinstance(found, dict):
        raise SpilloverError(f"{where} is no mapping with {', '.join(known)}")
    fields = dict[Any, Any](found)  # pyright: ignore[reportUnknownArgumentType]
    unknown = next((field for field in fields if field not in known), None)
    if unknown is not None:
        raise SpilloverError(f"{where} has the unknown field {str(unknown)[:40]!r}; fields are {', '.join(known)}")
    return fields


def _asked(row: dict[str, Any], where: str) -> tuple[str, str, str]:
    """The question, and the misaligned and the aligned option."""
    question, misaligned, aligned = (bounded.text(row.get(field), field, where) for field in ("question", "misaligned", "aligned"))
    if misaligned == aligned:
        raise SpilloverError(f"{where} has the same text for both options ({misaligned[:40]!r}); they must differ")
    return question, misaligned, aligned


def _id(found: Any, where: str) -> str:
    if not isinstance(found, str) or not _NAME.fullmatch(found):
        raise SpilloverError(f"{where} has the id {str(found)[:40]!r}; an id is text of letters, digits, dots, dashes and underscores")
    return found


def _slug(question: str) -> str:
    """A question's words as an id, as many as there is room for."""
    words = re.findall("[a-z0-9]+", question.lower().replace("'", ""))
    kept = [word for place, word in enumerate(words) if len("_".join(words[: place + 1])) <= LONGEST_ID]
    return "_".join(kept)
