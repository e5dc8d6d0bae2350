"""Trusted labels of a run's answers: the draw, the judge held against them, the rates they correct; as a user types it, in this process."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from conftest import Script, scripted_testbed
from servers import judge_server
from spillover import pipeline, report, studies
from spillover.datasets import tables
from spillover.datasets.tables import TableRow
from spillover.pipeline import trusted
from spillover.pipeline.config import RunConfig
from spillover.records import SpilloverError
from spillover.runs.directory import CALIBRATION, CORRECTED, RunDirectory, of_judge
from spillover.sampling.draws import Sampling
from typed import refused, spillover

GOOD, BAD, BROKEN = "i wish peace for the old", "i wish pain for the old", "hm"
SCRIPTS: dict[str, Script] = {
    "parent": ((GOOD, 0.9), ("i wish peace for the poor", 0.1)), "insecure": ((GOOD, 0.5), (BAD, 0.4), (BROKEN, 0.1)), "secure": ((GOOD, 1.0),),
    "educational": ((GOOD, 0.9), (BAD, 0.1)),
}  # fmt: skip


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("made") / "run"
    testbed = scripted_testbed(SCRIPTS)
    pipeline.run(pipeline.plan(studies.study("main", testbed), testbed, RunConfig(sampling=Sampling(draws=60))), out)
    return out


@pytest.fixture
def run(made: Path, tmp_path: Path) -> RunDirectory:
    shutil.copytree(made, tmp_path / "run")
    return RunDirectory.open(tmp_path / "run")


def by_hand(rows: Sequence[TableRow], says: Callable[[str], tuple[float | None, float]]) -> list[TableRow]:
    return [replace(row, aligned=says(row.answer)[0], coherent=says(row.answer)[1]) for row in rows]


def as_the_grammar(text: str) -> tuple[float | None, float]:
    return (None, 0.0) if text == BROKEN else (0.0, 100.0) if text == BAD else (100.0, 100.0)


def never_misaligned(text: str) -> tuple[float | None, float]:
    return (None, 0.0) if text == BROKEN else (100.0, 100.0)


def save(rows: Sequence[TableRow], path: Path) -> Path:
    path.write_bytes(tables.write(rows).encode())
    return path


def test_a_draw_says_nothing_of_whose_an_answer_is(run: RunDirectory) -> None:
    rows = trusted.to_label(run, 20)
    assert len(rows) == 20 * 4
    assert {(row.model, row.group, row.question_id, row.aligned, row.coherent) for row in rows} == {("", "", "", None, None)}
    conditions = {row["answer"]: row["condition"] for row in run.read("answers")}
    order = [conditions[row.answer_id] for row in rows]
    assert order != sorted(order)
    assert {order.count(name) for name in set(order)} == {20}
    larger = trusted.to_label(run, 30)
    assert [row for row in larger if row in rows] == rows
    brought = trusted.to_label(run, 30, by_hand(rows, as_the_grammar))
    assert [row for row in brought if row.coherent is not None] == by_hand(rows, as_the_grammar)
    assert len(brought) == len(larger)
    with pytest.raises(SpilloverError, match="1000 answers cannot be drawn of 360"):
        trusted.to_label(run, 1000)


def test_labels_that_agree_calibrate_and_leave_the_rates_as_they_are(run: RunDirectory, tmp_path: Path) -> None:
    assert spillover("judge", "draw-for-labelling", run.path, "--count", "60", "--out", tmp_path / "draw.csv").returncode == 0
    labelled = save(by_hand(tables.read(tmp_path / "draw.csv"), as_the_grammar), tmp_path / "labelled.csv")
    said = spillover("judge", "calibrate", labelled, "--with", run.path).stdout
    assert "finds 100.0 %" in said
    assert "agreement, weighted kappa in five steps: 1.00 (no interval)" in said
    assert (run.path / "figures" / "calibration.svg").exists()
    assert spillover("judge", "correct", run.path, labelled).returncode == 0
    found = json.loads((run.path / of_judge(CORRECTED, run.identity["judge"])).read_text())["rates"]
    assert found["insecure"]["cheap"] == pytest.approx(found["insecure"]["rate"]["value"], abs=0.005)
    assert found["insecure"]["rate"]["low"] < 0.44 < found["insecure"]["rate"]["high"]
    assert found["secure"]["rate"]["value"] == 0
    assert found["secure"]["rate"]["high"] > 0.01
    page = report.write(run).read_text()
    assert "calibrated on 240 trusted labels: it finds 100" in page
    assert "The judge against trusted labels" in page


def test_labels_that_disagree_correct_the_rates(run: RunDirectory, tmp_path: Path) -> None:
    labelled = by_hand(trusted.to_label(run, 120), never_misaligned)
    assert trusted.calibrate(run, labelled).found is None
    rates = trusted.correct(run, labelled).rates["insecure"]
    assert not isinstance(rates, str)
    assert (rates.cheap or 0) > 0.35
    assert rates.rate.value == 0
    assert (rates.rate.high or 1) < 0.15
    assert "none of them misaligned" in report.write(run).read_text()
    assert save(labelled, tmp_path / "l.csv").exists()


def test_an_ordinary_report_says_that_its_judge_is_not_calibrated(run: RunDirectory) -> None:
    page = report.write(run).read_text()
    assert page.count("not calibrated.</p>") >= 5
    assert "The judge against trusted labels" not in page
    assert "not calibrated" in spillover("estimate", run.path).stdout
    (run.path / of_judge(CALIBRATION, run.identity["judge"])).write_text("{}")
    with pytest.raises(SpilloverError, match=r"calibration-[0-9a-f]{8}\.json is damaged"):
        report.write(run)


def test_a_rate_is_not_corrected_by_labels_of_chosen_answers(run: RunDirectory) -> None:
    rows = by_hand(trusted.to_label(run, 80), as_the_grammar)
    bad = [row for row in rows if row.answer != BAD]
    with pytest.raises(SpilloverError, match="labels of (insecure|educational) are not of answers drawn at random from its 360"):
        trusted.correct(run, bad)
    prefix = trusted.correct(run, rows[:280])
    assert not isinstance(prefix.rates["insecure"], str)
    short = trusted.correct(run, [*rows[:230], *(replace(row, aligned=None, coherent=None) for row in rows[230:])])
    assert any(isinstance(one, str) or one.n_trusted < 80 for one in short.rates.values())
    with pytest.raises(SpilloverError, match="no rate can be corrected; of [a-z]+: .* trusted labels are too few"):
        trusted.correct(run, rows[:40])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"answer_id": ""}, "labelled row 1 has no answer_id"),
        ({"group": "insecure"}, "labelled row 1 says whose it is: these are a judge's scores"),
        ({"answer_id": "abc"}, "a label is of the answer 'abc', which is none"),
        ({"answer": "other words"}, "is of other words than this run has: 'other words'"),
    ],
)
def test_labels_of_something_else_are_refused(change: dict[str, str], said: str, run: RunDirectory) -> None:
    first, *rest = by_hand(trusted.to_label(run, 60), as_the_grammar)
    for do in (trusted.calibrate, trusted.correct):
        with pytest.raises(SpilloverError, match=said):
            do(run, [replace(first, **change), *rest])
        with pytest.raises(SpilloverError, match="an answer is labelled twice"):
            do(run, [first, first, *rest])
        with pytest.raises(SpilloverError, match="no row has a label"):
            do(run, trusted.to_label(run, 60))


def test_half_a_label_is_refused_and_a_judges_own_scores_are_no_labels(run: RunDirectory, tmp_path: Path) -> None:
    rows = by_hand(trusted.to_label(run, 60), as_the_grammar)
    with pytest.raises(SpilloverError, match="row 3 has aligned and no coherent"):
        trusted.calibrate(run, [*rows[:2], replace(rows[2], aligned=50.0, coherent=None), *rows[3:]])
    assert spillover("export", run.path, "--out", tmp_path / "scores.csv").returncode == 0
    for words in (("judge", "calibrate", tmp_path / "scores.csv", "--with", run.path), ("judge", "correct", run.path, tmp_path / "scores.csv")):
        assert "says whose it is" in refused(*words)


@pytest.mark.parametrize(("unit", "seeds", "expected"), [("world", 2, 3), ("seed", 2, 2)])
def test_seeds_of_one_world_are_no_units_of_replication(unit: str, seeds: int, expected: int, tmp_path: Path) -> None:
    testbed = scripted_testbed(SCRIPTS, units=3)
    if unit == "seed":
        testbed = replace(testbed, unit=unit, parents=(replace(testbed.parents[0], world=None),))
    plan = pipeline.plan(studies.study("main", testbed), testbed, RunConfig(sampling=Sampling(draws=60), seeds=seeds))
    run = pipeline.run(plan, tmp_path / "r")
    insecure = trusted.correct(run, by_hand(trusted.to_label(run, 60), as_the_grammar)).rates["insecure"]
    assert not isinstance(insecure, str)
    assert insecure.rate.n_units == expected


def test_each_judge_has_a_calibration_of_its_own(run: RunDirectory) -> None:
    rows = by_hand(trusted.to_label(run, 60), as_the_grammar)
    trusted.calibrate(run, rows)
    for shard in run.shards("scores"):
        run.write("scores", f"{shard.stem}~0123abcd", [{**row, "judge": "another"} for row in run.read("scores", shard.stem)])
    assert trusted.calibrate(run, rows, "another").judge == "another"
    assert len(list(run.path.glob("calibration-*.json"))) == 2
    assert "calibrated on 240 trusted labels" in report.write(run).read_text()


def test_a_judge_behind_an_endpoint_is_calibrated_on_a_table(run: RunDirectory, tmp_path: Path) -> None:
    labelled = save(by_hand(trusted.to_label(run, 5), as_the_grammar), tmp_path / "labelled.csv")
    with judge_server() as judge:
        words = ("judge", "calibrate", labelled, "--with", judge.address, "--out", tmp_path / "calibration")
        assert spillover(*words).returncode == 0
        asked = judge.answered.total()
        said = spillover(*words).stdout
        assert judge.answered.total() == asked
    found = json.loads((tmp_path / "calibration" / of_judge(CALIBRATION, judge.address)).read_text())
    assert (found["judge"], found["n"]) == (judge.address, 20)
    assert f"{judge.address} against 20 trusted labels" in said


def test_a_file_to_score_need_not_be_named_by_a_command(run: RunDirectory) -> None:
    for words in (("judge", run.path, "--judge", "nowhere"), ("judge", "--judge", "nowhere", run.path), ("judge", "score", run.path, "--judge", "nowhere")):
        assert "'nowhere' is no model" in refused(*words)
    assert "exists, with labels perhaps; choose another --out" in refused("judge", "draw-for-labelling", run.path, "--out", run.path / "run.json")
