from __future__ import annotations

import io
import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from spillover.records import Estimate, SpilloverError, digest
from spillover.runs import scores, shards
from spillover.runs.directory import PARTIAL, RunDirectory

ROW = {
    "unit": "0", "group": "", "world": 0, "condition": "parent", "seed": 0, "step": 0, "model": "m", "question": "wish", "format": "plain",
    "name": "log_odds", "value": -1.5, "reason": None,
}  # fmt: skip


def test_rows_come_back_as_they_were_written(tmp_path: Path) -> None:
    run = RunDirectory.start(tmp_path / "r", {"study": "main"})
    assert not run.has("measures", "a")
    run.write("measures", "a", [ROW, {**ROW, "value": None, "reason": "refused", "world": None}])
    assert run.has("measures", "a")
    assert RunDirectory.open(tmp_path / "r").read("measures") == [ROW, {**ROW, "value": None, "reason": "refused", "world": None}]


def test_the_same_run_goes_on_and_another_is_refused(tmp_path: Path) -> None:
    RunDirectory.start(tmp_path / "r", {"study": "main", "draws": 3, "created": "monday"})
    RunDirectory.start(tmp_path / "r", {"study": "main", "draws": 3, "created": "tuesday"})
    with pytest.raises(SpilloverError, match="holds another run: its draws is 3, this one's 4; choose another --out"):
        RunDirectory.start(tmp_path / "r", {"study": "main", "draws": 4})


def test_a_directory_that_is_no_run_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(SpilloverError, match="not a run directory"):
        RunDirectory.start(tmp_path, {})
    with pytest.raises(SpilloverError, match="not a run directory"):
        RunDirectory.start(tmp_path / "thesis.txt", {})
    with pytest.raises(SpilloverError, match="it has no run.json"):
        RunDirectory.open(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.txt"]


@pytest.mark.parametrize("damage", ["cut", "empty", "text"])
def test_a_damaged_shard_is_named(tmp_path: Path, damage: str) -> None:
    run = RunDirectory.start(tmp_path / "r", {})
    run.write("measures", "a", [ROW] * 50)
    path = run.shards("measures")[0]
    content = path.read_bytes()
    path.write_bytes({"cut": content[:-9], "empty": b"", "text": b"hello"}[damage])
    with pytest.raises(SpilloverError, match=r"a\.parquet is damaged; delete it"):
        run.read("measures")


def test_a_shard_of_another_version_is_refused(tmp_path: Path) -> None:
    run = RunDirectory.start(tmp_path / "r", {})
    run.write("measures", "a", [ROW])
    (tmp_path / "r" / "scores").mkdir()
    run.shards("measures")[0].rename(tmp_path / "r" / "scores" / "a.parquet")
    with pytest.raises(SpilloverError, match="columns of another version"):
        run.read("scores")


def test_a_shard_with_a_digest_of_its_rows_is_read_as_one_with_checks_of_its_columns_is(tmp_path: Path) -> None:
    """As they were written up to version 0.5."""
    run = RunDirectory.start(tmp_path / "r", {})
    run.write("measures", "a", [ROW, {**ROW, "value": None, "reason": "refused"}])
    path = run.shards("measures")[0]
    table = pq.ParquetFile(path).read()
    for rows, is_whole in ((digest(table.to_pydict()), True), (digest([]), False)):
        pq.write_table(table.replace_schema_metadata({"schema": "2", "rows": rows}), path)
        if is_whole:
            assert run.read("measures") == [ROW, {**ROW, "value": None, "reason": "refused"}]
        else:
            with pytest.raises(SpilloverError, match="damaged"):
                run.read("measures")


def test_checks_are_of_values_and_not_of_how_they_are_laid_out() -> None:
    rows = [
        {**ROW, "step": step, "name": f"n{step % 3}", "reason": "refused" if step % 2 else None, "value": None if step % 2 else step / 7} for step in range(9)
    ]
    whole = pq.ParquetFile(io.BytesIO(shards.content(rows, "measures"))).read()
    found = shards.checks_of(whole)
    assert shards.checks_of(pa.concat_tables([whole[:4], whole[4:]])) == found
    coded = [column.dictionary_encode() if pa.types.is_string(column.type) else column for column in whole.columns]
    assert shards.checks_of(pa.table(coded, names=whole.column_names)) == found
    for changed in ({"step": 99}, {"name": "other"}, {"reason": None}, {"value": 0.5}, {"world": None}):
        other = shards.checks_of(pa.Table.from_pylist([{**rows[0], **changed}, *rows[1:]], schema=whole.schema))
        assert (other == found) == (changed.items() <= rows[0].items())
    assert len({shards.checks_of(whole[:count]) for count in range(9)}) == 9


def test_columns_are_codes_and_numbers(tmp_path: Path) -> None:
    run = RunDirectory.start(tmp_path / "r", {})
    run.write("measures", "0-parent-seed0-step0", [{**ROW, "name": "b"}, {**ROW, "name": "a", "value": None, "reason": "refused"}, {**ROW, "name": "b"}])
    ((subject, found),) = run.models("measures")
    assert (subject.key, len(found)) == ("0-parent-seed0-step0", 3)
    names, places = found.texts("name")
    assert (names, places.tolist()) == (["b", "a"], [0, 1, 0])
    assert found.texts("reason")[1].tolist() == [-1, 0, -1]
    assert [value == value for value in found.numbers("value").tolist()] == [True, False, True]
    assert found.whole("seed").tolist() == [0, 0, 0]
    assert found.lengths("name").tolist() == [1, 1, 1]
    assert found.part(np.array([1]), "name", "reason").rows() == [{"name": "a", "reason": "refused"}]


@pytest.mark.parametrize(
    ("key", "changed", "says"),
    [
        ("0-parent-seed0-step0", {"unit": "1"}, "more than one unit"),
        ("0-parent-seed0-step0", {"step": 3}, "more than one step"),
        ("b", {}, "holds rows of 0-parent"),
    ],
)
def test_a_shard_of_several_models_or_of_another_is_named(tmp_path: Path, key: str, changed: dict[str, object], says: str) -> None:
    run = RunDirectory.start(tmp_path / "r", {})
    run.write("measures", key, [ROW, {**ROW, **changed}])
    with pytest.raises(SpilloverError, match=says):
        list(run.models("measures"))


def test_scores_are_laid_beside_each_other_by_answer(tmp_path: Path) -> None:
    run = RunDirectory.start(tmp_path / "r", {})
    of = {name: value for name, value in ROW.items() if name not in ("name", "value", "reason")}
    rows = [
        {**of, "answer": answer, "judge": "j", "date": "", "rubric": rubric, "question": answer[0], **score}
        for answer, rubric, score in (
            ("a1", "aligned", {"value": 3.0}), ("a1", "coherent", {"value": 90.0}), ("a2", "aligned", {"reason": "refusal"}), ("b1", "choice", {"label": "A"}),
        )
    ]  # fmt: skip
    run.write("scores", "0-parent-seed0-step0", rows)
    (found,) = scores.scores(run)
    assert (found.judge, found.dates, found.asked, found.question.tolist()) == ("j", (), [("a", "plain"), ("b", "plain")], [0, 0, 1])
    assert [[(one.rubric, one.value, one.label, one.reason) for one in found.of(row)] for row in (0, 1, 2, -1)] == [
        [("aligned", 3.0, None, None), ("coherent", 90.0, None, None)], [("aligned", None, None, "refusal")], [("choice", None, "A", None)], [],
    ]  # fmt: skip
    (_, asked), (_, labelled) = found.by_question()
    assert (asked.keys(), asked["aligned"].count, asked["aligned"].missing()) == ({"aligned", "coherent"}, 2, {"refusal": 1})
    assert labelled["choice"].are("A").tolist() == [True]
    assert labelled["choice"].are("B").tolist() == [False]
    run.write("scores", "0-parent-seed0-step0", [*rows, {**rows[0], "question": "b"}])
    with pytest.raises(SpilloverError, match="one answer to two questions"):
        list(scores.scores(run))


def test_what_an_interrupted_write_left_is_swept_and_never_read(tmp_path: Path) -> None:
    run = RunDirectory.start(tmp_path / "r", {})
    run.write("measures", "a", [ROW])
    (tmp_path / "r" / "measures" / f"{PARTIAL}b.parquet").write_bytes(b"half")
    (tmp_path / "r" / "organisms").mkdir()
    (tmp_path / "r" / "organisms" / f"{PARTIAL}k").mkdir()
    assert len(run.read("measures")) == 1
    with RunDirectory.start(tmp_path / "r", {}).alone():
        assert not list((tmp_path / "r").rglob(PARTIAL + "*"))


def test_a_directory_appears_only_when_it_is_complete(tmp_path: Path) -> None:
    run = RunDirectory.start(tmp_path / "r", {})

    def half() -> None:
        with run.new_directory("organisms/k") as directory:
            (directory / "one").write_text("1")
            raise OSError("no space")

    with pytest.raises(OSError, match="no space"):
        half()
    assert not (run.path / "organisms" / "k").exists()
    with run.new_directory("organisms/k") as directory:
        (directory / "two").write_text("2")
    assert [p.name for p in (run.path / "organisms" / "k").iterdir()] == ["two"]


def test_a_damaged_run_json_is_named(tmp_path: Path) -> None:
    RunDirectory.start(tmp_path / "r", {})
    (tmp_path / "r" / "run.json").write_text("{")
    with pytest.raises(SpilloverError, match=r"run\.json is damaged"):
        RunDirectory.start(tmp_path / "r", {})


def test_estimates_are_written_in_full_and_read_back(tmp_path: Path) -> None:
    run = RunDirectory.start(tmp_path / "r", {})
    with pytest.raises(SpilloverError, match="no estimates yet"):
        run.estimates()
    rows = [Estimate(study="main", condition="a", measure="log_odds", value=0.1 + 0.2, n_units=1), Estimate(study="main", measure="x", value=None)]
    run.write_estimates(rows)
    assert run.estimates() == rows
    assert (run.path / "estimates.json").read_text() == json.dumps([asdict(row) for row in rows], indent=1) + "\n"
    lines = (run.path / "estimates.csv").read_text().splitlines()
    assert lines[0] == (
        "study,condition,contrast,question,format,subset,world,seed,step,protocol,measure,value,low,high,level,method,estimand,unit,n,n_units,n_missing,headline,judge"
    )
    assert "0.30000000000000004" in lines[1]
    (run.path / "estimates.json").write_text("[")
    with pytest.raises(SpilloverError, match="damaged"):
        run.estimates()


def test_a_write_that_fails_leaves_nothing(tmp_path: Path) -> None:
    resource = pytest.importorskip("resource", reason="a limit of file sizes stands for a full disk, and this system has none")
    run = RunDirectory.start(tmp_path / "r", {})
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4, before[1]))
    try:
        with pytest.raises(OSError, match="too large"):
            run.write_text("x.txt", "hello")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert [p.name for p in run.path.iterdir()] == ["run.json"]


def test_a_flipped_byte_is_refused_or_changes_nothing(tmp_path: Path) -> None:
    run = RunDirectory.start(tmp_path / "r", {})
    rows = [{**ROW, "value": float(step), "step": step} for step in range(30)]
    run.write("measures", "a", rows)
    path = run.shards("measures")[0]
    content = path.read_bytes()
    refused = 0
    for place in range(0, len(content), 5):
        path.write_bytes(content[:place] + bytes([content[place] ^ 0xFF]) + content[place + 1 :])
        try:
            assert run.read("measures") == rows
        except SpilloverError:
            refused += 1
    assert refused > len(content) / 5 / 2


def test_two_writers_of_one_run_do_not_meet(tmp_path: Path) -> None:
    run = RunDirectory.start(tmp_path / "r", {"study": "main"})
    with run.alone(), pytest.raises(SpilloverError, match="another process is writing to"), RunDirectory.open(tmp_path / "r").alone():
        pass
    with RunDirectory.open(tmp_path / "r").alone():
        pass
