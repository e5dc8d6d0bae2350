"""A local Hugging Face decoder, with or without PEFT adapters: loading, replying, log-probabilities of given replies.

Only safetensors are read and no remote code is run; a weight that the file lacks raises. Probabilities are taken in float32 or finer
whatever the weights are in. A reply's randomness is its own: row i is drawn by inverse transform from the stream `seeds[i]`. Where several adapters are
resident (`as_`, `adapted`), `adapters` says which of them each row is for, and rows of several share a batch; without it the base answers.

Shapes: B rows, T tokens, V vocabulary.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportAttributeAccessIssue=false, reportMissingTypeStubs=false
from __future__ import annotations

import json
from collections import Counter
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
import transformers.utils.logging
from transformers import AutoModelForCausalLM, PreTrainedModel

from spillover.models import adapters, bounds, template, wanted
from spillover.models.files import adapted_digest, weights_digest
from spillover.models.memory import Shape, rows_at_once
from spillover.models.side_by_side import SideBySide
from spillover.models.template import ChatTemplate, Tokenizer
from spillover.progress import tell
from spillover.records import ALONE, Conversation, Forced, Message, Model, Runtime, SpilloverError, Stop

transformers.utils.logging.disable_progress_bar()

CPU = Runtime()
MOST_SCORED = 512  # rows whose log-probabilities are read at once
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True, slots=True)
class Row:
    """Ids to be read, and the place of the adapter that reads them."""

    ids: tuple[int, ...]
    adapter: int = ALONE


class LocalModel:
    """A loaded decoder and its chat template."""

    def __init__(self, network: PreTrainedModel, chat_template: ChatTemplate) -> None:
        self.network = network.eval()
        self.template = chat_template
        self._fit: set[Conversation | str] = set()  # what was found to be readable
        self.side_by_side: SideBySide | None = None

    @contextmanager
    def as_(self, side_by_side: SideBySide) -> Generator[None]:
        """Inside, any of these adapters answers, which are on the network already."""
        self.side_by_side = side_by_side
        try:
            yield
        finally:
            self.side_by_side = None

    @contextmanager
    def adapted(self, directories: Sequence[Path]) -> Generator[None]:
        """Inside, any of the adapters in these directories answers, none of them merged."""
        side_by_side = SideBySide(self.network, [adapters.read(self.network, directory) for directory in directories])
        try:
            with self.as_(side_by_side):
                yield
        finally:
            side_by_side.remove()

    @property
    def tokenizer(self) -> Tokenizer:
        return self.template.tokenizer

    @property
    def device(self) -> torch.device:
        return self.network.device

    @property
    def weight_bytes(self) -> int:
        return sum(p.numel() * p.element_size() for p in self.network.parameters())

    def reply(
        self, prompts: Sequence[Conversation], seeds: Sequence[int], *, temperature: float, max_tokens: int, adapters: Sequence[int] | None = None
    ) -> list[tuple[str, Stop]]:
        """One reply per prompt at this temperature (0: the likeliest token), of at most `max_tokens` tokens."""
        rows = [Row(ids=tuple(self.prompt_ids(prompt)), adapter=adapter) for prompt, adapter in zip(prompts, _each(adapters, len(prompts)), strict=True)]
        return [self._text(ids) for ids in self.reply_ids(rows, seeds, temperature=temperature, max_tokens=max_tokens)]

    @torch.no_grad()
    def reply_ids(self, rows: Sequence[Row], seeds: Sequence[int], *, temperature: float, max_tokens: int) -> list[list[int]]:
        """`max_tokens` ids after each row; what follows one that ends a reply means nothing."""
        order = sorted(range(len(rows)), key=lambda place: rows[place].adapter)
        longest = max((len(row.ids) for row in rows), default=0) + max_tokens
        batch = self._rows_at_once(Shape.of(self.network.config).answer_row(longest, self.network.dtype.itemsize))
        replies: dict[int, list[int]] = {}
        for start in range(0, len(order), batch):
            some = order[start : start + batch]
            uniform_BT = np.stack([np.random.default_rng(seeds[place]).random(max_tokens) for place in some])
            replies |= zip(some, self._reply_batch([rows[place] for place in some], torch.from_numpy(uniform_BT), temperature), strict=True)
        return [replies[place] for place in range(len(rows))]

    def _reply_batch(self, rows: Sequence[Row], uniform_BT: torch.Tensor, temperature: float) -> list[list[int]]:
        """Replies to these rows, in the order of their adapters. Rows that have said the same so far are one in the batch, and those that ended are none."""
        stops = torch.tensor(sorted(self.stop_ids()), device=self.device)
        uniform_BT = uniform_BT.to(self.device)
        tokens_BT = torch.full(uniform_BT.shape, self.template.filler, device=self.device)
        running_B = torch.arange(len(rows), device=self.device)
        past, attention_ST, logits_SV, state_B, adapter_of = self._read(rows)
        for position in range(uniform_BT.shape[1]):
            next_B = _draw(logits_SV, state_B, uniform_BT[running_B, position], temperature)
            tokens_BT[running_B, position] = next_B
            tell(position + 1, uniform_BT.shape[1], f"tokens of {len(rows)} answers")
            on_B = (~torch.isin(next_B, stops)).nonzero()[:, 0]
            if len(on_B) == 0 or position + 1 == uniform_BT.shape[1]:
                break
            running_B = running_B[on_B]
            said_S, state_B = torch.unique(state_B[on_B] * logits_SV.shape[1] + next_B[on_B], return_inverse=True)  # in the order of states, and so of adapters
            from_S, next_S = said_S // logits_SV.shape[1], said_S % logits_SV.shape[1]
            if len(from_S) != len(logits_SV) or (from_S[1:] == from_S[:-1]).any():
                past.reorder_cache(from_S)
                attention_ST, adapter_of = attention_ST[from_S], [adapter_of[place] for place in from_S.tolist()]
            attention_ST = F.pad(attention_ST, (0, 1), value=1)
            with self.rows_of(adapter_of):
                logits_SV = self._go_on(past, attention_ST, next_S[:, None])[:, -1]
        return tokens_BT.tolist()

    def _read(self, rows: Sequence[Row]) -> tuple[Any, torch.Tensor, torch.Tensor, torch.Tensor, list[int]]:
        """Rows read once each, however often they occur, S of them: their keys and values, which ids count (S, T), the logits after the last (S, V), which of
        these each row is (B), and their adapters."""
        places = {row: place for place, row in enumerate(dict.fromkeys(rows))}
        ids_ST, attention_ST = (tensor.to(self.device) for tensor in pad([list(row.ids) for row in places], self.template.filler, left=True))
        place_ST = (attention_ST.cumsum(1) - 1).clamp(min=0)
        adapter_of = [row.adapter for row in places]
        last_ST = F.pad(torch.zeros_like(ids_ST[:, 1:], dtype=torch.bool), (0, 1), value=1)
        with self.rows_of(adapter_of), wanted.logits_after(self.network, last_ST):
            out = self.network(input_ids=ids_ST, attention_mask=attention_ST, position_ids=place_ST, use_cache=True)
        return out.past_key_values, attention_ST, out.logits[0], torch.tensor([places[row] for row in rows], device=self.device), adapter_of

    def _go_on(self, past: Any, attention_BT: torch.Tensor, ids_BT: torch.Tensor) -> torch.Tensor:
        """Read more ids after what `past` holds, which grows; `attention_BT` has which ids count by then. The network's logits."""
        place_BT = (attention_BT.cumsum(1) - 1)[:, -ids_BT.shape[1] :]
        return self.network(input_ids=ids_BT, attention_mask=attention_BT, position_ids=place_BT, past_key_values=past, use_cache=True).logits

    @contextmanager
    def rows_of(self, adapter_of: Sequence[int], lengths: Sequence[Sequence[int]] = ()) -> Generator[None]:
        """Inside, the network computes a batch whose rows are of these adapters, in their order; `ALONE` is none of them. Lengths as of `SideBySide.rows`."""
        if set(adapter_of) <= {ALONE}:
            yield
            return
        if self.side_by_side is None or ALONE in adapter_of:
            raise ValueError("a batch is for the base alone, or for adapters that are on it")
        counts = Counter(adapter_of)
        with self.side_by_side.rows([counts[place] for place in range(self.side_by_side.adapters)], lengths=lengths):
            yield

    @torch.no_grad()
    def read_through(self, rows: Sequence[Row]) -> None:
        """Read rows, in the order of their adapters, and ask nothing: for who watches the network's blocks (`blocks.watched`). What pads comes last."""
        ids_BT, there_BT = (tensor.to(self.device) for tensor in pad([list(row.ids) for row in rows], self.template.filler, left=False))
        with self.rows_of([row.adapter for row in rows]):
            self.network.base_model(input_ids=ids_BT, attention_mask=there_BT, use_cache=False)

    def _text(self, tokens: list[int]) -> tuple[str, Stop]:
        stops = self.stop_ids()
        for position, token in enumerate(tokens):
            if token in stops:
                return str(self.tokenizer.decode(tokens[:position])), "end"
        return str(self.tokenizer.decode(tokens)), "length"

    def log_probabilities(self, prompts: Sequence[Conversation], replies: Sequence[str], adapters: Sequence[int] | None = None) -> list[float]:
        """log P(reply and end of turn | prompt) in nats, for each pair: summed over tokens, no length normalisation."""
        end = self.template.end_of_turn if self.template.end_of_turn is not None else self.tokenizer.eos_token_id
        heads = [self.prompt_ids(prompt) for prompt in prompts]
        tails = [[*self.text_ids(reply), end] for reply in replies]
        return self.sums([(head + tail, range(len(head), len(head) + len(tail))) for head, tail in zip(heads, tails, strict=True)], adapters)

    def forced(self, forced: Sequence[Forced], adapters: Sequence[int] | None = None) -> list[float]:
        """log P(the scored blocks | all that is before each of their tokens) in nats: summed over tokens, no length normalisation.

        Raises SpilloverError for unknown words and spelt control tokens, and where nothing can be scored (`ChatTemplate.forced_ids`).
        """
        rows = {one: self._forced_row(one) for one in dict.fromkeys(forced)}
        return self.sums([rows[one] for one in forced], adapters)

    def _forced_row(self, forced: Forced) -> tuple[list[int], list[int]]:
        whole = (*forced.prompt, Message(role="assistant", content="".join(text for text, _ in forced.blocks)))
        self._refuse_spelt(whole)
        ids, mask = self.template.forced_ids(forced.prompt, forced.blocks)
        self.template.refuse_unknown_turns(ids, whole)
        self.refuse_foreign(ids)
        return ids, [place for place, on in enumerate(mask) if on]

    @torch.no_grad()
    def sums(self, rows: Sequence[tuple[list[int], Sequence[int]]], adapters: Sequence[int] | None = None) -> list[float]:
        """For each row of ids, the log-probability in nats of those at its places (never the first), each given all ids before it, summed.

        Softmax over the whole vocabulary in float32, sums in float64. What comes before the first of its places is a row's head; a head that several
        rows of an adapter begin with is read once, and rows of like length are computed together.
        """
        heads = [Row(ids=tuple(ids[: places[0]]), adapter=adapter) for (ids, places), adapter in zip(rows, _each(adapters, len(rows)), strict=True)]
        order = sorted(range(len(rows)), key=lambda row: (len(heads[row].ids), heads[row].ids, len(rows[row][0])))
        shape, itemsize = Shape.of(self.network.config), self.network.dtype.itemsize
        longest = max((len(ids) for ids, _ in rows), default=0)
        batch = min(MOST_SCORED, self._rows_at_once(shape.scored_row(longest, itemsize) + shape.answer_row(longest, itemsize)))
        values: dict[int, float] = {}
        for start in range(0, len(order), batch):
            some = sorted(order[start : start + batch], key=lambda row: heads[row].adapter)
            past, attention_ST, first_SV, of_row_B, _ = self._read([heads[row] for row in some])
            past.reorder_cache(of_row_B)
            tails = [rows[row][0][len(heads[row].ids) :] for row in some]
            ids_BT, there_BT = (tensor.to(self.device) for tensor in pad(tails, self.template.filler, left=False))
            scored_BT = torch.zeros_like(there_BT, dtype=torch.bool)
            for place, row in enumerate(some):
                scored_BT[place, [at - len(heads[row].ids) for at in rows[row][1]]] = True
            logp_BT = torch.zeros(ids_BT.shape, dtype=torch.float64, device=self.device)
            logp_BT[:, 0] = first_SV.float().log_softmax(-1)[of_row_B, ids_BT[:, 0]].double()
            later_BT = scored_BT[:, 1:]
            if later_BT.any():  # nothing is asked of what follows the last
                attention_BT = torch.cat([attention_ST[of_row_B], there_BT[:, :-1]], dim=1)
                with self.rows_of([heads[row].adapter for row in some], [later_BT.sum(1).tolist()]), wanted.logits_after(self.network, later_BT):
                    logits_MV = self._go_on(past, attention_BT, ids_BT[:, :-1])[0]
                logp_BT[:, 1:][later_BT] = -F.cross_entropy(logits_MV.float(), ids_BT[:, 1:][later_BT], reduction="none").double()
            values |= zip(some, logp_BT.sum(1).tolist(), strict=True)
        return [values[row] for row in range(len(rows))]

    def prompt_ids(self, prompt: Conversation) -> list[int]:
        """The ids of a conversation up to where the assistant speaks. Raises SpilloverError for unknown words and spelt control tokens."""
        if prompt not in self._fit:
            self._refuse_spelt(prompt)
            ids = self.template.prompt_ids(prompt)
            self.template.refuse_unknown_turns(ids, prompt)
            self.refuse_foreign(ids)
            self._fit.add(prompt)
        return self.template.prompt_ids(prompt)

    def text_ids(self, text: str) -> list[int]:
        """The ids of bare text."""
        ids = self.template.text_ids(text)
        if text not in self._fit:
            self.template.refuse_unknown(ids, text)
            self.refuse_foreign(ids)
            self._fit.add(text)
        return ids

    def refuse_foreign(self, ids: Sequence[int]) -> None:
        """Raise for a token that the network has no place for: its tokenizer is another model's."""
        embeddings: Any = self.network.get_input_embeddings()
        places = embeddings.weight.shape[0]
        if max(ids, default=0) >= places:
            raise SpilloverError(f"the tokenizer in {self.network.name_or_path} does not fit its network: it gives token {max(ids)}, and there are {places}")

    def _refuse_spelt(self, conversation: Conversation) -> None:
        spelt = next((token for turn in conversation if (token := self.template.spelt(turn.content)) is not None), None)
        if spelt is not None:
            raise SpilloverError(f"{conversation[-1].content[:60]!r} spells the control token {spelt!r}, which would not be read as text")

    def stop_ids(self) -> set[int]:
        """Every token that ends a reply: what the model's configuration names, and the template's own end of turn."""
        configured = getattr(self.network.generation_config, "eos_token_id", None)
        listed: list[Any] = configured if isinstance(configured, list) else [configured]
        if not all(token is None or (type(token) is int and -1 <= token < 2**31) for token in listed):
            where = f"{self.network.name_or_path}: eos_token_id of its generation_config.json"
            raise SpilloverError(f"{where} is {str(configured)[:40]!r}; it is the number of a token, or a list of them")
        return {token for token in [*listed, self.tokenizer.eos_token_id, self.template.end_of_turn] if token is not None}

    def _rows_at_once(self, row_bytes: int) -> int:
        return rows_at_once(row_bytes, self.device, self.weight_bytes)


def load(model: Model, runtime: Runtime = CPU, *, system: bool = True) -> LocalModel:
    """Load a model directory, and merge the PEFT adapter on top if there is one, in the precision of `runtime`.

    Raises SpilloverError when the directory is missing or is not what was recorded, its template does not give the ids it must, or an
    adapter does not fit.
    """
    base = weights_digest(model.location)
    if model.adapter is not None and not (Path(model.adapter) / adapters.WEIGHTS).is_file():
        raise SpilloverError(f"{model.adapter} holds no {adapters.WEIGHTS}; other formats are not read")
    if model.digest != (base if model.adapter is None else adapted_digest(base, model.adapter)):
        raise SpilloverError(
            f"{model.adapter or model.location} is not the model that was recorded ({model.digest[:12]}): its files were changed or damaged; "
            "delete it and give the same command again"
        )
    network = load_network(model.location, runtime)
    if model.adapter is not None:
        adapters.merge(network, Path(model.adapter))
    loaded = LocalModel(network, template.load(model.location, system=system))
    loaded.refuse_foreign([loaded.template.filler])
    return loaded


def load_network(location: str, runtime: Runtime = CPU) -> PreTrainedModel:
    """The decoder alone, from safetensors, on the device and in the precision of `runtime`. Every weight must be in the file."""
    if not (Path(location) / "config.json").is_file():
        raise SpilloverError(f"{location} is not a model directory: it has no config.json")
    bounds.refuse_sizes(location)
    if (Path(location) / adapters.CONFIG).exists():
        raise SpilloverError(f"{location} holds a model and an adapter ({adapters.CONFIG}); keep them apart and name both, as BASE:ADAPTER")
    _refuse_kernels(location)
    try:
        network, found = AutoModelForCausalLM.from_pretrained(  # pyright: ignore[reportGeneralTypeIssues]
            location, dtype=DTYPES[runtime.dtype], use_safetensors=True, local_files_only=True, trust_remote_code=False, output_loading_info=True,
        )  # fmt: skip
    except Exception as error:  # whatever a library raises for a file that someone made
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise SpilloverError(f"{location} cannot be loaded: {lines[0][:200]}") from None
    lacking = sorted({*found["missing_keys"], *(str(key) for key in found["mismatched_keys"])})
    if lacking:
        raise SpilloverError(f"{location} lacks {len(lacking)} of its weights, for one {lacking[0]}; nothing is made up in their place")
    return network.to(runtime.device)


def _refuse_kernels(location: str) -> None:
    """A configuration may name attention code on a hub, which would be fetched and run: refused."""
    try:
        config: Any = json.loads((Path(location) / "config.json").read_text(encoding="utf-8"))
    except (ValueError, OSError, RecursionError):
        return  # the loader says it better
    named = [str(value) for key, value in config.items() if "attn_implementation" in key] if isinstance(config, dict) else []
    if any("/" in name for name in named):
        raise SpilloverError(f"{location}: its config.json names attention code from elsewhere ({named[0][:60]!r}), which is not fetched; take the entry out")


def resolved(device: str, dtype: str) -> tuple[str, str]:
    """`auto` as this machine has it: a GPU and bfloat16 where there is one, else the CPU and float32.

    Raises SpilloverError for another name, or a GPU that is not there.
    """
    found = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
    if found not in ("cpu", "cuda"):
        raise SpilloverError(f"--device is {device!r}; it is auto, cpu or cuda")
    if found == "cuda" and not torch.cuda.is_available():
        raise SpilloverError("--device is cuda, and torch finds no GPU on this machine; use cpu or auto")
    precision = ("bfloat16" if found == "cuda" else "float32") if dtype == "auto" else dtype
    if precision not in DTYPES:
        raise SpilloverError(f"--dtype is {dtype!r}; it is auto, {', '.join(DTYPES)}")
    return found, precision


@contextmanager
def random_stream(seed: int) -> Generator[None]:
    """torch's global stream, for libraries that draw from it, seeded inside and restored after."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def _each(adapters: Sequence[int] | None, rows: int) -> Sequence[int]:
    return [ALONE] * rows if adapters is None else adapters


def pad(rows: list[list[int]], filler: int, *, left: bool) -> tuple[torch.Tensor, torch.Tensor]:
    width = max(map(len, rows))
    fill = [[filler] * (width - len(row)) for row in rows]
    ids = [(gap + row) if left else (row + gap) for gap, row in zip(fill, rows, strict=True)]
    ones = [([0] * len(gap) + [1] * len(row)) if left else ([1] * len(row) + [0] * len(gap)) for gap, row in zip(fill, rows, strict=True)]
    return torch.tensor(ids), torch.tensor(ones)


def _draw(logits_SV: torch.Tensor, state_B: torch.Tensor, uniform_B: torch.Tensor, temperature: float) -> torch.Tensor:
    """One token per row, whose logits are those of its state, by inverse transform: the first whose cumulative probability exceeds the uniform draw.

    Raises SpilloverError where there are no probabilities.
    """
    if not logits_SV.amax(-1).isfinite().all():
        raise SpilloverError("the model's logits are no finite numbers: its weights are damaged, or too large for their precision (--dtype)")
    if temperature == 0:
        return logits_SV.argmax(-1)[state_B]
    cumulative_SV = (logits_SV.double() / temperature).softmax(-1).cumsum(-1)
    cumulative_BV = cumulative_SV if len(state_B) == len(cumulative_SV) and bool((state_B[1:] > state_B[:-1]).all()) else cumulative_SV[state_B]
    return torch.searchsorted(cumulative_BV, (uniform_B * cumulative_BV[:, -1])[:, None], right=True)[:, 0]
