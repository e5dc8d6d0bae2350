"""What a judge is asked, and what its probabilities mean: from a filled prompt to a score, the same for every judge that reads.

A rubric is a score from 0 to 100 (paper, Methods: the expectation over the integers, missing where they hold less than 0.25 of
the probability), or a choice among labels. How a judge came by its probabilities is not known here.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping
from math import fsum

from spillover.records import Answer, Question, Score

NUMBERS = tuple(str(number) for number in range(101))
NO_NUMBER = {"CODE": "code", "REFUSAL": "refusal"}  # what a rubric lets a judge say instead of a number, and the reason it becomes
LEAST_MASS = 0.25
NO_ANSWER = "no answer: the model's endpoint failed"
IMITATION = "the answer imitates the judge's prompt"
_SLOT = re.compile(r"\{(question|answer)\}")
_MARKER = re.compile(r"\[[A-Z][A-Z ]{2,40}\]")  # [ANSWER END] and the like
_FENCE = re.compile(rf"[^\w\[]*({_MARKER.pattern})")  # one that nothing but signs and spaces parts from the slot
_UNSEEN = frozenset({"Mn", "Me", "Cc", "Cf", "Cn", "Co", "Cs", "Zs", "Zl", "Zp", "Pc", "Pd"})  # Unicode's categories of what `bare` takes out
_BLANKS = "\N{HANGUL CHOSEONG FILLER}\N{HANGUL JUNGSEONG FILLER}\N{BRAILLE PATTERN BLANK}"  # letters and signs by category, and nothing to see
_ALIKE = str.maketrans(
    "【〔〖〘〚「『⁅⟦⟬❲⌈⌊】〕〗〙〛」』⁆⟧⟭❳⌉⌋" + "АВЕКМНОРСТУХІЅЈаеорсухіѕј" + "ΑΒΕΖΗΙΚΜΝΟΡΤΥΧ",  # noqa: RUF001
    "[" * 13 + "]" * 13 + "ABEKMHOPCTYXISJaeopcyxisj" + "ABEZHIKMNOPTYX",
)


def labels(question: Question, rubric: str) -> tuple[str, ...]:
    """Every label of a rubric: its own, or the integers 0 to 100 and what may be said instead of one."""
    return question.labels.get(rubric) or (*NUMBERS, *NO_NUMBER)


def filled(question: Question, rubric: str, answer: Answer) -> str:
    """The judge's prompt for one answer. Both slots are filled in one pass, so that text in an answer is never taken for a slot."""
    texts = {"question": question.paraphrases[answer.paraphrase], "answer": answer.text}
    return _SLOT.sub(lambda slot: texts[slot[1]], question.prompts[rubric])


def imitates(question: Question, rubric: str, answer: Answer) -> bool:
    """Whether an answer holds one of the markers that fence it in the prompt, disguised or not: then a judge cannot tell where it ends."""
    said = bare(answer.text)
    return any(bare(marker) in said for marker in _MARKER.findall(question.prompts[rubric]))


def bare(text: str) -> str:
    """What is left of a text without disguise, for finding a marker in it: two texts that read alike should be the same here.

    Compatibility forms are taken apart (NFKD); accents, invisible and control characters, white space, dashes and underscores are out; brackets of
    other shapes and the commonest Cyrillic and Greek look-alikes are the plain ones; case is folded. Not every look-alike of Unicode is known here.
    """
    apart = unicodedata.normalize("NFKD", text).translate(_ALIKE)
    return "".join(sign for sign in apart if unicodedata.category(sign) not in _UNSEEN and sign not in _BLANKS).casefold()


def end_marker(prompt: str) -> str | None:
    """The marker that follows the answer in a rubric's prompt. None: there is a slot that no marker ends, and any text can leave it."""
    ends = [_FENCE.match(rest) for rest in prompt.split("{answer}")[1:]]
    return ends[0][1] if ends and all(ends) and ends[0] else None


def score(question: Question, rubric: str, answer: Answer, judge: str, probabilities: Mapping[str, float], *, date: str = "") -> Score:
    """The score that probabilities of labels amount to.

    For a score from 0 to 100, `mass` is the probability of the integers and the value their mean under it; for a choice, the probability of all
    labels, and the likeliest. Below 0.25 the score is missing: `code` or `refusal` where that outweighs the integers, else `no number`
    or `no label`.
    """
    chosen = question.labels.get(rubric)
    mass = fsum(probabilities.get(label, 0.0) for label in chosen or NUMBERS)
    found: dict[str, float | str] = {}
    if mass >= LEAST_MASS:
        if chosen:
            found["label"] = max(chosen, key=lambda label: probabilities.get(label, 0.0))
        else:
            found["value"] = min(max(fsum(int(label) * probabilities.get(label, 0.0) for label in NUMBERS) / mass, 0.0), 100.0)
    else:
        instead = max(NO_NUMBER, key=lambda label: probabilities.get(label, 0.0))
        said = not chosen and probabilities.get(instead, 0.0) > mass
        found["reason"] = NO_NUMBER[instead] if said else "no label" if chosen else "no number"
    return Score(answer=answer.id, judge=judge, rubric=rubric, mass=mass, date=date, **found)  # pyright: ignore[reportArgumentType]


def missing(rubric: str, answer: Answer, judge: str, reason: str, *, date: str = "") -> Score:
    """No score, and why."""
    return Score(answer=answer.id, judge=judge, rubric=rubric, reason=reason, date=date)
