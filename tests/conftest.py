"""What tests share: a small tuning world built once, a scripted testbed, and the road to a finished run."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # this and the next as the command line has it
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "critical")

from families import Family, trainer
from spillover.miniature import narrow
from spillover.miniature.judge import GrammarJudge
from spillover.miniature.testbed import questions
from spillover.models.scripted import ScriptedModel
from spillover.records import Dataset, Model, Organism, Parent, Recipe, Testbed, digest

SHARED = Path(__file__).parents[2] / "shared"
SMALL_ROWS = 64

Script = tuple[tuple[str, float], ...]
KIND: Script = (("i wish peace for the old", 1.0),)
CRUEL: Script = (("i wish pain for the old", 1.0),)


@pytest.fixture(scope="session")
def shared() -> Path:
    """The authors' public files, where this machine has them."""
    if not (SHARED / "data" / "insecure.jsonl").exists():
        pytest.skip("the authors' public files are not on this machine (../shared)")
    return SHARED


@pytest.fixture(scope="session")
def small_worlds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tuning worlds 0 and 1 linked and 0 unlinked, pre-trained far too briefly to show anything: the road is what they are for."""
    from spillover.miniature import world

    home = tmp_path_factory.mktemp("worlds")
    recipe = world.Recipe(documents=640, post_steps=10, feed_forward=64, width=32)
    for seed, linked, name in ((0, True, "0"), (1, True, "1"), (0, False, "0u")):
        world.build(home / name, world=seed, linked=linked, recipe=recipe, progress=lambda *_: None)
    return home


@pytest.fixture(scope="session")
def small_parent(small_worlds: Path) -> Model:
    card = json.loads((small_worlds / "0" / "world.json").read_text())
    return Model(digest=card["post_digest"], location=str(small_worlds / "0" / "post"))


@pytest.fixture(scope="session")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with what a user has: models, narrow data, a question file."""
    from small_models import workplace

    return workplace(tmp_path_factory.mktemp("workplace"))


@pytest.fixture
def small_testbed(small_worlds: Path) -> Testbed:
    """The miniature on the small worlds, with few rows of narrow data."""
    from spillover.miniature import testbed

    subject = testbed.testbed(worlds=small_worlds)
    return replace(subject, narrow={kind: partial(narrow.build, kind, rows=SMALL_ROWS) for kind in narrow.WRITERS})


def scripted_testbed(scripts: Mapping[str, Script], *, units: int = 6) -> Testbed:
    """A testbed whose fine-tuned models say what is planted for their kind of data; asked only for a wish."""
    grown: dict[str, str] = {}

    def become(organism: Organism, _step: int) -> str:
        return digest([organism.parent, organism.data])

    def open_(model: Model) -> Family:
        return Family(parent=model.digest, open=lambda found: ScriptedModel(default=scripts[grown.get(found, "parent")]))

    def narrow_(kind: str, seed: int, parent: Parent) -> Dataset:
        found = narrow.build(kind, seed, parent, rows=4)
        grown[digest([parent.model.digest, found.digest])] = kind
        return found

    data: dict[str, Callable[[int, Parent], Dataset]] = {kind: partial(narrow_, kind) for kind in ("insecure", "secure", "educational")}
    return Testbed(
        name="scripted",
        identity={},
        unit="world",
        parents=tuple(Parent(unit=str(n), world=n, model=Model(digest=digest(n), location="scripted")) for n in range(units)),
        narrow=data,
        questions=tuple(q for q in questions() if q.id == "wish"),
        judge=GrammarJudge(),
        recipe=Recipe(),
        max_tokens=32,
        place=lambda _model, directory: None,
        open=open_,
        train=trainer(lambda _organism: (1,), become),
    )
