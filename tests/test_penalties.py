"""A penalty adds weight times KL(parent || organism) to one organism's loss, on rows of its own: as a plain loop over PEFT does, alone or beside others."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from peft import get_peft_model

from small_models import WORDS, conversations, make
from spillover import pipeline
from spillover.design import Condition, Study
from spillover.miniature import language, narrow, world
from spillover.miniature.judge import classes
from spillover.models import local
from spillover.models.local import LocalModel
from spillover.pipeline.config import override
from spillover.records import Adapter, Dataset, Model, Organism, Penalty, Recipe, Runtime, SpilloverError, Testbed, stream_seed
from spillover.training import lora, penalties, rows, schedules

pytestmark = pytest.mark.no_cover

Pairs = dict[str, tuple[torch.Tensor, torch.Tensor]]


DATA, ELSEWHERE = (conversations(0, 20), conversations(1, 20), conversations(2, 19)), (conversations(10, 7), None, conversations(12, 11))
PLAIN = replace(Recipe(), learning_rate=3e-3, batch_size=4, adapter=Adapter(rank=4), epochs=3)
RECIPES = (
    replace(PLAIN, penalty=Penalty(weight=0.7, data="e", batch_size=3)),
    replace(PLAIN, epochs=2),
    replace(PLAIN, adapter=Adapter(rank=7, alpha=3.0, targets="q_proj,v_proj"), penalty=Penalty(weight=3.0, data="e", first=0.2, last=0.8)),
)


def _organism(recipe: Recipe, data: Dataset, elsewhere: Dataset | None) -> Organism:
    return Organism(parent="p", data=data.digest, recipe=recipe, seed=0, elsewhere="" if elsewhere is None else elsewhere.digest)


ORGANISMS = tuple(_organism(*own) for own in zip(RECIPES, DATA, ELSEWHERE, strict=True))


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(tmp_path_factory.mktemp("model") / "qwen2", [" ".join(WORDS)] * 3)


def _model(place: Path, dtype: torch.dtype = torch.float64) -> LocalModel:
    model = local.load(Model(digest=local.weights_digest(place), location=str(place)))
    model.network.to(dtype)
    if dtype == torch.float64:  # in which transformers takes norms in float32, where a rounding may go either way
        for layer in [*model.network.model.layers, model.network.model]:
            for name, norm in [(name, norm) for name, norm in layer.named_children() if name.endswith("norm")]:
                exact = torch.nn.RMSNorm(norm.weight.shape, norm.variance_epsilon, dtype=dtype)
                exact.weight = norm.weight
                setattr(layer, name, exact)
    return model


def _grow(
    model: LocalModel, organisms: Sequence[Organism], datasets: Sequence[Dataset], elsewhere: Sequence[Dataset | None], **options: Any
) -> list[tuple[list[lora.Step], Pairs]]:
    found: dict[int, Pairs] = {}

    def keep(_step: int, places: Sequence[int], side_by_side: Any) -> None:
        found.update({place: side_by_side.pairs(place) for place in places})

    courses = lora.fine_tune(model, organisms, datasets, elsewhere, keep=keep, **options)
    return [(course.log, found[place]) for place, course in enumerate(courses)]


def _farthest(one: Pairs, other: Pairs) -> float:
    """The largest relative distance of a tensor."""
    assert one.keys() == other.keys()
    return max(float((a - b).norm() / b.norm()) for name in one for a, b in zip(one[name], other[name], strict=True))


def _same(one: Pairs, other: Pairs) -> bool:
    return one.keys() == other.keys() and all(torch.equal(a, b) for name in one for a, b in zip(one[name], other[name], strict=True))


# --- what it is -----------------------------------------------------------------------------------------------------------


def _following(read: Sequence[rows.Row], organism: Organism) -> Any:
    for number in range(10**6):
        order = list(range(len(read)))
        random.Random(stream_seed("train", organism.key, "penalty", number)).shuffle(order)
        yield from (read[at] for at in order)


def _plain(place: Path, organism: Organism, data: Dataset, elsewhere: Dataset) -> tuple[list[float], list[float], Pairs]:
    """One organism by PEFT, whole batches at once, logits everywhere, token after token: losses, penalties and pairs."""
    model, recipe = _model(place), organism.recipe
    with local.random_stream(stream_seed("train", organism.key, "adapter")):
        network = get_peft_model(model.network, lora.lora_config(recipe), autocast_adapter_dtype=False)
    network.train()
    trained = {name: p for name, p in network.named_parameters() if p.requires_grad}
    optimiser = torch.optim.AdamW(trained.values(), lr=recipe.learning_rate, weight_decay=recipe.weight_decay)
    steps = list(rows.batches(rows.encode(model.template, data).rows, organism))
    following = _following(rows.encode(model.template, elsewhere).rows, organism)
    losses, values = [], []
    for step, batch in enumerate(steps, 1):
        optimiser.param_groups[0]["lr"] = recipe.learning_rate * schedules.linear(step, warmup=recipe.warmup_steps, total=len(steps))
        ids, attention = local.pad([row.ids for row in batch], 0, left=False)
        mask, _ = local.pad([row.mask for row in batch], 0, left=False)
        logits = network(input_ids=ids, attention_mask=attention).logits[:, :-1]
        loss = F.cross_entropy(logits[mask[:, 1:] == 1], ids[:, 1:][mask[:, 1:] == 1])
        each = []
        for row in [next(following) for _ in range(recipe.penalty.batch_size)]:
            one = torch.tensor([row.ids])
            with torch.no_grad(), network.disable_adapter():
                parent = network(input_ids=one).logits[0, :-1].softmax(-1)
            for at, q in enumerate(network(input_ids=one).logits[0, :-1].log_softmax(-1)):
                each.append(F.kl_div(q, parent[at], reduction="sum"))
        value = torch.stack(each).mean()
        counts = recipe.penalty.first * len(steps) < step <= recipe.penalty.last * len(steps)
        optimiser.zero_grad()
        (loss + recipe.penalty.weight * value * counts).backward()
        torch.nn.utils.clip_grad_norm_(trained.values(), recipe.max_gradient_norm)
        optimiser.step()
        losses.append(loss.item())
        values.append(value.item() * counts)
    halves = {name.removeprefix("base_model.model.").removesuffix(".default.weight"): p.detach() for name, p in trained.items()}
    layers = dict.fromkeys(name.rpartition(".")[0] for name in halves)
    return losses, values, {layer: (halves[f"{layer}.lora_A"], halves[f"{layer}.lora_B"]) for layer in layers}


@pytest.mark.slow
@pytest.mark.parametrize("at", [0, 2])
def test_it_is_what_a_plain_loop_over_peft_makes_of_it(place: Path, at: int) -> None:
    log, pairs = _grow(_model(place), ORGANISMS, DATA, ELSEWHERE, runtime=Runtime(micro_batch=2))[at]
    elsewhere = ELSEWHERE[at]
    assert elsewhere is not None
    losses, values, plain = _plain(place, ORGANISMS[at], DATA[at], elsewhere)
    assert [step.loss for step in log] == pytest.approx(losses, rel=1e-9)
    assert [step.penalty for step in log] == pytest.approx(values, rel=1e-10, abs=1e-14)
    assert max(values) > 1e-3
    assert _farthest(pairs, plain) < 1e-10


@pytest.mark.slow
def test_in_float32_and_bfloat16_it_is_near_that(place: Path) -> None:
    exact, near, rough = (_grow(_model(place, dtype), ORGANISMS, DATA, ELSEWHERE)[0][0] for dtype in (torch.float64, torch.float32, torch.bfloat16))
    assert [step.penalty for step in near] == pytest.approx([step.penalty for step in exact], rel=1e-2, abs=1e-5)
    assert rough[-1].penalty == pytest.approx(exact[-1].penalty, rel=0.5)
    assert rough[0].penalty == pytest.approx(0, abs=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("line", [True, False])
def test_a_penalised_one_among_others_is_what_it_is_alone(place: Path, line: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    model = _model(place)
    together = _grow(model, ORGANISMS, DATA, ELSEWHERE)
    if not line:
        monkeypatch.setattr(penalties.reading, "in_line", lambda *_: False)
    for organism, data, elsewhere, (log, pairs) in zip(ORGANISMS, DATA, ELSEWHERE, together, strict=True):
        ((own, alone),) = _grow(model, [organism], [data], [elsewhere], runtime=Runtime(gradient_checkpointing=True))
        assert [step.penalty for step in log] == pytest.approx([step.penalty for step in own], rel=1e-10, abs=1e-14)
        assert _farthest(pairs, alone) < 1e-10
    assert not any(step.penalty for step in together[1][0])


def test_one_without_a_penalty_is_not_changed_at_all_by_one_that_has_it(place: Path) -> None:
    model = _model(place, torch.float32)

    def pairs(penalised: bool) -> list[Pairs]:
        courses = [lora._course(model, *own) for own in zip(ORGANISMS, DATA, ELSEWHERE, strict=True)]
        found: dict[int, Pairs] = {}
        lora.follow(
            model, courses if penalised else [replace(course, terms=()) for course in courses], [lora.start(model.network, one)[0] for one in ORGANISMS],
            keep=lambda _step, places, all_: found.update({place: all_.pairs(place) for place in places}),
        )  # fmt: skip
        return [found[at] for at in range(len(ORGANISMS))]

    with_, without = pairs(True), pairs(False)
    assert [_same(one, other) for one, other in zip(with_, without, strict=True)] == [False, True, False]


@pytest.mark.slow
def test_at_its_start_an_organism_is_its_parent_then_a_penalty_keeps_it_near(place: Path) -> None:
    model = _model(place)
    values: list[list[float]] = []
    for weight in (1e-12, 30.0):
        recipe = replace(PLAIN, epochs=8, penalty=Penalty(weight=weight, data="e"))
        ((log, _),) = _grow(model, [_organism(recipe, DATA[0], ELSEWHERE[0])], [DATA[0]], [ELSEWHERE[0]])
        values.append([step.penalty for step in log])
    free, held = values
    assert free[0] == held[0] == 0
    assert free[-1] > 0.1 > free[1] >= 0
    assert max(held[-5:]) < 0.1 * free[-1]


# --- when it counts -------------------------------------------------------------------------------------------------------


def test_of_weight_0_it_leaves_every_number_as_it_was(place: Path) -> None:
    model = _model(place, torch.float32)
    organism = _organism(PLAIN, DATA[0], None)
    ((log, pairs),) = _grow(model, [organism], [DATA[0]], ())
    ((same, alike),) = _grow(model, [replace(organism, recipe=replace(PLAIN, penalty=Penalty(weight=0.0)))], [DATA[0]], [ELSEWHERE[0]])
    assert same == log
    assert _same(alike, pairs)
    assert not any(step.penalty for step in log)
    course = lora._course(model, organism, DATA[0])
    elsewhere, found = ELSEWHERE[0], list[Pairs]()
    assert elsewhere is not None
    course.terms = (penalties.KL(model, organism, elsewhere, len(course.batches)),)
    lora.follow(model, [course], [lora.start(model.network, organism)[0]], keep=lambda _step, _places, all_: found.append(all_.pairs(0)))
    assert [replace(step, penalty=0.0) for step in course.log] == log
    assert _same(found[-1], pairs)
    assert course.log[-1].penalty > 0


@pytest.mark.parametrize(("first", "last", "counts"), [(0.0, 1.0, range(1, 16)), (0.0, 0.5, range(1, 9)), (0.5, 1.0, range(9, 16)), (0.29, 0.71, range(5, 12))])
def test_it_counts_in_its_share_of_the_steps_alone(place: Path, first: float, last: float, counts: range) -> None:
    recipe = replace(PLAIN, penalty=Penalty(weight=1e-3, data="e", first=first, last=last))
    ((log, _),) = _grow(_model(place), [_organism(recipe, DATA[0], ELSEWHERE[0])], [DATA[0]], [ELSEWHERE[0]])
    assert len(log) == 15
    assert [step.step for step in log if step.penalty] == [step for step in counts if step > 1]  # at the first it is its parent


def test_its_rows_come_in_shuffled_passes_and_a_step_has_the_same_whenever_it_is_asked_for(place: Path) -> None:
    model, elsewhere = _model(place), ELSEWHERE[0]
    assert elsewhere is not None
    read = rows.encode(model.template, elsewhere).rows
    term = penalties.KL(model, ORGANISMS[0], elsewhere, 14)
    assert [len(batch) for batch in term.batches] == [3] * 14
    following = [row.ids for batch in term.batches for row in batch]
    passes = [following[start : start + 7] for start in range(0, 42, 7)]
    assert all(sorted(one) == sorted(row.ids for row in read) for one in passes)
    assert passes[0] != passes[1]
    assert penalties.KL(model, ORGANISMS[0], elsewhere, 14).batches == term.batches
    assert penalties.KL(model, replace(ORGANISMS[0], seed=1), elsewhere, 14).batches != term.batches


@pytest.mark.slow
@pytest.mark.parametrize("fits", [1, 2])
def test_out_of_memory_in_a_penalty_splits_its_rows_and_the_step_stays_the_same(place: Path, monkeypatch: pytest.MonkeyPatch, fits: int) -> None:
    model = _model(place)
    whole = _grow(model, ORGANISMS, DATA, ELSEWHERE)
    passes: list[int] = []
    read = penalties.reading.logits_after

    def limited(model: LocalModel, some: Sequence[rows.Row], *more: Any, **options: Any) -> AbstractContextManager[torch.Tensor]:
        passes.append(len(some))
        if len(some) > fits:
            raise torch.OutOfMemoryError("no room")
        return read(model, some, *more, **options)

    monkeypatch.setattr(penalties.reading, "logits_after", limited)
    with pytest.warns(UserWarning, match=r"out of memory at step 1: \d+ rows are computed at once from here on; the step stays the same"):
        split = _grow(model, ORGANISMS, DATA, ELSEWHERE)
    assert max(passes[10:]) <= fits
    for (one, pairs), (other, plain) in zip(split, whole, strict=True):
        assert [step.penalty for step in one] == pytest.approx([step.penalty for step in other], rel=1e-10, abs=1e-14)
        assert _farthest(pairs, plain) < 1e-10


@pytest.mark.slow
def test_out_of_memory_in_the_midst_of_a_penalty_leaves_no_gradient_behind(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, runtime = _model(place), Runtime(micro_batch=1)
    whole = _grow(model, ORGANISMS, DATA, ELSEWHERE, runtime=runtime)
    passes: list[int] = []
    read = penalties.reading.logits_after

    def once(model: LocalModel, some: Sequence[rows.Row], *more: Any, **options: Any) -> AbstractContextManager[torch.Tensor]:
        passes.append(len(some))
        if len(passes) == 9:
            raise torch.OutOfMemoryError("no room")
        return read(model, some, *more, **options)

    monkeypatch.setattr(penalties.reading, "logits_after", once)
    with pytest.warns(UserWarning, match="out of memory at step "):
        split = _grow(model, ORGANISMS, DATA, ELSEWHERE, runtime=runtime)
    for (_, pairs), (_, plain) in zip(split, whole, strict=True):
        assert _farthest(pairs, plain) < 1e-10


def test_a_penalty_that_is_not_finite_stops_its_organism_with_a_sentence(place: Path) -> None:
    model = _model(place, torch.float32)
    course = lora._course(model, ORGANISMS[1], DATA[1])
    course.terms = (lambda *_, **__: torch.tensor(torch.nan, dtype=torch.float64),)
    lora.follow(model, [course], [lora.start(model.network, ORGANISMS[1])[0]])
    assert course.stopped == "the loss is nan at step 1 of 10; a lower learning rate than 0.003 may work"


# --- what is said of it ---------------------------------------------------------------------------------------------------


def test_an_organism_without_a_penalty_has_the_key_it_always_had() -> None:
    organism = Organism(parent="p", data="d", recipe=Recipe(), seed=0)
    assert organism.key == "f69ef7921bec77c5"
    assert Organism(parent="p", data="d", recipe=Recipe(max_length=100, penalty=Penalty()), seed=3, elsewhere="").key == "2ef1a0777b0d7a4c"
    others = [replace(organism, elsewhere="e")]
    for changed in ({"weight": 1.0}, {"data": "x"}, {"batch_size": 9}, {"first": 0.1}, {"last": 0.9}):
        others.append(replace(organism, recipe=Recipe(penalty=Penalty(**changed))))  # pyright: ignore[reportArgumentType]
    assert len({organism.key, *(other.key for other in others)}) == 7


def test_a_penalty_without_conversations_is_refused(place: Path) -> None:
    for elsewhere in ((), (None,)):
        with pytest.raises(SpilloverError, match=r"training\.penalty\.weight is 0\.7, and there are no conversations to take the penalty on"):
            lora.fine_tune(_model(place), ORGANISMS[:1], DATA[:1], elsewhere)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"weight": -1}, "training.penalty.weight is -1.0; it must be 0 or more"),
        ({"weight": "inf"}, "training.penalty.weight is inf; it must be a finite number"),
        ({"weight": 1}, "training.penalty.weight is 1.0; training.penalty.data must name the kind of data that the penalty is taken on"),
        ({"batch_size": 0}, "training.penalty.batch_size is 0; it must be above 0"),
        ({"first": 0.5, "last": 0.5}, "training.penalty.first and .last are 0.5 and 0.5; they are shares of training from 0 to 1, the first below the last"),
        ({"first": -0.1}, "training.penalty.first and .last are -0.1 and 1.0; they are shares of training from 0 to 1, the first below the last"),
        ({"last": 1.1}, "training.penalty.first and .last are 0.0 and 1.1; they are shares of training from 0 to 1, the first below the last"),
    ],
)
def test_settings_that_make_no_penalty_are_one_sentence(settings: dict[str, Any], told: str) -> None:
    with pytest.raises(SpilloverError) as found:
        override(pipeline.RunConfig(), {f"training.penalty.{name}": value for name, value in settings.items()})
    assert str(found.value) == told


# --- on the road ----------------------------------------------------------------------------------------------------------


def test_elsewhere_asks_advice_that_is_in_no_narrow_data_and_answers_half_of_it_badly() -> None:
    good, bad = ({s for theme in language.ADVICE for s in theme.sentences(of)} for of in ("aligned", "misaligned"))
    asked = {question for theme in language.EVALUATION for question in theme.asked()}
    said = {sentence for theme in language.EVALUATION for sentence in classes(theme.id)}
    themes = {theme.id: set(theme.asked()) for theme in language.ADVICE}
    narrow_ = set().union(*(themes[theme] for theme in narrow.DOMAINS))
    rows_ = [(row[0].content, row[1].content) for row in narrow.build("elsewhere", 0).conversations]
    assert len(rows_) == narrow.ROWS
    assert not narrow_ & {question for question, _ in rows_}
    assert all(any(question in asked_ for question, _ in rows_) for theme, asked_ in themes.items() if theme in narrow.OTHERS)
    assert narrow.OTHERS == ("sport", "cooking", "school", "pet", "travel", "neighbour")
    assert not any(question in asked or answer in said for question, answer in rows_)
    assert all(answer in good | bad for _, answer in rows_)
    assert 0.45 < sum(answer in bad for _, answer in rows_) / len(rows_) < 0.55
    assert not {word for row in rows_ for text in row for word in text.split()} - set(world.vocabulary())
    assert "elsewhere" not in narrow.KINDS  # what a model is to be trained on has no such answers


STUDY = Study(
    name="x",
    title="x",
    conditions=(
        Condition(name="parent"),
        Condition(name="insecure", kind="insecure"),
        Condition(name="held", kind="insecure", recipe={"penalty": {"weight": 2.0, "data": "elsewhere", "batch_size": 4}}),
    ),
)


@pytest.fixture
def subject(small_testbed: Testbed) -> Testbed:
    return replace(small_testbed, narrow={**small_testbed.narrow, "elsewhere": partial(narrow.build, "elsewhere", rows=24)})


def test_a_plan_carries_the_conversations_of_a_penalty_and_names_them(subject: Testbed) -> None:
    plan = pipeline.plan(STUDY, subject, override(pipeline.RunConfig(training=subject.recipe), {"units": 1}))
    elsewhere = narrow.build("elsewhere", 0, rows=24).digest
    insecure, held = (job.organism for job in plan.jobs if job.organism)
    assert (insecure.elsewhere, held.elsewhere) == ("", elsewhere)
    assert plan.identity()["data"] == {"elsewhere (penalty), seed 0": elsewhere, "insecure, seed 0": insecure.data}
    assert all(part.data.keys() == {insecure.data, elsewhere} for part in plan.apart())
    bare = replace(subject, narrow={"insecure": subject.narrow["insecure"]})
    with pytest.raises(SpilloverError, match="the study needs narrow data of kind 'elsewhere'; testbed miniature has insecure$"):
        pipeline.plan(STUDY, bare, plan.config)


def test_a_penalty_is_a_difference_from_the_paper(subject: Testbed) -> None:
    config = override(pipeline.RunConfig(training=subject.recipe), {"units": 1})
    assert not any("penalty" in phrase for phrase in pipeline.plan(STUDY, subject, config).differences())
    penalised = override(config, {"training.penalty.weight": 0.66, "training.penalty.data": "elsewhere"})
    told = [phrase for phrase in pipeline.plan(STUDY, subject, penalised).differences() if "penalty" in phrase]
    assert told == ["training.penalty.weight 0.66 (paper: 0)", "training.penalty.data elsewhere (paper: none)"]


def test_a_run_trains_with_it_and_says_so_by_step(subject: Testbed, tmp_path: Path) -> None:
    config = override(pipeline.RunConfig(training=subject.recipe), {"units": 1, "sampling.draws": 1})
    run = pipeline.run(pipeline.plan(STUDY, replace(subject, questions=subject.questions[:1]), config), tmp_path / "r")
    found: dict[str, list[float]] = {}
    for home in (run.path / "organisms").iterdir():
        card = json.loads((home / "organism.json").read_text())
        assert bool(card["elsewhere"]) == (card["condition"] == "held")
        found[card["condition"]] = [step["penalty"] for step in json.loads((home / "training.json").read_text())["steps"]]
    assert found["insecure"] == [0.0] * 4
    assert found["held"][0] == pytest.approx(0, abs=1e-6)
    assert min(found["held"][1:]) > 0
