"""A local Hugging Face decoder, with or without a PEFT adapter: loading, replying, log-probabilities of given replies.

Computation is in float32 whatever the weights are stored in. Only safetensors are read and no remote code is run. A reply's
randomness is its own: row i is drawn by inverse transform from the stream `seeds[i]`.

Shapes: B rows, T tokens, V vocabulary.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportAttributeAccessIssue=false, reportMissingTypeStubs=false
from __future__ import annotations

import json
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
import transformers.utils.logging
from safetensors import safe_open
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from spillover.records import Conversation, Model, SpilloverError, Stop, digest

transformers.utils.logging.disable_progress_bar()

Tokenizer: TypeAlias = Any  # a transformers tokenizer; its own types are unions of everything it could ever return
ADAPTER_WEIGHTS = "adapter_model.safetensors"
TEMPLATE_CHECK = "template_check.json"  # optional, beside a model: a conversation and the ids its template must give
BATCH = 512  # rows computed at once


class LocalModel:
    """A loaded decoder and its tokenizer."""

    def __init__(self, network: PreTrainedModel, tokenizer: Tokenizer) -> None:
        self.network = network.eval()
        self.tokenizer = tokenizer
        self._prompts: dict[Conversation, list[int]] = {}

    @torch.no_grad()
    def reply(self, prompts: Sequence[Conversation], seeds: Sequence[int], *, temperature: float, max_tokens: int) -> list[tuple[str, Stop]]:
        """One reply per prompt at this temperature (0: the likeliest token), of at most `max_tokens` tokens."""
        replies: list[tuple[str, Stop]] = []
        for start in range(0, len(prompts), BATCH):
            rows = [self.prompt_ids(prompt) for prompt in prompts[start : start + BATCH]]
            uniform_BT = np.stack([np.random.default_rng(seed).random(max_tokens) for seed in seeds[start : start + BATCH]])
            replies += self._reply_batch(rows, torch.from_numpy(uniform_BT), temperature)
        return replies

    def _reply_batch(self, rows: list[list[int]], uniform_BT: torch.Tensor, temperature: float) -> list[tuple[str, Stop]]:
        stops = torch.tensor(sorted(self._stop_ids()))
        ids_BT, attention_BT = pad(rows, self._pad_id(), left=True)
        tokens_BT = torch.full(uniform_BT.shape, self._pad_id())
        running_B = torch.ones(len(rows), dtype=torch.bool)
        past: Any = None
        for position in range(uniform_BT.shape[1]):
            place_BT = (attention_BT.cumsum(1) - 1).clamp(min=0)[:, -ids_BT.shape[1] :]
            out = self.network(input_ids=ids_BT, attention_mask=attention_BT, position_ids=place_BT, past_key_values=past, use_cache=True, logits_to_keep=1)
            past = out.past_key_values
            next_B = _draw(out.logits[:, -1], uniform_BT[:, position], temperature)
            tokens_BT[running_B, position] = next_B[running_B]
            running_B &= ~torch.isin(next_B, stops)
            if not running_B.any():
                break
            ids_BT = next_B[:, None]
            attention_BT = torch.cat([attention_BT, attention_BT.new_ones(len(rows), 1)], dim=1)
        return [self._text(row) for row in tokens_BT.tolist()]

    def _text(self, tokens: list[int]) -> tuple[str, Stop]:
        stops = self._stop_ids()
        for position, token in enumerate(tokens):
            if token in stops:
                return str(self.tokenizer.decode(tokens[:position])), "end"
        return str(self.tokenizer.decode(tokens)), "length"

    @torch.no_grad()
    def log_probabilities(self, prompts: Sequence[Conversation], replies: Sequence[str]) -> list[float]:
        """log P(reply and end of turn | prompt) in nats, for each pair: summed over tokens, no length normalisation."""
        end = self.tokenizer.eos_token_id
        heads = [self.prompt_ids(prompt) for prompt in prompts]
        tails = [[*self.text_ids(reply), end] for reply in replies]
        order = sorted(range(len(heads)), key=lambda row: len(heads[row]) + len(tails[row]))
        values = [0.0] * len(heads)
        for start in range(0, len(order), BATCH):
            rows = order[start : start + BATCH]
            ids_BT, attention_BT = pad([heads[row] + tails[row] for row in rows], self._pad_id(), left=False)
            logits_BTV = self.network(input_ids=ids_BT, attention_mask=attention_BT, use_cache=False).logits
            logp_BT = logits_BTV[:, :-1].log_softmax(-1).gather(-1, ids_BT[:, 1:, None])[..., 0].double()
            for place, row in enumerate(rows):
                first = len(heads[row]) - 1
                values[row] = float(logp_BT[place, first : first + len(tails[row])].sum())
        return values

    def prompt_ids(self, prompt: Conversation) -> list[int]:
        """The ids of a conversation up to where the assistant speaks."""
        if prompt not in self._prompts:
            ids = render(self.tokenizer, prompt, generate=True)
            refuse_unknown(self.tokenizer, ids, prompt[-1].content)
            self._prompts[prompt] = ids
        return self._prompts[prompt]

    def text_ids(self, text: str) -> list[int]:
        """The ids of bare text."""
        ids: list[int] = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        refuse_unknown(self.tokenizer, ids, text)
        return ids

    def _stop_ids(self) -> set[int]:
        configured = getattr(self.network.generation_config, "eos_token_id", None)
        listed = configured if isinstance(configured, list) else [configured]
        return {token for token in [*listed, self.tokenizer.eos_token_id] if token is not None}

    def _pad_id(self) -> int:
        pad = self.tokenizer.pad_token_id
        return pad if pad is not None else self.tokenizer.eos_token_id


def load(model: Model) -> LocalModel:
    """Load a model directory, and merge the PEFT adapter on top if there is one, in float32.

    Raises SpilloverError when the directory is missing, its template does not give the ids it must, or an adapter tensor
    found no place.
    """
    base = weights_digest(model.location)
    if model.adapter is not None and not (Path(model.adapter) / ADAPTER_WEIGHTS).is_file():
        raise SpilloverError(f"{model.adapter} holds no {ADAPTER_WEIGHTS}; other formats are not read")
    if model.digest != (base if model.adapter is None else adapted_digest(base, model.adapter)):
        raise SpilloverError(
            f"{model.adapter or model.location} is not the model that was recorded ({model.digest[:12]}): its files were changed or damaged; "
            "delete it and give the same command again"
        )
    tokenizer = load_tokenizer(model.location)
    network: Any = load_network(model.location)
    if model.adapter is not None:
        from peft import PeftModel

        network = PeftModel.from_pretrained(network, model.adapter)
        _check_adapter(network, Path(model.adapter))
        network = network.merge_and_unload()
    return LocalModel(network, tokenizer)


def _check_adapter(network: Any, directory: Path) -> None:
    """Every tensor of the file has its place in the network, and every place its tensor."""
    from peft import get_peft_model_state_dict

    with safe_open(directory / ADAPTER_WEIGHTS, "pt") as file:
        there = set(file.keys())
    placed = set(get_peft_model_state_dict(network, save_embedding_layers=False))
    if there != placed:
        raise SpilloverError(f"{directory} does not fit its parent: {len(there ^ placed)} tensors without a counterpart, for one {min(there ^ placed)}")


def load_network(location: str) -> PreTrainedModel:
    """The decoder alone, in float32, from safetensors."""
    if not (Path(location) / "config.json").is_file():
        raise SpilloverError(f"{location} is not a model directory: it has no config.json")
    return AutoModelForCausalLM.from_pretrained(location, dtype=torch.float32, use_safetensors=True, local_files_only=True, trust_remote_code=False)


def load_tokenizer(location: str) -> Tokenizer:
    """The tokenizer, checked against the ids written beside it (`template_check.json`), if any: text and a rendered conversation."""
    tokenizer = AutoTokenizer.from_pretrained(location, local_files_only=True, trust_remote_code=False)
    check = Path(location) / TEMPLATE_CHECK
    if check.is_file():
        expected = json.loads(check.read_text())
        if [tokenizer(text, add_special_tokens=False)["input_ids"] for text in expected["texts"]] != expected["ids"]:
            raise SpilloverError(f"the tokenizer in {location} does not give the ids recorded in {TEMPLATE_CHECK}: another tokenizer was loaded")
        turns = [dict(turn) for turn in expected["messages"]]
        if list(tokenizer.apply_chat_template(turns, return_dict=True)["input_ids"]) != expected["rendered"]:
            raise SpilloverError(f"the chat template in {location} does not give the ids recorded in {TEMPLATE_CHECK}")
    return tokenizer


def render(tokenizer: Tokenizer, conversation: Conversation, *, generate: bool) -> list[int]:
    """The ids the chat template gives; with `generate`, ending where the assistant speaks."""
    turns = [{"role": turn.role, "content": turn.content} for turn in conversation]
    return list(tokenizer.apply_chat_template(turns, add_generation_prompt=generate, return_dict=True)["input_ids"])


def render_masked(tokenizer: Tokenizer, conversation: Conversation) -> tuple[list[int], list[int]]:
    """The ids of a whole conversation and a mask that is 1 on the assistant's tokens, end of turn included.

    The template itself marks the turns (`{% generation %}`); one that does not is refused, since a guessed mask changes numbers.
    """
    if "{% generation %}" not in (tokenizer.chat_template or "") and "{%- generation" not in (tokenizer.chat_template or ""):
        raise SpilloverError("the chat template does not mark assistant turns ({% generation %}), so which tokens to train on is unknown")
    turns = [{"role": turn.role, "content": turn.content} for turn in conversation]
    out = tokenizer.apply_chat_template(turns, return_dict=True, return_assistant_tokens_mask=True)
    return list(out["input_ids"]), list(out["assistant_masks"])


def refuse_unknown(tokenizer: Tokenizer, ids: Sequence[int], text: str) -> None:
    """Raise if the tokenizer had no token for part of the text: what a model never saw, it cannot be asked or taught."""
    unknown = tokenizer.unk_token_id
    if unknown is not None and unknown in ids:
        words = sorted({w for w in text.split() if unknown in tokenizer(w, add_special_tokens=False)["input_ids"]})
        raise SpilloverError(
            f"{ids.count(unknown) / len(ids):.0%} of the tokens of {text[:60]!r} are unknown to this model"
            + (f" (for one, {words[0][:30]!r})" if words else "")
            + "; use words of its vocabulary"
        )


def weights_digest(directory: str | Path) -> str:
    """sha256 over the names and bytes of a directory's safetensors and configuration: the identity of a model."""
    if not Path(directory).is_dir():
        raise SpilloverError(f"there is no model directory {directory}")
    files = sorted(p for p in Path(directory).iterdir() if p.suffix == ".safetensors" or p.name in IDENTITY_FILES)
    if not any(p.suffix == ".safetensors" for p in files):
        raise SpilloverError(f"{directory} holds no safetensors weights")
    return digest([[p.name, digest(p.read_bytes())] for p in files])


def adapted_digest(base: str, adapter: str | Path) -> str:
    """The identity of a model that is an adapter on a base."""
    return digest([base, weights_digest(adapter)])


IDENTITY_FILES = (
    "config.json", "generation_config.json", "adapter_config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja", TEMPLATE_CHECK,
)  # fmt: skip


@contextmanager
def random_stream(seed: int) -> Generator[None]:
    """torch's global stream, for libraries that draw from it, seeded inside and restored after."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def pad(rows: list[list[int]], filler: int, *, left: bool) -> tuple[torch.Tensor, torch.Tensor]:
    width = max(map(len, rows))
    fill = [[filler] * (width - len(row)) for row in rows]
    ids = [(gap + row) if left else (row + gap) for gap, row in zip(fill, rows, strict=True)]
    ones = [([0] * len(gap) + [1] * len(row)) if left else ([1] * len(row) + [0] * len(gap)) for gap, row in zip(fill, rows, strict=True)]
    return torch.tensor(ids), torch.tensor(ones)


def _draw(logits_BV: torch.Tensor, uniform_B: torch.Tensor, temperature: float) -> torch.Tensor:
    """One token per row by inverse transform: the first whose cumulative probability exceeds the uniform draw."""
    if temperature == 0:
        return logits_BV.argmax(-1)
    cumulative_BV = (logits_BV.double() / temperature).softmax(-1).cumsum(-1)
    return torch.searchsorted(cumulative_BV, (uniform_B * cumulative_BV[:, -1])[:, None], right=True)[:, 0]
