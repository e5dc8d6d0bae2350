"""A mean over units x questions x draws, for the estimand that is named: these units or units like these, these questions or questions like these."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from spillover.records import SpilloverError
from spillover.statistics import rates
from spillover.statistics.intervals import Interval, Share, mean, over_units, standard_error

Scope = Literal["these", "like these"]


def over_cells(rates_UQ: Sequence[Sequence[float]], answers_UQ: Sequence[Sequence[int]], *, units: Scope, questions: Scope, level: float = 0.95) -> Interval:
    """The mean rate over units U and questions Q, every unit asked every question, with the interval of one of four estimands.

    These units and these questions: only the draws are random (exact, on the effective number of answers). Units like these, these
    questions: `over_units`, the headline. These units, questions like these: the same over question means. Both like these: the variances
    of both add up, with Welch and Satterthwaite's degrees of freedom; that counts the draws' error twice, and so is a little wide.

    Raises SpilloverError when a cell is missing. Fewer than two of what is to be generalised from leaves no interval.
    """
    shapes = {len(row) for row in (*rates_UQ, *answers_UQ)}
    if len(shapes) != 1 or len(rates_UQ) != len(answers_UQ) or shapes == {0}:
        raise SpilloverError("nested intervals need every unit asked every question; some cell is missing")
    by_unit = [mean(row) for row in rates_UQ]
    by_question = [mean(column) for column in zip(*rates_UQ, strict=True)]
    strata = [n for row in answers_UQ for n in row]
    value, answers = mean(by_unit), rates.effective(strata)
    estimand = f"{_named(units, 'unit')}, {_named(questions, 'question')}"
    if value in (0.0, 1.0) or (units == "like these" and questions == "these"):
        return over_units(by_unit, strata, level=level)
    if units == "these" and questions == "these":
        ends = rates.clopper_pearson(value * answers, answers, level)
        return _named_interval(value, ends, level, f"clopper-pearson over answers: {estimand}", len(by_unit))
    if units == "these":
        if len(by_question) < 2:
            return _named_interval(value, (None, None), level, f"no interval: one question, {estimand}", len(by_unit))
        share = Share.over(by_question, answers)
        return _named_interval(value, share.ends((1 - level) / 2), level, f"{share.method.replace('over units', 'over questions')}: {estimand}", len(by_unit))
    if min(len(by_unit), len(by_question)) < 2:
        return _named_interval(value, (None, None), level, f"no interval: one unit or one question, {estimand}", len(by_unit))
    variances = [standard_error(values) ** 2 for values in (by_unit, by_question)]
    total = sum(variances)
    sizes = (len(by_unit), len(by_question))
    df = total**2 / sum(v**2 / (n - 1) for v, n in zip(variances, sizes, strict=True)) if total else min(sizes) - 1
    U, Q = sizes
    share = Share.of(value, total**0.5, df, answers, units=U * Q / (U + Q + 1))  # 1 / U + 1 / Q + 1 / UQ: both spreads as large as the rate, multiplied
    return _named_interval(value, share.ends((1 - level) / 2), level, f"{share.method} and questions: {estimand}", len(by_unit))


def _named(scope: Scope, noun: str) -> str:
    return f"these {noun}s" if scope == "these" else f"{noun}s like these"


def _named_interval(value: float, ends: tuple[float | None, float | None], level: float, method: str, n_units: int) -> Interval:
    return Interval(value=value, low=ends[0], high=ends[1], level=None if ends[0] is None else level, method=method, n_units=n_units)
