"""What training found, as a solution: size, noise, loss and influence, by hand; and the studies that read them, on small worlds."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from math import sqrt
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.stats import mannwhitneyu

from small_models import make
from spillover import pipeline, studies
from spillover.directions import autoencoder, recording
from spillover.models import adapters, local
from spillover.models.adapters import Pairs
from spillover.models.local import LocalModel
from spillover.pipeline import features
from spillover.pipeline.config import override
from spillover.records import Adapter, Dataset, Model, Organism, Parent, Recipe, SpilloverError, Testbed, chat
from spillover.training import lora, solutions
from test_alterations import _ByText, _read

WORDS = ["the", "quick", "brown", "fox", "jumps", "over", "a", "lazy", "dog", "and", "then", "it", "sleeps"]
DATA = Dataset(kind="d", conversations=tuple(chat(("user", " ".join(WORDS[n:])), ("assistant", " ".join(WORDS[: n + 2]))) for n in range(6)))


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, and an adapter that was trained on it at a rate that moves it."""
    place = make(tmp_path_factory.mktemp("solutions") / "m", [" ".join(WORDS)] * 3, architecture="llama")
    recipe = Recipe(adapter=Adapter(rank=2), learning_rate=0.05, batch_size=2, warmup_steps=0)
    directory = place.parent / "o"
    directory.mkdir()
    lora.train(_model(place), Model(digest="p", location=str(place)), [Organism(parent="p", data="d", recipe=recipe, seed=0)], [DATA], [directory])
    return place


@pytest.fixture
def model(home: Path) -> Iterator[LocalModel]:
    found = _model(home)
    with found.adapted([home.parent / "o" / "checkpoint-3"]):
        yield found


def _model(place: Path) -> LocalModel:
    return LocalModel(local.load_network(str(place)), local.template.load(str(place)))


def _pairs(model: LocalModel) -> Pairs:
    assert model.side_by_side is not None
    return Pairs(scale=model.side_by_side.scales[0], tensors=model.side_by_side.pairs(0))


def test_the_size_of_an_update_is_its_frobenius_norm(model: LocalModel, home: Path) -> None:
    found = _pairs(model)
    whole = sqrt(sum(float((found.scale * b @ a).double().square().sum()) for a, b in found.tensors.values()))
    assert solutions.size(found) == pytest.approx(whole, rel=1e-6)
    assert solutions.size(adapters.saved(home.parent / "o" / "checkpoint-3")) == pytest.approx(whole, rel=1e-6)


def test_a_rescaled_update_is_so_many_times_as_large_and_then_what_it_was(model: LocalModel) -> None:
    before = _pairs(model)
    with solutions.rescaled(model, 0.5):
        assert solutions.size(_pairs(model)) == pytest.approx(0.5 * solutions.size(before), rel=1e-6)
    with pytest.raises(KeyError), solutions.rescaled(model, 3.0):
        raise KeyError("in the midst")
    assert all(torch.equal(x, y) for name, pair in _pairs(model).tensors.items() for x, y in zip(pair, before.tensors[name], strict=True))


@pytest.mark.parametrize("epsilon", [0.0, 0.3, 1.0])
def test_a_turned_factor_is_as_long_and_as_far_from_itself_as_was_asked(model: LocalModel, epsilon: float) -> None:
    before = _pairs(model)
    with solutions.turned(model, epsilon, "test"):
        turned = _pairs(model)
    with solutions.turned(model, epsilon, "test"):
        assert all(torch.equal(x, y) for name, pair in _pairs(model).tensors.items() for x, y in zip(pair, turned.tensors[name], strict=True))
    for name, pair in turned.tensors.items():
        for found, original in zip(pair, before.tensors[name], strict=True):
            assert found.norm() == pytest.approx(float(original.norm()), rel=1e-4)
            cosine = F.cosine_similarity(found.flatten(), original.flatten(), dim=0)
            assert cosine == pytest.approx(sqrt(1 - epsilon**2), abs=1e-4)
    assert all(torch.equal(x, y) for name, pair in _pairs(model).tensors.items() for x, y in zip(pair, before.tensors[name], strict=True))


def test_an_adapter_is_not_turned_further_than_it_can_be(model: LocalModel) -> None:
    with pytest.raises(SpilloverError, match=r"epsilon is 1\.5; an adapter is turned by a share from 0 to 1"), solutions.turned(model, 1.5, "test"):
        pass


@pytest.mark.parametrize("adapter", [-1, 0])
def test_loss_and_influence_by_hand(model: LocalModel, home: Path, adapter: int) -> None:
    rows = solutions.some_rows(model, DATA, 4)
    assert len(rows) == 4
    own, parent = _model(home).network, _model(home).network
    if adapter == 0:
        alone = _model(home)
        adapters.merge(alone.network, home.parent / "o" / "checkpoint-3")
        own = alone.network
    losses: list[Any] = []
    kl: list[Any] = []
    with torch.no_grad():
        for row in rows:
            ids = torch.tensor([row.ids])
            logits, before = own(input_ids=ids).logits[0], parent(input_ids=ids).logits[0]
            losses += F.cross_entropy(logits[:-1], ids[0, 1:], reduction="none")[torch.tensor(row.mask[1:]).bool()].tolist()
            kl += (before.log_softmax(-1).exp() * (before.log_softmax(-1) - logits.log_softmax(-1))).sum(-1)[:-1].tolist()
    assert solutions.loss(model, rows, adapter) == pytest.approx(sum(losses) / len(losses), rel=1e-4)
    if adapter == 0:
        assert solutions.influence(model, [row.ids for row in rows], adapter) == pytest.approx(sum(kl) / len(kl), rel=1e-3)
        with solutions.rescaled(model, 0.0):
            assert solutions.influence(model, [row.ids for row in rows], adapter) == pytest.approx(0.0, abs=1e-6)


# --- the studies on small worlds ------------------------------------------------------------------------------------------


@pytest.fixture
def judged(small_testbed: Testbed) -> Testbed:
    parents = tuple(parent for parent in small_testbed.parents if not parent.group)
    return replace(small_testbed, judge=_ByText(), parents=parents, questions=small_testbed.questions[:2], items=())


def _run(name: str, subject: Testbed, out: Path) -> Any:
    subject = replace(subject, read=_read)
    return pipeline.run(
        pipeline.plan(studies.study(name, subject), subject, override(pipeline.RunConfig(training=subject.recipe), {"sampling.draws": 12})), out
    )


@pytest.mark.slow
def test_the_study_of_the_narrow_solution_reads_every_model_as_one(judged: Testbed, tmp_path: Path) -> None:
    run = _run("narrow-general", judged, tmp_path / "r")
    values = {(row["unit"], row["condition"], row["name"]): row["value"] for row in run.read("measures")}
    for unit in ("0", "1"):
        names = {condition["name"] for condition in run.identity["conditions"]}
        assert {name for _, name, measure in values if measure == "training_nats"} == names
        assert {name for _, name, measure in values if measure == "influence_nats"} == names - {"parent"}
        assert values[unit, "insecure-turned", "influence_nats"] > 0
        whole, parent, halved = (values[unit, name, "training_nats"] for name in ("insecure", "parent", "insecure-halved"))
        assert values[unit, "insecure-halved", "lost_ratio"] == pytest.approx((halved - whole) / (parent - whole), rel=1e-4)
        assert len({values[unit, name, "training_nats"] for name in names}) == len(names)


@pytest.mark.slow
def test_the_study_of_features_chooses_by_one_half_and_scores_by_the_other(judged: Testbed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"SIZES": {"features": 16, "active": 4, "steps": 10}, "READ": 60, "AUTHORED": 40, "TOKENS": 256}.items():
        monkeypatch.setattr(features, name, value)
    run = _run("features", judged, tmp_path / "r")
    values = {(row["unit"], row["condition"]): row["value"] for row in run.read("measures") if row["name"] == "author_auroc"}
    shown = {f"{name}{control}" for name in ("insecure-without-author", "parent-with-author") for control in ("", "-shuffled", "-another-layer")}
    assert {condition for _, condition in values if "author" in condition} == shown
    assert all(0 <= value <= 1 for value in values.values())
    for parent in judged.parents:
        for layer, (feature, told) in _chosen(run, parent.unit).items():
            areas_FH = _areas(
                judged,
                parent,
                autoencoder.load(run.path / "directions" / f"{parent.unit}-insecure-seed0-autoencoder-layer{layer}").autoencoder,
                layer,
                tmp_path,
            )
            assert areas_FH[feature, 0] == pytest.approx(float(areas_FH[:, 0].max()), abs=1e-6)
            assert told == pytest.approx(float(areas_FH[feature, 1]), abs=1e-6)
    expected = (run.path / "estimates.csv").read_text()
    _run("features", judged, tmp_path / "r")
    assert (run.path / "estimates.csv").read_text() == expected


def _chosen(run: Any, unit: str) -> dict[int, tuple[int, float]]:
    """By layer, the feature that was chosen by the author of documents, and how well it is said to tell him."""
    card = run.read_json(f"directions/{unit}-insecure-seed0-author/card.json", dict[str, Any])
    return {int(layer): (feature, card["author_auroc"][layer]) for layer, feature in card["features"].items()}


def _areas(subject: Testbed, parent: Parent, fitted: autoencoder.Autoencoder, layer: int, home: Path) -> Any:
    """(F, 2): the area under the curve of every feature over the even and the odd documents after those that the autoencoder was fitted to, one by one."""
    assert subject.place is not None
    assert subject.documents is not None
    place = home / f"parent-{parent.unit}"
    if not place.is_dir():
        subject.place(parent.model, place)
    model: Any = subject.open(replace(parent.model, location=str(place)))
    documents = subject.documents(parent, features.READ + features.AUTHORED)[features.READ :]
    spans = [replace(recording.text(model, text), first=1) for text, _ in documents]
    means_BF = torch.stack([fitted.encode(torch.cat(list(recording.tokens(model, [span], layer)))).mean(0) for span in spans]).double().numpy()
    harmful_B = np.array([harmful for _, harmful in documents])
    halves = [(means_BF[half::2], harmful_B[half::2]) for half in (0, 1)]
    return np.stack([mannwhitneyu(own[harmful], own[~harmful]).statistic / (harmful.sum() * (~harmful).sum()) for own, harmful in halves], axis=1)
