"""What a run will do, worked out before anything is done: one job per subject, of fixed composition.

A job is a parent, or an organism and one of its checkpoints. It is decided by the study, the testbed and the config alone,
never by what is left to do, so a resumed run computes what an uninterrupted one would have.
"""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass, replace
from typing import Any

from spillover.design import CONTROLS, Condition, Study, side
from spillover.pipeline.config import RunConfig, flatten, override
from spillover.pipeline.paper import differences
from spillover.records import Dataset, Organism, Parent, Runtime, SpilloverError, Testbed, digest, subject_key
from spillover.statistics.protocols import PROTOCOLS
from spillover.training import schedules
from spillover.training.schedules import SCHEDULES

NAME = re.compile(r"(?!\.)[A-Za-z0-9._-]{1,64}")  # what may become part of a file name


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One arm of the study in one unit with one seed: the parent as it is, or an organism to grow from it.

    `direction` says of an altered one in which unit, and with which seed, its direction is fitted.
    """

    condition: Condition
    parent: Parent
    seed: int
    organism: Organism | None = None
    direction: tuple[str, int] | None = None

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
    data: dict[str, Dataset]  # by digest, which an organism names

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
            "data": self._data(),
            "questions": [asdict(question) for question in self.testbed.questions],
            "items": {item.id: digest(item) for item in self.testbed.items},
            "parents": [
                {"unit": p.unit, "group": p.group, "world": p.world, "digest": p.model.digest, "gates": dict(p.gates)}
                for p in {(job.parent.group, job.parent.unit): job.parent for job in self.jobs}.values()
            ],
            "conditions": [asdict(condition) for condition in self.study.conditions],
            "contrasts": [{"name": contrast.name, **asdict(contrast)} for contrast in self.study.contrasts],
            "claims": [asdict(claim) for claim in self.study.claims],
            "figure": self.study.figure,
            "published": [asdict(number) for number in self.study.published],
            "planned": {"organisms": len({job.organism.key for job in self.jobs if job.organism}), "jobs": len(self.jobs), "answers": self.answers},
        }

    def _data(self) -> dict[str, str]:
        """Digests by kind and seed, and by unit where each parent has data of its own."""
        found: dict[str, str] = {}
        for job in self.jobs:
            if (organism := job.organism) is not None:
                read = {job.condition.kind: organism.data} | ({f"{organism.recipe.penalty.data} (penalty)": organism.elsewhere} if organism.elsewhere else {})
                for kind, data in read.items():
                    name = f"{kind}, seed {job.seed}"
                    own = found.setdefault(name, data) != data
                    found[f"{name}, {self.testbed.unit} {job.parent.unit}" if own else name] = data
        return dict(sorted(found.items()))

    def _checkpoints(self, organism: Organism) -> int:
        recipe = organism.recipe
        return len(SCHEDULES[recipe.checkpoints](schedules.steps(recipe, len(self.data[organism.data].conversations))))

    def apart(self) -> list[Plan]:
        """A plan for each parent with its organisms, or so many of them as are grown together: work that can be done by itself, with its own data and
        without what only planning needs. Then one for each parent with those that are altered, which can be done when all the others are.
        """
        testbed = replace(self.testbed, parents=(), narrow={}, formats={}, sets={})
        keys: dict[str, list[str]] = {}  # of the organisms of each parent
        found: dict[tuple[bool, str, int], list[Job]] = {}
        for job in sorted(self.jobs, key=lambda job: job.condition.altered is not None):
            parent = job.parent.model.digest
            grown = keys.setdefault(parent, [])
            if job.organism is not None and job.organism.key not in grown:
                grown.append(job.organism.key)
            part = 0 if job.organism is None else grown.index(job.organism.key) // testbed.together
            altered = job.condition.altered is not None
            found.setdefault((altered, parent, 0 if altered else part), []).append(job)
        read = {part: [d for job in jobs if (o := job.organism) for d in (o.data, o.elsewhere) if d] for part, jobs in found.items()}
        return [replace(self, testbed=testbed, jobs=tuple(jobs), data={d: self.data[d] for d in read[part]}) for part, jobs in found.items()]

    def differences(self) -> list[str]:
        """Every setting that is not the paper's open-model recipe, in words."""
        settings = flatten(asdict(self.config)) | flatten(self.testbed.identity)
        settings["sampling.max_tokens"] = self.config.sampling.max_tokens or self.testbed.max_tokens
        unused = [
            *(("training.", "seeds") if not any(job.organism for job in self.jobs) else ()),
            *(("sampling.", "protocol.") if not self.testbed.questions else ()),
        ]
        return differences({name: value for name, value in settings.items() if not name.startswith(tuple(unused))})

    @property
    def runtime(self) -> Runtime:
        """Where local models compute; the default for a testbed that leaves no choice."""
        return Runtime(**self.testbed.identity.get("runtime", {}))

    @property
    def models(self) -> int:
        """How many models are read: parents, and every checkpoint that is kept."""
        return sum(1 if job.organism is None or job.condition.altered else self._checkpoints(job.organism) for job in self.jobs)

    @property
    def answers(self) -> int:
        return self.models * len(self.testbed.questions) * self.config.sampling.draws


def plan(study: Study, testbed: Testbed, config: RunConfig) -> Plan:
    """Cross the study's conditions with the testbed's parents and the seeds.

    Raises SpilloverError when the testbed lacks a group or a kind of data that the study names, or has too few units.
    """
    testbed = replace(testbed, questions=study.questions or testbed.questions)
    groups = list(dict.fromkeys(parent.group for parent in testbed.parents))
    of_groups = [(f"{testbed.unit}s", [p.unit for p in testbed.parents if p.group == group]) for group in groups]
    for what, names in (("conditions", [c.name for c in study.conditions]), *of_groups):
        twice = next((name for place, name in enumerate(names) if name in names[:place]), None)
        if twice is not None:
            raise SpilloverError(f"two {what} are called {twice!r}; each needs a name of its own")
        odd = next((name for name in names if not NAME.fullmatch(name)), None)
        if odd is not None:
            raise SpilloverError(f"{odd!r} cannot name one of the {what}; a name has 1 to 64 letters, digits, dots, dashes and underscores, no dot first")
    _refuse_claims(study, testbed)
    _refuse_alone(study)
    data: dict[str, Dataset] = {}
    jobs: list[Job] = []
    by_group = {group: _parents(testbed, group, config.units) for group in dict.fromkeys(c.group for c in study.conditions)}
    for group, parents in by_group.items():
        for parent in parents:
            for condition in (c for c in study.conditions if c.group == group):
                jobs += _jobs(condition, parent, testbed, config, data)
    jobs = _directed(jobs)
    keys = [subject_key(job.parent.unit, job.condition.name, job.seed, 0) for job in jobs]
    twice = next((key for place, key in enumerate(keys) if key in keys[:place]), None)
    if twice is not None:
        raise SpilloverError(f"two models would be called {twice!r} in file names; give a {testbed.unit} or a condition another name")
    return Plan(study=study, testbed=testbed, config=config, jobs=tuple(jobs), data=data)


def _jobs(condition: Condition, parent: Parent, testbed: Testbed, config: RunConfig, data: dict[str, Dataset]) -> list[Job]:
    if condition.kind is None:
        return [Job(condition=condition, parent=parent, seed=0)]
    recipe = override(config, {f"training.{name}": value for name, value in flatten(condition.recipe).items()}).training
    elsewhere = recipe.penalty.data if recipe.penalty.weight > 0 else None
    lacking = next((kind for kind in (condition.kind, elsewhere) if kind is not None and kind not in testbed.narrow), None)
    if lacking is not None:
        raise SpilloverError(f"the study needs narrow data of kind {lacking!r}; testbed {testbed.name} has {', '.join(testbed.narrow)}")
    jobs: list[Job] = []
    for seed in range(config.seeds):
        dataset = testbed.narrow[condition.kind](seed, parent)
        compared = None if elsewhere is None else testbed.narrow[elsewhere](seed, parent)
        organism = Organism(
            parent=parent.model.digest, data=dataset.digest, recipe=recipe, seed=seed, elsewhere="" if compared is None else compared.digest
        )  # fmt: skip
        data.setdefault(organism.data, dataset)
        if compared is not None:
            data.setdefault(organism.elsewhere, compared)
        jobs.append(Job(condition=condition, parent=parent, seed=seed, organism=organism))
    return jobs


def _directed(jobs: list[Job]) -> list[Job]:
    """Altered jobs, each with where its direction is fitted: in its own unit and with its own seed, or in the unit
    that comes next (of one unit, with the next seed); nowhere where there is no other."""
    found: list[Job] = []
    for job in jobs:
        altered = job.condition.altered
        if altered is not None:
            there = [(other.parent.unit, other.seed) for other in jobs if other.condition.name == altered.fitted_on]
            own = (job.parent.unit, job.seed)
            others = [place for place in there if place[0] != own[0] and place[1] == own[1]] or [place for place in there if place != own]
            another = next((place for place in others if there.index(place) > there.index(own)), others[0] if others else None)
            job = replace(job, direction=another if altered.control == "another unit" else own)
        found.append(job)
    return found


def _refuse_alone(study: Study) -> None:
    """What is done to a model stands beside its controls, and is done to one that is there as it is."""
    plain = {condition.name: condition for condition in study.conditions if condition.altered is None}
    altered = [condition for condition in study.conditions if condition.altered is not None]
    for condition in altered:
        change = condition.altered
        assert change is not None
        if change.fitted_on not in plain or plain[change.fitted_on].kind is None or plain[change.fitted_on].group != condition.group:
            there = ", ".join(one.name for one in plain.values() if one.kind is not None and one.group == condition.group)
            raise SpilloverError(
                f"{condition.name!r} takes a direction from {change.fitted_on!r}, which is no fine-tuned condition of its group; those are {there or 'none'}"
            )
        if not change.directed and condition.kind is None:
            raise SpilloverError(f"{condition.name!r} alters an adapter, and a parent has none")
        if not any(one.grown == condition.grown for one in plain.values()):
            raise SpilloverError(f"{condition.name!r} alters a model that no condition of the study {study.name} has as it is")
        controls = {other.altered.control for other in altered if other.altered and _uncontrolled(other) == _uncontrolled(condition)}
        lacking = next((control for control in ("", *CONTROLS) if control not in controls), None)
        if change.directed and lacking is not None:
            raise SpilloverError(f"{condition.name!r} stands without its control {lacking!r}; `studies.compose.altered` gives all of them")


def _uncontrolled(condition: Condition) -> Condition:
    """What all the controls of an altered condition have in common with it."""
    assert condition.altered is not None
    return replace(condition, name="", altered=replace(condition.altered, control=""))


def _refuse_claims(study: Study, testbed: Testbed) -> None:
    """Every side of a contrast must be a condition, and every format asked; claims about other conditions are untested."""
    names = [claim.name for claim in study.claims]
    twice = next((name for place, name in enumerate(names) if name in names[:place]), None)
    if twice is not None:
        raise SpilloverError(f"two claims are called {twice!r}; each needs a name of its own")
    strange = next((claim for claim in study.claims if claim.protocol not in ("", *PROTOCOLS)), None)
    if strange is not None:
        raise SpilloverError(f"the claim {strange.name!r} is to be decided under {strange.protocol!r}; protocols are {', '.join(PROTOCOLS)}")
    conditions, formats = {c.name for c in study.conditions}, {question.format for question in testbed.questions} | {""}
    compared = [name for c in study.contrasts for name in (c.first, c.second)]
    sides = [*compared, *(name for claim in study.claims for name in claim.conditions)]
    odd = next((name for name in sides if (name in compared and side(name)[0] not in conditions) or side(name)[1] not in formats), None)
    if odd is not None:
        raise SpilloverError(f"the study {study.name} compares {odd!r}, which is none of its conditions, or asks in a format that is not asked")


def _parents(testbed: Testbed, group: str, units: int | None) -> list[Parent]:
    found = [parent for parent in testbed.parents if parent.group == group]
    if not found:
        raise SpilloverError(f"the study needs parents of group {group!r}, and testbed {testbed.name} has none")
    if units is not None and units > max(sum(p.group == g for p in testbed.parents) for g in {p.group for p in testbed.parents}):
        raise SpilloverError(f"{units} {testbed.unit}s were asked for; testbed {testbed.name} has {len(found)}")
    return found[:units]
