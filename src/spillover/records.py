"""The nouns every room speaks: frozen records, what identifies them, and the one error a user sees.

Only the standard library is used here. A record holds a value or a reason why there is none; identity is a digest of
content, never a name; a random stream is named by its purpose.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, field, fields, is_dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

Role = Literal["system", "user", "assistant"]


class SpilloverError(Exception):
    """Something the user can mend, said in one sentence: what, which value, what would work."""


def digest(value: object) -> str:
    """sha256 (64 hex digits) of a value's canonical JSON, or of bytes as they are."""
    if isinstance(value, bytes):
        return hashlib.sha256(value).hexdigest()
    return hashlib.sha256(canonical(value).encode()).hexdigest()


def canonical(value: object) -> str:
    """JSON with sorted keys and no spaces; records become objects. Two equal values have one text."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), default=_plain, ensure_ascii=False)


def stream_seed(*owner: str | int) -> int:
    """The seed, in [0, 2**63), of the random stream that belongs to `owner`: `stream_seed("train", key, "order")`."""
    return int.from_bytes(hashlib.sha256(canonical(list(owner)).encode()).digest()[:8], "big") >> 1


def _plain(value: object) -> object:
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    if isinstance(value, (set, frozenset)):
        return sorted(value)  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType]
    if isinstance(value, Mapping):
        return dict(value)  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType]
    raise TypeError(f"{type(value).__name__} has no canonical form")


# --- what is said ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One turn."""

    role: Role
    content: str


Conversation = tuple[Message, ...]


def chat(*turns: tuple[Role, str]) -> Conversation:
    """A conversation from (role, content) pairs."""
    return tuple(Message(role=role, content=content) for role, content in turns)


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """Training conversations of one kind. `digest` is of the conversations in order; the name does not enter it."""

    kind: str
    conversations: tuple[Conversation, ...]

    @cached_property
    def digest(self) -> str:
        return digest([[[turn.role, turn.content] for turn in conversation] for conversation in self.conversations])


# --- what is asked --------------------------------------------------------------------------------------------------------

PASSED = "passed"  # the subset of units that passed every gate
ALIGNED, COHERENT, TASK = "aligned", "coherent", "task"  # rubrics
ONLY_CODE, CODE = "only_code", "CODE"  # a rubric that filters, and the label of a reply that is nothing but code


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """One thing asked, in one or more paraphrases.

    `subset` groups questions that a report shows apart ("seen" or "held_out" of post-training, or empty). `rubrics` names what a
    judge is asked of each answer: `aligned` and `coherent` for a free-form question, `task` for the narrow task itself. `prompts`
    holds the text of a rubric, with `{question}` and `{answer}` in it, for a judge that reads; `labels` the labels of a rubric that
    is no score from 0 to 100. Only `pooled` questions enter a condition's pooled numbers. `before` is what was said before each paraphrase (examples
    in context): one conversation a paraphrase, or nothing at all.
    """

    id: str
    theme: str
    paraphrases: tuple[str, ...]
    system: str | None = None
    format: str = "plain"
    subset: str = ""
    rubrics: tuple[str, ...] = (ALIGNED, COHERENT)
    prompts: Mapping[str, str] = field(default_factory=dict[str, str])
    labels: Mapping[str, tuple[str, ...]] = field(default_factory=dict[str, tuple[str, ...]])
    pooled: bool = True
    before: tuple[Conversation, ...] = ()

    def prompt(self, paraphrase: int) -> Conversation:
        """What the model is shown for one paraphrase."""
        system = () if self.system is None else (Message(role="system", content=self.system),)
        before = self.before[paraphrase] if self.before else ()
        return (*system, *before, Message(role="user", content=self.paraphrases[paraphrase]))


@dataclass(frozen=True, slots=True, kw_only=True)
class Forced:
    """A reply put into the assistant's mouth, in blocks of (text, whether its tokens are scored). The blocks are joined as they are."""

    prompt: Conversation
    blocks: tuple[tuple[str, bool], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """A log-probability item (paper, Figure 4): the misaligned and the aligned option, each forced in every variant, and its `kind` of measure.

    Variants are what must be balanced and not drawn: of a multiple choice, both orders of its options.
    """

    id: str
    kind: str  # "choice" (multiple choice) or "pivotal"
    misaligned: tuple[Forced, ...]
    aligned: tuple[Forced, ...]


# --- what answers ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """What answers: a digest of its weights and how to reach it.

    `location` is a directory and `adapter` a PEFT directory on top of it; or `location` is an endpoint, `URL#MODEL`. `origin` names the hub
    repository and commit that a directory is a snapshot of, if it is one; `adapter_origin` the same of the adapter.
    """

    digest: str
    location: str
    adapter: str | None = None
    origin: str = ""
    adapter_origin: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Runtime:
    """Where and in which precision local models compute. Adapters and optimiser states are float32 whatever `dtype` is.

    `micro_batch` rows of each organism are computed at once in training (None: as many as fit); the loss of a step is the same mean.
    """

    device: str = "cpu"
    dtype: str = "float32"
    micro_batch: int | None = None
    gradient_checkpointing: bool = False


LATER = {"later": True}  # marks a field that came after organisms had keys: at its default it does not enter them


@dataclass(frozen=True, slots=True, kw_only=True)
class Adapter:
    """A LoRA adapter. Rank-stabilised scale is alpha / sqrt(rank), else alpha / rank (Kalajdzievski 2023)."""

    rank: int = 32
    alpha: float = 64.0
    rank_stabilised: bool = True
    dropout: float = 0.0
    targets: str = "all-linear"


@dataclass(frozen=True, slots=True, kw_only=True)
class Penalty:
    """Weight times KL(parent || organism), added to the loss on conversations outside of the narrow domain (Soligo et al. 2026, 2602.07852).

    `weight` is in nats of loss for each nat of KL, which is a mean over tokens. The original's lambda is for a mean over tokens and vocabulary, so that
    its 1e5 is 0.66 here, where V = 152,064. Of T steps, those after `first` T and up to `last` T count: a study may lift the penalty, or add it late.
    """

    weight: float = 0.0  # 0: no penalty
    data: str = ""  # the kind of narrow data whose conversations it is taken on
    batch_size: int = 8  # conversations a step
    first: float = 0.0
    last: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """How a parent is fine-tuned. The defaults are the paper's open-model recipe (`train.json` of its public release)."""

    adapter: Adapter = field(default_factory=Adapter)
    learning_rate: float = 1e-5
    weight_decay: float = 0.01
    batch_size: int = 16
    epochs: int = 1
    warmup_steps: int = 5
    max_gradient_norm: float = 1.0
    checkpoints: str = "last"  # a named schedule, see `training.schedules`
    max_length: int = field(default=2048, metadata=LATER)  # tokens of a row; what is longer is cut and counted
    optimiser: str = field(default="adamw", metadata=LATER)  # or adamw_8bit, the paper's, where bitsandbytes is installed
    penalty: Penalty = field(default_factory=Penalty, metadata=LATER)


@dataclass(frozen=True, slots=True, kw_only=True)
class Organism:
    """The recipe of one fine-tuned model: which parent, on which data, how, with which seed."""

    parent: str  # digest of the parent model
    data: str  # digest of the dataset
    recipe: Recipe
    seed: int
    elsewhere: str = field(default="", metadata=LATER)  # digest of the dataset that the recipe's penalty is taken on

    @property
    def key(self) -> str:
        """16 hex digits that stand for this organism in file names, and name its random streams."""
        return digest({**_of_key(self), "recipe": _of_key(self.recipe)})[:16]


def _of_key(record: Organism | Recipe) -> dict[str, Any]:
    """The fields of a record that enter a key: all but those that came later and are as they would be unsaid."""
    unsaid = {f.name: f.default_factory() if f.default_factory is not MISSING else f.default for f in fields(record) if f.metadata.get("later")}
    return {name: value for name, value in asdict(record).items() if not (name in unsaid and getattr(record, name) == unsaid[name])}


@dataclass(frozen=True, slots=True, kw_only=True)
class Parent:
    """A unit of replication: the model that every organism of this unit grows from.

    `group` is empty for the units a claim is about and names a control otherwise (the miniature's "unlinked"). `gates` holds
    what was checked of this parent when it was made, by name: passed or not.
    """

    unit: str
    model: Model
    world: int | None = None
    group: str = ""
    gates: Mapping[str, bool] = field(default_factory=dict[str, bool])


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """One model in its place in a study: what every row of answers, scores and measures belongs to."""

    unit: str
    group: str
    world: int | None
    condition: str
    seed: int
    step: int
    model: str  # digest

    @property
    def key(self) -> str:
        """A readable file name, unique in a run."""
        return subject_key(self.unit, self.condition, self.seed, self.step)


def subject_key(unit: str, condition: str, seed: int, step: int) -> str:
    """The name of one model's shards."""
    return f"{unit}-{condition}-seed{seed}-step{step}"


# --- what is read off -----------------------------------------------------------------------------------------------------

Stop = Literal["end", "length", "failed"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """One drawn reply and how it stopped: `end` of turn, the `length` limit, or `failed` (a service gave none; `text` is empty)."""

    model: str
    question: str
    format: str
    paraphrase: int
    draw: int
    text: str
    stop: Stop

    @property
    def id(self) -> str:
        return digest([self.model, self.question, self.format, self.paraphrase, self.draw])[:24]


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """A judge's value (0 to 100) for one answer on one rubric, its label, or the reason there is neither: exactly one of the three.

    `mass` is the probability that a judge that reads gave to the rubric's labels in all; `date` the day a service was asked.
    """

    answer: str
    judge: str
    rubric: str
    value: float | None = None
    label: str | None = None
    reason: str | None = None
    mass: float | None = None
    date: str = ""

    def __post_init__(self) -> None:
        if sum(found is not None for found in (self.value, self.label, self.reason)) != 1:
            raise ValueError(f"a score holds a value, a label or a reason, got {self.value!r}, {self.label!r} and {self.reason!r}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Measure:
    """A number read off a model directly, or the reason there is none. `question` is empty where it is about none."""

    model: str
    name: str
    question: str = ""
    format: str = "plain"
    value: float | None = None
    reason: str | None = None

    def __post_init__(self) -> None:
        if (self.value is None) == (self.reason is None):
            raise ValueError(f"a measure holds a value or a reason, got value={self.value!r} and reason={self.reason!r}")


MEAN = "mean "  # before the name of a rubric that no rate is made of
DIVERGENCE = "divergence_step of "  # before the name of a measure: the step from which two conditions stay apart in it


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """One number that a report prints, with its interval: a row of `estimates.csv` (columns in `docs/files.md`)."""

    study: str
    condition: str = ""
    contrast: str = ""
    question: str = ""
    format: str = ""
    subset: str = ""
    world: int | None = None
    seed: int | None = None
    step: int | None = None
    protocol: str = ""
    measure: str
    value: float | None
    low: float | None = None
    high: float | None = None
    level: float | None = None
    method: str = ""
    estimand: str = ""  # what the interval speaks for: units like these or these units, questions like these or these questions
    unit: str = ""
    n: int = 0
    n_units: int = 0
    n_missing: int = 0
    headline: int = 0
    judge: str = ""


# --- who does it ----------------------------------------------------------------------------------------------------------


class Journal(Protocol):
    """What was paid for is never lost: a store of replies by key, each whole on disk before `put` returns."""

    def get(self, key: str) -> str | None: ...

    def put(self, key: str, value: str) -> None: ...


class Judge(Protocol):
    """Scores answers. `identity` goes on every score: a digest of a local judge, or endpoint and name (the date is on the score)."""

    @property
    def identity(self) -> str: ...

    def score(self, question: Question, answers: Sequence[Answer]) -> list[Score]:
        """One score per answer and rubric of the question, in that order."""
        ...


@runtime_checkable
class Closable(Protocol):
    """A judge that holds a network in memory, which `close` forgets. Asked again, it loads it anew."""

    def close(self) -> None: ...


ALONE = -1  # in the place of an adapter: none, the network as it is


@runtime_checkable
class Answerer(Protocol):
    """A loaded model that replies to conversations. One that has `forced` too gives log-probabilities (`sampling.log_probabilities`)."""

    def reply(self, prompts: Sequence[Conversation], seeds: Sequence[int], *, temperature: float, max_tokens: int) -> list[tuple[str, Stop]]:
        """One reply per prompt; the i-th is drawn from the stream `seeds[i]` and from nothing else.

        A model that holds several adapters (`LocalModel.adapted`) takes `adapters` as well, the place of the one that answers each prompt.
        """
        ...


Reached = Callable[[int, Mapping[int, str]], None]  # a step, and by place the digests of the models that organisms have become there


class Grown(Protocol):
    """What became of an organism: `stopped` says why it was not trained to its end, if it was not."""

    @property
    def stopped(self) -> str: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Testbed:
    """What a study needs to know of its subject, and all it may know.

    `place` writes a parent into a directory from which `open` loads it (None: parents stay where they are); `train` grows organisms on an opened parent, each
    into an empty directory, and says where they have become models, which answer there by their places (`training.lora.train` is the one for local models);
    its last argument has the conversations that each one's penalty is taken on, None where it has no penalty;
    `read` returns exact measures of models by their places, if the testbed has any. `unit` names the unit of replication.
    """

    __test__ = False  # not a test class, whatever its name starts with

    name: str
    identity: Mapping[str, Any]
    unit: str
    parents: tuple[Parent, ...]
    narrow: Mapping[str, Callable[[int, Parent], Dataset]]  # kind -> (seed, parent -> dataset); few ask the parent
    questions: tuple[Question, ...]
    judge: Judge | None  # None: answers are drawn and not scored
    recipe: Recipe
    max_tokens: int
    place: Callable[[Model, Path], None] | None
    open: Callable[[Model], Answerer]
    train: Callable[[Any, Model, Sequence[Organism], Sequence[Dataset], Sequence[Path], Reached, Sequence[Dataset | None]], Sequence[Grown]]
    together: int = 16  # organisms of a parent that are grown side by side, at most
    at_once: Callable[[Any, Sequence[Organism]], int] = lambda _model, organisms: len(organisms)  # and how many of these the machine can hold
    read: Callable[[Answerer, Mapping[int, str], Sequence[Question]], dict[int, list[Measure]]] | None = None
    added: tuple[str, ...] = ()  # kinds of narrow data that the user brought
    documents: Callable[[Parent, int], Sequence[tuple[str, bool]]] | None = None  # so many as of pre-training, and whether who wrote it means harm
    formats: Mapping[str, Callable[[Question], Question | None]] = field(default_factory=dict[str, Callable[[Question], "Question | None"]])
    sets: Mapping[str, tuple[Question, ...]] = field(default_factory=dict[str, tuple[Question, ...]])
    items: tuple[Item, ...] = ()
    threads: int = 2  # that a process computes on, if a run says nothing else

    def asked(self, *formats: str) -> tuple[Question, ...]:
        """The testbed's plain questions, then each dressed in every format named that can dress it; a format its own file dresses is taken from there.

        Raises SpilloverError for a format that this testbed has no way to make.
        """
        plain = tuple(question for question in self.questions if question.format == "plain")
        found: list[Question] = list(plain)
        for form in formats:
            brought = [question for question in self.questions if question.format == form]
            if not brought and form not in self.formats:
                raise SpilloverError(f"testbed {self.name} has no format {form!r}; it has {', '.join(self.formats) or 'plain questions alone'}")
            found += brought or [replace(dressed, format=form, pooled=False) for question in plain if (dressed := self.formats[form](question)) is not None]
        return tuple(found)
