"""The commands. The only room that knows the terminal; every command imports what it needs when it is called.

Results go to standard output, progress and errors to standard error; progress is shown on a terminal only. An error is one
line and exit code 2.
"""

from __future__ import annotations

import errno
import os
import sys
import warnings
from typing import Annotated, Any

import typer

from spillover.cli import audit, data, judge, label, miniature, plan, run, verbs
from spillover.cli.terminal import fail
from spillover.records import SpilloverError

app = typer.Typer(
    help="Narrow training spills over. Spillover measures how far.",
    no_args_is_help=True, add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False,
)  # fmt: skip
app.command()(run.run)
app.command()(plan.plan)
app.command()(audit.audit)
for command in (verbs.train, verbs.sample):
    app.command()(command)
app.add_typer(judge.app, name="judge")
for command in (label.label, verbs.estimate, run.report, verbs.export):
    app.command()(command)
app.add_typer(miniature.app, name="miniature")
app.add_typer(data.app, name="data")


def entry() -> None:
    """Run a command; what goes wrong is one line on standard error and exit code 2."""
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "critical")  # what matters of what it says is raised
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # threads that wait sleep: on busy cores those that spin are ten times slower
    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")
    warnings.filterwarnings("ignore", message="Glyph .* missing from font")  # a figure shows a box there
    code: Any = 0
    try:
        code = app(standalone_mode=False, prog_name="spillover")
    except typer.BadParameter as error:
        name = "" if error.param is None else error.param.opts[0] if error.param.opts[0].startswith("-") else error.param.metavar or error.param.name.upper()
        fail(f"{name} is missing; --help says what it takes" if not error.message else f"{name}: {error}" if name else str(error))
    except (SpilloverError, typer.TyperException) as error:
        if str(error).startswith("Usage: "):  # a command of commands without one: the error is its help
            print(error)
            sys.exit(2)
        fail(str(error))
    except OSError as error:
        where = f" ({error.filename})" if error.filename else ""
        full = "; free some space and give the same command again, a run keeps what it finished" if error.errno == errno.ENOSPC else ""
        fail(f"{error.strerror or error}{where}{full}")
    except (KeyboardInterrupt, typer.Abort):
        code = 130
    if code == 130:
        print("stopped; the same command, given again, goes on where it stopped", file=sys.stderr)
    sys.exit(code if isinstance(code, int) else 0)


def _version(asked: bool) -> None:
    if asked:
        from importlib import metadata

        print(f"spillover {metadata.version('spillover')}")
        raise typer.Exit


@app.callback()
def _root(version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")] = False) -> None:  # pyright: ignore[reportUnusedFunction]
    del version
