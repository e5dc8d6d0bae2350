"""The card of a whole paper: a row a claim, a figure a study, and what the text in it cannot do."""

from __future__ import annotations

import html
import re
from pathlib import Path

import pytest

from spillover import report
from spillover.records import SpilloverError
from spillover.report import index, overview
from spillover.report.card import SYMBOLS
from spillover.report.parts import Part
from spillover.runs.directory import RunDirectory
from test_report import CLAIM, PUBLISHED, made, words

HOSTILE = "<script>document.title='ran'</script>|`[a](javascript:b)\u202e"
WORLDS = {str(world): ("", world) for world in range(4)}
NOTES = {"ability": "its parents are pre-trained for it", "main": "is there", "origins": ""}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("paper")


@pytest.fixture(scope="module")
def runs(home: Path) -> dict[str, RunDirectory]:
    """Two studies of three and two claims: one that holds, one that fails, and one whose measure was not taken."""
    rising, falling = CLAIM, {**CLAIM, "name": "falling", "text": "Secure code is worse", "measure": "log_odds", "conditions": ["insecure", "secure"]}
    untaken = {**CLAIM, "name": "untaken", "text": "It lies", "measure": "truth=FALSE"}
    found = {
        "main": made(home / "runs/main", WORLDS, said={"claims": [rising, falling, untaken], "published": PUBLISHED, "figure": "questions"}),
        "a study": made(home / "runs/a study", WORLDS, draws=10, said={"claims": [rising, {**rising, "name": "again"}], "title": "Another study"}),
    }
    report.write(found["a study"])
    return found


@pytest.fixture(scope="module")
def text(home: Path, runs: dict[str, RunDirectory]) -> str:
    return index.write_index(home, runs, NOTES).read_text(encoding="utf-8")


def parts(home: Path, runs: dict[str, RunDirectory]) -> list[Part]:
    return [index._part(name, index.reading.read(run), index._link(home, run)) for name, run in runs.items()]


def test_every_claim_has_a_row_with_its_verdict_in_a_word_and_a_sign(home: Path, runs: dict[str, RunDirectory], text: str) -> None:
    found = {line.text: line for line in parts(home, runs)[0].lines}
    decided = {decision.claim.text: decision.verdict for decision in runs["main"].decisions()}
    assert {claim: line.verdict for claim, line in found.items()} == {**decided, "It lies": "untested"}
    assert found["Secure code is worse"].verdict == "fails"
    lacks = "no 'truth=FALSE' of secure was taken"
    assert found["It lies"].untested == lacks
    assert f"It lies a paper {SYMBOLS['untested']} untested {lacks}" in words(text)
    assert f"| {lacks} |" in index.markdown(parts(home, runs), [])
    for line in found.values():
        assert f"{line.text} a paper {line.symbol} {line.verdict}" in words(text)
    assert len({line.symbol for line in found.values()}) == len({line.verdict for line in found.values()})


def test_the_tally_counts_every_claim(home: Path, runs: dict[str, RunDirectory], text: str) -> None:
    counts = index._tally(parts(home, runs))
    assert sum(counts.values()) == 5
    for verdict, count in counts.items():
        assert f"{SYMBOLS[verdict]} {count} {verdict}" in words(text)


def test_a_row_has_the_contrast_with_its_interval_and_units(runs: dict[str, RunDirectory], text: str) -> None:
    row = runs["main"].decisions()[0].contrasts[0]
    shown = words(text)
    assert f"insecure \N{MINUS SIGN} secure +{100 * row.value:.1f} points [{100 * row.low:.1f}, {100 * row.high:.1f}] misaligned rate 4 worlds" in shown


def test_published_numbers_stand_beside_the_claims_of_their_measure_only(home: Path, runs: dict[str, RunDirectory], text: str) -> None:
    main, _ = parts(home, runs)
    assert [[number.text for number, _ in line.published] for line in main.lines] == [["GPT-4o, insecure"], [], []]
    assert "they are context, and no number or verdict here has them in it" in words(text)


def test_reports_are_linked_by_relative_path_where_there_is_one(text: str) -> None:
    links = {html.unescape(link) for link in re.findall(r'href="([^"#]+)"', text)}
    assert links == {"runs/a%20study/report.html"}


def test_studies_that_were_not_run_are_named_with_the_reason(text: str) -> None:
    shown = words(text)
    assert "ability its parents are pre-trained for it" in shown
    assert "origins no reason was given" in shown
    assert "main is there" not in shown


def test_every_study_shows_its_first_figure_with_a_text_for_those_who_do_not_see_it(text: str) -> None:
    images = re.findall(r"<img [^>]+>", text)
    assert len(images) == 2
    assert all(re.search(r'src="data:image/svg\+xml;base64,[^"]+" alt="[^"]{40,}"', image) for image in images)
    assert "Misaligned rate by question" in images[0]


def test_the_page_runs_nothing_and_loads_nothing(text: str) -> None:
    policy = html.unescape(re.search(r'Content-Security-Policy" content="([^"]+)"', text).group(1))
    assert policy.startswith("default-src 'none'; style-src 'sha256-")
    assert "script-src" not in policy
    assert "<script" not in text
    assert not re.search(r"https?:|//[a-z]", re.sub(r"data:image/svg\+xml;base64,[A-Za-z0-9+/=]+", "", text))


def test_hostile_text_is_shown_and_does_nothing(tmp_path: Path) -> None:
    said = {
        "study": HOSTILE, "title": HOSTILE, "claims": [{**CLAIM, "text": HOSTILE, "source": HOSTILE}],
        "published": [{**PUBLISHED[0], "text": HOSTILE, "source": HOSTILE}],
    }  # fmt: skip
    runs = {HOSTILE: made(tmp_path / "run", {"0": ("", 0), "1": ("", 1)}, draws=5, said=said)}
    notes = {"x" + HOSTILE: HOSTILE}
    shown = index.write_index(tmp_path, runs, notes).read_text(encoding="utf-8")
    assert "<script" not in shown
    assert "\u202e" not in shown
    index.write_card(tmp_path, runs, notes)
    table = (tmp_path / "card.md").read_text(encoding="utf-8")
    assert "<script" not in table
    assert "](javascript" not in table
    assert "\u202e" not in table
    assert {line.count("|") for line in table.splitlines() if line.startswith("|")} == {7}
    assert "<script" not in (tmp_path / "card.svg").read_text(encoding="utf-8")


def test_the_same_runs_give_the_same_bytes(home: Path, runs: dict[str, RunDirectory], text: str) -> None:
    def everything() -> dict[str, bytes]:
        index.write_index(home, runs, NOTES)
        index.write_card(home, runs, NOTES)
        return {path.name: path.read_bytes() for path in home.iterdir() if path.is_file()}

    first = everything()
    assert first.keys() == {"index.html", "card.svg", "card.png", "card.md"}
    assert first["index.html"].decode() == text
    assert everything() == first


def test_the_markdown_table_has_a_row_a_claim(home: Path, runs: dict[str, RunDirectory]) -> None:
    shown = index.markdown(parts(home, runs), [("ability", "later")])
    rows = [line for line in shown.splitlines() if line.startswith("|")]
    assert len(rows) == 2 + 5
    assert "[a study](runs/a%20study/report.html)" in shown
    assert shown.endswith("- not run: ability: later\n")


def test_studies_are_never_cut_between_columns(home: Path, runs: dict[str, RunDirectory]) -> None:
    blocks = [overview._block(part) for part in parts(home, runs)]
    assert overview._columns(blocks) == blocks
    assert overview._columns([]) == [[], []]


def test_a_card_of_nothing_is_a_card(tmp_path: Path) -> None:
    assert index.write_card(tmp_path, {}, {"main": "later"}).exists()
    assert "Studies that were not run" in index.write_index(tmp_path, {}, {"main": "later"}).read_text(encoding="utf-8")


def test_a_run_without_estimates_is_refused_in_one_sentence(tmp_path: Path, runs: dict[str, RunDirectory]) -> None:
    unfinished = RunDirectory.start(tmp_path / "run", dict(runs["main"].identity))
    with pytest.raises(SpilloverError, match="has no estimates yet"):
        index.write_index(tmp_path, {"main": unfinished})
