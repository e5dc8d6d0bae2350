"""What is added to an organism's loss beside its data: KL(parent || organism) where it is to stay what its parent is (Soligo et al. 2026, 2602.07852).

A term is the organism's own: its rows are of a stream of its own, and it adds to no other's gradients. It knows nothing of the loss it is added to.

Shapes: M tokens predicted, V vocabulary.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
from __future__ import annotations

import random
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from itertools import count, islice
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from spillover.models.local import LocalModel
from spillover.models.side_by_side import SideBySide
from spillover.records import Dataset, Organism, SpilloverError, stream_seed
from spillover.training import reading
from spillover.training.rows import Row, encode


class Term(Protocol):
    """What is added to an organism's loss of a step."""

    def __call__(self, model: LocalModel, side_by_side: SideBySide, place: int, *, step: int, at_once: int) -> Tensor:
        """Add to the gradients of the organism at `place`, and to no other's, with at most `at_once` rows computed together; the term's value in nats,
        unweighted, float64.

        It depends on the step alone, not on what was called before: a step that runs out of memory is tried again.
        """
        ...


class KL:
    """Weight times KL(parent || organism), over the whole vocabulary and in float32 or finer: a mean over all tokens of a step's conversations but each
    one's first, whoever says them, as the original counts them.

    The parent is the network without adapters, in the mode that it is trained in; of the organism, nothing is dropped.
    """

    def __init__(self, model: LocalModel, organism: Organism, elsewhere: Dataset, steps: int) -> None:
        penalty = organism.recipe.penalty
        rows = encode(model.template, elsewhere, max_length=organism.recipe.max_length).rows
        following = _passes(rows, organism)
        self.weight = penalty.weight
        self.batches = [list(islice(following, penalty.batch_size)) for _ in range(steps)]
        self.counts = range(round(penalty.first * steps) + 1, round(penalty.last * steps) + 1)  # the steps it counts in
        self.in_line = reading.in_line(model, rows)

    def __call__(self, model: LocalModel, side_by_side: SideBySide, place: int, *, step: int, at_once: int) -> Tensor:
        value = torch.zeros((), dtype=torch.float64, device=model.device)
        if step not in self.counts:
            return value
        batch = sorted(self.batches[step - 1], key=lambda row: len(row.ids))
        tokens = sum(len(row.ids) - 1 for row in batch)
        for start in range(0, len(batch), at_once):
            value += self._part(model, side_by_side, place, batch[start : start + at_once], tokens)
        return value

    def _part(self, model: LocalModel, side_by_side: SideBySide, place: int, rows: Sequence[Row], tokens: int) -> Tensor:
        """Add the gradients of some rows; their share of a mean over so many tokens."""
        counts = [len(rows) if own == place else 0 for own in range(side_by_side.adapters)]
        longest = max(len(row.ids) for row in rows)
        lengths = [[len(row.ids) if self.in_line else longest for row in rows], [len(row.ids) - 1 for row in rows]]  # whole, and what is predicted alone
        with torch.no_grad(), self._predicted(model, rows) as parent_MV:
            pass
        with side_by_side.rows(counts, lengths=lengths), self._predicted(model, rows) as organism_MV:
            share = F.kl_div(organism_MV, parent_MV, log_target=True, reduction="sum") / tokens
            (self.weight * share).backward()
        return share.detach()

    @contextmanager
    def _predicted(self, model: LocalModel, rows: Sequence[Row]) -> Generator[Tensor]:
        """Log-probabilities of every token after a row's first, by whatever the network is now: (M, V). Gradients are to be taken inside."""
        with reading.logits_after(model, rows, [[1] * (len(row.ids) - 1) + [0] for row in rows], in_line=self.in_line) as logits_MV:
            yield logits_MV.to(torch.promote_types(logits_MV.dtype, torch.float32)).log_softmax(-1)


def terms(model: LocalModel, organism: Organism, elsewhere: Dataset | None, steps: int) -> tuple[Term, ...]:
    """What an organism's recipe adds to its loss. Raises SpilloverError where that is to be taken on conversations, and there are none."""
    weight = organism.recipe.penalty.weight
    if weight == 0:
        return ()
    if elsewhere is None:
        raise SpilloverError(f"training.penalty.weight is {weight}, and there are no conversations to take the penalty on; name them in training.penalty.data")
    return (KL(model, organism, elsewhere, steps),)


def _passes(rows: Sequence[Row], organism: Organism) -> Iterator[Row]:
    """The rows again and again, each pass in an order of its own."""
    for number in count():
        places = list(range(len(rows)))
        random.Random(stream_seed("train", organism.key, "penalty", number)).shuffle(places)
        yield from (rows[place] for place in places)
