"""Good files made bad: seeded mutations of bytes, of parsed values, and of the parts of a file of one kind.

Nothing here knows what reads a file. A mutation is a function of good content and a random stream, so a seed names a file.
"""

from __future__ import annotations

import copy
import csv
import io
import json
import random
import struct
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from spillover.runs import shards

Mutation = Callable[[bytes, random.Random], bytes]

ELSEWHERE = "/hostile/elsewhere"  # a path that nothing may open
LONG = "a" * 200_000


def nested(depth: int) -> Any:
    found: Any = "deep"
    for place in range(depth):
        found = [found] if place % 2 else {"d": found}
    return found


# what a value is replaced by
VALUES: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 0.5, -0.0, 2**31, 2**63, -(2**63), 10**400, 1e308, float("nan"), float("inf"), "", " ", "\0", "\ud800", "\x1b[31mred\x07",
    "line\nline\r\u2028line", "\u202eback", "../../x", ELSEWHERE, "CON", ".", "a" * 300, LONG, "=1+1", "{answer}", "{0.__class__}", "%(x)s", "(a+)+$",
    "os.system", "None", "nan", "1e3", [], [None], ["a", "a"], [1, [2, [3]]], list(range(1000)), {}, {"a": {"b": {}}}, {"": ""}, {"__class__": "x"},
    nested(40), [[["x"] * 30] * 30] * 30,
)  # fmt: skip
# what a key is renamed to
KEYS = ("", "../x", "\x1b[31m", "a" * 300, "unknown", "auto_map", "__class__", "__init__", "schema")
# what is put between the bytes of any file
PIECES: tuple[bytes, ...] = (
    b"\0", b"\xff", b"\xfe\xff", b"\xef\xbb\xbf", b"\xed\xa0\x80", b"\xc0\xaf", b"\xf5\x80\x80\x80", b"\r", b"\r\n", b"\n\n", b"\x85", b"\x0c", b"\t",
    b"\x1b[2J\x1b]0;x\x07", b"\xe2\x80\xa8", b"\xe2\x80\xae", b'"\\ud800"', b"\\u0000", b'"', b"'", b"{", b"}", b"[", b"]", b",", b":", b"#", b"null",
    b"true", b"NaN", b"-Infinity", b"1e999", b"-1", b"9" * 5000, b"0x" + b"f" * 5000, b"0x10", b"1_000", b"[" * 3000, b'{"a":' * 3000, b"- " * 500,
    LONG.encode(), b'"' + b"\\" * 999, b"../../x", ELSEWHERE.encode(), b"=cmd|'/C calc'!A0", b'@SUM(1)\t"', b"{{ 7 * 7 }}", b"%s%n", b"2020-01-01", b"12:30:45",
    b"&a [*a, *a]", b"*nobody", b"<<: *a", b"!!python/object/apply:os.system ['touch pwned']", b"!!binary aGk=", b"!!set {a, b}", b"!!timestamp 2020-99-99",
    b"!!timestamp soon", b"!!bool maybe", b"!!int ''", b"!!float x", b"? [a]\n: b\n", b"--- ", b"\n---\n", b"%YAML 9.9\n", b"|-\n", b">+9\n",
)  # fmt: skip


# --- bytes ----------------------------------------------------------------------------------------------------------------


def damaged(content: bytes, rng: random.Random) -> bytes:
    """One to three small changes of any kind, as a bad disk, a bad editor or a bad person makes them."""
    for _ in range(rng.choice((1, 1, 2, 3))):
        content = rng.choice((_flipped, _flipped, _cut, _without, _repeated, _swapped, _inserted, _inserted, _inserted, _lines, _encoded))(content, rng)
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
    return rng.choice((b"\n", b"\r\n", b"\r", b"\n\n")).join(lines)


def _encoded(content: bytes, rng: random.Random) -> bytes:
    text = content.decode("utf-8", "replace")
    whole = (b"\xef\xbb\xbf" + content, b"\xff\xfe" + content, *(text.encode(name) for name in ("utf-16", "utf-32", "utf-7")))
    return rng.choice((*whole, b"", b"\n", b" " * len(LONG)))


# --- values ---------------------------------------------------------------------------------------------------------------


def changed(value: Any, rng: random.Random) -> Any:
    """A copy of parsed JSON or YAML with one to three of its parts replaced, taken out, renamed, moved or wrapped."""
    found = copy.deepcopy(value)
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        places = list(_places(found))
        if not places:
            break
        inside, key = rng.choice(places)
        kind = rng.randrange(10)
        if kind < 6:
            inside[key] = any_value(rng)
        elif kind == 6:
            del inside[key]
        elif kind == 7 and isinstance(inside, dict):
            inside[rng.choice((*KEYS, str(key).upper(), f"{key} "))] = inside.pop(key)
        elif kind == 8:
            other, place = rng.choice(places)
            if place in other if isinstance(other, dict) else place < len(other):
                inside[key], other[place] = copy.deepcopy(other[place]), copy.deepcopy(inside[key])
        else:
            part = copy.deepcopy(inside[key])
            inside[key] = rng.choice(([part], {"x": part}, [part] * 3, str(part)))
    return found if rng.random() > 0.03 else any_value(rng)


def any_value(rng: random.Random) -> Any:
    return copy.deepcopy(rng.choice(VALUES))


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every place below a value, as a container and a key of it."""
    keys = list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    for key in keys[:50]:
        yield value, key
        yield from _places(value[key])


def json_file(good: bytes, rng: random.Random) -> bytes:
    if rng.random() < 0.3:
        return damaged(good, rng)
    return _twice(json.dumps(changed(json.loads(good), rng)), rng).encode()


def jsonl(good: bytes, rng: random.Random) -> bytes:
    if rng.random() < 0.5:
        return damaged(good, rng)
    lines = good.decode().splitlines()
    place = rng.randrange(len(lines))
    row = changed(json.loads(lines[place]), rng)
    lines[place] = _twice(json.dumps(row, ensure_ascii=rng.random() < 0.7), rng)
    return rng.choice(("\n", "\n", "\r\n")).join(lines).encode("utf-8", "surrogatepass")


def _twice(text: str, rng: random.Random) -> str:
    """Now and then, an object with one of its keys once more."""
    start = text.rfind("{")
    if start < 0 or rng.random() > 0.1:
        return text
    key = text[start + 1 : text.find("}", start)].partition(":")[0] or '"a"'
    return f"{text[: start + 1]}{key}: {json.dumps(any_value(rng))}, {text[start + 1 :]}"


def yaml_file(good: bytes, rng: random.Random) -> bytes:
    if rng.random() < 0.5:
        return damaged(good, rng)
    found = changed(yaml.safe_load(good), rng)
    try:
        text = yaml.safe_dump(found, allow_unicode=rng.random() < 0.5, default_flow_style=rng.choice((None, True, False)), sort_keys=False)
    except (yaml.YAMLError, ValueError):
        text = json.dumps(found)
    if rng.random() < 0.25:
        text = rng.choice((_anchored, _laughing, _merged))(text, rng)
    return text.encode("utf-8", "surrogatepass")


def _anchored(text: str, rng: random.Random) -> str:
    places = [place for place in range(2, len(text)) if text[place - 2 : place] == ": "]
    if len(places) < 2:
        return f"&a {text}"
    first, second = sorted(rng.sample(places, 2))
    return f"{text[:first]}&a {text[first:second]}*a{text[second:].lstrip(chr(39))}"


def _laughing(text: str, rng: random.Random) -> str:
    bomb = "".join(f"- &l{n} [{', '.join([f'*l{n - 1}' if n else 'x'] * 9)}]\n" for n in range(rng.choice((3, 9, 30))))
    return rng.choice((bomb + text, text + "\n" + bomb, "bomb:\n" + bomb + text))


def _merged(text: str, rng: random.Random) -> str:
    return rng.choice(("x: &m {<<: *m}\n", "<<: [{a: 1}, {a: 2}]\n", "<<: 3\n", "? {a: b}\n: c\n", "? [a, b]\n: c\n", "? *a\n: &a b\n")) + text


# --- tables ---------------------------------------------------------------------------------------------------------------

CELLS = (
    "100.0001", "-0", "1e2", "1e-400", "0x1p3", "\u0663", "\uff15\uff10", "50 %", "'=1", "\t=1", "\uff1d1", '"', "a" * 131_073, "..", "NUL", "a/b", "a\\b", "~",
    "-rf", "a" * 65, "\u0661",
)  # fmt: skip


def table(good: bytes, rng: random.Random) -> bytes:
    if rng.random() < 0.5:
        return damaged(good, rng)
    rows = list(csv.reader(io.StringIO(good.decode(), newline="")))
    for _ in range(rng.choice((1, 1, 2))):
        row = rows[rng.randrange(rng.choice((1, len(rows))))]
        kind = rng.randrange(6)
        if kind < 4:
            row[rng.randrange(len(row))] = str(rng.choice((*VALUES, *CELLS)))[: len(LONG)]
        elif kind == 4 or len(row) < 2:
            row.insert(rng.randrange(len(row) + 1), "x")
        else:
            row.pop(rng.randrange(len(row)))
    out = io.StringIO(newline="")
    delimiter, end = rng.choice((*",,,,,,,,,", ";")), rng.choice(("\r\n", "\n"))
    csv.writer(out, quoting=rng.choice((csv.QUOTE_MINIMAL, csv.QUOTE_ALL)), lineterminator=end, delimiter=delimiter).writerows(rows)
    return out.getvalue().encode("utf-8", "surrogatepass")


def parquet(good: bytes, rng: random.Random) -> bytes:
    """Half of the time with the checksums that its new columns have, as somebody would write them who means it."""
    if rng.random() < 0.4:
        return damaged(good, rng)
    read = pq.ParquetFile(io.BytesIO(good)).read()
    columns: dict[str, list[Any]] = read.to_pydict()
    for name in rng.sample(list(columns), rng.choice((1, 1, 2))):
        kind = rng.randrange(5)
        if kind == 0:
            del columns[name]
        elif kind == 1:
            columns["new"] = columns.pop(name)
        elif kind == 2:
            columns[name] = [rng.choice((None, "x", "../../x", "\x1b[31m", "a" * 1000)) for _ in columns[name]]
        elif kind == 3:
            columns[name] = [rng.choice((None, 3.5, -1.0, 2.0**62, float("nan"), 1e308, float("inf"))) for _ in columns[name]]
        else:
            rng.shuffle(columns[name])
    made = pa.table(columns)
    if rng.random() < 0.7 and made.schema.names == read.schema.names:
        with suppress(pa.ArrowException):
            made = made.cast(read.schema)
    with suppress(pa.ArrowException):
        made = made.replace_schema_metadata({"schema": "2", "checks": shards.checks_of(made)})
    sink = io.BytesIO()
    pq.write_table(made, sink)
    return sink.getvalue()


# --- models ---------------------------------------------------------------------------------------------------------------

CONFIGURED: tuple[Any, ...] = (
    10**9, 4097, 4096, 8.5, "8", 1e6, 1000001, -1.5, 1e-320, -(10**9), "(.*.*)*lora", "^(([a-z])+.)+[A-Z]([a-z])+$", ["(a+)+$"] * 50, ["a"] * 5000, {".*": 64},
    "all-linear", {"parent_library": "os", "base_model_class": "system"}, "../../../etc/passwd", {"r": {"r": {"r": 8}}}, {"rank": 2**31}, "torch.load",
    "pissa", "pissa_niter_99999999", "loftq", "eva", "corda", "olora", {"loftq_bits": 4, "loftq_iter": 10**9}, "PROMPT_TUNING", "IA3", "all", "lora_only",
    ["embed_tokens", "lm_head"], [[0, 2], [1, 2]], {"megatron_config": {}, "megatron_core": "os"}, "https://example.invalid/x",
)  # fmt: skip


def adapter_config(good: bytes, rng: random.Random) -> bytes:
    """Fields of PEFT's configuration with values that somebody hopes will be used."""
    if rng.random() < 0.15:
        return damaged(good, rng)
    fields = json.loads(good)
    for _ in range(rng.choice((1, 1, 2))):
        fields[rng.choice((*fields, "unknown", "auto_map", "quantization_config"))] = rng.choice((*CONFIGURED, *VALUES))
    return _twice(json.dumps(fields), rng).encode()


def safetensors(good: bytes, rng: random.Random) -> bytes:
    """The length of the header, the header, or the numbers after it."""
    if rng.random() < 0.25:
        return damaged(good, rng)
    size = struct.unpack("<Q", good[:8])[0]
    header, data = json.loads(good[8 : 8 + size]), bytearray(good[8 + size :])
    kind = rng.choice(("length", "data", "numbers", "numbers", "values", "dtype", "shape", "offsets", "overlap", "name"))
    names = [name for name in header if name != "__metadata__"]
    name = rng.choice(names)
    entry, other = header[name], header[rng.choice(names)]
    if kind == "length":
        return struct.pack("<Q", rng.choice((0, 1, size - 1, size + 1, len(good), len(good) * 2, 2**31, 2**63, 2**64 - 1, 100_000_001))) + good[8:]
    if kind == "data":
        data = rng.choice((data[:0], data[:-1], data[: len(data) // 2], data + b"x", data * 2))
    elif kind == "numbers":
        for _ in range(rng.choice((1, 10))):
            struct.pack_into("<f", data, rng.randrange(len(data) // 4) * 4, rng.choice((float("nan"), float("inf"), -float("inf"), 3e38, -3e38, 1e-45)))
    elif kind == "values":
        header = changed(header, rng)
    elif kind == "dtype":
        entry["dtype"] = rng.choice(("F64", "F16", "BF16", "I8", "I64", "U8", "BOOL", "F8_E4M3", "F8_E8M0", "F4", "C64", "f32", "", "object", None, 7))
    elif kind == "shape":
        entry["shape"] = rng.choice(_shapes(entry["shape"]))
    elif kind == "offsets":
        entry["data_offsets"] = rng.choice(_offsets(*entry["data_offsets"], len(data)))
    elif kind == "overlap":
        entry["data_offsets"], other["data_offsets"] = other["data_offsets"], rng.choice((entry["data_offsets"], other["data_offsets"]))
    else:
        header[rng.choice(_names(name))] = header.pop(name)
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def _shapes(shape: list[int]) -> tuple[Any, ...]:
    wrong = ([], [0], [*shape, 1], [1, *shape], shape[::-1], [shape[0], 0], [shape[0] * 2, *shape[1:]], [-1, shape[0]], [1] * 5000)
    return (*wrong, [2**63, 2], [2**32, 2**32], [2**64], [10**30], [0, 2**63], [1.5, 2], ["8", 2], None, {"0": 1})


def _offsets(start: int, end: int, size: int) -> tuple[Any, ...]:
    wrong = ([0, 0], [end, start], [start, end + 1], [start + 1, end], [-1, end], [0, size * 2], [size, size], [0, 2**63], [2**64 - 1, 2**64 - 1])
    return (*wrong, [start], [start, end, end], [start, None], [0.5, end], "ab", [10**30, 10**30])


def _names(name: str) -> tuple[str, ...]:
    pairs = (("lora_A", "lora_C"), ("lora_A", "lora_B"), ("q_proj", "nobody"), ("base_model.model.", ""), ("self_attn", "__class__"), (".", ".."))
    others = ("", "x", "a" * 1000, "../../x", ELSEWHERE, "\x1b[31m", "\ud800", "__metadata__", name.upper(), f"{name}.{name}", f"{name}\n")
    return (*others, *(name.replace(old, new) for old, new in pairs))


def template(good: bytes, rng: random.Random) -> bytes:
    """A chat template that asks for what it may not have, or for too much."""
    if rng.random() < 0.4:
        return damaged(good, rng)
    text, piece = good.decode(), rng.choice((*REACHING, *BURSTING))
    place = rng.choice((0, len(text)))
    return rng.choice((piece, text[:place] + piece + text[place:])).encode("utf-8", "surrogatepass")


REACHING = (
    "{{ ''.__class__ }}", "{{ ''.__class__.__mro__[1].__subclasses__() }}", "{{ messages.__init__.__globals__ }}", "{{ loop }}", "{{ namespace(a=1).b }}",
    "{{ cycler.__init__.__globals__.os.system('touch pwned') }}", "{{ self._TemplateReference__context }}", "{{ raise_exception('\x1b[31m such\nthing') }}",
    "{{ raise_exception() }}", "{{ 1 / 0 }}", "{{ messages[99].role }}", "{{ undefined.undefined.undefined }}", "{{ messages[0]['nothing'] + 1 }}",
    "{% include '/etc/hostname' %}", "{% import 'os' as os %}", "{% extends 'x' %}", "{% for %}", "{{ '%s %s' % 1 }}", "{{ '{0.__class__}'.format('') }}",
    "{{ strftime_now('%Y' * 999) }}", "{{ strftime_now(1) }}", "{% generation %}x", "{% generation %}{% endgeneration %}", "{% set messages = 3 %}",
    "{{ '\0' }}", "{{ messages | attr('__class__') }}", "{{ lipsum(n=3) }}", "{{ messages | map('upper') | list }}",
    "{{ messages | sort(attribute='__class__') | list }}",
    "{{ messages[0].role | nosuchfilter }}", "{{ messages | groupby('__class__') }}", "{{ '\ud800' }}", "{{ messages.clear() }}", "{{ 1 if messages }}",
    "{{ messages[0].update({}) }}", "{% break %}", "{{ 'a'.encode('utf-16') }}", "{{ 'a' | wordwrap(0) }}", "{{ [] | batch(0) | list }}",
    "{% set x = [] %}{% set y = x.append(x) %}{{ x | tojson }}",
)  # fmt: skip
BURSTING = (
    "{{ 'a' * 10 ** 9 }}", "{{ 'a' * 2 ** 62 }}", "{{ [0] * 2 ** 62 }}", "{{ 'ab ' * 6000000 }}", "{{ range(10 ** 18) | list }}", "{{ 10 ** 10000 }}",
    "{{ '{:>99999999999}'.format('') }}", "{{ '%99999999999d' % 1 }}", "{{ '%0999999999d' % 1 }}", "{{ messages | tojson(indent=10 ** 9) }}",
    "{{ '' | center(10 ** 12) }}", "{{ 'a' | center(10 ** 9) }}", "{{ 'a' | indent(10 ** 12) }}", "{{ 5 | round(10 ** 9) }}", "{{ '(' * 400 }}",
    "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "{% if 1 %}" * 300, "{{ " + "(" * 400 + "1" + ")" * 400 + " }}", "{{ " + "-" * 5000 + "1 }}",
    "{% set n = namespace(x='a') %}{% for _ in range(60) %}{% set n.x = n.x ~ n.x %}{% endfor %}{{ n.x }}",
)  # fmt: skip
ENDLESS = (
    "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
    "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(60) }}",
)  # fmt: skip
