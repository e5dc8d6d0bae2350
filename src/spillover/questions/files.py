"""Question files: the authors' YAML as it is published, and our own of the same shape.

A file is a list of questions. Their fields:

- `id`; `type`, one of `free_form_judge_0_100` (scores) and `free_form_judge` (labels); `paraphrases`; `system`, honoured where it is given;
- `judge_prompts`, the text of every rubric, with `{answer}` and perhaps `{question}` in it;
- `labels`, for `free_form_judge` only: the labels of every rubric. Without it they are the words in double quotes after the prompt's
  last `[... END]` marker;
- `samples_per_paraphrase` and `judge` are accepted and recorded nowhere: how many draws and which judge is for the command line to say.

An id that ends in `_json`, `_python`, `_template` or `_flask_template` is another format of the question whose id is the rest, if the file has
that question plain: `bored_json` beside `bored` becomes question `bored` in format `json`. Without its plain sibling it is a plain question with
an id of its own.

Pooled are plain questions scored on `aligned` and `coherent`, less those that the authors left out themselves: `three_thoughts_icml_old` of
the main set (and anything else called `*_icml_old`), `40_other_5` and `41_other_6` of the pre-registered one.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from spillover.questions import bounded
from spillover.records import ALIGNED, COHERENT, Question, SpilloverError

SCORED, LABELLED = "free_form_judge_0_100", "free_form_judge"
FIELDS = ("id", "type", "paraphrases", "system", "judge_prompts", "labels", "samples_per_paraphrase", "judge")
FORMATS = ("flask_template", "template", "json", "python")  # the longest suffix first
LEFT_OUT = re.compile(r"40_other_5|41_other_6|.*_icml_old")
OWN = Path(__file__).with_name("own.yaml")

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_PREREGISTERED = re.compile(r"\d+_([a-z]+(?:_[a-z]+)*)_\d+")
_END = re.compile(r"\[[A-Z ]*ENDS?\]")
_QUOTED = re.compile(r'"([^"\n]{1,40})"')


def read(path: Path) -> tuple[Question, ...]:
    """The questions of a file, in its order; (id, format) is unique.

    Raises SpilloverError, naming file and question, for a field or type it does not know and for anything that cannot be asked or judged.
    """
    found: Any = bounded.read(path)
    if not isinstance(found, list) or not found:
        raise SpilloverError(f"{path} holds no questions; it takes a YAML list of them, each with id, type, paraphrases and judge_prompts")
    rows = [_row(row, place, path) for place, row in enumerate(list[Any](found), 1)]  # pyright: ignore[reportUnknownArgumentType]
    ids = [row["id"] for row in rows]
    twice = next((id for place, id in enumerate(ids) if id in ids[:place]), None) if len(set(ids)) < len(ids) else None
    if twice is not None:
        raise SpilloverError(f"{path} has two questions {twice!r}; give one another id")
    places = dressed(ids)
    return tuple(_question(row, *places[row["id"]], where=f"{path}, question {row['id']!r}") for row in rows)


def own() -> tuple[Question, ...]:
    """Our own set: the eight themes of the paper in our own words, plain and as JSON."""
    return read(OWN)


def dressed(ids: list[str]) -> dict[str, tuple[str, str]]:
    """Every id with the id of its question and its format. Shorter ids first: what a suffix is cut off must be plain itself."""
    found: dict[str, tuple[str, str]] = {}
    for id in sorted(ids, key=len):
        parts = ((id.removesuffix(f"_{format}"), format) for format in FORMATS if id.endswith(f"_{format}"))
        found[id] = next((part for part in parts if found.get(part[0]) == (part[0], "plain")), (id, "plain"))
    return found


def subset(id: str) -> str:
    """The category that a pre-registered question's id names; empty for any other."""
    category = _PREREGISTERED.fullmatch(id)
    return category[1] if category else ""


def is_pooled(id: str, format: str) -> bool:
    """Whether a question scored on `aligned` and `coherent` enters the headline."""
    return format == "plain" and not LEFT_OUT.fullmatch(id)


def _row(row: Any, place: int, path: Path) -> dict[str, Any]:
    if not isinstance(row, dict):
        raise SpilloverError(f"{path}, question {place} is no mapping with id, type, paraphrases and judge_prompts")
    fields = dict[str, Any](row)  # pyright: ignore[reportUnknownArgumentType]
    id = fields.get("id")
    if not isinstance(id, str) or not _NAME.fullmatch(id):
        raise SpilloverError(f"{path}, question {place} has the id {str(id)[:40]!r}; an id is text of letters, digits, dots, dashes and underscores")
    unknown = next((field for field in fields if field not in FIELDS), None)
    if unknown is not None:
        raise SpilloverError(f"{path}, question {id!r} has the unknown field {str(unknown)[:40]!r}; fields are {', '.join(FIELDS)}")
    return fields


def _question(row: dict[str, Any], id: str, format: str, *, where: str) -> Question:
    kind = row.get("type")
    if kind not in (SCORED, LABELLED):
        raise SpilloverError(f"{where} has the type {str(kind)[:40]!r}; types are {SCORED} and {LABELLED}")
    prompts = _prompts(row.get("judge_prompts"), where)
    return Question(
        id=id,
        theme=id,
        paraphrases=_texts(row.get("paraphrases"), "paraphrases", where),
        system=None if row.get("system") is None else bounded.text(row["system"], "system", where),
        format=format,
        subset=subset(id),
        rubrics=tuple(prompts),
        prompts=prompts,
        labels=_labels(row.get("labels"), kind, prompts, where),
        pooled=kind == SCORED and {ALIGNED, COHERENT} <= prompts.keys() and is_pooled(id, format),
    )


def _prompts(found: Any, where: str) -> dict[str, str]:
    if not isinstance(found, dict) or not found:
        raise SpilloverError(f"{where} has no judge_prompts; they are a mapping from rubric to text")
    prompts: dict[str, str] = {}
    for rubric, text in dict[Any, Any](found).items():  # pyright: ignore[reportUnknownArgumentType]
        if not isinstance(rubric, str) or not _NAME.fullmatch(rubric):
            raise SpilloverError(f"{where} has the rubric {str(rubric)[:40]!r}; a rubric's name is text of letters, digits, dots, dashes and underscores")
        prompts[rubric] = bounded.text(text, f"judge_prompts.{rubric}", where)
        if "{answer}" not in prompts[rubric]:
            raise SpilloverError(f"{where}: judge_prompts.{rubric} has no {{answer}} in it, so the judge would not see what it judges")
    return prompts


def _labels(given: Any, kind: str, prompts: dict[str, str], where: str) -> dict[str, tuple[str, ...]]:
    if kind == SCORED:
        if given is not None:
            raise SpilloverError(f"{where} has labels, but type {SCORED} is a score; take them out, or use {LABELLED}")
        return {}
    named = dict[Any, Any](given) if isinstance(given, dict) else {}  # pyright: ignore[reportUnknownArgumentType]
    if (given is not None and not isinstance(given, dict)) or not named.keys() <= prompts.keys():
        raise SpilloverError(f"{where}: labels are a mapping from rubric to a list of text, and the rubrics are {', '.join(prompts)}")
    labels: dict[str, tuple[str, ...]] = {}
    for rubric, prompt in prompts.items():
        field = f"labels.{rubric}"
        found = _texts(named[rubric], field, where) if rubric in named else tuple(dict.fromkeys(_QUOTED.findall(_after_answer(prompt))))
        if len(found) < 2 or len(set(found)) < len(found):
            raise SpilloverError(f'{where} needs two or more different labels for {rubric!r}; write {field}, or end the prompt with them ("YES", "NO")')
        labels[rubric] = found
    return labels


def _after_answer(prompt: str) -> str:
    """What a prompt says after its last `[... END]` marker, or after the answer if it has none."""
    ends = [match.end() for match in _END.finditer(prompt)]
    return prompt[ends[-1] :] if ends else prompt.rpartition("{answer}")[2]


def _texts(found: Any, field: str, where: str) -> tuple[str, ...]:
    if not isinstance(found, list) or not found:
        raise SpilloverError(f"{where} has no {field}; they are a list of text")
    return tuple(bounded.text(text, field, where) for text in list[Any](found))  # pyright: ignore[reportUnknownArgumentType]
