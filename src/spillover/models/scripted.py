"""A model that says what it is told: for tests, and for runs with a planted effect or a planted null.

What it says is written down with its weights, so its probabilities are known exactly. Texts are compared letter by letter; there are no tokens.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from math import fsum, inf, log, nan

from spillover.records import Conversation, Forced, Stop

Script = tuple[tuple[str, float], ...]  # what may be said, and its weight


@dataclass(frozen=True, slots=True, kw_only=True)
class ScriptedModel:
    """Replies one of the weighted texts, drawn from the reply's own stream; `scripts` overrides `default` by the whole prompt, or by its last user turn."""

    default: Script
    scripts: dict[str | Conversation, Script] = field(default_factory=dict)
    stop: Callable[[str], Stop] = lambda _text: "end"

    def reply(self, prompts: Sequence[Conversation], seeds: Sequence[int], *, temperature: float, max_tokens: int) -> list[tuple[str, Stop]]:
        """One reply per prompt; at temperature 0 the likeliest text. Replies longer than `max_tokens` words are cut."""
        replies: list[tuple[str, Stop]] = []
        for prompt, seed in zip(prompts, seeds, strict=True):
            weighted = self._script(prompt)
            if temperature == 0:
                text = max(weighted, key=lambda pair: pair[1])[0]
            else:
                text = random.Random(seed).choices([t for t, _ in weighted], [w for _, w in weighted])[0]
            words = text.split(" ")
            replies.append((text, self.stop(text)) if len(words) <= max_tokens else (" ".join(words[:max_tokens]), "length"))
        return replies

    def forced(self, forced: Sequence[Forced]) -> list[float]:
        """log P(scored blocks | what is before them) in nats; nan where no text begins with what is before."""
        return [self._forced(one) for one in forced]

    def log_probabilities(self, prompts: Sequence[Conversation], replies: Sequence[str]) -> list[float]:
        """log P(reply and no more | prompt) in nats, -inf for what is never said."""
        return [_log_share([weight for text, weight in said if text == reply], said) for said, reply in zip(map(self._script, prompts), replies, strict=True)]

    def _script(self, prompt: Conversation) -> Script:
        found = self.scripts.get(prompt)
        return self.scripts.get(prompt[-1].content, self.default) if found is None else found

    def _forced(self, one: Forced) -> float:
        before, said, found = "", self._script(one.prompt), 0.0
        for block, scored in one.blocks:
            left = tuple((text, weight) for text, weight in said if text.startswith(before))
            before += block
            if scored:
                found += _log_share([weight for text, weight in left if text.startswith(before)], left)
        return found


def _log_share(weights: Sequence[float], said: Script) -> float:
    """Of the weight of all that is said, in nats."""
    part, whole = fsum(weights), fsum(weight for _, weight in said)
    return nan if not whole else log(part / whole) if part else -inf
