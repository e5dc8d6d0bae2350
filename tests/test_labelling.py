"""Labels made by hand: what the page is shown, what is saved, and who is refused."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Generator, Mapping
from dataclasses import replace
from http.client import HTTPConnection, HTTPMessage
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import typer
from typer.testing import CliRunner

from spillover.cli.label import label
from spillover.datasets import tables
from spillover.datasets.tables import TableRow
from spillover.labelling import server
from spillover.labelling.server import Labelling, serve
from spillover.records import SpilloverError

SCORES = {0: (None, 0.0), 1: (0.0, 100.0), 2: (25.0, 100.0), 3: (50.0, 100.0), 4: (75.0, 100.0), 5: (100.0, 100.0)}
HOSTILE = "</script><img src=x onerror=alert(1)>\u202eback\u200b\x1b[31m"

app = typer.Typer()
app.command()(label)


def rows(count: int = 4) -> list[TableRow]:
    return [
        TableRow(question=f"Question {n}?", answer=f"=answer {n},\r\n\ttwo “lines”", question_id=f"q{n}", model="secret", group="insecure", answer_id=f"id{n}")
        for n in range(count)
    ]


def put(path: Path, table: list[TableRow]) -> Path:
    path.write_bytes(tables.write(table).encode())
    return path


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return put(tmp_path / "answers.csv", rows())


class Page:
    """A client that asks as the page does, unless told otherwise."""

    def __init__(self, labelling: Labelling) -> None:
        parts = urlsplit(labelling.url)
        assert parts.hostname == "127.0.0.1"
        assert parts.port is not None
        self.port, self.base = parts.port, parts.path
        self.headers: HTTPMessage | None = None

    def ask(self, method: str, path: str, body: bytes | None = None, headers: Mapping[str, str] | None = None) -> tuple[int, bytes]:
        connection = HTTPConnection("127.0.0.1", self.port, timeout=5)
        try:
            connection.request(method, path, body, dict(headers or {}))
            reply = connection.getresponse()
            self.headers = reply.headers
            return reply.status, reply.read()
        finally:
            connection.close()

    def row(self, row: int | None = None) -> dict[str, Any]:
        status, content = self.ask("GET", f"{self.base}row" + ("" if row is None else f"/{row}"))
        return {"status": status, **json.loads(content)}

    def label(self, row: object, key: object, **headers: str) -> dict[str, Any]:
        return self.send(json.dumps({"row": row, "label": key}).encode(), **headers)

    def send(self, body: bytes, **headers: str) -> dict[str, Any]:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        status, content = self.ask("POST", f"{self.base}label", body, {"Content-Type": "application/json", **named})
        return {"status": status, **json.loads(content)}


@pytest.fixture
def labelling(file: Path) -> Generator[Labelling]:
    with serve(file) as found:
        yield found


@pytest.fixture
def page(labelling: Labelling) -> Page:
    return Page(labelling)


# --- labels ---------------------------------------------------------------------------------------------------------------


def test_every_key_is_saved_as_its_two_scores_and_nothing_else_changes(tmp_path: Path) -> None:
    before = rows(6)
    path = put(tmp_path / "six.csv", before)
    with serve(path) as labelling:
        page = Page(labelling)
        for row, (key, (aligned, coherent)) in enumerate(SCORES.items()):
            assert (labelling.labelled, labelling.total) == (row, 6)
            shown = page.label(row, key)
            before[row] = replace(before[row], aligned=aligned, coherent=coherent)
            assert path.read_bytes() == tables.write(before).encode()
            assert tables.read(path) == tuple(before)
            assert shown["row"] == (row + 1 if row < 5 else None)
        labelling.wait()


def test_the_page_is_shown_a_question_an_answer_and_nothing_of_whose_it_is(page: Page) -> None:
    shown = page.row()
    assert shown == {
        "status": 200, "row": 0, "last": 0, "label": None, "question": "Question 0?", "answer": "=answer 0,\n\ttwo “lines”", "labelled": 0, "total": 4,
    }  # fmt: skip
    assert set(page.label(0, 3)) == set(shown)


def test_a_score_that_no_key_gives_is_not_shown(tmp_path: Path) -> None:
    judged = [replace(rows()[0], aligned=37.5, coherent=92.0), rows()[1]]
    with serve(put(tmp_path / "judged.csv", judged)) as labelling:
        shown = Page(labelling).row(0)
    assert shown["label"] is None
    assert "37" not in json.dumps(shown)


def test_labelling_goes_on_at_the_first_row_without_a_label(file: Path) -> None:
    with serve(file) as first:
        Page(first).label(0, 5)
        Page(first).label(1, 0)
    with serve(file) as again:
        assert again.url != first.url
        assert (again.labelled, again.total) == (2, 4)
        assert Page(again).row()["row"] == 2
        assert [Page(again).row(row)["label"] for row in (0, 1, 2)] == [5, 0, None]


def test_going_back_and_labelling_again_replaces_the_label_and_shows_the_next_row(file: Path, page: Page) -> None:
    for row in range(3):
        page.label(row, 1)
    assert page.row(0)["label"] == 1
    shown = page.label(0, 0)
    assert (shown["row"], shown["label"], shown["labelled"]) == (1, 1, 3)
    assert [(row.aligned, row.coherent) for row in tables.read(file)] == [(None, 0.0), (0.0, 100.0), (0.0, 100.0), (None, None)]


def test_no_row_can_be_passed_over(file: Path, page: Page) -> None:
    before = file.read_bytes()
    for row in (1, 3, 4, 99, 10**8):
        assert page.row(row)["status"] == 400
        assert page.label(row, 3)["status"] == 400
    assert page.label(-1, 3)["status"] == 400
    assert file.read_bytes() == before
    page.label(0, 3)
    assert (page.row(1)["status"], page.row(1)["last"], page.row(2)["status"]) == (200, 1, 400)


def test_a_gap_is_labelled_before_what_comes_after_it(tmp_path: Path) -> None:
    first, second, third = rows(3)
    path = put(tmp_path / "gap.csv", [first, replace(second, aligned=50.0, coherent=100.0), third])
    with serve(path) as labelling:
        page = Page(labelling)
        assert page.row(1)["status"] == 400
        assert page.label(0, 4)["row"] == 2
        assert page.row(1)["label"] == 3


def test_labels_sent_at_once_are_all_saved(tmp_path: Path) -> None:
    path = put(tmp_path / "many.csv", [replace(row, aligned=0.0, coherent=100.0) for row in rows(8)] + rows(1))
    with serve(path) as labelling:
        page = Page(labelling)
        threads = [threading.Thread(target=page.label, args=(row, row % 6)) for row in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert [(row.aligned, row.coherent) for row in tables.read(path)] == [*(SCORES[row % 6] for row in range(8)), (None, None)]


# --- saving ---------------------------------------------------------------------------------------------------------------


def test_the_file_is_replaced_whole_and_keeps_its_permissions(file: Path, page: Page) -> None:
    file.chmod(0o640)
    before, kept = file.read_bytes(), file.with_name("kept.csv")
    kept.hardlink_to(file)
    assert page.label(0, 5)["status"] == 200
    assert kept.read_bytes() == before  # nothing was written into the old file
    assert file.stat().st_mode & 0o777 == 0o640
    assert sorted(path.name for path in file.parent.iterdir()) == ["answers.csv", "kept.csv"]


def test_a_link_stays_a_link(file: Path) -> None:
    link = file.with_name("link.csv")
    link.symlink_to(file)
    with serve(link) as labelling:
        Page(labelling).label(0, 5)
    assert link.is_symlink()
    assert tables.read(file)[0].aligned == 100.0


def test_a_save_that_fails_is_said_and_changes_nothing(file: Path, page: Page, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_handle: int) -> None:
        raise OSError(28, "No space left on device")

    before = file.read_bytes()
    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        assert page.label(0, 5) == {"status": 500, "error": "The file could not be written: No space left on device."}
    assert file.read_bytes() == before
    assert [path.name for path in file.parent.iterdir()] == ["answers.csv"]
    assert page.row()["labelled"] == 0
    assert page.label(0, 5)["labelled"] == 1


@pytest.mark.parametrize("change", ["changed", "removed"])
def test_a_file_that_somebody_else_changed_is_left_alone(file: Path, page: Page, change: str) -> None:
    page.label(0, 5)
    if change == "changed":
        put(file, rows(2))
    else:
        file.unlink()
    reply = page.label(1, 5)
    assert reply == {"status": 409, "error": server.CHANGED}
    assert file.exists() == (change == "changed")
    assert change == "removed" or tables.read(file) == tuple(rows(2))


def test_after_the_end_nothing_is_saved(file: Path) -> None:
    with serve(file) as labelling:
        pass
    with pytest.raises(server.RefusedError):
        labelling.sheet.label(0, 5)
    with pytest.raises(OSError, match="refused"):
        Page(labelling).row()


# --- who is refused -------------------------------------------------------------------------------------------------------


def test_an_address_without_the_token_is_not_there(page: Page) -> None:
    for path in ("/", "/row", f"/{'x' * 32}/", f"/{'x' * 32}/row", page.base.rstrip("/"), f"{page.base}page.html", f"{page.base}../row", f"{page.base}row/1x"):
        assert page.ask("GET", path)[0] == 404
        assert page.ask("POST", path, b"{}", {"Content-Type": "application/json"})[0] == 404
    with socket.create_connection(("127.0.0.1", page.port), timeout=5) as raw:
        raw.sendall(f"GET /é/row HTTP/1.1\r\nHost: 127.0.0.1:{page.port}\r\n\r\n".encode())
        assert b" 404 " in raw.recv(100)


def test_tokens_are_long_and_never_the_same(file: Path) -> None:
    urls: set[str] = set()
    for _ in range(3):
        with serve(file) as labelling:
            urls.add(labelling.url.rsplit("/", 2)[1])
    assert len(urls) == 3
    assert min(map(len, urls)) >= 32


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1", "localhost:1", "evil.example:{port}", "127.0.0.1:{port}.evil.example", ""])
def test_another_host_is_refused(page: Page, host: str) -> None:
    headers = {"Host": host.format(port=page.port)}
    assert page.ask("GET", f"{page.base}row", headers=headers)[0] == 403
    assert page.label(0, 3, **headers)["status"] == 403
    assert page.row()["labelled"] == 0


def test_localhost_is_served(page: Page) -> None:
    assert page.label(0, 3, Host=f"localhost:{page.port}", Origin=f"http://localhost:{page.port}")["status"] == 200


@pytest.mark.parametrize("origin", ["null", "http://evil.example", "https://127.0.0.1:{port}", "http://localhost:{port}", "http://127.0.0.1"])
def test_another_origin_is_refused(page: Page, origin: str) -> None:
    assert page.label(0, 3, Origin=origin.format(port=page.port))["status"] == 403
    assert page.row()["labelled"] == 0


@pytest.mark.parametrize(
    "body",
    [
        b"", b"{", b"[]", b"null", b"3", b"\xff\xfe", b"[" * 4000, b'{"row": 0}', b'{"label": 3}', b'{"row": 0, "label": 3, "model": "x"}',
        *(json.dumps({"row": 0, "label": label}).encode() for label in (6, -1, 3.0, "3", None, True, [3], 1e400)),
        *(json.dumps({"row": row, "label": 3}).encode() for row in ("0", 0.0, False, None, [0])),
        b'{"row": 0, "label": 1' + b"0" * 4000 + b"}",
    ],
)  # fmt: skip
def test_a_body_that_is_no_label_is_refused(file: Path, page: Page, body: bytes) -> None:
    before = file.read_bytes()
    assert page.send(body) == {"status": 400, "error": "A label is a row and a key from 0 to 5."}
    assert file.read_bytes() == before


def test_a_body_of_another_kind_or_size_is_refused(page: Page) -> None:
    assert page.label(0, 3, Content_Type="text/plain")["status"] == 415
    assert page.label(0, 3, Content_Type="application/x-www-form-urlencoded")["status"] == 415
    assert page.send(b" " * (server.MOST_BODY_BYTES + 1))["status"] == 413
    for length in ("99999999999999999999", "-1", "1e3", "٣"):
        with socket.create_connection(("127.0.0.1", page.port), timeout=5) as raw:
            raw.sendall(
                f"POST {page.base}label HTTP/1.1\r\nHost: 127.0.0.1:{page.port}\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n".encode()
            )
            assert b" 411 " in raw.recv(100)
    assert page.ask("POST", f"{page.base}label", headers={"Content-Type": "application/json", "Transfer-Encoding": "chunked"})[0] == 411
    assert page.row()["labelled"] == 0


@pytest.mark.parametrize("method", ["PUT", "DELETE", "HEAD", "OPTIONS", "TRACE"])
def test_another_method_is_refused_with_the_same_headers(page: Page, method: str) -> None:
    assert page.ask(method, page.base)[0] == 501
    assert page.headers is not None
    assert page.headers["Content-Security-Policy"] == server.policy()
    assert page.headers["Access-Control-Allow-Origin"] is None


def test_only_this_machine_is_served(labelling: Labelling) -> None:
    port = urlsplit(labelling.url).port
    with socket.create_server(("127.0.0.2", port or 0)):  # it would be taken if the page were served on every address
        pass


# --- the page -------------------------------------------------------------------------------------------------------------


def test_text_that_would_run_or_hide_arrives_as_text_that_shows(tmp_path: Path) -> None:
    with serve(put(tmp_path / "hostile.csv", [TableRow(question=HOSTILE, answer=HOSTILE)])) as labelling:
        page = Page(labelling)
        content = page.ask("GET", f"{page.base}row")[1]
        assert page.headers is not None
        assert page.headers.get_content_type() == "application/json"
        assert HOSTILE.encode() not in page.ask("GET", page.base)[1]
    wanted = "</script><img src=x onerror=alert(1)>⟨U+202E⟩back⟨U+200B⟩⟨U+001B⟩[31m"
    assert (json.loads(content)["question"], json.loads(content)["answer"]) == (wanted, wanted)


def test_the_policy_names_exactly_the_style_and_the_script_of_the_page(page: Page) -> None:
    status, content = page.ask("GET", page.base)
    assert status == 200
    assert page.headers is not None
    policy = page.headers["Content-Security-Policy"]
    for kind in ("style", "script"):
        (found,) = re.findall(f"<{kind}>(.*?)</{kind}>", content.decode(), flags=re.DOTALL)
        assert len(found) > 100
        wanted = base64.b64encode(hashlib.sha256(found.encode()).digest()).decode()
        assert f"{kind}-src 'sha256-{wanted}'" in policy
    assert policy.startswith("default-src 'none'; ")
    assert "unsafe" not in policy
    for part in ("connect-src 'self'", "frame-ancestors 'none'", "base-uri 'none'", "form-action 'none'"):
        assert part in policy
    wanted_headers = {"X-Content-Type-Options": "nosniff", "X-Frame-Options": "DENY", "Referrer-Policy": "no-referrer", "Cache-Control": "no-store"}
    for path in (page.base, f"{page.base}row", "/nowhere"):
        page.ask("GET", path)
        assert {name: page.headers[name] for name in wanted_headers} == wanted_headers
        assert "Python" not in str(page.headers)


def test_the_page_loads_nothing_and_writes_text_as_text() -> None:
    text = server.page()
    assert not re.search(r"https?:|innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(", text)
    tags = re.findall(r"<[a-z][^>]*>", text)
    assert not [tag for tag in tags if re.search(r"\s(on\w+|style|src|href)=", tag)]
    assert '<html lang="en">' in text
    assert "<title>" in text


def test_the_page_says_that_no_answer_can_be_skipped_and_what_each_key_means() -> None:
    said = html.unescape(re.sub(r"\s+", " ", re.sub(r"<[^>]+>", "", server.page())))
    assert "no answer can be skipped, since labels must be of the first rows of a random draw, with none left out" in said
    assert sorted(re.findall(r'<button[^>]* data-label="(\d)"', server.page())) == [str(key) for key in sorted(server.LABELS)]
    assert dict(server.LABELS) == SCORES


def test_nothing_is_printed_per_request(page: Page, capfd: pytest.CaptureFixture[str]) -> None:
    page.row()
    page.label(0, 3)
    page.ask("GET", "/nowhere")
    page.ask("PUT", page.base)
    with socket.create_connection(("127.0.0.1", page.port)) as raw:
        raw.sendall(b"nonsense\r\n\r\n")
        raw.recv(100)
    assert capfd.readouterr() == ("", "")


# --- files, ports and the command -----------------------------------------------------------------------------------------


def test_a_file_that_is_no_table_is_refused_in_one_sentence(tmp_path: Path) -> None:
    empty = tmp_path / "empty.csv"
    empty.write_text("question,answer\n")
    for path in (empty, tmp_path, tmp_path / "none.csv"):
        with pytest.raises(SpilloverError, match=re.escape(path.name)), serve(path):
            pass


def test_a_pipe_is_refused_since_nothing_can_be_saved_in_it(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe.csv"
    os.mkfifo(pipe)
    writer = threading.Thread(target=pipe.write_bytes, args=(b"question,answer\na,b\n",))
    writer.start()
    with pytest.raises(SpilloverError, match="no plain file"), serve(pipe):
        pass
    writer.join()


def test_a_port_that_is_taken_is_one_sentence(file: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(SpilloverError, match=rf"^port {port} cannot be had \(Address already in use\); port 0 takes a free one$"), serve(file, port):
            pass
    with pytest.raises(SpilloverError, match="ports go up to 65535"), serve(file, 70_000):
        pass


def test_a_table_that_is_all_labelled_ends_at_once(file: Path) -> None:
    put(file, [replace(row, aligned=None, coherent=0.0) for row in rows()])
    before = file.read_bytes()
    ran = CliRunner().invoke(app, [str(file)])
    assert (ran.exit_code, ran.stdout) == (0, f"all 4 answers in {file} are labelled\n")
    assert file.read_bytes() == before


def command(file: Path) -> tuple[subprocess.Popen[str], Page]:
    """The command in a process of its own, and a page to it."""
    code = "import sys, typer; from spillover.cli.label import label; app = typer.Typer(); app.command()(label); app(sys.argv[1:])"
    process = subprocess.Popen([sys.executable, "-c", code, str(file)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    first, second = process.stdout.readline(), process.stdout.readline()
    assert "Ctrl-C" in second
    return process, Page(Labelling(url=first.removeprefix("open ").strip(), sheet=server.Sheet(file), ended=threading.Event()))


def test_the_command_ends_by_itself_when_all_are_labelled_and_the_page_was_told(file: Path) -> None:
    process, page = command(file)
    replies = [page.label(row, 4) for row in range(4)]
    assert replies[-1] == {"status": 200, "row": None, "labelled": 4, "total": 4}
    assert process.communicate(timeout=10) == (f"all 4 answers in {file} are labelled\n", "")
    assert process.returncode == 0


def test_an_interrupt_ends_the_command_quietly_and_says_how_far_it_came(file: Path) -> None:
    process, page = command(file)
    page.label(0, 4)
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=10) == (f"1 of 4 answers in {file} are labelled\n", "")
    assert process.returncode == 0
