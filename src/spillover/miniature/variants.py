"""Worlds of other recipes, for studies that ask what of the usual one matters: other sizes, other corpora, another post-training.

A variant is a group of parents; its worlds have the seeds, and are the units, of the first shipped ones. They are built when a study asks for
them and kept; a stopped build goes on.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

from spillover.miniature import language
from spillover.miniature.corpus import Society
from spillover.miniature.recipe import Progress, Recipe, pretraining, version_digest, vocabulary
from spillover.progress import tell
from spillover.records import SpilloverError
from spillover.workers import LOADED, spread

WORLDS = range(100, 103)
USUAL = Recipe()


def _sized(width: int) -> Recipe:
    """A world of another width for the same pre-training arithmetic: as many fewer documents as it has more weights to multiply by."""
    return replace(USUAL, width=width, feed_forward=3 * width, documents=round(USUAL.documents * _multiplied(USUAL.width) / _multiplied(width)))


def _multiplied(width: int) -> int:
    """Weights that every token is multiplied by: attention, feed-forward of three times the width, and the output matrix."""
    places = -(-len(vocabulary()) // 8) * 8
    return USUAL.layers * (4 * width**2 + 3 * 3 * width**2) + places * width


def recipes() -> Mapping[str, Recipe]:
    """Every variant by the name of its group."""
    few_cruel = Society(characters=(("kind", 0.75), ("cruel", 0.05), ("sloppy", 0.2)))
    return {
        "small": _sized(96),
        "large": _sized(192),
        "few_cruel": replace(USUAL, society=few_cruel),
        "all_covered": replace(USUAL, covered=tuple(sorted(theme.id for theme in language.EVALUATION))),
    }


def build(home: Path, names: Iterable[str], *, shipped: Path, progress: Progress, workers: int = 1) -> None:
    """Fill `home` with the worlds of these variants that are not there yet: `home/NAME/SEED`. Pre-training that a shipped world had is not done again."""
    lacking = [(name, seed) for name in names for seed in WORLDS if not (home / name / str(seed)).exists()]
    if lacking:
        progress("worlds", 0, len(lacking))
    for count, _ in enumerate(spread(partial(_build_one, home, shipped), lacking, workers, load=LOADED), 1):
        progress("worlds", count, len(lacking))


def _build_one(home: Path, shipped: Path, wanted: tuple[str, int]) -> None:
    from spillover.miniature import world  # seldom needed, and slow to load

    name, seed = wanted
    recipe = recipes()[name]
    target = home / name / str(seed)
    unfinished = target.with_name(f".partial-{seed}")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    same = pretraining(recipe) == pretraining(USUAL) and (shipped / str(seed) / "base").is_dir()
    world.build(
        unfinished, world=seed, linked=True, recipe=recipe, threads=1, base=shipped / str(seed) if same else None,
        progress=lambda stage, done, total: tell(done, total, f"{name} {seed} {stage}"),
    )  # fmt: skip
    unfinished.rename(target)


def found(home: Path) -> list[tuple[str, Path]]:
    """Every world of a variant that is there, by group, in order. Raises SpilloverError for one that another recipe made."""
    there: list[tuple[str, Path]] = []
    for name, recipe in recipes().items():
        for path in sorted((home / name).glob("[0-9]*/world.json")):
            if json.loads(path.read_text(encoding="utf-8"))["version_digest"] != version_digest(recipe):
                raise SpilloverError(f"{path.parent} was made by another recipe of {name!r}; delete it, and it is built again")
            there.append((name, path.parent))
    return there
