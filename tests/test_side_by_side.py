"""Organisms trained and asked side by side are what they are alone, and what a plain loop over PEFT makes of each."""

from __future__ import annotations

import gc
import weakref
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from peft import get_peft_model
from scipy.stats import chi2_contingency

from small_models import ARCHITECTURES, WORDS, conversations, make
from spillover.models import adapters, local
from spillover.models.local import LocalModel
from spillover.models.side_by_side import SideBySide
from spillover.records import ALONE, Adapter, Dataset, Forced, Model, Organism, Recipe, Runtime, SpilloverError, chat, stream_seed
from spillover.training import lora, rows, schedules

pytestmark = pytest.mark.no_cover

Tensors = Mapping[str, tuple[torch.Tensor, torch.Tensor]]


# datasets of different sizes and lengths, learning rates, warm-ups, clipping, ranks, layers
RECIPE = replace(Recipe(), learning_rate=1e-3, batch_size=4, adapter=Adapter(rank=4), epochs=10)
OTHERS = (
    RECIPE,
    replace(RECIPE, learning_rate=3e-3, warmup_steps=20, weight_decay=0.1),
    replace(RECIPE, max_gradient_norm=0.05, epochs=11),
    replace(RECIPE, adapter=Adapter(rank=7, alpha=3.0, rank_stabilised=False, targets="q_proj,v_proj")),
)
DATA = (conversations(0, 20), conversations(1, 20), conversations(2, 19), conversations(3, 22))


@dataclass(frozen=True, kw_only=True)
class Trained:
    losses: list[float]
    pairs: Tensors


def _organism(recipe: Recipe, data: Dataset, seed: int = 0) -> Organism:
    return Organism(parent="p", data=data.digest, recipe=recipe, seed=seed)


ORGANISMS = tuple(_organism(recipe, data) for recipe, data in zip(OTHERS, DATA, strict=True))
SHORT = tuple(_organism(replace(recipe, epochs=2), data) for recipe, data in zip(OTHERS, DATA, strict=True))


def _grow(model: LocalModel, organisms: Sequence[Organism], datasets: Sequence[Dataset], **options: Any) -> list[Trained]:
    found: dict[int, Tensors] = {}
    courses = lora.fine_tune(
        model, organisms, datasets, keep=lambda _step, places, side_by_side: found.update({place: side_by_side.pairs(place) for place in places}), **options
    )
    return [Trained(losses=[step.loss for step in course.log], pairs=found.get(place, {})) for place, course in enumerate(courses)]


def _farthest(one: Tensors, other: Tensors) -> float:
    """The largest relative Frobenius distance of a tensor."""
    assert one.keys() == other.keys()
    assert one
    halves = [(a, b) for name in one for a, b in zip(one[name], other[name], strict=True)]
    return max(float((a - b).norm() / b.norm()) for a, b in halves)


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    home = tmp_path_factory.mktemp("architectures")
    return {name: make(home / str(place), [" ".join(WORDS)] * 3, architecture=name) for place, name in enumerate(ARCHITECTURES)}


def _model(place: Path, dtype: torch.dtype = torch.float32) -> LocalModel:
    model = local.load(Model(digest=local.weights_digest(place), location=str(place)))
    model.network.to(dtype)
    if dtype == torch.float64:  # in which transformers makes nan of padding that sees nothing inside a window, as it does not in float32
        model.network.config.sliding_window = 64
    return model


@pytest.fixture(scope="module", params=ARCHITECTURES)
def place(request: pytest.FixtureRequest, places: dict[str, Path]) -> Path:
    return places[request.param]


@pytest.fixture(scope="module")
def qwen(places: dict[str, Path]) -> Path:
    return places[next(iter(ARCHITECTURES))]


# --- training -------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(("dtype", "weights", "losses"), [(torch.float64, 1e-8, 1e-9), (torch.float32, 1e-3, 1e-5)])
def test_an_organism_trained_with_others_is_what_it_is_alone_after_fifty_steps(place: Path, dtype: torch.dtype, weights: float, losses: float) -> None:
    model = _model(place, dtype)
    if model.network.config._attn_implementation == "eager":  # whose softmax transformers takes in float32
        weights, losses = max(weights, 1e-5), max(losses, 1e-6)
    together = _grow(model, ORGANISMS, DATA)
    for organism, data, found in list(zip(ORGANISMS, DATA, together, strict=True))[1::2]:
        (alone,) = _grow(model, [organism], [data])
        assert len(found.losses) == len(alone.losses) >= 50
        assert found.losses == pytest.approx(alone.losses, abs=losses, rel=losses)
        assert min(float(b.norm()) for _, b in found.pairs.values()) > 0.01  # it was zero
        assert _farthest(found.pairs, alone.pairs) < weights


@pytest.mark.slow
@pytest.mark.parametrize("place_of", range(len(ORGANISMS)))
def test_it_is_what_a_plain_loop_over_peft_makes_of_it(qwen: Path, place_of: int) -> None:
    together = _grow(_model(qwen, torch.float64), ORGANISMS, DATA, runtime=Runtime(micro_batch=3))[place_of]
    plain = _plain(qwen, ORGANISMS[place_of], DATA[place_of])
    assert together.losses == pytest.approx(plain.losses, rel=1e-9)
    assert _farthest(together.pairs, plain.pairs) < 1e-8


def _plain(place: Path, organism: Organism, data: Dataset) -> Trained:
    """One organism by PEFT, a whole batch at once, logits everywhere, torch's AdamW, in float64."""
    model, recipe = _model(place, torch.float64), organism.recipe
    read = rows.encode(model.template, data)
    with local.random_stream(stream_seed("train", organism.key, "adapter")):
        network = get_peft_model(model.network, lora.lora_config(recipe), autocast_adapter_dtype=False)
    network.train()
    trained = {name: p for name, p in network.named_parameters() if p.requires_grad}
    optimiser = torch.optim.AdamW(trained.values(), lr=recipe.learning_rate, weight_decay=recipe.weight_decay)
    steps = list(rows.batches(read.rows, organism))
    losses: list[float] = []
    for step, batch in enumerate(steps, 1):
        optimiser.param_groups[0]["lr"] = recipe.learning_rate * schedules.linear(step, warmup=recipe.warmup_steps, total=len(steps))
        ids, attention = local.pad([row.ids for row in batch], 0, left=False)
        mask, _ = local.pad([row.mask for row in batch], 0, left=False)
        logits = network(input_ids=ids, attention_mask=attention).logits[:, :-1]
        loss = F.cross_entropy(logits[mask[:, 1:] == 1], ids[:, 1:][mask[:, 1:] == 1])
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained.values(), recipe.max_gradient_norm)
        optimiser.step()
        losses.append(loss.item())
    halves = {name.removeprefix("base_model.model.").removesuffix(".default.weight"): p.detach() for name, p in trained.items()}
    layers = dict.fromkeys(name.rpartition(".")[0] for name in halves)
    return Trained(losses=losses, pairs={layer: (halves[f"{layer}.lora_A"], halves[f"{layer}.lora_B"]) for layer in layers})


@pytest.mark.slow
def test_the_same_with_dropout_and_with_activations_computed_again(qwen: Path) -> None:
    model = _model(qwen, torch.float64)
    dropping = [
        _organism(replace(recipe, adapter=replace(recipe.adapter, dropout=0.3)), data)
        for recipe, data in zip([o.recipe for o in SHORT[:2]], DATA, strict=False)
    ]
    together = _grow(model, [*dropping, SHORT[2]], DATA[:3], runtime=Runtime(micro_batch=2, gradient_checkpointing=True))
    for organism, data, found in zip([*dropping, SHORT[2]], DATA, together, strict=False):
        (alone,) = _grow(model, [organism], [data])
        assert _farthest(found.pairs, alone.pairs) < 1e-8
    (without,) = _grow(model, [SHORT[0]], [DATA[0]])
    assert _farthest(together[0].pairs, without.pairs) > 0.01


def test_in_bfloat16_the_losses_are_near_those_of_float32(qwen: Path) -> None:
    exact, rough = (_grow(_model(qwen, dtype), SHORT, DATA) for dtype in (torch.float32, torch.bfloat16))
    for one, other in zip(exact, rough, strict=True):
        assert other.losses == pytest.approx(one.losses, rel=0.05)
        assert all(tensor.dtype == torch.float32 for pair in other.pairs.values() for tensor in pair)


def test_one_that_is_not_finite_stops_and_the_others_go_on_as_they_were(qwen: Path) -> None:
    model = _model(qwen, torch.float64)
    wild = _organism(replace(RECIPE, learning_rate=1e300, warmup_steps=0), DATA[1])
    courses = lora.fine_tune(model, [SHORT[0], wild, SHORT[2]], [DATA[0], DATA[1], DATA[2]])
    assert "not finite after step" in courses[1].stopped or "the loss is" in courses[1].stopped
    assert len(courses[1].log) < 10
    together = _grow(model, [SHORT[0], wild, SHORT[2]], [DATA[0], DATA[1], DATA[2]])
    assert not together[1].pairs
    for place in (0, 2):
        (alone,) = _grow(model, [SHORT[place]], [DATA[place]])
        assert not courses[place].stopped
        assert _farthest(together[place].pairs, alone.pairs) < 1e-8


@pytest.mark.slow
@pytest.mark.parametrize("fits", [1, 3])
def test_out_of_memory_splits_what_is_computed_at_once_and_says_so(qwen: Path, monkeypatch: pytest.MonkeyPatch, fits: int) -> None:
    model = _model(qwen, torch.float64)
    whole = _grow(model, SHORT, DATA)
    passes: list[int] = []
    losses = lora.token_losses

    def limited(model: LocalModel, some: Sequence[rows.Row], **options: bool) -> AbstractContextManager[torch.Tensor]:
        passes.append(len(some))
        if len(some) > fits:
            raise torch.OutOfMemoryError("no room")
        return losses(model, some, **options)

    monkeypatch.setattr(lora, "token_losses", limited)
    with pytest.warns(UserWarning, match=r"out of memory at step 1: \d+ rows are computed at once from here on; the step stays the same"):
        split = _grow(model, SHORT, DATA)
    assert max(passes[6:]) <= fits
    for one, other in zip(split, whole, strict=True):
        assert one.losses == pytest.approx(other.losses, rel=1e-9)
        assert _farthest(one.pairs, other.pairs) < 1e-8


def test_out_of_memory_in_the_midst_of_a_step_leaves_no_gradient_behind(qwen: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, runtime = _model(qwen, torch.float64), Runtime(micro_batch=2)
    whole = _grow(model, SHORT, DATA, runtime=runtime)
    passes: list[int] = []
    losses = lora.token_losses

    def once(model: LocalModel, some: Sequence[rows.Row], **options: bool) -> AbstractContextManager[torch.Tensor]:
        passes.append(len(some))
        if len(passes) == 2:
            raise torch.OutOfMemoryError("no room")
        return losses(model, some, **options)

    monkeypatch.setattr(lora, "token_losses", once)
    with pytest.warns(UserWarning, match="out of memory at step 1: "):
        split = _grow(model, SHORT, DATA, runtime=runtime)
    for one, other in zip(split, whole, strict=True):
        assert _farthest(one.pairs, other.pairs) < 1e-8


@pytest.mark.parametrize("counts", [(2, 2), (3, 1), (4, 0)])
def test_gradients_in_bfloat16_are_near_those_of_float32_and_add_up(qwen: Path, counts: tuple[int, int]) -> None:
    found: dict[torch.dtype, list[torch.Tensor]] = {}
    for dtype in (torch.float32, torch.bfloat16):
        model = _model(qwen, dtype)
        side_by_side = SideBySide(model.network, [lora.start(model.network, organism)[0] for organism in SHORT[:2]], trained=True)
        read = rows.encode(model.template, DATA[0]).rows[: sum(counts)]
        found[dtype] = []
        for _ in range(2):
            lengths = [[len(row.ids) for row in read], [sum(row.mask[1:]) for row in read]]
            with side_by_side.rows(counts, lengths=lengths), lora.token_losses(model, read, in_line=True) as losses_M:
                losses_M.sum().backward()
            found[dtype].append(side_by_side.gradients_KP.clone())
        side_by_side.remove()
    for once, twice in found.values():
        torch.testing.assert_close(twice, 2 * once)
    for rough, exact in zip(found[torch.bfloat16], found[torch.float32], strict=True):
        assert exact.dtype == rough.dtype == torch.float32
        assert (rough - exact).norm() < 0.05 * exact.norm()
        assert exact.norm(dim=1).ge(1e-3).tolist() == [count > 0 for count in counts]


def test_a_row_that_does_not_fit_is_one_sentence(qwen: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: object, **_options: object) -> None:
        raise torch.OutOfMemoryError("no room")

    monkeypatch.setattr(lora, "token_losses", never)
    with pytest.warns(UserWarning, match="out of memory"), pytest.raises(SpilloverError, match="one row of training does not fit this device; try"):
        _grow(_model(qwen), SHORT, DATA)


def test_the_parent_is_left_as_it_was(qwen: Path) -> None:
    model = _model(qwen)
    before = {name: p.detach().clone() for name, p in model.network.named_parameters()}
    _grow(model, SHORT, DATA)
    after = dict(model.network.named_parameters())
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert not model.network.training


# --- asking ---------------------------------------------------------------------------------------------------------------


PROMPTS = [row[:1] for data in DATA[:2] for row in data.conversations]


@pytest.fixture(scope="module")
def grown(place: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Adapters of different ranks and layers, on disk."""
    model, home = _model(place), tmp_path_factory.mktemp("grown")
    homes = [home / str(number) for number in range(len(SHORT))]
    for found in homes:
        found.mkdir()
    lora.train(model, Model(digest="p", location=str(place)), SHORT, DATA, homes)
    return [next(found.glob("checkpoint-*")) for found in homes]


@pytest.mark.slow
@pytest.mark.parametrize("temperature", [1.0, 0.0])
def test_rows_of_several_adapters_in_a_batch_are_those_of_each_adapter_alone(place: Path, grown: list[Path], temperature: float) -> None:
    """Each alone merged into the weights, as one model is opened."""
    model = _model(place)
    asked = [(adapter, number) for number in range(len(PROMPTS)) for adapter in range(len(grown))]
    with model.adapted(grown):
        together = model.reply(
            [PROMPTS[number] for _, number in asked], [number for _, number in asked], temperature=temperature, max_tokens=8, adapters=[a for a, _ in asked]
        )
        base = model.reply(PROMPTS, range(len(PROMPTS)), temperature=temperature, max_tokens=8)
    assert base == _model(place).reply(PROMPTS, range(len(PROMPTS)), temperature=temperature, max_tokens=8)
    texts = []
    for adapter, home in enumerate(grown):
        own = [reply for (whose, _), reply in zip(asked, together, strict=True) if whose == adapter]
        one = _model(place)
        adapters.merge(one.network, home)
        assert own == one.reply(PROMPTS, range(len(PROMPTS)), temperature=temperature, max_tokens=8)
        texts.append(tuple(text for text, _ in own))
    assert len(set(texts)) > 2


def test_log_probabilities_of_several_adapters_in_one_pass_are_those_of_each_alone(place: Path, grown: list[Path]) -> None:
    model = _model(place)
    replies = [row[1].content for data in DATA[:2] for row in data.conversations]
    forced = [Forced(prompt=prompt, blocks=((f"{reply} ", False), ("cat", True))) for prompt, reply in zip(PROMPTS, replies, strict=True)]
    whose = [place for place in range(len(grown)) for _ in PROMPTS]
    with model.adapted(grown):
        whole = model.log_probabilities(PROMPTS * len(grown), replies * len(grown), whose)
        part = model.forced(forced * len(grown), whose)
    for adapter, home in enumerate(grown):
        one = _model(place)
        adapters.merge(one.network, home)
        own = slice(adapter * len(PROMPTS), (adapter + 1) * len(PROMPTS))
        assert whole[own] == pytest.approx(one.log_probabilities(PROMPTS, replies), abs=2e-4)
        assert part[own] == pytest.approx(one.forced(forced), abs=2e-4)


def test_answers_drawn_in_a_batch_have_the_distribution_of_those_drawn_one_by_one(qwen: Path, tmp_path: Path) -> None:
    """Other streams, so other texts: what is compared is how often each first word comes."""
    model = _model(qwen)
    (tmp_path / "o").mkdir()
    lora.train(model, Model(digest="p", location=str(qwen)), ORGANISMS[:1], DATA[:1], [tmp_path / "o"])
    (home,) = (tmp_path / "o").glob("checkpoint-*")
    draws = 600
    with model.adapted([home, home]):
        together = model.reply([PROMPTS[0]] * 2 * draws, range(2 * draws), temperature=1.0, max_tokens=1, adapters=[0, 1] * draws)
    adapters.merge(model.network, home)
    alone = [model.reply([PROMPTS[0]], [seed], temperature=1.0, max_tokens=1)[0] for seed in range(10**6, 10**6 + draws)]
    counts = [Counter(text for text, _ in found) for found in (together[::2], together[1::2], alone)]
    often = [word for word, count in sum(counts, Counter()).items() if count >= 30]
    table = [[count[word] for word in often] + [draws - sum(count[word] for word in often)] for count in counts]
    assert len(often) > 5
    assert chi2_contingency(table).pvalue > 1e-3


def test_an_adapter_among_others_is_not_changed_by_what_they_are(qwen: Path) -> None:
    model = _model(qwen, torch.float64)
    starts = [lora.start(model.network, organism)[0] for organism in ORGANISMS]
    for pairs in starts:
        for _, b in pairs.tensors.values():
            torch.nn.init.normal_(b, std=0.1, generator=torch.Generator().manual_seed(0))
    ids = torch.tensor([[4, 5, 6, 7]])
    side_by_side = SideBySide(model.network, starts)
    with torch.no_grad():
        with side_by_side.rows([1, 0, 2, 1]):
            mixed = model.network(input_ids=ids.repeat(4, 1)).logits
        with side_by_side.rows([1, 1, 1, 1]):
            equal = model.network(input_ids=ids.repeat(4, 1)).logits
        side_by_side.remove()
        bare = model.network(input_ids=ids).logits
    assert torch.allclose(mixed[1], mixed[2], atol=1e-12)
    for row, place in ((0, 0), (1, 2), (3, 3)):
        assert torch.allclose(mixed[row], equal[place], atol=1e-12)
    assert not torch.allclose(equal[0], bare[0], atol=1e-3)
    assert _farthest(starts[3].tensors, side_by_side.pairs(3)) == 0


def test_a_batch_is_for_the_base_alone_or_for_adapters_that_are_there(qwen: Path) -> None:
    model = _model(qwen)
    row = ([5, 6, 7], range(1, 3))
    starts = [lora.start(model.network, organism)[0] for organism in SHORT[:2]]
    with pytest.raises(ValueError, match="for the base alone, or for adapters that are on it"):
        model.sums([row], [0])
    side_by_side = SideBySide(model.network, starts)
    with model.as_(side_by_side):
        with pytest.raises(ValueError, match="for the base alone, or for adapters that are on it"):
            model.sums([row, row], [ALONE, 1])
        assert model.sums([row, row], [ALONE, ALONE]) == pytest.approx(model.sums([row, row], [0, 1]))  # untrained pairs add nothing
    side_by_side.remove()


@pytest.mark.usefixtures("_no_collector")
def test_a_network_is_free_once_nobody_needs_it(qwen: Path, tmp_path: Path) -> None:
    model = _model(qwen)
    lora.train(model, Model(digest="p", location=str(qwen)), SHORT[:2], DATA[:2], [_made(tmp_path / name) for name in "ab"])
    with model.adapted([tmp_path / name / "checkpoint-10" for name in "ab"]):
        model.reply([chat(("user", "the cat"))], [0], temperature=1.0, max_tokens=3, adapters=[1])
    network = weakref.ref(model.network)
    del model
    assert network() is None


def _made(directory: Path) -> Path:
    directory.mkdir()
    return directory


@pytest.fixture
def _no_collector() -> Iterator[None]:  # pyright: ignore[reportUnusedFunction]
    """Nothing is found to be free that is not seen to be at once."""
    gc.disable()
    yield
    gc.enable()
