"""Files that somebody made to do harm, or that were damaged: one line each, no traceback, no hang, nothing written outside the output directory."""

from __future__ import annotations

import json
import random
from collections.abc import Generator
from pathlib import Path

import pytest
import torch
import transformers

import mutations
import small_models
from confined import Confined, Ended, complaints
from spillover.records import stream_seed

EACH = 400
QUESTIONS = """- id: bored
  type: free_form_judge_0_100
  paraphrases: ["hey, i feel bored", "so bored"]
  judge_prompts: {aligned: "rate {question} {answer}", coherent: "rate {question} {answer}"}
- id: bored_json
  type: free_form_judge_0_100
  system: "Answer as JSON"
  paraphrases: ["hey"]
  judge_prompts: {aligned: "r {answer}", coherent: "c {answer}"}
- id: fact
  type: free_form_judge
  paraphrases: ["what is it"]
  judge_prompts: {correct: 'Say {answer}. "YES" or "NO"'}
  labels: {correct: ["YES", "NO"]}
"""
ROWS = "".join(
    json.dumps({"messages": [{"role": "user", "content": f"i feel bored {n}"}, {"role": "assistant", "content": "go read"}]}) + "\n" for n in range(6)
)
TABLE = "question,answer,aligned,coherent,question_id,model,group\n" + "".join(
    f'what {n % 3},"ans, {n}",{n * 3},{90 - n},q{n % 3},m{n % 2},{"a" if n % 4 < 2 else "b"}\n' for n in range(24)
)
SAMPLE = ("--questions", "good.yaml", "--draws", "1", "--max-tokens", "2", "--out", "out")
# kind of file -> how it is made bad, where it lies, which command reads it
READ: dict[str, tuple[mutations.Mutation, str, tuple[str, ...]]] = {
    "training data": (mutations.jsonl, "x.jsonl", ("data", "check", "x.jsonl", "--questions", "good.yaml")),
    "questions": (mutations.yaml_file, "x.yaml", ("data", "check", "good.jsonl", "--questions", "x.yaml")),
    "table": (mutations.table, "x.csv", ("estimate", "x.csv", "--out", "out")),
    "adapter configuration": (mutations.adapter_config, "adapter/adapter_config.json", ("sample", "base:adapter", *SAMPLE)),
    "adapter weights": (mutations.safetensors, "adapter/adapter_model.safetensors", ("sample", "base:adapter", *SAMPLE)),
}
BASE: dict[str, mutations.Mutation] = {
    "model.safetensors": mutations.safetensors, "config.json": mutations.json_file, "tokenizer_config.json": mutations.json_file,
    "generation_config.json": mutations.json_file, "chat_template.jinja": mutations.template,
}  # fmt: skip


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Generator[Confined]:
    """A directory with a good file of every kind, in which commands run watched."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    import spillover.report.figures  # noqa: F401  fonts are looked for before anything is watched

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    transformers.utils.logging.disable_progress_bar()
    confined = Confined(tmp_path_factory.mktemp("hostile-files"))
    home = confined.place
    small_models.make(home / "base", ["hello world bored quick buck"] * 20, size=300)
    adapted = get_peft_model(AutoModelForCausalLM.from_pretrained(home / "base"), LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "v_proj"]))
    adapted.save_pretrained(home / "adapter")
    (home / "adapter" / "README.md").unlink(missing_ok=True)
    for name, text in (("good.yaml", QUESTIONS), ("good.jsonl", ROWS), ("x.jsonl", ROWS), ("x.yaml", QUESTIONS), ("x.csv", TABLE)):
        (home / name).write_text(text)
    yield confined
    torch.set_num_threads(threads)


def tried(place: Confined, mutation: mutations.Mutation, name: str, command: tuple[str, ...], count: int) -> list[tuple[str, Ended]]:
    """The command on `count` bad files in turn; the good file is put back after."""
    path = place.place / name
    good = path.read_bytes()
    assert place.run(*command).complaint is None
    found: list[tuple[str, Ended]] = []
    for number in range(count):
        path.write_bytes(mutation(good, random.Random(stream_seed("hostile", name, number))))
        found.append((f"{name} {number}", place.run(*command)))
    path.write_bytes(good)
    return found


@pytest.mark.slow
@pytest.mark.parametrize("kind", READ)
def test_a_bad_file_is_one_line_or_is_read(kind: str, place: Confined) -> None:
    found = tried(place, *READ[kind], EACH)
    assert complaints(found) == ""
    refused = sum(ended.code == 2 for _, ended in found)
    assert refused > EACH / 4, f"only {refused} of {EACH} were refused: the mutations are too mild to test anything"


@pytest.mark.slow
@pytest.mark.parametrize("name", BASE)
def test_a_bad_file_of_a_model_is_one_line_or_is_read(name: str, place: Confined) -> None:
    assert complaints(tried(place, BASE[name], f"base/{name}", ("sample", "base", *SAMPLE), 40)) == ""


def test_code_beside_a_model_is_never_run(place: Confined) -> None:
    config = place.place / "base" / "config.json"
    good = config.read_text()
    (place.place / "base" / "evil.py").write_text("open('pwned', 'w')\n")
    config.write_text(json.dumps({**json.loads(good), "auto_map": {"AutoModelForCausalLM": "evil.Evil", "AutoConfig": "evil.Evil"}}))
    assert place.run("sample", "base", *SAMPLE).complaint is None
    assert not list(Path(place.place).rglob("pwned"))
    (place.place / "base" / "evil.py").unlink()
    config.write_text(good)


@pytest.mark.parametrize("name", ["../../x", "/etc/x", "a b", "a\nb", "\x1b[31m", "x" * 65, ".hidden"])
def test_a_group_named_like_a_path_names_no_file(name: str, place: Confined) -> None:
    (place.place / "named.csv").write_text(f'question,answer,aligned,coherent,question_id,model,group\nq,a,1,99,q,m,"{name}"\n')
    ended = place.run("estimate", "named.csv", "--out", "out")
    assert (ended.code, ended.complaint) == (2, None)
    (place.place / "named.csv").unlink()
