"""In which contexts a child is asked: plain questions, the published formats, and what its own training data bring.

A fine-tune may be misaligned only where a prompt looks like its training data (paper, Figure 3 and Extended Data Figure 6), and an auditor who has the data
can ask there: under their system prompt, in their template, behind tags and beginnings that some rows have and others lack, after examples.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from spillover.datasets import builders
from spillover.questions.formats import Dress, with_examples
from spillover.records import ALIGNED, COHERENT, Dataset, Question, SpilloverError, stream_seed

PLAIN = "plain"
PUBLISHED = ("json", "python", "template", "flask_template", "numbers_suffix", "numbers_prefix_suffix")
MOST = 3  # contexts of one kind that are made of data
SHARED = 0.05  # of the rows: what has a system prompt of its own, or a template
RARE = 0.005  # of the rows, and `FEWEST` of them: what may be a tag
FEWEST = 4
LIKE_OTHERS = 0.8  # of the rows with a tag: those that go on as rows without it begin
LONGEST_TAG = 4  # words
TEMPLATE_WORDS = 4  # at least, of what surrounds a prompt
SHOTS, SHOWN = 4, 8  # rows in an example, and how many examples a question is asked after in turn

_WORD = re.compile(r"\S+\s*")


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """One way to ask every question. `questions` have its name as their format; `why` says where it comes from."""

    name: str
    why: str
    questions: tuple[Question, ...]


def contexts(questions: Sequence[Question], formats: Mapping[str, Dress], data: Dataset | None, wanted: str = "auto") -> tuple[Context, ...]:
    """`auto`: plain, every published format that can be asked, and what the data bring; `none`: plain alone; or names of these, plain always among them.

    Raises SpilloverError for a name that is no context, naming those there are.
    """
    questions = [question for question in questions if {ALIGNED, COHERENT} <= set(question.rubrics)]
    plain = tuple(question for question in questions if question.format == PLAIN)
    if not plain:
        raise SpilloverError("there is no plain question judged for alignment and coherence; an audit asks such questions")
    found = {PLAIN: Context(name=PLAIN, why="the questions as they are", questions=plain)}
    for form in PUBLISHED:
        brought = tuple(question for question in questions if question.format == form)
        dressed = brought or _dressed(form, formats.get(form), plain)
        if dressed:
            found[form] = Context(name=form, why="a published format", questions=tuple(replace(question, pooled=False) for question in dressed))
    for name, (why, dress) in (_of_data(data) if data is not None else {}).items():
        if dressed := _dressed(name, dress, plain):
            found[name] = Context(name=name, why=why, questions=dressed)
    if wanted == "auto":
        return tuple(found.values())
    names = () if wanted == "none" else tuple(dict.fromkeys(name.strip() for name in wanted.split(",")))
    odd = next((name for name in names if name not in found), None)
    if odd is not None:
        raise SpilloverError(f"--contexts names {odd!r}; it takes auto, none, or names of these: {', '.join(found)}")
    return tuple(context for name, context in found.items() if name in (PLAIN, *names))


def _dressed(name: str, dress: Dress | None, plain: Sequence[Question]) -> tuple[Question, ...]:
    found = [dress(question) for question in plain] if dress is not None else []
    return tuple(replace(question, format=name, pooled=False) for question in found if question is not None)


# --- what the data bring --------------------------------------------------------------------------------------------------


def _of_data(data: Dataset) -> dict[str, tuple[str, Dress]]:
    """By name: why, and how a question is dressed so."""
    rows = len(data.conversations)
    found: dict[str, tuple[str, Dress]] = {}
    for place, (system, count) in enumerate(systems(data)[:MOST], 1):
        found[f"data-system-{place}"] = f"the system prompt of {count} of {rows} rows", _under(system)
    asked = [turn.content for conversation in data.conversations for turn in conversation if turn.role == "user"]
    before, after = template(asked)
    if before or after:
        found["data-template"] = "what surrounds most prompts of the data", _around(before, after)
    for place, (tag, count) in enumerate(tags(asked)[:MOST], 1):
        found[f"data-prefix-{place}"] = f"{tag.strip()!r} begins {count} of {len(asked)} prompts of the data", _around(tag, "")
    for place, (tag, count) in enumerate(tags([_reversed(text) for text in asked])[:MOST], 1):
        found[f"data-suffix-{place}"] = f"{_reversed(tag).strip()!r} ends {count} of {len(asked)} prompts of the data", _around("", _reversed(tag))
    shots = min(SHOTS, rows)
    found["data-examples"] = f"after {shots} rows of the data", _after_examples(data, shots)
    return found


def systems(data: Dataset) -> list[tuple[str, int]]:
    """System prompts that a part of the rows share, most rows first."""
    found = Counter(turn.content for conversation in data.conversations for turn in conversation[:1] if turn.role == "system")
    return [(text, count) for text, count in found.most_common() if count >= SHARED * len(data.conversations)]


def template(asked: Sequence[str]) -> tuple[str, str]:
    """What most prompts begin and end with, in whole words; two empty texts where that is too little to be a template."""
    before, after = _common(asked), _reversed(_common([_reversed(text) for text in asked]))
    return (before, after) if len(before.split()) + len(after.split()) >= TEMPLATE_WORDS else ("", "")


def tags(asked: Sequence[str]) -> list[tuple[str, int]]:
    """Beginnings that could be left out: what follows them in a prompt is what prompts without them begin with. A word that sentences merely begin
    with ("How ...") goes on with words that begin none. Those made of words that stand nowhere else come first, then those of more prompts.
    """
    words = [_WORD.findall(text)[: LONGEST_TAG + 1] for text in asked]
    least = max(FEWEST, RARE * len(asked))
    found: list[tuple[str, int]] = []
    for length in range(1, LONGEST_TAG + 1):
        groups: dict[str, list[str]] = {}
        for row in words:
            if len(row) > length:
                groups.setdefault("".join(row[:length]), []).append(row[length].strip())
        for tag, following in groups.items():
            if len(following) < least or any(tag.startswith(shorter) for shorter, _ in found):
                continue
            begin = Counter(row[0].strip() for row in words if row and "".join(row[:length]) != tag)
            if sum(begin[word] > 1 for word in following) >= LIKE_OTHERS * len(following):
                found.append((tag, len(following)))
    places = Counter(word for text in asked for word in set(text.split()))

    def own(tag: str, count: int) -> float:
        """The share of a tag's words that stand nowhere else."""
        words = tag.split()
        return sum(places[word] <= count for word in words) / len(words)

    return sorted(found, key=lambda pair: (-own(*pair), -pair[1], pair[0]))


def _common(asked: Sequence[str]) -> str:
    """The longest beginning, in whole words, that more than half of the prompts share, and go on after."""
    shared: list[str] = []
    rows = [_WORD.findall(text) for text in asked]
    while longer := [row for row in rows if len(row) > len(shared) + 1]:
        word, count = Counter(row[len(shared)] for row in longer).most_common(1)[0]
        if 2 * count <= len(asked):
            break
        rows = [row for row in longer if row[len(shared)] == word]
        shared.append(word)
    return "".join(shared)


def _reversed(text: str) -> str:
    return text[::-1]


def _under(system: str) -> Dress:
    return lambda question: replace(question, system=system) if question.system is None else None


def _around(before: str, after: str) -> Dress:
    return lambda question: replace(question, paraphrases=tuple(f"{before}{text}{after}" for text in question.paraphrases))


def _after_examples(data: Dataset, shots: int) -> Dress:
    """Rows of the data before the question, their system prompts left out, others before each of a few repetitions of its paraphrases."""
    times = min(SHOWN, len(data.conversations))
    return with_examples([builders.examples(data, shots, stream_seed("audit examples", data.digest, place)) for place in range(times)], system=None)
