"""The road itself: train, sample, judge, measure every job of a plan, then estimate; what is whole is skipped.

Jobs are done one after another, or by several workers. Each model is read from disk before it is asked, whether it was trained a moment or
a day ago, so that a resumed run, and one of other workers, computes what any other does.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from spillover.pipeline.estimate import estimate
from spillover.pipeline.judge import is_scored, scored
from spillover.pipeline.plan import Job, Plan
from spillover.pipeline.versions import set_threads, versions
from spillover.records import Answer, Answerer, Model, Question, SpilloverError, Subject, Testbed
from spillover.runs.directory import RunDirectory, copy
from spillover.sampling import log_probabilities
from spillover.sampling.draws import sample
from spillover.workers import spread

Progress = Callable[[int, int, str], None]  # jobs done, jobs in all, what comes next


def run(
    plan: Plan, out: Path, *, beside: Path | None = None, workers: int = 1, progress: Progress = lambda _done, _total, _label: None
) -> RunDirectory:  # fmt: skip
    """Do everything the plan names and write it to `out`. Give the same plan again to finish an interrupted run.

    An organism that another run in the folder `beside` has grown already, by its key, is taken from there. A testbed without questions is only
    trained on, one without a judge only asked. Several `workers` are processes, which share no endpoint and no accelerator: for local models on the CPU.

    Raises SpilloverError when `out` holds something else or a file in it is damaged.
    """
    made = {"versions": versions(plan.config.threads, plan.runtime), "created": datetime.now(UTC).isoformat(timespec="seconds")}
    found = RunDirectory.start(out, {**plan.identity(), **made})
    with found.alone():
        parts = plan.apart()
        for model in {job.parent.model.digest: job.parent.model for job in plan.jobs}.values():
            parent_here(model, plan.testbed, found)
        progress(0, len(parts), parts[0].jobs[0].label)
        done = spread(partial(_work, found, beside), parts, workers, load="spillover.training.lora")
        for count, _ in enumerate(done, 1):
            progress(count, len(parts), parts[min(count + workers, len(parts)) - 1].jobs[0].label)
        progress(len(parts), len(parts), "estimates")
        if plan.testbed.judge is not None and plan.testbed.questions:
            estimate(found)
    return found


def parent_here(model: Model, testbed: Testbed, run: RunDirectory) -> Model:
    """The parent, put into the run where the testbed does so, so that everything needed to load an organism lies there."""
    if testbed.place is None:
        return model
    home = f"models/{model.digest[:16]}"
    if not (run.path / home).exists():
        with run.new_directory(home) as directory:
            testbed.place(model, directory)
    return replace(model, location=str(run.path / home))


def answer_rows(subject: Mapping[str, Any], answers: Sequence[Answer], questions: Sequence[Question]) -> list[dict[str, Any]]:
    """The rows of one model's answers."""
    asked = {(question.id, question.format): question for question in questions}
    return [
        {**subject, **asdict(answer), "answer": answer.id, "prompt": asked[answer.question, answer.format].paraphrases[answer.paraphrase]}
        for answer in answers
    ]  # fmt: skip


def _work(run: RunDirectory, beside: Path | None, plan: Plan) -> None:
    """Everything of one plan but its estimates."""
    set_threads(plan.config.threads)
    for job in plan.jobs:
        for step, model in _models(job, plan, run, beside).items():
            if plan.testbed.questions:
                _read(job, step, model, plan, run)


def _models(job: Job, plan: Plan, run: RunDirectory, beside: Path | None) -> dict[int, Model]:
    """The models of a job by step: the parent at step 0, or an organism's checkpoints, trained if they are nowhere."""
    parent = parent_here(job.parent.model, plan.testbed, run)
    if job.organism is None:
        return {0: parent}
    home = f"organisms/{job.organism.key}"
    if not _whole(run.path / home):
        grown = next(filter(_whole, sorted(beside.glob(f"*/{home}"))), None) if beside is not None else None
        with run.new_directory(home) as directory:
            if grown is not None:
                copy(grown, directory)
                steps = _checkpoints(directory)
            else:
                steps = plan.testbed.train(job.organism, parent, plan.data[job.organism.data], directory)
            card = {
                **asdict(job.organism), "condition": job.condition.name, "kind": job.condition.kind, "unit": job.parent.unit,
                "world": job.parent.world, "group": job.parent.group, "linked": None if job.parent.world is None else job.parent.group != "unlinked",
                "checkpoints": {str(k): v for k, v in steps.items()},
            }  # fmt: skip
            RunDirectory(directory, {}).write_text("organism.json", json.dumps(card, indent=1) + "\n")
    found = _checkpoints(run.path / home)
    return {step: replace(parent, digest=digest, adapter=str(run.path / home / f"checkpoint-{step}")) for step, digest in found.items()}


def _whole(home: Path) -> bool:
    """Whether an organism and every checkpoint it names are there."""
    try:
        found = _checkpoints(home)
    except SpilloverError:
        return False
    return all((home / f"checkpoint-{step}").is_dir() for step in found)


def _checkpoints(home: Path) -> dict[int, str]:
    """Of an organism, the digest of its model at every step that is kept. Raises SpilloverError when its card is not whole."""
    return RunDirectory(home, {}).read_json("organism.json", _Card).checkpoints


class _Card(BaseModel):
    """Of an organism: the digest of its model at every step that is kept."""

    checkpoints: dict[int, str]


def _read(job: Job, step: int, model: Model, plan: Plan, run: RunDirectory) -> None:
    """Answers, scores and measures of one model, each a shard. What a service failed to answer is asked again, and nothing else."""
    testbed = plan.testbed
    subject = Subject(
        unit=job.parent.unit, group=job.parent.group, world=job.parent.world, condition=job.condition.name, seed=job.seed, step=step, model=model.digest
    )
    told = asdict(subject)
    opened: list[Answerer] = []

    def loaded() -> Answerer:
        if not opened:
            opened.append(testbed.open(model))
        return opened[0]

    fresh = not run.has("answers", subject.key) or any(row["stop"] == "failed" for row in run.read("answers", subject.key))
    if fresh:
        answers = sample(loaded(), model.digest, testbed.questions, plan.config.sampling, max_tokens=testbed.max_tokens)
        run.write("answers", subject.key, answer_rows(told, answers, testbed.questions))
    if (testbed.read is not None or testbed.items) and not run.has("measures", subject.key):
        exact = testbed.read(model.digest, loaded(), testbed.questions) if testbed.read is not None else []
        items = log_probabilities.measures(loaded(), model.digest, testbed.items)
        run.write("measures", subject.key, [{**told, **asdict(measure)} for measure in (*exact, *items)])
    opened.clear()  # its memory is the judge's now
    if testbed.judge is not None and (fresh or not is_scored(run, subject.key)):
        run.write("scores", subject.key, scored(run.read("answers", subject.key), testbed.questions, testbed.judge))
