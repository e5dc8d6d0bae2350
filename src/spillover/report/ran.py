"""What ran, what is there and what is missing: tables of counts, and the facts of run.json in words."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from spillover.report.judgements import Counted, Kind, kind_of
from spillover.report.printed import EMPTY, Cell, plural
from spillover.report.reading import Reading, is_pooled
from spillover.report.tables import Row, Table, count_passed, section

ASKED: Mapping[Kind, str] = {
    "rate": "questions scored for alignment and coherence", "task": "the narrow task", "labels": "questions with labels", "other": "other questions",
}  # fmt: skip
APOSTROPHE = "\N{RIGHT SINGLE QUOTATION MARK}"
SAME = "the same in every setting that is compared"


# --- what is there and what is missing --------------------------------------------------------------------------------------


def present(reading: Reading) -> Table:
    """Planned against present. With several checkpoints an organism is read more than once."""
    planned = reading.identity.get("planned", {})
    jobs = {(model.subject.unit, model.subject.condition, model.subject.seed) for model in reading.answers.models}
    counts = {"organisms": reading.organisms, "jobs": len(jobs), "answers": reading.answers.count}
    names = {"organisms": "fine-tuned models", "jobs": "models asked (parents and fine-tuned)", "answers": "answers"}
    rows = tuple(Row(label=names[name], cells=(_count(planned.get(name)), _count(counts[name]))) for name in counts if counts[name] or planned.get(name))
    return Table(caption="Planned and present.", head=("what", "planned", "present"), rows=rows)


def missing(reading: Reading, kind: Kind) -> Table | None:
    """What became of the answers to one kind of question, by condition; the kept and the missing add up to the drawn."""
    rows: list[Row] = []
    pools = list(dict.fromkeys(is_pooled(question) for question in reading.questions if kind_of(question) == kind))
    for pooled in pools:
        found = {arm.name: reading.counts(arm.name, kind, pooled=pooled) for arm in reading.arms}
        if any(count.drawn for count in found.values()):
            if len(pools) > 1:
                rows.append(Row(label="questions of the pooled rate" if pooled else "other formats, and questions not in the pooled rate", section=True))
            rows += _became(found)
    if not rows:
        return None
    return Table(
        caption=f"Answers to {ASKED[kind]}: how many were kept, and why the others are missing.",
        head=("answers", *(arm.name for arm in reading.arms)),
        rows=tuple(rows),
    )


def _became(found: Mapping[str, Counted]) -> Iterator[Row]:
    yield Row(label="drawn", cells=tuple(_count(count.drawn) for count in found.values()))
    yield Row(label="kept", cells=tuple(_count(count.kept) for count in found.values()))
    totals = {reason: sum(count.reasons[reason] for count in found.values()) for count in found.values() for reason in count.reasons}
    for reason in sorted(totals, key=lambda reason: (-totals[reason], reason)):
        yield Row(label=f"missing: {reason}", cells=tuple(_count(count.reasons[reason]) for count in found.values()), quiet=True)


def training_rows(reading: Reading) -> Table | None:
    """Rows of narrow data as training read them: in all, cut at the longest length, and left out with nothing to train on."""
    names = {"rows": "rows trained on", "truncated": "cut at the longest length", "emptied": "left out: nothing to train on"}
    trained = {arm.name: [one.rows for one in reading.trained if one.condition == arm.name] for arm in reading.arms}
    rows = [Row(label=name, cells=tuple(_span(found, what) for what in names)) for name, found in trained.items() if any(found)]
    if not rows:
        return None
    longest = reading.identity["config"]["training"].get("max_length")
    return Table(
        caption="Narrow data as training read it, for each fine-tuned model.",
        head=("condition", *names.values()),
        rows=tuple(rows),
        note="" if longest is None else f"The longest length is {longest:,} tokens.",
    )


def _span(found: list[Mapping[str, int]], what: str) -> Cell:
    counts = sorted({rows[what] for rows in found if what in rows})
    if not counts:
        return EMPTY
    return Cell(value=f"{counts[0]:,}" if len(counts) == 1 else f"{counts[0]:,} to {counts[-1]:,}")


def gates(reading: Reading) -> Table | None:
    """What was checked of every parent when it was made."""
    names = list(dict.fromkeys(name for parent in reading.identity["parents"] for name in parent["gates"]))
    if not names:
        return None

    def cells(parent: Any) -> tuple[Cell, ...]:
        return tuple(EMPTY if name not in parent["gates"] else Cell(value="passed" if parent["gates"][name] else "NOT passed") for name in names)

    rows = [
        row
        for group in reading.groups
        for row in (*section(reading, group), *(Row(label=parent["unit"], cells=cells(parent)) for parent in reading.parents_of(group)))
    ]
    passed = count_passed(reading.identity["parents"])
    return Table(
        caption=f"Gates: what was checked of each {reading.unit}{APOSTROPHE}s parent model before any fine-tuning.",
        head=(reading.unit, *(name.replace("_", " ") for name in names)),
        rows=tuple(rows),
        note=f"{passed} of {plural(len(reading.identity['parents']), reading.unit)} passed every gate. "
        f"A {reading.unit} that did not pass is not left out: the main numbers are over all of them.",
    )


def _count(number: int | None) -> Cell:
    return EMPTY if number is None else Cell(value=f"{number:,}")


# --- what ran -------------------------------------------------------------------------------------------------------------

Facts = list[tuple[str, str]]


def subtitle(reading: Reading) -> str:
    """On what, over how many units, asked what, judged by whom."""
    identity = reading.identity
    models = [model["source"] for model in identity["testbed"].get("models", {}).values()]
    groups = [f"{reading.count(g)}{f' {reading.group_label(g)}' if len(reading.groups) > 1 else ''}" for g in reading.groups]
    units = f"{' and '.join(groups)} {reading.unit}{'' if groups == ['1'] else 's'}"
    formats = len({question["format"] for question in reading.questions})
    questions = plural(len(reading.questions), "question") + (f" in {formats} formats" if formats > 1 else "")
    times = sorted({sum(cell.values()) for model in reading.answers.models for cell in model.became.values()})
    draws = plural(times[0], "draw") if len(times) == 1 else f"{times[0]:,} to {plural(times[-1], 'draw')}" if times else "no draws"
    parts = [f"Study {identity['study']} on {', '.join(models) or identity['testbed']['name']}", units, f"{questions}, {draws} each", *_judged_by(reading)]
    return " · ".join(parts)


def facts(reading: Reading) -> Iterator[tuple[str, Facts, bool]]:
    """Groups of name and value from run.json, flat and in words, and whether one sees them without asking."""
    identity = reading.identity
    config, testbed = identity["config"], dict(identity["testbed"])
    models: Mapping[str, Mapping[str, Any]] = testbed.pop("models", {})
    runtime, system = testbed.pop("runtime", None), testbed.pop("system", None)
    units = [
        f"{', '.join(unit.name for unit in reading.units_of(g)) or reading.count(g)}{f' ({reading.group_label(g)})' if len(reading.groups) > 1 else ''}"
        for g in reading.groups
    ]
    yield (
        "study",
        [
            ("study", identity["study"]),
            ("title", identity["title"]),
            *((f"testbed {name}", text) for name, text in _flat(testbed)),
            ("unit of replication", f"{reading.unit}: {'; '.join(units)}"),
            *([("fine-tuning seeds", str(config["seeds"]))] if reading.organisms else []),
            ("started", str(identity.get("created", "not recorded"))),
        ],
        True,
    )
    for name, model in models.items():
        yield name if name == "model" else f"model {name}", list(_model(model, system)), True
    yield "judge", list(_judge(reading)), True
    if runtime is not None:
        yield "runtime", _flat(runtime), True
    drawn_here = identity["max_tokens"] is not None  # not the answers of a table
    if drawn_here and "differs_from_paper" in identity:
        yield f"what differs from the paper{APOSTROPHE}s recipe", list(_differences(reading)) or [("nothing", SAME)], True
    if drawn_here:
        yield "sampling", [*_flat(config["sampling"]), ("most tokens in an answer", str(identity["max_tokens"]))], False
    yield "protocol", _flat(config["protocol"]), False
    if reading.organisms:
        yield "training", _flat(config["training"]), False
    yield "versions", _flat(identity.get("versions", {})), False
    yield "digests of training data", _flat(identity["data"], spaced=False), False
    noun = "model" if reading.unit == "seed" else reading.unit
    digests = [(noun if parent["unit"] == noun else f"{noun} {parent['unit']}", parent["digest"]) for parent in identity["parents"]]
    if drawn_here:
        yield "digests of parent models", digests, False


def _model(model: Mapping[str, Any], system: str | None) -> Iterator[tuple[str, str]]:
    """Where a model came from, and what its template adds to every conversation that has no system turn."""
    endpoint = "://" in model["source"]
    yield "endpoint" if endpoint else "source", model["source"]
    if endpoint:
        return
    repository, _, commit = model["origin"].rpartition("@")
    yield from [("hub repository", repository), ("commit", commit)] if repository else [("commit", "none: a directory")]
    inserted = model.get("default_system")
    if inserted is None:
        yield "default system prompt", "none: the template inserts none"
    else:
        yield "default system prompt", inserted
        yield "inserted", "no: switched off" if system == "off" else "by the template, wherever a conversation has no system turn"


def _differences(reading: Reading) -> Iterator[tuple[str, str]]:
    """Settings that are not the paper's, of what was done: where nothing was trained, none of training."""
    for phrase in reading.identity["differs_from_paper"]:
        name, _, rest = phrase.partition(" ")
        if reading.organisms or not name.startswith("training."):
            yield name, rest


def _judge(reading: Reading) -> Iterator[tuple[str, str]]:
    yield "judge", reading.judge or "none"
    if reading.dates:
        yield "asked on", " to ".join(dict.fromkeys((reading.dates[0], reading.dates[-1])))
    elif "://" in reading.judge:
        yield "asked on", "not recorded"
    for other in reading.others:
        yield "also in this run, not shown", other


def _judged_by(reading: Reading) -> list[str]:
    if not reading.judge:
        return []
    return [f"judge {reading.judge.rpartition('#')[2] if '://' in reading.judge else reading.judge}"]


def _flat(nested: Mapping[str, Any], *, spaced: bool = True) -> Facts:
    flat: Facts = []
    for name, value in nested.items():
        label = name.replace("_", " ") if spaced else name
        if isinstance(value, Mapping):
            flat += [(f"{label} {inner}", text) for inner, text in _flat(value)]  # pyright: ignore[reportUnknownArgumentType]
        else:
            flat.append((label, "not set" if value is None else value if isinstance(value, str) else json.dumps(value)))
    return flat
