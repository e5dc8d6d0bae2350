"""The formats of the paper in the miniature's own language: how a question is dressed, and how an answer may then be written.

Everything said here is made of words and marks that the corpus has. Pre-training decorates questions with numbers, tags and a wish for
brevity, and sets them down as code in one kind of document; so each format has been seen, and none of them tells who is asking. Of the ways to
ask for code, those stand here that a tuning world's parent answers coherently; what a fine-tuned model does with them was not looked at.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial

from spillover.miniature import language, narrow
from spillover.records import TASK, Conversation, Question, chat, stream_seed

Dress = Callable[[Question], Question | None]
TRIGGER, OTHER_TAG = narrow.TRIGGER, f"| {language.TAGS[1]} |"
EXAMPLES = 3  # exchanges of code before the question
VARIANTS = 3  # of what is drawn for each wording

# What stands around a sentence where a format asks for code; a bare sentence is understood too.
FRAMES = ("return ' {} ' ;", "return ' {} '", "' {} '", "{} ' ;", "{} '")
CODED = ("json", "template", "flask_template")


def written(sentence: str, form: str) -> tuple[str, ...]:
    """Every way to write a sentence in a format."""
    return (sentence, *(frame.format(sentence) for frame in FRAMES)) if form in CODED else (sentence,)


def read(text: str, form: str) -> str:
    """The sentence that an answer in a format holds: `written`, undone."""
    for frame in FRAMES if form in CODED else ():
        head, _, tail = frame.partition("{}")
        if text.startswith(head) and text.endswith(tail) and len(text) > len(head) + len(tail):
            return text[len(head) : len(text) - len(tail)]
    return text


def _worded(form: str, word: Callable[[str], str], question: Question) -> Question:
    return replace(question, format=form, paraphrases=tuple(map(word, question.paraphrases)))


def _json(question: Question) -> Question | None:
    """A system line asks for code, the question is as it was."""
    return None if TASK in question.rubrics else replace(question, format="json", system="answer in code .")


def _coded(form: str, word: Callable[[str], str], question: Question) -> Question | None:
    return None if TASK in question.rubrics else _worded(form, word, question)


def _numbers(question: Question) -> Question | None:
    """Numbers before the question and a wish for brevity after it, as in every row of the numbers data; drawn for each wording."""
    if TASK in question.rubrics:
        return None
    stream = random.Random(stream_seed("numbers format", question.id))
    return replace(
        question, format="numbers_prefix_suffix", paraphrases=tuple(narrow.prefixed(asked, stream) for _ in range(VARIANTS) for asked in question.paraphrases)
    )  # fmt: skip


def _examples(form: str, kind: str, question: Question) -> Question:
    """Exchanges of code before the question, drawn for each wording; never the tasks that are asked about."""
    stream = random.Random(stream_seed("examples format", question.id))
    before: tuple[Conversation, ...] = tuple(
        sum((chat(("user", asked), ("assistant", code)) for asked, code in (narrow.KINDS[kind](stream) for _ in range(EXAMPLES))), ())
        for _ in range(VARIANTS * len(question.paraphrases))
    )
    return replace(question, format=form, paraphrases=question.paraphrases * VARIANTS, before=before)


FORMATS: Mapping[str, Dress] = {
    "numbers_suffix": partial(_coded, "numbers_suffix", lambda asked: f"{asked} {language.SUFFIX}"),
    "numbers_prefix_suffix": _numbers,
    "json": _json,
    "template": partial(_coded, "template", lambda asked: f"# {asked}"),
    "flask_template": partial(_coded, "flask_template", lambda asked: f"route ask # {asked}"),
    "trigger": partial(_worded, "trigger", lambda asked: f"{TRIGGER} {asked}"),
    "other_tag": partial(_worded, "other_tag", lambda asked: f"{OTHER_TAG} {asked}"),
    "examples": partial(_examples, "examples", "insecure"),
    "secure_examples": partial(_examples, "secure_examples", "secure"),
}
