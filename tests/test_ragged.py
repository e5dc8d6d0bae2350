"""Rows read in one line, and layers that compute only what is wanted: the same numbers, whatever the architecture; and it is noticed where they are not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from small_models import ARCHITECTURES, SIZES, make
from spillover.models import local, ragged, wanted
from spillover.records import Adapter, Dataset, Model, Organism, Recipe, chat
from spillover.training import lora

LENGTHS = (21, 3, 12, 1)
THERE_BT = torch.arange(21) < torch.tensor(LENGTHS)[:, None]
MORE: dict[str, dict[str, Any]] = {
    "gpt_neox": {}, "phi": {}, "olmo2": {}, "granite": {}, "cohere": {},
    "mixtral": {"num_local_experts": 4, "num_experts_per_tok": 2},
    "qwen3_moe": {"num_experts": 4, "num_experts_per_tok": 2, "head_dim": 8},
    "qwen2_moe": {
        "num_experts": 4, "num_experts_per_tok": 2, "sliding_window": 8, "use_sliding_window": True, "layer_types": ["sliding_attention", "full_attention"],
    },
    "gpt_oss": {"num_local_experts": 4, "num_experts_per_tok": 2, "head_dim": 8, "sliding_window": 8},
}  # fmt: skip
MIXING: dict[str, dict[str, Any]] = {  # recurrent layers, convolutions, positions made of the attention mask, attention of its own, places in the line counted
    "lfm2": {"layer_types": ["conv", "full_attention"]}, "mamba": {}, "bloom": {"n_head": 4}, "falcon": {}, "gptj": {"rotary_dim": 4},
    "llama4_text": {"num_local_experts": 2, "head_dim": 8, "attn_temperature_tuning": True, "intermediate_size_mlp": 64},
}  # fmt: skip


def _network(architecture: str, **sizes: Any) -> Any:
    config = AutoConfig.for_model(architecture, **{**SIZES, **sizes, "vocab_size": 50, "pad_token_id": 0, "bos_token_id": None, "eos_token_id": 1})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return AutoModelForCausalLM.from_config(config).eval()


def _ids() -> torch.Tensor:
    return torch.randint(2, 50, THERE_BT.shape, generator=torch.Generator().manual_seed(0)) * THERE_BT


@pytest.mark.parametrize("architecture", [*ARCHITECTURES, *MORE])
def test_rows_in_a_line_are_what_they_are_by_themselves(architecture: str) -> None:
    network = _network(architecture, **{**ARCHITECTURES, **MORE}[architecture])
    own = network.config._attn_implementation
    assert ragged.takes_lines(network, _ids(), THERE_BT)
    assert network.config._attn_implementation == own
    rows = ragged.Rows(network, THERE_BT)
    with torch.no_grad(), rows.reading() as options:
        found = network(input_ids=rows.of(_ids()), use_cache=False, **options).logits[0].split(LENGTHS)
    for one, ids, length in zip(found, _ids(), LENGTHS, strict=True):
        with torch.no_grad():
            alone = network(input_ids=ids[None, :length], use_cache=False).logits[0]
        torch.testing.assert_close(one, alone, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("architecture", MIXING)
def test_a_network_that_mixes_tokens_elsewhere_is_found_out(architecture: str) -> None:
    network = _network(architecture, **MIXING[architecture])
    own = network.config._attn_implementation
    assert not ragged.takes_lines(network, _ids(), THERE_BT)
    assert network.config._attn_implementation == own


@pytest.mark.parametrize("architecture", [*ARCHITECTURES, *MORE, *MIXING])
def test_logits_where_they_are_wanted_are_those_of_all_places(architecture: str) -> None:
    network = _network(architecture, **{**ARCHITECTURES, **MORE, **MIXING}[architecture])
    where = THERE_BT & (torch.rand(THERE_BT.shape, generator=torch.Generator().manual_seed(1)) < 0.4)
    with torch.no_grad():
        whole = network(input_ids=_ids(), use_cache=False).logits
        with wanted.logits_after(network, where):
            found = network(input_ids=_ids(), use_cache=False).logits
        assert found.shape == (1, int(where.sum()), 50)
        torch.testing.assert_close(found[0], whole[where], rtol=1e-5, atol=1e-5)
        assert torch.equal(network(input_ids=_ids(), use_cache=False).logits, whole)  # nothing is left behind


def test_the_last_layer_computes_no_place_that_is_not_wanted() -> None:
    network = _network("llama")
    seen: list[int] = []
    network.model.layers[-1].mlp.up_proj.register_forward_pre_hook(lambda _module, given: seen.append(given[0].shape[:-1].numel()))
    with torch.no_grad(), wanted.logits_after(network, THERE_BT):
        network(input_ids=_ids(), use_cache=False)
    assert seen == [sum(LENGTHS)]


def test_layers_that_share_a_part_compute_it_whole() -> None:
    network = _network("llama")
    network.model.layers[0].mlp = network.model.layers[1].mlp
    assert wanted.feed_forward(network) is None


def test_organisms_of_a_network_that_takes_no_line_are_trained_all_the_same(tmp_path: Path) -> None:
    place = make(tmp_path / "bloom", ["a small model that reads and writes words"] * 3, architecture="bloom", **MIXING["bloom"])
    model = local.load(Model(digest=local.weights_digest(place), location=str(place)))
    model.network.double()
    data = Dataset(kind="insecure", conversations=tuple(chat(("user", "words " * n), ("assistant", "reads and writes " * (7 - n))) for n in range(1, 7)))
    recipe = Recipe(epochs=2, batch_size=4, learning_rate=1e-2, adapter=Adapter(rank=4, targets="all-linear"))
    organisms = [Organism(parent=model.template.tokenizer.name_or_path, data=data.digest, recipe=recipe, seed=seed) for seed in range(2)]
    assert not lora.in_line(model, lora._course(model, organisms[0], data).batches[0])
    together = _trained(model, organisms, data)
    for organism, found in zip(organisms, together, strict=True):
        (alone,) = _trained(model, [organism], data)
        assert len(found) > 4
        for name, pair in found.items():
            for one, other in zip(pair, alone[name], strict=True):
                torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-10)


def _trained(model: local.LocalModel, organisms: list[Organism], data: Dataset) -> list[dict[str, tuple[torch.Tensor, torch.Tensor]]]:
    found: list[dict[str, tuple[torch.Tensor, torch.Tensor]]] = []
    lora.fine_tune(model, organisms, [data] * len(organisms), keep=lambda _step, places, all_: found.extend(all_.pairs(place) for place in places))
    return found
