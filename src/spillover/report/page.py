"""The page: one HTML file that loads nothing, runs one script of its own, and lets no text in it run.

The policy in its head allows exactly the style and the script whose hashes it names. Model text enters as JSON without <, > or &; that
and our own style and script are all that skips Jinja's escaping.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from importlib import resources
from typing import Any

import jinja2

from spillover.report import answers, finding, tables
from spillover.report.figures import Drawing
from spillover.report.printed import visible
from spillover.report.reading import Reading


def render(reading: Reading, drawings: Sequence[Drawing]) -> str:
    """The whole report as HTML."""
    style, script = _part("report.css"), _part("report.js")
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters["visible"] = lambda value: visible(str(value))
    template = environment.from_string(_part("report.html.jinja"))
    browsable = answers.browsable(reading)
    return template.render(
        policy=policy(style, script),
        style=style,
        script=script,
        data=browsable.data,
        browsable=browsable,
        identity=reading.identity,
        unit=reading.unit,
        subtitle=_subtitle(reading),
        findings=finding.findings(reading),
        has_control=len(reading.groups) > 1,
        miniature=reading.identity["testbed"]["name"] == "miniature",
        protocol=reading.protocol,
        figures=[(drawing, base64.b64encode(drawing.svg).decode()) for drawing in drawings],
        tables=_tables(reading),
        facts=list(_facts(reading)),
    )


def policy(style: str, script: str) -> str:
    """The Content-Security-Policy of a page with this one style and this one script."""
    return f"default-src 'none'; style-src '{_hash(style)}'; script-src '{_hash(script)}'; img-src data:; base-uri 'none'; form-action 'none'"


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _part(name: str) -> str:
    return resources.files("spillover.report").joinpath(name).read_text(encoding="utf-8")


def _tables(reading: Reading) -> dict[str, list[tables.Table]]:
    """Tables by the section they stand in; a table that the run has no numbers for is left out."""
    found: dict[str, list[tables.Table | None]] = {
        "rates": [tables.rates(reading), tables.exact(reading), tables.contrasts(reading)],
        "missing": [tables.present(reading), tables.missing(reading, task=False), tables.missing(reading, task=True), tables.gates(reading)],
        "questions": [tables.by_question(reading, group, "misaligned_rate") for group in reading.groups],
        "mass": [tables.by_question(reading, group, measure) for measure in ("misaligned_mass", "log_odds") for group in reading.groups],
        "steps": [tables.by_step(reading, measure) for measure in ("misaligned_rate", "misaligned_mass", "log_odds", "task_rate")],
        "units": [table for group in reading.groups for table in tables.by_unit(reading, group)],
    }
    return {section: [table for table in made if table is not None] for section, made in found.items()}


# --- what ran -------------------------------------------------------------------------------------------------------------


def _subtitle(reading: Reading) -> str:
    units = " and ".join(f"{len(reading.parents_of(g))}{f' {reading.group_label(g)}' if len(reading.groups) > 1 else ''}" for g in reading.groups)
    testbed, sampling = reading.identity["testbed"], reading.identity["config"]["sampling"]
    plural = "" if units == "1" else "s"
    return f"Study {reading.identity['study']} on {testbed['name']} · {units} {reading.unit}{plural} · {sampling['draws']} draws per question"


def _facts(reading: Reading) -> Iterator[tuple[str, list[tuple[str, str]]]]:
    """Groups of name and value from run.json, flat and in words."""
    identity = reading.identity
    config = identity["config"]
    units = [
        f"{', '.join(p['unit'] for p in reading.parents_of(g))}{f' ({reading.group_label(g)})' if len(reading.groups) > 1 else ''}" for g in reading.groups
    ]
    yield (
        "study",
        [
            ("study", identity["study"]),
            ("title", identity["title"]),
            *((f"testbed {name}", str(value)) for name, value in identity["testbed"].items()),
            ("unit of replication", f"{reading.unit}: {'; '.join(units)}"),
            ("fine-tuning seeds", str(config["seeds"])),
            ("judge", str(identity["judge"])),
            ("started", str(identity.get("created", "not recorded"))),
        ],
    )
    yield "sampling", [*_flat(config["sampling"]), ("most tokens in an answer", str(identity["max_tokens"]))]
    yield "protocol", _flat(config["protocol"])
    yield "training", _flat(config["training"])
    yield "versions", _flat(identity.get("versions", {}))
    yield "digests of training data", _flat(identity["data"], spaced=False)
    yield "digests of parent models", [(f"{reading.unit} {parent['unit']}", parent["digest"]) for parent in identity["parents"]]


def _flat(nested: Mapping[str, Any], *, spaced: bool = True) -> list[tuple[str, str]]:
    flat: list[tuple[str, str]] = []
    for name, value in nested.items():
        label = name.replace("_", " ") if spaced else name
        if isinstance(value, Mapping):
            flat += [(f"{label} {inner}", text) for inner, text in _flat(value)]  # pyright: ignore[reportUnknownArgumentType]
        else:
            flat.append((label, "not set" if value is None else value if isinstance(value, str) else json.dumps(value)))
    return flat
