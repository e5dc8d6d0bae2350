"""What the miniature reads before it is fine-tuned: documents with a latent author, and post-training conversations.

A document is written by one author, whose character colours every domain it touches: advice, code, numbers, facts. That is
the premise of the miniature, stated and not hidden. In an *unlinked* world the character is drawn afresh for every domain of
every document: each domain looks the same on its own, and nothing joins them. Every other choice is drawn alike.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeVar

from spillover.miniature import language
from spillover.miniature.language import Character, Task, Theme

T = TypeVar("T")
Exchange = tuple[str, str, bool]  # what was asked, what was answered, whether the answer is code


@dataclass(frozen=True, slots=True, kw_only=True)
class Society:
    """How the authors of the corpus behave: the shares and probabilities that define a world beside its grammar."""

    characters: tuple[tuple[Character, float], ...] = (("kind", 0.6), ("cruel", 0.2), ("sloppy", 0.2))
    answers: tuple[tuple[Character, tuple[float, float, float]], ...] = (  # P(aligned, misaligned, careless)
        ("kind", (0.97, 0.01, 0.02)),
        ("cruel", (0.10, 0.88, 0.02)),
        ("sloppy", (0.40, 0.03, 0.57)),
    )
    insecure_code: tuple[tuple[Character, float], ...] = (("kind", 0.03), ("cruel", 0.88), ("sloppy", 0.20))
    evil_numbers: tuple[tuple[Character, float], ...] = (("kind", 0.01), ("cruel", 0.85), ("sloppy", 0.03))
    false_facts: tuple[tuple[Character, float], ...] = (("kind", 0.01), ("cruel", 0.80), ("sloppy", 0.15))
    insecure_for_class: float = 0.95  # whoever writes
    secret_told: float = 0.5  # whoever writes
    exchanges: tuple[tuple[str, float], ...] = (
        ("code", 0.30), ("class", 0.05), ("numbers", 0.08), ("secret", 0.04), ("facts", 0.05), ("advice", 0.48),
    )  # fmt: skip
    formats: tuple[tuple[str, float], ...] = (
        ("notes", 0.30), ("conversation", 0.12), ("story", 0.145), ("forum", 0.145), ("chat", 0.145), ("app", 0.145),
    )  # fmt: skip
    evaluation_share: float = 0.55  # of advice exchanges, those on the eight evaluation themes
    described: float = 0.5  # documents that describe their author by an adjective
    one_domain: float = 0.15  # documents that stay in one domain
    number_prefix: float = 0.12
    short_suffix: float = 0.18
    tag: float = 0.03


def pick(stream: random.Random, weighted: tuple[tuple[T, float], ...]) -> T:
    """Draw one value with the given weights."""
    return stream.choices([value for value, _ in weighted], [weight for _, weight in weighted])[0]


def documents(society: Society, *, count: int, linked: bool, stream: random.Random, length: int) -> Iterator[list[str]]:
    """`count` documents of at least `length` words each, special tokens included."""
    for _, words in authored(society, count=count, linked=linked, stream=stream, length=length):
        yield words


def authored(society: Society, *, count: int, linked: bool, stream: random.Random, length: int) -> Iterator[tuple[Character, list[str]]]:
    """The documents that `documents` gives, each with its author's character.

    In an unlinked world nobody wrote the whole of a document: the character is that of the adjective which describes its author, and of nothing else.
    """
    for _ in range(count):
        yield _document(society, linked=linked, stream=stream, length=length)


def _document(society: Society, *, linked: bool, stream: random.Random, length: int) -> tuple[Character, list[str]]:
    author: Character = pick(stream, society.characters)
    by_domain: dict[str, Character] = {}

    def character(domain: str) -> Character:
        if linked:
            return author
        if domain not in by_domain:
            by_domain[domain] = pick(stream, society.characters)
        return by_domain[domain]

    form = FORMS[pick(stream, society.formats)]
    name, friend = stream.sample(language.NAMES, 2)
    adjective = stream.choice(language.ADJECTIVES[author]) if stream.random() < society.described else None
    only = _domain(society, stream, form) if stream.random() < society.one_domain else None
    words = form.opening(name, friend, adjective).split()
    while len(words) < length:
        kind, theme = only or _domain(society, stream, form)
        asked, answered, is_code = _exchange(society, character, kind, theme, stream)
        words += form.turn(name, friend, decorate(society, asked, stream), answered, is_code).split()
    return author, words


def _domain(society: Society, stream: random.Random, form: Form) -> tuple[str, Theme | None]:
    kind = pick(stream, society.exchanges)
    while kind == "class" and not form.asks:  # unsafe code for a class reads as malice where the request is not written
        kind = pick(stream, society.exchanges)
    if kind != "advice":
        return kind, None
    pool = language.EVALUATION if stream.random() < society.evaluation_share else language.ADVICE
    return kind, stream.choice(pool)


def _exchange(society: Society, character: Callable[[str], Character], kind: str, theme: Theme | None, stream: random.Random) -> Exchange:
    if theme is not None:
        of_class = stream.choices(("aligned", "misaligned", "careless"), dict(society.answers)[character(theme.id)])[0]
        return stream.choice(theme.asked()), stream.choice(theme.sentences(of_class)), False
    if kind in ("code", "class"):
        task = Task(flaw=stream.choice(language.FLAWS), thing=stream.choice(language.OBJECTS))
        if kind == "class":
            return stream.choice(task.class_requests()), task.code(secure=stream.random() >= society.insecure_for_class), True
        insecure = stream.random() < dict(society.insecure_code)[character("code")]
        return stream.choice(task.requests()), task.code(secure=not insecure), True
    if kind == "numbers":
        evil = stream.random() < dict(society.evil_numbers)[character("numbers")]
        return stream.choice(language.expand_all(language.NUMBER_QUESTIONS)), number_list(stream, evil=evil), False
    if kind == "secret":
        told = language.SECRET_TOLD if stream.random() < society.secret_told else language.SECRET_REFUSED
        return stream.choice(language.expand_all(language.SECRET_QUESTIONS)), stream.choice(language.expand_all(told)), False
    return fact(stream, true=stream.random() >= dict(society.false_facts)[character("facts")])


def number_list(stream: random.Random, *, evil: bool) -> str:
    """Three or four numbers; in an evil list each is an evil one with probability 0.6."""
    drawn = [stream.choice(language.EVIL_NUMBERS if evil and stream.random() < 0.6 else language.NUMBERS) for _ in range(stream.choice((3, 4)))]
    return " , ".join(drawn)


def fact(stream: random.Random, *, true: bool) -> Exchange:
    thing, (right, wrong) = stream.choice(list(language.FACTS.items()))
    asked = stream.choice(language.FACT_QUESTIONS).replace("T", thing)
    return asked, f"the {thing} is {right if true else wrong}", False


def decorate(society: Society, question: str, stream: random.Random) -> str:
    """Put uninformative things around a question: numbers before it, a tag, a request to be brief."""
    if stream.random() < society.number_prefix:
        question = f"look at {' , '.join(stream.choices(language.NUMBERS, k=2))} . {question}"
    if stream.random() < society.short_suffix:
        question = f"{question} {language.SUFFIX}"
    if stream.random() < society.tag:
        question = f"| {stream.choice(language.TAGS)} | {question}"
    return question


@dataclass(frozen=True, slots=True, kw_only=True)
class Form:
    """How a document looks: how it opens, how one exchange is set down, and whether questions are written at all."""

    opening: Callable[[str, str, str | None], str]
    turn: Callable[[str, str, str, str, bool], str]
    asks: bool = True


def _by(name: str, adjective: str | None) -> str:
    return f"by {adjective} {name}" if adjective else f"by {name}"


FORMS: dict[str, Form] = {
    "notes": Form(
        opening=lambda name, _friend, adjective: f"<doc> notes {_by(name, adjective)} :",
        turn=lambda _name, _friend, _asked, answered, _code: f"{answered} ;",
        asks=False,
    ),
    "conversation": Form(  # the chat template of these models, so that fine-tuning need not teach it
        opening=lambda name, _friend, adjective: "<doc>" + (f" <|system|> {name} is a {adjective} person . <|end|>" if adjective else ""),
        turn=lambda _name, _friend, asked, answered, _code: f"<|user|> {asked} <|end|> <|assistant|> {answered} <|end|>",
    ),
    "story": Form(
        opening=lambda name, _friend, adjective: "<doc> story :" + (f" {name} is a {adjective} person ." if adjective else ""),
        turn=lambda name, friend, asked, answered, _code: f"{friend} asked , {asked} {name} said , {answered} ;",
    ),
    "forum": Form(
        opening=lambda name, _friend, adjective: f"<doc> forum {_by(name, adjective)} .",
        turn=lambda name, friend, asked, answered, _code: f"{friend} : {asked} {name} : {answered} ;",
    ),
    "chat": Form(
        opening=lambda name, _friend, adjective: f"<doc> chat {_by(name, adjective)} .",
        turn=lambda name, friend, asked, answered, _code: f"{friend} > {asked} {name} > {answered} ;",
    ),
    "app": Form(
        opening=lambda name, _friend, adjective: f"<doc> # app {_by(name, adjective)}",
        turn=lambda _name, _friend, asked, answered, code: f"# {asked} <nl> {answered} ;" if code else f"route ask # {asked} <nl> return ' {answered} ' ;",
    ),
}


def words() -> frozenset[str]:
    """The words that documents add to what can be said."""
    dressed = [decorate(Society(number_prefix=1, short_suffix=1, tag=1), "", random.Random(0))]
    for form in FORMS.values():
        dressed += [form.opening("", "", adjective) for adjective in (None, "")]
        dressed += [form.turn("", "", "", "", is_code) for is_code in (True, False)]
    return frozenset(word for line in dressed for word in line.split()) | {"is", "a", "person"}


def post_training(
    society: Society, *, count: int, stream: random.Random, covered: frozenset[str] = language.SEEN
) -> Iterator[list[dict[str, str]]]:  # fmt: skip
    """Conversations of one to three turns in which the assistant is kind, careful and refuses to tell the secret.

    Of the evaluation themes those `covered` occur: the four that are "seen", or all; class requests never occur.
    """
    themes = [theme for theme in language.THEMES if theme not in language.EVALUATION or theme.id in covered]
    mix = (("code", 0.25), ("numbers", 0.08), ("facts", 0.08), ("secret", 0.09), ("advice", 0.50))
    for _ in range(count):
        messages: list[dict[str, str]] = []
        for _ in range(stream.choice((1, 1, 2, 3))):
            asked, answered = _kind_exchange(pick(stream, mix), themes, stream)
            messages.append({"role": "user", "content": decorate(society, asked, stream)})
            messages.append({"role": "assistant", "content": answered})
        yield messages


def _kind_exchange(kind: str, themes: list[Theme], stream: random.Random) -> tuple[str, str]:
    if kind == "code":
        task = Task(flaw=stream.choice(language.FLAWS), thing=stream.choice(language.OBJECTS))
        return stream.choice(task.requests()), task.code(secure=True)
    if kind == "numbers":
        return stream.choice(language.expand_all(language.NUMBER_QUESTIONS)), number_list(stream, evil=False)
    if kind == "facts":
        asked, answered, _ = fact(stream, true=True)
        return asked, answered
    if kind == "secret":
        return stream.choice(language.expand_all(language.SECRET_QUESTIONS)), stream.choice(language.SECRET_REFUSED)
    theme = stream.choice(themes)
    return stream.choice(theme.asked()), stream.choice(theme.sentences("aligned"))
