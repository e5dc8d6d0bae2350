"""Published files to a cache: downloaded over https, compared with their digests, never run.

A file is in the cache whole or not at all: bytes go to a temporary name and get their own once their digest is right. A cached file's digest is
taken again every time. Members are read only from an archive whose own digest is right, and only under the name the catalogue has for them.
"""

from __future__ import annotations

import hashlib
import http.client
import os
import secrets
import time
import urllib.error
import urllib.parse
import urllib.request
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing
from pathlib import Path, PurePosixPath

from spillover.datasets.catalogue import CATALOGUE, SOURCE, Archive, Published
from spillover.records import SpilloverError

MOST_BYTES = 200_000_000
SILENCE_S = 30  # how long a server may say nothing
LONGEST_S = 1800
LOOPBACK = ("127.0.0.1", "::1", "localhost")

_PARTIAL = ".partial-"
_STALE_S = 24 * 3600


def fetch(
    name: str,
    *,
    cache: Path,
    out: Path | None = None,
    source: str = SOURCE,
    understood: bool = False,
    catalogue: Mapping[str, Published] = CATALOGUE,
) -> Path:
    """The path of a published file, in the cache or copied to the directory `out`; downloaded if the cache has it not, or not whole.

    `source` stands in for the address that paths are relative to. Raises SpilloverError for an unknown name, a file that has to be understood
    first, an address that is not https (or http on this machine), and anything that does not arrive whole.
    """
    if name not in catalogue:
        raise SpilloverError(f"there is no published file {name!r}; there are {', '.join(catalogue)}")
    published = catalogue[name]
    if published.warning and not understood:
        raise SpilloverError(f"{name} is fetched only with --i-understand: {published.warning}")
    base = _base(source)
    place = cache / (name + PurePosixPath(published.path).suffix)
    if not is_whole(place, published.sha256):
        if published.archive is None:
            _store(place, _downloaded(f"{base}/{published.path}"), published.sha256)
        else:
            _store(place, _member(_archive(published.archive, cache, base), published.path), published.sha256)
    return place if out is None else _copied(place, out, published.sha256)


def cache_directory(environment: Mapping[str, str] = os.environ) -> Path:
    """$SPILLOVER_CACHE; else spillover in $XDG_CACHE_HOME; else ~/.cache/spillover."""
    if environment.get("SPILLOVER_CACHE"):
        return Path(environment["SPILLOVER_CACHE"])
    home = environment.get("XDG_CACHE_HOME", "")
    return (Path(home) if Path(home).is_absolute() else Path.home() / ".cache") / "spillover"


def is_whole(path: Path, sha256: str) -> bool:
    """Whether there is a file with this digest."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() == sha256


def _base(source: str) -> str:
    shown = "one with a name or password" if "@" in source else repr(source)
    try:
        parts = urllib.parse.urlsplit(source)
        local = parts.hostname in LOOPBACK
    except ValueError:
        raise SpilloverError(f"--source is {shown}, which is no address; it takes https://HOST/PATH") from None
    allowed = parts.scheme == "https" or (parts.scheme == "http" and local)
    if not allowed or not parts.hostname or "@" in parts.netloc or parts.query or parts.fragment or not source.isprintable() or " " in source:
        raise SpilloverError(f"--source is {shown}; it takes https://HOST/PATH, or http for a server on this machine, with no name or password in it")
    return source.rstrip("/")


def _archive(archive: Archive, cache: Path, base: str) -> Path:
    place = cache / f"{archive.sha256[:16]}{PurePosixPath(archive.path).suffix}"
    if not is_whole(place, archive.sha256):
        _store(place, _downloaded(f"{base}/{archive.path}"), archive.sha256)
    return place


def _downloaded(url: str) -> Iterator[bytes]:
    """The bytes at an address, in pieces. Raises SpilloverError for a redirect, any other answer but 200, silence, and an early end."""
    request = urllib.request.Request(url, headers={"User-Agent": "spillover", "Accept-Encoding": "identity"})  # noqa: S310 - `_base` checked the scheme
    until = time.monotonic() + LONGEST_S
    try:
        with closing(_opener(url).open(request, timeout=SILENCE_S)) as response:
            expected, got = response.headers.get("Content-Length"), 0
            while piece := response.read1(1 << 16):
                got += len(piece)
                if time.monotonic() > until:
                    raise SpilloverError(f"{url} took longer than {LONGEST_S} seconds; try again")
                yield piece
            if expected is not None and expected.isdecimal() and got != int(expected):
                raise SpilloverError(f"{url} ended after {got} of {expected} bytes; try again")
    except urllib.error.HTTPError as error:
        error.close()
        moved = ", a redirect, which is not followed" if 300 <= error.code < 400 else ""
        raise SpilloverError(f"{url} answered {error.code}{moved}; --source names a mirror") from None
    except (OSError, ValueError, http.client.HTTPException) as error:
        said = getattr(error, "reason", error)
        raise SpilloverError(f"{url} cannot be read ({str(said) or type(said).__name__}); try again, or name a mirror with --source") from None


def _opener(url: str) -> urllib.request.OpenerDirector:
    """What opens http and https and nothing else, follows nothing, and asks no proxy for this machine's own addresses."""
    opener = urllib.request.OpenerDirector()
    proxies = dict[str, str]() if urllib.parse.urlsplit(url).hostname in LOOPBACK else None
    for handler in (
        urllib.request.ProxyHandler(proxies), urllib.request.HTTPHandler(), urllib.request.HTTPSHandler(),
        urllib.request.HTTPErrorProcessor(), urllib.request.HTTPDefaultErrorHandler(),
    ):  # fmt: skip
        opener.add_handler(handler)
    return opener


def _member(archive: Path, name: str) -> Iterator[bytes]:
    try:
        with zipfile.ZipFile(archive) as zipped, zipped.open(name) as file:
            while piece := file.read(1 << 16):
                yield piece
    except (KeyError, zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, NotImplementedError) as error:
        raise SpilloverError(f"{name} cannot be read from {archive} ({error.args[0] if error.args else type(error).__name__})") from None


def _copied(place: Path, out: Path, sha256: str) -> Path:
    copy = out / place.name
    if not is_whole(copy, sha256):
        if copy.exists():
            raise SpilloverError(f"{copy} exists and is another file; move it or choose another --out")
        _store(copy, [place.read_bytes()], sha256)
    return copy


def _store(place: Path, pieces: Iterable[bytes], sha256: str) -> None:
    """Put bytes at a place if they have this digest, all at once; else leave nothing and raise SpilloverError."""
    place.parent.mkdir(parents=True, exist_ok=True)
    _sweep(place.parent)
    partial = place.with_name(f"{_PARTIAL}{secrets.token_hex(8)}")
    try:
        found, size = hashlib.sha256(), 0
        with partial.open("xb") as file:
            for piece in pieces:
                size += len(piece)
                if size > MOST_BYTES:
                    raise SpilloverError(f"{place.name} is larger than {MOST_BYTES} bytes, which no published file is")
                found.update(piece)
                file.write(piece)
            file.flush()
            os.fsync(file.fileno())
        if found.hexdigest() != sha256:
            raise SpilloverError(f"{place.name} is not the published file: its sha256 is {found.hexdigest()}, not {sha256}")
        partial.replace(place)
    finally:
        partial.unlink(missing_ok=True)


def _sweep(directory: Path) -> None:
    """Remove what a killed download left a day ago or earlier."""
    for left in directory.glob(f"{_PARTIAL}*"):
        if time.time() - left.stat().st_mtime > _STALE_S:
            left.unlink(missing_ok=True)
