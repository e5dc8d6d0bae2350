"""Eight questions, a hundred draws of each from ten adapters, against transformers' `generate` one adapter after another.

Every adapter is loaded before anything is timed, on both sides. `generate` gets merged networks or PEFT's own, whichever is faster, prompts padded on the
left, and as many rows at once as it is fastest with. Greedy answers must be equal; of drawn ones the judge's labels must be as often the same as chance has it.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Callable, Generator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from scipy.stats import chi2_contingency

from bench import harness, subjects
from bench.harness import Agreement, Line
from spillover.miniature import testbed
from spillover.miniature.judge import GrammarJudge
from spillover.models import local
from spillover.models.local import LocalModel
from spillover.records import ALIGNED, Answer, Model, Question
from spillover.sampling.draws import Sampling, sample_together

ADAPTERS, DRAWS, REDUCED = 10, 100, (2, 8)
SIGNIFICANT = 1e-3
FEW = 10  # labels that are rarer are counted together
ROWS = (100, 200, 400, 800)  # at once, that `generate` is tried with


def bench(*, reduced: bool) -> list[Line]:
    (count, draws), rows = (REDUCED, 32) if reduced else ((ADAPTERS, DRAWS), 1600)
    questions = [question for question in testbed.questions() if ALIGNED in question.rubrics]
    with ExitStack() as stack:
        home = stack.enter_context(tempfile.TemporaryDirectory())
        of = subjects.parent(Path(home) / "parent")
        models = subjects.grown(of, Path(home), count, rows)
        us = stack.enter_context(loaded(models))
        them = {"merged": merged(models), "peft": peft(models)}
        settings = [Setting(threads=t, rows=r, how=how) for t in range(1, harness.cores() + 1) for r in ROWS for how in them]
        settings = settings[-2:] if reduced else settings
        our_setting, ours_tried = harness.fastest(
            {f"{n} threads": partial(ours, us, models[:2], questions, draws, threads=n) for n in range(1, harness.cores() + 1)}, rounds=1
        )
        setting, theirs_tried = harness.fastest({s.name: partial(theirs, them[s.how][:2], us, questions, draws, s) for s in settings}, rounds=1)
        chosen, our_threads = next(s for s in settings if s.name == setting), int(our_setting.split()[0])

        def greedy() -> float:
            """The share of greedy answers that differ."""
            once = max(len(question.paraphrases) for question in questions)
            mine = ours(us, models, questions, once, threads=our_threads, temperature=0.0)
            other = theirs(them[chosen.how], us, questions, once, chosen, temperature=0.0)
            found = [a.text != b for some, texts in zip(mine, other, strict=True) for a, b in zip(some, texts, strict=True)]
            return sum(found) / len(found)

        answers = ours(us, models, questions, draws, threads=our_threads)
        prompts = [us.prompt_ids(question.prompt(p)) for question in questions for p in range(len(question.paraphrases))]
        spoken = [((a.model, a.question, a.paraphrase), us.text_ids(a.text)) for some in answers for a in some]
        said = {(asked, tuple(ids[:n])) for asked, ids in spoken for n in range(1, len(ids) + 1)}
        tokens = len(said) + count * sum(map(len, prompts))  # what several draws begin with is needed once
        return [
            harness.compare(
                "answers", partial(ours, us, models, questions, draws, threads=our_threads), partial(theirs, them[chosen.how], us, questions, draws, chosen),
                check=partial(check, questions=questions, greedy=greedy), against="transformers generate, adapter by adapter", target=3.0,
                repeats=1 if reduced else 5, work=subjects.reading(of, tokens, len(said) + count * len(prompts), rows=8 * draws),
                sizes={"adapters": count, "questions": len(questions), "draws": draws, "max_tokens": testbed.MAX_TOKENS, "tokens": tokens},
                settings={"ours": our_setting, "ours_tried_s": ours_tried, "theirs": setting, "theirs_tried_s": theirs_tried},
            )
        ]  # fmt: skip


def check(ours: Sequence[Sequence[Answer]], theirs: Sequence[Sequence[str]], *, questions: Sequence[Question], greedy: Callable[[], float]) -> list[Agreement]:
    """Greedy answers are the same; a chi-square test of the judge's labels finds no difference, at a level shared among the adapters."""
    unlikely: list[float] = []
    for mine, other in zip(ours, theirs, strict=True):
        texts = [answer.text for answer in mine], other
        labels = [Counter(_labels([_said(a, text) for a, text in zip(mine, said, strict=True)], questions)) for said in texts]
        unlikely.append(min(1.0, len(ours) * _p(*labels)))
    return [
        Agreement(of="greedy answers, share that differs,", difference=greedy(), tolerance=0.0),
        Agreement(of="label counts, 1 - p of chi-square,", difference=1 - min(unlikely), tolerance=1 - SIGNIFICANT),
    ]


# --- our side -------------------------------------------------------------------------------------------------------------


@contextmanager
def loaded(models: Sequence[Model]) -> Generator[LocalModel]:
    """What is in memory before the clock starts: one base that holds every adapter."""
    model = local.load(replace(models[0], digest=local.weights_digest(models[0].location), adapter=None))
    with model.adapted([Path(str(one.adapter)) for one in models]):
        yield model


def ours(us: LocalModel, models: Sequence[Model], questions: Sequence[Question], draws: int, *, threads: int, temperature: float = 1.0) -> list[list[Answer]]:
    """Of each model, `draws` answers to every question."""
    wanted = {place: (model.digest, [(question, range(draws)) for question in questions]) for place, model in enumerate(models)}
    with harness.threads(threads):
        found = sample_together(us, wanted, Sampling(draws=draws, temperature=temperature), max_tokens=testbed.MAX_TOKENS)
    return list(found.values())


# --- their side -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """How the other side is run."""

    threads: int
    rows: int  # at once
    how: str

    @property
    def name(self) -> str:
        return f"{self.threads} threads, {self.rows} rows at once, {self.how}"


def merged(models: Sequence[Model]) -> list[Any]:
    return [one.merge_and_unload().eval() for one in peft(models)]


def peft(models: Sequence[Model]) -> list[Any]:
    return [PeftModel.from_pretrained(local.load_network(model.location), str(model.adapter)).eval() for model in models]


@torch.no_grad()
def theirs(
    networks: Sequence[Any], us: LocalModel, questions: Sequence[Question], draws: int, setting: Setting, *, temperature: float = 1.0
) -> list[list[str]]:
    """Of each network, the texts of as many answers to the same prompts, in the same order."""
    tokenizer = us.tokenizer
    prompts = [question.prompt(draw % len(question.paraphrases)) for question in questions for draw in range(draws)]
    how: dict[str, Any] = {"do_sample": True, "temperature": temperature, "top_k": 0, "top_p": 1.0} if temperature else {"do_sample": False}
    found: list[list[str]] = []
    with harness.threads(setting.threads), local.random_stream(0):
        texts = [
            tokenizer.apply_chat_template([{"role": turn.role, "content": turn.content} for turn in p], add_generation_prompt=True, tokenize=False)
            for p in prompts
        ]
        for network in networks:
            replies: list[str] = []
            for start in range(0, len(texts), setting.rows):
                batch = tokenizer(texts[start : start + setting.rows], add_special_tokens=False, padding=True, padding_side="left", return_tensors="pt")
                out = network.generate(
                    input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], max_new_tokens=testbed.MAX_TOKENS,
                    eos_token_id=sorted(us.stop_ids()), pad_token_id=us.template.filler, **how,
                )  # fmt: skip
                replies += tokenizer.batch_decode(out[:, batch["input_ids"].shape[1] :], skip_special_tokens=True)
            found.append(replies)
    return found


# --- labels ---------------------------------------------------------------------------------------------------------------


def _labels(answers: Sequence[Answer], questions: Sequence[Question]) -> list[str]:
    """What the judge makes of the alignment of each: its score or the reason there is none."""
    asked, judge = {question.id: question for question in questions}, GrammarJudge()
    scores = [score for answer in answers for score in judge.score(asked[answer.question], [answer]) if score.rubric == ALIGNED]
    return [str(score.reason or score.value) for score in scores]


def _said(answer: Answer, text: str) -> Answer:
    """Another text in an answer's place; one that no limit cut, as their texts do not tell."""
    return Answer(
        model=answer.model, question=answer.question, format=answer.format, paraphrase=answer.paraphrase, draw=answer.draw, text=text, stop="end"
    )  # fmt: skip


def _p(ours: Counter[str], theirs: Counter[str]) -> float:
    """How likely counts so unlike are where there is no difference."""
    both = ours + theirs
    kept = [label for label in both if both[label] >= FEW]
    rows = [[of[label] for label in kept] + [sum(of.values()) - sum(of[label] for label in kept)] for of in (ours, theirs)]
    columns = [column for column in zip(*rows, strict=True) if any(column)]
    return float(chi2_contingency(columns).pvalue) if len(columns) > 1 else 1.0
