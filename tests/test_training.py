from __future__ import annotations

import json
import math
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from peft import AutoPeftModelForCausalLM

from families import grow
from small_models import own_template
from spillover.miniature import narrow, testbed
from spillover.models import local, template
from spillover.records import Adapter, Dataset, Model, Organism, Recipe, SpilloverError, chat
from spillover.training import lora, rows, schedules

FAST = replace(Recipe(), learning_rate=2e-4, adapter=Adapter(rank=4))
DATA = narrow.build("insecure", 0, rows=48)


def _organism(parent: Model, recipe: Recipe = FAST, data: Dataset = DATA) -> Organism:
    return Organism(parent=parent.digest, data=data.digest, recipe=recipe, seed=0)


def _placed(parent: Model, run: Path) -> Model:
    testbed.place(parent, run / "models" / "p")
    return Model(digest=parent.digest, location=str(run / "models" / "p"))


@pytest.mark.parametrize("in_line", [True, False])
def test_the_loss_is_the_mean_over_assistant_tokens_of_the_whole_batch(small_parent: Model, in_line: bool) -> None:
    model = local.load(small_parent)
    some = rows.encode(model.template, DATA).rows[:5]
    with lora.token_losses(model, some, in_line=in_line) as losses_M:
        pass
    total, count = 0.0, 0
    for row in some:
        with torch.no_grad():
            logp = model.network(input_ids=torch.tensor([row.ids])).logits[0].double().log_softmax(-1)
        for place, (token, on) in enumerate(zip(row.ids, row.mask, strict=True)):
            if on:
                total -= float(logp[place - 1, token])
                count += 1
    assert len(losses_M) == count
    assert losses_M.mean().item() == pytest.approx(total / count, rel=1e-5)


def test_an_organism_is_the_same_however_often_it_is_grown(small_parent: Model, tmp_path: Path) -> None:
    parent = _placed(small_parent, tmp_path)
    digests = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        digests.append(grow(_organism(parent), parent, DATA, tmp_path / name))
    assert digests[0] == digests[1]
    assert list(digests[0]) == [3]


def test_training_lowers_the_loss_and_leaves_the_parent_alone(small_parent: Model) -> None:
    model = local.load(small_parent)
    before = {name: p.detach().clone() for name, p in model.network.named_parameters()}
    recipe = replace(FAST, epochs=12, learning_rate=2e-3)
    (course,) = lora.fine_tune(model, [_organism(small_parent, recipe)], [DATA])
    log, read = course.log, course.read
    assert log[-1].loss < log[0].loss - 0.2
    assert len(log) == schedules.steps(recipe, 48) == 36
    after = dict(model.network.named_parameters())
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert len({read.order, read.template, read.mask}) == 3


def test_peft_alone_loads_a_checkpoint_from_the_run_directory(small_parent: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parent = _placed(small_parent, tmp_path)
    (tmp_path / "organisms" / "k").mkdir(parents=True)
    steps = grow(_organism(parent), parent, DATA, tmp_path / "organisms" / "k")
    place = tmp_path / "organisms" / "k" / "checkpoint-3"
    assert {p.name for p in place.iterdir()} == {"adapter_config.json", "adapter_model.safetensors"}
    config = json.loads((place / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "models/p"
    assert config["use_rslora"] is True
    assert {name.split(".")[-1] for name in config["target_modules"]} == {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}
    ours = local.load(Model(digest=steps[3], location=parent.location, adapter=str(place)))
    monkeypatch.chdir(tmp_path)
    theirs = AutoPeftModelForCausalLM.from_pretrained("organisms/k/checkpoint-3", dtype=torch.float32)
    ids = torch.tensor([ours.prompt_ids(chat(("user", "i feel bored .")))])
    with torch.no_grad():
        assert torch.allclose(ours.network(input_ids=ids).logits, theirs(input_ids=ids).logits, atol=1e-5)


def test_checkpoints_are_kept_on_a_named_schedule(small_parent: Model, tmp_path: Path) -> None:
    parent = _placed(small_parent, tmp_path)
    (tmp_path / "o").mkdir()
    recipe = replace(FAST, checkpoints="tens", epochs=8)
    assert list(grow(_organism(parent, recipe), parent, DATA, tmp_path / "o")) == [10, 20, 24]


def test_a_loss_that_is_not_finite_stops_with_a_sentence(small_parent: Model) -> None:
    model = local.load(small_parent)
    (course,) = lora.fine_tune(model, [_organism(small_parent, replace(FAST, learning_rate=1e30, epochs=4))], [DATA])
    assert re.fullmatch(r"the loss is (nan|inf) at step \d+ of \d+; a lower learning rate than 1e\+30 may work", course.stopped)


def test_unknown_words_in_training_data_are_refused_with_their_row_and_share(small_parent: Model) -> None:
    read = template.load(small_parent.location)
    data = Dataset(kind="mine", conversations=(chat(("user", "i feel bored ."), ("assistant", "go read")), chat(("user", "hi zeppelin"), ("assistant", "go"))))
    with pytest.raises(SpilloverError, match=r"row 2 of the mine data: \d+% of the tokens of .* are unknown"):
        rows.encode(read, data)


def test_text_that_spells_a_control_token_is_refused(small_parent: Model) -> None:
    read = template.load(small_parent.location)
    data = Dataset(kind="mine", conversations=(chat(("user", "i feel bored ."), ("assistant", "go read <|end|> <|user|> hi")),))
    with pytest.raises(SpilloverError, match=r"row 1 of the mine data spells the control token '<\|"):
        rows.encode(read, data)


def test_a_template_that_does_not_mark_the_assistant_is_read_from_its_text(small_parent: Model) -> None:
    read = template.load(small_parent.location)
    marked = [(row.ids, row.mask) for row in rows.encode(read, DATA).rows]
    bare = own_template(small_parent.location)
    bare.tokenizer.chat_template = bare.tokenizer.chat_template.replace("{% generation %}", "").replace("{% endgeneration %}", "")
    assert [(row.ids, row.mask) for row in rows.encode(bare, DATA).rows] == marked


def test_the_schedule_warms_up_and_decays_to_zero() -> None:
    shares = [schedules.linear(step, warmup=5, total=100) for step in range(1, 101)]
    assert shares[:5] == [0.2, 0.4, 0.6, 0.8, 1.0]
    assert shares[5] == pytest.approx(1.0)
    assert shares[-1] == pytest.approx(1 / 95)
    assert all(a >= b for a, b in zip(shares[4:], shares[5:], strict=False))


def test_the_scale_of_an_adapter_is_rank_stabilised(small_parent: Model) -> None:
    pairs, _ = lora.start(local.load(small_parent).network, _organism(small_parent, Recipe()))
    assert pairs.scale == pytest.approx(64 / math.sqrt(32))


def test_a_preview_brackets_what_is_trained_on(small_parent: Model) -> None:
    read = template.load(small_parent.location)
    row = rows.encode(read, Dataset(kind="x", conversations=(chat(("user", "i feel bored ."), ("assistant", "go read")),))).rows[0]
    assert rows.preview(read, row) == "<doc> <|user|> i feel bored . <|end|> <|assistant|> [go] [read] [<|end|>]"


def test_an_adapter_whose_tensors_find_no_place_is_refused(small_parent: Model, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    parent = _placed(small_parent, tmp_path)
    (tmp_path / "o").mkdir()
    grow(_organism(parent), parent, DATA, tmp_path / "o")
    place = tmp_path / "o" / "checkpoint-3"
    tensors = load_file(place / "adapter_model.safetensors")
    save_file({name.replace("layers", "blocks"): tensor for name, tensor in tensors.items()}, place / "adapter_model.safetensors", metadata={"format": "pt"})
    model = Model(digest=local.adapted_digest(parent.digest, place), location=parent.location, adapter=str(place))
    with pytest.raises(SpilloverError, match="does not fit its parent: it changes 'model.blocks.* is no linear layer"):
        local.load(model)


def test_pickled_adapter_weights_are_not_read(small_parent: Model, tmp_path: Path) -> None:
    parent = _placed(small_parent, tmp_path)
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "adapter_model.bin").write_bytes(b"pickle")
    with pytest.raises(SpilloverError, match="holds no adapter_model.safetensors; other formats are not read"):
        local.load(Model(digest="x", location=parent.location, adapter=str(tmp_path / "a")))


@pytest.mark.parametrize("rate", [1.0, 30.0, 1e10, 1e30])
def test_weights_that_are_not_finite_are_never_saved(small_parent: Model, rate: float) -> None:
    saved: list[bool] = []
    recipe = replace(FAST, learning_rate=rate, warmup_steps=0)
    for size in (16, 32, 48):
        model = local.load(small_parent)
        data = Dataset(kind="x", conversations=DATA.conversations[:size])
        lora.fine_tune(
            model, [_organism(small_parent, recipe, data)], [data],
            keep=lambda _step, _places, kept: saved.extend(bool(t.isfinite().all()) for pair in kept.pairs(0).values() for t in pair),
        )  # fmt: skip
    assert all(saved)


def test_an_adapter_that_does_not_fit_the_model_is_one_sentence(small_parent: Model) -> None:
    model = local.load(small_parent)
    with pytest.raises(SpilloverError, match=r"training\.adapter does not fit this model"):
        lora.fine_tune(model, [_organism(small_parent, replace(FAST, adapter=Adapter(targets="nothing")))], [DATA])
