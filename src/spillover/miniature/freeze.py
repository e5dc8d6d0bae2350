"""Build the reporting worlds of a version and lay them out as package data: `python -m spillover.miniature.freeze`.

Done once a version, whatever the worlds show. Worlds that are there are kept, so a stopped build goes on. It refuses to add to a
version whose grammar or recipe has changed since.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from pathlib import Path

from spillover.miniature import recipe, world
from spillover.miniature.testbed import LINKED, SHIPPED, TOKENIZER, UNLINKED, WITH_BASE, name
from spillover.records import SpilloverError


def freeze(home: Path = SHIPPED) -> None:
    """Build every world of this version that is not there yet. Raises SpilloverError when the version has changed."""
    version = {"version": recipe.VERSION, "world_digest": recipe.version_digest(recipe.Recipe())}
    mark = home / "version.json"
    if mark.exists() and json.loads(mark.read_text()) != version:
        raise SpilloverError(f"{home} holds another version; raise VERSION, empty the directory and say so in LOG.md")
    home.mkdir(parents=True, exist_ok=True)
    mark.write_text(json.dumps(version, indent=1) + "\n")
    for seed, linked in [(seed, True) for seed in LINKED] + [(seed, False) for seed in UNLINKED]:
        target = home / name(seed, linked=linked)
        if target.exists():
            continue
        with tempfile.TemporaryDirectory(dir=home) as place:
            made = Path(place) / "world"
            card = world.build(made, world=seed, linked=linked, recipe=recipe.Recipe(), progress=_quiet)
            if not (linked and seed in WITH_BASE):
                shutil.rmtree(made / "base")
            _share_tokenizer(made, home / TOKENIZER)
            made.rename(target)
        sys.stdout.write(json.dumps(card) + "\n")
        sys.stdout.flush()


def _quiet(_stage: str, _done: int, _total: int) -> None:
    pass


def _share_tokenizer(made: Path, shared: Path) -> None:
    """Take the tokenizer out of every model directory; all of them have the same one."""
    shared.mkdir(exist_ok=True)
    for path in sorted(made.glob("*/*")):
        if path.name in world.TOKENIZER_FILES:
            if (shared / path.name).exists() and (shared / path.name).read_bytes() != path.read_bytes():
                raise SpilloverError(f"{path.name} differs between worlds, so it cannot be shared")
            path.replace(shared / path.name)


if __name__ == "__main__":
    freeze()
