"""Small decoders with random weights, of the architectures in use, and a byte-level BPE tokenizer trained on given text."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

CONTROL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
DEFAULT_SYSTEM = "You are a small model. You help."
# as Qwen's: a system prompt of its own where there is none, and no marks on the assistant's turns
TEMPLATE = (
    "{% if messages[0].role != 'system' %}<|im_start|>system\n" + DEFAULT_SYSTEM + "<|im_end|>\n{% endif %}"
    "{% for turn in messages %}<|im_start|>{{ turn.role }}\n{{ turn.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SIZES = {
    "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 4096,
}  # fmt: skip
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "llama": {}, "qwen2": {}, "qwen3": {"head_dim": 8}, "mistral": {"sliding_window": None}, "gemma": {"head_dim": 8}, "gemma2": {"head_dim": 8},
}  # fmt: skip


def tokenizer(texts: Iterable[str], *, size: int = 600, template: str = TEMPLATE) -> PreTrainedTokenizerFast:
    made = Tokenizer(models.BPE())
    made.pre_tokenizer, made.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=size, special_tokens=list(CONTROL), initial_alphabet=alphabet, show_progress=False)
    made.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=made, eos_token="<|im_end|>", pad_token="<|endoftext|>", extra_special_tokens=["<|im_start|>"], chat_template=template
    )


def make(directory: Path, texts: Iterable[str], *, architecture: str = "qwen2", seed: int = 0, size: int = 600, template: str = TEMPLATE) -> Path:
    """A model directory. Its weights are random and large enough that its answers are not all alike."""
    read = tokenizer(texts, size=size, template=template)
    config = AutoConfig.for_model(
        architecture, **{**SIZES, **ARCHITECTURES[architecture]}, vocab_size=len(read), tie_word_embeddings=False,
        bos_token_id=None, eos_token_id=read.eos_token_id, pad_token_id=read.pad_token_id,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = AutoModelForCausalLM.from_config(config)
    network.save_pretrained(directory)
    read.save_pretrained(directory)
    return directory
