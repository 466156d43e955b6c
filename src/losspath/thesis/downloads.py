"""Downloads of public data files: checked, resumable, and safe between processes.

`fetch` leaves the hash check, the cache and the atomic move into place to pooch, and brings the
transfer itself: a file that was cut off is kept as ``<name>.part`` beside the target and continued
by the next call, from any of the mirrors.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

from filelock import FileLock
from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from losspath.errors import ArgumentError, DataError, wrap_os_errors
from losspath.extras import extra
from losspath.user_cache import user_cache

with extra("thesis"):
    import requests
    import urllib3
    from pooch import file_hash, get_logger, retrieve

DATA_VARIABLE = "LOSSPATH_DATA"
"""The environment variable that names the directory of downloaded data."""

CONNECT_SECONDS = 10.0
"""How long a server may take to accept a connection."""

READ_SECONDS = 30.0
"""How long a server may stay silent during a transfer."""

ATTEMPTS = 3
"""How often one URL is tried, as long as each try brings the file further."""

_CHUNK_BYTES = 1 << 18
_PARTIAL = 206
_UNSATISFIABLE = 416

# What goes wrong between this machine and a server. Not plain OSError: a full disk is no reason to
# try the next mirror. (requests does not wrap the errors of the raw stream, hence urllib3's.)
_TRANSFER_ERRORS = (requests.RequestException, urllib3.exceptions.HTTPError)


class _MirrorError(Exception):
    """One URL did not give the file; the text says why."""


class _BrokenOffError(Exception):
    """The connection ended before the file did."""


def default_data_directory() -> Path:
    """Returns the directory that data sets are kept in when the caller names none.

    Returns:
        The value of the environment variable LOSSPATH_DATA if it is set and not empty, else the
        folder ``data`` in the user's cache directory of losspath. It need not exist.
    """
    named = os.environ.get(DATA_VARIABLE)
    if named:
        return Path(named).expanduser()
    return user_cache() / "data"


def fetch(
    url: str | Sequence[str],
    filename: str,
    directory: Path,
    known_hash: str,
    progress: bool = True,
) -> Path:
    """Returns ``directory/filename``, downloaded first unless it is there with the right hash.

    A download that is cut off leaves ``filename.part``, from which the next call goes on. Calls
    from several processes or threads wait for each other on ``filename.lock``.

    Args:
        url: where the file is, or several mirrors of it, tried in this order.
        filename: the name it gets, without a folder.
        directory: where it is kept; created if missing.
        known_hash: the expected hash in pooch's form, such as ``"md5:..."`` or ``"sha256:..."``
            (a bare digest is SHA-256). A file there with another hash is replaced.
        progress: whether to show a bar with the remaining time on standard error; nothing is
            shown where that is no terminal.

    Returns:
        The path of the file, whose hash is `known_hash`.

    Raises:
        ArgumentError: if there is no URL, no hash, or `filename` is not a plain name.
        DataError: if no mirror gave the file (no network, an error of the server, another hash),
            or `directory` cannot be written.
    """
    urls = (url,) if isinstance(url, str) else tuple(url)
    if not urls:
        raise ArgumentError(f"expected at least one URL for {filename}, got none")
    if filename != Path(filename).name:
        raise ArgumentError(f"expected a file name without a folder, got {filename!r}")
    if not _parse_hash(known_hash)[1]:
        raise ArgumentError(f"expected a hash for {filename}, got {known_hash!r}")
    target = directory.absolute() / filename
    with wrap_os_errors(f"keep {target} (to be downloaded from {urls[0]})", DataError):
        # Before the lock, so that a read-only directory of finished downloads can be used.
        if target.is_file() and _hash_of(target, known_hash) == _parse_hash(known_hash)[1]:
            return directory / filename
        directory.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{target}.lock"), _quiet_pooch():
            _retrieve_from_any(urls, target, known_hash, progress)
    return directory / filename


def _retrieve_from_any(urls: Sequence[str], target: Path, known_hash: str, progress: bool) -> None:
    """Makes `target` from the first URL that gives it."""
    downloader = ResumingDownloader(target, known_hash, progress)
    failures: list[str] = []
    for mirror in urls:
        try:
            retrieve(mirror, known_hash, target.name, target.parent, downloader=downloader)
        except _MirrorError as failure:
            failures.append(f"{urlsplit(mirror).netloc or mirror}: {failure}")
        else:
            return
    raise DataError(
        f"cannot download {target.name} ({'; '.join(failures)}): "
        f"try again, or get it from {' or '.join(urls)} and put it at {target}"
    )


class ResumingDownloader:
    """A downloader for pooch that goes on where an earlier transfer was cut off.

    Bytes are collected in ``target + ".part"``, which outlives a failed call, and become the file
    that pooch asked for only when their hash is right; with a wrong hash they are removed.

    Args:
        target: the path the file will have in the end; gives the name of the part file.
        known_hash: the hash that the whole file must have, in pooch's form.
        progress: whether to show a bar on standard error if that is a terminal.
    """

    def __init__(self, target: Path, known_hash: str, progress: bool = True) -> None:
        self.part = target.with_name(target.name + ".part")
        self._name = target.name
        self._known_hash = known_hash
        self._progress = progress

    def __call__(self, url: str, output_file: str, pooch: object) -> None:
        """Writes what is at `url` to `output_file`, as pooch's downloaders do.

        Args:
            url: where the file is.
            output_file: the path to write to.
            pooch: the calling object of pooch; not used.
        """
        for attempt in range(1, ATTEMPTS + 1):
            before = self._part_bytes()
            try:
                self._transfer(url)
                break
            except (*_TRANSFER_ERRORS, _BrokenOffError) as cause:
                # A server that sent nothing is left at once for the next mirror.
                if attempt == ATTEMPTS or self._part_bytes() <= before:
                    raise _MirrorError(_reason(cause)) from cause
        algorithm, expected = _parse_hash(self._known_hash)
        actual = _hash_of(self.part, self._known_hash)
        if actual != expected:
            self.part.unlink()
            raise _MirrorError(
                f"expected {algorithm} {expected}, got {actual}, and removed what came"
            )
        self.part.replace(output_file)

    def _part_bytes(self) -> int:
        return self.part.stat().st_size if self.part.exists() else 0

    def _transfer(self, url: str) -> None:
        """Completes the part file from `url`, or raises and leaves what came of it."""
        have = self._part_bytes()
        # Compression on the way would make byte ranges, lengths and hashes mean something else.
        headers = {"Accept-Encoding": "identity"}
        if have:
            headers["Range"] = f"bytes={have}-"
        timeout = (CONNECT_SECONDS, READ_SECONDS)
        with requests.get(url, headers=headers, stream=True, timeout=timeout) as response:
            status = response.status_code
            first, total = _content_range(response)
            if status == requests.codes.ok:  # The whole file, whether or not the rest was asked.
                self._receive(response, 0, _as_int(response.headers.get("Content-Length")))
                return
            if not have or status not in (_PARTIAL, _UNSATISFIABLE):
                raise requests.HTTPError(response=response)
            if status == _PARTIAL and first == have:
                self._receive(response, have, total)
                return
            if status == _UNSATISFIABLE and total == have:
                return  # Nothing was missing but the move into place.
        # The part is longer than the file, or another range came than was asked for.
        self.part.unlink()
        self._transfer(url)

    def _receive(self, response: requests.Response, have: int, total: int | None) -> None:
        """Appends the body to the first `have` bytes of the part file."""
        bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            DownloadColumn(),
            TransferSpeedColumn(),
            TimeRemainingColumn(),
            console=Console(stderr=True),
            transient=True,
            disable=not (self._progress and sys.stderr.isatty()),
        )
        with bar, self.part.open("ab" if have else "wb") as stream:
            task = bar.add_task(self._name, total=total, completed=have)
            # Undecoded: some servers label a .gz file as an encoding, and requests would undo it.
            for chunk in response.raw.stream(_CHUNK_BYTES, decode_content=False):
                stream.write(chunk)
                have += len(chunk)
                bar.update(task, completed=have)
        if total is not None and have < total:
            raise _BrokenOffError(f"{have} of {total} bytes")


@contextmanager
def _quiet_pooch() -> Iterator[None]:
    """Keeps pooch from logging. A filter, not a level: two threads cannot undo it wrongly."""

    def refuse(_: object) -> bool:
        return False

    logger = get_logger()
    logger.addFilter(refuse)
    try:
        yield
    finally:
        logger.removeFilter(refuse)


def _parse_hash(known_hash: str) -> tuple[str, str]:
    """Splits ``"md5:..."`` into algorithm and digest; a bare digest is SHA-256, as in pooch."""
    algorithm, _, digest = known_hash.rpartition(":")
    return algorithm or "sha256", digest.lower()


def _hash_of(path: Path, known_hash: str) -> str:
    """Returns the hash of a file, by the algorithm that `known_hash` names."""
    return str(file_hash(str(path), alg=_parse_hash(known_hash)[0])).lower()


def _content_range(response: requests.Response) -> tuple[int | None, int | None]:
    """Returns the first byte and the whole length from the header Content-Range, where given."""
    span, _, total = response.headers.get("Content-Range", "").removeprefix("bytes ").partition("/")
    return _as_int(span.partition("-")[0]), _as_int(total)


def _as_int(text: str | None) -> int | None:
    return int(text) if text is not None and text.strip().isdecimal() else None


def _reason(error: Exception) -> str:
    """Says in a few words why a transfer failed."""
    if isinstance(error, requests.HTTPError) and error.response is not None:
        return f"the server answered {error.response.status_code} {error.response.reason}"
    if isinstance(error, requests.ConnectTimeout):
        return f"no connection within {CONNECT_SECONDS:g} s"
    if isinstance(error, requests.Timeout | urllib3.exceptions.TimeoutError):
        return f"no data for {READ_SECONDS:g} s"
    if isinstance(error, requests.ConnectionError):
        return "no connection"
    if isinstance(error, _BrokenOffError | urllib3.exceptions.ProtocolError):
        return "the connection broke off"
    return " ".join(str(error).split()) or type(error).__name__
