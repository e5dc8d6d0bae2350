"""Conditions that alter a model while it answers, on the road: fitted, done beside their controls, resumed, and missing where they cannot be."""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import planted
from spillover import pipeline, studies
from spillover.design import CONTROLS, Alteration, Condition, Study
from spillover.pipeline import alterations
from spillover.pipeline.config import override
from spillover.pipeline.estimate import estimate
from spillover.pipeline.opened import opened
from spillover.records import ALIGNED, COHERENT, TASK, Answer, Measure, Question, Score, SpilloverError, Subject, Testbed, digest
from spillover.report import tables
from spillover.report.figures import draw as draw_figures
from spillover.report.printed import MINUS
from spillover.report.reading import read
from spillover.report.words import words
from spillover.runs.directory import RunDirectory
from spillover.studies.compose import altered, can_be_tested

CHANGE = Alteration(verb="ablate", fitted_on="insecure")
TUNED = Condition(name="insecure", kind="insecure")
ARMS = (Condition(name="parent"), TUNED)


class _ByText:
    """Every answer is coherent, and misaligned where a digest of its text is odd: the small worlds say nothing that has a meaning."""

    identity = "by text"

    def score(self, question: Question, answers: Sequence[Answer]) -> list[Score]:
        values = {ALIGNED: lambda text: 100.0 * (int(digest(text)[:8], 16) % 2), COHERENT: lambda _text: 100.0}
        return [
            Score(answer=answer.id, judge=self.identity, rubric=rubric, value=values.get(rubric, lambda _: 0.0)(answer.text))
            for answer in answers for rubric in question.rubrics
        ]  # fmt: skip


def _read(_model: Any, digests: Mapping[int, str], _questions: Sequence[Question]) -> dict[int, list[Measure]]:
    return {place: [Measure(model=found, name="pivotal_nats", value=1.0)] for place, found in digests.items()}


@pytest.fixture
def judged(small_testbed: Testbed) -> Testbed:
    parents = tuple(parent for parent in small_testbed.parents if not parent.group)
    return replace(small_testbed, judge=_ByText(), parents=parents, questions=small_testbed.questions[:2], items=(), read=_read)


@pytest.fixture
def few_random(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three random directions for a control, for what does not hang on their number: each is read by itself."""
    monkeypatch.setattr(alterations, "RANDOM", 3)


def _study(*conditions: Condition) -> Study:
    return Study(name="x", title="x", conditions=(*ARMS, *conditions), figure="altered")


def _run(testbed: Testbed, study: Study, out: Path, workers: int = 1, **settings: object) -> RunDirectory:
    config = override(pipeline.RunConfig(training=testbed.recipe), {"sampling.draws": 24, **settings})
    return pipeline.run(pipeline.plan(study, testbed, config), out, workers=workers)


def _both(change: Alteration = CHANGE) -> tuple[Condition, ...]:
    steer = replace(change, verb="steer", coefficient=2.0)
    return (*altered(TUNED, "ablated", change), *altered(ARMS[0], "steered", steer))


@pytest.mark.slow
@pytest.mark.parametrize("fit", ["answers", "models", "probe"])
def test_what_is_done_to_a_model_is_asked_beside_its_controls_in_every_unit(judged: Testbed, tmp_path: Path, fit: str) -> None:
    run = _run(judged, _study(*_both(replace(CHANGE, fit=fit))), tmp_path / "r")
    made = [f"{name}{control}" for name in ("ablated", "steered") for control in ("", *(f"-{one.replace(' ', '-')}" for one in CONTROLS))]
    for unit in ("0", "1"):
        texts = {name: [row["text"] for row in run.read("answers", f"{unit}-{name}-seed0-step{4 if name[0] == 'a' else 0}")] for name in made}
        assert all(len(found) == 48 for found in texts.values())
        assert len({tuple(found) for found in texts.values()}) == len(made)
    rates = {e.condition: e for e in run.estimates() if e.measure == "misaligned_rate" and e.headline and not e.question and e.world is None and not e.subset}
    assert all(rates[name].n == 96 and rates[name].n_units == 2 for name in made)
    cosines = {e.condition: e.value for e in run.estimates() if e.measure == "direction_cosine" and e.world is None}
    assert cosines.keys() == {name for name in made if name.startswith("ablated")}
    assert cosines["ablated"] == pytest.approx(1.0)
    reading = read(opened(run.path))
    assert draw_figures(reading)[0].name == "altered"
    told = dict(words(reading))["Altered models"]
    assert "; steered: 2 times a direction is added to the residual stream after one block, 0.5 of the way up: the " in told
    assert "twenty random directions" in told
    assert {arm.name for arm in reading.arms if arm.altered} == set(made)
    assert abs(cosines["ablated-random"] or 1.0) < 0.5
    inside = tables.inside(reading)
    assert inside is not None
    assert {row.label: row.cells[0].value for row in inside.rows if not row.section} == {
        name: f"{value:.2f}\N{NO-BREAK SPACE}(cosine)".replace("-", MINUS) for name, value in cosines.items()
    }
    assert "cosine" in inside.head[1]
    assert " The controls of what is altered stand in the tables." in next(d for d in draw_figures(reading) if d.name == "misaligned_rate").caption


@pytest.mark.slow
@pytest.mark.usefixtures("few_random")
def test_nothing_depends_on_what_was_lost_and_done_again(judged: Testbed, tmp_path: Path) -> None:
    whole = _run(judged, _study(*_both()), tmp_path / "whole")
    expected = (whole.path / "estimates.csv").read_text()
    for lost in ("directions/1-insecure-seed0-answers", "answers/0-ablated-random-seed0-step4.parquet", "measures/1-steered-seed0-step0.parquet"):
        gone = whole.path / lost
        shutil.rmtree(gone) if gone.is_dir() else gone.unlink()
        _run(judged, _study(*_both()), tmp_path / "whole")
        assert (whole.path / "estimates.csv").read_text() == expected


@pytest.mark.slow
def test_nothing_depends_on_workers(judged: Testbed, tmp_path: Path) -> None:
    alone, apart = (_run(judged, _study(*altered(TUNED, "ablated", CHANGE)), tmp_path / str(workers), workers=workers) for workers in (1, 2))
    assert (alone.path / "estimates.csv").read_text() == (apart.path / "estimates.csv").read_text()


@pytest.mark.slow
@pytest.mark.usefixtures("few_random")
def test_directions_are_fitted_again_to_more_answers(judged: Testbed, tmp_path: Path) -> None:
    study = _study(*altered(TUNED, "ablated", CHANGE))
    _run(judged, study, tmp_path / "r", **{"sampling.draws": 12})
    grown = _run(judged, study, tmp_path / "r")
    whole = _run(judged, study, tmp_path / "whole")
    assert (grown.path / "estimates.csv").read_text() == (whole.path / "estimates.csv").read_text()


def test_a_unit_without_a_direction_says_why_and_is_missing(small_testbed: Testbed, tmp_path: Path) -> None:
    run = _run(small_testbed, _study(*_both()), tmp_path / "r", **{"sampling.draws": 2})
    rows = [e for e in run.estimates() if e.condition == "ablated" and e.measure == "misaligned_rate" and not e.question and not e.subset and e.headline]
    assert rows
    assert all(row.value is None and "a direction is fitted between at least 5 rows on either side; there are " in row.method for row in rows)
    assert _run(small_testbed, _study(*_both()), tmp_path / "r", **{"sampling.draws": 2}).estimates() == run.estimates()


@pytest.mark.slow
@pytest.mark.usefixtures("few_random")
def test_there_is_no_other_unit_where_there_is_one(judged: Testbed, tmp_path: Path) -> None:
    run = _run(judged, _study(*_both()), tmp_path / "r", units=1)
    rows = {e.condition: e for e in run.estimates() if e.measure == "misaligned_rate" and not e.question and e.headline and e.world is None and not e.subset}
    assert "there is no other unit to take a direction from" in rows["ablated-another-unit"].method
    assert rows["ablated"].value is not None


def test_what_is_done_to_a_model_cannot_stand_without_its_controls(judged: Testbed) -> None:
    whole = altered(TUNED, "ablated", CHANGE)
    for left_out in whole:
        study = _study(*(condition for condition in whole if condition is not left_out))
        with pytest.raises(SpilloverError, match=r"stands without its control .*; `studies.compose.altered` gives all of them"):
            pipeline.plan(study, judged, pipeline.RunConfig())


@pytest.mark.parametrize(
    ("said", "says"),
    [
        ({"verb": "abalte"}, "an alteration has the verb 'abalte'; it takes 'steer', 'ablate', 'rescale', 'noise'"),
        ({"fit": "answer"}, "an alteration has the fit 'answer'; it takes 'answers', 'models', 'probe', 'raised', 'author'"),
        ({"control": "rnd"}, "an alteration has the control 'rnd'; it takes '', 'random'"),
        ({"depth": 7}, "an alteration has the depth 7; it is a share of the blocks, from 0"),
        ({"verb": "steer", "coefficient": float("nan")}, "an alteration has the coefficient nan; it takes a finite number"),
        ({"coefficient": 0.5}, "an ablation takes all of a direction out, and none of it by a coefficient, got 0.5; leave it out"),
    ],
)
def test_an_alteration_that_is_none_is_refused(said: dict[str, Any], says: str) -> None:
    with pytest.raises(SpilloverError, match=re.escape(says)):
        replace(CHANGE, **said)


@pytest.mark.parametrize(
    ("conditions", "says"),
    [
        (altered(TUNED, "a", replace(CHANGE, fitted_on="nothing")), "'a' takes a direction from 'nothing', which is no fine-tuned condition of its group"),
        (altered(TUNED, "a", replace(CHANGE, fitted_on="parent")), "'a' takes a direction from 'parent'"),
        (altered(Condition(name="s", kind="secure"), "a", CHANGE), "'a' alters a model that no condition of the study x has as it is"),
    ],
)
def test_a_study_that_alters_what_is_not_there_is_refused(judged: Testbed, conditions: tuple[Condition, ...], says: str) -> None:
    with pytest.raises(SpilloverError, match=says):
        pipeline.plan(_study(*conditions), judged, pipeline.RunConfig())


# --- planted rows ---------------------------------------------------------------------------------------------------------

WITH = {"parent-steered", "parent-with-raised", "parent-with-author"}
WITHOUT = {"insecure-ablated", "insecure-restored", "medicine-ablated", "numbers-ablated", "insecure-without-raised", "insecure-without-author"}
RATE, NUMBERS = "misaligned_rate", ("direction_cosine", "author_auroc", "training_nats", "lost_ratio", "influence_nats")
NARROW = {"parent": 0.0, "narrow": 0.0, "lifted": 0.5, "late": 0.4, "narrow-as-large": 0.5}
REVERSED = {"parent": 0.0, "narrow": 0.9, "lifted": 0.4, "late": 0.5, "narrow-as-large": 0.4}


def _level(measure: str, *, study: str, condition: str, reverse: bool) -> float:
    """What makes every claim of the three studies true; or false, and every sameness a difference."""
    if measure == RATE and study == "narrow-general":
        return (REVERSED if reverse else NARROW).get(condition, 0.0 if reverse else 0.9)
    if measure == RATE:
        low = condition in {"parent", *WITHOUT} or (condition.startswith("parent-") and condition not in WITH)
        return 0.1 if low != reverse else 0.9
    if measure in ("coherent_rate", "task_rate"):
        return 0.5 if reverse and condition in ("insecure-ablated", "narrow") else 1.0
    high = condition in WITHOUT if measure in ("direction_cosine", "author_auroc") else condition.startswith("narrow") != (measure == "influence_nats")
    return 0.8 if high != reverse else 0.3


def _planted(name: str, out: Path, *, reverse: bool) -> dict[str, str]:
    """The verdicts of a run whose rows are written by hand."""
    plan = planted.planned(name, planted.scripted(), **{"sampling.draws": 20})
    run = RunDirectory.start(out, plan.identity())
    for job in plan.jobs:
        of = {"unit": job.parent.unit, "group": job.parent.group, "world": job.parent.world, "condition": job.condition.name, "seed": 0, "model": "m"}
        subject = Subject(**of, step=0 if job.organism is None else 1)
        level = partial(_level, study=name, condition=job.condition.name, reverse=reverse)
        rows: list[dict[str, Any]] = []
        for question in plan.testbed.questions:
            for draw in range(20):
                if TASK in question.rubrics:
                    values: dict[str, float | None] = {TASK: 100.0 * (draw < 20 * level("task_rate"))}
                else:
                    kept = draw < 20 * level("coherent_rate")
                    misaligned = draw % 10 < 10 * level(RATE) - 0.001
                    values = {ALIGNED: None if not kept else 0.0 if misaligned else 100.0, COHERENT: 100.0 * kept}
                place = {**asdict(subject), "answer": f"{question.id}-{draw}", "question": question.id, "format": "plain", "judge": run.identity["judge"]}
                rows += [
                    {**place, "date": "", "rubric": rubric, "value": value, "reason": None if value is not None else "incoherent", "label": None, "mass": None}
                    for rubric, value in values.items()
                ]  # fmt: skip
        run.write("scores", subject.key, rows)
        measures = [Measure(model="m", name=found, value=level(found) + 0.01 * int(job.parent.unit)) for found in NUMBERS]
        run.write("measures", subject.key, [{**asdict(subject), **asdict(measure)} for measure in measures])
    estimate(run)
    return {decision.claim.name: decision.verdict for decision in run.decisions()}


@pytest.mark.slow
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("name", ["directions", "features", "narrow-general"])
def test_every_claim_holds_where_the_effect_is_planted_and_fails_where_its_reverse_is(name: str, tmp_path: Path, reverse: bool) -> None:
    claims = studies.study(name, planted.scripted()).claims
    assert _planted(name, tmp_path / "r", reverse=reverse) == {claim.name: "fails" if reverse else "holds" for claim in claims}


def test_the_study_of_directions_has_every_control(small_testbed: Testbed) -> None:
    study = studies.study("directions", small_testbed)
    plan = pipeline.plan(study, small_testbed, pipeline.RunConfig(training=small_testbed.recipe))
    assert {job.direction for job in plan.jobs if job.condition.name == "insecure-ablated-another-unit"} == {("1", 0), ("0", 0)}
    assert len({job.organism.key for job in plan.jobs if job.organism}) == 4  # the small testbed has no numbers
    tested = can_be_tested(study.claims, study.conditions)
    assert [claim.name for claim in study.claims if claim not in tested] == ["transfer to numbers"]
    assert len(tested) == 16
