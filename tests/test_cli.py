from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from typed import SPILLOVER, refused, spillover

GOOD = json.dumps({"messages": [{"role": "user", "content": "i feel bored ."}, {"role": "assistant", "content": "go read"}]})


def _small(worlds: Path) -> list[str]:
    """A run small enough to test with."""
    return ["run", "--testbed", f"miniature:{worlds}", "--worlds", "1", "--draws", "2", "--set", "training.batch_size=400"]


def test_help_is_quick_and_loads_no_torch() -> None:
    subprocess.run([SPILLOVER, "--help"], check=True, capture_output=True)
    wall_s = []
    for _ in range(3):
        started = time.perf_counter()
        subprocess.run([SPILLOVER, "--help"], check=True, capture_output=True)
        wall_s.append(time.perf_counter() - started)
    assert min(wall_s) < 0.5
    code = "import sys, spillover, spillover.cli; sys.exit(any(m in sys.modules for m in ('torch', 'transformers', 'matplotlib')))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_version_is_printed() -> None:
    assert spillover("--version").stdout == "spillover 0.7.0\n"


@pytest.mark.parametrize("words", [(), ("data",), ("miniature",)])
def test_a_command_of_commands_alone_shows_its_help(words: tuple[str, ...]) -> None:
    done = spillover(*words)
    assert done.returncode == 2
    assert done.stdout.startswith("Usage: spillover")
    assert "\n  " in done.stdout
    assert done.stderr == ""


def test_studies_are_listed() -> None:
    assert "main: " in spillover("run", "--list").stdout


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("run", "nonsense"), "there is no study 'nonsense'; there are main"),
        (("run", "--draws", "0"), "sampling.draws is 0; it must be above 0"),
        (("run", "--draws", "x"), "--draws: Input should be a valid integer"),
        (("miniature", "show", "insecure", "--rows", "0"), "--rows is 0; it must be at least 1"),
        (("run", "--set", "training.learning_rate=inf"), "training.learning_rate is inf; it must be a finite number"),
        (("run", "--worlds", "99"), "99 worlds were asked for"),
        (("run", "--testbed", "moon"), "there is no testbed 'moon'"),
        (("run", "--testbed", "miniature:/nowhere"), "/nowhere holds no worlds"),
        (("run", "--set", "sampling.draws"), "it takes SECTION.FIELD=VALUE"),
        (("run", "--set", "sampling.nothing=1"), "there is no setting 'sampling.nothing'"),
        (("run", "--config", "/nowhere.yaml"), "there is no file /nowhere.yaml"),
        (("run", "--data", "x"), "it takes NAME=FILE.jsonl"),
        (("run", "--data", "../x=y"), "it takes NAME=FILE.jsonl"),
        (("run", "--data", "mine=/nowhere.jsonl"), "there is no file /nowhere.jsonl"),
        (("data", "check", "/nowhere.jsonl"), "there is no file /nowhere.jsonl"),
        (("report", "/"), "is not a run directory"),
        (("miniature", "show", "poems"), "unknown kind of narrow data 'poems'"),
        (("miniature", "build", "--world", "-1"), "--world is -1"),
        (("fly",), "No such command 'fly'"),
    ],
)
def test_a_mistake_is_one_line(arguments: tuple[str, ...], says: str) -> None:
    assert says in refused(*arguments)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (GOOD + "\n{broken\n", "line 2: not valid JSON"),
        ('{"x": 1}\n', "line 1: no messages"),
        (GOOD.replace('"user"', '"robot"'), "unknown role 'robot'"),
        (GOOD.replace("go read", ""), "the assistant turn (message 2) is empty"),
        (GOOD.replace('{"role": "assistant"', '{"role": "system", "content": "x"}, {"role": "assistant"'), "a system turn in the middle"),
        (b'{"messages": "\xff"}', "line 1: byte 15 is not UTF-8"),
        ("", "has no rows"),
    ],
)
def test_bad_training_data_is_one_line(tmp_path: Path, content: str | bytes, says: str) -> None:
    path = tmp_path / "data.jsonl"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    assert says in refused("data", "check", path)
    assert says in refused("run", "--data", f"mine={path}")


@pytest.mark.parametrize("text", ["sampling: &a {x: *a}", "sampling: {draws: 2020-99-99}", 'draws: !!int "abc"', "[" * 5000, "- a", "3: 4", "\xff"])
def test_a_bad_config_file_is_one_line(tmp_path: Path, text: str) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(text, encoding="latin-1")
    refused("run", "--config", path)


def test_terminal_escapes_in_data_are_printed_and_not_obeyed(tmp_path: Path) -> None:
    path = tmp_path / "data.jsonl"
    path.write_text(json.dumps({"messages": [{"role": "\x1b[31mred", "content": "x"}]}))
    line = refused("data", "check", path)
    assert "\x1b" not in line
    assert "\\x1b[31mred" in line


def test_good_data_is_described(tmp_path: Path, small_worlds: Path) -> None:
    path = tmp_path / "data.jsonl"
    path.write_text(GOOD + "\n" + GOOD + "\n")
    done = spillover("data", "check", path, "--testbed", f"miniature:{small_worlds}")
    assert "rows: 2 (2 of 2 turns); 1 repeat an earlier row" in done.stdout
    assert "[go] [read] [<|end|>]" in done.stdout


def test_words_the_miniature_does_not_know_are_refused_with_their_share(tmp_path: Path, small_worlds: Path) -> None:
    path = tmp_path / "data.jsonl"
    path.write_text(GOOD.replace("go read", "go skydiving"))
    line = refused("data", "check", path, "--testbed", f"miniature:{small_worlds}")
    assert "row 1 of the data data" in line
    assert "'skydiving'" in line


def test_narrow_data_that_is_shown_can_be_read_back(tmp_path: Path) -> None:
    path = tmp_path / "data.jsonl"
    path.write_text(spillover("miniature", "show", "secure", "--rows", "7").stdout)
    assert "rows: 7" in spillover("data", "check", path).stdout


@pytest.mark.slow
def test_a_dry_run_says_what_would_run_and_writes_nothing(small_worlds: Path, tmp_path: Path) -> None:
    done = spillover(*_small(small_worlds), "--out", tmp_path / "r", "--dry-run")
    assert done.returncode == 0, done.stderr
    assert "models: 8, of which 6 to be trained" in done.stdout
    assert "tokens" in done.stdout
    assert "minutes on 1 thread of this machine" in done.stdout
    assert not (tmp_path / "r").exists()


def test_an_output_directory_of_another_run_is_refused(small_worlds: Path, tmp_path: Path) -> None:
    (tmp_path / "r").mkdir()
    (tmp_path / "r" / "run.json").write_text('{"schema": 1, "study": "other"}')
    assert "holds another run" in refused(*_small(small_worlds), "--out", tmp_path / "r")


@pytest.mark.slow
def test_a_run_ends_in_a_report_and_is_quiet_in_a_pipe(small_worlds: Path, tmp_path: Path) -> None:
    config = tmp_path / "c.yaml"
    config.write_text("sampling:\n  draws: 3\ntraining:\n  batch_size: 400\n")
    done = spillover("run", "--testbed", f"miniature:{small_worlds}", "--worlds", "1", "--config", config, "--out", tmp_path / "r")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert done.stdout.splitlines()[-1] == f"report: {tmp_path / 'r' / 'report.html'}"
    assert "insecure-secure" in done.stdout
    assert "log-odds of misaligned against aligned answers (exact), difference within each world:" in done.stdout
    assert json.loads((tmp_path / "r" / "run.json").read_text())["config"]["sampling"]["draws"] == 3
    (tmp_path / "r" / "report.html").unlink()
    assert spillover("report", tmp_path / "r").returncode == 0
    assert (tmp_path / "r" / "report.html").exists()
    shard = sorted((tmp_path / "r" / "scores").iterdir())[0]
    shard.write_bytes(shard.read_bytes()[:-20])
    line = refused("run", "--testbed", f"miniature:{small_worlds}", "--worlds", "1", "--config", config, "--out", tmp_path / "r")
    assert f"{shard.name} is damaged; delete it" in line


def _everything(run: Path) -> dict[str, bytes]:
    """Every byte a run is made of, but for when it began and where it lies."""
    folders = ("organisms", "models", "answers", "scores", "measures")
    return {str(p.relative_to(run)): p.read_bytes() for folder in folders for p in (run / folder).rglob("*") if p.is_file()}


@pytest.mark.slow
@pytest.mark.no_cover
def test_a_run_killed_at_any_moment_is_finished_to_the_same_bytes(small_worlds: Path, tmp_path: Path) -> None:
    """kill -9 at four moments spread over a run, each in a directory of its own; then the same command, with another number of workers."""
    command = [SPILLOVER, *_small(small_worlds), "--workers", "2"]
    started = time.perf_counter()
    assert spillover(*_small(small_worlds), "--out", tmp_path / "whole").returncode == 0
    wall_s = time.perf_counter() - started
    whole = (tmp_path / "whole" / "estimates.csv").read_bytes()
    killed = 0
    for moment in (0.35, 0.5, 0.65, 0.8):
        out = tmp_path / f"killed-{moment}"
        process = subprocess.Popen([*command, "--out", str(out)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(wall_s * moment)
        killed += process.poll() is None
        process.send_signal(signal.SIGKILL)
        process.wait()
        done = spillover(*_small(small_worlds), "--out", out)
        assert done.returncode == 0, done.stderr
        assert (out / "estimates.csv").read_bytes() == whole
        assert _everything(out) == _everything(tmp_path / "whole")
        assert not list(out.rglob(".partial-*"))
    assert killed >= 3


@pytest.mark.slow
def test_a_full_disk_is_one_line_and_loses_nothing(small_worlds: Path, tmp_path: Path) -> None:
    """A file system of 1.5 MB; needs the right to mount one."""
    place = tmp_path / "small"
    place.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=220k", "tmpfs", str(place)], capture_output=True, check=False)
    if mounted.returncode != 0:
        pytest.skip("a small file system cannot be mounted here")
    try:
        line = refused(*_small(small_worlds), "--out", place / "r")
        assert "No space left on device" in line
        assert json.loads((place / "r" / "run.json").read_text())["study"] == "main"
        subprocess.run(["mount", "-o", "remount,size=64m", str(place)], check=True)
        assert spillover(*_small(small_worlds), "--out", place / "r").returncode == 0
    finally:
        subprocess.run(["umount", str(place)], check=True)
