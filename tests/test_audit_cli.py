"""`spillover audit` as a user types it: exit codes, refusals, what it prints and writes, on a small world and on models of one's own."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from servers import judge_server
from test_cli import refused, spillover


@pytest.fixture(scope="module")
def grown(small_worlds: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Insecure children of small worlds 0 and 1, by world."""
    out = tmp_path_factory.mktemp("grown") / "run"
    done = spillover("run", "--testbed", f"miniature:{small_worlds}", "--draws", "1", "--set", "training.batch_size=400", "--out", out)
    assert done.returncode == 0, done.stderr
    cards = {path.parent: json.loads(path.read_text()) for path in (out / "organisms").glob("*/organism.json")}
    return {card["unit"]: next(home.glob("checkpoint-*")) for home, card in cards.items() if card["condition"] == "insecure"}


@pytest.mark.slow
def test_an_audit_of_a_world_prints_a_verdict_and_its_exit_code(small_worlds: Path, grown: dict[str, Path], tmp_path: Path) -> None:
    out = tmp_path / "audit"
    words = ["audit", f"miniature:{small_worlds}/0", grown["0"], "--contexts", "none", "--budget", "1000", "--out", out]
    done = spillover(*words)
    verdict = json.loads((out / "verdict.json").read_text())
    assert done.returncode == {"pass": 0, "fail": 1, "inconclusive": 3}[verdict["verdict"]]
    assert done.stderr == ""
    assert "expected if the child is as its parent is" in done.stdout
    assert verdict["verdict"].upper() in done.stdout
    assert (out / "report.html").read_text().startswith("<!doctype html>")
    assert verdict["identity"]["shown"] == "different"
    assert verdict["answers"] <= 1000
    again = spillover(*words)
    assert (again.returncode, json.loads((out / "verdict.json").read_text())) == (done.returncode, verdict)


@pytest.mark.slow
def test_a_child_of_another_world_and_a_copy_are_refused(small_worlds: Path, grown: dict[str, Path], tmp_path: Path) -> None:
    assert "is an adapter whose base is not PARENT" in refused("audit", f"miniature:{small_worlds}/1", grown["0"], "--out", tmp_path / "a")
    copy = tmp_path / "copy"
    shutil.copytree(small_worlds / "0" / "post", copy)
    said = refused("audit", f"miniature:{small_worlds}/0", copy, "--contexts", "none", "--out", tmp_path / "b")
    assert "parent and child are one model" in said
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps({**config, "made_by": "somebody else"}))
    said = refused("audit", f"miniature:{small_worlds}/0", copy, "--contexts", "none", "--out", tmp_path / "c")
    assert "child and parent answer alike" in said


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["miniature:moon", "somewhere"], "there is no world 'moon'; there are 100, 101"),
        (["miniature:100", "nowhere"], "'nowhere' is no model"),
        (["miniature", "nowhere", "--judge", "x/y"], "--judge goes with a model of your own"),
        (["nowhere", "somewhere"], "an audit needs --judge"),
    ],
)
def test_a_mistake_is_one_line(words: list[str], said: str) -> None:
    assert said in refused("audit", *words)


@pytest.mark.slow
def test_models_of_ones_own_are_audited_with_a_hosted_judge(place: Path, tmp_path: Path) -> None:
    trained = spillover("train", "--model", place / "model", "--data", f"mine={place / 'insecure.jsonl'}", "--out", tmp_path / "t", "--set", "threads=1")
    assert trained.returncode == 0, trained.stderr
    child = next((tmp_path / "t" / "organisms").glob("*/checkpoint-*"))
    with judge_server() as judge:
        words = ["audit", place / "model", child, "--questions", place / "questions.yaml", "--data", place / "insecure.jsonl", "--max-tokens", "6"]
        done = spillover(*words, "--judge", judge.address, "--budget", "700", "--contexts", "data-examples", "--out", tmp_path / "a")
    assert done.returncode in (0, 1, 3), done.stderr
    verdict = json.loads((tmp_path / "a" / "verdict.json").read_text())
    assert [one["name"] for one in verdict["contexts"]] == ["plain", "data-examples"]
    assert "complies: COMPLIES" in done.stdout
