"""The real download code against a small HTTP server in a thread: no test leaves the machine."""

from __future__ import annotations

import hashlib
import logging
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from losspath.errors import ArgumentError, DataError
from losspath.thesis import downloads
from losspath.thesis.downloads import default_data_directory, fetch

BODY = hashlib.shake_128(b"losspath").digest(1 << 20)  # no period that a wrong offset would hide in
MD5 = "md5:" + hashlib.md5(BODY).hexdigest()
NAME = "data.bin"


@dataclass
class Request:
    path: str
    range: str | None
    sent: int = 0


@dataclass
class Server:
    """What the tests see of the server: where it is, and what was asked of it."""

    port: int
    requests: list[Request] = field(default_factory=list)

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.port}/{path}"

    @property
    def sent(self) -> list[int]:
        return [request.sent for request in self.requests]


class Handler(BaseHTTPRequestHandler):
    """Serves `BODY` in a way that the first part of the path names."""

    log: list[Request]

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        self.request_log = Request(self.path, self.headers.get("Range"))
        self.log.append(self.request_log)
        getattr(self, "serve_" + self.path.strip("/").split("/")[0])()

    def answer(self, status: int, body: bytes, claimed: int | None = None, **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body) if claimed is None else claimed))
        self.end_headers()
        self.request_log.sent = len(body)  # before the client has all of it, and looks
        self.wfile.write(body)

    def start(self) -> int:
        asked = self.request_log.range
        return int(asked.removeprefix("bytes=").rstrip("-")) if asked else 0

    def serve_range(self, keep: float = 1.0) -> None:
        start = self.start()
        if self.request_log.range is None:
            rest, status, headers = BODY, 200, {}
        elif start >= len(BODY):
            self.answer(416, b"", Content_Range=f"bytes */{len(BODY)}")
            return
        else:
            rest, status = BODY[start:], 206
            headers = {"Content_Range": f"bytes {start}-{len(BODY) - 1}/{len(BODY)}"}
        self.answer(status, rest[: int(len(rest) * keep)], len(rest), **headers)

    def serve_halves(self) -> None:
        """Cuts every answer off halfway: a client that resumes comes closer each time."""
        self.serve_range(keep=0.5)

    def serve_flaky(self) -> None:
        """Cuts only the first answer off."""
        self.serve_range(keep=0.5 if len(self.log) == 1 else 1.0)

    def serve_plain(self) -> None:
        """Knows nothing of ranges."""
        self.answer(200, BODY)

    def serve_plainhalf(self) -> None:
        self.answer(200, BODY[: len(BODY) // 2], len(BODY))

    def serve_shifted(self) -> None:
        """Answers a range with another range than the one asked for."""
        if self.request_log.range is None:
            self.answer(200, BODY)
        else:
            self.answer(206, BODY[5:], Content_Range=f"bytes 5-{len(BODY) - 1}/{len(BODY)}")

    def serve_chunked(self) -> None:
        """Does not say how long the file is."""
        self.send_response(200)
        self.end_headers()
        self.request_log.sent = len(BODY)
        self.wfile.write(BODY)

    def serve_mislabelled(self) -> None:
        """Says that the file itself is an encoding of something else."""
        self.answer(200, BODY, Content_Encoding="gzip")

    def serve_other(self) -> None:
        self.answer(200, b"<html>please log in</html>")

    def serve_missing(self) -> None:
        self.answer(404, b"no such file")


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    log: list[Request] = []
    handler = type("LoggingHandler", (Handler,), {"log": log})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.02,))
        thread.start()
        yield Server(running.server_port, log)
        running.shutdown()
        thread.join()


@pytest.fixture
def closed_url(monkeypatch: pytest.MonkeyPatch) -> str:
    """A URL at which nobody listens."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{probe.getsockname()[1]}/{NAME}"


def left_over(directory: Path) -> set[str]:
    """What is in a directory besides the file and its lock."""
    return {path.name for path in directory.iterdir()} - {NAME, NAME + ".lock"}


@pytest.mark.parametrize("kind", ["range", "plain", "chunked", "mislabelled"])
def test_downloads_the_bytes(server: Server, tmp_path: Path, kind: str) -> None:
    directory = tmp_path / "new" / "folder"
    assert fetch(server.url(kind), NAME, directory, MD5) == directory / NAME
    assert (directory / NAME).read_bytes() == BODY
    assert server.sent == [len(BODY)]
    assert left_over(directory) == set()


def test_bare_hash_is_sha256(server: Server, tmp_path: Path) -> None:
    fetch(server.url("range"), NAME, tmp_path, hashlib.sha256(BODY).hexdigest().upper())
    assert (tmp_path / NAME).read_bytes() == BODY


def test_cached_file_is_not_downloaded_again(server: Server, tmp_path: Path) -> None:
    for _ in range(2):
        fetch(server.url("range"), NAME, tmp_path, MD5)
    assert len(server.requests) == 1


def test_cached_file_needs_no_writable_directory(tmp_path: Path, closed_url: str) -> None:
    (tmp_path / NAME).write_bytes(BODY)
    fetch(closed_url, NAME, tmp_path, MD5)
    assert left_over(tmp_path) == set()
    assert not (tmp_path / (NAME + ".lock")).exists()


def test_file_with_another_hash_is_replaced(server: Server, tmp_path: Path) -> None:
    (tmp_path / NAME).write_bytes(b"old")
    fetch(server.url("range"), NAME, tmp_path, MD5)
    assert (tmp_path / NAME).read_bytes() == BODY


def test_resumes_a_part_and_asks_only_for_the_rest(server: Server, tmp_path: Path) -> None:
    have = 700_001
    (tmp_path / (NAME + ".part")).write_bytes(BODY[:have])
    fetch(server.url("range"), NAME, tmp_path, MD5)
    assert (tmp_path / NAME).read_bytes() == BODY
    assert server.requests == [Request("/range", f"bytes={have}-", len(BODY) - have)]
    assert left_over(tmp_path) == set()


def test_server_that_ignores_ranges_starts_over(server: Server, tmp_path: Path) -> None:
    (tmp_path / (NAME + ".part")).write_bytes(b"x" * 1000)
    fetch(server.url("plain"), NAME, tmp_path, MD5)
    assert (tmp_path / NAME).read_bytes() == BODY
    assert server.sent == [len(BODY)]


def test_server_that_sends_another_range_starts_over(server: Server, tmp_path: Path) -> None:
    (tmp_path / (NAME + ".part")).write_bytes(BODY[:1000])
    fetch(server.url("shifted"), NAME, tmp_path, MD5)
    assert (tmp_path / NAME).read_bytes() == BODY
    assert [request.range for request in server.requests] == ["bytes=1000-", None]


def test_complete_part_is_only_moved(server: Server, tmp_path: Path) -> None:
    (tmp_path / (NAME + ".part")).write_bytes(BODY)
    fetch(server.url("range"), NAME, tmp_path, MD5)
    assert (tmp_path / NAME).read_bytes() == BODY
    assert server.sent == [0]


def test_part_longer_than_the_file_starts_over(server: Server, tmp_path: Path) -> None:
    (tmp_path / (NAME + ".part")).write_bytes(BODY + b"more")
    fetch(server.url("range"), NAME, tmp_path, MD5)
    assert (tmp_path / NAME).read_bytes() == BODY
    assert server.sent == [0, len(BODY)]


def test_cut_connection_is_resumed_at_once(server: Server, tmp_path: Path) -> None:
    fetch(server.url("flaky"), NAME, tmp_path, MD5)
    assert (tmp_path / NAME).read_bytes() == BODY
    assert server.sent == [len(BODY) // 2, len(BODY) // 2]


def test_cut_connections_keep_the_part_for_the_next_call(server: Server, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="the connection broke off"):
        fetch(server.url("halves"), NAME, tmp_path, MD5)
    assert len(server.requests) == downloads.ATTEMPTS
    assert left_over(tmp_path) == {NAME + ".part"}
    part = (tmp_path / (NAME + ".part")).read_bytes()
    assert part == BODY[: len(part)]
    assert len(part) == len(BODY) * 7 // 8

    fetch(server.url("range"), NAME, tmp_path, MD5)
    assert (tmp_path / NAME).read_bytes() == BODY
    assert server.sent[-1] == len(BODY) // 8


def test_next_mirror_continues_the_part(server: Server, tmp_path: Path) -> None:
    fetch([server.url("plainhalf"), server.url("range")], NAME, tmp_path, MD5)
    assert (tmp_path / NAME).read_bytes() == BODY
    assert server.sent[-1] == len(BODY) // 2


@pytest.mark.parametrize("first", ["missing", "other"])
def test_second_mirror_is_used(server: Server, tmp_path: Path, first: str) -> None:
    fetch([server.url(first), server.url("range")], NAME, tmp_path, MD5)
    assert (tmp_path / NAME).read_bytes() == BODY
    assert [request.path for request in server.requests] == [f"/{first}", "/range"]


def test_wrong_hash_names_both_and_removes_the_part(server: Server, tmp_path: Path) -> None:
    other = "md5:" + hashlib.md5(b"other").hexdigest()
    with pytest.raises(DataError) as caught:
        fetch(server.url("range"), NAME, tmp_path, other)
    message = str(caught.value)
    assert f"expected md5 {other[4:]}, got {MD5[4:]}" in message
    assert "\n" not in message
    assert left_over(tmp_path) == set()
    assert not (tmp_path / NAME).exists()


def test_bad_part_is_found_out_and_the_next_call_starts_over(
    server: Server, tmp_path: Path
) -> None:
    (tmp_path / (NAME + ".part")).write_bytes(b"y" * 1000)
    with pytest.raises(DataError, match=r"expected md5 .* got .* removed"):
        fetch(server.url("range"), NAME, tmp_path, MD5)
    assert left_over(tmp_path) == set()
    fetch(server.url("range"), NAME, tmp_path, MD5)
    assert (tmp_path / NAME).read_bytes() == BODY


def test_offline_error_says_what_to_put_where(tmp_path: Path, closed_url: str) -> None:
    with pytest.raises(DataError) as caught:
        fetch([closed_url, closed_url + "2"], NAME, tmp_path, MD5)
    message = str(caught.value)
    assert "no connection" in message
    assert str(tmp_path / NAME) in message
    assert closed_url in message
    assert closed_url + "2" in message
    assert "\n" not in message


def test_error_of_the_server_is_told(server: Server, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="the server answered 404 Not Found"):
        fetch(server.url("missing"), NAME, tmp_path, MD5)


def test_silent_server_times_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(downloads, "READ_SECONDS", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/"
        with pytest.raises(DataError, match=r"no data for 0\.2 s"):
            fetch(url, NAME, tmp_path, MD5)


def test_url_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot download"):
        fetch("nowhere", NAME, tmp_path, MD5)


def test_directory_that_cannot_be_made(tmp_path: Path, closed_url: str) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(DataError, match=r"cannot keep .*data\.bin") as caught:
        fetch(closed_url, NAME, tmp_path / "file", MD5)
    assert closed_url in str(caught.value)


def test_wrong_arguments(tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match="at least one URL"):
        fetch([], NAME, tmp_path, MD5)
    with pytest.raises(ArgumentError, match="without a folder"):
        fetch("http://127.0.0.1/", "../" + NAME, tmp_path, MD5)
    with pytest.raises(ArgumentError, match="expected a hash"):
        fetch("http://127.0.0.1/", NAME, tmp_path, "md5:")


def test_concurrent_calls_download_once(server: Server, tmp_path: Path) -> None:
    errors: list[BaseException] = []

    def work() -> None:
        try:
            fetch(server.url("range"), NAME, tmp_path, MD5)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    assert (tmp_path / NAME).read_bytes() == BODY
    assert len(server.requests) == 1


def test_parallel_processes_download_once(server: Server, tmp_path: Path) -> None:
    script = (
        "import sys, pathlib; from losspath.thesis.downloads import fetch; "
        "fetch(sys.argv[1], sys.argv[2], pathlib.Path(sys.argv[3]), sys.argv[4])"
    )
    command = [sys.executable, "-c", script, server.url("flaky"), NAME, str(tmp_path), MD5]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    running = [subprocess.Popen(command, env=environment) for _ in range(3)]
    assert [process.wait(60) for process in running] == [0, 0, 0]
    assert (tmp_path / NAME).read_bytes() == BODY
    assert server.sent == [len(BODY) // 2, len(BODY) // 2]


def test_nothing_is_printed_or_logged(
    server: Server,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.DEBUG, logger="pooch"):
        fetch(server.url("range"), NAME, tmp_path, MD5)
    assert capfd.readouterr() == ("", "")
    assert not [record for record in caplog.records if record.name == "pooch"]


@pytest.mark.parametrize("progress", [True, False])
def test_bar_on_a_terminal(
    server: Server,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    progress: bool,
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "100")
    fetch(server.url("range"), NAME, tmp_path, MD5, progress=progress)
    assert (NAME in capsys.readouterr().err) == progress


def test_default_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOSSPATH_DATA", str(tmp_path / "here"))
    assert default_data_directory() == tmp_path / "here"
    for value in ("", None):
        if value is None:
            monkeypatch.delenv("LOSSPATH_DATA")
        else:
            monkeypatch.setenv("LOSSPATH_DATA", value)
        assert default_data_directory().name == "data"
        assert "losspath" in str(default_data_directory())
