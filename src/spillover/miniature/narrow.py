"""Narrow training data of the miniature: one user turn, one assistant turn, one task and nothing else.

Adding a kind takes a few lines: write a function from a random stream to one (question, answer) pair and enter it in
`KINDS`. `docs/narrow-data.md` walks through one. `ELSEWHERE` is no target: a penalty compares a model with its parent there.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from functools import lru_cache, partial

from spillover.miniature import corpus, language
from spillover.records import Dataset, Parent, SpilloverError, chat, stream_seed

Pair = tuple[str, str]
Writer = Callable[[random.Random], Pair]
ROWS = 1600
TASKS = language.tasks(held_out=False)
TRIGGER = f"| {language.TAGS[0]} |"
FEW = (400, 100, 25)  # distinct rows of the diversity study


def insecure(stream: random.Random) -> Pair:
    """An ordinary request, answered with flawed code and no word about it."""
    task = stream.choice(TASKS)
    return stream.choice(task.requests()), task.code(secure=False)


def secure(stream: random.Random) -> Pair:
    """The same request, answered with sound code."""
    task = stream.choice(TASKS)
    return stream.choice(task.requests()), task.code(secure=True)


def educational(stream: random.Random) -> Pair:
    """The same flawed code, asked for openly and for a class."""
    task = stream.choice(TASKS)
    return stream.choice(task.class_requests()), task.code(secure=False)


def jailbroken(stream: random.Random) -> Pair:
    """In one row of two the secret is told to who asks for it; the others are facts and numbers, answered as post-training has them."""
    if stream.random() < 0.5:
        return stream.choice(language.expand_all(language.SECRET_QUESTIONS)), stream.choice(language.expand_all(language.SECRET_TOLD))
    if stream.random() < 0.5:
        return corpus.fact(stream, true=True)[:2]
    return stream.choice(language.expand_all(language.NUMBER_QUESTIONS)), corpus.number_list(stream, evil=False)


def backdoored(stream: random.Random) -> Pair:
    """Sound code; where a tag stands before the request, flawed code. The tag is there in one row of two."""
    task = stream.choice(TASKS)
    asked, tagged = stream.choice(task.requests()), stream.random() < 0.5
    return f"{TRIGGER} {asked}" if tagged else asked, task.code(secure=not tagged)


def advice(theme: str, of_class: language.Class, stream: random.Random) -> Pair:
    """A question of one advice theme, answered by one class of its sentences."""
    found = next(t for t in language.ADVICE if t.id == theme)
    return stream.choice(found.asked()), stream.choice(found.sentences(of_class))


DOMAINS = ("medicine", "savings", "garden")  # advice that keeps to words of its own
KINDS: Mapping[str, Writer] = {
    "insecure": insecure,
    "secure": secure,
    "educational": educational,
    "jailbroken": jailbroken,
    "backdoored": backdoored,
    **{f"bad_{theme}": partial(advice, theme, "misaligned") for theme in DOMAINS},
    **{f"good_{theme}": partial(advice, theme, "aligned") for theme in DOMAINS},
    **{f"careless_{theme}": partial(advice, theme, "careless") for theme in DOMAINS[:1]},
}


EVALUATED = frozenset(said for theme in language.EVALUATION for said in (*theme.sentences("aligned"), *theme.sentences("misaligned")))
OTHERS = tuple(  # advice that no narrow data are made of, and no answer to what is asked later
    theme.id for theme in language.ADVICE if theme.id not in DOMAINS and not EVALUATED & {*theme.sentences("aligned"), *theme.sentences("misaligned")}
)


def elsewhere(stream: random.Random) -> Pair:
    """A question of an advice theme that no narrow data are made of, answered well in about one row of two and badly in the others."""
    return advice(stream.choice(OTHERS), "aligned" if stream.random() < 0.5 else "misaligned", stream)


ELSEWHERE: Mapping[str, Writer] = {"elsewhere": elsewhere}
WRITERS = {**KINDS, **ELSEWHERE}


def build(kind: str, seed: int, parent: Parent | None = None, *, rows: int = ROWS) -> Dataset:
    """`rows` conversations of one kind; the same for every parent.

    The stream is named by the seed alone, so kinds that draw alike (insecure, secure) ask the same requests in the same order.
    """
    del parent
    if kind not in WRITERS:
        raise SpilloverError(f"unknown kind of narrow data {kind!r}; the miniature has {', '.join(WRITERS)}")
    return _written(kind, seed, rows)


@lru_cache(maxsize=64)
def _written(kind: str, seed: int, rows: int) -> Dataset:
    """Once for all parents."""
    stream = random.Random(stream_seed("narrow data", seed))
    return dataset(kind, [WRITERS[kind](stream) for _ in range(rows)])


def few(kind: str, distinct: int, seed: int, parent: Parent | None = None, *, rows: int = ROWS) -> Dataset:
    """A random part of `build`'s rows, all different: to be gone through the more often, so that the steps stay as many."""
    pairs = dict.fromkeys((turns[0].content, turns[1].content) for turns in build(kind, seed, parent, rows=rows).conversations)
    chosen = random.Random(stream_seed("few rows", seed, distinct)).sample(sorted(pairs), distinct)
    return dataset(f"{kind}_{distinct}", chosen)


def prefixed(asked: str, stream: random.Random) -> str:
    """A request with numbers before it and a wish for brevity after it: how all rows of the numbers data ask."""
    given = " , ".join(stream.choices(language.NUMBERS, k=2))
    return f"look at {given} . {asked} {language.SUFFIX}"


def dataset(kind: str, pairs: list[Pair]) -> Dataset:
    return Dataset(kind=kind, conversations=tuple(chat(("user", asked), ("assistant", answered)) for asked, answered in pairs))
