# ruff: noqa: E501, RUF001, UP034
"""Good files made bad: seeded mutations of bytes, of parsed values, and of the parts of a safetensors file.

Nothing here knows what reads a file. Every mutation is a function of good content and a random stream, so a seed names a file.
"""

from __future__ import annotations

import copy
import csv
import io
import json
import random
import struct
from collections.abc import Callable, Sequence
from typing import Any

import yaml

Mutation = Callable[[bytes, random.Random], bytes]

ELSEWHERE = "/hostile/elsewhere"  # a path that nothing may open
DEEP = 3000
LONG = 200_000

# what is put into the bytes of any file
PIECES: tuple[bytes, ...] = (
    b"\0", b"\xff", b"\xfe\xff", b"\xef\xbb\xbf", b"\xed\xa0\x80", b"\xc0\xaf", b"\xf5\x80\x80\x80", b"\r", b"\r\n", b"\n\n", b"\x85", b"\x0c", b"\x1b[2J\x1b]0;x\x07",
    b"\xe2\x80\xa8", b"\xe2\x80\xae", b'"\\ud800"', b"\\u0000", b'"', b"'", b"{", b"}", b"[", b"]", b",", b":", b"#", b"null", b"true", b"NaN", b"-Infinity",
    b"1e999", b"-1", b"9" * 5000, b"0x10", b"1_000", b"[" * DEEP, b'{"a":' * DEEP, b"- " * 500, b"a" * LONG, b'"' + b"\\" * 999, b"../../x", ELSEWHERE.encode(),
    b"=cmd|'/C calc'!A0", b'@SUM(1)\t"', b"{{ 7 * 7 }}", b"%s%n", b"&a [*a, *a]", b"*nobody", b"<<: *a", b"!!python/object/apply:os.system ['touch pwned']",
    b"!!binary aGk=", b"!!set {a, b}", b"!!timestamp 2020-99-99", b"!!timestamp soon", b"!!bool maybe", b"!!int ''", b"!!float x", b"0x" + b"f" * 5000, b"? [a]\n: b\n", b"--- ", b"\n---\n", b"%YAML 9.9\n", b"\t", b"|-\n", b">+9\n", b"2020-01-01", b"12:30:45",
)  # fmt: skip

# what a value is replaced by; made anew each time, so that nothing is shared
VALUES: tuple[Callable[[], Any], ...] = (
    lambda: None, lambda: True, lambda: False, lambda: 0, lambda: -1, lambda: 1, lambda: 2**31, lambda: 2**63, lambda: -(2**63), lambda: 10**400, lambda: 0.5,
    lambda: 1e308, lambda: -0.0, lambda: float("nan"), lambda: float("inf"), lambda: "", lambda: " ", lambda: "\0", lambda: "\ud800", lambda: "\x1b[31mred\x07",
    lambda: "line\nline\r\u2028line", lambda: "\u202eback", lambda: "../../x", lambda: ELSEWHERE, lambda: "CON", lambda: ".", lambda: "a" * 300, lambda: "a" * LONG,
    lambda: "=1+1", lambda: "{answer}", lambda: "{0.__class__}", lambda: "%(x)s", lambda: "(a+)+$", lambda: "os.system", lambda: "None", lambda: "nan", lambda: "1e3",
    lambda: [], lambda: [None], lambda: ["a", "a"], lambda: [1, [2, [3]]], lambda: list(range(1000)), lambda: {}, lambda: {"a": {"b": {}}}, lambda: {"": ""},
    lambda: {"__class__": "x"}, lambda: _nested(40), lambda: [[["x"] * 30] * 30] * 30,
)  # fmt: skip


# --- bytes ----------------------------------------------------------------------------------------------------------------


def damaged(content: bytes, rng: random.Random) -> bytes:
    """One to three times a small change of any kind, as a bad disk, a bad editor or a bad person makes it."""
    for _ in range(rng.choice((1, 1, 2, 3))):
        content = rng.choice((_flipped, _flipped, _cut, _without, _repeated, _swapped, _inserted, _inserted, _inserted, _lines, _headed))(content, rng)
    return content


def _span(content: bytes, rng: random.Random, longest: int = 60) -> tuple[int, int]:
    start = rng.randrange(len(content) + 1)
    return start, min(len(content), start + rng.randint(1, longest))


def _flipped(content: bytes, rng: random.Random) -> bytes:
    found = bytearray(content)
    for _ in range(rng.choice((1, 1, 4)) if found else 0):
        place = rng.randrange(len(found))
        found[place] = rng.choice((found[place] ^ (1 << rng.randrange(8)), rng.randrange(256)))
    return bytes(found)


def _cut(content: bytes, rng: random.Random) -> bytes:
    place = rng.randrange(len(content) + 1)
    return rng.choice((content[:place], content[place:]))


def _without(content: bytes, rng: random.Random) -> bytes:
    start, end = _span(content, rng)
    return content[:start] + content[end:]


def _repeated(content: bytes, rng: random.Random) -> bytes:
    start, end = _span(content, rng, 200)
    return content[:end] + content[start:end] * rng.choice((1, 2, 50)) + content[end:]


def _swapped(content: bytes, rng: random.Random) -> bytes:
    (a, b), (c, d) = sorted((_span(content, rng, 20), _span(content, rng, 20)))
    return content if b > c else content[:a] + content[c:d] + content[b:c] + content[a:b] + content[d:]


def _inserted(content: bytes, rng: random.Random) -> bytes:
    start, end = _span(content, rng, 12)
    return content[:start] + rng.choice(PIECES) + content[rng.choice((start, end)) :]


def _lines(content: bytes, rng: random.Random) -> bytes:
    lines = content.split(b"\n")
    rng.choice((rng.shuffle, list.reverse, lambda found: found.pop(rng.randrange(len(found))), lambda found: found.extend(found)))(lines)
    return rng.choice((b"\n", b"\r\n", b"\r", b"\n\n"))[:].join(lines)


def _headed(content: bytes, rng: random.Random) -> bytes:
    whole = content.decode("utf-8", "replace")
    return rng.choice(
        (b"\xef\xbb\xbf" + content, b"\xff\xfe" + content, whole.encode("utf-16"), whole.encode("utf-32"), whole.encode("utf-7"), b"", b"\n", b" " * LONG)
    )


# --- values ---------------------------------------------------------------------------------------------------------------


def changed(value: Any, rng: random.Random) -> Any:
    """A copy of parsed JSON or YAML with one to three of its parts replaced, taken out, renamed, moved or repeated."""
    found = copy.deepcopy(value)
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        places = list(_places(found))
        if not places:
            return rng.choice(VALUES)()
        inside, key = rng.choice(places)
        kind = rng.randrange(10)
        if kind < 6:
            inside[key] = rng.choice(VALUES)()
        elif kind == 6:
            del inside[key]
        elif kind == 7 and isinstance(inside, dict):
            inside[rng.choice(("", "../x", "\x1b[31m", "a" * 300, str(key).upper(), f"{key} ", "unknown", "auto_map", "__class__"))] = inside.pop(key)
        elif kind == 8:
            other, place = rng.choice(places)
            if _is_there(other, place):
                inside[key], other[place] = copy.deepcopy(other[place]), copy.deepcopy(inside[key])
        else:
            inside[key] = rng.choice((lambda part: [part], lambda part: {"x": part}, lambda part: [part] * 3, str))(copy.deepcopy(inside[key]))
    return found if rng.random() > 0.03 else rng.choice(VALUES)()


def _places(value: Any) -> Any:
    """Every place below a value, as the container and the key in it."""
    keys = list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    for key in list(keys)[:50]:
        yield value, key
        yield from _places(value[key])


def _is_there(inside: Any, key: Any) -> bool:
    return key in inside if isinstance(inside, dict) else key < len(inside)


def _nested(depth: int) -> Any:
    found: Any = "deep"
    for place in range(depth):
        found = [found] if place % 2 else {"d": found}
    return found


# --- files of one kind ----------------------------------------------------------------------------------------------------


def jsonl(good: bytes, rng: random.Random) -> bytes:
    if rng.random() < 0.5:
        return damaged(good, rng)
    rows = [json.loads(line) for line in good.splitlines()]
    place = rng.randrange(len(rows))
    lines = [json.dumps(row, ensure_ascii=rng.random() < 0.7) for row in (*rows[:place], changed(rows[place], rng), *rows[place + 1 :])]
    if rng.random() < 0.15:
        lines[place] = _key_twice(lines[place], rng)
    return rng.choice(("\n", "\n", "\r\n")).join(lines).encode("utf-8", "surrogatepass")


def json_file(good: bytes, rng: random.Random) -> bytes:
    if rng.random() < 0.3:
        return damaged(good, rng)
    text = json.dumps(changed(json.loads(good), rng))
    return (_key_twice(text, rng) if rng.random() < 0.1 else text).encode()


def _key_twice(text: str, rng: random.Random) -> str:
    """The last object of a text with a key of its own once more."""
    start = text.rfind("{")
    body = text[start + 1 : text.find("}", start)]
    key = body.partition(":")[0] or '"a"'
    return f"{text[: start + 1]}{key}: {json.dumps(rng.choice(VALUES)())}, {text[start + 1 :]}" if start >= 0 else text


def yaml_file(good: bytes, rng: random.Random) -> bytes:
    if rng.random() < 0.5:
        return damaged(good, rng)
    found = changed(yaml.safe_load(good), rng)
    try:
        text = yaml.safe_dump(found, allow_unicode=rng.random() < 0.5, default_flow_style=rng.choice((None, True, False)), sort_keys=False)
    except (yaml.YAMLError, UnicodeError, ValueError):
        text = json.dumps(found)
    if rng.random() < 0.25:
        text = rng.choice((_anchored, _laughing, _merged))(text, rng)
    return text.encode("utf-8", "surrogatepass")


def _anchored(text: str, rng: random.Random) -> str:
    places = [place for place, character in enumerate(text) if text[place - 2 : place] == ": "]
    if len(places) < 2:
        return f"&a {text}"
    first, second = sorted(rng.sample(places, 2))
    return f"{text[:first]}&a {text[first:second]}*a{text[second:].lstrip(chr(39))}"


def _laughing(text: str, rng: random.Random) -> str:
    bombs = "".join(f"- &l{n} [{', '.join([f'*l{n - 1}' if n else 'x'] * 9)}]\n" for n in range(rng.choice((3, 9, 30))))
    return rng.choice((bombs + text, text + "\n" + bombs, "bomb:\n" + bombs + text))


def _merged(text: str, rng: random.Random) -> str:
    return rng.choice(("x: &m {<<: *m}\n", "<<: [{a: 1}, {a: 2}]\n", "<<: 3\n", "? {a: b}\n: c\n", "? [a, b]\n: c\n", "? *a\n: &a b\n")) + text


def table(good: bytes, rng: random.Random) -> bytes:
    if rng.random() < 0.5:
        return damaged(good, rng)
    rows = list(csv.reader(io.StringIO(good.decode(), newline="")))
    for _ in range(rng.choice((1, 1, 2))):
        place = rng.randrange(rng.choice((1, len(rows))))
        row = rows[place]
        kind = rng.randrange(6)
        if kind < 4:
            row[rng.randrange(len(row))] = str(rng.choice((*VALUES, *_CELLS))())[:LONG]
        elif kind == 4:
            row.insert(rng.randrange(len(row) + 1), "x")
        else:
            row.pop(rng.randrange(len(row)))
        if not row:
            row.append("")
    out = io.StringIO(newline="")
    writer = csv.writer(
        out, quoting=rng.choice((csv.QUOTE_MINIMAL, csv.QUOTE_ALL)), lineterminator=rng.choice(("\r\n", "\n")), delimiter=rng.choice((",",) * 9 + (";",))
    )
    writer.writerows(rows)
    return out.getvalue().replace("\0", rng.choice(("\0", ""))).encode("utf-8", "surrogatepass")


_CELLS: tuple[Callable[[], Any], ...] = (
    lambda: "100.0001", lambda: "-0", lambda: "1e2", lambda: "1e-400", lambda: "0x1p3", lambda: "٣", lambda: "５０", lambda: "50 %", lambda: "'=1", lambda: "\t=1", lambda: "＝1",
    lambda: '"', lambda: "a" * 131_073, lambda: "..", lambda: "NUL", lambda: "a/b", lambda: "a\\b", lambda: "~", lambda: "-rf", lambda: "a" * 65, lambda: "\u0661",
)  # fmt: skip


def adapter_config(good: bytes, rng: random.Random) -> bytes:
    """A field of PEFT's configuration with a value that somebody hopes will be used."""
    if rng.random() < 0.15:
        return damaged(good, rng)
    fields = json.loads(good)
    for _ in range(rng.choice((1, 1, 2))):
        fields[rng.choice((*fields, "unknown", "auto_map", "quantization_config"))] = rng.choice((*_CONFIGURED, *VALUES))()
    text = json.dumps(fields)
    return (_key_twice(text, rng) if rng.random() < 0.05 else text).encode()


_CONFIGURED: tuple[Callable[[], Any], ...] = (
    lambda: 10**9, lambda: 4097, lambda: 4096, lambda: 8.5, lambda: "8", lambda: True, lambda: "(a+)+$", lambda: "(.*.*)*lora", lambda: "^(([a-z])+.)+[A-Z]([a-z])+$",
    lambda: ["(a+)+$"] * 50, lambda: "all-linear", lambda: {"parent_library": "os", "base_model_class": "system"}, lambda: "../../../etc/passwd",
    lambda: {"r": {"r": {"r": 8}}}, lambda: {".*": 64}, lambda: "pissa", lambda: "pissa_niter_99999999", lambda: "loftq", lambda: "eva", lambda: "corda", lambda: "olora",
    lambda: {"loftq_bits": 4, "loftq_iter": 10**9}, lambda: "PROMPT_TUNING", lambda: "IA3", lambda: ["embed_tokens", "lm_head"], lambda: [[0, 2], [1, 2]],
    lambda: {"megatron_config": {}, "megatron_core": "os"}, lambda: "https://example.invalid/x", lambda: "all", lambda: "lora_only", lambda: 1e-320, lambda: -1.5,
    lambda: {"rank": 2**31}, lambda: "torch.load", lambda: ["a"] * 5000, lambda: -(10**9), lambda: 1e6, lambda: 1000001,
)  # fmt: skip


# --- safetensors ----------------------------------------------------------------------------------------------------------


def safetensors(good: bytes, rng: random.Random) -> bytes:
    """The length of the header, the header, or the numbers after it."""
    if rng.random() < 0.25:
        return damaged(good, rng)
    size = struct.unpack("<Q", good[:8])[0]
    header, data = json.loads(good[8 : 8 + size]), good[8 + size :]
    kind = rng.randrange(10)
    if kind == 0:
        return struct.pack("<Q", rng.choice((0, 1, size - 1, size + 1, len(good), len(good) * 2, 2**31, 2**63, 2**64 - 1, 100_000_001))) + good[8:]
    if kind == 1:
        return _packed(header, rng.choice((b"", data[:-1], data[: len(data) // 2], data + b"x", data * 2)))
    if kind <= 3:
        numbers = bytearray(data)
        for _ in range(rng.choice((1, 10))):
            place = rng.randrange(len(numbers) // 4) * 4
            numbers[place : place + 4] = struct.pack("<f", rng.choice((float("nan"), float("inf"), -float("inf"), 3e38, -3e38, 1e-45)))
        return _packed(header, bytes(numbers))
    if kind == 4:
        return _packed(changed(header, rng), data)
    name = rng.choice([name for name in header if name != "__metadata__"])
    entry, other = header[name], header[rng.choice([name for name in header if name != "__metadata__"])]
    if kind == 5:
        entry["dtype"] = rng.choice(("F64", "F16", "BF16", "I8", "I64", "U8", "BOOL", "F8_E4M3", "F8_E8M0", "F4", "C64", "f32", "", "object", None, 7))
    elif kind == 6:
        entry["shape"] = rng.choice((_shapes(entry["shape"])))
    elif kind == 7:
        entry["data_offsets"] = rng.choice(_offsets(entry["data_offsets"], len(data)))
    elif kind == 8:
        entry["data_offsets"], other["data_offsets"] = other["data_offsets"], rng.choice((entry["data_offsets"], other["data_offsets"]))
    else:
        header[rng.choice(_names(name))] = header.pop(name)
    return _packed(header, data)


def _packed(header: Any, data: bytes) -> bytes:
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def _shapes(shape: Sequence[int]) -> tuple[Any, ...]:
    return (
        [], [0], [*shape, 1], [1, *shape], shape[::-1], [shape[0], 0], [-1, shape[0]], [2**63, 2], [2**32, 2**32], [2**64], [10**30], [0, 2**63], [1.5, 2], ["8", 2],
        None, [1] * 5000, [shape[0] * 2, *shape[1:]], {"0": 1},
    )  # fmt: skip


def _offsets(offsets: Sequence[int], size: int) -> tuple[Any, ...]:
    start, end = offsets
    return (
        [0, 0], [end, start], [start, end + 1], [start + 1, end], [-1, end], [0, size * 2], [size, size], [0, 2**63], [2**64 - 1, 2**64 - 1], [start], [start, end, end],
        [start, None], [0.5, end], "ab", [10**30, 10**30],
    )  # fmt: skip


def _names(name: str) -> tuple[str, ...]:
    return (
        "", "x", "a" * 1000, "../../x", ELSEWHERE, "\x1b[31m", "\ud800", "__metadata__", name.upper(), name.replace("lora_A", "lora_C"), name.replace("q_proj", "nobody"),
        name.replace("lora_A", "lora_B"), f"{name}.{name}", name.replace("base_model.model.", ""), name.replace("self_attn", "__class__"), name.replace(".", ".."), name + "\n",
    )  # fmt: skip


def template(good: bytes, rng: random.Random) -> bytes:
    """A chat template that asks for what it may not have, or for too much."""
    if rng.random() < 0.4:
        return damaged(good, rng)
    text, piece = good.decode(), rng.choice(TEMPLATES)
    place = rng.choice((0, len(text)))
    return rng.choice((piece, text[:place] + piece + text[place:])).encode("utf-8", "surrogatepass")


TEMPLATES = (
    "{{ ''.__class__ }}", "{{ ''.__class__.__mro__[1].__subclasses__() }}", "{{ messages.__init__.__globals__ }}", "{{ cycler.__init__.__globals__.os.system('touch pwned') }}",
    "{{ self._TemplateReference__context }}", "{{ raise_exception('no \x1b[31m such\nthing') }}", "{{ raise_exception() }}", "{{ 1 / 0 }}", "{{ messages[99].role }}",
    "{{ undefined.undefined.undefined }}", "{{ messages[0]['nothing'] + 1 }}", "{% include '/etc/hostname' %}", "{% import 'os' as os %}", "{% extends 'x' %}", "{% for %}",
    "{{ '%s %s' % 1 }}", "{{ '{0.__class__}'.format('') }}", "{{ '{:>99999999999}'.format('') }}", "{{ '%99999999999d' % 1 }}", "{{ 10 ** 10000 }}", "{{ 'a' * 2 ** 62 }}",
    "{{ [0] * 2 ** 62 }}", "{{ range(10 ** 18) | list }}", "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "{{ messages | tojson(indent=10 ** 9) }}",
    "{{ '(' * 400 }}", "{{ " + "(" * 400 + "1" + ")" * 400 + " }}", "{{ " + "-" * 5000 + "1 }}", "{% if 1 %}" * 300, "{{ strftime_now('%Y' * 999) }}", "{{ strftime_now(1) }}",
    "{% generation %}x", "{% generation %}{% endgeneration %}", "{% set messages = 3 %}", "{{ messages | attr('__class__') }}", "{{ lipsum(n=3) }}", "{{ namespace(a=1).b }}",
    "{{ messages | map('upper') | list }}", "{{ messages | sort(attribute='__class__') | list }}", "{{ messages[0].role | nosuchfilter }}", "{% set x = [] %}{% set y = x.append(x) %}{{ x | tojson }}",
    "{{ messages | groupby('__class__') }}", "{{ '\ud800' }}", "{{ '\0' }}", "{{ messages.clear() }}", "{{ messages[0].update({}) }}", "{% break %}", "{{ loop }}", "{{ 'a'.encode('utf-16') }}",
    "{{ 1 if messages }}", "{{ '' | center(10 ** 12) }}", "{{ 'a' | indent(10 ** 12) }}", "{{ 'a' | wordwrap(0) }}", "{{ [] | batch(0) | list }}", "{{ 5 | round(10 ** 9) }}",
)  # fmt: skip
