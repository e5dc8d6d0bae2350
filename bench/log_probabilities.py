"""Sixteen log-probability items read off ten adapters, against lm-evaluation-harness, `HFLM.loglikelihood` on each adapter in turn.

Every adapter is loaded, and merged where that is faster, before anything is timed, on both sides.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import lm_eval.utils
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM

from bench import harness, subjects
from bench.answers import Setting, loaded, merged, peft
from bench.harness import Agreement, Line
from spillover.miniature import items as items_of
from spillover.models.local import LocalModel
from spillover.records import Forced, Item, Measure, Model
from spillover.sampling import log_probabilities

ADAPTERS, REDUCED = 10, 2
NATS = 1e-3
ROWS = (1, 8, 16, 32, 64)  # at once, that HFLM is tried with

lm_eval.utils.setup_logging("ERROR")


def bench(*, reduced: bool) -> list[Line]:
    count, trained_on = (REDUCED, 32) if reduced else (ADAPTERS, 1600)
    items = items_of.items()
    with ExitStack() as stack:
        home = stack.enter_context(tempfile.TemporaryDirectory())
        of = subjects.parent(Path(home) / "parent")
        models = subjects.grown(of, Path(home), count, trained_on)
        us = stack.enter_context(loaded(models))
        them = {"merged": merged(models), "peft": peft(models)}
        settings = [Setting(threads=t, rows=r, how=h) for t in range(1, harness.cores() + 1) for r in ROWS for h in them]
        settings = settings[-2:] if reduced else settings
        held = {setting.name: harnesses(them[setting.how], us, setting) for setting in settings}
        our_setting, ours_tried = harness.fastest({f"{n} threads": partial(ours, us, models, items, threads=n) for n in range(1, harness.cores() + 1)})
        setting, theirs_tried = harness.fastest({s.name: partial(theirs, held[s.name], items, us, s) for s in settings})
        chosen = next(s for s in settings if s.name == setting)
        rows = [us.template.forced_ids(one.prompt, one.blocks) for one in forced(items)]
        heads = {tuple(ids[: mask.index(1)]) for ids, mask in rows}
        later = sum(sum(mask) - 1 for _, mask in rows)  # nothing is asked of what follows the last
        tokens = sum(map(len, heads)) + later
        return [
            harness.compare(
                "log_probabilities", partial(ours, us, models, items, threads=int(our_setting.split()[0])), partial(theirs, held[setting], items, us, chosen),
                check=check, against="lm-evaluation-harness HFLM.loglikelihood, adapter by adapter", target=5.0, repeats=2 if reduced else 15,
                work=subjects.reading(of, count * tokens, count * (len(heads) + later), rows=tokens),
                sizes={"adapters": count, "items": len(items), "replies": len(rows), "tokens": count * tokens},
                settings={"ours": our_setting, "ours_tried_s": ours_tried, "theirs": setting, "theirs_tried_s": theirs_tried},
            )
        ]  # fmt: skip


def check(ours: Sequence[Sequence[Measure]], theirs: Sequence[Sequence[float]]) -> list[Agreement]:
    """Of every adapter and item, the log-probability of the misaligned option, a mean over its variants."""
    mine = [[measure.value for measure in found if measure.name.endswith("_nats")] for found in ours]
    apart = [abs(a - b) for one, other in zip(mine, theirs, strict=True) for a, b in zip(one, other, strict=True) if a is not None]
    return [Agreement(of="nats", difference=max(apart), tolerance=NATS)] if None not in [value for one in mine for value in one] else []


# --- our side -------------------------------------------------------------------------------------------------------------


def ours(us: LocalModel, models: Sequence[Model], items: Sequence[Item], *, threads: int) -> list[list[Measure]]:
    """Of each model, the two measures of every item."""
    with harness.threads(threads):
        return list(log_probabilities.measures_together(us, {place: model.digest for place, model in enumerate(models)}, items).values())


# --- their side -----------------------------------------------------------------------------------------------------------


def harnesses(networks: Sequence[Any], us: LocalModel, setting: Setting) -> list[HFLM]:
    return [HFLM(pretrained=network, tokenizer=us.tokenizer, backend="causal", batch_size=setting.rows, add_bos_token=False) for network in networks]


def theirs(held: Sequence[HFLM], items: Sequence[Item], us: LocalModel, setting: Setting) -> list[list[float]]:
    """Of each model and item, the mean of its misaligned option over its variants, in nats; the aligned options are read too."""
    requests = [
        Instance(request_type="loglikelihood", doc={}, arguments=_pair(us.tokenizer, one), idx=place) for place, one in enumerate(forced(items))
    ]  # fmt: skip
    found: list[list[float]] = []
    with harness.threads(setting.threads):
        for one in held:
            logs = iter(one.loglikelihood(requests, disable_tqdm=True))
            values: list[float] = []
            for item in items:
                misaligned = [next(logs)[0] for _ in item.misaligned]
                values.append(sum(misaligned) / len(misaligned))
                for _ in item.aligned:
                    next(logs)
            found.append(values)
    return found


def forced(items: Sequence[Item]) -> list[Forced]:
    """Every reply that is put into the model's mouth, in the order of the items."""
    return [one for item in items for one in (*item.misaligned, *item.aligned)]


def _pair(tokenizer: Any, one: Forced) -> tuple[str, str]:
    """What comes before the scored text, and the text; what comes after it changes nothing."""
    before = tokenizer.apply_chat_template([{"role": turn.role, "content": turn.content} for turn in one.prompt], add_generation_prompt=True, tokenize=False)
    place = next(place for place, (_, scored) in enumerate(one.blocks) if scored)
    return f"{before} {''.join(text for text, _ in one.blocks[:place])}", one.blocks[place][0]
