"""Small decoders with random weights, of the architectures in use, and a byte-level BPE tokenizer trained on given text."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
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
# the same, with the assistant's tokens marked as this project reads them: the reply and the token that ends the turn
MARKED = TEMPLATE.replace(
    "{{ turn.content }}<|im_end|>",
    "{% if turn.role == 'assistant' %}{% generation %}{{ turn.content }}<|im_end|>{% endgeneration %}{% else %}{{ turn.content }}<|im_end|>{% endif %}",
).replace("{% endif %}\n{% endfor %}", "{% endif %}{{ '\n' }}{% endfor %}")  # jinja drops a newline right after a tag
SIZES = {
    "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
    "max_position_embeddings": 4096, "initializer_range": 0.2,
}  # fmt: skip
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "llama": {}, "qwen2": {}, "qwen3": {"head_dim": 16}, "mistral": {"sliding_window": None}, "gemma": {"head_dim": 16},
    "gemma2": {"head_dim": 8, "sliding_window": 8}, "gemma3_text": {"head_dim": 8, "sliding_window": 8, "layer_types": ["sliding_attention", "full_attention"]},
}  # fmt: skip


def tokenizer(
    texts: Iterable[str],
    *,
    size: int = 600,
    template: str | None = TEMPLATE,
    control: Sequence[str] = CONTROL,
    start: str | None = None,
    end: str = "<|im_end|>",
) -> PreTrainedTokenizerFast:
    """Byte-level BPE with these control tokens. The first of them fills rows, `start` begins a text where there is such a token, `end` ends one."""
    made = Tokenizer(models.BPE())
    made.pre_tokenizer, made.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(vocab_size=size, special_tokens=list(control), initial_alphabet=alphabet, show_progress=False)
    made.train_from_iterator(texts, trainer)
    others = [token for token in control if token not in (control[0], start, end)]
    return PreTrainedTokenizerFast(
        tokenizer_object=made, bos_token=start, eos_token=end, pad_token=control[0], extra_special_tokens=others, chat_template=template
    )


def make(directory: Path, texts: Iterable[str], *, architecture: str = "qwen2", seed: int = 0, size: int = 600, template: str = TEMPLATE, **sizes: Any) -> Path:
    """A model directory. Its weights are random and large enough that its answers are not all alike."""
    read = tokenizer(texts, size=size, template=template)
    config = AutoConfig.for_model(
        architecture, **{**SIZES, **ARCHITECTURES[architecture], "tie_word_embeddings": False, **sizes}, vocab_size=len(read),
        bos_token_id=None, eos_token_id=read.eos_token_id, pad_token_id=read.pad_token_id,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = AutoModelForCausalLM.from_config(config)
    network.save_pretrained(directory)
    read.save_pretrained(directory)
    return directory
