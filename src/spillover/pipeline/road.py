"""The road itself: train, sample, judge, measure every job of a plan, then estimate; what is whole is skipped.

Each parent and the organisms grown from it are one piece of work, done one after another or by several workers. The organisms are trained and asked
side by side, from the weights in memory, or from the same weights on disk where they are there already: a resumed run, and one of other workers,
computes what any other does.
"""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, replace
from datetime import UTC, datetime
from functools import cached_property, partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from pydantic import BaseModel

from spillover.pipeline import alterations, readings
from spillover.pipeline.estimate import estimate
from spillover.pipeline.judge import is_scored, scored, scores_kept
from spillover.pipeline.plan import Job, Plan
from spillover.pipeline.versions import set_threads, versions
from spillover.records import ALONE, Answer, Closable, Model, Organism, Question, SpilloverError, Subject, Testbed
from spillover.runs.directory import PARTIAL, SET_ASIDE, RunDirectory, Table, copy
from spillover.sampling.draws import sample_together
from spillover.sampling.log_probabilities import measures_together
from spillover.workers import LOADED, spread

GROWN = "grown_from"  # in run.json of a run that was given more draws: how many it had
Progress = Callable[[int, int, str], None]  # jobs done, jobs in all, what comes next


def run(
    plan: Plan, out: Path, *, beside: Path | None = None, workers: int = 1, progress: Progress = lambda _done, _total, _label: None
) -> RunDirectory:  # fmt: skip
    """Do everything the plan names and write it to `out`. Give the same plan again to finish an interrupted run, or with more draws to add to it.

    An organism that another run in the folder `beside` has grown already, by its key, is taken from there. A testbed without questions is only
    trained on, one without a judge only asked. Several `workers` are processes, which share no endpoint and no accelerator: for local models on the CPU.

    Raises SpilloverError when `out` holds something else or a file in it is damaged.
    """
    alterations.refuse(plan)
    parts = plan.apart()
    plain = sum(part.jobs[0].condition.altered is None for part in parts)
    progress(0, len(parts), parts[0].jobs[0].label)
    made = {"versions": versions(plan.config.threads, plan.runtime), "created": datetime.now(UTC).isoformat(timespec="seconds")}
    _let_grow(plan, out, made)
    found = RunDirectory.start(out, {**plan.identity(), **made, **_grown_from(out)})
    with found.alone():
        for model in {job.parent.model.digest: job.parent.model for job in plan.jobs}.values():
            parent_here(model, plan.testbed, found)
        stopped: list[str] = []
        count = 0
        for some in (parts[:plain], parts[plain:]):  # what is altered takes what was fitted before
            for _, why in spread(partial(_work, found, beside), [] if stopped else some, workers, load=LOADED):
                stopped, count = [*stopped, *why], count + 1
                progress(count, len(parts), parts[min(count + workers, len(parts)) - 1].jobs[0].label)
        if stopped:
            rest = "all else is there" if plain == len(parts) else "all else is there but what is altered"
            raise SpilloverError(stopped[0] + (f" ({len(stopped)} of the organisms stopped so; {rest})" if len(stopped) > 1 else f"; {rest}"))
        progress(len(parts), len(parts), "estimates")
        if plan.testbed.judge is not None and plan.testbed.questions:
            estimate(found)
    return found


def _grown_from(out: Path) -> dict[str, int]:
    """How many draws of each question a run had before it was given more."""
    if not (out / "run.json").exists():
        return {}
    drawn = RunDirectory.open(out).identity.get(GROWN)
    return {GROWN: drawn} if type(drawn) is int else {}


def _let_grow(plan: Plan, out: Path, made: Mapping[str, Any]) -> None:
    """Where `out` holds this very run with fewer draws, make it one of so many: what was drawn is kept, what was estimated is not."""
    if not (out / "run.json").exists():
        return
    found = RunDirectory.open(out)
    sampling = plan.config.sampling
    try:
        drawn = found.identity["config"]["sampling"]["draws"]
    except (KeyError, TypeError):
        return
    if type(drawn) is not int or not 0 < drawn < sampling.draws:
        return
    fewer = replace(plan, config=replace(plan.config, sampling=replace(sampling, draws=drawn)))
    expected = json.loads(json.dumps({**fewer.identity(), **made}, default=list))
    if all(found.identity.get(key) == value for key, value in expected.items() if key not in SET_ASIDE):
        with found.alone():
            for made_of_rows in ("estimates.csv", "estimates.json", "claims.json", "report.html"):
                (out / made_of_rows).unlink(missing_ok=True)
            shutil.rmtree(out / alterations.HOME, ignore_errors=True)  # fitted to fewer answers
            found.write_text("run.json", json.dumps({**found.identity, **json.loads(json.dumps(plan.identity(), default=list)), GROWN: drawn}, indent=1) + "\n")


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


def _work(run: RunDirectory, beside: Path | None, plan: Plan) -> list[str]:
    """Everything of one parent and its organisms but estimates; says of every organism that was not trained to its end why."""
    set_threads(plan.config.threads)
    family = _Family(plan, run)
    if plan.jobs[0].condition.altered is not None:
        family.alter()
        return []
    for job in plan.jobs:
        if job.organism is None:
            family.read(0, {ALONE: family.parent.digest}, {ALONE: [job]})
    grown: dict[str, list[Job]] = {}
    for job in plan.jobs:
        if job.organism is not None:
            grown.setdefault(job.organism.key, []).append(job)
    elsewhere = {key: found for key in grown if (found := _grown_elsewhere(key, beside, run)) is not None}
    for key, found in elsewhere.items():
        if not _whole(family.home(key)):
            with run.new_directory(f"organisms/{key}") as directory:
                copy(found, directory)
                family.write_card(directory, grown[key][0], _checkpoints(directory))
    stopped = [*family.grow({key: jobs for key, jobs in grown.items() if key not in elsewhere})]
    stopped += family.grow({key: jobs for key, jobs in grown.items() if key in elsewhere})
    family.close()
    if plan.testbed.questions:
        _score([_subject(job, step, digest) for job in plan.jobs for step, digest in family.models(job).items()], plan, run)
    if not stopped:
        family.fit()
    return stopped


class _Family:
    """A parent and its organisms: loaded once, as soon as anything is to be computed, and grown and asked together as the plan has them.

    What is asked together is decided by the plan alone, never by what is left to do, so that a resumed run computes what any other does.
    """

    def __init__(self, plan: Plan, run: RunDirectory) -> None:
        self.plan, self.run, self.testbed = plan, run, plan.testbed
        self.parent = parent_here(plan.jobs[0].parent.model, plan.testbed, run)

    @cached_property
    def model(self) -> Any:
        return self.testbed.open(self.parent)

    def close(self) -> None:
        """Forget the loaded network: its memory is the judge's now."""
        self.__dict__.pop("model", None)

    def home(self, key: str) -> Path:
        return self.run.path / "organisms" / key

    def models(self, job: Job) -> dict[int, str]:
        """The digests of a job's models by step, of those that are there."""
        if job.organism is None:
            return {0: self.parent.digest}
        home = self.home(job.organism.key)
        return _checkpoints(home) if _whole(home) else {}

    def grow(self, grown: Mapping[str, list[Job]]) -> list[str]:
        """Train these organisms side by side and ask them at every checkpoint, as many at once as the testbed can hold."""
        if not grown or all(_whole(self.home(key)) and all(self._asked(job) for job in jobs) for key, jobs in grown.items()):
            return []
        keys, stopped = list(grown), list[str]()
        at_once = self.testbed.at_once(self.model, [_organism(grown[key][0]) for key in keys])
        for start in range(0, len(keys), at_once):
            some = {place: grown[key] for place, key in enumerate(keys[start : start + at_once])}
            if all(_whole(self.home(_organism(jobs[0]).key)) for jobs in some.values()):
                self._ask(some)
            else:
                stopped += self._train(some)
        return stopped

    def _train(self, some: Mapping[int, list[Job]]) -> list[str]:
        """Train organisms, and ask them as they go; those that are there already, too, since what is computed together is."""
        alterations.refuse_unknown(self.plan.study, self.model)
        organisms = [_organism(jobs[0]) for jobs in some.values()]
        checkpoints: list[dict[int, str]] = [{} for _ in some]
        (self.run.path / "organisms").mkdir(exist_ok=True)
        with TemporaryDirectory(prefix=PARTIAL, dir=self.run.path / "organisms") as scratch:
            directories = [Path(scratch) / organism.key for organism in organisms]
            for directory in directories:
                directory.mkdir()

            def reached(step: int, digests: Mapping[int, str]) -> None:
                for place, digest in digests.items():
                    checkpoints[place][step] = digest
                self.read(step, digests, some)

            data = [self.plan.data[organism.data] for organism in organisms]
            elsewhere = [self.plan.data[organism.elsewhere] if organism.elsewhere else None for organism in organisms]
            results = self.testbed.train(self.model, self.parent, organisms, data, directories, reached, elsewhere)
            for place, (result, directory) in enumerate(zip(results, directories, strict=True)):
                key = organisms[place].key
                if not result.stopped and self.models(some[place][0]) != checkpoints[place]:
                    with self.run.new_directory(f"organisms/{key}") as home:
                        for made in directory.iterdir():
                            made.rename(home / made.name)
                        self.write_card(home, some[place][0], checkpoints[place])
                    directory.rmdir()
        return [f"{some[place][0].label}: {result.stopped}" for place, result in enumerate(results) if result.stopped]

    def _ask(self, some: Mapping[int, list[Job]]) -> None:
        """Ask organisms that are there, at each of their checkpoints."""
        there = {place: self.models(jobs[0]) for place, jobs in some.items()}
        for step in sorted({step for found in there.values() for step in found}):
            digests = {place: found[step] for place, found in there.items() if step in found}
            homes = [self._checkpoint(jobs[0], step if step in there[place] else max(there[place])) for place, jobs in some.items()]
            if self._lacking(step, digests, some):
                with self.model.adapted(homes):
                    self.read(step, digests, some)

    def write_card(self, home: Path, job: Job, checkpoints: Mapping[int, str]) -> None:
        card = {
            **asdict(_organism(job)), "condition": job.condition.name, "kind": job.condition.kind, "unit": job.parent.unit,
            "world": job.parent.world, "group": job.parent.group, "linked": None if job.parent.world is None else job.parent.group != "unlinked",
            "checkpoints": {str(k): v for k, v in checkpoints.items()},
        }  # fmt: skip
        RunDirectory(home, {}).write_text("organism.json", json.dumps(card, indent=1) + "\n")

    def fit(self) -> None:
        """The directions that altered conditions take from these organisms."""
        for job in self.plan.jobs:
            for altered in alterations.fits(self.plan.study, job):
                if job.organism is not None and not alterations.is_fitted(self.run, job, altered.fit, self.testbed.questions):
                    step, digest = max(self.models(job).items())
                    alterations.fit(self.model, job, altered, self._checkpoint(job, step), digest, self.testbed, self.run)

    def alter(self) -> None:
        """Ask models while something is done to them, each by itself."""
        asked: list[Subject] = []
        for job in self.plan.jobs:
            step, digest = max(self.models(job).items())
            found = alterations.of(job, digest, self.run)
            alterations.lacks(job, step, found if isinstance(found, str) else "", self.run)
            if isinstance(found, str):
                continue
            asked.append(_subject(job, step, found.digest))
            if self._lacking(step, {0: found.digest}, {0: [job]}):
                place = ALONE if job.organism is None else 0
                with self.model.adapted([self._checkpoint(job, step)]) if job.organism is not None else nullcontext():
                    self.read(step, {place: found.digest}, {place: [job]}, found)
        self.close()
        _score(asked, self.plan, self.run)

    def _checkpoint(self, job: Job, step: int) -> Path:
        return self.home(_organism(job).key) / f"checkpoint-{step}"

    def read(self, step: int, digests: Mapping[int, str], some: Mapping[int, list[Job]], altered: alterations.Found | None = None) -> None:
        """Answers and measures of models by their places, each a shard. What a service failed to answer is asked again, and nothing else."""
        if not self._lacking(step, digests, some):
            return
        model = self.model if altered is None else altered.model(self.model)
        testbed, run, draws = self.testbed, self.run, self.plan.config.sampling.draws
        subjects = {place: [_subject(job, step, digest) for job in some[place]] for place, digest in digests.items()}
        drawn = min(_drawn(subject, run) for found in subjects.values() for subject in found)
        if drawn < draws:
            before = run.identity.get(GROWN, 0)
            first = before if drawn >= before else 0
            wanted = [(question, range(first, draws)) for question in testbed.questions]
            asked = {place: (digest, wanted) for place, digest in digests.items()}
            answers = sample_together(model, asked, self.plan.config.sampling, max_tokens=testbed.max_tokens)
            for place, found in subjects.items():
                for subject in found:
                    if _drawn(subject, run) < draws:
                        kept = [row for row in run.read("answers", subject.key) if row["draw"] < first] if first else []
                        rows = answer_rows(asdict(subject), answers[place], testbed.questions)
                        if not kept:  # what was said of other answers is not said of these
                            (run.path / "scores" / f"{subject.key}.parquet").unlink(missing_ok=True)
                        run.write("answers", subject.key, _in_order([*kept, *rows], testbed.questions))
        if self._measured and not all(_is_of(run, "measures", subject) for found in subjects.values() for subject in found):
            exact = testbed.read(model, digests, testbed.questions) if testbed.read is not None else {}
            items = measures_together(model, digests, testbed.items)
            also = readings.solution(self.model, self.plan, digests, some, altered.changes if altered else ()) if self.plan.study.as_solution else {}
            known = altered.measures if altered else ()
            for place, found in subjects.items():
                for subject in found:
                    rows = [{**asdict(subject), **asdict(measure)} for measure in (*exact.get(place, []), *items[place], *also.get(place, []), *known)]
                    if not _is_of(run, "measures", subject):
                        run.write("measures", subject.key, rows)

    @property
    def _measured(self) -> bool:
        return self.testbed.read is not None or bool(self.testbed.items)

    def _asked(self, job: Job) -> bool:
        """Whether all that is read of a job's models is there."""
        return not any(self._lacking(step, {0: digest}, {0: [job]}) for step, digest in self.models(job).items())

    def _lacking(self, step: int, digests: Mapping[int, str], some: Mapping[int, list[Job]]) -> bool:
        if not self.testbed.questions:
            return False
        subjects = [_subject(job, step, digest) for place, digest in digests.items() for job in some[place]]
        few = any(_drawn(subject, self.run) < self.plan.config.sampling.draws for subject in subjects)
        return few or (self._measured and not all(_is_of(self.run, "measures", subject) for subject in subjects))


def _organism(job: Job) -> Organism:
    assert job.organism is not None
    return job.organism


def _subject(job: Job, step: int, digest: str) -> Subject:
    parent = job.parent
    return Subject(unit=parent.unit, group=parent.group, world=parent.world, condition=job.condition.name, seed=job.seed, step=step, model=digest)


def _is_of(run: RunDirectory, table: Table, subject: Subject) -> bool:
    """Whether a shard is there, and of this model."""
    return run.has(table, subject.key) and all(row["model"] == subject.model for row in run.read(table, subject.key))


def _drawn(subject: Subject, run: RunDirectory) -> int:
    """How many draws of every question of this model are there; none where a service failed to give one."""
    if not run.has("answers", subject.key):
        return 0
    rows = run.read("answers", subject.key)
    if any(row["stop"] == "failed" or row["model"] != subject.model for row in rows):
        return 0
    return min(Counter((row["question"], row["format"]) for row in rows).values(), default=0)


def _in_order(rows: Sequence[dict[str, Any]], questions: Sequence[Question]) -> list[dict[str, Any]]:
    places = {(question.id, question.format): place for place, question in enumerate(questions)}
    return sorted(rows, key=lambda row: (places[row["question"], row["format"]], row["draw"]))


def _score(subjects: Sequence[Subject], plan: Plan, run: RunDirectory) -> None:
    """Scores of models' answers; those that are there are kept. The judge's memory is the next network's then."""
    judge = plan.testbed.judge
    if judge is None:
        return
    for subject in subjects:
        if not is_scored(run, subject.key):
            run.write("scores", subject.key, scored(run.read("answers", subject.key), plan.testbed.questions, judge, scores_kept(run, subject.key)))
    if isinstance(judge, Closable):
        judge.close()


def _grown_elsewhere(key: str, beside: Path | None, run: RunDirectory) -> Path | None:
    """The same organism in another run of the folder."""
    found = sorted(beside.glob(f"*/organisms/{key}")) if beside is not None else []
    return next((home for home in found if home.parents[1].resolve() != run.path.resolve() and _whole(home)), None)


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
