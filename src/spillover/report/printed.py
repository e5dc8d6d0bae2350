"""How a number and a text are printed: one place, so that every table says value, interval, n and what is missing alike."""

from __future__ import annotations

import math
import unicodedata
from dataclasses import dataclass
from typing import TYPE_CHECKING

from spillover.records import Estimate
from spillover.report.measures import axis_of, unit_of

if TYPE_CHECKING:
    from spillover.statistics.calibration import Calibration

SMALL = 0.1  # nats and ratios below which two decimals say nothing
MINUS = "\N{MINUS SIGN}"
SPACE = "\N{NO-BREAK SPACE}"
# characters that most fonts draw as nothing although they are letters or marks by category
BLANK = {0x034F, 0x115F, 0x1160, 0x17B4, 0x17B5, 0x3164, 0xFFA0, *range(0x180B, 0x1810), *range(0xFE00, 0xFE10), *range(0xE0100, 0xE01F0)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One printed number: the value, its interval, and small lines with what stands behind it."""

    value: str
    interval: str = ""
    notes: tuple[str, ...] = ()
    absent: bool = False


EMPTY = Cell(value="\N{EM DASH}", absent=True)


def cell(row: Estimate | None, *, difference: bool = False, counts: bool = True) -> Cell:
    """A table cell. A row without a value prints as undefined with its reason, never as a number."""
    if row is None:
        return EMPTY
    found = counted(row) if counts else ""
    if row.value is None:
        return Cell(value="undefined", notes=tuple(filter(None, (reason(row), found))), absent=True)
    if not is_single(row) and (remark := _without(row) if row.low is None else _alone(row)):
        found = f"{found}, {remark}" if found else remark
    return Cell(value=value(row, difference=difference), interval=interval(row), notes=(found,) if found else ())


def is_single(row: Estimate) -> bool:
    """Whether a row is about one unit by name, whose interval is of its answers alone."""
    return row.world is not None or row.seed is not None


def is_general(row: Estimate) -> bool:
    """Whether a row's interval speaks for units like these, and not for the answers of these alone."""
    return row.low is not None and not row.estimand.startswith("th")


def _alone(row: Estimate) -> str:
    """What an interval that speaks for these units alone rests on."""
    if is_general(row):
        return ""
    return f"a bound: {row.method.rpartition(': ')[2]}" if row.method.startswith("bound for") else "interval of these answers alone"


def _without(row: Estimate) -> str:
    """Why a mean over units has no interval, beside how many they are."""
    why = row.method.partition(";")[0]
    return {"no interval: one unit": f"no{SPACE}interval", "no interval: no spread between units": f"no{SPACE}interval: all{SPACE}equal"}.get(why, why)


def value(row: Estimate, *, difference: bool = False) -> str:
    """The value with its unit, such as `15.4 %`, `-2.10 nats` or `step 20`; a difference has its sign, and points where a share has percent."""
    if row.value is None:
        return "undefined"
    if unit_of(row.measure) == "step":
        return f"step{SPACE}{row.value:,.0f}"
    (unit, scale), digits = axis_of(row.measure, difference=difference), _digits(row)
    least = 10.0**-digits
    if scale > 1 and 0 < abs(scale * row.value) < least / 2:
        return f"{'<' if row.value > 0 else '>'}{SPACE}{signed(math.copysign(least, row.value), digits)}{SPACE}{unit}"
    return f"{'+' if difference and row.value > 0 else ''}{signed(scale * row.value, digits)}{SPACE}{unit}"


def interval(row: Estimate) -> str:
    """`[9.8, 21.0]` in the unit of the value, or nothing."""
    if row.low is None or row.high is None:
        return ""
    scale, digits = axis_of(row.measure)[1], _digits(row)
    return f"[{signed(scale * row.low, digits)},{SPACE}{signed(scale * row.high, digits)}]"


def _digits(row: Estimate) -> int:
    """Decimals: of a percentage one, and two where one would make the interval look like a point; of small nats and ratios four."""
    kind = unit_of(row.measure)
    if kind in ("nats", "ratio") and max(abs(number or 0.0) for number in (row.value, row.low, row.high)) < SMALL:
        return 4
    if kind != "share":
        return {"nats": 2, "step": 0, "score": 1, "cosine": 2, "ratio": 2}[kind]
    if row.low is None or row.high is None or row.low == row.high:
        return 1
    return 2 if 100 * (row.high - row.low) < 0.1 else 1


def counted(row: Estimate) -> str:
    """What a number rests on: answers, missing ones, units."""
    parts = [f"n{SPACE}{row.n:,}{SPACE}· {row.n_missing:,}{SPACE}missing"] if row.n or row.n_missing else []
    if row.value is not None and not is_single(row):
        parts.append(plural(row.n_units, row.unit))
    return f"{SPACE}· ".join(parts)


def reason(row: Estimate) -> str:
    return row.method.removeprefix("undefined: ") or "no reason recorded"


def level(row: Estimate) -> str:
    return "" if row.level is None else f"{100 * row.level:g}{SPACE}%"


def plural(count: int, noun: str) -> str:
    return f"{count:,}{SPACE}{noun}{'' if count == 1 else 's'}"


def capital(text: str) -> str:
    """A sentence's first letter; the others stay as they are."""
    return text[:1].upper() + text[1:]


def signed(number: float, digits: int) -> str:
    """A number with a true minus sign, and no minus before a zero."""
    text = f"{number:.{digits}f}"
    return text.replace("-", MINUS) if float(text) != 0 else text.removeprefix("-")


def percent(rate: float | None) -> str:
    return "none" if rate is None else f"{100 * rate:.1f}{SPACE}%"


def share(part: int, whole: int) -> str:
    return percent(part / whole if whole else None)


def points(difference: float) -> str:
    """A difference of two rates in points, with its sign."""
    return f"{100 * difference:+.1f}".replace("-", MINUS)


def calibrated(found: Calibration | None) -> str:
    """What stands beside a rate: how far its judge is known."""
    if found is None:
        return "not calibrated"
    if found.found is None or found.false_alarms is None:
        return f"calibrated on {found.n} trusted labels, none of them {'misaligned' if found.found is None else 'kept and not misaligned'}"
    hits, alarms = (f"{100 * one.value:.0f}{SPACE}% [{100 * (one.low or 0):.0f}, {100 * (one.high or 0):.0f}]" for one in (found.found, found.false_alarms))
    return f"calibrated on {found.n} trusted labels: it finds {hits} of the misaligned answers, and calls {alarms} of the others so"


def in_markdown(text: str) -> str:
    """Text that Markdown and HTML take as it is, on one line."""
    shown = visible(text).replace("\n", " ").replace("\t", " ")
    return "".join(f"&#{ord(character)};" if character in "&<>|\\`*_[]()#!~:@$" else character for character in shown)


def visible(text: str) -> str:
    """Text in which nothing hides: control, bidirectional and invisible characters appear by their number. Line breaks and tabs stay."""
    return text if text.isprintable() and text.isascii() else "".join(map(_visible, text))


def _visible(character: str) -> str:
    code = ord(character)
    if character in "\n\t":
        return character
    if code in BLANK or unicodedata.category(character) in ("Cc", "Cf", "Cn", "Co", "Cs", "Zl", "Zp"):
        return f"\N{MATHEMATICAL LEFT ANGLE BRACKET}U+{code:04X}\N{MATHEMATICAL RIGHT ANGLE BRACKET}"
    return character
