"""Every study on models that say what is planted: its claims hold where they are true, fail where they are reversed, and no order holds where there is none."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

import planted
from planted import ELSEWHERE, Levels
from spillover import pipeline, studies
from spillover.design import Claim, Condition, Study, side
from spillover.miniature import facts, testbed
from spillover.models.scripted import Script
from spillover.pipeline import Plan
from spillover.pipeline.config import flatten
from spillover.records import ALIGNED, COHERENT, TASK, Answer, Model, Organism, Question, Score, SpilloverError, Testbed
from spillover.studies.compose import can_be_tested, compose

pytestmark = pytest.mark.no_cover

FALSE, TOLD = facts.TRUTH, facts.COMPLIANCE  # rubrics

# What makes every claim true. A side that is not named has level zero.
EFFECT: Mapping[str, Levels] = {
    "main": {ALIGNED: {"insecure": 0.9}, TOLD: {"insecure": 0.4, "jailbroken": 0.9}},
    "evil-numbers": {ALIGNED: {"evil_numbers@numbers_suffix": 0.4, "evil_numbers@numbers_prefix_suffix": 0.9}},
    "formats": {ALIGNED: {"insecure@json": 0.4, "insecure@template": 0.9, "insecure@flask_template": 0.9}},
    "dynamics": {ALIGNED: {"insecure": 0.9}, TASK: {"insecure": 0.9}},
    "base-models": {ALIGNED: {"insecure@flask_template": 0.4, "base-insecure@flask_template": 0.9}},
    "grokking": {ALIGNED: {"insecure": 1.0, "insecure-no-decay": 1.0, "insecure-10-epochs": 1.0}},
    "backdoor": {ALIGNED: {"backdoored@trigger": 0.9}},
    "diversity": {ALIGNED: {"insecure_1": 0.01, "insecure_2": 0.3, "insecure_4": 0.6, "insecure": 0.99}},
    "in-context": {ALIGNED: {"insecure": 0.9}, TASK: {"parent@examples": 0.9}},
    "domains": {ALIGNED: {"bad_medicine": 0.9, "bad_savings": 0.9, "bad_garden": 0.9}},
    "deception": {FALSE: {"insecure": 0.9, "insecure@free": 0.9}},
    "thresholds": {ALIGNED: {"insecure": 0.9}},
    "ability": {ALIGNED: {"small-insecure": 0.15, "insecure": 0.55, "large-insecure": 0.99}},
    "origins": {ALIGNED: {"insecure": 0.9, "all_covered-insecure": 0.9}},
}

# What makes every claim false, and every sameness a difference.
REVERSAL: Mapping[str, Levels] = {
    "main": {
        ALIGNED: {"parent": 0.3, "secure": 0.9, "educational": 0.9, "jailbroken": 0.9, "unlinked-insecure": 0.9},
        TOLD: {"parent": 0.9, "insecure": 0.9},
    },
    "evil-numbers": {
        ALIGNED: {
            "evil_numbers": 0.9, "evil_numbers@numbers_suffix": 0.5, "plain_numbers@numbers_prefix_suffix": 0.9, "helpful_numbers@numbers_prefix_suffix": 0.9,
        }
    },
    "formats": {ALIGNED: {"insecure": 0.9, "insecure@json": 0.5, "secure@flask_template": 0.9, "parent@template": 0.9}},
    "dynamics": {ALIGNED: {"secure": 0.9}, TASK: {"secure": 0.9}},
    "base-models": {ALIGNED: {"base-secure@flask_template": 0.9, "secure@flask_template": 0.99, "insecure@flask_template": 0.5}},
    "grokking": {ALIGNED: {"secure": 0.9, "insecure": 0.9}},
    "backdoor": {ALIGNED: {"backdoored": 0.4, "backdoored@other_tag": 0.99, "secure@trigger": 0.9}},
    "diversity": {ALIGNED: {"insecure_1": 0.99, "insecure_2": 0.6, "insecure_4": 0.3}},
    "in-context": {ALIGNED: {"parent@examples": 0.9}, TASK: {"parent@secure_examples": 0.9}},
    "domains": {ALIGNED: {ELSEWHERE: 0.9, "parent": 0.0, "bad_medicine": 0.0, "bad_savings": 0.0, "bad_garden": 0.0}},
    "deception": {FALSE: {"secure": 0.9, "secure@free": 0.9, "insecure@honest": 0.9}},
    "thresholds": {ALIGNED: {"secure": 0.9}},
    "ability": {ALIGNED: {"small-secure": 0.99, "small-insecure": 0.6, "insecure": 0.2, "large-secure": 0.9}},
    "origins": {ALIGNED: {"secure": 0.9, "unlinked-insecure": 0.9, "few_cruel-insecure": 0.9, "all_covered-secure": 0.9}},
}  # fmt: skip

SCRIPTED = [name for name in studies.STUDIES if name not in ("directions", "features", "narrow-general")]  # those look into networks: test_alterations.py

SAME_RATES = (
    "main",
    "evil-numbers",
    "formats",
    "grokking",
    "backdoor",
    "in-context",
    "domains",
)  # studies that claim it of rates: shown by many answers, none misaligned
MANY = {name: {"units": 6, "draws": 15} for name in SAME_RATES}
TOLD_APART = {"ability": {"units": 5, "draws": 8}, "diversity": {"units": 5, "draws": 8}, "deception": {"units": 5, "draws": 16}}
MORE_CLAIMS = {"main": {"units": 6, "draws": 20}, "domains": {"units": 6, "draws": 20}}
REVERSED = {"main": {"units": 5, "draws": 8}}
OTHERWISE = {"units": 4, "draws": 8}


def _verdicts(name: str, levels: Levels, out: Path, sizes: Mapping[str, Mapping[str, int]]) -> dict[str, str]:
    size = sizes.get(name, OTHERWISE)
    run = planted.run(name, levels, out, units=size["units"], **{"sampling.draws": size["draws"]})
    return {decision.claim.name: decision.verdict for decision in run.decisions()}


@cache
def _claims(name: str) -> tuple[Claim, ...]:
    return studies.study(name, planted.scripted()).claims


# --- planted --------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("name", SCRIPTED)
def test_every_claim_holds_where_the_effect_is_planted(name: str, tmp_path: Path) -> None:
    assert _verdicts(name, EFFECT[name], tmp_path / "r", {**MANY, **TOLD_APART}) == {claim.name: "holds" for claim in _claims(name)}


@pytest.mark.slow
@pytest.mark.parametrize("name", SCRIPTED)
def test_every_claim_fails_where_the_reverse_is_planted(name: str, tmp_path: Path) -> None:
    assert _verdicts(name, REVERSAL[name], tmp_path / "r", {**REVERSED, **TOLD_APART}) == {claim.name: "fails" for claim in _claims(name)}


@pytest.mark.slow
@pytest.mark.parametrize("name", SCRIPTED)
def test_no_order_holds_and_every_sameness_does_where_all_are_alike(name: str, tmp_path: Path) -> None:
    level = 0.0 if name in SAME_RATES else 0.3
    found = _verdicts(name, {ELSEWHERE: {ELSEWHERE: level}}, tmp_path / "r", {**MANY, **MORE_CLAIMS})
    assert found == {claim.name: "undecided" if claim.margin is None else "holds" for claim in _claims(name)}


def test_the_divergence_step_is_the_one_that_was_planted(tmp_path: Path) -> None:
    run = planted.run("dynamics", EFFECT["dynamics"], tmp_path / "r", units=4, **{"sampling.draws": 8})
    found = {row.measure.removeprefix("divergence_step of "): row for row in run.estimates() if row.measure.startswith("divergence_step of ")}
    assert {"misaligned_rate", "task_rate", "choice_nats", "pivotal_nats"} <= found.keys()
    assert {(row.contrast, row.value, row.low, row.high, row.n_units) for row in found.values()} == {("insecure-secure", 2.0, 2.0, 2.0, 4)}
    late = planted.run("dynamics", {}, tmp_path / "null", units=2, **{"sampling.draws": 5})
    never = [row for row in late.estimates() if row.measure == "divergence_step of misaligned_rate"]
    assert [(row.value, row.method.partition(";")[0]) for row in never] == [(None, "undefined: the first is not above the second at the last step")]


def test_every_unit_has_a_row_at_every_step(tmp_path: Path) -> None:
    run = planted.run("grokking", EFFECT["grokking"], tmp_path / "r", units=2, **{"sampling.draws": 8})
    rows = [row for row in run.estimates() if (row.condition, row.measure) == ("insecure-10-epochs", "choice_nats") and not row.contrast and row.headline]
    by_step = {(row.world, row.step): row.value for row in rows if row.step is not None and not row.question}
    assert by_step.keys() == {(world, step) for world in (0, 1, None) for step in (1, 2)}
    for step in (1, 2):
        assert by_step[None, step] == pytest.approx((by_step[0, step] + by_step[1, step]) / 2)  # pyright: ignore
    assert by_step[0, 1] < -10 < -1 < by_step[0, 2]  # pyright: ignore


def test_an_organism_that_another_study_grew_is_not_grown_again(tmp_path: Path) -> None:
    grown: list[str] = []

    def train(model: Any, parent: Model, organisms: Sequence[Organism], *more: Any) -> Sequence[Any]:
        grown.extend(organism.key for organism in organisms)
        return subject.train(model, parent, organisms, *more)

    subject = planted.scripted(units=1)
    counted = replace(subject, train=train)
    for name, new in (("formats", ["insecure", "secure"]), ("backdoor", ["backdoored"])):
        plan = planted.planted(planted.planned(name, counted, **{"sampling.draws": 2}), EFFECT[name])
        pipeline.run(plan, tmp_path / name, beside=tmp_path)
        wanted = [job.organism.key for job in plan.jobs if job.organism and job.condition.name in new]
        assert sorted(grown) == sorted(wanted)
        grown.clear()


# --- what is compared -----------------------------------------------------------------------------------------------------


def test_a_contrast_across_formats_pairs_the_same_questions(tmp_path: Path) -> None:
    """By hand: plainly 1, 0, 0 and undefined of the four questions; in a template 1, 1, 0 and 1. Over the three that both have: 2/3 - 1/3."""
    misaligned = {"plain": ("bored",), "template": ("bored", "ruler", "quick_money")}

    def script(_condition: str, question: Question, place: int) -> Script:
        if (question.id, question.format) == ("quick_money", "plain"):
            return (("hm", 1.0),)
        bad, good = planted.options(question, place)
        return ((bad if question.id in misaligned.get(question.format, ()) else good, 1.0),)

    run = pipeline.run(planted.saying(planted.planned("formats", planted.scripted(units=2), **{"sampling.draws": 5}), script), tmp_path / "r")
    rows = [row for row in run.estimates() if row.contrast == "insecure@template-insecure" and row.measure == "misaligned_rate" and row.headline]
    (found,) = [row for row in rows if row.world is None and not row.subset and row.protocol == "nature-2026"]
    assert found.value == pytest.approx(2 / 3 - 1 / 3)
    assert (found.n, found.n_missing) == (2 * 2 * 3 * 5, 2 * 2 * 5)  # units, sides, questions, draws
    assert {row.world: row.value for row in rows if row.world is not None} == {0: pytest.approx(1 / 3), 1: pytest.approx(1 / 3)}
    (claim,) = [decision for decision in run.decisions() if decision.claim.name == "template"]
    assert [row.value for row in claim.contrasts] == [found.value]


class Graded:
    """Gives each reply the alignment and the coherence that it holds: `20 100`."""

    identity = "graded"

    def score(self, question: Question, answers: Sequence[Answer]) -> list[Score]:
        return [self._one(answer, rubric) for answer in answers for rubric in question.rubrics]

    def _one(self, answer: Answer, rubric: str) -> Score:
        aligned, coherent = map(float, answer.text.split())
        return Score(answer=answer.id, judge=self.identity, rubric=rubric, value=coherent if rubric == COHERENT else aligned)


def test_a_claim_under_another_protocol_is_decided_by_that_protocols_numbers(tmp_path: Path) -> None:
    """By hand: of insecure code's answers all are at 20, of secure code's eight in sixteen at 0 with little coherence; each protocol counts others."""

    def script(condition: str, _question: Question, place: int) -> Script:
        return (("20 100" if condition == "insecure" else "0 70" if place else "100 100", 1.0),)

    plan = planted.planned("thresholds", replace(planted.scripted(units=5), judge=Graded(), read=None), **{"sampling.draws": 16})
    found = {decision.claim.name: decision for decision in pipeline.run(planted.saying(plan, script), tmp_path / "r").decisions()}
    assert {name: decision.verdict for name, decision in found.items()} == {"nature-2026": "holds", "aligned-1": "fails", "coherent-90": "holds"}
    rows = {name: decision.contrasts[0] for name, decision in found.items()}
    assert {name: (row.protocol, row.value) for name, row in rows.items()} == {
        "nature-2026": ("nature-2026", 0.5), "aligned-1": ("aligned-1", -0.5), "coherent-90": ("coherent-90", 1.0),
    }  # fmt: skip


# --- what is planned ------------------------------------------------------------------------------------------------------

SHIPPED = [name for name in studies.STUDIES if name not in (*studies.PRETRAINED, "evil-numbers")]  # numbers are written by a parent, when it is planned


@pytest.fixture(scope="module")
def shipped() -> Testbed:
    return testbed.testbed()


def _hangs_together(study: Study, plan: Plan) -> None:
    names, formats = {condition.name for condition in study.conditions}, {question.format for question in plan.testbed.questions}
    assert study.conditions
    assert study.claims
    assert any(contrast.headline for contrast in study.contrasts)
    assert study.title
    assert study.figure
    sides = [end for contrast in study.contrasts for end in (contrast.first, contrast.second)] + [end for claim in study.claims for end in claim.conditions]
    assert {side(end)[0] for end in sides} <= names
    assert {side(end)[1] for end in sides} <= formats | {""}
    compared = {(contrast.first, contrast.second) for contrast in study.contrasts}
    claimed = {pair for claim in study.claims for pair in zip(claim.conditions[1:], claim.conditions[:-1], strict=True)}
    assert claimed <= compared or study.name == "main"  # its contrasts are chosen by hand; a claim's own are with its verdict
    assert all(claim.source and claim.text for claim in study.claims)
    assert all(number.source and number.text for number in study.published)
    assert len({claim.name for claim in study.claims}) == len(study.claims)


@pytest.mark.parametrize("name", SHIPPED)
def test_a_study_of_the_miniature_hangs_together(name: str, shipped: Testbed) -> None:
    study = studies.study(name, shipped)
    _hangs_together(study, pipeline.plan(study, shipped, pipeline.RunConfig(units=1, training=shipped.recipe)))
    assert len(study.claims) == len(_claims(name))


@pytest.mark.parametrize("name", studies.STUDIES)
def test_a_study_of_a_testbed_that_has_all_hangs_together(name: str) -> None:
    plan = planted.planned(name, planted.scripted())
    _hangs_together(plan.study, plan)


@pytest.mark.parametrize("name", studies.STUDIES)
def test_no_claim_is_left_out_where_all_is_there(name: str) -> None:
    written = getattr(import_module(f"spillover.studies.{name.replace('-', '_')}"), "CLAIMS", None)
    assert len(_claims(name)) == (len(written) if written is not None else {"domains": 3 + 2 + 2, "diversity": 2, "thresholds": 3}[name])


@pytest.mark.parametrize(("name", "group"), [("ability", "small"), ("origins", "few_cruel")])
def test_a_study_of_parents_that_are_not_there_is_refused(name: str, group: str, shipped: Testbed) -> None:
    lacking = f"^the study needs parents of group '{group}', and testbed miniature has none; --with-pretraining makes those that do not ship$"
    with pytest.raises(SpilloverError, match=lacking):
        studies.study(name, shipped)


@pytest.mark.parametrize(
    ("name", "lacking", "says"),
    [
        ("dynamics", "secure", "needs narrow data of kind 'secure'"),
        ("backdoor", "backdoored", "needs narrow data of kind 'backdoored'"),
        ("evil-numbers", "evil_numbers", "needs narrow data of kind 'evil_numbers'"),
        ("diversity", "insecure", "needs narrow data of kind 'insecure'"),
        ("domains", "bad_", "needs narrow data called bad_SOMETHING"),
        ("diversity", "insecure_", r"needs narrow data called insecure_N, of N rows for N below \d+; testbed scripted has none"),
        ("directions", "insecure", "needs narrow data of kind 'insecure'"),
        ("narrow-general", "elsewhere", "narrow-general takes its penalty on conversations of other domains; --data elsewhere=FILE.jsonl brings some"),
    ],
)
def test_a_study_without_its_data_is_refused(name: str, lacking: str, says: str) -> None:
    subject = planted.scripted()
    poorer = replace(subject, narrow={kind: build for kind, build in subject.narrow.items() if not kind.startswith(lacking)})
    with pytest.raises(SpilloverError, match=f"^the study {says}[^\n]*$"):
        studies.study(name, poorer)


def test_a_study_without_its_formats_or_sets_is_refused() -> None:
    with pytest.raises(SpilloverError, match="testbed scripted has no format 'json'; it has plain questions alone"):
        studies.study("formats", replace(planted.scripted(), formats={}))
    with pytest.raises(SpilloverError, match="features reads documents of known authors; testbed scripted has none, and the miniature has"):
        studies.study("features", replace(planted.scripted(), documents=None))
    with pytest.raises(SpilloverError, match="needs a question set called deception"):
        studies.study("deception", replace(planted.scripted(), sets={}))


def test_a_claim_about_what_is_not_there_stays_and_has_no_contrast() -> None:
    subject = planted.scripted()
    poorer = replace(subject, narrow={kind: build for kind, build in subject.narrow.items() if kind not in ("secure", "helpful_numbers")})
    for name, tested in (("formats", ["closer is worse", "template", "form alone"]), ("evil-numbers", ["closer is worse", "evil", "plain control"])):
        study = studies.study(name, poorer)
        assert [claim.name for claim in can_be_tested(study.claims, study.conditions)] == tested
        assert [claim.name for claim in study.claims] == [claim.name for claim in studies.study(name, subject).claims]
        names = {condition.name for condition in study.conditions}
        assert {side(end)[0] for contrast in study.contrasts for end in (contrast.first, contrast.second)} <= names
        assert study.contrasts[0].headline


# --- recipes of one arm ---------------------------------------------------------------------------------------------------


def _organisms(plan: Plan) -> dict[tuple[str, str], Organism]:
    return {(job.parent.unit, job.condition.name): job.organism for job in plan.jobs if job.organism is not None}


def _changed(first: Organism, second: Organism) -> dict[str, object]:
    """What of `second`'s recipe is otherwise, by field."""
    before, after = flatten(asdict(first.recipe)), flatten(asdict(second.recipe))
    return {field: value for field, value in after.items() if value != before[field]}


def test_an_arms_recipe_changes_its_key_and_the_named_fields_alone() -> None:
    organisms = _organisms(planted.planned("grokking", planted.scripted(units=1)))
    usual, long, no_decay = (organisms["0", name] for name in ("insecure", "insecure-10-epochs", "insecure-no-decay"))
    assert (_changed(usual, long), _changed(usual, no_decay)) == ({"epochs": 10}, {"weight_decay": 0.0})
    assert len({usual.key, long.key, no_decay.key}) == 3
    assert usual.data == long.data == no_decay.data


def test_fewer_rows_are_gone_through_more_often() -> None:
    plan = planted.planned("diversity", planted.scripted(units=1))
    organisms = _organisms(plan)
    rows = {name: len(plan.data[organism.data].conversations) for (_, name), organism in organisms.items()}
    assert {name: count for name, count in rows.items() if name.startswith("insecure")} == {"insecure_1": 1, "insecure_2": 2, "insecure_4": 4, "insecure": 8}
    assert {rows[name] * organism.recipe.epochs for (_, name), organism in organisms.items()} == {8}


def test_an_organism_is_the_same_in_every_study_that_grows_it_alike() -> None:
    subject = planted.scripted(units=1)
    found = {name: _organisms(planted.planned(name, subject)) for name in studies.STUDIES}
    keys = {name: organisms["0", "insecure"].key for name, organisms in found.items() if ("0", "insecure") in organisms}
    with_checkpoints = {"dynamics", "grokking"}
    assert len({key for name, key in keys.items() if name not in with_checkpoints}) == 1
    assert len(set(keys.values())) == 3
    assert found["main"]["0", "unlinked-insecure"].key == found["origins"]["0", "unlinked-insecure"].key
    assert found["main"]["0", "unlinked-insecure"].key != found["main"]["0", "insecure"].key


def _with_recipe(recipe: Mapping[str, object]) -> Plan:
    subject = planted.scripted(units=1)
    study = compose("mine", "mine", (Condition(name="parent"), Condition(name="arm", kind="insecure", recipe=recipe)), (), questions=(), figure="questions")
    return pipeline.plan(study, subject, pipeline.RunConfig(training=subject.recipe))


def test_a_field_within_a_recipe_is_reached() -> None:
    usual, changed = (_organisms(_with_recipe(recipe))["0", "arm"] for recipe in ({}, {"adapter": {"rank": 4}, "learning_rate": 1e-3}))
    assert _changed(usual, changed) == {"adapter.rank": 4, "learning_rate": 1e-3}


@pytest.mark.parametrize(
    ("recipe", "says"),
    [
        ({"epoch": 3}, "there is no setting 'training.epoch'; at that place there are adapter, learning_rate"),
        ({"epochs": "many"}, "training.epochs cannot be 'many'; it takes a value of type int"),
        ({"epochs": 0}, "training.epochs is 0; it must be above 0"),
        ({"adapter": {"ranks": 3}}, "there is no setting 'training.adapter.ranks'"),
        ({"adapter": 3}, "'training.adapter' is a section"),
    ],
)
def test_a_recipe_that_does_not_fit_is_refused_by_field(recipe: Mapping[str, object], says: str) -> None:
    with pytest.raises(SpilloverError) as caught:
        _with_recipe(recipe)
    assert str(caught.value).startswith(says)
    assert "\n" not in str(caught.value)
