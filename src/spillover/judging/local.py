"""A judge with open weights, and the exact probability of everything it may say: no cut at the likeliest few.

A label's probability is that of its token paths, each followed by the end of the turn: the tokens of the label as it stands and after
a space. The prompt is run once. All paths of all labels hang from its end as one tree, and what follows each node is read from the
prompt's cache: in a single pass, where each node sees the prompt and its own ancestors only; or, where a network's layers do not see all
that is before them (a sliding window that the prompt outgrows, recurrent states), level by level from copies of the cache. No prompt is
computed beside another, so an answer's score does not depend on what else is judged.

Shapes: B rows, N nodes of the tree, T tokens of the prompt, V vocabulary, W tokens that the tree or an end of turn is made of.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportAttributeAccessIssue=false, reportMissingTypeStubs=false
from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from functools import cached_property
from itertools import takewhile
from math import exp
from typing import Any

import torch
from transformers.cache_utils import DynamicCache, DynamicLayer, DynamicSlidingWindowLayer

from spillover.judging import rubrics
from spillover.models.local import LocalModel
from spillover.models.memory import rows_at_once
from spillover.models.template import ChatTemplate, Tokenizer
from spillover.progress import tell
from spillover.records import Answer, Question, Score, SpilloverError, chat

UNKNOWN = "the judge has no token for part of the answer"
TOO_LONG = "too long for the judge"
_SIGNS = re.compile(r"[][<>|#]")  # what sets a mark of a chat template apart from words that anybody may say


class LocalJudge:
    """A `records.Judge`. `identity` names the weights, for one `f"local {model.digest[:16]}"`, and goes on every score.

    A callable in place of the model opens it when the judge is first asked, and again after `close`.
    """

    def __init__(self, model: LocalModel | Callable[[], LocalModel], identity: str) -> None:
        self._given, self.identity = model, identity
        self._trees: dict[tuple[str, ...], LabelTree] = {}

    @cached_property
    def model(self) -> LocalModel:
        return self._given if isinstance(self._given, LocalModel) else self._given()

    def close(self) -> None:
        """Forget a model that can be opened again."""
        if not isinstance(self._given, LocalModel):
            self.__dict__.pop("model", None)

    @cached_property
    def turns(self) -> Turns:
        return Turns.of(self.model.template)

    def score(self, question: Question, answers: Sequence[Answer]) -> list[Score]:
        """One score per answer and rubric of the question, in that order. Equal prompts are computed once."""
        known: dict[tuple[str, str], Mapping[str, float] | str] = {}
        scores: list[Score] = []
        for place, answer in enumerate(answers):
            tell(place, len(answers), "answers judged")
            scores += [self._one(question, rubric, answer, known) for rubric in question.rubrics]
        return scores

    def _one(self, question: Question, rubric: str, answer: Answer, known: dict[tuple[str, str], Mapping[str, float] | str]) -> Score:
        if answer.stop == "failed":
            return rubrics.missing(rubric, answer, self.identity, rubrics.NO_ANSWER)
        prompt = rubrics.filled(question, rubric, answer)
        if (rubric, prompt) not in known:
            template = self.model.template
            imitates = rubrics.imitates(question, rubric, answer) or template.spelt(prompt) is not None or self.turns.are_written_in(answer.text)
            known[rubric, prompt] = rubrics.IMITATION if imitates else self._probabilities(rubrics.labels(question, rubric), prompt, answer.text)
        found = known[rubric, prompt]
        if isinstance(found, str):
            return rubrics.missing(rubric, answer, self.identity, found)
        return rubrics.score(question, rubric, answer, self.identity, found)

    def _probabilities(self, labels: tuple[str, ...], prompt: str, said: str) -> Mapping[str, float] | str:
        """The probability of every label, or why there is none."""
        template, config = self.model.template, self.model.network.config.get_text_config()
        if labels not in self._trees:
            self._trees[labels] = label_tree(self.model.tokenizer, labels)
        if self.model.tokenizer.unk_token_id in template.text_ids(said):
            return UNKNOWN
        template.refuse_unknown(template.text_ids(prompt), prompt)
        ids = template.prompt_ids(chat(("user", prompt)))  # not the model's own, which keeps every prompt it ever saw
        if self.turns.count(ids) != self.turns.tokens:
            return rubrics.IMITATION
        if len(ids) + max(self._trees[labels].depths) > (getattr(config, "max_position_embeddings", None) or float("inf")):
            return TOO_LONG
        return {label: exp(nats) for label, nats in _read(self.model, ids, self._trees[labels]).items()}


def label_log_probabilities(model: LocalModel, prompt_ids: Sequence[int], labels: Sequence[str]) -> dict[str, float]:
    """log P(label and end of turn | prompt) in nats for every label, summed over its token paths; -inf for a label that has none."""
    return _read(model, prompt_ids, label_tree(model.tokenizer, labels))


@dataclass(frozen=True, slots=True, kw_only=True)
class Turns:
    """What a chat template makes of one message: how many of its tokens are `marks` (control tokens, and others that were added to a vocabulary and
    that the template writes), and the lines with a sign in them that it writes between the message and the reply, such as `[/INST]`.

    A prompt with another count holds a mark that is not the template's. A template whose turns are marked by words alone has no such lines.
    """

    marks: frozenset[int]
    tokens: int
    lines: tuple[str, ...]

    @classmethod
    def of(cls, template: ChatTemplate) -> Turns:
        ids, others = (template.prompt_ids(chat(("user", text))) for text in ("ask", "what"))
        same = takewhile(lambda pair: pair[0] == pair[1], zip(reversed(ids), reversed(others), strict=False))
        after: str = template.tokenizer.decode([token for token, _ in same][::-1])
        lines = {rubrics.bare(line) for line in after.splitlines() if _SIGNS.search(line)}
        added = {int(token) for token in template.tokenizer.added_tokens_decoder} & set(ids)
        marks = (template.control_ids | added) - {template.tokenizer.unk_token_id}
        return cls(marks=marks, tokens=sum(token in marks for token in ids), lines=tuple(sorted(line for line in lines if len(line) > 3)))

    def count(self, ids: Sequence[int]) -> int:
        return sum(token in self.marks for token in ids)

    def are_written_in(self, text: str) -> bool:
        said = rubrics.bare(text)
        return any(line in said for line in self.lines)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LabelTree:
    """The token paths of labels as one tree. Node 0 is the prompt; a parent comes before its children; `ends` holds what ends where."""

    labels: tuple[str, ...]
    tokens: tuple[int, ...]
    parents: tuple[int, ...]
    depths: tuple[int, ...]
    ends: Mapping[int, str]


def label_tree(tokenizer: Tokenizer, labels: Sequence[str]) -> LabelTree:
    """Raises SpilloverError when the tokenizer has no path for any label, or for any number where numbers are among the labels."""
    tokens, parents, depths, ends = [-1], [-1], [0], dict[int, str]()
    node_of: dict[tuple[int, ...], int] = {(): 0}
    for label in dict.fromkeys(labels):
        for path in token_paths(tokenizer, label):
            for depth in range(1, len(path) + 1):
                if path[:depth] not in node_of:
                    node_of[path[:depth]] = len(tokens)
                    tokens.append(path[depth - 1])
                    parents.append(node_of[path[: depth - 1]])
                    depths.append(depth)
            assert node_of[path] not in ends, "a path's text is its label, so no two labels share one"
            ends[node_of[path]] = label
    needed = [label for label in labels if label in rubrics.NUMBERS] or labels
    if not set(needed) & set(ends.values()):
        raise SpilloverError(f"the judge's tokenizer has no tokens for any of its labels ({', '.join(needed[:3])}, ...); choose another judge")
    return LabelTree(labels=tuple(labels), tokens=tuple(tokens), parents=tuple(parents), depths=tuple(depths), ends=ends)


def token_paths(tokenizer: Tokenizer, label: str) -> list[tuple[int, ...]]:
    """The distinct ways a judge writes a label: as it stands, after a space, and as it follows a line break.

    The last gives the label without the space that SentencePiece puts before any text.
    """

    def ids(text: str) -> tuple[int, ...]:
        return tuple(tokenizer(text, add_special_tokens=False)["input_ids"])

    line, after_line = ids("\n"), ids("\n" + label)
    forms = [ids(label), ids(" " + label), *([after_line[len(line) :]] if after_line[: len(line)] == line else [])]
    return [path for path in dict.fromkeys(forms) if tokenizer.decode(path, clean_up_tokenization_spaces=False).strip() == label]


@torch.no_grad()
def _read(model: LocalModel, prompt_ids: Sequence[int], tree: LabelTree) -> dict[str, float]:
    network, stops = model.network, sorted(model.stop_ids())
    model.refuse_foreign([*prompt_ids, *tree.tokens, *stops])
    wanted = sorted({*tree.tokens[1:], *stops})
    column = {token: place for place, token in enumerate(wanted)}

    def kept(logits_NV: torch.Tensor) -> torch.Tensor:
        return torch.cat([some_BV.double().log_softmax(-1)[:, wanted].cpu() for some_BV in logits_NV.split(32)])

    out = network(input_ids=torch.tensor([list(prompt_ids)], device=network.device), use_cache=True, logits_to_keep=1)
    past = getattr(out, "past_key_values", None)
    if type(past) is not DynamicCache:  # one of a network's own making may hold what cannot be copied from here
        raise SpilloverError(f"{type(network).__name__} keeps its prompt in a {type(past).__name__}, which a judge cannot read from; choose another judge")
    reader = _in_one_pass if _sees_all(network, past, len(prompt_ids) + max(tree.depths)) else _by_levels
    after_NW = torch.cat([kept(out.logits[0]), reader(network, past, tree, kept)])
    if after_NW.isnan().any():
        raise SpilloverError(f"the judge's probabilities are no numbers in {str(network.dtype).removeprefix('torch.')}; load it in bfloat16 or float32")
    ended, after = after_NW[:, [column[stop] for stop in stops]].logsumexp(-1).tolist(), after_NW.tolist()
    nats, found = [0.0], {label: list[float]() for label in tree.labels}
    for node in range(1, len(tree.tokens)):
        nats.append(nats[tree.parents[node]] + after[tree.parents[node]][column[tree.tokens[node]]])
        if node in tree.ends:
            found[tree.ends[node]].append(nats[node] + ended[node])
    return {label: float(torch.tensor(paths, dtype=torch.float64).logsumexp(0)) for label, paths in found.items()}


def _sees_all(network: Any, past: DynamicCache, length: int) -> bool:
    """Whether each of `length` tokens sees all before it in every layer, and takes its place and its mask as they are given."""
    config = network.config.get_text_config()
    takes = getattr(config, "rope_parameters", None) and not getattr(config, "alibi", False) and config._attn_implementation in ("sdpa", "eager")
    return bool(takes) and all(
        type(layer) is DynamicLayer or (type(layer) is DynamicSlidingWindowLayer and length <= layer.sliding_window) for layer in past.layers
    )


def _in_one_pass(network: Any, past: DynamicCache, tree: LabelTree, kept: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
    """What is kept after every node but the root, from one row of all nodes in which each sees the prompt, its ancestors and itself."""
    sees_NN = torch.eye(len(tree.tokens), dtype=torch.bool)
    for node in range(1, len(tree.tokens)):
        sees_NN[node] |= sees_NN[tree.parents[node]]
    length = past.get_seq_length()
    mask_NT = torch.zeros(len(tree.tokens) - 1, length + len(tree.tokens) - 1, dtype=network.dtype)
    mask_NT[:, length:].masked_fill_(~sees_NN[1:, 1:], torch.finfo(network.dtype).min)
    out = network(
        input_ids=torch.tensor([tree.tokens[1:]], device=network.device),
        position_ids=torch.tensor([[length + depth - 1 for depth in tree.depths[1:]]], device=network.device),
        attention_mask=mask_NT[None, None].to(network.device),
        past_key_values=past,
        use_cache=True,
    )
    return kept(out.logits[0])


def _by_levels(network: Any, past: DynamicCache, tree: LabelTree, kept: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
    """The same by ordinary decoding, a row for every node of a level: for any network that generates."""
    states = [state for layer in past.layers for held in vars(layer).values() for state in (held.values() if isinstance(held, dict) else [held])]
    row_bytes = 3 * sum(state.nbytes for state in states if isinstance(state, torch.Tensor))  # a level's, a copy of it, and the next level's
    at_once = rows_at_once(row_bytes, network.device, sum(weight.nbytes for weight in network.parameters()))
    after_W: dict[int, torch.Tensor] = {}

    def descend(past: DynamicCache, parents: list[int]) -> None:
        children = [(row, node) for row, parent in enumerate(parents) for node, above in enumerate(tree.parents) if above == parent]
        for first in range(0, len(children), at_once):
            some = children[first : first + at_once]
            mine: Any = past if first + at_once >= len(children) else deepcopy(past)
            mine.reorder_cache(torch.tensor([row for row, _ in some], device=network.device))
            ids_B1 = torch.tensor([[tree.tokens[node]] for _, node in some], device=network.device)
            out = network(input_ids=ids_B1, past_key_values=mine, use_cache=True, logits_to_keep=1)
            after_W.update(zip((node for _, node in some), kept(out.logits[:, -1]), strict=True))
            descend(mine, [node for _, node in some])

    descend(past, [0])
    return torch.stack([after_W[node] for node in range(1, len(tree.tokens))])
