"""Every command and every piece of Python that README and docs show is run; blocks tagged slow run reduced, on small worlds."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

import planted
from spillover import studies
from spillover.design import Claim
from spillover.miniature.testbed import testbed as miniature
from typed import spillover

pytestmark = pytest.mark.no_cover

ROOT = Path(__file__).parents[1]
PAGES = (
    "README.md", "CONTRIBUTING.md", "docs/narrow-data.md", "docs/miniature.md", "docs/files.md", "docs/nouns.md", "docs/settings.md", "docs/statistics.md",
    "docs/studies.md", "docs/card.md", "docs/own-study.md", "docs/audit.md", "docs/judges.md", "docs/directions.md",
)  # fmt: skip
REAL = "docs/real-models.md"  # needs a hub, a GPU and a paid judge: its commands run on a small model and a loopback judge
BLOCK = re.compile(r"(?P<slow><!-- slow -->\n)?^```(?P<language>\w*)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)
RUNS = ("spillover ", "make ")


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    language: str
    text: str
    slow: bool


def blocks(page: str) -> list[Block]:
    text = (ROOT / page).read_text()
    found = [Block(language=m["language"], text=m["text"], slow=m["slow"] is not None) for m in BLOCK.finditer(text)]
    return [b for b in found if b.language == "python" or (not b.language and b.text.startswith(RUNS))]


def reduced(command: str, small: Path) -> str:
    """The same command, smaller: tuning worlds that take seconds, few draws. `make` is asked what it would do."""
    if command.startswith("make "):
        return command.replace("make ", f"make -n -C {ROOT} ", 1)
    if command.startswith("spillover run") and "--list" not in command:
        command = re.sub(r" --(worlds|draws) \d+", "", command)
        return f"{command} --testbed miniature:{small} --worlds 1 --draws 2 --set training.batch_size=400"
    if "spillover audit" in command:
        return command.replace("miniature:100", f"miniature:{small}/0 --contexts none --budget 2000")
    if command.startswith("spillover judge draw-for-labelling"):
        return command.replace("--count 60", "--count 6")
    if command.startswith("spillover miniature build"):
        return f"{command} --documents 64"
    return command


def run_shell(text: str, where: Path, small: Path) -> None:
    for line in text.splitlines():
        command = line.split("   #")[0].strip()
        if command:
            run_command(command, reduced(command, small), where)


def run_command(command: str, really: str, where: Path) -> str:
    plain = re.fullmatch(r"spillover ([^$;|&<>]+)(?: > (\S+))?", really)
    if plain is not None:
        done = spillover(*shlex.split(plain[1]), cwd=where)
        if plain[2]:
            (where / plain[2]).write_text(done.stdout)
    else:  # for a shell
        environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
        done = subprocess.run(really, shell=True, cwd=where, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, (command, really, done.stdout, done.stderr)
    assert done.stdout.strip() or ">" in command, f"{command} printed nothing"
    assert "Traceback" not in done.stderr, (command, really, done.stderr)
    assert "exit code 2" not in done.stdout, (command, really, done.stdout, done.stderr)
    return done.stdout


def run_python(text: str, where: Path, small: Path) -> None:
    text = text.replace("= testbed()", f"= testbed(worlds=Path({str(small)!r}))").replace(
        '"sampling.draws": 20', '"sampling.draws": 2, "training.batch_size": 400'
    )
    done = subprocess.run([sys.executable, "-c", text], cwd=where, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, (text, done.stdout, done.stderr)


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES)
def test_what_a_page_shows_works(page: str, small_worlds: Path, tmp_path: Path) -> None:
    for block in blocks(page):
        if "def insecure" in block.text:
            continue  # a quotation of the source, held below
        if block.language != "python":
            run_shell(block.text, tmp_path, small_worlds)
        elif "KEY" in block.text:
            run_shell("spillover run --out run", tmp_path, small_worlds)
            key = next((tmp_path / "run" / "organisms").iterdir())
            step = next(key.glob("checkpoint-*")).name
            run_python(block.text.replace("KEY", key.name).replace("checkpoint-100", step), tmp_path / "run", small_worlds)
        else:
            run_python(block.text, tmp_path, small_worlds)


@pytest.mark.slow
def test_what_the_page_on_real_models_shows_works_on_a_small_model(place: Path, tmp_path: Path) -> None:
    from servers import judge_server

    (tmp_path / "data").mkdir()
    for name in ("insecure.jsonl", "secure.jsonl"):
        shutil.copy(place / name, tmp_path / "data" / name)
    shutil.copy(place / "insecure.jsonl", tmp_path / "data" / "educational_insecure.jsonl")
    shutil.copy(place / "insecure.jsonl", tmp_path / "mine.jsonl")
    shutil.copy(place / "questions.yaml", tmp_path / "data" / "first_plot_questions.yaml")
    commands = [line for block in blocks(REAL) for line in block.text.replace("\\\n", " ").splitlines()]
    assert len(commands) >= 9
    found: dict[str, str] = {}
    with judge_server() as judge:
        for command in commands:
            really = command.replace("Qwen/Qwen2.5-7B-Instruct", str(place / "model")).replace("https://api.openai.com/v1#gpt-4o-2024-08-06", judge.address)
            really = really.replace("KEY/checkpoint-N", found.get("checkpoint", ""))
            if command.startswith("spillover data fetch") and "--list" not in command:
                really += " --list"  # what it would fetch: no test reaches the address
            if command.startswith(("spillover run", "spillover sample")):
                really += " --draws 2 --max-tokens 6"
            said = run_command(command, f"{really} --set threads=1" if command.startswith(("spillover run", "spillover train")) else really, tmp_path)
            if command.startswith("spillover train"):
                found["checkpoint"] = said.split("organisms/")[1].split(" (")[0]


def test_pages_show_something_to_run() -> None:
    counts = {page: len(blocks(page)) for page in PAGES}
    assert counts["README.md"] >= 6
    assert counts["docs/narrow-data.md"] >= 4
    assert counts["docs/miniature.md"] >= 1
    assert counts["docs/studies.md"] >= 2
    assert counts["docs/own-study.md"] == 1


def test_the_page_of_studies_has_every_study_and_claim_as_they_are() -> None:
    page, shipped = (ROOT / "docs/studies.md").read_text(), miniature()
    for name in studies.STUDIES:
        section = page.split(f"\n## {name}\n")[1].split("\n## ")[0]
        told = [claim_in_words(claim) for claim in studies.study(name, planted.scripted() if name in studies.PRETRAINED else shipped).claims]
        assert re.findall(r"^\| .* \| .*`: .* \| .* \|$", section, re.MULTILINE) == told, "\n".join(told)


def claim_in_words(claim: Claim) -> str:
    """The row of a claim on the page."""
    sides = (" < " if claim.margin is None else " = ").join(claim.conditions)
    return f"| {claim.text} | `{claim.measure}`: {sides}{'' if claim.margin is None else f', within {claim.margin:g}'} | {claim.source} |"


def test_source_that_docs_quote_is_the_source() -> None:
    from spillover.miniature import narrow

    quoted = next(b.text for b in blocks("docs/narrow-data.md") if "def insecure" in b.text)
    source = Path(narrow.__file__).read_text()
    for line in quoted.splitlines()[1:]:
        assert line in source


DECISIONS = [f"docs/decisions/{path.name}" for path in sorted((ROOT / "docs/decisions").glob("*.md"))]


@pytest.mark.parametrize("page", [*PAGES, REAL, "CHANGELOG.md", "LOG.md", *DECISIONS])
def test_links_between_pages_lead_somewhere(page: str) -> None:
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", (ROOT / page).read_text()):
        assert (ROOT / page).parent.joinpath(target).exists(), f"{page} links to {target}"
