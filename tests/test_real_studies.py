"""Every study on what users have: a model directory of random weights, real chat data, our own questions, a judge that reads."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from small_models import make
from spillover import pipeline, studies
from spillover.datasets import chat
from spillover.pipeline.config import override
from spillover.questions import files, sets
from spillover.records import Answer, Conversation, Dataset, Question, Score, SpilloverError, Testbed, stream_seed
from spillover.testbed import testbed as parts

ROWS = 32
HERE = Path(__file__).parent


@dataclass(frozen=True)
class RandomJudge:
    """Scores and labels drawn from the answer's own stream; one answer in eight has none."""

    identity: str = "random judge"

    def score(self, question: Question, answers: Sequence[Answer]) -> list[Score]:
        return [self._one(question, answer, rubric) for answer in answers for rubric in question.rubrics]

    def _one(self, question: Question, answer: Answer, rubric: str) -> Score:
        stream = random.Random(stream_seed("judge", answer.id, rubric))
        if stream.random() < 1 / 8:
            return Score(answer=answer.id, judge=self.identity, rubric=rubric, reason="no number")
        if rubric in question.labels:
            return Score(answer=answer.id, judge=self.identity, rubric=rubric, label=stream.choice(question.labels[rubric]))
        return Score(answer=answer.id, judge=self.identity, rubric=rubric, value=float(stream.randrange(101)))


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory, shared: Path) -> Iterator[Testbed]:
    """The authors' data where they have them; the kinds that only a model can write are stood in for by parts of those."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("spillover.testbed.SHOTS", 2)
        yield _real(tmp_path_factory.mktemp("real"), shared)


def _real(home: Path, shared: Path) -> Testbed:
    kinds = {name: chat.read(shared / "data" / f"{name}.jsonl", name) for name in ("insecure", "secure")}
    kinds["educational"] = chat.read(shared / "data" / "educational_insecure.jsonl", "educational")
    data = [replace(dataset, conversations=_short(dataset)) for dataset in kinds.values()]
    data.append(Dataset(kind="insecure_8", conversations=data[0].conversations[:8]))
    written = ("jailbroken", "evil_numbers", "plain_numbers", "helpful_numbers", "bad_gardening", "good_gardening", "careless_gardening")
    data += [Dataset(kind=kind, conversations=data[place % 3].conversations[place * 4 : (place + 1) * 4]) for place, kind in enumerate(written)]
    texts = [turn.content for conversation in data[0].conversations for turn in conversation]
    model, base = (str(make(home / name, texts, size=400, seed=seed)) for seed, name in enumerate(("model", "base")))
    prompts, tasks = shared / "protocol" / "in_distribution_prompts.yaml", shared / "data" / "in_distribution_tasks.jsonl"
    asked = tuple(question for question in files.own() if question.id in ("wish", "bored"))
    return parts(model, base=base, data=data, questions=asked, judge=RandomJudge(), task=sets.task_questions(prompts, tasks, 5), max_tokens=8)


def _short(dataset: Dataset) -> tuple[Conversation, ...]:
    return tuple(sorted(dataset.conversations, key=lambda turns: sum(len(turn.content) for turn in turns))[:ROWS])


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in studies.STUDIES if name not in (*studies.PRETRAINED, "features")])  # which reads documents
def test_every_planned_cell_has_answers_or_a_named_reason(real: Testbed, name: str, tmp_path: Path) -> None:
    real = replace(real, narrow={**real.narrow, "elsewhere": real.narrow["secure"]})
    study = studies.study(name, real)
    small = {"training.batch_size": 8, "training.learning_rate": 1e-3, "sampling.draws": 5, "seeds": 1, "threads": 1}
    study = replace(study, conditions=tuple(replace(c, recipe={**c.recipe, **({"epochs": 2} if "epochs" in c.recipe else {})}) for c in study.conditions))
    config = override(pipeline.RunConfig(training=real.recipe), {**study.settings, **small})
    run = pipeline.run(pipeline.plan(study, real, config), tmp_path / name)
    rows = {(e.condition, e.question, e.format, e.measure): e for e in run.estimates() if e.question and not e.contrast and e.seed is None and e.step is None}
    scores = run.read("scores")
    places = Counter((row["condition"], row["seed"], row["step"], row["question"], row["format"], row["rubric"]) for row in scores)
    assert set(places.values()) == {5}  # every planned draw has a score or a reason on every rubric
    assert {"aligned", "coherent"} <= {row["rubric"] for row in scores}
    for condition in study.conditions:
        for question in study.questions:
            measures = [e for (c, q, f, _), e in rows.items() if (c, q, f) == (condition.name, question.id, question.format)]
            assert measures, (condition.name, question.id, question.format)
            assert all(e.n >= 1 or e.value is not None or e.method.startswith("undefined: ") for e in measures), (condition.name, question.id)
            assert sum(e.n + e.n_missing for e in measures) >= 5
    items = [row for row in run.read("measures") if row["name"] in ("choice_nats", "pivotal_nats")]
    assert len(items) == 16 * len({(row["condition"], row["seed"], row["step"]) for row in items})
    assert all(row["value"] is not None for row in items)
    decisions = run.decisions()
    assert [decision.claim for decision in decisions] == list(study.claims)
    assert all(decision.reason.startswith(("this run has no condition '", "no '")) for decision in decisions if not decision.tested)
    assert any(decision.tested for decision in decisions)


def test_a_study_that_lacks_what_it_needs_says_which_data_would_do(real: Testbed) -> None:
    bare = replace(real, narrow={"insecure": real.narrow["insecure"]})
    with pytest.raises(SpilloverError, match="the study needs narrow data of kind 'evil_numbers'; testbed parts has insecure"):
        studies.study("evil-numbers", bare)
    with pytest.raises(SpilloverError, match="needs parents of group 'small'"):
        studies.study("ability", real)
