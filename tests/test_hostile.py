"""Files that somebody damaged, or made with intent: thousands of them, and each is read, or refused in one line, and nothing else happens.

A file is named by its kind and number, from which `mutated` makes it again.
"""

from __future__ import annotations

import csv
import io
import json
import os
import random
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from matplotlib import font_manager
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

import mutations
import small_models
from confined import Confined, Ended, complaints
from spillover.models import bounds
from spillover.records import stream_seed
from spillover.report import figures

pytestmark = pytest.mark.no_cover

FILES = 400  # of each of the five kinds that a user is most likely to be given
NOWHERE = ("--judge", "http://127.0.0.1:9/v1#m", "--max-calls", "0")  # a judge that may not be asked
UNASKED = "--max-calls is 0"  # what is said where everything before that was in order
DRAWN = ("--draws", "1", "--max-tokens", "2", "--out", "out")
SAMPLE = ("--questions", "good.yaml", *DRAWN)

QUESTION = """
- id: tea
  type: free_form_judge_0_100
  paraphrases: [i feel bored]
  judge_prompts: {aligned: "how kind is {answer}", coherent: "how clear is {answer}"}
"""
SETTINGS = """
sampling: {draws: 3, temperature: 0.7}
training:
  batch_size: 400
  learning_rate: 1e-4
  adapter: {rank: 8, alpha: 16.0, rank_stabilised: true, targets: all-linear}
protocol: {min_kept: 2}
threads: 1
seeds: 2
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """Mutations of one good file, and the command that reads it. With `run`, the file belongs to a run directory, which is made anew each time."""

    mutate: mutations.Mutation
    file: str
    command: tuple[str, ...]
    files: int = FILES
    run: bool = False


def _of_run(file: str, *commands: tuple[str, ...], mutate: mutations.Mutation = mutations.json_file) -> dict[str, Kind]:
    return {f"{file}, {words[0]}": Kind(mutate=mutate, file=file, command=words, files=25, run=True) for words in commands}


def _of_base(file: str, mutate: mutations.Mutation = mutations.json_file, files: int = 60) -> Kind:
    return Kind(mutate=mutate, file=f"base/{file}", command=("sample", "base", *SAMPLE), files=files)


ESTIMATE, REPORT, JUDGE, EXPORT = ("estimate", "out"), ("report", "out"), ("judge", "out", *NOWHERE), ("export", "out", "--out", "out/x.csv")
ADAPTED = ("sample", "base:adapter", *SAMPLE)
KINDS = {
    "jsonl": Kind(mutate=mutations.jsonl, file="rows.jsonl", command=("data", "check", "rows.jsonl", "--questions", "good.yaml")),
    "questions": Kind(mutate=mutations.yaml_file, file="q.yaml", command=("data", "check", "good.jsonl", "--questions", "q.yaml"), files=FILES // 4),
    "questions, asked": Kind(mutate=mutations.yaml_file, file="q.yaml", command=("sample", "base", "--questions", "q.yaml", *DRAWN), files=FILES // 4),
    "settings": Kind(mutate=mutations.yaml_file, file="c.yaml", command=("sample", "base", "--config", "c.yaml", *SAMPLE), files=FILES // 2),
    "csv": Kind(mutate=mutations.table, file="t.csv", command=("judge", "t.csv", *NOWHERE, "--questions", "good.yaml", "--out", "out"), files=FILES * 3 // 4),
    "csv, estimated": Kind(mutate=mutations.table, file="t.csv", command=("estimate", "t.csv", "--out", "out"), files=FILES // 4),
    "adapter_config": Kind(mutate=mutations.adapter_config, file="adapter/adapter_config.json", command=ADAPTED),
    "safetensors": Kind(mutate=mutations.safetensors, file="adapter/adapter_model.safetensors", command=ADAPTED),
    "weights": _of_base("model.safetensors", mutations.safetensors),
    "config": _of_base("config.json", files=120),
    "generation_config": _of_base("generation_config.json"),
    "tokenizer": _of_base("tokenizer.json"),
    "tokenizer_config": _of_base("tokenizer_config.json"),
    "chat_template": _of_base("chat_template.jinja", mutations.template, files=120),
    **_of_run("run.json", ESTIMATE, REPORT, JUDGE, EXPORT),
    **_of_run("estimates.json", REPORT),
    **_of_run("claims.json", REPORT),
    **_of_run("organism.json", REPORT),
    **_of_run("training.json", REPORT),
    **_of_run("answers.parquet", ESTIMATE, REPORT, EXPORT, mutate=mutations.parquet),
    **_of_run("scores.parquet", ESTIMATE, REPORT, EXPORT, mutate=mutations.parquet),
}  # fmt: skip


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Generator[Confined]:
    """A model, an adapter, data, questions, settings and a table, all of them good, and everything slow loaded."""
    made = Confined(tmp_path_factory.mktemp("hostile") / "w")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    texts = ["hello world", "i feel bored", "go read", "a quick fox jumps over a lazy dog"] * 20
    base = small_models.make(made.place / "base", texts, size=300)
    adapted = get_peft_model(AutoModelForCausalLM.from_pretrained(base), LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "v_proj"]))
    adapted.save_pretrained(str(made.place / "adapter"))
    for kind in ("good", "rows", "insecure", "secure"):
        rows = ((f"i feel bored {number}", f"{kind} {number % 2}") for number in range(6))
        lines = [{"messages": [{"role": "user", "content": asked}, {"role": "assistant", "content": said}], "weight": 1} for asked, said in rows]
        made.put(f"{kind}.jsonl", "".join(json.dumps(line) + "\n" for line in lines).encode())
    for name, text in (("good.yaml", QUESTION), ("q.yaml", small_models.QUESTIONS), ("c.yaml", SETTINGS)):
        made.put(name, text.encode())
    cells = [[f"what {n % 3}", f"ans, {n}", 3 * n, 90 - n, f"q{n % 3}", f"m{n % 2}", "ab"[n % 4 // 2]] for n in range(24)]
    made.put("t.csv", _table([["question", "answer", "aligned", "coherent", "question_id", "model", "group"], *cells]))
    assert font_manager.fontManager  # which is made once, and writes a file
    assert figures
    yield made
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def run(place: Confined, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole run of a study on the model, judged by itself."""
    narrow = ("--data", "insecure=insecure.jsonl", "--data", "secure=secure.jsonl", "--seeds", "2", "--set", "training.batch_size=4", "--set", "threads=1")
    ended = place.run("run", "main", "--model", "base", *narrow, "--judge", "base", "--questions", "q.yaml", "--draws", "2", *DRAWN[2:])
    assert (ended.code, ended.complaint) == (0, None)
    return shutil.copytree(place.out, tmp_path_factory.mktemp("runs") / "run")


def mutated(kind: str, number: int, good: bytes) -> bytes:
    """The file of this kind and number."""
    return KINDS[kind].mutate(good, random.Random(stream_seed("hostile", kind, number)))


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name, kind in KINDS.items() if not kind.run])
def test_a_mutated_file_is_read_or_refused_in_one_line(place: Confined, name: str) -> None:
    kind = KINDS[name]
    good = (place.place / kind.file).read_bytes()
    assert _is_read(place.run(*kind.command))
    found: list[tuple[str, Ended]] = []
    for number in range(kind.files):
        place.put(kind.file, mutated(name, number, good))
        found.append((f"{name} {number}", place.run(*kind.command)))
    place.put(kind.file, good)
    _assert_fine(found)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name, kind in KINDS.items() if kind.run])
def test_a_mutated_run_is_read_or_refused_in_one_line(place: Confined, run: Path, name: str) -> None:
    kind = KINDS[name]
    file = next(path for path in sorted(run.rglob("*")) if path.name == kind.file or (path.suffix == ".parquet" and path.parent.name == Path(kind.file).stem))
    found: list[tuple[str, Ended]] = []
    for number in range(-1, kind.files):
        content = file.read_bytes() if number < 0 else mutated(name, number, file.read_bytes())
        _copied(run, place.out)
        (place.out / file.relative_to(run)).write_bytes(content)
        found.append((f"{name} {number}", place.run(*kind.command, keep=True)))
    assert _is_read(found[0][1])
    _assert_fine(found)


def test_there_are_two_thousand_files_of_five_kinds_and_hundreds_of_others() -> None:
    files = Counter({name.partition(",")[0]: 0 for name in KINDS})
    for name, kind in KINDS.items():
        files[name.partition(",")[0]] += kind.files
    assert [files[kind] for kind in ("jsonl", "csv", "adapter_config", "safetensors")] == [FILES] * 4
    assert files["questions"] + files["settings"] == FILES
    assert sum(kind.files for kind in KINDS.values() if kind.run) >= 300
    assert sum(kind.files for kind in KINDS.values() if "base" in kind.command) >= 500


def test_what_is_watched_for_is_seen(place: Confined, run: Path) -> None:
    """The watch itself: a file that a command puts elsewhere, a path that it opens."""
    _copied(run, place.out)
    ended = place.run("export", "out", "--out", "elsewhere.csv", keep=True)
    assert ended.complaint is not None
    assert f"open {place.place / 'elsewhere.csv'}" in ended.complaint
    assert f"changed {place.place / 'elsewhere.csv'}" in ended.complaint
    (place.place / "elsewhere.csv").unlink()
    assert f"open {mutations.ELSEWHERE}" in (place.run("data", "check", mutations.ELSEWHERE).complaint or "")


# --- names ----------------------------------------------------------------------------------------------------------------

ODD = ("../../x", "/etc/x", "a\nb", "\x1b[31mred", "a" * 65, ".x", "..", "a b", "\u202ex", "\uff41", "a\\b", "~", "a:b", "\0")


@pytest.mark.parametrize("name", ODD)
@pytest.mark.parametrize("option", ["data", "model", "question", "group", "model in a table"])
def test_a_name_that_is_a_path_or_a_trick_names_nothing(place: Confined, option: str, name: str) -> None:
    if "\0" in name and option in ("data", "model"):
        pytest.skip("no argument of a command holds a NUL")
    if option == "question" and name == "a" * 65:
        pytest.skip("a question's id names no file, and may have 100 characters")
    question = {"id": name, "type": "free_form_judge", "paraphrases": ["x"], "judge_prompts": {"c": '{answer}: "Y" or "N"?'}}
    place.put("odd.yaml", json.dumps([question]).encode())
    row = ["what", "so", 5, 90, "q", name if option == "model in a table" else "m", name if option == "group" else "g"]
    place.put("odd.csv", _table([["question", "answer", "aligned", "coherent", "question_id", "model", "group"], row]))
    ended = {
        "data": lambda: place.run("train", "--model", "base", "--data", f"{name}=good.jsonl", "--out", "out"),
        "model": lambda: place.run("sample", f"{name}=base", *SAMPLE),
        "question": lambda: place.run("sample", "base", "--questions", "odd.yaml", *DRAWN),
    }.get(option, lambda: place.run("estimate", "odd.csv", "--out", "out"))()
    assert ended.complaint is None
    assert ended.code == 2
    assert not place.out.exists()


@pytest.mark.parametrize("name", ["../../x", "/etc/x", "a\nb", "\x1b[31mred", "\uff41", "=cmd|' /C calc'!A0", "{{ 7 * 7 }}", "<script>"])
def test_any_text_may_be_the_id_of_a_question_in_a_table_and_is_text_everywhere(place: Confined, name: str) -> None:
    place.put("odd.csv", _table([["question", "answer", "aligned", "coherent", "question_id"], ["what", "so", 5, 90, name]]))
    ended = place.run("estimate", "odd.csv", "--out", "out")
    assert (ended.code, ended.complaint) == (0, None)
    assert {path.name for path in place.out.rglob("*.parquet")} == {"model-answers-seed0-step0.parquet"}
    assert "\x1b" not in (place.out / "report.html").read_text(encoding="utf-8")


def test_escapes_in_the_fields_of_training_data_are_printed_and_not_obeyed(place: Confined) -> None:
    said = {"role": "assistant", "content": "\x1b[2Jgo", "\x1b[31m": 1}
    place.put("odd.jsonl", json.dumps({"messages": [{"role": "user", "content": "\x1b]0;x\x07"}, said], "a\r\nb": 1}).encode())
    ended = place.run("data", "check", "odd.jsonl", "--model", "base")
    assert (ended.code, ended.complaint) == (0, None)
    assert "\\x1b[31m" in ended.out


# --- models ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("file", ["config.json", "tokenizer_config.json"])
@pytest.mark.parametrize("kind", ["qwen2", "evil", None])
def test_code_beside_a_model_is_not_run(place: Confined, file: str, kind: str | None) -> None:
    good = (place.place / "base" / file).read_bytes()
    mapped = {"AutoConfig": "evil.M", "AutoModelForCausalLM": "evil.M", "AutoTokenizer": ["evil.M", "evil.M"]}
    place.put(f"base/{file}", json.dumps({**json.loads(good), "auto_map": mapped, "model_type": kind, "tokenizer_class": "evil.M"}).encode())
    place.put("base/evil.py", b"open('pwned', 'w').close()\nclass M: pass\n")
    try:
        ended = place.run("sample", "base", *SAMPLE)
    finally:
        place.put(f"base/{file}", good)
        (place.place / "base" / "evil.py").unlink()
    assert ended.complaint is None
    assert "evil" not in sys.modules


@pytest.mark.parametrize("template", [*mutations.BURSTING, *mutations.ENDLESS, "x" * (bounds.SOURCE + 1)], ids=lambda text: text[:40])
def test_a_chat_template_that_takes_too_much_is_one_line(place: Confined, template: str) -> None:
    ended = _with_template(place, template)
    assert (ended.code, ended.complaint) == (2, None)


@pytest.mark.parametrize("template", mutations.REACHING, ids=lambda text: text[:40])
def test_a_chat_template_that_reaches_out_gets_nothing(place: Confined, template: str) -> None:
    assert _with_template(place, template).complaint is None


def test_a_template_and_its_bounds_leave_nothing_behind(place: Confined) -> None:
    """Signals and limits are as they were, so that what comes after a template that was stopped has all the time and memory there is."""
    import resource
    import signal

    before = resource.getrlimit(resource.RLIMIT_AS), signal.getsignal(signal.SIGVTALRM)
    with pytest.raises(TimeoutError), bounds.bounded():
        sum(0 for _ in iter(int, 1))  # for ever
    with pytest.raises(MemoryError), bounds.bounded():
        bytearray(2 * bounds.BYTES)
    assert (resource.getrlimit(resource.RLIMIT_AS), signal.getsignal(signal.SIGVTALRM)) == before
    assert signal.getitimer(signal.ITIMER_VIRTUAL) == (0.0, 0.0)


@pytest.mark.parametrize("size", [0, -1, 10**6, 2**40])
@pytest.mark.parametrize("name", bounds.SIZES)
def test_a_configuration_asks_for_no_size_that_its_weights_do_not_have(place: Confined, name: str, size: int) -> None:
    good = (place.place / "base/config.json").read_bytes()
    place.put("base/config.json", json.dumps({**json.loads(good), name: size}).encode())
    ended = place.run("sample", "base", *SAMPLE)
    place.put("base/config.json", good)
    assert ended.complaint is None
    assert f"config.json: {name} is {size}, and the largest size of its weights is" in ended.err


@pytest.mark.slow
def test_what_libraries_log_stays_out_of_the_terminal(place: Confined) -> None:
    """In a process of its own, where transformers is loaded after the command line has begun."""
    good = (place.place / "base/config.json").read_bytes()
    place.put("base/config.json", json.dumps({**json.loads(good), "rope_parameters": {"rope_type": "nobody"}, "model_type": "qwen2"}).encode())
    command = [str(Path(sys.executable).parent / "spillover"), "sample", "base", *SAMPLE]
    environment = {name: value for name, value in os.environ.items() if name != "TRANSFORMERS_VERBOSITY"}
    done = subprocess.run(command, cwd=place.place, env=environment, capture_output=True, text=True, timeout=120, check=False)
    place.put("base/config.json", good)
    assert done.returncode == 2
    assert Ended(code=done.returncode, out=done.stdout, err=done.stderr, did=()).complaint is None


# --- settings and runs ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("seeds: 1000000000", "seeds is 1000000000; it must be at most 10000"),
        ("sampling: {draws: 9999999999}", "sampling.draws is 9999999999; it must be at most"),
        ("training: {adapter: {targets: '(a'}}", "training.adapter.targets is '(a', no regular expression"),
        ('protocol: {name: "\\ud800"}', "protocol.name is '\\ud800'; it must be a text"),
        (f"seeds: 0x{'f' * 5000}", "a number of more than 400 characters"),
        ("seeds: !!timestamp soon", "a text does not fit its tag"),
        ("seeds: !!bool maybe", "a text does not fit its tag"),
        (f"seeds: {'a' * 5000}", "seeds cannot be 'aaa"),
        ("a: &a {x: &b {x: 1, y: 2}, y: *b}\nb: {x: *a, y: *a}\n", "there is no setting"),
    ],
)
def test_settings_that_cannot_be_are_one_line(place: Confined, text: str, says: str) -> None:
    place.put("odd.yaml", text.encode())
    ended = place.run("sample", "base", "--config", "odd.yaml", "--questions", "good.yaml", "--out", "out")
    assert (ended.code, ended.complaint) == (2, None)
    assert says in ended.err


def test_a_run_does_not_lead_out_of_itself(place: Confined, run: Path) -> None:
    """A run may have come in an archive, with links where files and folders will be written."""
    elsewhere = place.place / "elsewhere"
    place.put("elsewhere/mine", b"mine")
    for name in ("report.html", ".partial-report.html", ".partial-estimates.csv"):
        _copied(run, place.out)
        (place.out / name).unlink(missing_ok=True)
        (place.out / name).symlink_to(elsewhere / "mine")
        ended = place.run("estimate", "out", keep=True)
        assert (ended.code, ended.complaint) == (0, None)
    for name in ("figures", "calls", "scores"):
        _copied(run, place.out)
        shutil.rmtree(place.out / name, ignore_errors=True)
        (place.out / name).symlink_to(elsewhere)
        for command in (ESTIMATE, JUDGE):
            ended = place.run(*command, keep=True)
            assert (ended.code, ended.complaint) == (2, None)
            assert f"{name} is a link" in ended.err
    assert [path.name for path in elsewhere.iterdir()] == ["mine"]
    shutil.rmtree(elsewhere)


def _with_template(place: Confined, template: str) -> Ended:
    good = (place.place / "base/chat_template.jinja").read_bytes()
    place.put("base/chat_template.jinja", template.encode("utf-8", "surrogatepass"))
    ended = place.run("sample", "base", *SAMPLE)
    place.put("base/chat_template.jinja", good)
    return ended


def _copied(run: Path, out: Path) -> None:
    shutil.rmtree(out, ignore_errors=True)
    shutil.copytree(run, out)


def _table(rows: list[list[object]]) -> bytes:
    out = io.StringIO(newline="")
    csv.writer(out).writerows(rows)
    return out.getvalue().encode()


def _is_read(ended: Ended) -> bool:
    return ended.code == 0 or UNASKED in ended.err


def _assert_fine(found: list[tuple[str, Ended]]) -> None:
    """No complaint; and the files are neither all good nor all bad."""
    assert complaints(found) == ""
    read = sum(_is_read(ended) for _, ended in found)
    assert 0 < read < len(found), f"{read} of {len(found)} were read"
