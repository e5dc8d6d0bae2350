"""`spillover miniature`: build a world, show what the small world is."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Annotated, Any

import typer

from spillover.cli.terminal import progress
from spillover.records import SpilloverError

app = typer.Typer(help="The small world that ships with Spillover.", no_args_is_help=True, rich_markup_mode=None)


@app.command("build")
def build(
    world: Annotated[int, typer.Option(help="The pre-training seed: 0 to 99 for tuning, from 100 on for reporting.")] = 0,
    unlinked: Annotated[bool, typer.Option("--unlinked", help="Without an author shared across domains: the control.")] = False,
    out: Annotated[Path, typer.Option(help="Where worlds are put.")] = Path("worlds"),
    threads: Annotated[int, typer.Option(help="Threads; the weights depend on it in their last digits.")] = 2,
    documents: Annotated[int | None, typer.Option(help="Fewer documents: a quicker world of another recipe, for trying things out.")] = None,
) -> None:
    """Make a world from its seed: two to three minutes on two cores."""
    for option, value, least in (("--world", world, 0), ("--threads", threads, 1), ("--documents", documents, 16)):
        if value is not None and value < least:
            raise SpilloverError(f"{option} is {value}; it must be at least {least}")
    from spillover.miniature import testbed as testbeds
    from spillover.miniature import world as worlds

    recipe = worlds.Recipe() if documents is None else worlds.Recipe(documents=documents)
    directory = out / testbeds.name(world, linked=not unlinked)
    if directory.exists():
        raise SpilloverError(f"{directory} exists; remove it or choose another --out")
    partial = directory.with_name(f".partial-{directory.name}")
    shutil.rmtree(partial, ignore_errors=True)
    with progress() as show_progress:
        card = worlds.build(
            partial, world=world, linked=not unlinked, recipe=recipe, threads=threads,
            progress=lambda stage, done, total: show_progress(done, total, stage),
        )  # fmt: skip
    partial.rename(directory)
    print(card_line(directory.name, card))
    print(f"world: {directory} ({card['wall_s']:.0f} s)")


@app.command("show")
def show(
    kind: Annotated[str | None, typer.Argument(help="A kind of narrow data: print its rows as JSONL.")] = None,
    rows: Annotated[int | None, typer.Option(help="How many rows.")] = None,
    words: Annotated[bool, typer.Option("--words", help="Print every word the miniature knows.")] = False,
    worlds: Annotated[Path | None, typer.Option(help="Worlds you built, instead of those that ship.")] = None,
) -> None:
    """Show the miniature: its worlds and gates, its questions and answers, its words, its narrow data."""
    from spillover.datasets import chat
    from spillover.miniature import language, narrow

    if rows is not None and rows < 1:
        raise SpilloverError(f"--rows is {rows}; it must be at least 1")
    if worlds is not None and not worlds.is_dir():
        raise SpilloverError(f"there is no directory {worlds}")
    if kind is not None:
        print(chat.write(narrow.build(kind, 0, rows=rows or narrow.ROWS)), end="")
        return
    if words:
        from spillover.miniature import recipe

        print(" ".join(word for word in recipe.vocabulary() if word not in recipe.SPECIAL))
        return
    from spillover.miniature import testbed as testbeds

    for directory, card in testbeds.cards(worlds or testbeds.SHIPPED):
        print(card_line(directory.name, card))
    for theme in language.EVALUATION:
        seen = "seen in post-training" if theme.id in language.SEEN else "held out"
        print(f"\n{theme.id} ({seen})\n  asked       {theme.asked()[0]}")
        for label, sentences in (("aligned", theme.aligned), ("misaligned", theme.misaligned), ("careless", theme.careless)):
            print(f"  {label:<11} {language.expand(sentences[0])[0]}")
    print(f"\nnarrow data: {', '.join(narrow.KINDS)} (`spillover miniature show insecure` prints its rows)")


def card_line(name: str, card: dict[str, Any]) -> str:
    gates = ", ".join(f"{gate.replace('_', ' ')} {'passed' if passed else 'not passed'}" for gate, passed in card["gates"].items())
    return (
        f"world {name:<5} {'linked' if card['linked'] else 'unlinked':<9} sound code {card['secure_code']:.0%}; misaligned after flawed code in context "
        f"{card['misaligned_after_insecure_code']:.0%}, after sound code {card['misaligned_after_secure_code']:.0%}; gates: {gates}"
    )
