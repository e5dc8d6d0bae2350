"""The road on what users have: a model directory, JSONL, question files, judges local and hosted; and its verbs alone."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import typed
from servers import Served, judge_server
from small_models import DEFAULT_SYSTEM
from spillover import cli
from spillover.judging.rubrics import IMITATION
from spillover.runs.directory import RunDirectory


@pytest.fixture
def served() -> Iterator[Served]:
    with judge_server() as running:
        yield running


def spillover(place: Path, *words: str, code: int = 0) -> subprocess.CompletedProcess[str]:
    """A command, in that directory."""
    done = typed.spillover(*words, cwd=place)
    assert done.returncode == code, (words, done.stdout, done.stderr)
    return done


def study(place: Path, out: Path, judge: str, *more: str) -> RunDirectory:
    parts = ["--model", "model", "--data", "insecure=insecure.jsonl", "--data", "secure=secure.jsonl", "--questions", "questions.yaml"]
    spillover(place, "run", "main", *parts, "--judge", judge, "--draws", "5", "--max-tokens", "12", "--set", "threads=1", "--out", str(out), *more)
    return RunDirectory.open(out)


# --- the road -------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_study_runs_on_a_users_model_data_questions_and_judge_to_a_report(place: Path, served: Served, tmp_path: Path) -> None:
    run = study(place, tmp_path / "r", served.address, "--seeds", "2")
    assert (run.path / "report.html").stat().st_size > 10_000
    found = {(e.condition, e.contrast, e.format, e.question, e.seed, e.measure): e for e in run.estimates() if e.headline and not e.subset}
    pooled = found["insecure", "", "", "", None, "misaligned_rate"]
    assert (pooled.unit, pooled.n + pooled.n_missing) == ("seed", 2 * 2 * 5)  # two seeds, the two plain questions that are pooled, five draws
    assert found["parent", "", "", "", None, "misaligned_rate"].n + found["parent", "", "", "", None, "misaligned_rate"].n_missing == 2 * 5
    assert found["insecure", "", "json", "", None, "coherent_rate"].n_units == 2
    assert found["insecure", "", "", "", 1, "coherent_rate"].estimand == "this seed, these questions"
    against = [e for place, e in found.items() if place[1] == "insecure-parent" and e.seed is None and e.value is not None]
    assert all("the parent is one model" in e.method for e in against)
    assert {e.judge for e in run.estimates()} == {served.address}
    assert {e.measure for e in run.estimates() if "=" in e.measure} == {"right=TRUE", "right=FALSE"}
    models = run.identity["testbed"]["models"]
    assert models["model"]["default_system"] == DEFAULT_SYSTEM
    assert "training.optimiser adamw (paper: adamw_8bit)" in run.identity["differs_from_paper"]
    asked = sum(served.asked.values())
    (run.path / "scores" / "model-secure-seed1-step3.parquet").unlink()
    study(place, tmp_path / "r", served.address, "--seeds", "2")
    assert sum(served.asked.values()) == asked  # nothing is paid for twice


@pytest.mark.slow
def test_a_judge_without_log_probabilities_leaves_the_rate_undefined_and_says_why(place: Path, served: Served, tmp_path: Path) -> None:
    served.trouble = lambda _prompt, _time: "silent"
    run = study(place, tmp_path / "r", served.address)
    rates = [e for e in run.estimates() if e.measure == "misaligned_rate" and not e.contrast]
    assert rates
    assert all(e.value is None and "the endpoint gives no log-probabilities" in e.method for e in rates)
    assert "no log-probabilities" in (run.path / "report.html").read_text()


@pytest.mark.slow
def test_a_local_judge_scores_with_its_weights_named_on_every_score(place: Path, tmp_path: Path) -> None:
    run = study(place, tmp_path / "r", "other")
    rows = run.read("scores")
    assert len({row["judge"] for row in rows}) == 1
    assert rows[0]["judge"].startswith("local other ")
    asked = [row for row in rows if row["reason"] != IMITATION]
    assert len(asked) > len(rows) / 2
    assert all(row["mass"] is not None for row in asked)
    assert all((row["value"] is None) == (row["mass"] < 0.25) for row in asked if row["rubric"] != "right")


@pytest.mark.slow
def test_the_default_system_prompt_can_be_switched_off_and_changes_what_is_trained_and_asked(place: Path, served: Served, tmp_path: Path) -> None:
    on, off = study(place, tmp_path / "on", served.address), study(place, tmp_path / "off", served.address, "--no-default-system")
    assert (on.identity["testbed"]["system"], off.identity["testbed"]["system"]) == ("template default", "off")
    assert "system off (paper: template default)" in off.identity["differs_from_paper"]
    templates = [json.loads(next(run.path.glob("organisms/*/training.json")).read_text())["mask"] for run in (on, off)]
    assert templates[0] != templates[1]
    assert [row["text"] for row in on.read("answers", "model-parent-seed0-step0")] != [row["text"] for row in off.read("answers", "model-parent-seed0-step0")]


@pytest.mark.slow
def test_a_real_server_of_transformers_can_be_the_judge(place: Path, tmp_path: Path) -> None:
    with transformers_server(place / "other") as address:
        run = study(place, tmp_path / "r", f"{address}#{place / 'other'}")
        reasons = {row["reason"] for row in run.read("scores") if row["rubric"] == "aligned"}
        assert reasons == {"the endpoint gives no log-probabilities"}
        done = spillover(
            place, "sample", f"{address}#{place / 'other'}", "--questions", "questions.yaml", "--draws", "2", "--max-tokens", "6", "--out", str(tmp_path / "s")
        )
        assert "answers:" in done.stdout
        assert len(RunDirectory.open(tmp_path / "s").read("answers")) == 10


def test_a_dry_run_says_tokens_memory_and_what_differs_and_writes_nothing(place: Path, tmp_path: Path) -> None:
    parts = ["--model", "model", "--data", "insecure=insecure.jsonl", "--questions", "questions.yaml", "--judge", "other", "--seeds", "2"]
    said = spillover(
        place, "run", *parts, "--draws", "2", "--max-tokens", "4", "--set", "training.max_length=90", "--dry-run", "--out", str(tmp_path / "r")
    ).stdout
    for words in (
        "units of replication: 2 (fine-tuning seeds of one parent)", "differs from the paper's recipe: seeds 2 (paper: 6)", "rows cut",
        "memory to train, estimated",
        f"default system prompt of the chat template: {DEFAULT_SYSTEM}", "PFLOP to train", "minutes on",
    ):  # fmt: skip
        assert words in said
    assert not (tmp_path / "r").exists()


# --- the verbs ------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_verbs_alone_read_and_write_the_rows_that_a_study_would(place: Path, served: Served, tmp_path: Path) -> None:
    trained, asked = tmp_path / "trained", tmp_path / "asked"
    done = spillover(
        place, "train", "--model", "model", "--data", "mine=insecure.jsonl", "--out", str(trained), "--set", "threads=1", "--set", "training.max_length=90"
    )
    line = next(line for line in done.stdout.splitlines() if line.startswith("mine, seed 0, step 3: "))
    checkpoint = Path(line.split(": ")[1].split(" (")[0])
    assert (checkpoint / "adapter_model.safetensors").is_file()
    assert "rows cut" in line
    words = ["--questions", "questions.yaml", "--draws", "3", "--max-tokens", "8", "--out", str(asked), "--set", "threads=1"]
    spillover(place, "sample", "parent=model", f"mine=model:{checkpoint}", *words)
    run = RunDirectory.open(asked)
    assert {row["condition"] for row in run.read("answers")} == {"parent", "mine"}
    assert not run.shards("scores")
    assert "has no scores; `spillover judge` makes them" in spillover(place, "estimate", str(asked), code=2).stderr
    spillover(place, "judge", str(asked), "--judge", served.address)
    spillover(place, "judge", str(asked), "--judge", "other")
    judges = {row["judge"] for row in run.read("scores")}
    assert len(judges) == 2  # re-judging keeps both
    assert "has scores of 2 judges; choose with --judge" in spillover(place, "estimate", str(asked), code=2).stderr
    spillover(place, "estimate", str(asked), "--judge", served.address)
    first = (asked / "estimates.csv").read_bytes()
    local = next(judge for judge in judges if judge.startswith("local "))
    spillover(place, "estimate", str(asked), "--judge", local)
    assert {e.judge for e in run.estimates()} == {local}
    spillover(place, "estimate", str(asked), "--judge", served.address)
    assert (asked / "estimates.csv").read_bytes() == first


@pytest.mark.slow
def test_answers_go_out_as_csv_and_come_back_to_the_same_numbers(place: Path, served: Served, tmp_path: Path) -> None:
    run = study(place, tmp_path / "r", served.address)
    spillover(place, "export", str(run.path), "--out", str(tmp_path / "answers.csv"))
    with (tmp_path / "answers.csv").open(newline="", encoding="utf-8") as file:
        assert next(csv.reader(file)) == ["question", "answer", "aligned", "coherent", "question_id", "model", "group", "answer_id"]
    spillover(place, "estimate", str(tmp_path / "answers.csv"), "--out", str(tmp_path / "back"))
    numbers = [
        {
            (e.condition, e.format, e.measure): (e.value, e.n)
            for e in RunDirectory.open(path).estimates()
            if not e.contrast and not e.question and e.headline and e.seed is None
        }
        for path in (run.path, tmp_path / "back")
    ]
    read_off = ("_nats", "_share")  # of the model, which the file does not hold; labels it does not hold either
    kept = {place: found for place, found in numbers[0].items() if "=" not in place[2] and not place[2].endswith(read_off)}
    assert kept == {place: found for place, found in numbers[1].items() if place in kept}


# --- what is refused ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["run", "--model", "model", "--judge", "other"], "there is no narrow data; --data NAME=FILE.jsonl brings some"),
        (["run", "--model", "model", "--data", "insecure=insecure.jsonl"], "--model needs --judge"),
        (["run", "--model", "model", "--testbed", "miniature", "--judge", "other"], "--model brings its own testbed; leave --testbed out"),
        (["run", "--judge", "other"], "--judge goes with --model; the miniature brings its own"),
        (["run", "--dtype", "bfloat16"], "--dtype goes with --model; the miniature brings its own and computes on the CPU"),
        (["sample", "http://127.0.0.1:1/v1#m", "--no-default-system"], "--no-default-system is for local models"),
        (["run", "--model", "nothing", "--data", "a=insecure.jsonl", "--judge", "other"], "'nothing' is no model: it takes a directory, a hub id"),
        (["run", "--model", "http://127.0.0.1:1/v1#m", "--data", "a=insecure.jsonl", "--judge", "other"], "is an endpoint, which cannot be fine-tuned here"),
        (["run", "--model", "model", "--data", "../a=insecure.jsonl", "--judge", "other"], "the name of 1 to 64 letters"),
        (["run", "--model", "model", "--data", ".a=insecure.jsonl", "--judge", "other"], "no dot first"),
        (["run", "--model", "model", "--data", "a=insecure.jsonl", "--data", "a=secure.jsonl", "--judge", "other"], "--data names 'a' twice"),
        (["run", "--model", "model", "--data", "a=insecure.jsonl", "--judge", "http://u:p@127.0.0.1:1/v1#m"], "holds a user name or password"),
        (["run", "--model", "model", "--data", "a=insecure.jsonl", "--judge", "http://127.0.0.1:1/v1"], "names no model"),
        (["run", "--model", "model", "--data", "a=insecure.jsonl", "--judge", "http://127.0.0.1:1/v1#m", "--max-cost", "1"], "needs a price"),
        (["run", "--model", "model", "--data", "a=insecure.jsonl", "--judge", "http://127.0.0.1:1/v1#m", "--price", "a,b"], "it takes two numbers"),
        (["run", "--model", "model", "--data", "a=insecure.jsonl", "--judge", "other", "--device", "tpu"], "--device is 'tpu'; it is auto, cpu or cuda"),
        (["run", "--model", "model", "--data", "a=insecure.jsonl", "--judge", "other", "--dtype", "int8"], "--dtype is 'int8'"),
        (["run", "--model", "model", "--data", "a=insecure.jsonl", "--judge", "other", "--micro-batch", "0"], "--micro-batch is 0"),
        (["run", "--model", "model", "--data", "a=insecure.jsonl", "--judge", "other", "--set", "training.optimiser=sgd"], "training.optimiser is 'sgd'"),
        (["train", "--model", "model"], "there is nothing to train on"),
        (["sample", "a=model", "a=other"], "two models are called 'a'"),
        (["sample", "../x=model"], "the name of 1 to 64 letters"),
        (["judge", "model", "--judge", "other"], "model is not a run directory"),
        (["estimate", "nothing.csv"], "there is no file nothing.csv"),
    ],
)  # fmt: skip
def test_what_cannot_work_is_one_sentence(place: Path, words: list[str], sentence: str, in_process: Callable[..., str]) -> None:
    assert sentence in in_process(place, *words)


@pytest.fixture
def in_process(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """A command that must fail: its one line."""

    def fails(place: Path, *words: str) -> str:
        monkeypatch.chdir(place)
        monkeypatch.setattr(sys, "argv", ["spillover", *words])
        with pytest.raises(SystemExit) as stopped:
            cli.entry()
        said = capsys.readouterr().err
        assert stopped.value.code == 2, said
        assert said.count("\n") == 1
        return said

    return fails


# --- a server that is not ours --------------------------------------------------------------------------------------------


class transformers_server:  # noqa: N801
    """`transformers serve` on a free port, for as long as the block lasts."""

    def __init__(self, model: Path) -> None:
        self.model = model

    def __enter__(self) -> str:
        import socket

        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        command = [Path(sys.executable).parent / "transformers", "serve", str(self.model), "--host", "127.0.0.1", "--port", str(port), "--device", "cpu"]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 180
        while time.monotonic() < deadline:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2):
                    return f"http://127.0.0.1:{port}/v1"
            except OSError:
                time.sleep(0.5)
        self.process.kill()
        raise TimeoutError("transformers serve did not start")

    def __exit__(self, *_: object) -> None:
        self.process.terminate()
        self.process.wait(30)
