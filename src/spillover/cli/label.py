"""`spillover label`: labels made by hand, in a page in the browser."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Annotated

import typer

from spillover.cli.terminal import printable


def label(
    file: Annotated[Path, typer.Argument(help="A table (CSV) of answers in random order; labels are saved in it.")],
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port of the page on this machine; 0 takes a free one.")] = 0,
) -> None:
    """Label answers by hand, one at a time and without seeing whose they are, in a page in the browser."""
    from spillover.labelling import server

    with server.serve(file, port) as labelling, suppress(KeyboardInterrupt):
        if labelling.labelled < labelling.total:
            print(f"open {labelling.url}")
            print("every label is saved at once; Ctrl-C stops, and the same command goes on", flush=True)
        labelling.wait()
    done, total = labelling.labelled, labelling.total
    print(printable(f"all {total} answers in {file} are labelled" if done == total else f"{done} of {total} answers in {file} are labelled"))
