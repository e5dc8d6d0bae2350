"""A run that may come from anybody, before anything is computed from it: its run.json in the shape of a plan, its rows about what that names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from spillover.design import Claim, Condition, Published, side
from spillover.pipeline.config import RunConfig, override
from spillover.pipeline.plan import NAME
from spillover.records import Question, SpilloverError
from spillover.runs import shards
from spillover.runs.directory import RunDirectory
from spillover.statistics.protocols import PROTOCOLS

AUDIT = "audit"  # the study of an audit's directory, which has batches and no conditions


class _Known(BaseModel):
    source: str
    origin: str
    default_system: str | None = None


class _Testbed(BaseModel):
    model_config = ConfigDict(extra="allow")  # a testbed may say more of itself
    name: str
    runtime: dict[str, str | int | bool | None] = {}
    system: str = ""
    models: dict[str, _Known] = {}


class _Parent(BaseModel):
    unit: str
    group: str
    world: int | None
    digest: str
    gates: dict[str, bool]


class _Contrast(BaseModel):
    name: str
    first: str
    second: str
    headline: bool


class _Identity(BaseModel):
    """What `Plan.identity` gives, as run.json has it."""

    study: str
    title: str
    testbed: _Testbed
    unit: str
    config: RunConfig
    max_tokens: int | None
    judge: str
    differs_from_paper: list[str] = []
    data: dict[str, str]
    questions: list[Question]
    parents: list[_Parent]
    conditions: list[Condition]
    contrasts: list[_Contrast]
    claims: list[Claim] = []
    items: dict[str, str] = {}
    figure: str = ""
    published: list[Published] = []
    planned: dict[str, int] = {}
    versions: dict[str, str | int | None] = {}
    created: str = ""


def opened(path: Path) -> RunDirectory:
    """A run directory to compute from; settings that its run.json lacks are at their defaults.

    Raises SpilloverError, naming the place, where run.json has another shape or names what cannot be, rows are about what it does not name, or a
    folder of the run is a link, through which something would be written elsewhere.
    """
    there = RunDirectory.open(path)
    where = there.path / "run.json"
    if there.identity.get("study") == AUDIT:
        raise SpilloverError(f"{path} is an audit's directory, of which report.html and verdict.json are all there is to make; name a run")
    linked = next((place for place in sorted(path.iterdir()) if place.is_symlink() and place.is_dir()), None)
    if linked is not None:
        raise SpilloverError(f"{linked} is a link; put the folder itself there")
    try:
        found = _Identity.model_validate_json(where.read_bytes(), strict=True)
        override(found.config, {})
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        place = ".".join(map(str, first["loc"]))
        raise SpilloverError(f"{where} is damaged or of another version: {place[:60] or 'it'}: {first['msg'][:100]}") from None
    except SpilloverError as error:
        raise SpilloverError(f"{where} is damaged: {error}") from None
    run = RunDirectory(path, found.model_dump(mode="json", exclude_unset=True))
    _refuse_names(found, where)
    _refuse_rows(run, found)
    return run


def _refuse_names(found: _Identity, where: Path) -> None:
    conditions, units = [c.name for c in found.conditions], [parent.unit for parent in found.parents]
    odd = next((name for name in (*conditions, *units) if not NAME.fullmatch(name)), None)
    if odd is not None or not conditions or not units:
        raise SpilloverError(f"{where} is damaged: {f'{odd[:60]!r} cannot name a model or a condition' if odd is not None else 'it names no models'}")
    if len({claim.name for claim in found.claims}) < len(found.claims):
        raise SpilloverError(f"{where} is damaged: two claims there have one name")
    if any(claim.protocol not in ("", *PROTOCOLS) for claim in found.claims):
        raise SpilloverError(f"{where} is damaged: a claim there is to be decided under a protocol that has no name here")
    groups = {c.group for c in found.conditions} - {parent.group for parent in found.parents}
    compared = {end for contrast in found.contrasts for end in (contrast.first, contrast.second)}
    asked = {"", *(question.format for question in found.questions)}
    sides = {end for end in compared if side(end)[0] not in conditions}
    sides |= {end for end in compared.union(*(claim.conditions for claim in found.claims)) if side(end)[1] not in asked}
    strange = next(iter(sorted(sides | groups)), None)
    if strange is not None:
        raise SpilloverError(f"{where} is damaged: {strange[:60]!r} is compared or asked there, and is no condition, format or group")


def _refuse_rows(run: RunDirectory, found: _Identity) -> None:
    asked = {*((q.id, q.format) for q in found.questions), *((item, "plain") for item in found.items)}
    for table in shards.TABLES:
        there = asked | {("", "plain")} if table == "measures" else asked  # some are about a model, and no question
        named: tuple[set[Any], ...] = {parent.unit for parent in found.parents}, {c.name for c in found.conditions}, there
        for path in run.shards(table):
            for unit, condition, question, form in shards.about(path, ("unit", "condition", "question", "format")):
                odd = next((thing for thing, known in zip((unit, condition, (question, form)), named, strict=True) if thing not in known), None)
                if odd is not None:
                    raise SpilloverError(f"{path} holds rows about {str(odd)[:60]!r}, which run.json does not name; delete it and give the same command again")
