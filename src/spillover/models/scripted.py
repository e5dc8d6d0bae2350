"""A model that says what it is told: for tests, and for runs with a planted effect or a planted null."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from spillover.records import Conversation, Stop


@dataclass(frozen=True, slots=True, kw_only=True)
class ScriptedModel:
    """Replies `one` of the weighted texts, drawn from the reply's own stream; `scripts` overrides it by the last user turn."""

    default: tuple[tuple[str, float], ...]
    scripts: dict[str, tuple[tuple[str, float], ...]] = field(default_factory=dict)
    stop: Callable[[str], Stop] = lambda _text: "end"

    def reply(self, prompts: Sequence[Conversation], seeds: Sequence[int], *, temperature: float, max_tokens: int) -> list[tuple[str, Stop]]:
        """One reply per prompt; at temperature 0 the likeliest text. Replies longer than `max_tokens` words are cut."""
        replies: list[tuple[str, Stop]] = []
        for prompt, seed in zip(prompts, seeds, strict=True):
            weighted = self.scripts.get(prompt[-1].content, self.default)
            if temperature == 0:
                text = max(weighted, key=lambda pair: pair[1])[0]
            else:
                text = random.Random(seed).choices([t for t, _ in weighted], [w for _, w in weighted])[0]
            words = text.split(" ")
            replies.append((text, self.stop(text)) if len(words) <= max_tokens else (" ".join(words[:max_tokens]), "length"))
        return replies
