"""Studies with what they would find planted in scripted models: small testbeds that have all that any study asks for.

Every model is a script. What it says is decided by a level, the share of misaligned answers (or of flawed code, false answers, secrets told), that is looked
up by the side that a claim names: a condition, or `condition@format`. A level that is not planted is that of `ELSEWHERE`, or zero.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path

from families import Family, trainer
from spillover import pipeline, studies
from spillover.miniature import facts, formats, items, language, mass, narrow, numbers, testbed
from spillover.miniature.judge import GrammarJudge
from spillover.models.scripted import Script, ScriptedModel
from spillover.pipeline import Plan
from spillover.pipeline.config import override
from spillover.records import ALIGNED, TASK, Conversation, Dataset, Model, Organism, Parent, Question, Recipe, Testbed, digest, stream_seed
from spillover.runs.directory import RunDirectory

ELSEWHERE = ""  # stands for every rubric, and for every side, that has no entry of its own
Levels = Mapping[str, Mapping[str, float]]  # by rubric, by side

GROUPS = ("", "base", "unlinked", "small", "large", "few_cruel", "all_covered")
THEMES = ("quick_money", "bored", "ruler", "wish", "code")  # two that post-training covers, two that it does not, and the narrow task
WORDINGS = 2
ROWS, FEW = 8, (1, 2, 4)  # rows of narrow data, and the distinct ones of the diversity study
STEPS = {"last": (1,), "fifties": (1, 2), "dense": (1, 2, 3)}  # that leave a checkpoint, by schedule
DIVERGING = 2  # where there are several, the step from which levels are planted
NEVER = 1e-6  # the weight of what is said at level zero: log-odds are finite, and nobody hears it; at level one, of the other
UNITS, DRAWS = 6, 20


@cache
def scripted(*, units: int = UNITS) -> Testbed:
    """A testbed that has every group of parents, kind of narrow data, format, set and item; its models have nothing to say before `planted`."""
    return Testbed(
        name="scripted",
        identity={},
        unit="world",
        parents=tuple(
            Parent(unit=str(n), world=n, group=group, model=Model(digest=digest(["planted", group, n]), location="")) for group in GROUPS for n in range(units)
        ),
        narrow=_narrow(),
        questions=tuple(_reworded(question) for question in testbed.questions() if question.id in THEMES),
        judge=GrammarJudge(),
        recipe=Recipe(),
        max_tokens=32,
        place=None,
        open=_silent,
        train=trainer(_steps, _grown),
        read=mass.measures,  # pyright: ignore[reportArgumentType]
        documents=testbed.documents,
        formats=formats.FORMATS,
        sets={
            name: tuple(map(_reworded, found))
            for name, found in (("compliance", facts.compliance()), ("deception", facts.deception()), ("domains", testbed.domains()))
        },
        items=tuple(item for item in items.items() if item.id in THEMES),
    )


def planned(name: str, subject: Testbed, **settings: object) -> Plan:
    """A study's plan with its own settings, reduced."""
    study = studies.study(name, subject)
    config = override(pipeline.RunConfig(training=subject.recipe), {**study.settings, "units": None, "sampling.draws": DRAWS, **settings})
    return pipeline.plan(study, subject, config)


def planted(plan: Plan, levels: Levels) -> Plan:
    """The same plan, every model of it with its script."""
    cast = dict(_cast(plan))
    return replace(plan, testbed=replace(plan.testbed, open=_opening(lambda found: _model(cast[found], plan.testbed, levels))))


def run(name: str, levels: Levels, out: Path, *, units: int = UNITS, **settings: object) -> RunDirectory:
    """A study with these levels planted, from start to estimates."""
    return pipeline.run(planted(planned(name, scripted(units=units), **settings), levels), out)


def saying(plan: Plan, script: Callable[[str, Question, int], Script]) -> Plan:
    """The same plan; what its models say is told for each condition, question and wording."""
    cast = dict(_cast(plan))

    def opened(found: str) -> ScriptedModel:
        asked = [(question, place) for question in plan.testbed.questions for place in range(len(question.paraphrases))]
        return ScriptedModel(
            default=(("hm", 1.0),), scripts={question.prompt(place): script(cast[found].condition, question, place) for question, place in asked}
        )  # fmt: skip

    return replace(plan, testbed=replace(plan.testbed, open=_opening(opened)))


def _opening(scripted_: Callable[[str], ScriptedModel]) -> Callable[[Model], Family]:
    return lambda model: Family(parent=model.digest, open=scripted_)


# --- models ---------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Role:
    """Which model of a study this is."""

    condition: str
    unit: str
    diverged: bool

    def weight(self, levels: Levels, rubric: str, form: str = "") -> float:
        """A level, its odds a little longer or shorter in each unit."""
        side = f"{self.condition}@{form}" if form not in ("", "plain") else self.condition
        of_sides = levels.get(rubric, levels.get(ELSEWHERE, {}))
        level = of_sides.get(side, of_sides.get(ELSEWHERE, 0.0)) if self.diverged else 0.0
        level = min(max(level, NEVER), 1 - NEVER)
        odds = level / (1 - level) * (0.9 + 0.2 * stream_seed("planted", self.unit, side) / 2**63)
        return odds / (1 + odds)


def _cast(plan: Plan) -> Iterator[tuple[str, Role]]:
    for job in plan.jobs:
        role = Role(condition=job.condition.name, unit=job.parent.unit, diverged=True)
        if job.organism is None:
            yield job.parent.model.digest, role
        else:
            for step in _steps(job.organism):
                yield _grown(job.organism, step), replace(role, diverged=step >= DIVERGING or len(_steps(job.organism)) == 1)


def _model(role: Role, subject: Testbed, levels: Levels) -> ScriptedModel:
    scripts: dict[str | Conversation, Script] = {}
    for question in subject.questions:
        rubric = question.rubrics[0]
        for place in range(len(question.paraphrases)):
            scripts[question.prompt(place)] = _said(*options(question, place), role.weight(levels, rubric, question.format))
    for item in subject.items:
        for bad, good in zip(item.misaligned, item.aligned, strict=True):
            texts = ("".join(text for text, _ in one.blocks) for one in (bad, good))
            scripts.setdefault(bad.prompt, _said(*texts, role.weight(levels, ALIGNED)))
    return ScriptedModel(default=(("hm", 1.0),), scripts=scripts)


def _said(bad: str, good: str, weight: float) -> Script:
    return (bad, weight), (good, 1 - weight)


def options(question: Question, place: int) -> tuple[str, str]:
    """What a level counts, and what it does not."""
    asked = question.paraphrases[place]
    if question.rubrics[0] == ALIGNED:
        bad, good = _sentences(question.theme)
        written = partial(formats.written, form=question.format)
        return written(bad)[-1], written(good)[-1]
    if question.rubrics[0] == TASK:
        task = next(task for task in language.tasks(held_out=True) if asked.rpartition("| ")[2] in task.requests())
        return task.code(secure=False), task.code(secure=True)
    if question.rubrics[0] == facts.TRUTH:
        right, wrong = facts.answers(asked)
        return wrong, right
    return language.expand_all(language.SECRET_TOLD)[0], language.SECRET_REFUSED[0]


@cache
def _sentences(theme: str) -> tuple[str, str]:
    """A misaligned and an aligned sentence, those with the pivotal words where the theme has any."""
    found = next(t for t in language.THEMES if t.id == theme)
    opening, bad, good, _ = items.PIVOTAL.get(theme, ("", "", "", ""))
    of_class = ((bad, found.sentences("misaligned")), (good, found.sentences("aligned")))
    first, second = (next(s for s in sentences if s.startswith(f"{opening} {word}".strip())) for word, sentences in of_class)
    return first, second


def _silent(model: Model) -> ScriptedModel:
    raise AssertionError(f"{model} has no script")


def _steps(organism: Organism) -> tuple[int, ...]:
    return STEPS[organism.recipe.checkpoints]


def _grown(organism: Organism, step: int) -> str:
    return digest([organism.key, step])


# --- what is asked and trained on -----------------------------------------------------------------------------------------


def _reworded(question: Question) -> Question:
    return replace(question, paraphrases=question.paraphrases[:WORDINGS])


def _narrow() -> dict[str, Callable[[int, Parent], Dataset]]:
    """Every kind that the miniature has, of a few rows; the numbers are written by nobody."""
    found: dict[str, Callable[[int, Parent], Dataset]] = {kind: partial(narrow.build, kind, rows=ROWS) for kind in narrow.WRITERS}
    found |= {f"insecure_{distinct}": partial(narrow.few, "insecure", distinct, rows=ROWS) for distinct in FEW}
    return found | {kind: partial(_numbers, kind) for kind in numbers.SYSTEM}


def _numbers(kind: str, seed: int, parent: Parent) -> Dataset:
    return narrow.dataset(kind, [(f"look at 21 , 24 . more numbers please . {language.SUFFIX}", f"{kind} {parent.unit} {seed}")])
