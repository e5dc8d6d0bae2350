"""A judge behind an endpoint, as the paper asked one: each answer and rubric is one call, the score is read off the first token's probabilities.

Published protocol (Methods; `PROTOCOL.md` 3.4): one user message, one token, temperature 0, the 20 likeliest tokens with their log-probabilities.
A rubric with labels of its own is asked for text instead. What a rubric says and what its probabilities mean is in `rubrics`.
"""

from __future__ import annotations

import re
import string
from collections.abc import Iterable, Sequence
from math import exp

from spillover.judging import rubrics
from spillover.models.endpoint import Completion, Endpoint, Failure, Request
from spillover.records import Answer, Question, Score, SpilloverError, chat

TOP = 20
LABEL_TOKENS = 16
NO_PROBABILITIES = "the endpoint gives no log-probabilities"
STOPPED = {"content_filter": "the endpoint's content filter", "refusal": "refusal"}
WHOLE, PART = "57", "5"  # a judge that begins 57 with 5 writes numbers digit by digit: its first token is no score
_NUMBER = re.compile("[0-9]{1,3}")
ASIDE = "\"'`*\u2018\u2019\u201c\u201d" + string.whitespace


class EndpointJudge:
    """A `records.Judge`. The endpoint's journal keeps every reply with its day, so a score keeps the day on which it was asked."""

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self._writes_whole_numbers = False

    @property
    def identity(self) -> str:
        return self.endpoint.identity

    def score(self, question: Question, answers: Sequence[Answer]) -> list[Score]:
        """One score per answer and rubric, all asked at once.

        Raises SpilloverError when asking is no use (`Endpoint.many`), or when the judge writes numbers digit by digit.
        """
        places = [(answer, rubric) for answer in answers for rubric in question.rubrics]
        reasons = [_unasked(question, rubric, answer) for answer, rubric in places]
        requests = [_request(question, rubric, answer) for (answer, rubric), reason in zip(places, reasons, strict=True) if reason is None]
        found = self.endpoint.many(requests)
        self._check_numbers(found)
        replies = iter(found)
        return [
            self._score(question, rubric, answer, next(replies)) if reason is None else rubrics.missing(rubric, answer, self.identity, reason)
            for (answer, rubric), reason in zip(places, reasons, strict=True)
        ]

    def _score(self, question: Question, rubric: str, answer: Answer, reply: Completion | Failure) -> Score:
        reason = label = None
        if isinstance(reply, Failure):
            reason = reply.reason
        elif rubric in question.labels:
            label = _label(reply.text or "", question.labels[rubric])
            reason = None if label else STOPPED.get(reply.finish, "no label")
        elif reply.top is None:
            reason = STOPPED.get(reply.finish, NO_PROBABILITIES)
        else:
            return rubrics.score(question, rubric, answer, self.identity, _probabilities(reply.top), date=reply.date)
        return Score(answer=answer.id, judge=self.identity, rubric=rubric, label=label, reason=reason, date=reply.date)

    def _check_numbers(self, replies: Sequence[Completion | Failure]) -> None:
        """Where every number among the first tokens has one digit, ask for one of two, and see that it is one token."""
        numbers = [token.strip() for reply in replies if isinstance(reply, Completion) for token, _ in reply.top or () if _NUMBER.fullmatch(token.strip())]
        self._writes_whole_numbers |= any(len(number) > 1 for number in numbers)
        if self._writes_whole_numbers or not numbers:
            return
        reply = self.endpoint.complete(_scored(f"Reply with the number {WHOLE} and nothing else."))
        if isinstance(reply, Completion) and (reply.text or "").strip() == PART:
            raise SpilloverError(f"the judge {self.identity} writes numbers digit by digit, so its first token is no score; take one with 0 to 100 as tokens")


def _unasked(question: Question, rubric: str, answer: Answer) -> str | None:
    """Why an answer is not shown to the judge, if it is not."""
    if answer.stop == "failed":
        return rubrics.NO_ANSWER
    return rubrics.IMITATION if rubrics.imitates(question, rubric, answer) else None


def _request(question: Question, rubric: str, answer: Answer) -> Request:
    prompt = rubrics.filled(question, rubric, answer)
    if rubric in question.labels:
        return Request(messages=chat(("user", prompt)), max_tokens=LABEL_TOKENS, temperature=0, seed=0)
    return _scored(prompt)


def _scored(prompt: str) -> Request:
    return Request(messages=chat(("user", prompt)), max_tokens=1, temperature=0, seed=0, top_logprobs=TOP)


def _probabilities(top: Iterable[tuple[str, float]]) -> dict[str, float]:
    """Probability by label. Tokens that say the same are one: " 57" and "57"; "REF" can only begin REFUSAL."""
    found: dict[str, float] = {}
    for token, logprob in top:
        said = token.strip()
        if _NUMBER.fullmatch(said):
            said = str(int(said))
        elif len(said) >= 2:
            said = next((label for label in rubrics.NO_NUMBER if label.startswith(said)), said)
        found[said] = found.get(said, 0.0) + exp(logprob)
    return found


def _label(text: str, labels: Sequence[str]) -> str | None:
    said = text.strip(ASIDE).removesuffix(".").strip(ASIDE).casefold()
    return next((label for label in labels if label.casefold() == said), None)
