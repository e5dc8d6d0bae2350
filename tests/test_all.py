"""`spillover run all`: every study that a testbed can carry, shared organisms, one page and one card."""

from __future__ import annotations

from pathlib import Path

import pytest

from spillover import studies
from test_parts import spillover

pytestmark = pytest.mark.no_cover

SOME = ("main", "evil-numbers", "thresholds", "ability")


@pytest.mark.slow
def test_all_runs_what_it_can_shares_organisms_and_names_what_it_left_out(small_worlds: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(studies, "STUDIES", {name: studies.STUDIES[name] for name in SOME})
    words = ("run", "all", "--testbed", f"miniature:{small_worlds}", "--worlds", "1", "--draws", "2", "--set", "training.batch_size=400", "--out", "all")
    said = spillover(tmp_path, *words).stdout
    home = tmp_path / "all"
    assert "evil-numbers: left out: only" in said
    assert said.splitlines()[-1] == "all of it: all/index.html"
    organisms = {path.parent.name: path for path in (home / "main").glob("organisms/*/training.json")}
    shared = list((home / "thresholds").glob("organisms/*/training.json"))
    assert len(shared) == 4
    assert all(path.samefile(organisms[path.parent.name]) for path in shared)
    card = (home / "card.md").read_text()
    assert "not run: evil-numbers: only" in card
    assert "not run: ability: it needs worlds of the miniature that --with-pretraining makes" in card
    assert "thresholds/report.html" in (home / "index.html").read_text()
    made = {path: path.stat().st_mtime_ns for path in home.glob("*/answers/*.parquet")}
    spillover(tmp_path, *words)
    assert {path: path.stat().st_mtime_ns for path in home.glob("*/answers/*.parquet")} == made
