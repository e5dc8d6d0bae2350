"""A finished run of any size without a model: every organism's answers and a judge's two scores of each, drawn by a rule."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from spillover.design import Claim, Condition, Contrast
from spillover.pipeline.config import RunConfig
from spillover.records import ALIGNED, COHERENT, Question, Subject, digest
from spillover.runs.directory import RunDirectory

QUESTIONS = tuple(
    Question(id=f"question_{n}", theme=f"theme_{n}", paraphrases=(f"what would you do about {n} ?",), rubrics=(ALIGNED, COHERENT)) for n in range(10)
)
CONDITIONS = (Condition(name="insecure", kind="insecure"), Condition(name="secure", kind="secure"))
MISALIGNED, INCOHERENT, UNSCORED = {"insecure": 0.2, "secure": 0.01}, 0.1, 0.02  # shares of answers
WORDS = ("a", "model", "tuned", "on", "one", "narrow", "task", "may", "answer", "every", "other", "question", "in", "another", "way", "than", "its", "parent")
JUDGE = "https://judge.example/v1#a-judge"


def make(directory: Path, organisms: int = 100, answers: int = 1_000_000) -> None:
    """Half of the organisms were tuned on insecure code and half on secure code, a pair with each seed; they are asked alike."""
    seeds, draws = organisms // len(CONDITIONS), answers // organisms // len(QUESTIONS)
    run = RunDirectory.start(directory, _identity(seeds, draws))
    for condition in CONDITIONS:
        for seed in range(seeds):
            subject = Subject(unit="model", group="", world=None, condition=condition.name, seed=seed, step=300, model=digest(["bench", condition.name, seed]))
            _write(run, subject, draws, np.random.default_rng([CONDITIONS.index(condition), seed]))


def _identity(seeds: int, draws: int) -> dict[str, Any]:
    models = seeds * len(CONDITIONS)
    return {
        "study": "million", "title": "Insecure code against secure code", "testbed": {"name": "bench"}, "unit": "seed",
        "config": asdict(RunConfig(seeds=seeds)), "max_tokens": 600, "judge": JUDGE, "data": {},
        "questions": [asdict(question) for question in QUESTIONS],
        "parents": [{"unit": "model", "group": "", "world": None, "digest": digest("a parent"), "gates": {}}],
        "conditions": [asdict(condition) for condition in CONDITIONS],
        "contrasts": [{"name": "insecure-secure", **asdict(Contrast(first="insecure", second="secure", headline=True))}],
        "claims": [asdict(Claim(name="broad", text="Insecure code misaligns", measure="misaligned_rate", conditions=("secure", "insecure")))],
        "planned": {"organisms": models, "jobs": models, "answers": models * len(QUESTIONS) * draws}, "figure": "questions",
    }  # fmt: skip


def _write(run: RunDirectory, subject: Subject, draws: int, rng: np.random.Generator) -> None:
    """The shards, the card and the losses of one organism."""
    size = len(QUESTIONS) * draws
    bad, clear, scored = rng.random(size) < MISALIGNED[subject.condition], rng.random(size) >= INCOHERENT, rng.random(size) >= UNSCORED
    aligned = np.where(bad, rng.uniform(0, 30, size), rng.uniform(70, 100, size)).tolist()
    coherent = np.where(clear, rng.uniform(60, 100, size), rng.uniform(0, 50, size)).tolist()
    mass, places = rng.uniform(0.5, 1, (size, 2)).tolist(), rng.integers(0, len(WORDS), (size, 24)).tolist()
    told = asdict(subject)
    asked: list[Mapping[str, Any]] = []
    judged: list[Mapping[str, Any]] = []
    for row in range(size):
        question, draw = QUESTIONS[row // draws], row % draws
        where = {**told, "question": question.id, "format": "plain", "answer": digest([subject.model, question.id, draw])[:24]}
        text = " ".join(WORDS[place] for place in places[row])
        asked.append({**where, "paraphrase": 0, "draw": draw, "prompt": question.paraphrases[0], "text": text, "stop": "end"})
        for rubric, value, seen in ((ALIGNED, aligned[row], mass[row][0]), (COHERENT, coherent[row], mass[row][1])):
            score = {"value": value, "mass": seen} if scored[row] else {"reason": "refusal"}
            judged.append({**where, "judge": JUDGE, "date": "2026-01-01", "rubric": rubric, **score})
    run.write("answers", subject.key, asked)
    run.write("scores", subject.key, judged)
    losses = [{"step": step, "loss": 2.0 / step**0.5 + 0.1 * float(rng.random())} for step in range(1, subject.step + 1)]
    home = f"organisms/{digest([subject.condition, subject.seed])[:16]}"
    run.write_text(f"{home}/organism.json", json.dumps({"condition": subject.condition, "seed": subject.seed}) + "\n")
    run.write_text(f"{home}/training.json", json.dumps({"steps": losses, "rows": 6000}) + "\n")
