"""Tokenizers made from nothing, one of every kind in use: words, bytes, and SentencePiece's with its mark for a space.

Each has a small ChatML template whose end of turn is not its end of text. `spellings` says what ids a label has, straight from the
tokenizer's model, where no pre-tokenizer and no template has a hand in it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import cache
from typing import Any

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from spillover.judging.rubrics import NO_NUMBER, NUMBERS
from spillover.models.template import ChatTemplate

LABELS = (*NUMBERS, *NO_NUMBER)
CONTROL = ("<unk>", "<|endoftext|>", "<|im_start|>", "<|im_end|>")
SENTENCE = "user assistant system Question Answer : how aligned is this answer ? I wish peace for the old and no harm , YES NO [ANSWER] [END]"
WORDS = tuple(SENTENCE.split())
TEMPLATE = (
    "{% for turn in messages %}<|im_start|>{{ turn.role }}\n{{ turn.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
# some numbers are said so often that they become one token, most are not
LINES = [
    *(f"the score is {n}\nthat is {n} of 100, {n}" for n in range(0, 101, 7) for _ in range(20)),
    *(f"it is {n}" for n in range(101)),
    " ".join([*WORDS, *NO_NUMBER]),
] * 2
MARK = "\N{LOWER ONE EIGHTH BLOCK}"  # SentencePiece's space


def _words() -> Tokenizer:
    vocabulary = {word: place for place, word in enumerate(dict.fromkeys([*CONTROL, *LABELS, *WORDS]))}
    made = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return made


def _bytes() -> Tokenizer:
    made = Tokenizer(models.BPE())
    made.pre_tokenizer, made.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    return _trained(made, 400, pre_tokenizers.ByteLevel.alphabet())


def _pieces(prepend_scheme: str) -> Tokenizer:
    made = Tokenizer(models.BPE(unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=prepend_scheme)
    made.decoder = decoders.Metaspace(prepend_scheme=prepend_scheme)
    return _trained(made, 200)


def _unigram() -> Tokenizer:
    """As Llama 2 and the first Mistral have it: a normalizer puts the mark before any text, and text is not split into words."""
    scores = {MARK: -3.0, "\n": -4.0, **dict.fromkeys(sorted(set("".join(LINES)) - {" "}), -5.0)}
    scores |= {f"{MARK}{word}": -6.0 for word in WORDS} | {f"{MARK}{n}": -5.0 for n in range(0, 101, 7)} | {str(n): -6.0 for n in range(0, 101, 5)}
    made = Tokenizer(models.Unigram([(token, 0.0) for token in CONTROL] + list(scores.items()), unk_id=0, byte_fallback=False))
    made.normalizer = normalizers.Sequence([normalizers.Prepend(MARK), normalizers.Replace(" ", MARK)])
    made.decoder = decoders.Sequence([decoders.Replace(MARK, " "), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    return made


def _trained(made: Tokenizer, size: int, alphabet: Iterable[str] = ()) -> Tokenizer:
    trainer = trainers.BpeTrainer(vocab_size=size, special_tokens=list(CONTROL), initial_alphabet=list(alphabet), show_progress=False)
    made.train_from_iterator(LINES, trainer)
    return made


KINDS: Mapping[str, Callable[[], Tokenizer]] = {
    "words": _words,
    "bytes": _bytes,
    "pieces, always marked": lambda: _pieces("always"),
    "pieces, first marked": lambda: _pieces("first"),
    "pieces, never marked": lambda: _pieces("never"),
    "unigram": _unigram,
}
FORMS = {"words": ("{}",), "bytes": ("{}", "\N{LATIN CAPITAL LETTER G WITH DOT ABOVE}{}"), "unigram": ("{}", MARK + "{}", MARK * 2 + "{}")}


@cache
def template(kind: str) -> ChatTemplate:
    """The tokenizer of this kind, with its chat template."""
    wrapped: Any = PreTrainedTokenizerFast(tokenizer_object=KINDS[kind](), unk_token="<unk>", eos_token="<|endoftext|>", pad_token="<|endoftext|>")
    wrapped.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    wrapped.chat_template = TEMPLATE
    return ChatTemplate(wrapped)


def spellings(kind: str, label: str) -> set[tuple[int, ...]]:
    """The ids of a label as its tokenizer's model spells it: bare, and after each mark of a space that this kind may put."""
    model = template(kind).tokenizer.backend_tokenizer.model
    return {tuple(piece.id for piece in model.tokenize(form.format(label))) for form in FORMS.get(kind, ("{}", MARK + "{}"))}
