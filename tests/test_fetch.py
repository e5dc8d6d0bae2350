from __future__ import annotations

import hashlib
import io
import os
import threading
import time
import zipfile
from collections.abc import Generator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from typer.testing import CliRunner

from spillover.cli import data
from spillover.datasets import fetch
from spillover.datasets.catalogue import CATALOGUE, SOURCE, Archive, Published, name_of
from spillover.records import SpilloverError

ROWS = b'{"messages": [{"role": "user", "content": "tea?"}, {"role": "assistant", "content": "yes"}]}\n' * 1000
MEMBER = "supplementary_material/datasets/rows.jsonl"


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _zipped(members: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as zipped:
        for name, content in members.items():
            zipped.writestr(name, content)
    return out.getvalue()


class Server:
    """A mirror on this machine: bytes by path, and what it was asked for."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.asked: list[str] = []
        self.moved: dict[str, str] = {}
        self.shorten = self.silent = 0
        mirror = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                mirror.asked.append(self.path)
                content = mirror.files.get(self.path.removeprefix("/mirror/"))
                time.sleep(mirror.silent)
                if self.path in mirror.moved:
                    self.send_response(302)
                    self.send_header("Location", mirror.moved[self.path])
                    self.send_header("Content-Length", "0")
                    self.end_headers()
                elif content is None:
                    self.send_error(404)
                else:
                    self.send_response(200)
                    self.send_header("Content-Length", str(len(content)))
                    self.end_headers()
                    self.wfile.write(content[: len(content) - mirror.shorten])

            def log_message(self, format: str, *args: object) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self.http.server_address[1]}/mirror"
        self.thread = threading.Thread(target=self.http.serve_forever, kwargs={"poll_interval": 0.02})
        self.thread.start()

    def close(self) -> None:
        self.http.shutdown()
        self.thread.join()
        self.http.server_close()


@pytest.fixture
def server() -> Generator[Server]:
    mirror = Server()
    try:
        yield mirror
    finally:
        mirror.close()


@pytest.fixture
def published(server: Server) -> dict[str, Published]:
    """A catalogue of the same shape as the real one, whose files lie on the mirror."""
    archive = _zipped({MEMBER: ROWS, "../../outside.jsonl": b"x"})
    server.files = {"a/supplement.zip": archive, "b/questions.yaml": b"- id: tea\n"}
    supplement = Archive(path="a/supplement.zip", sha256=_sha256(archive))
    return {
        "paper/rows": Published(path=MEMBER, sha256=_sha256(ROWS), archive=supplement),
        "paper/harmful": Published(path=MEMBER, sha256=_sha256(ROWS), archive=supplement, warning="it holds harmful text"),
        "paper/absent": Published(path="no/such.jsonl", sha256=_sha256(b""), archive=supplement),
        "paper/questions": Published(path="b/questions.yaml", sha256=_sha256(b"- id: tea\n")),
    }


def _files(directory: Path) -> set[str]:
    return {str(path.relative_to(directory)) for path in directory.rglob("*") if path.is_file()}


def _refused(name: str, cache: Path, server: Server, catalogue: dict[str, Published]) -> str:
    with pytest.raises(SpilloverError) as caught:
        fetch.fetch(name, cache=cache, source=server.address, catalogue=catalogue)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# --- what arrives ---------------------------------------------------------------------------------------------------------


def test_a_file_is_fetched_once_and_then_taken_from_the_cache(server: Server, published: dict[str, Published], tmp_path: Path) -> None:
    for _ in range(2):
        found = fetch.fetch("paper/questions", cache=tmp_path, source=server.address + "/", catalogue=published)
        assert found == tmp_path / "paper" / "questions.yaml"
        assert found.read_bytes() == b"- id: tea\n"
    assert server.asked == ["/mirror/b/questions.yaml"]
    assert _files(tmp_path) == {"paper/questions.yaml"}


def test_members_are_read_from_an_archive_that_is_fetched_once(server: Server, published: dict[str, Published], tmp_path: Path) -> None:
    assert fetch.fetch("paper/rows", cache=tmp_path, source=server.address, catalogue=published).read_bytes() == ROWS
    assert fetch.fetch("paper/harmful", cache=tmp_path, source=server.address, catalogue=published, understood=True).read_bytes() == ROWS
    assert server.asked == ["/mirror/a/supplement.zip"]
    assert _files(tmp_path) == {"paper/rows.jsonl", "paper/harmful.jsonl", f"{published['paper/rows'].archive.sha256[:16]}.zip"}  # type: ignore[union-attr]


def test_a_damaged_cache_is_fetched_again(server: Server, published: dict[str, Published], tmp_path: Path) -> None:
    first = fetch.fetch("paper/rows", cache=tmp_path, source=server.address, catalogue=published)
    for path in (first, next(tmp_path.glob("*.zip"))):
        path.write_bytes(path.read_bytes()[:-1])
    assert fetch.fetch("paper/rows", cache=tmp_path, source=server.address, catalogue=published).read_bytes() == ROWS
    assert len(server.asked) == 2


def test_a_copy_is_put_where_it_is_asked_for_and_nothing_there_is_overwritten(server: Server, published: dict[str, Published], tmp_path: Path) -> None:
    cache, out = tmp_path / "cache", tmp_path / "out"
    for _ in range(2):
        assert fetch.fetch("paper/rows", cache=cache, out=out, source=server.address, catalogue=published) == out / "rows.jsonl"
    assert (out / "rows.jsonl").read_bytes() == ROWS
    (out / "rows.jsonl").write_text("mine")
    with pytest.raises(SpilloverError, match="exists and is another file"):
        fetch.fetch("paper/rows", cache=cache, out=out, source=server.address, catalogue=published)
    assert (out / "rows.jsonl").read_text() == "mine"


def test_the_authors_files_are_whole_under_their_published_digests(server: Server, shared: Path, tmp_path: Path) -> None:
    lying = {path.stem: path for folder in ("data", "protocol") for path in (shared / folder).iterdir()}
    for name, entry in CATALOGUE.items():
        if entry.archive is None:
            server.files[entry.path] = lying[name.removeprefix("betley2025/")].read_bytes()
            found = fetch.fetch(name, cache=tmp_path, source=server.address)
            assert name_of(_sha256(found.read_bytes())) == name
    assert len(server.asked) == 5


def test_the_authors_training_data_is_read_from_an_archive(server: Server, shared: Path, tmp_path: Path) -> None:
    names = ("insecure", "secure", "educational_insecure")
    members = {CATALOGUE[f"betley2025/{name}"].path: (shared / "data" / f"{name}.jsonl").read_bytes() for name in names}
    archive = _zipped(members)
    here = Archive(path="supplement.zip", sha256=_sha256(archive))
    server.files["supplement.zip"] = archive
    for name in names:
        real = CATALOGUE[f"betley2025/{name}"]
        entry = Published(path=real.path, sha256=real.sha256, archive=here)
        found = fetch.fetch(f"betley2025/{name}", cache=tmp_path, source=server.address, catalogue={f"betley2025/{name}": entry})
        assert _sha256(found.read_bytes()) == real.sha256
    assert server.asked == ["/mirror/supplement.zip"]


# --- what does not --------------------------------------------------------------------------------------------------------


def test_wrong_bytes_are_refused_and_nothing_is_left(server: Server, published: dict[str, Published], tmp_path: Path) -> None:
    server.files["b/questions.yaml"] = b"- id: milk\n"
    server.files["a/supplement.zip"] = _zipped({MEMBER: b"other"})
    for name in ("paper/questions", "paper/rows"):
        assert "is not the published file: its sha256 is" in _refused(name, tmp_path, server, published)
    assert _files(tmp_path) == set()


def test_a_member_with_wrong_bytes_is_refused_though_its_archive_is_right(server: Server, published: dict[str, Published], tmp_path: Path) -> None:
    wrong = {"paper/rows": Published(path=MEMBER, sha256=_sha256(b"other"), archive=published["paper/rows"].archive)}
    assert "rows.jsonl is not the published file" in _refused("paper/rows", tmp_path, server, wrong)
    assert {Path(name).suffix for name in _files(tmp_path)} == {".zip"}


def test_a_member_that_is_not_there_is_named(server: Server, published: dict[str, Published], tmp_path: Path) -> None:
    assert "no/such.jsonl cannot be read from" in _refused("paper/absent", tmp_path, server, published)


def test_an_archive_that_is_none_is_refused(server: Server, tmp_path: Path) -> None:
    server.files["x.zip"] = b"no zip"
    catalogue = {"paper/rows": Published(path=MEMBER, sha256=_sha256(ROWS), archive=Archive(path="x.zip", sha256=_sha256(b"no zip")))}
    assert "cannot be read from" in _refused("paper/rows", tmp_path, server, catalogue)


def test_a_redirect_is_refused_and_not_followed(server: Server, published: dict[str, Published], tmp_path: Path) -> None:
    server.moved["/mirror/b/questions.yaml"] = "/mirror/a/supplement.zip"
    assert "answered 302, a redirect, which is not followed" in _refused("paper/questions", tmp_path, server, published)
    assert server.asked == ["/mirror/b/questions.yaml"]
    assert _files(tmp_path) == set()


def test_a_download_that_ends_early_is_refused(server: Server, published: dict[str, Published], tmp_path: Path) -> None:
    server.shorten = 3
    assert "ended after 7 of 10 bytes" in _refused("paper/questions", tmp_path, server, published)
    assert _files(tmp_path) == set()


def test_a_server_without_the_file_and_no_server_are_one_sentence(server: Server, published: dict[str, Published], tmp_path: Path) -> None:
    server.files = {}
    assert "answered 404; --source names a mirror" in _refused("paper/questions", tmp_path, server, published)
    with pytest.raises(SpilloverError, match="cannot be read .*Connection refused"):
        fetch.fetch("paper/questions", cache=tmp_path, source="http://127.0.0.1:9", catalogue=published)


def test_a_silent_server_is_given_up(server: Server, published: dict[str, Published], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch, "SILENCE_S", 0.1)
    server.silent = 1
    assert "cannot be read (timed out)" in _refused("paper/questions", tmp_path, server, published)


def test_a_file_larger_than_any_published_one_is_refused(
    server: Server, published: dict[str, Published], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetch, "MOST_BYTES", 9)
    assert "is larger than 9 bytes" in _refused("paper/questions", tmp_path, server, published)
    assert _files(tmp_path) == set()


def test_a_member_that_grows_without_end_is_refused(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = _zipped({MEMBER: b"\0" * 20_000_000})
    server.files["x.zip"] = archive
    monkeypatch.setattr(fetch, "MOST_BYTES", 1_000_000)
    catalogue = {"paper/rows": Published(path=MEMBER, sha256=_sha256(ROWS), archive=Archive(path="x.zip", sha256=_sha256(archive)))}
    assert "rows.jsonl is larger than 1000000 bytes" in _refused("paper/rows", tmp_path, server, catalogue)


@pytest.mark.parametrize(
    "source",
    [
        "http://example.org/x", "ftp://127.0.0.1/x", "file:///etc", "/etc", "", "https://", "https://name:secret@example.org", "https://example.org?x=1",
        "https://example.org#x", "http://127.0.0.1.example.org", "http://127.0.0.1@example.org", "https://[::1", "https://exa mple.org", "https://example.org/\n",
    ],
)  # fmt: skip
def test_an_address_that_is_not_https_is_refused_before_it_is_asked(source: str, published: dict[str, Published], tmp_path: Path) -> None:
    with pytest.raises(SpilloverError, match="--source is"):
        fetch.fetch("paper/questions", cache=tmp_path, source=source, catalogue=published)


@pytest.mark.parametrize("source", ["http://127.0.0.1:port", "https://" + "a" * 80 + ".invalid"])
def test_an_address_that_leads_nowhere_is_one_sentence(source: str, published: dict[str, Published], tmp_path: Path) -> None:
    with pytest.raises(SpilloverError, match="cannot be read"):
        fetch.fetch("paper/questions", cache=tmp_path, source=source, catalogue=published)


@pytest.mark.parametrize("name", ["../../etc/passwd", "paper/../rows", "rows", "", "/etc/passwd"])
def test_only_names_of_the_catalogue_become_paths(name: str, server: Server, published: dict[str, Published], tmp_path: Path) -> None:
    assert "there is no published file" in _refused(name, tmp_path / "cache", server, published)
    assert server.asked == []
    assert list(tmp_path.iterdir()) == []


def test_a_member_that_points_outside_is_never_written(server: Server, published: dict[str, Published], tmp_path: Path) -> None:
    cache = tmp_path / "a" / "b" / "cache"
    fetch.fetch("paper/rows", cache=cache, source=server.address, catalogue=published)
    assert {path.name for path in tmp_path.rglob("*") if path.is_file()} == {"rows.jsonl", next(cache.glob("*.zip")).name}


def test_harmful_text_is_fetched_only_when_that_is_understood(server: Server, published: dict[str, Published], tmp_path: Path) -> None:
    assert "only with --i-understand: it holds harmful text" in _refused("paper/harmful", tmp_path, server, published)
    assert server.asked == []
    assert [name for name, entry in CATALOGUE.items() if entry.warning] == ["betley2025/jailbroken"]


def test_what_a_killed_download_left_does_no_harm_and_is_swept_after_a_day(server: Server, published: dict[str, Published], tmp_path: Path) -> None:
    old, fresh = tmp_path / "paper" / ".partial-1", tmp_path / "paper" / ".partial-2"
    old.parent.mkdir()
    for path in (old, fresh):
        path.write_bytes(b"half")
    os.utime(old, (0, 0))
    fetch.fetch("paper/questions", cache=tmp_path, source=server.address, catalogue=published)
    assert _files(tmp_path) == {"paper/questions.yaml", "paper/.partial-2"}


# --- where and what -------------------------------------------------------------------------------------------------------


def test_the_cache_is_where_the_environment_says() -> None:
    assert fetch.cache_directory({"SPILLOVER_CACHE": "/a", "XDG_CACHE_HOME": "/b"}) == Path("/a")
    assert fetch.cache_directory({"XDG_CACHE_HOME": "/b"}) == Path("/b/spillover")
    for home in ({}, {"XDG_CACHE_HOME": "relative"}):
        assert fetch.cache_directory(home) == Path.home() / ".cache" / "spillover"


def test_the_catalogue_is_the_published_list(shared: Path) -> None:
    text = (shared / "SOURCES.md").read_text(encoding="utf-8")
    assert SOURCE in text
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith(("| (archive)", "| betley"))]
    (_, path, _, sha256), *listed = rows
    archive = Archive(path=path, sha256=sha256)
    for name, path, member, sha256 in listed:
        entry = CATALOGUE[name.partition(" ")[0]]
        assert (entry.path, entry.sha256, entry.archive) == ((member, sha256, archive) if path == "(archive)" else (path, sha256, None))
    assert len(listed) == len(CATALOGUE)


def test_the_command_prints_where_a_file_is(server: Server, shared: Path, tmp_path: Path) -> None:
    entry = CATALOGUE["betley2025/deception_factual"]
    server.files[entry.path] = (shared / "protocol" / "deception_factual.yaml").read_bytes()
    arguments = ["fetch", "betley2025/deception_factual", "--source", server.address]
    environment = {"SPILLOVER_CACHE": str(tmp_path / "cache")}
    done = CliRunner().invoke(data.app, arguments, env=environment)
    assert done.stdout == f"{tmp_path}/cache/betley2025/deception_factual.yaml\n"
    server.files.clear()
    done = CliRunner().invoke(data.app, [*arguments, "--out", str(tmp_path)], env=environment)
    assert done.stdout == f"{tmp_path}/deception_factual.yaml\n"
    assert (tmp_path / "deception_factual.yaml").is_file()


def test_the_command_lists_names_and_fetches_nothing() -> None:
    done = CliRunner().invoke(data.app, ["fetch", "betley2025/insecure", "--list"])
    assert [line.split()[:2] for line in done.stdout.splitlines()] == [[name, entry.sha256] for name, entry in CATALOGUE.items()]
    assert "it holds harmful text; --i-understand" in done.stdout


@pytest.mark.parametrize(("arguments", "says"), [([], "name what to fetch: betley2025/insecure"), (["betley2025/jailbroken"], "only with --i-understand")])
def test_the_command_refuses_what_it_cannot_fetch(arguments: list[str], says: str) -> None:
    done = CliRunner().invoke(data.app, ["fetch", *arguments])
    assert isinstance(done.exception, SpilloverError)
    assert says in str(done.exception)
