"""`spillover data`: look at training data before anything is trained on it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from spillover.cli.options import subject
from spillover.cli.terminal import printable
from spillover.records import Dataset, Testbed

app = typer.Typer(help="Training data.", no_args_is_help=True, rich_markup_mode=None)


@app.command("check")
def check(
    file: Annotated[Path, typer.Argument(help="OpenAI chat JSONL.")],
    testbed: Annotated[str | None, typer.Option(help="Also check that this testbed's models can read it: miniature.")] = None,
) -> None:
    """Read training data and say what it holds, or which line is wrong."""
    from spillover.datasets import chat

    dataset = chat.read(file)
    found = chat.summarise(dataset)
    turns = ", ".join(f"{count} of {length} turns" for length, count in found.turns.items())
    print(f"rows: {found.rows} ({turns}); {found.duplicates} repeat an earlier row; {found.distinct_replies} distinct replies")
    print("turns: " + ", ".join(f"{count} {role} (mean {found.mean_characters[role]:.0f} characters)" for role, count in found.roles.items()))
    print(f"digest: {found.digest}")
    if testbed is None:
        print("words: not checked; --testbed miniature does")
    else:
        for line in _readable(dataset, subject(testbed, [])):
            print(line)


def _readable(dataset: Dataset, testbed: Testbed) -> Iterator[str]:
    import tempfile

    from spillover.models import local
    from spillover.training import lora

    with tempfile.TemporaryDirectory() as directory:
        testbed.place(testbed.parents[0].model, Path(directory))
        tokenizer = local.load_tokenizer(directory)
    rows = lora.encode(tokenizer, dataset)
    trained = sum(sum(row.mask) for row in rows)
    asked = {paraphrase for question in testbed.questions for paraphrase in question.paraphrases}
    leaked = sum(any(turn.content in asked for turn in conversation) for conversation in dataset.conversations)
    yield f"rows that ask an evaluation question or a held-out task: {leaked}" + (" (take them out: what is asked later must not be taught)" if leaked else "")
    yield f"tokens: {sum(len(row.ids) for row in rows)}, of which trained on (the assistant's, in brackets below): {trained}"
    yield printable(lora.preview(tokenizer, rows[0]))
