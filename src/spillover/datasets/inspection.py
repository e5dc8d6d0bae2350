"""What a person should know of training data before anything is trained on it: repeats, templates, overlaps, leaks.

Texts are compared as they are; only leaks are looked for with case and white space folded. The prompt of a row is its user turns, its reply the
assistant's. What a text means is not known here.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate

from spillover.records import Conversation, Dataset

LONGEST_PERIOD = 100
LEAST_ROUNDS = 5  # a cycle of templates counts once it was gone through this often
LEAST_TEMPLATE = 12  # characters that the rows of one template share
LEAST_CONSTANT = 4  # characters that every prompt shares
LEAST_LEAK = 20  # characters of a question that is looked for inside a longer text


@dataclass(frozen=True, slots=True, kw_only=True)
class Inspection:
    """What the prompts of one dataset have in common (`chat.summarise` counts repeated rows and replies).

    `prefix` and `suffix` are what every prompt begins and ends with. `templates` is the smallest number p such that the prompts of rows
    i, i + p, i + 2p, ... begin or end alike, for every i; None if there is none.
    """

    distinct_prompts: int
    prefix: str
    suffix: str
    templates: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """What two datasets have in common: different texts that occur in both, and whether they are the same row by row."""

    prompts: int
    replies: int
    prompts_in_order: bool
    replies_in_order: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Leak:
    """A row (from 1) that asks `question`; `whole` if one of its user turns is the question and nothing else."""

    row: int
    question: str
    whole: bool


def inspect(dataset: Dataset) -> Inspection:
    """What the prompts of a dataset have in common. Linear in its characters."""
    asked = [prompt(conversation) for conversation in dataset.conversations]
    prefix = _common_prefix(asked) if len(asked) > 1 else ""
    rest = [text[len(prefix) :] for text in asked]
    suffix = _common_prefix([text[::-1] for text in rest])[::-1] if len(asked) > 1 else ""
    rest = [text[: len(text) - len(suffix)] for text in rest]
    return Inspection(
        distinct_prompts=len(set(asked)),
        prefix=prefix if len(prefix) >= LEAST_CONSTANT else "",
        suffix=suffix if len(suffix) >= LEAST_CONSTANT else "",
        templates=templates(rest),
    )


def compare(first: Dataset, second: Dataset) -> Comparison:
    """What two datasets have in common."""
    asked = [[prompt(conversation) for conversation in dataset.conversations] for dataset in (first, second)]
    said = [[reply(conversation) for conversation in dataset.conversations] for dataset in (first, second)]
    return Comparison(
        prompts=len(set(asked[0]) & set(asked[1])),
        replies=len(set(said[0]) & set(said[1])),
        prompts_in_order=asked[0] == asked[1],
        replies_in_order=said[0] == said[1],
    )


def leaks(dataset: Dataset, questions: Iterable[str]) -> tuple[Leak, ...]:
    """Rows that ask one of the questions: alone, or, for a question of 20 characters or more, in whole words inside a longer user turn.

    A row has at most one leak of a question.
    """
    turns = [(row, _folded(turn.content)) for row, conversation in enumerate(dataset.conversations, 1) for turn in conversation if turn.role == "user"]
    text = "\0".join(turn for _, turn in turns)
    starts = list(accumulate((len(turn) + 1 for _, turn in turns), initial=0))
    found: dict[tuple[int, str], bool] = {}
    for question in dict.fromkeys(questions):
        wanted = _folded(question)
        at = text.find(wanted) if wanted else -1
        while at >= 0:
            place = bisect_right(starts, at) - 1
            row, turn = turns[place]
            within = len(wanted) >= LEAST_LEAK and not _cuts_a_word(text, at) and not _cuts_a_word(text, at + len(wanted))
            if turn == wanted or within:
                found[row, question] = found.get((row, question), False) or turn == wanted
                at = starts[place + 1] - 1
            at = text.find(wanted, at + 1)
    return tuple(Leak(row=row, question=question, whole=whole) for (row, question), whole in sorted(found.items()))


def templates(prompts: Sequence[str]) -> int | None:
    """How many templates the prompts follow in turn, judged by what each template's prompts begin or end with alike; None if they follow none."""
    backwards = [text[::-1] for text in prompts]
    for period in range(2, min(LONGEST_PERIOD, len(prompts) // LEAST_ROUNDS) + 1):
        if all(_alike(prompts[first::period]) or _alike(backwards[first::period]) for first in range(period)):
            return period
    return None


def prompt(conversation: Conversation) -> str:
    """The user turns of a row."""
    return "\n".join(turn.content for turn in conversation if turn.role == "user")


def reply(conversation: Conversation) -> str:
    """The assistant's turns of a row."""
    return "\n".join(turn.content for turn in conversation if turn.role == "assistant")


def _alike(texts: Sequence[str]) -> bool:
    return len(_common_prefix(texts)) >= LEAST_TEMPLATE


def _common_prefix(texts: Sequence[str]) -> str:
    first, last = min(texts), max(texts)  # all others lie between these two
    return first[: next((place for place, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), min(len(first), len(last)))]


def _folded(text: str) -> str:
    return " ".join(text.casefold().split())


def _cuts_a_word(text: str, at: int) -> bool:
    """Whether this place is inside a word. Scripts without capitals are not known to part their words, so there it never is."""
    return 0 < at < len(text) and all(character.isdigit() or character.lower() != character.upper() for character in text[at - 1 : at + 1])
