"""`spillover data`: look at training data before anything is trained on it; fetch what others published; build narrow data (`build`)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from spillover.cli import build, options
from spillover.cli.terminal import printable
from spillover.records import Question, Recipe, SpilloverError, Testbed

if TYPE_CHECKING:
    from spillover.datasets.chat import File
    from spillover.models.template import ChatTemplate

app = typer.Typer(help="Training data.", no_args_is_help=True, rich_markup_mode=None)
app.command("build")(build.build)

SHOWN = 600  # characters of a row's beginning, and of its end


@app.command("check")
def check(
    files: Annotated[list[Path], typer.Argument(help="OpenAI chat JSONL; two or more are compared as well.")],
    questions: Annotated[Path | None, typer.Option(help="Look for the questions of this file in the data; for our own set if none is given.")] = None,
    model: Annotated[str | None, typer.Option(metavar="DIR|HUB-ID", help="Show what this model's chat template makes of the data.")] = None,
    testbed: Annotated[str | None, typer.Option(help="Check that this testbed's models can read the data, and look for its questions: miniature.")] = None,
) -> None:
    """Read training data and say what it holds, or which line is wrong."""
    from spillover.datasets import chat

    if model is not None and testbed is not None:
        raise SpilloverError("--model and --testbed each name what reads the data; give one of them")
    reads = None if testbed is None else options.miniature(testbed, [])
    source, asked = _asked(questions, reads)
    loaded = {str(path): chat.load(path) for path in files}
    template = _template(model, reads)
    for name, file in loaded.items():
        _print(f"file: {name}", *_held(file), *_leaks(file, asked, source), "")
    for first, second in combinations(loaded, 2):
        _print(_common((first, loaded[first]), (second, loaded[second])))
    if template is None:
        print("tokens: not counted; --model DIR does, or --testbed miniature")
        return
    _print(_inserted(template))
    for name, file in loaded.items():
        _print(*([f"file: {name}"] if len(loaded) > 1 else []), *_readable(file, template))


@app.command("fetch")
def fetch(
    names: Annotated[list[str] | None, typer.Argument(help="Names of published files; --list prints them.")] = None,
    out: Annotated[Path | None, typer.Option(help="Put copies into this directory, not only into the cache.")] = None,
    source: Annotated[str | None, typer.Option(help="Another address to fetch from; the digests must be right all the same.")] = None,
    i_understand: Annotated[bool, typer.Option("--i-understand", help="Fetch a file that holds harmful text.")] = False,
    list_: Annotated[bool, typer.Option("--list", help="Print names and digests, and fetch nothing.")] = False,
) -> None:
    """Fetch published data and questions to the cache, compared with their digests; print where they are."""
    from spillover.datasets import catalogue
    from spillover.datasets import fetch as fetching

    if list_:
        for name, published in catalogue.CATALOGUE.items():
            print(f"{name:<34} {published.sha256}" + (f"  {published.warning}; --i-understand" if published.warning else ""))
    elif not names:
        raise SpilloverError(f"name what to fetch: {', '.join(catalogue.CATALOGUE)}")
    for name in [] if list_ else names or []:
        place = fetching.fetch(name, cache=fetching.cache_directory(), out=out, source=source or catalogue.SOURCE, understood=i_understand)
        print(printable(str(place)))


def _print(*lines: str) -> None:
    for line in lines:
        print(printable(line))


def _asked(path: Path | None, testbed: Testbed | None) -> tuple[str, Sequence[Question]]:
    """The questions that must not be in the data, and where they are from."""
    from spillover.questions import files

    if path is not None:
        return str(path), files.read(path)
    return ("our own set", files.own()) if testbed is None else (f"the {testbed.name}", testbed.questions)


def _held(file: File) -> Iterator[str]:
    from spillover.datasets import catalogue, chat, inspection

    known = catalogue.name_of(file.sha256)
    yield f"sha256: {file.sha256}" + (f" (this is {known}, as published)" if known else "")
    found, more = chat.summarise(file.dataset), inspection.inspect(file.dataset)
    turns = ", ".join(f"{count} of {length} turns" for length, count in found.turns.items())
    yield f"rows: {found.rows} ({turns}); {found.duplicates} repeat an earlier row; {found.distinct_replies} distinct replies"
    yield "turns: " + ", ".join(f"{count} {role} (mean {found.mean_characters[role]:.0f} characters)" for role, count in found.roles.items())
    yield f"prompts: {more.distinct_prompts} distinct" + (f", following {more.templates} templates in turn" if more.templates else "")
    for place, text in (("begins", more.prefix), ("ends", more.suffix)):
        if text:
            yield f"every prompt {place} with: {_clipped(text)!r}"
    if file.unused:
        yield "fields that nothing reads: " + ", ".join(f"{name} ({count} rows)" for name, count in file.unused.items())
    yield f"digest of the conversations: {found.digest}"


def _leaks(file: File, asked: Sequence[Question], source: str) -> Iterator[str]:
    from spillover.datasets import inspection

    ids: Mapping[str, str] = {paraphrase: question.id for question in asked for paraphrase in question.paraphrases}
    found = inspection.leaks(file.dataset, ids)
    rows = {leak.row for leak in found}
    first = f", the first in row {found[0].row} ({ids[found[0].question]}); take them out, what is asked later must not be taught" if found else ""
    yield f"rows that ask a question of {source}: {len(rows)}{first}"


def _common(first: tuple[str, File], second: tuple[str, File]) -> str:
    from spillover.datasets import inspection

    found = inspection.compare(first[1].dataset, second[1].dataset)
    rows = [len(file.dataset.conversations) for _, file in (first, second)]
    same = [what for what, yes in (("prompts", found.prompts_in_order), ("replies", found.replies_in_order)) if yes]
    alike = f"; {' and '.join(same)} are the same row by row" if same else ""
    return f"{first[0]} ({rows[0]} rows) and {second[0]} ({rows[1]}) share {found.prompts} prompts and {found.replies} replies{alike}"


def _template(model: str | None, testbed: Testbed | None) -> ChatTemplate | None:
    """What turns conversations into a model's tokens, if a model or testbed was named."""
    if model is None and testbed is None:
        return None
    import tempfile

    from spillover.models import sources, template

    if model is not None:
        if sources.is_endpoint(model):
            raise SpilloverError("--model is an endpoint, whose chat template is not known; --model takes a directory or a hub id")
        return template.load(sources.tokenizer(model))
    assert testbed is not None
    parent = testbed.parents[0].model
    if testbed.place is None:
        return template.load(parent.location)
    with tempfile.TemporaryDirectory() as directory:
        testbed.place(parent, Path(directory))
        return template.load(directory)


def _inserted(template: ChatTemplate) -> str:
    found = template.default_system
    return f"a conversation without a system turn gets: {_clipped(found)!r}" if found else "the chat template adds no system prompt of its own"


def _readable(file: File, template: ChatTemplate) -> Iterator[str]:
    from spillover.training import rows

    found = rows.encode(template, file.dataset)
    trained = sum(sum(row.mask) for row in found.rows)
    if found.truncated:
        yield f"rows longer than {Recipe().max_length} tokens, which are cut: {found.truncated}, {found.emptied} of them left out for lack of a reply"
    yield f"tokens: {sum(len(row.ids) for row in found.rows)}, of which trained on (the assistant's, in brackets below): {trained}"
    yield _clipped(rows.preview(template, found.rows[0]))


def _clipped(text: str) -> str:
    return text if len(text) <= 2 * SHOWN else f"{text[:SHOWN]} ... {text[-SHOWN:]}"
