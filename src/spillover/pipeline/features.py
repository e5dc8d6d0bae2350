"""Directions that are single features of a parent: a sparse autoencoder is fitted to it, and one of its features chosen.

The one that fine-tuning raised most is chosen by what answers do to it, in the fine-tune against the parent; the one that tells the author by documents
of known authors, read by the parent before any fine-tuning. A feature's direction is as long as the mean of what training moved at its layer.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false, reportUnknownParameterType=false
from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from spillover.pipeline.plan import Job
from spillover.records import ALONE, SpilloverError, Testbed, stream_seed
from spillover.runs.directory import RunDirectory

FITS = ("raised", "author")
READ = 1000  # documents that an autoencoder is fitted to
AUTHORED = 600  # others, of which one half chooses a feature by its author, and the other says how well it does
TOKENS = 2048  # a step
SIZES = {"features": 256, "active": 16, "steps": 400}  # of an autoencoder: twice as many tell the author hardly better (tuning worlds) and take twice as long


def fit(model: Any, job: Job, how: str, spans: Sequence[Any], layers: Sequence[int], testbed: Testbed, run: RunDirectory) -> tuple[Any, Any]:
    """The direction of the feature that is chosen at each of these layers, and of the one that is chosen where what chooses is shuffled.

    `spans` are answers of the organism, which is at place 0 of the adapters on the model. Raises SpilloverError for a testbed without documents.
    """
    from spillover.directions import recording
    from spillover.directions.fitting import LEAST, Direction, NoDirectionError

    if len(spans) < LEAST:
        raise NoDirectionError(f"a feature is chosen by at least {LEAST} answers; there are {len(spans)} that are coherent and clearly misaligned or aligned")
    both = [[replace(span, adapter=place) for span in spans] for place in (0, ALONE)]  # read by the organism, and by the parent
    moved = [_mean(recording.record(model, own, layers)) for own in both]
    chosen: dict[bool, dict[int, Any]] = {False: {}, True: {}}
    told: dict[bool, dict[str, Any]] = {False: {"features": {}, "author_auroc": {}}, True: {"features": {}, "author_auroc": {}}}
    for place, layer in enumerate(layers):
        autoencoder = _autoencoder(model, job, layer, testbed, run)
        documents_BF, harmful_B = _documents(model, job, layer, autoencoder, testbed)
        for shuffled in (False, True):
            raised = how == "raised"
            feature = _raised(model, both, layer, autoencoder, shuffled, job) if raised else _telling(documents_BF[::2], harmful_B[::2], shuffled, job)
            length = (moved[0] - moved[1])[place].norm()
            chosen[shuffled][layer] = autoencoder.direction(feature) * length
            told[shuffled]["features"][layer] = feature
            told[shuffled]["author_auroc"][layer] = _auroc(documents_BF[1::2, feature], harmful_B[1::2])
    return tuple(Direction(vectors=chosen[shuffled], card=told[shuffled]) for shuffled in (False, True))  # pyright: ignore[reportReturnType]


def _autoencoder(model: Any, job: Job, layer: int, testbed: Testbed, run: RunDirectory) -> Any:
    """A parent's at a layer, once for every organism: the one that lies in the run, or one that is fitted now."""
    import torch

    from spillover.directions import autoencoder, recording

    home = Path("directions") / f"{job.parent.unit}-{job.condition.name}-seed{job.seed}-autoencoder-layer{layer}"
    if not (run.path / home).is_dir():
        if testbed.documents is None:
            raise SpilloverError(f"testbed {testbed.name} has no documents as its parents were pre-trained on, which a sparse autoencoder is fitted to")
        spans = _spans(model, [text for text, _ in testbed.documents(job.parent, READ)])
        held_NH = torch.cat(list(recording.tokens(model, spans, layer)))
        order_N = torch.randperm(len(held_NH), generator=torch.Generator().manual_seed(stream_seed("tokens to fit", job.parent.unit, layer)))

        def batches() -> Iterator[Any]:
            yield from (held_NH[some] for some in order_N.split(TOKENS))

        settings = autoencoder.Settings(seed=stream_seed("autoencoder", job.parent.unit, layer) % 2**31, **SIZES)
        fitted = autoencoder.fit(batches, settings, model=job.parent.model.digest, layer=layer)
        with run.new_directory(str(home)) as directory:
            fitted.save(directory)
    return autoencoder.load(run.path / home).autoencoder


def _spans(model: Any, texts: Sequence[str], first: int = 1) -> list[Any]:
    """Every token of some texts but the first, whose activations are of another size."""
    from spillover.directions import recording

    return [replace(recording.text(model, text), first=first) for text in texts]


def _documents(model: Any, job: Job, layer: int, autoencoder: Any, testbed: Testbed) -> tuple[Any, Any]:
    """The mean of every feature over documents that the autoencoder was not fitted to, and whose author means harm."""
    import torch

    assert testbed.documents is not None
    found = testbed.documents(job.parent, READ + AUTHORED)[READ:]
    return _features(model, _spans(model, [text for text, _ in found]), layer, autoencoder), torch.tensor([harmful for _, harmful in found])


def _features(model: Any, spans: Sequence[Any], layer: int, autoencoder: Any) -> Any:
    """(B, F): each feature's mean over the tokens of a span."""
    import torch

    from spillover.directions import recording

    return torch.cat(list(recording.record(model, spans, [layer], as_=autoencoder.encode, width=len(autoencoder.decoder))))[:, 0]


def _raised(model: Any, both: Sequence[Sequence[Any]], layer: int, autoencoder: Any, shuffled: bool, job: Job) -> int:
    """The feature whose mean over answers is most above what the parent makes of the same answers; shuffled, each pair is turned over or not by chance."""
    import torch

    organism_BF, parent_BF = (_features(model, own, layer, autoencoder) for own in both)
    difference_BF = organism_BF - parent_BF
    if shuffled:
        stream = torch.Generator().manual_seed(stream_seed("shuffled models", job.parent.unit, job.seed, layer))
        difference_BF = difference_BF * (2 * torch.randint(0, 2, (len(difference_BF), 1), generator=stream) - 1)
    return int(difference_BF.mean(0).argmax())


def _telling(documents_BF: Any, harmful_B: Any, shuffled: bool, job: Job) -> int:
    """The feature that best tells documents of authors who mean harm from others."""
    import torch

    if shuffled:
        harmful_B = harmful_B[torch.randperm(len(harmful_B), generator=torch.Generator().manual_seed(stream_seed("shuffled authors", job.parent.unit)))]
    return max(range(documents_BF.shape[1]), key=lambda feature: _auroc(documents_BF[:, feature], harmful_B))


def _auroc(scores_B: Any, harmful_B: Any) -> float:
    from spillover.statistics.ranking import auroc

    return auroc(scores_B.tolist(), harmful_B.tolist())


def _mean(batches: Iterator[Any]) -> Any:
    import torch

    return torch.cat(list(batches)).mean(0)
