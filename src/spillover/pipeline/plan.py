"""What a run will do, worked out before anything is done: one job per subject, of fixed composition.

A job is a parent, or an organism and one of its checkpoints. It is decided by the study, the testbed and the config alone,
never by what is left to do, so a resumed run computes what an uninterrupted one would have.
"""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from typing import Any

from spillover.pipeline.config import RunConfig, flatten
from spillover.pipeline.paper import differences
from spillover.records import Condition, Dataset, Organism, Parent, Runtime, SpilloverError, Study, Testbed, subject_key

NAME = re.compile(r"(?!\.)[A-Za-z0-9._-]{1,64}")  # what may become part of a file name


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One arm of the study in one unit with one seed: the parent as it is, or an organism to grow from it."""

    condition: Condition
    parent: Parent
    seed: int
    organism: Organism | None = None

    @property
    def label(self) -> str:
        return f"{self.parent.unit} {self.condition.name}" + (f" seed {self.seed}" if self.organism else "")


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Every job of a run, in order, with the data they need."""

    study: Study
    testbed: Testbed
    config: RunConfig
    jobs: tuple[Job, ...]
    data: dict[tuple[str, int], Dataset]  # (kind, seed)

    def identity(self) -> dict[str, Any]:
        """What `run.json` says: enough to tell this run from any other."""
        return {
            "study": self.study.name,
            "title": self.study.title,
            "testbed": {"name": self.testbed.name, **self.testbed.identity},
            "unit": self.testbed.unit,
            "config": asdict(self.config),
            "max_tokens": self.config.sampling.max_tokens or self.testbed.max_tokens,
            "judge": "" if self.testbed.judge is None else self.testbed.judge.identity,
            "differs_from_paper": self.differences(),
            "data": {f"{kind}, seed {seed}": dataset.digest for (kind, seed), dataset in sorted(self.data.items())},
            "questions": [asdict(question) for question in self.testbed.questions],
            "parents": [
                {"unit": p.unit, "group": p.group, "world": p.world, "digest": p.model.digest, "gates": dict(p.gates)}
                for p in {job.parent.unit: job.parent for job in self.jobs}.values()
            ],
            "conditions": [asdict(condition) for condition in self.study.conditions],
            "contrasts": [{"name": contrast.name, **asdict(contrast)} for contrast in self.study.contrasts],
            "claims": [asdict(claim) for claim in self.study.claims],
            "planned": {"organisms": len({job.organism.key for job in self.jobs if job.organism}), "jobs": len(self.jobs), "answers": self.answers},
        }

    def differences(self) -> list[str]:
        """Every setting that is not the paper's open-model recipe, in words."""
        settings = flatten(asdict(self.config)) | flatten(self.testbed.identity)
        settings["sampling.max_tokens"] = self.config.sampling.max_tokens or self.testbed.max_tokens
        unused = [
            *(("training.", "runtime.micro_batch", "seeds") if not any(job.organism for job in self.jobs) else ()),
            *(("sampling.", "protocol.") if not self.testbed.questions else ()),
        ]
        return differences({name: value for name, value in settings.items() if not name.startswith(tuple(unused))})

    @property
    def runtime(self) -> Runtime:
        """Where local models compute; the default for a testbed that leaves no choice."""
        return Runtime(**self.testbed.identity.get("runtime", {}))

    @property
    def answers(self) -> int:
        return len(self.jobs) * len(self.testbed.questions) * self.config.sampling.draws


def plan(study: Study, testbed: Testbed, config: RunConfig) -> Plan:
    """Cross the study's conditions with the testbed's parents and the seeds.

    Raises SpilloverError when the testbed lacks a group or a kind of data that the study names, or has too few units.
    """
    for what, names in (("conditions", [c.name for c in study.conditions]), (f"{testbed.unit}s", [p.unit for p in testbed.parents])):
        twice = next((name for place, name in enumerate(names) if name in names[:place]), None)
        if twice is not None:
            raise SpilloverError(f"two {what} are called {twice!r}; each needs a name of its own")
        odd = next((name for name in names if not NAME.fullmatch(name)), None)
        if odd is not None:
            raise SpilloverError(f"{odd!r} cannot name one of the {what}; a name has 1 to 64 letters, digits, dots, dashes and underscores, no dot first")
    data: dict[tuple[str, int], Dataset] = {}
    jobs: list[Job] = []
    groups = {group: _parents(testbed, group, config.units) for group in dict.fromkeys(c.group for c in study.conditions)}
    for group, parents in groups.items():
        for parent in parents:
            for condition in (c for c in study.conditions if c.group == group):
                jobs += _jobs(condition, parent, testbed, config, data)
    keys = [subject_key(job.parent.unit, job.condition.name, job.seed, 0) for job in jobs]
    twice = next((key for place, key in enumerate(keys) if key in keys[:place]), None)
    if twice is not None:
        raise SpilloverError(f"two models would be called {twice!r} in file names; give a {testbed.unit} or a condition another name")
    return Plan(study=study, testbed=testbed, config=config, jobs=tuple(jobs), data=data)


def _jobs(condition: Condition, parent: Parent, testbed: Testbed, config: RunConfig, data: dict[tuple[str, int], Dataset]) -> list[Job]:
    if condition.kind is None:
        return [Job(condition=condition, parent=parent, seed=0)]
    if condition.kind not in testbed.narrow:
        raise SpilloverError(f"the study needs narrow data of kind {condition.kind!r}; testbed {testbed.name} has {', '.join(testbed.narrow)}")
    jobs: list[Job] = []
    for seed in range(config.seeds):
        if (condition.kind, seed) not in data:
            data[condition.kind, seed] = testbed.narrow[condition.kind](seed)
        organism = Organism(parent=parent.model.digest, data=data[condition.kind, seed].digest, recipe=config.training, seed=seed)
        jobs.append(Job(condition=condition, parent=parent, seed=seed, organism=organism))
    return jobs


def _parents(testbed: Testbed, group: str, units: int | None) -> list[Parent]:
    found = [parent for parent in testbed.parents if parent.group == group]
    if not found:
        raise SpilloverError(f"the study needs parents of group {group!r}, and testbed {testbed.name} has none")
    if units is not None and units > max(sum(p.group == g for p in testbed.parents) for g in {p.group for p in testbed.parents}):
        raise SpilloverError(f"{units} {testbed.unit}s were asked for; testbed {testbed.name} has {len(found)}")
    return found[:units]
