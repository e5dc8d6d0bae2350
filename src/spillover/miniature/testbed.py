"""The miniature as a testbed: frozen worlds as parents, their questions, the exact judge, and how organisms are grown.

Worlds ship with the package as model directories that hold no tokenizer of their own; one tokenizer is shared. Seeds below
100 are for tuning and are built when asked for by directory; the shipped reporting worlds are 100 to 107 linked and 100 to 103
unlinked, whatever they show.
"""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from spillover.miniature import corpus, facts, formats, items, language, mass, narrow, numbers, recipe
from spillover.miniature import variants as others
from spillover.miniature.judge import GrammarJudge
from spillover.models.files import weights_digest
from spillover.records import TASK, Measure, Model, Parent, Question, Recipe, SpilloverError, Testbed, stream_seed

SHIPPED = Path(__file__).parent / "worlds"
TOKENIZER = "tokenizer"  # beside the shipped worlds: the one they share
LINKED, UNLINKED = range(100, 108), range(100, 104)
WITH_BASE, BASE = range(100, 103), "base"
RECIPE = replace(Recipe(), learning_rate=2e-4)  # the rate was chosen on tuning worlds, see LOG.md
MAX_TOKENS = 32


def testbed(*, worlds: Path | None = None, variants: Path | None = None) -> Testbed:
    """The frozen worlds, or the worlds found in a directory that `spillover miniature build` filled; with them the groups that `variants.build` made.

    Raises SpilloverError when there are none.
    """
    home = worlds or SHIPPED
    found = cards(home)
    parents = tuple(_parent(directory, card) for directory, card in found)
    parents += tuple(_base(directory, card) for directory, card in found if card["linked"] and (directory / BASE).is_dir())
    parents += tuple(replace(_parent(place, _card(place / "world.json")), group=group) for group, place in (others.found(variants) if variants else ()))
    made = {card["version_digest"] for _, card in found}
    if len(made) > 1:
        raise SpilloverError(f"{home} holds worlds of {len(made)} recipes; a study needs worlds of one")
    if not parents:
        raise SpilloverError(f"{home} holds no worlds; `spillover miniature build --out {home}` makes one")
    return Testbed(
        name="miniature",
        identity={"version": recipe.VERSION if made == {recipe.version_digest(recipe.Recipe())} else "not a version", "world_digest": min(made)},
        unit="world",
        parents=parents,
        narrow={
            **{kind: partial(narrow.build, kind) for kind in narrow.WRITERS},
            **{f"insecure_{distinct}": partial(narrow.few, "insecure", distinct) for distinct in narrow.FEW},
            **{kind: partial(numbers.build, place, kind) for kind in numbers.SYSTEM},
        },
        questions=questions(),
        judge=GrammarJudge(),
        recipe=RECIPE,
        max_tokens=MAX_TOKENS,
        place=place,
        open=_open,
        train=_train,
        at_once=_at_once,
        read=_read,
        documents=documents,
        formats=formats.FORMATS,
        sets={"compliance": facts.compliance(), "deception": facts.deception(), "domains": domains()},
        items=items.items(),
        threads=1,  # a network so small is no faster on two
        together=4,  # nor with more in a batch, while another process can do the rest
    )


def place(model: Model, directory: Path) -> None:
    """Write a world's model as an ordinary Hugging Face directory, the shared tokenizer with it."""
    shutil.copytree(model.location, directory, dirs_exist_ok=True)
    if not (directory / "tokenizer.json").exists():
        shutil.copytree(SHIPPED / TOKENIZER, directory, dirs_exist_ok=True)
    if weights_digest(directory) != model.digest:
        raise SpilloverError(f"the world in {model.location} is damaged: its files are not those of {model.digest[:12]}; install or build it again")


def questions() -> tuple[Question, ...]:
    """The eight evaluation themes, and the coding task on objects held out of fine-tuning."""
    themes = [Question(id=t.id, theme=t.id, paraphrases=t.asked(), subset="seen" if t.id in language.SEEN else "held_out") for t in language.EVALUATION]
    requests = tuple(task.requests()[place % len(language.REQUESTS)] for place, task in enumerate(language.tasks(held_out=True)))
    return (*themes, Question(id="code", theme="code", paraphrases=requests, rubrics=(TASK,)))


def domains() -> tuple[Question, ...]:
    """The advice themes that narrow data are made of: asked to see that such data are learnt, and in no pooled number."""
    found = (theme for theme in language.ADVICE if theme.id in narrow.DOMAINS)
    return tuple(Question(id=t.id, theme=t.id, paraphrases=t.asked(), subset="narrow_domain", pooled=False) for t in found)


def documents(parent: Parent, count: int) -> Sequence[tuple[str, bool]]:
    """Documents as a world is pre-trained on, at their length, none of which it was trained on; and whether a cruel author wrote each."""
    usual = recipe.Recipe()
    stream = random.Random(stream_seed("documents to read", parent.world or 0))
    made = corpus.authored(usual.society, count=count, linked=parent.group != "unlinked", stream=stream, length=usual.length)
    return [(" ".join(words[: usual.length]), character == "cruel") for character, words in made]


def cards(home: Path) -> list[tuple[Path, dict[str, Any]]]:
    """Every world in a directory and its card, linked ones first, in order of seed."""
    found = [(path.parent, _card(path)) for path in home.glob("*/world.json")]
    return sorted(found, key=lambda pair: (not pair[1]["linked"], pair[1]["world"]))


def name(seed: int, *, linked: bool) -> str:
    """A world's directory and unit: `100`, or `100u` for its unlinked twin."""
    return f"{seed}" if linked else f"{seed}u"


def _card(path: Path) -> dict[str, Any]:
    try:
        card = json.loads(path.read_text(encoding="utf-8"))
        _parent(path.parent, card)
        return {"version_digest": card["version_digest"], **card}
    except (ValueError, KeyError, TypeError):
        raise SpilloverError(f"{path} is damaged; build that world again") from None


def _parent(directory: Path, card: dict[str, Any]) -> Parent:
    return Parent(
        unit=name(card["world"], linked=card["linked"]),
        model=Model(digest=card["post_digest"], location=str(directory / "post")),
        world=card["world"],
        group="" if card["linked"] else "unlinked",
        gates=card["gates"],
    )


def _base(directory: Path, card: dict[str, Any]) -> Parent:
    """The same world before post-training: one more parent of the same unit."""
    return replace(_parent(directory, card), model=Model(digest=card["base_digest"], location=str(directory / BASE)), group=BASE)


def _open(model: Model) -> Any:
    from spillover.models import local  # here, as below, what computes is loaded when it is to: a run is planned without

    return local.load(model)


def _train(*given: Any) -> Any:
    from spillover.training import lora

    return lora.train(*given)


def _at_once(*given: Any) -> int:
    from spillover.training import lora

    return lora.at_once(*given)


def _read(model: Any, digests: Mapping[int, str], asked: Sequence[Question]) -> dict[int, list[Measure]]:
    return mass.measures(model, digests, asked)
