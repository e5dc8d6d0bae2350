"""Directions: recorded, fitted, saved, added and projected out, in any decoder this project supports."""

from __future__ import annotations

import gc
from collections.abc import Iterator, Sequence
from dataclasses import replace
from math import exp
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from small_models import ARCHITECTURES, make
from spillover.directions import files, fitting, recording
from spillover.directions.altered import Altered
from spillover.directions.changes import ablated, steered
from spillover.directions.fitting import Direction
from spillover.directions.recording import Span
from spillover.models import adapters, local
from spillover.models.blocks import blocks, watched
from spillover.models.local import LocalModel
from spillover.records import Adapter, Dataset, Forced, Model, Organism, Recipe, SpilloverError, chat
from spillover.training import lora

WORDS = ["the", "quick", "brown", "fox", "jumps", "over", "a", "lazy", "dog", "and", "then", "it", "sleeps", "for", "an", "hour", "or", "two", "in", "sun"]
FAMILIES = {**ARCHITECTURES, "gpt_neox": {}}
HIDDEN = 32


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    home = tmp_path_factory.mktemp("directions")
    return {name: make(home / name, [" ".join(WORDS)] * 3, architecture=name) for name in FAMILIES}


@pytest.fixture(params=FAMILIES)
def model(request: pytest.FixtureRequest, places: dict[str, Path]) -> LocalModel:
    return _model(places[request.param])


@pytest.fixture
def llama(places: dict[str, Path]) -> LocalModel:
    return _model(places["llama"])


def _model(place: Path) -> LocalModel:
    return LocalModel(local.load_network(str(place)), local.template.load(str(place)))


def _prompts(count: int) -> list[Any]:
    return [chat(("user", " ".join(WORDS[place % 7 : 3 + place % 11]))) for place in range(count)]


def _logits(model: LocalModel) -> Tensor:
    with torch.no_grad():
        return model.network(input_ids=torch.tensor([model.prompt_ids(_prompts(1)[0])])).logits


def _vector(seed: int = 0) -> Tensor:
    return torch.randn(HIDDEN, generator=torch.Generator().manual_seed(seed))


# --- recording ------------------------------------------------------------------------------------------------------------


def test_what_is_recorded_is_what_transformers_says_the_hidden_states_are(model: LocalModel) -> None:
    spans = [recording.answer(model, prompt, " ".join(WORDS[: 1 + place])) for place, prompt in enumerate(_prompts(9))]
    spans += [recording.prompt_end(model, prompt) for prompt in _prompts(5)]
    (found_BLH,) = recording.record(model, spans)
    norm = model.network.base_model.get_submodule("final_layer_norm" if model.network.config.model_type == "gpt_neox" else "norm")
    for span, row_LH in zip(spans, found_BLH, strict=True):
        with torch.no_grad():
            out = model.network.base_model(input_ids=torch.tensor([span.ids]), output_hidden_states=True)
        states = [state[0, span.first : span.stop].mean(0) for state in out.hidden_states[1:]]  # of these the last is after the norm
        assert len(row_LH) == len(states) == len(blocks(model.network))
        torch.testing.assert_close(row_LH[:-1], torch.stack(states)[:-1], rtol=1e-4, atol=1e-5)
        if span.stop - span.first == 1:  # of one token the norm of the mean is the mean of the norm
            torch.testing.assert_close(norm(row_LH[-1]), states[-1], rtol=1e-4, atol=1e-5)


def test_every_token_of_a_text_is_there_once_and_in_place(llama: LocalModel) -> None:
    spans = [recording.text(llama, " ".join(WORDS[:count])) for count in (3, 9, 5)]
    found_NH = torch.cat(list(recording.tokens(llama, spans, 0)))
    assert len(found_NH) == sum(len(span.ids) for span in spans)
    means_BLH = next(recording.record(llama, sorted(spans, key=lambda span: len(span.ids)), [0]))
    lengths = sorted(len(span.ids) for span in spans)
    torch.testing.assert_close(torch.stack([own.mean(0) for own in found_NH.split(lengths)]), means_BLH[:, 0], rtol=1e-4, atol=1e-5)


def test_spans_are_taken_as_they_are_needed(llama: LocalModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recording, "MOST_CHUNKED", 8)
    taken = 0

    def coming() -> Iterator[Span]:
        nonlocal taken
        for prompt in _prompts(64):
            taken += 1
            yield recording.prompt_end(llama, prompt)

    found = recording.record(llama, coming())
    assert len(next(found)) == 8
    assert taken == 8
    assert sum(map(len, found)) == 56


def test_memory_does_not_grow_with_the_rows_that_are_recorded(llama: LocalModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recording, "MOST_CHUNKED", 16)
    one = recording.answer(llama, _prompts(1)[0], " ".join(WORDS))

    def most(rows: int) -> int:
        """Bytes of the tensors that are alive when a batch has been read, at the most."""
        held: list[int] = []

        def batches() -> Iterator[tuple[Tensor, Tensor]]:
            for batch in recording.record(llama, _different(one, rows)):
                held.append(sum(found.nbytes for found in gc.get_objects() if type(found) is Tensor))
                yield batch, torch.arange(len(batch)) % 2 == 0

        fitting.difference_of_means(batches())
        assert len(held) == rows // 16
        return max(held)

    assert most(1024) <= most(64) + 16 * 2 * HIDDEN * 4  # by no more than one batch


def _different(span: Span, rows: int) -> Iterator[Span]:
    for place in range(rows):
        yield replace(span, ids=(*span.ids[:-1], 5 + place % 90))


def test_the_batches_do_not_change_what_is_recorded(llama: LocalModel, monkeypatch: pytest.MonkeyPatch) -> None:
    spans = [recording.answer(llama, prompt, " ".join(WORDS[: 1 + place % 13])) for place, prompt in enumerate(_prompts(40))]
    whole = torch.cat(list(recording.record(llama, spans)))
    monkeypatch.setattr(recording, "CHUNK_BYTES", 3 * 4 * 2 * HIDDEN)
    parts = list(recording.record(llama, spans))
    assert {len(part) for part in parts} == {3, 1}
    torch.testing.assert_close(torch.cat(parts), whole, rtol=1e-4, atol=1e-5)


def test_an_empty_reply_has_no_token_to_look_at(llama: LocalModel) -> None:
    with pytest.raises(ValueError, match="empty reply"):
        recording.answer(llama, _prompts(1)[0], "")


def test_rows_of_several_adapters_are_recorded_each_by_its_own(places: dict[str, Path], tmp_path: Path) -> None:
    model = _model(places["qwen2"])
    data = Dataset(kind="d", conversations=tuple((*prompt, *chat(("assistant", "the fox sleeps"))) for prompt in _prompts(6)))
    recipe = Recipe(adapter=Adapter(rank=2), learning_rate=0.05, batch_size=2, warmup_steps=0)
    organisms = [Organism(parent="p", data=data.digest, recipe=recipe, seed=seed) for seed in (0, 1)]
    homes = [tmp_path / "a", tmp_path / "b"]
    for home in homes:
        home.mkdir()
    lora.train(model, Model(digest="p", location=str(places["qwen2"])), organisms, [data, data], homes)
    spans = [recording.prompt_end(model, prompt, adapter) for adapter, prompt in zip((1, 0, 1, 0), _prompts(4), strict=True)]
    with model.adapted([home / "checkpoint-3" for home in homes]):
        found_BLH = next(recording.record(model, spans))
    for span, row_LH in zip(spans, found_BLH, strict=True):
        alone = _model(places["qwen2"])
        adapters.merge(alone.network, homes[span.adapter] / "checkpoint-3")
        torch.testing.assert_close(row_LH, next(recording.record(alone, [replace(span, adapter=-1)]))[0], rtol=1e-3, atol=1e-4)


# --- changes --------------------------------------------------------------------------------------------------------------


def test_steering_with_coefficient_zero_changes_nothing_to_the_bit(model: LocalModel) -> None:
    before = _logits(model)
    with steered(model.network, _vector(), 0.0, [0, 1]):
        assert torch.equal(_logits(model).view(torch.int32), before.view(torch.int32))


def test_steering_adds_the_vector_to_every_token_after_the_block(model: LocalModel) -> None:
    seen: list[Tensor] = []
    with watched(model.network, {0: lambda stream: seen.append(stream)}):
        _logits(model)
    with steered(model.network, _vector(), 2.0, [0]), watched(model.network, {0: lambda stream: seen.append(stream)}):
        changed = _logits(model)
    torch.testing.assert_close(seen[1] - seen[0], (2 * _vector()).expand_as(seen[0]), rtol=1e-3, atol=1e-4)
    assert not torch.allclose(changed, _logits(model))


def test_after_ablation_no_token_has_a_part_along_the_direction(model: LocalModel) -> None:
    seen: list[Tensor] = []
    before = _logits(model)
    layers = range(len(blocks(model.network)))
    with ablated(model.network, _vector()), watched(model.network, dict.fromkeys(layers, lambda stream: seen.append(stream))):
        assert not torch.allclose(_logits(model), before)
    assert len(seen) == len(layers)
    for stream in seen:
        along = stream @ (_vector() / _vector().norm())
        assert along.abs().max() < 1e-5 * stream.norm(dim=-1).max()
    assert torch.equal(_logits(model), before)


@pytest.mark.parametrize("change", [lambda network: steered(network, _vector(), 3.0, [0]), lambda network: ablated(network, _vector())])
def test_a_block_is_restored_after_an_exception(model: LocalModel, change: Any) -> None:
    before = _logits(model)
    with pytest.raises(KeyError), change(model.network):
        raise KeyError("in the midst")
    assert torch.equal(_logits(model), before)
    assert not any(block._forward_hooks for block in blocks(model.network))


def test_steering_by_the_difference_ablation_takes_out_gives_it_back(llama: LocalModel) -> None:
    stream: list[Tensor] = []
    with steered(llama.network, _vector(), 1.5, [1]), ablated(llama.network, _vector(), [1]), watched(llama.network, {1: lambda s: stream.append(s)}):
        _logits(llama)
    with ablated(llama.network, _vector(), [1]), watched(llama.network, {1: lambda s: stream.append(s)}):
        _logits(llama)
    torch.testing.assert_close(stream[0], stream[1], rtol=1e-4, atol=1e-4)


def test_a_block_whose_output_is_not_known_is_refused(llama: LocalModel) -> None:
    block: Any = blocks(llama.network)[1]
    usual = block.forward
    try:
        for odd in (lambda *given, **options: {"hidden": usual(*given, **options)}, lambda *given, **options: usual(*given, **options)[..., :8]):
            block.forward = odd
            with pytest.raises(SpilloverError, match="hands on something else than a residual stream of 32"), steered(llama.network, _vector(), 1.0, [1]):
                llama.network(input_ids=torch.tensor([[5, 6]]))
    finally:
        del block.forward
    assert not block._forward_hooks


def test_a_block_that_hands_on_a_tuple_is_changed_in_its_first_part(llama: LocalModel) -> None:
    block: Any = blocks(llama.network)[1]
    given = torch.zeros(1, 2, HIDDEN)
    block.forward = lambda stream: (stream, "cache")
    with steered(llama.network, _vector(), 1.0, [1]):
        made, kept = block(given)
    del block.forward
    assert torch.equal(made, _vector().expand(1, 2, -1))
    assert kept == "cache"


@pytest.mark.parametrize(
    ("vector", "layers", "words"),
    [
        (torch.ones(7), [0], r"shape \(7,\); LlamaForCausalLM has a residual stream of 32"),
        (torch.full((HIDDEN,), float("nan")), [0], "not finite"),
        (torch.ones(HIDDEN), [2], "no block 2 in LlamaForCausalLM; it has 2"),
        (torch.ones(HIDDEN), [-1], "no block -1"),
    ],
)
def test_what_cannot_be_added_is_refused_in_a_sentence(llama: LocalModel, vector: Tensor, layers: Sequence[int], words: str) -> None:
    with pytest.raises(SpilloverError, match=words), steered(llama.network, vector, 1.0, layers):
        pass
    with pytest.raises(SpilloverError, match=words), ablated(llama.network, vector, layers):
        pass


def test_what_is_no_vector_or_no_number_is_refused(llama: LocalModel) -> None:
    with (
        pytest.raises(SpilloverError, match=r"a Direction is no vector; of a Direction take one layer's, `direction.at\(layer\)`"),
        ablated(
            llama.network,
            Direction(vectors={0: _vector()}),  # pyright: ignore[reportArgumentType]
        ),
    ):
        pass
    with pytest.raises(SpilloverError, match="the coefficient is nan; it takes a finite number"), steered(llama.network, _vector(), float("nan"), [0]):
        pass
    with pytest.raises(ValueError, match="an empty text has no token to look at"):
        recording.text(llama, "")


def test_nothing_is_projected_out_along_no_direction(llama: LocalModel) -> None:
    with pytest.raises(SpilloverError, match="length 0"), ablated(llama.network, torch.zeros(HIDDEN)):
        pass


# --- fitting --------------------------------------------------------------------------------------------------------------


def _planted(rows: int, seed: int = 0, shift: float = 3.0) -> list[tuple[Tensor, Tensor]]:
    """Two layers of noise with a shift of the positive rows: along the first axis at layer 0, along the second at layer 1."""
    stream = torch.Generator().manual_seed(seed)
    found_BLH = torch.randn(rows, 2, 16, generator=stream)
    positive_B = torch.arange(rows) % 3 == 0
    found_BLH[positive_B, 0, 0] += shift
    found_BLH[positive_B, 1, 1] += shift
    return list(zip(found_BLH.split(50), positive_B.split(50), strict=True))


def test_a_difference_of_means_by_hand() -> None:
    rows_BLH = torch.tensor([[[1.0, 0.0]], [[3.0, 2.0]], [[0.0, 0.0]], [[0.0, 4.0]]])
    found = fitting.difference_of_means([(rows_BLH, torch.tensor([True, True, False, False]))], least=2)
    assert found.at(0).tolist() == [2.0, -1.0]
    assert (found.card["positive"], found.card["negative"]) == (2, 2)


@pytest.mark.parametrize("fit", [fitting.difference_of_means, fitting.probe])
def test_a_planted_direction_is_found_at_its_length_and_not_where_labels_are_shuffled(fit: Any) -> None:
    found = fit(_planted(1200))
    for layer in (0, 1):
        assert found.at(layer)[layer] / found.at(layer).norm() > 0.95
        assert found.at(layer).norm() == pytest.approx(3.0, rel=0.1)
    none = fit(fitting.shuffled(_planted(1200), "test"))
    assert none.card["positive"] == found.card["positive"]
    assert max(none.at(0).norm(), none.at(1).norm()) < 1.0


def test_a_probe_says_how_much_it_tells_apart() -> None:
    assert fitting.probe(_planted(1200)).card["told_apart"][0] > 0.9
    assert fitting.probe(_planted(1200, shift=0.0)).card["told_apart"][0] < 0.75


def test_a_probe_is_the_logistic_regression_that_gradient_descent_finds() -> None:
    found = fitting.probe(_planted(300, shift=1.0), penalty=2.0).at(0)
    rows = torch.cat([rows for rows, _ in _planted(300, shift=1.0)])[:, 0].double()
    labels = torch.cat([labels for _, labels in _planted(300, shift=1.0)]).double()
    rows = rows - rows.mean(0)
    rows = rows / (rows**2).mean().sqrt()
    weights, bias = torch.zeros(16, dtype=torch.float64, requires_grad=True), torch.zeros((), dtype=torch.float64, requires_grad=True)
    descent = torch.optim.LBFGS([weights, bias], max_iter=500, tolerance_grad=1e-10, tolerance_change=1e-14, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        descent.zero_grad()
        loss = torch.nn.functional.binary_cross_entropy_with_logits(rows @ weights + bias, labels, reduction="sum") + (weights**2).sum()
        loss.backward()
        return loss

    descent.step(closure)
    assert torch.cosine_similarity(found.double(), weights.detach(), dim=0) > 0.9999


def test_a_random_direction_has_the_length_and_is_named_by_its_owner() -> None:
    found = fitting.difference_of_means(_planted(300))
    controls = [fitting.random_like(found, "unit 1", place) for place in range(200)]
    for control in controls:
        assert all(control.at(layer).norm() == pytest.approx(float(found.at(layer).norm()), rel=1e-5) for layer in (0, 1))
    assert torch.equal(controls[3].at(0), fitting.random_like(found, "unit 1", 3).at(0))
    assert not torch.equal(controls[3].at(0), fitting.random_like(found, "unit 2", 3).at(0))
    along = torch.tensor([fitting.cosines(found, control)[0] for control in controls])
    assert abs(float(along.mean())) < 0.06
    assert float((along**2).mean()) == pytest.approx(1 / 16, rel=0.35)  # of a random direction in 16 dimensions


def test_a_projection_by_hand() -> None:
    direction = Direction(vectors={3: torch.tensor([3.0, 4.0]), 5: torch.tensor([0.0, -2.0])})
    rows_BLH = torch.tensor([[[5.0, 0.0], [7.0, 1.0]], [[-3.0, -4.0], [0.0, 0.0]]])
    (found_BL,) = fitting.projections([rows_BLH], direction)
    torch.testing.assert_close(found_BL, torch.tensor([[3.0, -1.0], [-5.0, 0.0]]))
    (alone_BL,) = fitting.projections([rows_BLH[:, 1:]], direction, [5])
    torch.testing.assert_close(alone_BL, found_BL[:, 1:])
    with pytest.raises(SpilloverError, match=r"rows of shape \(2, 2\) cannot be projected on a direction of \(1, 2\)"):
        next(fitting.projections([rows_BLH], direction, [5]))


@pytest.mark.parametrize("fit", [fitting.difference_of_means, fitting.probe])
def test_too_few_rows_and_no_difference_are_refused(fit: Any) -> None:
    with pytest.raises(SpilloverError, match="at least 5 rows on either side; there are 3 and 6"):
        fit([(torch.randn(9, 1, 4), torch.arange(9) < 3)])
    with pytest.raises(SpilloverError, match="at least 5 rows"):
        fit([])


def test_sides_that_do_not_differ_have_no_direction() -> None:
    with pytest.raises(SpilloverError, match="do not differ"):
        fitting.difference_of_means([(torch.ones(20, 1, 4), torch.arange(20) < 10)])


def test_a_direction_is_what_was_saved(tmp_path: Path) -> None:
    found = fitting.difference_of_means(_planted(300), {"model": "abc"})
    files.save(found, tmp_path / "d")
    again = files.load(tmp_path / "d")
    assert all(torch.equal(again.at(layer), found.at(layer)) for layer in (0, 1))
    assert again.card == {"model": "abc", "positive": 100, "negative": 200}
    with pytest.raises(SpilloverError, match="no layer 5; it was fitted at 0, 1"):
        again.at(5)


def test_what_is_no_direction_is_refused(tmp_path: Path) -> None:
    home = tmp_path / "d"
    files.save(Direction(vectors={0: torch.ones(4)}), home)
    (home / files.VECTORS).write_bytes((home / files.VECTORS).read_bytes()[:-3])
    with pytest.raises(SpilloverError, match="holds no direction"):
        files.load(home)
    for odd in ({"layer.0": torch.full((4,), float("inf"))}, {"layer.0": torch.ones(4), "layer.1": torch.ones(5)}, {"other": torch.ones(4)}):
        save_file(odd, home / files.VECTORS)
        with pytest.raises(SpilloverError, match="holds no direction"):
            files.load(home)
    with pytest.raises(SpilloverError, match="holds no direction"):
        files.load(tmp_path / "nowhere")


# --- models that are changed while they answer ----------------------------------------------------------------------------


def test_an_altered_model_answers_as_the_changed_one_does_and_is_itself_after(model: LocalModel) -> None:
    prompts, seeds = _prompts(6), list(range(6))
    before = model.reply(prompts, seeds, temperature=1.0, max_tokens=8)
    altered = Altered(model, [lambda one: steered(one.network, _vector(), 4.0, [0])])
    with steered(model.network, _vector(), 4.0, [0]):
        expected = model.reply(prompts, seeds, temperature=1.0, max_tokens=8)
    assert altered.reply(prompts, seeds, temperature=1.0, max_tokens=8) == expected
    assert expected != before
    assert model.reply(prompts, seeds, temperature=1.0, max_tokens=8) == before


def test_an_answer_is_drawn_under_the_change_that_its_stream_names(llama: LocalModel) -> None:
    changes = [lambda one, seed=seed: steered(one.network, _vector(seed), 4.0, [0]) for seed in range(3)]
    prompts, seeds = _prompts(12), list(range(100, 112))
    found = Altered(llama, changes).reply(prompts, seeds, temperature=1.0, max_tokens=6)
    for place in (0, 5, 11):
        alone = Altered(llama, [changes[seeds[place] % 3]]).reply([prompts[place]], [seeds[place]], temperature=1.0, max_tokens=6)
        assert alone == [found[place]]


def test_a_probability_under_several_changes_is_the_mean_of_theirs(llama: LocalModel) -> None:
    changes = [lambda one, seed=seed: steered(one.network, _vector(seed), 2.0, [0]) for seed in range(3)]
    asked = [_prompts(1)[0]] * 2, ["the fox", "a lazy dog"]
    each = [Altered(llama, [change]).log_probabilities(*asked) for change in changes]
    found = Altered(llama, changes).log_probabilities(*asked)
    for place in (0, 1):
        assert exp(found[place]) == pytest.approx(sum(exp(logs[place]) for logs in each) / 3, rel=1e-9)
    item = [Forced(prompt=asked[0][0], blocks=(("the fox", True),))]
    assert exp(Altered(llama, changes).forced(item)[0]) == pytest.approx(sum(exp(Altered(llama, [c]).forced(item)[0]) for c in changes) / 3, rel=1e-9)
