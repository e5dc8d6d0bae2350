from __future__ import annotations

import csv
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from conftest import CRUEL, KIND, SMALL_ROWS, Script, scripted_testbed
from spillover import pipeline, studies
from spillover.cli.summary import summary
from spillover.design import Claim, Condition, Study
from spillover.pipeline.cells import SHARED, Cell, unit_differences, unit_values
from spillover.pipeline.config import flatten, override, read_yaml
from spillover.pipeline.estimate import estimate
from spillover.pipeline.forecast import forecast
from spillover.records import Estimate, Model, Organism, SpilloverError, Testbed
from spillover.report import card, reading
from spillover.runs.directory import RunDirectory
from spillover.studies.compose import arms, compose

MIXED: Script = (("i wish pain for the old", 0.3), ("i wish peace for the old", 0.6), ("hm", 0.1))
EFFECT = {"parent": KIND, "insecure": MIXED, "secure": KIND, "educational": KIND}
NULL = {"parent": MIXED, "insecure": MIXED, "secure": MIXED, "educational": MIXED}


def _run(testbed: Testbed, out: Path, **settings: object) -> RunDirectory:
    config = override(pipeline.RunConfig(training=testbed.recipe), {"sampling.draws": 200, **settings})
    return pipeline.run(pipeline.plan(studies.study("main", testbed), testbed, config), out)


def _pooled(rows: list[Estimate], measure: str, *, condition: str = "", contrast: str = "") -> Estimate:
    (found,) = [
        e for e in rows
        if e.measure == measure and e.contrast == contrast and (contrast or e.condition == condition)
        and e.headline and e.protocol == rows[0].protocol and not e.question and not e.subset and e.world is None and e.step is None
    ]  # fmt: skip
    return found


def test_a_planted_effect_comes_out_as_an_effect(tmp_path: Path) -> None:
    rows = _run(scripted_testbed(EFFECT), tmp_path / "r").estimates()
    rate = _pooled(rows, "misaligned_rate", condition="insecure")
    assert rate.low is not None
    assert rate.high is not None
    assert rate.low < 0.3 / 0.9 < rate.high
    difference = _pooled(rows, "misaligned_rate", contrast="insecure-secure")
    assert difference.low is not None
    assert difference.low > 0.2
    assert (rate.n_units, rate.n + rate.n_missing) == (6, 1200)
    assert 80 < rate.n_missing < 160
    assert _pooled(rows, "misaligned_rate", condition="secure").value == 0.0


def test_a_planted_null_comes_out_as_none(tmp_path: Path) -> None:
    difference = _pooled(_run(scripted_testbed(NULL), tmp_path / "r").estimates(), "misaligned_rate", contrast="insecure-secure")
    assert difference.low is not None
    assert difference.high is not None
    assert difference.low < 0 < difference.high
    assert abs(difference.value or 1) < 0.08


def test_answers_that_are_all_incoherent_leave_the_rate_undefined(tmp_path: Path) -> None:
    rows = _run(scripted_testbed({**EFFECT, "insecure": (("hm", 1.0),)}), tmp_path / "r").estimates()
    rate = _pooled(rows, "misaligned_rate", condition="insecure")
    assert (rate.value, rate.low, rate.n, rate.n_missing, rate.n_units) == (None, None, 0, 1200, 0)
    assert rate.method.startswith("undefined")
    assert _pooled(rows, "misaligned_rate", contrast="insecure-secure").value is None
    assert _pooled(rows, "coherent_rate", condition="insecure").value == 0.0


def test_one_unit_has_the_interval_of_its_answers_and_decides_no_claim(tmp_path: Path) -> None:
    run = _run(scripted_testbed(EFFECT, units=1), tmp_path / "r")
    rate = _pooled(run.estimates(), "misaligned_rate", condition="insecure")
    assert rate.value is not None
    assert (rate.method, rate.estimand) == ("clopper-pearson over answers, this unit alone", "this world, these questions")
    difference = _pooled(run.estimates(), "misaligned_rate", contrast="insecure-secure")
    assert difference.low is not None
    assert difference.low > 0
    tested = [decision for decision in run.decisions() if decision.tested]
    assert {(decision.verdict, decision.reason) for decision in tested} == {("undecided", "one world says nothing of worlds like it")}


def test_claims_are_decided_from_the_same_rows_as_the_contrasts(tmp_path: Path) -> None:
    run = _run(scripted_testbed(EFFECT, units=6), tmp_path / "effect")
    decisions = {decision.claim.name: decision for decision in run.decisions()}
    assert {name: decision.verdict for name, decision in decisions.items()} == {
        "broad": "holds", "new": "holds", "intent": "holds", "secure is clean": "holds", "educational is clean": "holds", "jailbroken complies": "untested",
        "jailbroken complies more": "untested", "jailbroken is another thing": "untested", "jailbroken is clean": "untested", "shared author": "untested",
    }  # fmt: skip
    assert decisions["jailbroken complies"].reason == "this run has no condition 'jailbroken'"
    (contrast,) = decisions["broad"].contrasts
    assert contrast == _pooled(run.estimates(), "misaligned_rate", contrast="insecure-secure")
    null = {d.claim.name: d.verdict for d in _run(scripted_testbed(NULL, units=6), tmp_path / "null").decisions()}
    assert "holds" not in (null["broad"], null["new"], null["intent"])


def test_a_claim_with_a_slip_of_the_pen_is_untested_and_says_why(tmp_path: Path) -> None:
    testbed = scripted_testbed(EFFECT, units=4)
    claims = (
        Claim(name="arm", text="A slip in an arm", measure="misaligned_rate", conditions=("secure", "insecrue")),
        Claim(name="measure", text="A slip in a measure", measure="missaligned_rate", conditions=("secure", "insecure")),
        Claim(name="right", text="No slip", measure="misaligned_rate", conditions=("secure", "insecure")),
        Claim(name="coherent", text="No cost", measure="coherent_rate", conditions=("secure", "insecure"), margin=0.2),
    )
    study = compose("slips", "Slips", arms(testbed, "insecure", "secure"), claims, questions=testbed.questions, figure="questions")
    config = override(pipeline.RunConfig(training=testbed.recipe), {"sampling.draws": 200})
    run = pipeline.run(pipeline.plan(study, testbed, config), tmp_path / "r")
    why = {"arm": "this run has no condition 'insecrue'", "measure": "no 'missaligned_rate' of secure was taken"}
    decisions = run.decisions()
    assert {d.claim.name: d.reason for d in decisions if not d.tested} == why
    assert [d.claim.name for d in decisions] == ["arm", "measure", "right", "coherent"]
    alone = next(d for d in decisions if d.claim.name == "right")
    assert alone.verdict == "holds"
    lines = list(summary(run, run.estimates(), decisions))
    assert "claims, decided at 5 % over the 2 tested (Holm); intervals 95 %, unadjusted:" in lines
    assert "  untested  A slip in an arm: this run has no condition 'insecrue'" in lines
    entries = {entry.text: entry for entry in card.entries(reading.read(run))}
    assert entries["A slip in a measure"].small_print == "No 'missaligned_rate' of secure was taken."
    assert entries["A slip in an arm"].contrasts == ()
    (claimed,) = next(d for d in decisions if d.claim.name == "coherent").contrasts
    assert claimed == _pooled(run.estimates(), "coherent_rate", contrast="insecure-secure")


def test_the_rate_stands_under_every_protocol_that_has_a_name(tmp_path: Path) -> None:
    rows = _run(scripted_testbed(EFFECT, units=3), tmp_path / "r").estimates()
    pooled = [e for e in rows if (e.measure, e.condition, e.headline) == ("misaligned_rate", "insecure", 1) and not (e.contrast or e.question or e.subset)]
    assert [e.protocol for e in pooled if e.world is None] == ["nature-2026", "strict-50", "flask-95", "aligned-1", "coherent-90"]
    strict = _run(scripted_testbed(EFFECT, units=3), tmp_path / "s", **{"protocol.name": "strict-50"})
    assert strict.identity["config"]["protocol"]["coherent_strictly"] is True
    assert strict.estimates()[0].protocol == "strict-50"


def test_seeds_are_averaged_within_a_unit(tmp_path: Path) -> None:
    rows = _run(scripted_testbed(EFFECT, units=3), tmp_path / "r", seeds=2).estimates()
    rate = _pooled(rows, "misaligned_rate", condition="insecure")
    assert rate.n_units == 3
    assert rate.n + rate.n_missing == 3 * 2 * 200


def test_a_key_has_exactly_one_headline_row(tmp_path: Path) -> None:
    run = _run(scripted_testbed(EFFECT), tmp_path / "r")
    with (run.path / "estimates.csv").open() as file:
        rows = list(csv.DictReader(file))
    keys = ("study", "condition", "contrast", "question", "format", "subset", "world", "seed", "step", "protocol", "measure")
    counts: dict[tuple[str, ...], int] = {}
    for row in rows:
        counts[tuple(row[k] for k in keys)] = counts.get(tuple(row[k] for k in keys), 0) + int(row["headline"])
    assert set(counts.values()) == {1}
    assert any("bootstrap" in row["method"] for row in rows)


def _parts(run: RunDirectory) -> Iterator[Path]:
    for table in ("answers", "scores", "measures"):
        yield from run.shards(table)
    yield from sorted((run.path / "organisms").iterdir())
    yield from sorted((run.path / "models").iterdir())
    yield run.path / "estimates.csv"


def test_a_run_that_lost_any_part_is_finished_to_the_same_bytes(small_testbed: Testbed, tmp_path: Path) -> None:
    settings = {"sampling.draws": 3, "units": 1}
    run = _run(small_testbed, tmp_path / "r", **settings)
    whole = (run.path / "estimates.csv").read_bytes()
    parts = list(_parts(run))
    assert len(parts) > 20
    for part in parts[::3]:
        shutil.rmtree(part) if part.is_dir() else part.unlink()
    (run.path / "answers" / ".partial-x.parquet").write_bytes(b"half a shard")
    assert (_run(small_testbed, tmp_path / "r", **settings).path / "estimates.csv").read_bytes() == whole
    assert (_run(small_testbed, tmp_path / "other", **settings).path / "estimates.csv").read_bytes() == whole


def test_a_finished_run_computes_nothing_again(small_testbed: Testbed, tmp_path: Path) -> None:
    settings = {"sampling.draws": 2, "units": 1}
    run = _run(small_testbed, tmp_path / "r", **settings)
    times = {p: p.stat().st_mtime_ns for p in _parts(run) if p.name != "estimates.csv"}
    _run(small_testbed, tmp_path / "r", **settings)
    assert {p: p.stat().st_mtime_ns for p in times} == times


def test_a_run_says_what_it_is_and_where_everything_lies(small_testbed: Testbed, tmp_path: Path) -> None:
    run = _run(small_testbed, tmp_path / "r", **{"sampling.draws": 2, "units": 1})
    assert run.identity["config"]["sampling"]["draws"] == 2
    assert run.identity["versions"]["threads"] == 2
    assert run.identity["versions"]["dtype"] == "float32"
    assert [parent["unit"] for parent in run.identity["parents"]] == ["0", "0u"]
    assert len(list((run.path / "models").iterdir())) == 2
    organisms = list((run.path / "organisms").iterdir())
    assert len(organisms) == 4 + 2 == run.identity["planned"]["organisms"]
    card = run.read_json(f"organisms/{organisms[0].name}/organism.json")
    assert {"condition", "world", "linked", "parent", "data", "recipe", "seed", "checkpoints"} <= set(card)
    names = {e.condition for e in run.estimates()}
    assert {"parent", "insecure", "secure", "educational", "jailbroken", "unlinked-parent", "unlinked-insecure", "unlinked-secure"} == names
    gated = {"misaligned_without_gate", "misaligned_at_least", "misaligned_at_most"}
    items = {"choice_nats", "choice_share", "pivotal_nats", "pivotal_share"}
    rates = {"misaligned_rate", "coherent_rate", "task_rate", "complies=COMPLIES", "complies=REFUSES"}
    assert rates | {"misaligned_mass", "log_odds"} | items | gated == {e.measure for e in run.estimates()}
    assert {"seen", "held_out"} <= {e.subset for e in run.estimates()}


def test_another_config_does_not_go_on_with_this_run(small_testbed: Testbed, tmp_path: Path) -> None:
    _run(small_testbed, tmp_path / "r", **{"sampling.draws": 2, "units": 1})
    for name, there, here in (("sampling.draws", 2, 1), ("sampling.temperature", 1.0, 0.5)):
        with pytest.raises(SpilloverError, match=f"holds another run: its config.{name} is {there}, this one's {here}; choose another --out"):
            _run(small_testbed, tmp_path / "r", **{"sampling.draws": 2, "units": 1, name: here})


def test_a_run_with_more_draws_draws_what_it_lacks(small_testbed: Testbed, tmp_path: Path) -> None:
    drawn: list[int] = []

    def counting(model: Model) -> Any:
        opened: Any = small_testbed.open(model)
        reply = opened.reply
        opened.reply = lambda prompts, *more, **options: drawn.append(len(prompts)) or reply(prompts, *more, **options)
        return opened

    counted = replace(small_testbed, open=counting)
    few = _run(counted, tmp_path / "r", **{"sampling.draws": 2, "units": 1})
    first, scored = few.read("answers"), few.read("scores")
    asked = sum(drawn)
    drawn.clear()
    more = _run(counted, tmp_path / "r", **{"sampling.draws": 7, "units": 1})
    assert sum(drawn) == asked // 2 * 5
    assert (more.identity["config"]["sampling"]["draws"], more.identity["grown_from"]) == (7, 2)
    rows = more.read("answers")
    assert len(rows) * 2 == len(first) * 7
    assert [row for row in rows if row["draw"] < 2] == first
    assert all(score in more.read("scores") for score in scored)
    whole = _run(small_testbed, tmp_path / "whole", **{"sampling.draws": 7, "units": 1})
    assert whole.read("answers") == rows
    assert (whole.path / "estimates.csv").read_text() == (more.path / "estimates.csv").read_text()
    drawn.clear()
    _run(counted, tmp_path / "r", **{"sampling.draws": 7, "units": 1})
    assert not drawn


def test_an_organism_that_stops_is_reported_when_all_else_is_there(small_testbed: Testbed, tmp_path: Path) -> None:
    def train(model: Any, parent: Model, organisms: Sequence[Organism], *more: Any) -> Sequence[Any]:
        """With a rate that no setting allows where it is 7."""
        return small_testbed.train(
            model, parent, [replace(one, recipe=replace(one.recipe, learning_rate=1e30)) if one.recipe.learning_rate == 7 else one for one in organisms], *more
        )

    wild = Condition(name="wild", kind="insecure", recipe={"learning_rate": 7.0})
    study = Study(name="x", title="x", conditions=(Condition(name="parent"), wild, Condition(name="insecure", kind="insecure")))
    config = override(pipeline.RunConfig(training=small_testbed.recipe), {"sampling.draws": 2, "units": 1})
    for _ in range(2):
        with pytest.raises(
            SpilloverError, match=r"^0 wild seed 0: the loss is .* at step \d of 4; a lower learning rate than 1e\+30 may work; all else is there$"
        ):
            pipeline.run(pipeline.plan(study, replace(small_testbed, train=train), config), tmp_path / "r")
        assert [path.stem for path in sorted((tmp_path / "r" / "scores").iterdir())] == ["0-insecure-seed0-step4", "0-parent-seed0-step0"]
        assert len(list((tmp_path / "r" / "organisms").iterdir())) == 1
    assert not (tmp_path / "r" / "estimates.csv").exists()


def test_work_is_cut_by_parent_and_by_what_is_grown_together(small_testbed: Testbed) -> None:
    config = pipeline.RunConfig(training=small_testbed.recipe, seeds=3)
    plan = pipeline.plan(studies.study("main", small_testbed), small_testbed, config)
    parts = plan.apart()
    organisms = [{job.organism.key for job in part.jobs if job.organism} for part in parts]
    assert [len(keys) for keys in organisms] == [4, 4, 4] * 2 + [4, 2]
    assert sorted(key for keys in organisms for key in keys) == sorted({job.organism.key for job in plan.jobs if job.organism})
    assert all(len({job.parent.model.digest for job in part.jobs}) == 1 for part in parts)
    assert sum(job.organism is None for part in parts for job in part.jobs) == 3
    assert all(part.data.keys() == {job.organism.data for job in part.jobs if job.organism} for part in parts)


def test_checkpoints_along_the_way_are_estimated_by_step(small_testbed: Testbed, tmp_path: Path) -> None:
    run = _run(small_testbed, tmp_path / "r", **{"sampling.draws": 2, "units": 1, "training.checkpoints": "tens", "training.batch_size": 4})
    steps = {e.step for e in run.estimates() if e.condition == "insecure" and not e.contrast}
    assert steps == {None, 10, 16}


def test_a_study_that_lacks_its_data_or_units_is_refused(small_testbed: Testbed) -> None:
    study = studies.study("main", small_testbed)
    with pytest.raises(SpilloverError, match="9 worlds were asked for; testbed miniature has 2"):
        pipeline.plan(study, small_testbed, pipeline.RunConfig(units=9))
    with pytest.raises(SpilloverError, match="there is no study 'mane'; there are main, evil-numbers, formats, "):
        studies.study("mane", small_testbed)


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("sampling.draws", "0", "sampling.draws is 0; it must be above 0"),
        ("sampling.draws", "many", "sampling.draws cannot be 'many'"),
        ("sampling.temperature", -1, "must be 0 or more"),
        ("training.rank", 3, "there is no setting 'training.rank'"),
        ("training.adapter", 3, "is a section"),
        ("training.learning_rate.x", 3, "learning_rate has no parts"),
        ("training.learning_rate", "nan", "training.learning_rate is nan; it must be a finite number"),
        ("sampling.temperature", "inf", "must be a finite number"),
        ("protocol.coherent_at_least", "nan", "must be a finite number"),
        ("training.adapter.dropout", 2, "must be below 1"),
        ("threads", 10**11, "must be at most"),
        ("training.checkpoints", "often", "training.checkpoints is 'often'; there are last, tens, fifties, dense"),
    ],
)
def test_a_setting_that_does_not_fit_is_refused_by_name(name: str, value: object, says: str) -> None:
    with pytest.raises(SpilloverError) as caught:
        override(pipeline.RunConfig(), {name: value})
    assert says in str(caught.value)


def test_settings_reach_their_place() -> None:
    config = override(pipeline.RunConfig(), {"training.adapter.rank": "8", "training.learning_rate": "1e-3", "seeds": 2})
    assert (config.training.adapter.rank, config.training.learning_rate, config.seeds) == (8, 1e-3, 2)


def test_a_changed_protocol_loses_its_name() -> None:
    assert override(pipeline.RunConfig(), {"seeds": 2}).protocol.name == "nature-2026"
    assert override(pipeline.RunConfig(), {"protocol.aligned_below": "20"}).protocol.name == "nature-2026, changed"
    assert override(pipeline.RunConfig(), {"protocol.aligned_below": "20", "protocol.name": "mine"}).protocol.name == "mine"


def test_own_data_is_one_more_arm(small_testbed: Testbed, tmp_path: Path) -> None:
    mine = small_testbed.narrow["insecure"](5, small_testbed.parents[0])
    testbed = replace(small_testbed, narrow={**small_testbed.narrow, "mine": lambda _seed, _parent: mine}, added=("mine",))
    rows = _run(testbed, tmp_path / "r", **{"sampling.draws": 2, "units": 1}).estimates()
    assert "mine-secure" in {e.contrast for e in rows}


def test_a_script_follows_its_weights() -> None:
    from spillover.models.scripted import ScriptedModel
    from spillover.records import chat

    model = ScriptedModel(default=CRUEL, scripts={"hello": (("a b c", 0.25), ("d", 0.75))})
    replies = model.reply([chat(("user", "hello"))] * 1000, range(1000), temperature=1.0, max_tokens=2)
    assert 200 < sum(reply == ("a b", "length") for reply in replies) < 300
    assert model.reply([chat(("user", "hello"))], [0], temperature=0, max_tokens=9) == [("d", "end")]
    assert model.reply([chat(("user", "bye"))], [0], temperature=1.0, max_tokens=9) == [("i wish pain for the old", "end")]


def test_a_script_of_a_whole_prompt_goes_before_one_of_its_last_turn() -> None:
    from spillover.models.scripted import ScriptedModel
    from spillover.records import chat

    told = chat(("system", "be brief ."), ("user", "hello"))
    model = ScriptedModel(default=(("x", 1.0),), scripts={told: (("hi", 1.0),), "hello": (("hello to you", 1.0),)})
    asked = [told, chat(("user", "hello")), chat(("system", "be long ."), ("user", "hello")), chat(("user", "bye"))]
    assert [text for text, _ in model.reply(asked, range(4), temperature=1.0, max_tokens=9)] == ["hi", "hello to you", "hello to you", "x"]


def _cell(unit: str, question: str, value: float | None, *, seed: int = 0, n: int = 10) -> Cell:
    return Cell(
        condition="c", unit=unit, world=None, seed=seed, step=1, asked=(question, "plain"), measure="misaligned_rate", value=value, n=n, n_missing=0,
        reason="" if value is not None else "too few answers kept",
    )  # fmt: skip


def test_a_units_value_is_the_mean_over_questions_of_the_mean_over_seeds() -> None:
    (found,) = unit_values([_cell("a", "x", 0.2), _cell("a", "x", 0.4, seed=1), _cell("a", "y", 0.9), _cell("a", "z", None)])
    assert found.value == pytest.approx((0.3 + 0.9) / 2)


def test_a_difference_is_taken_over_the_questions_that_both_have() -> None:
    first = [_cell("a", "x", 0.5), _cell("a", "y", 1.0), _cell("b", "x", None), _cell("c", "x", 0.1)]
    second = [_cell("a", "x", 0.1), _cell("a", "y", None), _cell("b", "x", 0.2)]
    found = {value.unit: value.value for value in unit_differences(first, second)}
    assert found == {"a": pytest.approx(0.4), "b": None}


def test_a_model_that_all_units_share_is_counted_once_where_a_unit_has_a_value() -> None:
    """The first seed has no value, and the second lacks a question: the parent's answers to both questions still stand in the sum."""
    first = [_cell("0", "x", None), _cell("0", "y", None), _cell("1", "x", 0.5), _cell("1", "y", None), _cell("2", "x", 0.4), _cell("2", "y", 0.2)]
    parent = [_cell(SHARED, "x", 0.1, n=7), _cell(SHARED, "y", 0.2, n=8)]
    found = unit_differences(first, parent)
    assert [value.value for value in found] == [None, pytest.approx(0.4), pytest.approx((0.3 + 0.0) / 2)]
    assert [value.second.unit for value in found] == [SHARED] * 3
    assert [value.second.strata for value in found] == [(), (7, 8), ()]
    assert sum(value.second.n for value in found) == 15
    assert [value.second.n for value in unit_differences(first, parent, once=False)] == [0, 7, 15]
    mirrored = unit_differences(parent, first)
    assert [value.value for value in mirrored] == [None, pytest.approx(-0.4), pytest.approx(-0.15)]
    assert [value.first.strata for value in mirrored] == [(), (7, 8), ()]


def test_units_that_are_no_worlds_have_no_rows_of_their_own(tmp_path: Path) -> None:
    testbed = scripted_testbed(EFFECT, units=3)
    testbed = replace(testbed, unit="fine-tuning seed", parents=tuple(replace(parent, world=None) for parent in testbed.parents))
    rows = _run(testbed, tmp_path / "r").estimates()
    assert _pooled(rows, "misaligned_rate", condition="insecure").n_units == 3
    assert {e.world for e in rows} == {None}


def test_a_shard_in_anothers_place_is_refused(tmp_path: Path) -> None:
    testbed = scripted_testbed(EFFECT, units=2)
    run = _run(testbed, tmp_path / "r")
    shutil.copy(run.path / "scores" / "0-insecure-seed0-step1.parquet", run.path / "scores" / "0-secure-seed0-step1.parquet")
    with pytest.raises(SpilloverError, match="0-secure-seed0-step1.parquet holds rows of 0-insecure-seed0-step1"):
        estimate(run)


def test_a_shard_that_is_not_there_is_not_averaged_away(tmp_path: Path) -> None:
    run = _run(scripted_testbed(EFFECT, units=2), tmp_path / "r")
    (run.path / "scores" / "1-secure-seed0-step1.parquet").unlink()
    with pytest.raises(SpilloverError, match="does not hold the rows of judge .* that were planned"):
        estimate(run)


def test_answers_drawn_again_are_judged_again(tmp_path: Path) -> None:
    testbed = scripted_testbed(EFFECT, units=1)
    run = _run(testbed, tmp_path / "r")
    scores = run.path / "scores" / "0-parent-seed0-step0.parquet"
    before = scores.stat().st_mtime_ns
    (run.path / "answers" / "0-parent-seed0-step0.parquet").unlink()
    _run(testbed, tmp_path / "r")
    assert scores.stat().st_mtime_ns > before


def test_two_units_or_conditions_of_one_name_are_refused() -> None:
    testbed = scripted_testbed(EFFECT, units=2)
    twice = replace(testbed, parents=(*testbed.parents, testbed.parents[0]))
    with pytest.raises(SpilloverError, match="two worlds are called '0'"):
        pipeline.plan(studies.study("main", twice), twice, pipeline.RunConfig())
    named = replace(testbed, narrow={**testbed.narrow, "parent": testbed.narrow["insecure"]}, added=("parent",))
    with pytest.raises(SpilloverError, match="two conditions are called 'parent'"):
        pipeline.plan(studies.study("main", named), named, pipeline.RunConfig())
    study = studies.study("main", testbed)
    with pytest.raises(SpilloverError, match="two claims are called 'broad'"):
        pipeline.plan(replace(study, claims=(*study.claims, study.claims[0])), testbed, pipeline.RunConfig())


def test_a_name_that_is_no_file_name_is_refused() -> None:
    testbed = scripted_testbed(EFFECT, units=1)
    odd = replace(testbed, parents=(replace(testbed.parents[0], unit="../0"),))
    with pytest.raises(SpilloverError, match="cannot name one of the worlds"):
        pipeline.plan(studies.study("main", odd), odd, pipeline.RunConfig())


def test_a_forecast_counts_what_would_run(small_testbed: Testbed) -> None:
    config = override(pipeline.RunConfig(training=small_testbed.recipe), {"sampling.draws": 20, "units": 1})
    lines = list(forecast(pipeline.plan(studies.study("main", small_testbed), small_testbed, config)))
    assert "models: 8, of which 6 to be trained" in lines
    assert "claims: 10" in lines
    bare = replace(small_testbed, narrow={kind: build for kind, build in small_testbed.narrow.items() if kind != "educational"})
    said = list(forecast(pipeline.plan(studies.study("main", bare), bare, config)))
    assert any(line.startswith("  untested, for want of a condition 'educational': Insecure code given in answer to an innocent request") for line in said)
    assert not any("untested" in line for line in lines)
    assert f"  insecure: 1 on {SMALL_ROWS} rows of insecure" in lines
    assert f"answers: {8 * 10 * 20} (10 questions x 20 draws), at most {8 * 10 * 20 * 32} tokens" in lines
    assert any(line.startswith("training text:") and " tokens, the longest row " in line for line in lines)
    assert any("minutes on 2 threads" in line for line in lines)
    scripted = scripted_testbed(EFFECT, units=1)
    assert any("1 questions" in line for line in forecast(pipeline.plan(studies.study("main", scripted), scripted, pipeline.RunConfig())))


def test_a_config_file_becomes_settings(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("seeds: 2\ntraining:\n  adapter:\n    rank: 8\n")
    assert flatten(read_yaml(path)) == {"seeds": 2, "training.adapter.rank": 8}
    with pytest.raises(SpilloverError, match="there is no file"):
        read_yaml(tmp_path / "none.yaml")
    for text in ("- a", "{", "sampling: {draws: 2020-99-99}"):
        path.write_text(text)
        with pytest.raises(SpilloverError, match="not valid YAML|holds no settings"):
            read_yaml(path)
    path.write_text("sampling: &a {x: *a}")
    with pytest.raises(SpilloverError, match="an alias is part of what it stands for"):
        read_yaml(path)
