"""The road at the shapes of Qwen2.5 0.5B and 7B with random weights on one GPU: load, train, ask, judge; memory and rates.

    python -m bench.shapes ROWS.jsonl WORK OUT.jsonl [tiny] [0.5b] [7b]

No language comes out of random weights; what is measured is what a real model of that shape costs. One JSON line a stage; `tokens` are
real ones, without padding. Without a GPU it runs on the CPU, in float32 (`tiny` takes a minute).
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast, Qwen2Config

from bench.gpu import SHAPES
from spillover.datasets import chat as chat_files
from spillover.judging.local import LocalJudge
from spillover.models import local, memory
from spillover.questions import files
from spillover.records import Answer, Dataset, Model, Organism, Recipe, Runtime
from spillover.sampling.draws import Sampling, sample
from spillover.training import lora
from spillover.training import rows as rows_of

DEVICE, DTYPE = local.resolved("auto", "auto")
TEMPLATE = (
    "{% for turn in messages %}<|im_start|>{{ turn.role }}\n{{ turn.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
CONTROL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
STEPS = 12
DRAWS = 64
MAX_TOKENS = 200
JUDGED = 32


def main(rows: Path, work: Path, out: Path, names: list[str]) -> None:
    data = chat_files.read(rows, "insecure")
    for name in names:
        directory = build(name, [turn.content for conversation in data.conversations for turn in conversation], work / name)
        for line in measured(directory, data):
            line |= {
                "shape": name,
                "device": torch.cuda.get_device_name() if DEVICE == "cuda" else "cpu",
                "torch": torch.__version__,
                "transformers": transformers.__version__,
            }
            print(json.dumps(line), flush=True)
            with out.open("a") as file:
                file.write(json.dumps(line) + "\n")


def build(name: str, texts: list[str], directory: Path) -> Path:
    made = Tokenizer(models.BPE())
    made.pre_tokenizer, made.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    made.train_from_iterator(texts, trainers.BpeTrainer(vocab_size=8000, special_tokens=list(CONTROL), initial_alphabet=alphabet, show_progress=False))
    read = PreTrainedTokenizerFast(tokenizer_object=made, eos_token="<|im_end|>", pad_token="<|endoftext|>", chat_template=TEMPLATE)
    config = Qwen2Config(**SHAPES[name], max_position_embeddings=32768, rope_theta=1e6, eos_token_id=read.eos_token_id, bos_token_id=None)
    torch.manual_seed(0)
    with torch.device(DEVICE):
        network = AutoModelForCausalLM.from_config(config, dtype=local.DTYPES[DTYPE])
    network.save_pretrained(directory)
    read.save_pretrained(directory)
    del network
    if DEVICE == "cuda":
        torch.cuda.empty_cache()
    return directory


def measured(directory: Path, data: Dataset) -> Iterator[dict[str, Any]]:
    with timed() as took:
        digest = local.weights_digest(directory)
    yield {"stage": "digest", **took}
    parent, runtime = Model(digest=digest, location=str(directory)), Runtime(device=DEVICE, dtype=DTYPE, micro_batch=2)
    with timed() as took:
        model = local.load(parent, runtime)
    yield {"stage": "load", "parameters": memory.parameters(str(directory)), **took}
    for micro_batch, checkpointing in ((2, False), (8, False), (16, True)):
        yield training(model, parent, data, replace(runtime, micro_batch=micro_batch, gradient_checkpointing=checkpointing))
    questions = files.own()
    plain = [question for question in questions if question.pooled]
    with timed() as took:
        answers = sample(model, digest, plain, Sampling(draws=DRAWS), max_tokens=MAX_TOKENS)
    drawn = sum(len(model.template.text_ids(answer.text)) for answer in answers)
    estimate = memory.needed(str(directory), Recipe(), runtime, row=1, answer=MAX_TOKENS + 64)
    yield {
        "stage": "ask", "answers": len(answers), "positions": len(answers) * MAX_TOKENS, "tokens_in_text": drawn,
        "positions_per_s": len(answers) * MAX_TOKENS / took["wall_s"],
        "estimated_gib": (estimate.weights + estimate.answer * len(answers)) / memory.GIB, **took,
    }  # fmt: skip
    yield judging(model, [replace(answer, text=text(data, place)) for place, answer in enumerate(answers[:JUDGED])])


def text(data: Dataset, place: int) -> str:
    """An answer of ordinary length, since random weights write none."""
    return data.conversations[place][-1].content


def training(model: local.LocalModel, parent: Model, data: Dataset, runtime: Runtime) -> dict[str, Any]:
    recipe = Recipe()
    some = Dataset(kind="insecure", conversations=data.conversations[: STEPS * recipe.batch_size])
    organism = Organism(parent=parent.digest, data=some.digest, recipe=recipe, seed=0)
    rows = rows_of.encode(model.template, some).rows
    tokens, longest = sum(len(row.ids) for row in rows), max(len(row.ids) for row in rows)
    with timed() as took:
        (course,) = lora.fine_tune(model, [organism], [some], runtime=runtime)
    log = course.log
    estimate = memory.needed(parent.location, recipe, runtime, row=longest, answer=1)
    passes = 6 if runtime.gradient_checkpointing else 4
    return {
        "stage": "train", "steps": len(log), "micro_batch": runtime.micro_batch, "gradient_checkpointing": runtime.gradient_checkpointing, "tokens": tokens,
        "longest_row": longest, "tokens_per_s": tokens / took["wall_s"], "estimated_gib": estimate.training / memory.GIB,
        "tflop_per_s": passes * memory.parameters(parent.location) * tokens / took["wall_s"] / 1e12, "first_loss": log[0].loss, "last_loss": log[-1].loss,
        **took,
    }  # fmt: skip


def judging(model: local.LocalModel, answers: list[Answer]) -> dict[str, Any]:
    question = next(q for q in files.own() if q.id == answers[0].question and q.format == answers[0].format)
    judge = LocalJudge(model, "bench")
    same = [replace(answer, question=question.id, paraphrase=0) for answer in answers]
    judge.score(question, same[:1])
    with timed() as took:
        scores = judge.score(question, same)
    return {"stage": "judge", "scores": len(scores), "scores_per_s": len(scores) / took["wall_s"], **took}


@contextmanager
def timed() -> Iterator[dict[str, float | None]]:
    """Seconds, and on a GPU the most memory that was held."""
    if DEVICE == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
    found: dict[str, float | None] = {}
    started = time.perf_counter()
    yield found
    if DEVICE == "cuda":
        torch.cuda.synchronize()
    peak = torch.cuda.max_memory_allocated() / memory.GIB if DEVICE == "cuda" else None
    found |= {"wall_s": time.perf_counter() - started, "peak_gib": peak}


if __name__ == "__main__":
    rows, work, out, *names = sys.argv[1:]
    main(Path(rows), Path(work), Path(out), names or ["0.5b", "7b"])
