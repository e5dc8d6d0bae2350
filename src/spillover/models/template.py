"""A model's tokenizer and chat template: conversations to ids, and the mask of what an assistant said.

A template is the model's own and is never guessed at: what it inserts by itself (a default system prompt) is found, shown and can be
switched off; which tokens are the assistant's is read from the template's own marks, or from the text it renders.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportAttributeAccessIssue=false, reportMissingTypeStubs=false
from __future__ import annotations

import json
import re
from collections.abc import Sequence
from contextlib import nullcontext
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, TypeAlias

from transformers import AutoTokenizer

from spillover.models import bounds
from spillover.models.files import MORE_TEMPLATES, TEMPLATE_CHECK, TEMPLATE_FILES
from spillover.records import Conversation, Message, SpilloverError, chat, digest

Tokenizer: TypeAlias = Any  # a transformers tokenizer; its own types are unions of everything it could ever return
MOST = 16384  # conversations, and texts, whose ids are remembered
MOST_LOADED = 4  # tokenizers kept in memory
LONGEST = 10**30  # tokens: what is too long is for the model's configuration and for settings to say
DATE = "26 Jul 2024"  # what Llama's templates write where there is no clock
DATED = f"{{%- macro strftime_now(format) -%}}{DATE}{{%- endmacro -%}}"
_MARKS_TURNS = re.compile(r"\{%-?\s*generation\s*-?%\}")
_PROBE = "\N{BLACK DIAMOND}probe\N{BLACK DIAMOND}"


class ChatTemplate:
    """Conversations to ids.

    With `system` False, a conversation without a system turn gets an empty one where the template would insert a prompt of its own. A template
    that writes today's date writes `DATE`, so that a prompt is the same tomorrow.
    """

    def __init__(self, tokenizer: Tokenizer, *, system: bool = True) -> None:
        self.tokenizer, self.system = tokenizer, system
        self.prompt_ids = lru_cache(MOST)(self._prompt_ids)
        self.text_ids = lru_cache(MOST)(self._text_ids)
        self.training_ids = lru_cache(MOST)(self._training_ids)
        self.forced_ids = lru_cache(MOST)(self._forced_ids)

    @cached_property
    def default_system(self) -> str | None:
        """The system prompt that this template inserts where a conversation has none, or None."""
        if not self.system:
            return ChatTemplate(self.tokenizer).default_system
        asked = chat(("user", "ask"))
        bare = self._text(asked, generate=True)
        try:
            given = self._text((Message(role="system", content=_PROBE), *asked), generate=True)
        except SpilloverError:  # a template without a system turn
            return None
        before, _, after = given.partition(_PROBE)
        found = bare[len(before) : len(bare) - len(after)] if bare.startswith(before) and bare.endswith(after) else ""
        return found.strip() or None

    @cached_property
    def control(self) -> tuple[str, ...]:
        """Every text that this tokenizer reads as a control token and not as text."""
        added = [str(token.content) for token in self.tokenizer.added_tokens_decoder.values() if token.special]
        return tuple(dict.fromkeys([*map(str, self.tokenizer.all_special_tokens), *added]))

    @cached_property
    def control_ids(self) -> frozenset[int]:
        return frozenset(int(token) for token in self.tokenizer.convert_tokens_to_ids(list(self.control)) if token is not None)

    @cached_property
    def end_of_turn(self) -> int | None:
        """The control token that follows an assistant's reply, if this template has one; a turn may go on after it, with a newline or an end of text."""
        ids, mask = self.training_ids(chat(("user", "ask"), ("assistant", "answer")))
        spoken = [token for token, on in zip(ids, mask, strict=True) if on]
        words = [place for place, token in enumerate(spoken) if token not in self.control_ids and str(self.tokenizer.decode([token])).strip()]
        return next((token for token in spoken[max(words, default=-1) + 1 :] if token in self.control_ids), None)

    @property
    def filler(self) -> int:
        """The id that fills rows of a batch where nothing is attended to."""
        found = [token for token in (self.tokenizer.pad_token_id, self.tokenizer.eos_token_id, 0) if token is not None]
        return int(found[0])

    def spelt(self, text: str) -> str | None:
        """A control token that this text spells, if there is one: it would not be read as text."""
        return next((token for token in self.control if token in text), None)

    def _prompt_ids(self, conversation: Conversation) -> list[int]:
        """The ids of a conversation up to where the assistant speaks."""
        return self.text_ids(self._text(conversation, generate=True))

    def _text_ids(self, text: str) -> list[int]:
        """The ids of bare text."""
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def _training_ids(self, conversation: Conversation) -> tuple[list[int], list[int]]:
        """The ids of a whole conversation and a mask that is 1 on the assistant's tokens, end of turn included and nothing after it.

        A template that marks its turns (`{% generation %}`) is taken at its word. In another, the assistant's part is what the rendered
        text adds to the prompt before it; where an earlier turn is rendered differently once more follows, SpilloverError is raised.
        """
        text = self._text(conversation)
        if _MARKS_TURNS.search(self._source()):
            out = self._applied(conversation, return_dict=True, return_assistant_tokens_mask=True)
            return list(out["input_ids"]), list(out["assistant_masks"])
        out = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        ids, mask = list(out["input_ids"]), [0] * len(out["input_ids"])
        for first, end in self._spans(conversation, text):
            spoken = [place for place, (start, stop) in enumerate(out["offset_mapping"]) if stop > first and start < end and stop > start]
            if not spoken:
                raise SpilloverError("the chat template writes nothing for what the assistant says; use another template")
            last = next((place for place in reversed(spoken) if ids[place] in self.control_ids), spoken[-1])
            for place in range(spoken[0], last + 1):
                mask[place] = 1
        return ids, mask

    def _forced_ids(self, prompt: Conversation, blocks: tuple[tuple[str, bool], ...]) -> tuple[list[int], list[int]]:
        """The ids of a conversation up to the end of a reply that is given in blocks, and a mask that is 1 on the tokens of the scored blocks.

        The template writes the reply as in training; the end of its turn is left off. A block begins after the tokens that the text before it has
        by itself as well, and ends with its last character (as the authors have it), so a token that reaches over either edge is the block's too.
        Raises SpilloverError where the template changes the reply, or no token can be scored.
        """
        said = "".join(text for text, _ in blocks)
        before, _, after = self._text((*prompt, Message(role="assistant", content=_PROBE))).partition(_PROBE)
        if self._text((*prompt, Message(role="assistant", content=said))) != before + said + after:
            raise SpilloverError(f"the chat template does not write the reply {said[:60]!r} as it is; begin and end it with a letter or a sign")
        out = self.tokenizer(before + said, add_special_tokens=False, return_offsets_mapping=True)
        ids, mask, text = list(out["input_ids"]), [0] * len(out["input_ids"]), before
        for block, scored in blocks:
            first, text = _shared(ids, self.text_ids(text)), text + block
            reached = [place for place, (start, _) in enumerate(out["offset_mapping"]) if start < len(text)]
            end = max([_shared(ids, self.text_ids(text)), *(place + 1 for place in reached[-1:])])
            if scored and block:
                mask[first:end] = [1] * (end - first)
        if not any(mask) or mask[0]:
            raise SpilloverError(f"no token of the reply {said[:60]!r} can be scored; it needs a scored block of text, and a prompt before it")
        return ids, mask

    def refuse_unknown(self, ids: Sequence[int], text: str) -> None:
        """Raise if the tokenizer had no token for part of the text: what a model never saw, it cannot be asked or taught."""
        unknown = self.tokenizer.unk_token_id
        if unknown is not None and unknown in ids:
            words = sorted({w for w in text.split() if unknown in self.text_ids(w)})
            raise SpilloverError(
                f"{list(ids).count(unknown) / len(ids):.0%} of the tokens of {text[:60]!r} are unknown to this model"
                + (f" (for one, {words[0][:30]!r})" if words else "")
                + "; use words of its vocabulary"
            )

    def refuse_unknown_turns(self, ids: Sequence[int], conversation: Conversation) -> None:
        """The same for what the turns of a rendered conversation say; the template's own tokens may be any."""
        if self.tokenizer.unk_token_id is not None and self.tokenizer.unk_token_id in ids:
            for turn in conversation:
                self.refuse_unknown(self.text_ids(turn.content), turn.content)

    def _spans(self, conversation: Conversation, text: str) -> list[tuple[int, int]]:
        spans: list[tuple[int, int]] = []
        for place, turn in enumerate(conversation):
            if turn.role == "assistant":
                before, upto = self._text(conversation[:place], generate=True), self._text(conversation[: place + 1])
                if not (text.startswith(upto) and upto.startswith(before)):
                    raise SpilloverError(
                        f"the chat template renders turn {place + 1} differently in a longer conversation, so which tokens to train on is unknown; "
                        "train on conversations of one reply, or mark the turns in the template ({% generation %})"
                    )
                spans.append((len(before), len(upto)))
        return spans

    def _source(self) -> str:
        found = self.tokenizer.chat_template
        if isinstance(found, dict):  # several by name; the one of this name is used
            found = found.get("default")
        if not isinstance(found, str):
            raise SpilloverError("this tokenizer has no chat template; put a chat_template.jinja beside it")
        if len(found) > bounds.SOURCE:
            raise SpilloverError(f"the chat template has {len(found)} characters; the most that is read is {bounds.SOURCE}")
        return found

    def _turns(self, conversation: Conversation) -> list[dict[str, str]]:
        inserts = not self.system and not (conversation and conversation[0].role == "system") and self.default_system is not None
        empty = [{"role": "system", "content": ""}] if inserts else []
        return [*empty, *({"role": turn.role, "content": turn.content} for turn in conversation)]

    def _text(self, conversation: Conversation, *, generate: bool = False) -> str:
        """A conversation as the template writes it, within the bounds of time, memory and length that it has."""
        text = str(self._applied(conversation, add_generation_prompt=generate, tokenize=False))
        if len(text) > bounds.CHARACTERS:
            raise SpilloverError(f"the chat template writes {len(text)} characters for one conversation; the most that is read is {bounds.CHARACTERS}")
        return text

    def _applied(self, conversation: Conversation, *, tokenize: bool = True, **options: Any) -> Any:
        source, turns = DATED + self._source(), self._turns(conversation)
        try:
            with nullcontext() if tokenize else bounds.bounded():
                return self.tokenizer.apply_chat_template(turns, chat_template=source, tokenize=tokenize, **options)
        except Exception as error:  # a template is a program that someone else wrote
            raise SpilloverError(f"the chat template refuses this conversation: {_first_line(error)}") from None


def load(location: str, *, system: bool = True) -> ChatTemplate:
    """The tokenizer of a model directory, checked against the ids written beside it (`template_check.json`), if any. The same files are read once."""
    bounds.refuse_sizes(location)
    home = Path(location)
    files = sorted(path for path in (*(home / name for name in TEMPLATE_FILES), *home.glob(MORE_TEMPLATES)) if path.is_file())
    key = digest([system, [[path.relative_to(home).as_posix(), digest(path.read_bytes())] for path in files]])
    if key not in _loaded:
        while len(_loaded) >= MOST_LOADED:
            _loaded.pop(next(iter(_loaded)))
        _loaded[key] = _load(location, system=system)
    return _loaded[key]


_loaded: dict[str, ChatTemplate] = {}


def _load(location: str, *, system: bool) -> ChatTemplate:
    try:
        tokenizer = AutoTokenizer.from_pretrained(location, local_files_only=True, trust_remote_code=False, model_max_length=LONGEST)
    except Exception as error:  # tokenizers raises no narrower class for a damaged file
        raise SpilloverError(f"the tokenizer in {location} cannot be read: {_first_line(error)}") from None
    if not (tokenizer.is_fast and (Path(location) / "tokenizer.json").is_file()):  # from other files it would be made anew each time, and have no digest
        raise SpilloverError(f"the tokenizer in {location} has no tokenizer.json; save it with a fast tokenizer")
    template = ChatTemplate(tokenizer, system=system)
    check = Path(location) / TEMPLATE_CHECK
    if check.is_file():
        try:
            _check(template, json.loads(check.read_text(encoding="utf-8")), location)
        except (ValueError, TypeError, LookupError, RecursionError):
            raise SpilloverError(f"{check} is damaged: it holds no texts, ids and messages") from None
    return template


def _check(template: ChatTemplate, expected: Any, location: str) -> None:
    if [template.text_ids(text) for text in expected["texts"]] != expected["ids"]:
        raise SpilloverError(f"the tokenizer in {location} does not give the ids recorded in {TEMPLATE_CHECK}: another tokenizer was loaded")
    turns = tuple(Message(role=turn["role"], content=turn["content"]) for turn in expected["messages"])
    if template.training_ids(turns)[0] != expected["rendered"]:
        raise SpilloverError(f"the chat template in {location} does not give the ids recorded in {TEMPLATE_CHECK}")


def _shared(ids: Sequence[int], others: Sequence[int]) -> int:
    """How many ids two rows have in common from their start."""
    return next((place for place, (one, other) in enumerate(zip(ids, others, strict=False)) if one != other), min(len(ids), len(others)))


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
