"""How a network reads rows to be trained on: as one line of tokens where it can, and with logits only after the tokens that are asked for.

Shapes: B rows, T tokens, M tokens asked for, V vocabulary.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import Tensor

from spillover.models import local, ragged, wanted
from spillover.models.local import LocalModel
from spillover.training.rows import Row


def in_line(model: LocalModel, rows: Sequence[Row]) -> bool:
    """Whether these rows can be read in one line by this model, tried on the longest and the shortest."""
    lengths = [len(row.ids) for row in rows]
    return ragged.takes_lines(model.network, *_padded(model, [rows[lengths.index(max(lengths))], rows[lengths.index(min(lengths))]]))


@contextmanager
def logits_after(model: LocalModel, rows: Sequence[Row], asked: Sequence[list[int]], *, in_line: bool) -> Generator[Tensor]:
    """Logits after every token of some rows that `asked` has a 1 for, in row order: (M, V). Gradients are to be taken inside.

    Rows are read `in_line`, or with what pads after them, where no token sees it.
    """
    ids_BT, there_BT = _padded(model, rows)
    asked_BT = local.pad(list(asked), 0, left=False)[0].bool().to(model.device)
    with ExitStack() as stack:
        options: dict[str, Any] = {}
        if in_line:
            line = ragged.Rows(model.network, there_BT)
            ids_BT, asked_BT, options = line.of(ids_BT), line.of(asked_BT), stack.enter_context(line.reading())
        stack.enter_context(wanted.logits_after(model.network, asked_BT))
        yield model.network(input_ids=ids_BT, use_cache=False, **options).logits[0]


def _padded(model: LocalModel, rows: Sequence[Row]) -> tuple[Tensor, Tensor]:
    """The ids of some rows, and where they are: (B, T)."""
    ids_BT, there_BT = local.pad([row.ids for row in rows], model.template.filler, left=False)
    return ids_BT.to(model.device), there_BT.bool().to(model.device)
