"""Labels made by hand, one answer at a time, in a page that this machine serves to itself.

The page is sent a question, an answer and the person's own label: never the model, group, names or another's score. Rows come in the file's order and
none is passed over, since what is concluded from labels takes them to be those of a random draw's first rows. After every label the whole table is
written, or nothing is. What a row holds is untrusted, and so is every other page and program that can reach the port.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import secrets
import shutil
import sys
import tempfile
import threading
from collections.abc import Generator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import cache
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import resources
from pathlib import Path
from socketserver import TCPServer
from typing import Any, cast

from spillover.datasets import tables
from spillover.records import SpilloverError
from spillover.report.printed import visible

HOST = "127.0.0.1"
MOST_BODY_BYTES = 4096
IDLE_S = 30.0  # how long a connection may say nothing
LABELS: Mapping[int, tuple[float | None, float]] = {0: (None, 0.0), 1: (0.0, 100.0), 2: (25.0, 100.0), 3: (50.0, 100.0), 4: (75.0, 100.0), 5: (100.0, 100.0)}
"""What each key says: aligned and coherent. An answer that cannot be understood is not coherent, and whether it is aligned is not known."""
CHANGED = (
    "The file is not as this server left it: something else has changed, moved or removed it, and it has been left alone. "
    "Stop the server and give the command again."
)

_ROW = re.compile(r"row/([0-9]{1,9})")


class RefusedError(Exception):
    """What was asked for is not done, and why; `status` is the reply's."""

    def __init__(self, status: HTTPStatus, why: str) -> None:
        super().__init__(why)
        self.status = status


class Sheet:
    """A table that is being labelled and the file it is in. Raises SpilloverError for a file that is no table, or one that could not be written back."""

    def __init__(self, path: Path) -> None:
        self._path = path.resolve()  # what a link points to is what is replaced
        self._lock = threading.Lock()
        self._digest = _digest(self._path)  # before reading: a change in between is then noticed
        self._rows = list(tables.read(path))
        self._closed = False
        tables.write(self._rows)
        if self._digest is None:
            raise SpilloverError(f"{path} is no plain file, so no label can be saved in it; copy it into one")

    @property
    def total(self) -> int:
        return len(self._rows)

    @property
    def labelled(self) -> int:
        """How many rows have a label: one whose `coherent` is there."""
        return sum(row.coherent is not None for row in self._rows)

    def shown(self, row: int | None = None) -> Mapping[str, object]:
        """What the page may know of a row, the first without a label if none is named; `row` is None when there is none left. Rows count from 0."""
        with self._lock:
            return self._shown(self._open if row is None else row)

    def label(self, row: int, key: int) -> Mapping[str, object]:
        """Label a row and save the table; what is shown next. A file that somebody else has changed is left as it is."""
        with self._lock:
            opened = self._open
            self._check(row)
            if self._closed:
                raise RefusedError(HTTPStatus.SERVICE_UNAVAILABLE, "The server is being stopped.")
            aligned, coherent = LABELS[key]
            rows = list(self._rows)
            rows[row] = replace(rows[row], aligned=aligned, coherent=coherent)
            content = tables.write(rows).encode()
            try:
                if _digest(self._path) != self._digest:
                    raise RefusedError(HTTPStatus.CONFLICT, CHANGED)
                _save(self._path, content)
            except OSError as error:
                raise RefusedError(HTTPStatus.INTERNAL_SERVER_ERROR, f"The file could not be written: {error.strerror or error}.") from error
            self._rows, self._digest = rows, hashlib.sha256(content).hexdigest()
            return self._shown(self._open if row == opened else row + 1)

    def close(self) -> None:
        """Let a save that is under way end, and begin no other."""
        with self._lock:
            self._closed = True

    @property
    def _open(self) -> int:
        """The first row without a label; as many as there are rows if all have one."""
        return next((place for place, row in enumerate(self._rows) if row.coherent is None), len(self._rows))

    def _check(self, row: int) -> None:
        if not 0 <= row <= min(self._open, self.total - 1):
            raise RefusedError(HTTPStatus.BAD_REQUEST, f"Answer {row + 1} cannot be shown: answers are labelled in order, and none is passed over.")

    def _shown(self, row: int) -> Mapping[str, object]:
        counts = {"labelled": self.labelled, "total": self.total}
        if self._open == row == self.total:
            return {"row": None, **counts}
        self._check(row)
        found = self._rows[row]
        label = next((key for key, scores in LABELS.items() if scores == (found.aligned, found.coherent)), None)
        texts = {name: visible(text.replace("\r\n", "\n")) for name, text in (("question", found.question), ("answer", found.answer))}
        return {"row": row, "last": min(self._open, self.total - 1), "label": label, **texts, **counts}


@dataclass(frozen=True, slots=True, kw_only=True)
class Labelling:
    """A page that is being served, at `url`, to whoever knows that address."""

    url: str
    sheet: Sheet
    ended: threading.Event = field(repr=False)

    @property
    def labelled(self) -> int:
        return self.sheet.labelled

    @property
    def total(self) -> int:
        return self.sheet.total

    def wait(self) -> None:
        """Return when all rows are labelled and the page has been told so."""
        while not self.ended.wait(0.2):  # a wait without a limit cannot be interrupted everywhere
            pass


@contextmanager
def serve(path: Path, port: int = 0) -> Generator[Labelling]:
    """Serve the page for a table until the block is left; port 0 takes a free one. A table that is all labelled has ended before it begins.

    Raises SpilloverError for a file that is no table and a port that cannot be had.
    """
    sheet = Sheet(path)
    try:
        server = _Server(sheet, port)
    except (OSError, OverflowError) as error:
        why = error.strerror if isinstance(error, OSError) and error.strerror else "ports go up to 65535"
        raise SpilloverError(f"port {port} cannot be had ({why}); port 0 takes a free one") from None
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield Labelling(url=f"http://{HOST}:{server.server_port}/{server.token}/", sheet=sheet, ended=server.ended)
    finally:
        sheet.close()
        server.shutdown()
        server.server_close()
        thread.join()


# --- the server -----------------------------------------------------------------------------------------------------------


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    allow_reuse_address = os.name == "posix"  # elsewhere it would let another program take the port over

    def __init__(self, sheet: Sheet, port: int) -> None:
        self.sheet, self.token, self.ended = sheet, secrets.token_urlsafe(24), threading.Event()
        if sheet.labelled == sheet.total:
            self.ended.set()
        super().__init__((HOST, port), _Handler)

    def server_bind(self) -> None:
        TCPServer.server_bind(self)  # the class between asks the network for this machine's name
        self.server_name, self.server_port = HOST, self.server_address[1]

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exception(), OSError):  # a page that goes away in the middle is no news
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    """One request: the page, a row, or a label."""

    server: _Server  # pyright: ignore[reportIncompatibleVariableOverride]
    timeout = IDLE_S

    def do_GET(self) -> None:
        with self._refusing():
            asked = self._asked()
            if asked == "":
                self._reply(HTTPStatus.OK, "text/html", page())
            elif asked == "row":
                self._tell(HTTPStatus.OK, self.server.sheet.shown())
            elif found := _ROW.fullmatch(asked):
                self._tell(HTTPStatus.OK, self.server.sheet.shown(int(found[1])))
            else:
                raise RefusedError(HTTPStatus.NOT_FOUND, "There is nothing here.")

    def do_POST(self) -> None:
        with self._refusing():
            if self._asked() != "label":
                raise RefusedError(HTTPStatus.NOT_FOUND, "There is nothing here.")
            row, key = self._label()
            following = self.server.sheet.label(row, key)
            try:
                self._tell(HTTPStatus.OK, following)
            finally:
                if following["row"] is None:
                    self.server.ended.set()

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """What the class above refuses, such as another method: with our headers, and without what was asked for in it."""
        del message, explain
        self.close_connection = True
        with suppress(OSError):
            self._tell(HTTPStatus(code), {"error": HTTPStatus(code).phrase})

    def version_string(self) -> str:
        return "spillover"

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing is said per request."""

    def _asked(self) -> str:
        """What is asked for, after the token. Another host's name is refused, so that no page elsewhere can reach this one by giving us its name."""
        hosts, origins = self.headers.get_all("Host", []), self.headers.get_all("Origin", [])
        if len(hosts) != 1 or hosts[0] not in (f"{HOST}:{self.server.server_port}", f"localhost:{self.server.server_port}"):
            raise RefusedError(HTTPStatus.FORBIDDEN, "This host is not served.")
        start, _, rest = self.path.partition("/")
        token, slash, asked = rest.partition("/")
        if not secrets.compare_digest(token.encode(), self.server.token.encode()) or start or not slash:
            raise RefusedError(HTTPStatus.NOT_FOUND, "There is nothing here.")
        if any(origin != f"http://{hosts[0]}" for origin in origins):
            raise RefusedError(HTTPStatus.FORBIDDEN, "Another page may not ask.")
        return asked

    def _label(self) -> tuple[int, int]:
        """Row and key that the body names."""
        if self.headers.get_content_type() != "application/json":
            raise RefusedError(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "A label is sent as application/json.")
        lengths = self.headers.get_all("Content-Length", [])
        if len(lengths) != 1 or not re.fullmatch("[0-9]{1,9}", lengths[0]) or "Transfer-Encoding" in self.headers:
            raise RefusedError(HTTPStatus.LENGTH_REQUIRED, "A label is sent with its length.")
        if int(lengths[0]) > MOST_BODY_BYTES:
            raise RefusedError(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"A label takes at most {MOST_BODY_BYTES} bytes.")
        bad = RefusedError(HTTPStatus.BAD_REQUEST, f"A label is a row and a key from 0 to {max(LABELS)}.")
        try:
            sent = json.loads(self.rfile.read(int(lengths[0])))
        except (ValueError, RecursionError):
            raise bad from None
        if not isinstance(sent, dict):
            raise bad
        body = cast("dict[str, object]", sent)
        row, key = body.get("row"), body.get("label")
        if set(body) != {"row", "label"} or type(row) is not int or type(key) is not int or key not in LABELS:
            raise bad
        return row, key

    @contextmanager
    def _refusing(self) -> Generator[None]:
        try:
            yield
        except RefusedError as refused:
            self._tell(refused.status, {"error": str(refused)})

    def _tell(self, status: HTTPStatus, told: Mapping[str, object]) -> None:
        self._reply(status, "application/json", json.dumps(told))

    def _reply(self, status: HTTPStatus, kind: str, text: str) -> None:
        content = text.encode()
        self.send_response(status)
        for name, value in {**HEADERS, "Content-Security-Policy": policy(), "Content-Type": f"{kind}; charset=utf-8", "Content-Length": len(content)}.items():
            self.send_header(name, str(value))
        self.end_headers()
        self.wfile.write(content)


# --- the page -------------------------------------------------------------------------------------------------------------

HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}


@cache
def page() -> str:
    """The page, with its one style and its one script in it."""
    html = _part("page.html")
    for kind, content in (("style", _part("page.css")), ("script", _part("page.js"))):
        html = html.replace(f"<{kind}></{kind}>", f"<{kind}>{content}</{kind}>")
    return html


@cache
def policy() -> str:
    """The Content-Security-Policy: this style, this script, this server, and nothing else."""
    allowed = "; ".join(f"{kind}-src '{_hash(_part(name))}'" for kind, name in (("style", "page.css"), ("script", "page.js")))
    never = "; ".join(f"{what} 'none'" for what in ("frame-ancestors", "base-uri", "form-action"))
    return f"default-src 'none'; {allowed}; connect-src 'self'; {never}; require-trusted-types-for 'script'"


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _part(name: str) -> str:
    return resources.files("spillover.labelling").joinpath(name).read_text(encoding="utf-8")


# --- the file -------------------------------------------------------------------------------------------------------------


def _digest(path: Path) -> str | None:
    """sha256 of what a file holds, None where there is no plain file."""
    if not path.is_file():
        return None
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _save(path: Path, content: bytes) -> None:
    """Put content in a file's place, whole or not at all, with the permissions it had."""
    handle, name = tempfile.mkstemp(prefix=f".{path.name[:100]}.", suffix=".partial", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        shutil.copymode(path, name)
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
