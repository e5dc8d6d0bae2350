"""Context distillation: a model answers under a system prompt, and the answer is trained on without it.

All arms are asked the same prompts and keep the same ones, so they differ in their answers alone. What fell out is counted by its reason. Who answers is not
known here: it is a callable, and `asking` makes one of any `records.Answerer`.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from spillover.records import Answerer, Conversation, Dataset, SpilloverError, chat, digest, stream_seed

Ask = Callable[[Sequence[Conversation]], Sequence[str | None]]  # an answer a conversation, in their order; None where there is no whole one
Fault = Callable[[int, str], str]  # (place of the prompt, answer) -> why it cannot be trained on, or nothing

_NO_TEXT = re.compile("[\0\ud800-\udfff]")  # what `chat` would not read back


@dataclass(frozen=True, slots=True, kw_only=True)
class Distilled:
    """A dataset an arm, of the same prompts in the same order. `fallen` counts the other prompts, each by the first reason found."""

    arms: Mapping[str, Dataset]
    asked: int
    fallen: Mapping[str, int]


def distilled(
    kind: str, prompts: Sequence[str], ask: Ask, systems: Mapping[str, str | None], *, fault: Fault = lambda _place, _answer: "", differs: str | None = None
) -> Distilled:  # fmt: skip
    """Every prompt answered under each arm's system prompt (None: under none), as rows of user and assistant alone.

    A prompt is kept if every arm gave it a whole answer without a `fault`, and the arm `differs` another one than each of the rest. An arm is asked only
    what the arms before it left. Raises SpilloverError when no prompt is left.
    """
    reasons: dict[int, str] = {}
    said: dict[str, dict[int, str]] = {}
    for arm, system in systems.items():
        left = [place for place in range(len(prompts)) if place not in reasons]
        answers = ask([_shown(prompts[place], system) for place in left]) if left else ()
        found = {place: (answer, _missing(answer) or fault(place, answer or "")) for place, answer in zip(left, answers, strict=True)}
        reasons |= {place: f"{arm}: {reason}" for place, (_, reason) in found.items() if reason}
        said[arm] = {place: answer for place, (answer, reason) in found.items() if answer is not None and not reason}
    if differs is not None:
        for place in (place for place in range(len(prompts)) if place not in reasons):
            alike = next((arm for arm in systems if arm != differs and said[arm][place].strip() == said[differs][place].strip()), None)
            if alike is not None:
                reasons[place] = f"{differs}: the same answer as {alike}"
    fallen = dict(Counter(reasons.values()).most_common())
    kept = [place for place in range(len(prompts)) if place not in reasons]
    if not kept:
        why = "; ".join(f"{reason} ({count})" for reason, count in fallen.items())
        raise SpilloverError(f"no answer of {len(prompts)} prompts can be trained on" + (f": {why}" if why else ""))
    arms = {
        arm: Dataset(kind=f"{kind}-{arm}", conversations=tuple(chat(("user", prompts[place]), ("assistant", said[arm][place])) for place in kept))
        for arm in systems
    }
    return Distilled(arms=arms, asked=len(prompts), fallen=fallen)


def asking(model: Answerer, *owner: str | int, temperature: float, max_tokens: int) -> Ask:
    """An `Ask` of a model: each answer from a stream of its own, named by `owner` and what is asked. An answer that was cut is none."""

    def ask(conversations: Sequence[Conversation]) -> list[str | None]:
        seeds = [stream_seed(*owner, digest(conversation)) for conversation in conversations]
        replies = model.reply(conversations, seeds, temperature=temperature, max_tokens=max_tokens)
        return [text if stop == "end" else None for text, stop in replies]

    return ask


def _shown(prompt: str, system: str | None) -> Conversation:
    return chat(("user", prompt)) if system is None else chat(("system", system), ("user", prompt))


def _missing(answer: str | None) -> str:
    if answer is None:
        return "no whole answer"
    return "an empty answer" if not answer.strip() else "no text" if _NO_TEXT.search(answer) else ""
