"""The page: one HTML file that loads nothing, runs one script of its own, and lets no text in it run.

The policy in its head allows exactly the style and the script whose hashes it names. Model text enters as JSON without <, > or &; that
and our own style and script are all that skips Jinja's escaping.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from importlib import resources

import jinja2

from spillover.report import answers, asked, calibrated, card, finding, printed, ran, sensitivity, steps, tables
from spillover.report.figures import Drawing, undrawn
from spillover.report.printed import visible
from spillover.report.reading import Reading
from spillover.report.words import words

ITEMS = ("choice_nats", "choice_share", "pivotal_nats", "pivotal_share")  # measures of log-probability items


def render(reading: Reading, drawings: Sequence[Drawing]) -> str:
    """The whole report as HTML."""
    style, script = part("report.css"), part("report.js")
    browsable = answers.browsable(reading)
    pictures = [] if reading.calibration is None else [calibrated.drawn(reading.calibration)]
    return template("report.html.jinja").render(
        policy=policy(style, script),
        style=style,
        script=script,
        data=browsable.data,
        browsable=browsable,
        identity=reading.identity,
        unit=reading.unit,
        subtitle=ran.subtitle(reading),
        findings=finding.findings(reading),
        claims=card.entries(reading),
        claims_note=card.note(reading),
        published=card.published(reading.published),
        control_groups=[group for group in reading.groups if reading.is_control(group)],
        miniature=reading.identity["testbed"]["name"] == "miniature",
        measured=any(map(reading.has, tables.EXACT)),
        tuned=reading.organisms > 0,
        undrawn=undrawn(reading),
        figures=_embedded(drawings),
        judged=f"Rates are by the judge {reading.judge}, {printed.calibrated(reading.calibration)}." if reading.judge else "",
        judge_pictures=_embedded(pictures),
        judge_tables=calibrated.tables(reading),
        tables=_tables(reading),
        folded=_folded(reading),
        unasked=asked.undefined(reading),
        facts=list(ran.facts(reading)),
        words=list(words(reading)),
    )


def _embedded(drawings: Sequence[Drawing]) -> list[tuple[Drawing, str]]:
    return [(drawing, base64.b64encode(drawing.svg).decode()) for drawing in drawings]


def template(name: str) -> jinja2.Template:
    """A template of this room: everything put into it is escaped, and a name it is not given raises."""
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters["visible"] = lambda value: visible(str(value))
    return environment.from_string(part(name))


def policy(style: str, script: str = "") -> str:
    """The Content-Security-Policy of a page with this one style and this one script, or none."""
    scripts = f"script-src '{_hash(script)}'; " if script else ""
    return f"default-src 'none'; style-src '{_hash(style)}'; {scripts}img-src data:; base-uri 'none'; form-action 'none'"


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def part(name: str) -> str:
    """A file of this room: a style, a script or a template."""
    return resources.files("spillover.report").joinpath(name).read_text(encoding="utf-8")


def _tables(reading: Reading) -> Mapping[str, list[tables.Table]]:
    """Tables by the section they stand in; a table that the run has no numbers for is left out."""
    found: dict[str, list[tables.Table | None]] = {
        "rates": [tables.rates(reading), tables.exact(reading), tables.inside(reading), tables.contrasts(reading)],
        "sensitivity": [sensitivity.protocols(reading), sensitivity.gate(reading), sensitivity.estimands(reading)],
        "missing": [ran.present(reading), *(ran.missing(reading, kind) for kind in ran.ASKED), ran.training_rows(reading), ran.gates(reading)],
        "questions": [*asked.by_format(reading), *(asked.by_question(reading, group, "misaligned_rate") for group in reading.groups), *asked.labels(reading)],
        "divergence": [steps.divergence(reading)],
        "steps": [asked.by_step(reading, measure) for measure in (*steps.MEASURES, "misaligned_mass")],
        "units": [table for group in reading.groups for table in tables.by_unit(reading, group)],
    }
    return {section: [table for table in made if table is not None] for section, made in found.items()}


def _folded(reading: Reading) -> list[tuple[str, list[tables.Table]]]:
    """Tables that are there to look things up in, each under what opens it."""
    forms = [form for form in asked.formats(reading, "misaligned_rate") if form != asked.PLAIN]
    found: list[tuple[str, list[tables.Table | None]]] = [
        (f"Format {form}, by question (not in the pooled rate)", [asked.by_question(reading, group, "misaligned_rate", form) for group in reading.groups])
        for form in forms
    ]
    exact = [asked.by_question(reading, group, measure) for measure in ("misaligned_mass", "log_odds") for group in reading.groups]
    found.append(("Exact measures by question: misaligned mass and log-odds (another scale than the rates)", exact))
    items = [asked.by_item(reading, group, measure) for measure in ITEMS for group in reading.groups]
    found.append(("Log-probabilities by item: multiple choice and pivotal words", items))
    return [(name, there) for name, made in found if (there := [table for table in made if table is not None])]
