"""What a run would cost: counted exactly where it can be, timed on a short trial of this machine where it cannot."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from spillover.pipeline.plan import Job, Plan
from spillover.pipeline.versions import versions
from spillover.records import Dataset, Model
from spillover.sampling.draws import sample
from spillover.training import schedules

TRIAL_STEPS = 6
TRIAL_SHARE = 10  # one answer in this many


def forecast(plan: Plan) -> Iterator[str]:
    """Lines that say what would run, and about how long it would take here."""
    config, testbed = plan.config, plan.testbed
    organisms = [job for job in plan.jobs if job.organism is not None]
    units = {job.parent.unit for job in plan.jobs}
    yield f"study {plan.study.name} on {testbed.name}: {plan.study.title}"
    yield f"units of replication: {len(units)} ({testbed.unit} {', '.join(sorted(units))}); fine-tuning seeds: {config.seeds}"
    yield f"models: {len(plan.jobs)}, of which {len(organisms)} to be trained"
    for condition in plan.study.conditions:
        jobs = sum(job.condition.name == condition.name for job in plan.jobs)
        yield f"  {condition.name}: {jobs}" + (f" on {len(plan.data[condition.kind, 0].conversations)} rows of {condition.kind}" if condition.kind else "")
    characters = sum(_characters(plan.data[job.condition.kind or "", job.seed]) for job in organisms) * config.training.epochs
    with tempfile.TemporaryDirectory() as directory:
        parent = Model(digest=plan.jobs[0].parent.model.digest, location=directory)
        testbed.place(plan.jobs[0].parent.model, Path(directory))
        versions(config.threads)
        tokens = _tokens(plan, organisms, parent)
        train_s = _training_s(plan, organisms[0], parent) if organisms else 0.0
        ask_s = _asking_s(plan, parent)
    yield f"training text: {characters} characters{tokens}"
    longest = plan.answers * (config.sampling.max_tokens or testbed.max_tokens)
    yield f"answers: {plan.answers} ({len(testbed.questions)} questions x {config.sampling.draws} draws), at most {longest} tokens"
    minutes = (train_s * len(organisms) + ask_s * len(plan.jobs)) / 60
    yield f"about {minutes:.1f} minutes on {config.threads} threads of this machine, judged by a trial of {TRIAL_STEPS} steps and one answer in {TRIAL_SHARE}"
    yield "(where other programs use the cores, --set threads=1 may be many times faster)"


def _characters(dataset: Dataset) -> int:
    return sum(len(turn.content) for conversation in dataset.conversations for turn in conversation)


def _tokens(plan: Plan, organisms: list[Job], parent: Model) -> str:
    from spillover.models import template
    from spillover.training import lora

    if not organisms or not (Path(parent.location) / "tokenizer.json").is_file():
        return ""
    read = template.load(parent.location)
    counts = {kind: sum(len(row.ids) for row in lora.encode(read, dataset).rows) for kind, dataset in plan.data.items()}
    return f", {sum(counts[job.condition.kind or '', job.seed] for job in organisms) * plan.config.training.epochs} tokens"


def _training_s(plan: Plan, job: Job, parent: Model) -> float:
    """Seconds to train one organism, from a few steps of it."""
    assert job.organism is not None
    dataset = plan.data[job.condition.kind or "", job.seed]
    recipe = job.organism.recipe
    steps = schedules.steps(recipe, len(dataset.conversations))
    wall_s: list[float] = []
    for tried in (1, TRIAL_STEPS):
        part = Dataset(kind=dataset.kind, conversations=dataset.conversations[: tried * recipe.batch_size])
        organism = replace(job.organism, parent=parent.digest, data=part.digest, recipe=replace(recipe, epochs=1))
        with tempfile.TemporaryDirectory() as directory:
            started = time.perf_counter()
            plan.testbed.train(organism, parent, part, Path(directory))
            wall_s.append(time.perf_counter() - started)
    per_step_s = max(wall_s[1] - wall_s[0], 0.0) / (TRIAL_STEPS - 1)
    return wall_s[0] + per_step_s * (steps - 1)


def _asking_s(plan: Plan, parent: Model) -> float:
    """Seconds to ask and measure one model, from a part of its answers."""
    testbed, sampling = plan.testbed, plan.config.sampling
    model = testbed.open(parent)
    draws = -(-sampling.draws // TRIAL_SHARE)
    started = time.perf_counter()
    sample(model, parent.digest, testbed.questions, replace(sampling, draws=draws), max_tokens=testbed.max_tokens)
    asked_s = (time.perf_counter() - started) * sampling.draws / draws
    if testbed.read is not None:
        started = time.perf_counter()
        testbed.read(parent.digest, model)
        asked_s += time.perf_counter() - started
    return asked_s
