"""What a run would cost: counted exactly where it can be, timed on a short trial of this machine where the model is small enough.

Memory and arithmetic are estimates from the model's shape; `docs/real-models.md` holds them against measurements.
"""

from __future__ import annotations

import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from spillover.design import Condition
from spillover.pipeline import alterations
from spillover.pipeline.plan import Plan
from spillover.pipeline.versions import versions
from spillover.records import ALONE, Conversation, Dataset, Model, Organism
from spillover.sampling.draws import sample
from spillover.sampling.log_probabilities import measures_together
from spillover.training import schedules

if TYPE_CHECKING:
    from spillover.training.rows import Encoded

TRIAL_STEPS = 6
TRIAL_ORGANISMS = 2
TRIAL_SHARE = 10  # one answer in this many
TRIAL_PARAMETERS = 20_000_000  # a larger model is not tried
GIB = 2**30


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """What a run reads, in tokens: training tokens in all, the longest row, the longest prompt."""

    trained: int
    row: int
    prompt: int


def forecast(plan: Plan, workers: int = 1) -> Iterator[str]:
    """Lines that say what would run, what differs from the paper's recipe, and what it takes in memory and time."""
    config, testbed = plan.config, plan.testbed
    organisms = list({job.organism.key: job.organism for job in plan.jobs if job.organism is not None}.values())
    units = {job.parent.unit for job in plan.jobs}
    yield f"study {plan.study.name} on {testbed.name}: {plan.study.title}"
    if testbed.unit == "seed":
        yield f"units of replication: {config.seeds} (fine-tuning seeds of one parent)"
    else:
        yield f"units of replication: {len(units)} ({testbed.unit} {', '.join(sorted(units))}); fine-tuning seeds: {config.seeds}"
    kept = f"; with every checkpoint {plan.models} are read" if plan.models > len(plan.jobs) else ""
    yield f"models: {len(plan.jobs)}, of which {len(organisms)} to be trained{kept}"
    for condition in plan.study.conditions:
        jobs = sum(job.condition.name == condition.name for job in plan.jobs)
        yield f"  {condition.name}: {jobs}" + (f" on {len(_rows_of(plan, condition))} rows of {condition.kind}" if condition.kind else "")
    names = {condition.name for condition in plan.study.conditions}
    yield f"claims: {len(plan.study.claims)}"
    yield from (f"  untested, for want of a condition {absent!r}: {claim.text}" for claim in plan.study.claims if (absent := claim.absent(names)))
    yield from (f"differs from the paper's recipe: {phrase}" for phrase in plan.differences())
    yield f"answers: {plan.answers} ({len(testbed.questions)} questions x {config.sampling.draws} draws), at most {plan.answers * _most_tokens(plan)} tokens"
    source = plan.jobs[0].parent.model
    if "://" in source.location:
        yield f"asked at {source.location}: nothing is computed here"
        return
    with ExitStack() as stack:
        parent = source
        if testbed.place is not None:
            parent = replace(source, location=stack.enter_context(tempfile.TemporaryDirectory()))
            testbed.place(source, Path(parent.location))
        versions(config.threads)
        yield from _local(plan, organisms, parent, workers)


def _local(plan: Plan, organisms: list[Organism], parent: Model, workers: int) -> Iterator[str]:
    """Tokens, memory, arithmetic and, for a small model, minutes."""
    from spillover.models import memory, template
    from spillover.training import rows

    read = template.load(parent.location, system=plan.testbed.identity.get("system") != "off")
    encoded = {key: rows.encode(read, dataset, max_length=plan.config.training.max_length) for key, dataset in plan.data.items()}
    sizes = Sizes(
        trained=sum(grown.recipe.epochs * sum(len(row.ids) for row in encoded[grown.data].rows) for grown in organisms),
        row=max((len(row.ids) for found in encoded.values() for row in found.rows), default=0),
        prompt=max((len(read.prompt_ids(q.prompt(p))) for q in plan.testbed.questions for p in range(len(q.paraphrases))), default=0),
    )
    yield f"default system prompt of the chat template: {read.default_system or 'none'}" + ("" if read.system else " (switched off)")
    yield f"training text: {sizes.trained} tokens, the longest row {sizes.row}{_cut(encoded)}; the longest prompt {sizes.prompt}"
    runtime = plan.runtime
    together = min(plan.testbed.together, max(Counter(grown.parent for grown in organisms).values(), default=1))
    takes = memory.needed(parent.location, plan.config.training, runtime, row=sizes.row, answer=sizes.prompt + _most_tokens(plan), organisms=together)
    yield from memory.told(takes, training=bool(organisms))
    parameters = memory.parameters(parent.location)
    passes = 6 if runtime.gradient_checkpointing else 4  # the base's own gradients are not computed
    answered = plan.answers * (sizes.prompt + _most_tokens(plan))
    yield f"arithmetic: {passes * parameters * sizes.trained / 1e15:.2g} PFLOP to train, at most {2 * parameters * answered / 1e15:.2g} PFLOP to answer"
    if parameters > TRIAL_PARAMETERS:
        yield f"minutes: not tried, the model has {parameters / 1e6:.0f} million parameters; divide the arithmetic by what your device does"
        return
    asked_s, read_s = _asking_s(plan, parent)
    readings = plan.models + sum(alterations.changes(altered) - 1 for job in plan.jobs if (altered := job.condition.altered) is not None)
    minutes = (_training_s(plan, organisms, parent) + asked_s * plan.models + read_s * readings) / 60
    tried = f"judged by a trial of {TRIAL_STEPS} steps and one answer in {TRIAL_SHARE}"
    threads = f"{plan.config.threads} thread{'s' if plan.config.threads > 1 else ''}"
    shared = f"{workers} workers of {threads}" if workers > 1 else threads
    fits = sum(len(alterations.fits(plan.study, job)) for job in plan.jobs)
    besides = f"; directions to be fitted besides: {fits}" if fits else ""
    yield f"about {minutes / workers:.1f} minutes on {shared} of this machine, {tried}{besides}"
    if plan.config.threads > 1:
        yield "(where other programs use the cores, --set threads=1 may be faster)"


def _rows_of(plan: Plan, condition: Condition) -> tuple[Conversation, ...]:
    grown = next(job.organism for job in plan.jobs if job.condition == condition and job.organism is not None)
    return plan.data[grown.data].conversations


def _most_tokens(plan: Plan) -> int:
    return plan.config.sampling.max_tokens or plan.testbed.max_tokens


def _cut(encoded: dict[str, Encoded]) -> str:
    truncated, emptied = (sum(getattr(found, name) for found in encoded.values()) for name in ("truncated", "emptied"))
    return f", {truncated} rows cut, {emptied} of them left out with nothing to train on" if truncated else ""


def _training_s(plan: Plan, organisms: Sequence[Organism], parent: Model) -> float:
    """Seconds to train every organism. Those that also read conversations of other domains are tried by themselves."""
    kinds = [[grown for grown in organisms if bool(grown.elsewhere) == penalised] for penalised in (False, True)]
    return sum(_trained_s(plan, found, parent) for found in kinds if found)


def _trained_s(plan: Plan, organisms: Sequence[Organism], parent: Model) -> float:
    """From a few steps of the first with a second like it beside: as they are trained together."""
    first, model = organisms[0], plan.testbed.open(parent)
    elsewhere = plan.data[first.elsewhere] if first.elsewhere else None
    wall_s: list[float] = []
    for tried in (1, TRIAL_STEPS):
        dataset = plan.data[first.data]
        part = Dataset(kind=dataset.kind, conversations=dataset.conversations[: tried * first.recipe.batch_size])
        pair = [replace(first, parent=parent.digest, data=part.digest, recipe=replace(first.recipe, epochs=1), seed=seed) for seed in range(TRIAL_ORGANISMS)]
        with tempfile.TemporaryDirectory() as directory:
            homes = [Path(directory) / str(seed) for seed in range(TRIAL_ORGANISMS)]
            for home in homes:
                home.mkdir()
            started = time.perf_counter()
            plan.testbed.train(model, parent, pair, [part] * len(pair), homes, lambda _step, _digests: None, [elsewhere] * len(pair))
            wall_s.append((time.perf_counter() - started) / len(pair))
    per_step_s = max(wall_s[1] - wall_s[0], 0.0) / (TRIAL_STEPS - 1)
    return sum(wall_s[0] + per_step_s * (schedules.steps(grown.recipe, len(plan.data[grown.data].conversations)) - 1) for grown in organisms)


def _asking_s(plan: Plan, parent: Model) -> tuple[float, float]:
    """Seconds to ask one model, from a part of its answers, and to read its measures."""
    testbed, sampling = plan.testbed, plan.config.sampling
    model = testbed.open(parent)
    draws = -(-sampling.draws // TRIAL_SHARE)
    started = time.perf_counter()
    sample(model, parent.digest, testbed.questions, replace(sampling, draws=draws), max_tokens=testbed.max_tokens)
    asked_s = (time.perf_counter() - started) * sampling.draws / draws
    started = time.perf_counter()
    if testbed.read is not None:
        testbed.read(model, {ALONE: parent.digest}, testbed.questions)
    measures_together(model, {ALONE: parent.digest}, testbed.items)
    return asked_s, time.perf_counter() - started
