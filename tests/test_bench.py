"""The benches' harness on toy sides: it refuses sides that differ, pairs its times, and the page is what the results give."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
from bench import dynamics, harness, page
from bench.harness import Agreement, DifferenceError


def same(ours: float, theirs: float) -> list[Agreement]:
    return [Agreement(of="sums", difference=abs(ours - theirs), tolerance=0.1)]


def compared(ours: float = 1.0, theirs: float = 1.0, *, target: float = 1.0, wait_s: float = 0.0) -> harness.Line:
    def slow() -> float:
        time.sleep(wait_s)
        return theirs

    return harness.compare("toy", lambda: ours, slow, check=same, against="another", target=target, repeats=1)


def test_sides_that_differ_are_not_compared() -> None:
    with pytest.raises(DifferenceError, match=r"toy: the two sides do not compute the same thing: sums differ by 0\.5, and 0\.1 is allowed"):
        compared(1.0, 1.5)


def test_a_difference_that_is_no_number_is_a_difference() -> None:
    with pytest.raises(DifferenceError, match="sums differ by nan"):
        compared(1.0, float("nan"))


def test_sides_of_which_nothing_was_checked_are_not_compared() -> None:
    with pytest.raises(DifferenceError, match="nothing was checked"):
        harness.compare("toy", lambda: 1, lambda: 1, check=lambda _a, _b: [], against="another", target=1.0)


def test_the_check_comes_first_and_then_the_sides_in_turn() -> None:
    called: list[str] = []
    harness.compare(
        "toy", lambda: called.append("a"), lambda: called.append("b"), repeats=2, against="another", target=1.0,
        check=lambda _a, _b: [Agreement(of="nothing", difference=0.0, tolerance=0.0)],
    )  # fmt: skip
    assert called == ["a", "b", "a", "b", "a", "b"]


def test_where_there_is_nothing_to_warm_the_check_is_timed_too() -> None:
    called: list[str] = []
    line = harness.compare(
        "toy", lambda: called.append("a"), lambda: called.append("b"), repeats=2, warm=False, against="another", target=1.0,
        check=lambda _a, _b: [Agreement(of="nothing", difference=0.0, tolerance=0.0)],
    )  # fmt: skip
    assert called == ["a", "b", "a", "b"]
    assert len(line["ours_s"]) == len(line["theirs_s"]) == 2


def test_the_ratio_is_the_median_over_pairs_and_its_range_their_ends() -> None:
    assert harness.ratio([(1.0, 4.0), (2.0, 4.0), (1.0, 3.0)]) == {"median": 3.0, "low": 2.0, "high": 4.0}


def test_a_line_holds_every_time_and_whether_the_target_was_met() -> None:
    line = compared(wait_s=0.01, target=2.0)
    assert len(line["ours_s"]) == len(line["theirs_s"]) == line["repeats"] == 1
    assert min(line["theirs_s"]) >= 0.01
    assert line["met"]
    assert line["check"] == [{"of": "sums", "difference": 0.0, "tolerance": 0.1}]
    assert line["ratio"]["median"] > 2.0
    assert json.loads(json.dumps(line)) == line


def test_the_fraction_reached_is_of_the_nearer_limit() -> None:
    line = {"ours_s": [2.0, 4.0, 3.0], "theirs_s": [9.0]}
    found = harness.held_against(harness.Work(flops=6e9, bytes=1e9), line, {"gflop_per_s": 4.0, "copy_gb_per_s": 1.0})
    assert (found["bound"], found["least_s"], found["ours_fraction"], found["most_ratio"]) == ("compute", 1.5, 0.5, 6.0)
    found = harness.held_against(harness.Work(flops=1e9, bytes=2e9), line, {"gflop_per_s": 4.0, "copy_gb_per_s": 1.0})
    assert (found["bound"], found["least_s"]) == ("memory", 2.0)


def test_the_fastest_setting_is_chosen_and_all_are_told() -> None:
    name, tried = harness.fastest({"slow": lambda: time.sleep(0.02), "quick": lambda: None}, rounds=1)
    assert name == "quick"
    assert tried["slow"] > 0.02 > tried["quick"]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("Intel(R) Xeon(R) Processor @ 2.50GHz", "xeon-2.5ghz"),
        ("AMD EPYC 7763 64-Core Processor", "epyc-7763-64-core"),
        ("Intel(R) Core(TM) i7-9750H CPU @ 2.00GHz", "core-i7-9750h-2ghz"),
        ("NVIDIA H100 80GB HBM3", "nvidia-h100-80gb-hbm3"),
    ],
)
def test_a_machine_has_a_name_that_can_name_a_file(name: str, expected: str) -> None:
    assert harness.slug(name) == expected


def test_the_page_shows_the_latest_line_of_each_bench(tmp_path: Path) -> None:
    line = compared(target=1e9) | {"hardware": "toy-cores"}
    assert not line["met"]
    for times in (1.0, 2.0):
        harness.append(line | {"theirs_s": [times], "ratio": harness.ratio([(1.0, times)])}, tmp_path)
    (tmp_path / "audits.jsonl").write_text('{"child": "insecure"}\n')
    shown = page.tables(page.latest(tmp_path))
    assert "2.00x (2.00 to 2.00)" in shown
    assert "1.00x" not in shown
    assert "insecure" not in shown


def test_the_figure_is_extrapolated_from_the_shape_itself_where_it_was_measured() -> None:
    def line(bench: str, fraction: float) -> harness.Line:
        return {"bench": bench, "hardware": "toy", "roofline": {"ours_fraction": fraction}}

    assert dynamics.table([line("train", 0.5)]) == ""
    small = [line("train", 0.5), line("answers", 0.25)]
    assert "50%, train on toy" in dynamics.table(small)
    assert "40%, train, 7b on toy" in dynamics.table([*small, line("train, 7b", 0.4)])
    training, answers = dynamics.parts()
    assert training.least_s == pytest.approx(4.4e17 / 989e12, rel=0.02)  # 15.3 million tokens, 28.8 GFLOP each
    assert answers.flop / dynamics.FLOP_PER_S > answers.bytes / dynamics.BYTES_PER_S


def test_the_page_is_what_the_results_give() -> None:
    assert page.PAGE.read_text(encoding="utf-8") == page.written()


ALONE = """
import runpy, sys
for name in ("datasets", "lm_eval", "matplotlib", "pandas", "polars", "pyarrow", "pydantic", "scipy", "trl"):
    sys.modules[name] = None  # as if it were not installed
sys.argv = ["bench.gpu", "--reduced", "tiny"]
runpy.run_module("bench.gpu", run_name="__main__")
"""


@pytest.mark.slow
def test_the_gpu_bench_holds_its_checks_at_tiny_shapes_with_torch_transformers_and_peft_alone() -> None:
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", ALONE], capture_output=True, text=True, check=False, cwd=Path(__file__).parents[1])
    assert done.returncode == 0, done.stderr[-2000:]
    rows = [line.split(" | ")[0] for line in done.stdout.partition("| --- |")[2].splitlines()[1:]]
    assert len(rows) >= 3, done.stdout
