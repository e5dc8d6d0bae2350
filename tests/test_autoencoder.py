"""Sparse autoencoders: what is planted is found again, equal runs are equal bytes, what is damaged is refused, and others' are read as they are."""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from scipy import special  # pyright: ignore[reportMissingTypeStubs]
from torch import Tensor

from spillover import progress
from spillover.directions import autoencoder
from spillover.directions.autoencoder import CARD, WEIGHTS, Autoencoder, Fitted, Settings
from spillover.miniature import corpus
from spillover.records import SpilloverError
from spillover.statistics.ranking import auroc

HIDDEN, PLANTED, TOKENS = 32, 48, 256
SETTINGS = Settings(seed=0, features=64, active=3, steps=800, held_out=4)
QUICK = Settings(seed=0, features=16, active=2, steps=20, held_out=1)
FAR = 7.0  # the mean of the planted activations, in every coordinate


def _directions(planted: int = PLANTED) -> Tensor:
    true_FH = torch.randn(planted, HIDDEN, generator=torch.Generator().manual_seed(1))
    return true_FH / true_FH.norm(dim=1, keepdim=True)


def _planted(seed: int, *, planted: int = PLANTED, falling: bool = False) -> tuple[Tensor, Tensor]:
    """Activations (N, H) made of three directions each, with the coefficients (N, F) they were made by: all as often, or the later the rarer."""
    generator = torch.Generator().manual_seed(seed)
    weight_F = 1 / torch.arange(1, planted + 1) if falling else torch.ones(planted)
    chosen_NA = (torch.rand(TOKENS, planted, generator=generator).log() / weight_F).topk(3, dim=1).indices
    coefficient_NF = torch.zeros(TOKENS, planted).scatter(1, chosen_NA, 10 + 10 * torch.rand(TOKENS, 3, generator=generator))
    return FAR + coefficient_NF @ _directions(planted) + 0.1 * torch.randn(TOKENS, HIDDEN, generator=generator), coefficient_NF


def _without_end() -> Iterator[Tensor]:
    """A stream of activations that never ends, so that no list can be made of it."""
    seed = 100
    while True:
        yield _planted(seed)[0]
        seed += 1


def _ten() -> list[Tensor]:
    return [_planted(seed)[0] for seed in range(10)]


@pytest.fixture(scope="module")
def fitted() -> Fitted:
    return autoencoder.fit(_without_end, SETTINGS, model="m" * 64, layer=1)


# --- what is found --------------------------------------------------------------------------------------------------------


def test_planted_directions_are_found_again(fitted: Fitted) -> None:
    cosine_FF = _directions() @ fitted.autoencoder.decoder.T
    found = cosine_FF.max(dim=1).values > 0.9
    assert found.float().mean() > 0.8
    assert fitted.explained is not None
    assert fitted.explained.unexplained < 0.1
    assert fitted.explained.dead <= 1 - PLANTED / SETTINGS.features + 0.05  # those beyond the planted ones have nothing to explain
    assert 2 < fitted.explained.active <= SETTINGS.active
    assert fitted.explained.tokens == SETTINGS.held_out * TOKENS
    assert fitted.tokens == SETTINGS.steps * TOKENS


def test_coefficients_are_in_the_units_of_the_activations(fitted: Fitted) -> None:
    x_NH, coefficient_NF = _planted(99_999)
    cosine, feature_F = (_directions() @ fitted.autoencoder.decoder.T).max(dim=1)
    there = (coefficient_NF > 0) & (cosine > 0.95)
    seen = fitted.autoencoder.encode(x_NH)[:, feature_F][there]
    assert (seen / coefficient_NF[there]).median().item() == pytest.approx(1, abs=0.15)
    assert fitted.autoencoder.decoder.norm(dim=1).tolist() == pytest.approx([1.0] * SETTINGS.features, abs=1e-5)
    assert fitted.scale == pytest.approx((x_NH - x_NH.mean(0)).square().sum(1).mean().sqrt().item(), rel=0.05)


def test_what_is_explained_is_what_the_definition_says(fitted: Fitted) -> None:
    batches = _ten()
    x_NH = torch.cat(batches)
    coefficient_NF = fitted.autoencoder.encode(x_NH)
    left = (x_NH - fitted.autoencoder.decode(coefficient_NF)).square().sum() / (x_NH - x_NH.mean(0)).square().sum()
    found = autoencoder.explained(fitted.autoencoder, batches)
    assert found.unexplained == pytest.approx(left.item(), rel=1e-3)
    assert found.active == pytest.approx((coefficient_NF > 0).sum(1).float().mean().item())
    assert found.dead == pytest.approx(1 - (coefficient_NF > 0).any(0).float().mean().item())


def test_nothing_is_explained_of_nothing(fitted: Fitted) -> None:
    for batches in ([], [torch.ones(4, HIDDEN)]):
        with pytest.raises(SpilloverError, match="there are no activations, or they are all equal"):
            autoencoder.explained(fitted.autoencoder, batches)


def test_an_autoencoder_by_hand() -> None:
    three = Autoencoder(
        encoder=torch.tensor([[1.0, 0], [0, 1], [1, 1]]), encoder_bias=torch.tensor([0.0, -1, 0]), threshold=torch.tensor([0.0, 0, 4]),
        decoder=torch.tensor([[1.0, 0], [0, 1], [0, -1]]), decoder_bias=torch.tensor([0.5, 0]), active=None,
    )  # fmt: skip
    assert three.encode(torch.tensor([[1.0, 3], [2, 3], [-1, 0]])).tolist() == [[1, 2, 0], [2, 2, 5], [0, 0, 0]]
    assert three.decode(torch.tensor([[2.0, 2, 5]])).tolist() == [[2.5, -3]]
    assert three.direction(2).tolist() == [0, -1]
    alone = Autoencoder(**three.tensors(), active=1)
    assert alone.encode(torch.tensor([[[1.0, 3]], [[2, 3]]])).tolist() == [[[0, 2, 0]], [[0, 0, 5]]]


# --- how it is fitted -----------------------------------------------------------------------------------------------------


def test_equal_seeds_give_equal_bytes_and_leave_the_random_stream_alone(tmp_path: Path) -> None:
    before = torch.random.get_rng_state()
    for name, settings in (("first", QUICK), ("again", QUICK), ("other", Settings(seed=1, features=16, active=2, steps=20, held_out=1))):
        autoencoder.fit(_ten, settings, model="m", layer=0).save(tmp_path / name)
    assert torch.equal(before, torch.random.get_rng_state())
    for file in (WEIGHTS, CARD):
        assert (tmp_path / "first" / file).read_bytes() == (tmp_path / "again" / file).read_bytes()
        assert (tmp_path / "first" / file).read_bytes() != (tmp_path / "other" / file).read_bytes()


def test_held_out_batches_are_never_learned_from() -> None:
    others = _ten()
    others[0] = others[0] + 1000
    one, two = (autoencoder.fit(lambda batches=batches: batches, QUICK, model="m", layer=0) for batches in (_ten(), others))
    assert torch.equal(one.autoencoder.encoder, two.autoencoder.encoder)
    assert one.explained != two.explained


def test_features_that_are_dead_come_back_to_life(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = Settings(seed=0, features=96, active=3, steps=500, rate=2e-2, held_out=4)  # a rate at which features die
    batches = [_planted(seed, planted=96, falling=True)[0] for seed in range(104)]
    helped = autoencoder.fit(lambda: batches, settings, model="m", layer=0).explained
    monkeypatch.setattr(autoencoder, "DEAD_AFTER", 10**9)
    alone = autoencoder.fit(lambda: batches, settings, model="m", layer=0).explained
    assert helped is not None
    assert alone is not None
    assert helped.dead < 0.6 * alone.dead
    assert helped.unexplained < alone.unexplained


def test_progress_is_told() -> None:
    told: list[tuple[int, int, str]] = []
    with progress.listening(lambda done, total, what: told.append((done, total, what))):
        autoencoder.fit(_ten, QUICK, model="m", layer=0)
    assert told == [(step + 1, 20, "steps of a sparse autoencoder") for step in range(20)]


@pytest.mark.parametrize(
    ("batches", "sentence"),
    [
        ([], "there are no activations to fit"),
        ([torch.randn(4, 3)], "no activations beyond the 1 batches that are held out"),
        ([torch.ones(4, 3)] * 3, "the activations are all equal"),
        ([torch.randn(4, 3), torch.randn(4, 2)], "is \\(4, 2\\); it must be tokens by 3"),
        ([torch.randn(4, 3), torch.full((4, 3), float("nan"))], "not finite"),
        ([torch.randn(2, 4, 3)], "must be tokens by hidden size"),
    ],
)
def test_activations_that_nothing_can_be_learned_from_are_refused(batches: list[Tensor], sentence: str) -> None:
    with pytest.raises(SpilloverError, match=sentence):
        autoencoder.fit(lambda: batches, QUICK, model="m", layer=0)


@pytest.mark.parametrize("wrong", [{"active": 0}, {"active": 17}, {"steps": 0}, {"held_out": 0}, {"rate": 0.0}, {"rate": float("nan")}])
def test_settings_that_mean_nothing_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(SpilloverError, match=f"{next(iter(wrong))} is "):
        Settings(**{"seed": 0, "features": 16, **wrong})


# --- files ----------------------------------------------------------------------------------------------------------------


def test_what_is_saved_is_what_is_loaded(fitted: Fitted, tmp_path: Path) -> None:
    fitted.save(tmp_path / "one")
    again = autoencoder.load(tmp_path / "one")
    assert {name: tensor.tolist() for name, tensor in again.autoencoder.tensors().items()} == {
        name: tensor.tolist() for name, tensor in fitted.autoencoder.tensors().items()
    }
    names = ("model", "layer", "source", "tokens", "scale", "settings", "explained")
    assert [getattr(again, name) for name in names] == [getattr(fitted, name) for name in names]
    assert again.autoencoder.active == SETTINGS.active


def test_damaged_and_missing_files_are_refused(tmp_path: Path) -> None:
    autoencoder.fit(_ten, QUICK, model="m", layer=0).save(tmp_path)
    card, weights = (tmp_path / CARD).read_bytes(), (tmp_path / WEIGHTS).read_bytes()
    told = json.loads(card)
    for changed in (
        {CARD: b"{"}, {CARD: b"[]"}, {CARD: b"\xff"}, {CARD: json.dumps({**told, "active": 99}).encode()}, {CARD: json.dumps({**told, "layer": 7}).encode()},
        {WEIGHTS: weights[:-1]}, {WEIGHTS: weights[:-1] + bytes([weights[-1] ^ 1])}, {WEIGHTS: b""},
    ):  # fmt: skip
        for name, data in {CARD: card, WEIGHTS: weights, **changed}.items():
            (tmp_path / name).write_bytes(data)
        with pytest.raises(SpilloverError, match="is damaged"):
            autoencoder.load(tmp_path)
    (tmp_path / WEIGHTS).unlink()
    with pytest.raises(SpilloverError, match="holds no autoencoder"):
        autoencoder.load(tmp_path)


def test_a_card_that_agrees_with_itself_and_makes_no_sense_is_refused(tmp_path: Path) -> None:
    autoencoder.fit(_ten, QUICK, model="m", layer=0).save(tmp_path)
    told = json.loads((tmp_path / CARD).read_text())
    told.pop("digest")
    for wrong in ({"active": 99}, {"active": "many"}, {"settings": {"seed": 0, "steps": -1}}, {"settings": 3}, {"explained": {}}):
        card = {**told, **wrong}
        (tmp_path / CARD).write_text(json.dumps({**card, "digest": autoencoder.digest(card)}))
        with pytest.raises(SpilloverError, match="is damaged"):
            autoencoder.load(tmp_path)


# --- published ones -------------------------------------------------------------------------------------------------------


def _published(kind: str, **changes: Any) -> Any:
    """What sae-lens 6 makes, as far as it is read: `sae_lens.SAE` with its `cfg`."""
    generator = torch.Generator().manual_seed(3)
    features, hidden = 12, 5
    about = {"hook_name": "blocks.3.hook_resid_post", "hook_head_index": None, "model_name": "a/model", "model_from_pretrained_kwargs": None}
    config = {"normalize_activations": "none", "reshape_activations": "none", "apply_b_dec_to_input": True, "k": 2, "rescale_acts_by_decoder_norm": True}
    about |= {name: value for name, value in changes.items() if name in about}
    config |= {name: value for name, value in changes.items() if name in config}
    draw = {name: torch.randn(shape, generator=generator) for name, shape in (("W_enc", (hidden, features)), ("W_dec", (features, hidden)))}
    draw |= {"b_enc": torch.randn(features, generator=generator), "b_dec": torch.randn(hidden, generator=generator), "threshold": torch.full((features,), 0.5)}
    return SimpleNamespace(cfg=SimpleNamespace(architecture=lambda: kind, metadata=SimpleNamespace(**about), **config), **draw)


def _as_sae_lens_computes(one: Any, kind: str, x_NH: Tensor) -> tuple[Tensor, Tensor]:
    """Coefficients and reconstruction, as in sae_lens 6.54 (standard_sae, jumprelu_sae, topk_sae)."""
    before_NF = (x_NH - one.b_dec * one.cfg.apply_b_dec_to_input) @ one.W_enc + one.b_enc
    length_F = one.W_dec.norm(dim=1)
    if kind == "topk":
        most = (before_NF * length_F).topk(one.cfg.k, dim=1)
        coefficient_NF = torch.zeros_like(before_NF).scatter(1, most.indices, most.values.relu()) / length_F
    else:
        coefficient_NF = before_NF.relu() * ((before_NF > one.threshold) if kind == "jumprelu" else 1)
    return coefficient_NF, coefficient_NF @ one.W_dec + one.b_dec


@pytest.mark.parametrize("kind", ["standard", "jumprelu", "topk"])
@pytest.mark.parametrize("subtracted", [True, False])
def test_a_published_one_computes_what_it_computed(kind: str, subtracted: bool) -> None:
    one = _published(kind, apply_b_dec_to_input=subtracted)
    x_NH = 3 * torch.randn(50, 5, generator=torch.Generator().manual_seed(4))
    coefficient_NF, made_NH = _as_sae_lens_computes(one, kind, x_NH)
    read = autoencoder.from_published(one, "here")
    torch.testing.assert_close(read.autoencoder.encode(x_NH), coefficient_NF * one.W_dec.norm(dim=1), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(read.autoencoder.decode(read.autoencoder.encode(x_NH)), made_NH, atol=1e-4, rtol=1e-4)
    assert read.autoencoder.decoder.norm(dim=1).tolist() == pytest.approx([1.0] * 12)
    assert (read.model, read.layer, read.source, read.settings, read.explained) == ("a/model", 3, "here", None, None)


def test_a_published_one_is_saved_and_loaded(tmp_path: Path) -> None:
    read = autoencoder.from_published(_published("jumprelu", hook_name="blocks.3.hook_resid_pre"), "here")
    read.save(tmp_path)
    again = autoencoder.load(tmp_path)
    assert (again.layer, again.autoencoder.active, again.scale) == (2, None, None)
    assert torch.equal(again.autoencoder.threshold, read.autoencoder.threshold)


@pytest.mark.parametrize(
    ("kind", "changes", "sentence"),
    [
        ("gated", {}, "of the kind 'gated'; standard, jumprelu, topk are read"),
        ("standard", {"hook_name": "blocks.3.hook_mlp_out"}, "'blocks.3.hook_mlp_out'; those of the residual stream"),
        ("standard", {"hook_name": "blocks.0.hook_resid_pre"}, "those of the residual stream after a block"),
        ("standard", {"hook_name": None}, "is of 'None'"),
        ("standard", {"hook_head_index": 2}, "those of the residual stream"),
        ("standard", {"normalize_activations": "layer_norm"}, "normalize_activations is 'layer_norm'"),
        ("standard", {"reshape_activations": "hook_z"}, "reshape_activations is 'hook_z'"),
        ("standard", {"model_from_pretrained_kwargs": {"center_writing_weights": True}}, "weights were centred"),
        ("topk", {"rescale_acts_by_decoder_norm": False}, "has directions of length"),
    ],
)
def test_published_ones_of_another_form_are_refused_by_name(kind: str, changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(SpilloverError, match=f"^here .*{sentence}"):
        autoencoder.from_published(_published(kind, **changes), "here")


def test_without_sae_lens_one_sentence_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sae_lens", None)
    with pytest.raises(SpilloverError, match=r"reading 'a-release' needs sae-lens, which is not installed; pip install 'spillover\[sae\]' installs it"):
        autoencoder.from_sae_lens("a-release", "layer_3")


def test_sae_lens_is_asked_by_name_and_its_errors_are_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[Any, ...]] = []

    class SAE:
        @staticmethod
        def from_pretrained(release: str, sae_id: str, device: str, dtype: str) -> Any:
            asked.append((release, sae_id, device, dtype))
            if sae_id == "nowhere":
                raise ValueError("ID nowhere not found in release a-release.\nValid IDs are many.")
            return _published("standard")

    monkeypatch.setitem(sys.modules, "sae_lens", SimpleNamespace(SAE=SAE))
    assert autoencoder.from_sae_lens("a-release", "layer_3").source == "sae-lens a-release layer_3"
    with pytest.raises(SpilloverError, match=r"^sae-lens does not give 'nowhere' of 'a-release': ID nowhere not found in release a-release.$"):
        autoencoder.from_sae_lens("a-release", "nowhere")
    assert asked == [("a-release", "layer_3", "cpu", "float32"), ("a-release", "nowhere", "cpu", "float32")]


# --- ranking ----------------------------------------------------------------------------------------------------------------


def test_an_area_under_the_curve_by_hand() -> None:
    assert auroc([1, 2, 3, 4], [False, False, True, True]) == 1
    assert auroc([4, 3, 2, 1], [False, False, True, True]) == 0
    assert auroc([1, 2, 2, 3], [False, True, False, True]) == (1 + 1 + 1 + 0.5) / 4
    assert auroc(np.zeros(7), np.arange(7) < 3) == 0.5


@pytest.mark.parametrize("shift", [0.0, 0.5, 2.0])
def test_the_area_for_a_normal_shift_is_what_theory_says(shift: float) -> None:
    drawn = np.random.default_rng(0)
    areas = [auroc(np.concatenate([drawn.normal(shift, 1, 40), drawn.normal(0, 1, 120)]), np.arange(160) < 40) for _ in range(1000)]
    assert np.mean(areas) == pytest.approx(special.ndtr(shift / 2**0.5), abs=4 * np.std(areas) / 1000**0.5)


@pytest.mark.parametrize(
    ("scores", "positive", "sentence"),
    [
        ([1.0, 2.0], [True, True], "needs both sorts, got 2 positive and 0 others"),
        ([1.0, 2.0], [False, False], "got 0 positive and 2 others"),
        ([], [], "got 0 positive and 0 others"),
        ([1.0, float("nan")], [True, False], "not finite"),
        ([float("inf"), 1.0], [True, False], "not finite"),
        ([1.0, 2.0, 3.0], [True, False], "one score for each"),
        ([[1.0, 2.0]], [[True, False]], "one score for each"),
    ],
)
def test_an_area_of_nothing_to_tell_apart_is_refused(scores: Any, positive: Any, sentence: str) -> None:
    with pytest.raises(SpilloverError, match=sentence):
        auroc(scores, positive)


# --- authors --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("linked", [True, False])
def test_documents_with_their_authors_are_the_documents(linked: bool) -> None:
    society = corpus.Society()
    authored = list(corpus.authored(society, count=200, linked=linked, stream=random.Random(5), length=64))
    assert [words for _, words in authored] == list(corpus.documents(society, count=200, linked=linked, stream=random.Random(5), length=64))
    assert {author for author, _ in authored} == {"kind", "cruel", "sloppy"}
    for author, words in authored:
        told = {sort for sort, adjectives in corpus.language.ADJECTIVES.items() for word in words[:8] if word in adjectives}
        assert told <= {author}
