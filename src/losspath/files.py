"""Small files that are either whole or absent: JSON documents and NumPy archives with a digest.

Everything is written aside, synced and then moved into place, and carries a digest of its own
content, so that a reader sees the old file, the new one, or a clear error. No pickle anywhere.
"""

from __future__ import annotations

import errno
import json
import math
import os
import secrets
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import filelock
import numpy as np
import numpy.typing as npt
import xxhash

from losspath.errors import (
    ArgumentError,
    BusyError,
    DamagedError,
    StoreError,
    wrap_os_errors,
)

if TYPE_CHECKING:
    from typing_extensions import Buffer

Array = npt.NDArray[Any]


def digest_of(*parts: object) -> str:
    """A 128-bit XXH3 digest of arrays (dtype, shape and bytes) and JSON values, as 32 hex digits.

    It detects accidents, not forgery: XXH3 is not a cryptographic hash.
    """
    hasher = xxhash.xxh3_128()
    for part in parts:
        if isinstance(part, np.ndarray):
            hasher.update(f"array {part.dtype.str} {part.shape}\n".encode())
            hasher.update(np.ascontiguousarray(part).reshape(-1).view(np.uint8).data)
        else:
            hasher.update(f"value {canonical_json(part)}\n".encode())
    return hasher.hexdigest()


def canonical_json(value: object) -> str:
    """The one spelling of a JSON value that digests are taken of."""
    return json.dumps(plain_json(value), sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def plain_json(value: object) -> object:
    """Replaces numbers that JSON lacks (NaN, infinities) by their names."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, np.generic):
        return plain_json(value.item())
    if isinstance(value, Mapping):
        made = {str(key): plain_json(item) for key, item in value.items()}
        if len(made) < len(value):
            raise ArgumentError(
                "expected names that differ as text, as JSON has no others, got "
                f"{', '.join(map(repr, value)):.80}"
            )
        return made
    if isinstance(value, (list, tuple)):
        return [plain_json(item) for item in value]
    return value


# What systems answer that have no descriptors of directories, or do not sync them (Windows, some
# network file systems). There a rename is as durable as the system makes it.
_NO_DIRECTORY_SYNC = {
    errno.EACCES,
    errno.EPERM,
    errno.EISDIR,
    errno.EINVAL,
    errno.EBADF,
    errno.ENOSYS,
    errno.ENOTSUP,
    errno.EOPNOTSUPP,
}


def sync_directory(directory: Path) -> None:
    """Makes renames and new names in a directory survive a power failure, where that can be done.

    Raises:
        OSError: the disk failed, or the like; a system that cannot sync directories is no error.
    """
    try:
        descriptor = os.open(directory, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        if error.errno not in _NO_DIRECTORY_SYNC:
            raise


def sync_file(descriptor: int) -> None:
    """Makes a file's bytes (and its length) survive a power failure."""
    # macOS and Windows have no fdatasync.
    getattr(os, "fdatasync", os.fsync)(descriptor)


def write_all(descriptor: int, data: Buffer, offset: int | None = None) -> None:
    """Writes all bytes, however few the system takes at once.

    Args:
        descriptor: of an open file.
        data: the bytes, contiguous in memory.
        offset: where in the file; None for where its position is.

    Raises:
        OSError: the system refuses, or takes no more bytes (`errno.ENOSPC`).
    """
    whole = memoryview(data)
    left = whole.cast("B") if whole.nbytes else whole[:0]
    if offset is not None and not hasattr(os, "pwrite"):  # Windows
        os.lseek(descriptor, offset, os.SEEK_SET)
        offset = None
    while left:
        if offset is None:
            count = os.write(descriptor, left)
        else:
            count = os.pwrite(descriptor, left, offset)
            offset += count
        if count <= 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        left = left[count:]


def new_aside(directory: Path) -> Path:
    """Makes the next free directory ``aside-1``, ``aside-2``, … in `directory`.

    Raises:
        StoreError: it cannot be made.
    """
    with wrap_os_errors(f"make room for what must make way in {directory}"):
        number = _last_aside(directory) + 1
        while True:
            aside = directory / f"aside-{number}"
            try:
                aside.mkdir()
            except FileExistsError:
                number += 1
                continue
            sync_directory(directory)
            return aside


def _last_aside(directory: Path) -> int:
    numbers = (path.name.removeprefix("aside-") for path in directory.glob("aside-*"))
    return max((int(number) for number in numbers if number.isdecimal()), default=0)


def move_aside(path: Path, directory: Path, into: Path | None = None) -> Path:
    """Renames a file that must make way into ``aside-<n>`` of `directory`; overwrites nothing.

    Args:
        path: the file, on the file system of `directory`.
        directory: such as a run's.
        into: a directory that `new_aside` made, for files that belong together; None for the last
            one that has no file of this name, or a new one.

    Returns:
        Where the file is now.

    Raises:
        StoreError: it cannot be renamed; then it is where it was.
    """
    if into is None:
        last = directory / f"aside-{_last_aside(directory)}"
        free = last.is_dir() and not os.path.lexists(last / path.name)
        into = last if free else new_aside(directory)
    target = into / path.name
    with wrap_os_errors(f"move {path} aside to {target}"):
        if os.path.lexists(target):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))
        path.rename(target)
        sync_directory(into)
        sync_directory(path.parent)
    return target


def write_atomically(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Writes a file aside with `write`, syncs it, and moves it into place.

    Raises:
        StoreError: the disk is full, the directory is read-only, or the like.
    """
    aside = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    with wrap_os_errors(f"write {path}"):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with aside.open("wb") as file:
                write(file)
                file.flush()
                os.fsync(file.fileno())
            aside.replace(path)
        except BaseException:
            aside.unlink(missing_ok=True)
            raise
        sync_directory(path.parent)


def is_unfinished(path: Path) -> bool:
    """Whether a file is what `write_atomically` leaves where it is killed, by its name."""
    return path.name.startswith(".") and path.name.endswith(".tmp")


def write_document(path: Path, content: Mapping[str, object]) -> None:
    """Writes a JSON document that carries a digest of its content."""
    raw = document_bytes(content)
    write_atomically(path, lambda file: file.write(raw))


def document_bytes(content: Mapping[str, object]) -> bytes:
    """The bytes of a JSON document that carries a digest of its content."""
    plain = plain_json(content)
    assert isinstance(plain, dict)
    text = json.dumps({**plain, "digest": digest_of(plain)}, indent=1, ensure_ascii=False)
    return text.encode() + b"\n"


def read_document(path: Path) -> dict[str, Any]:
    """Reads what `write_document` wrote, without the digest.

    Raises:
        StoreError: the file cannot be read.
        DamagedError: its bytes are not what was written.
    """
    with wrap_os_errors(f"read {path}"):
        raw = path.read_bytes()
    content = document_in(raw)
    if content is None:
        raise DamagedError(f"{path} is damaged: its content does not match its digest")
    return content


def document_in(raw: bytes) -> dict[str, Any] | None:
    """The content of a JSON document, without its digest; None where the two do not match."""
    try:
        content = json.loads(raw)
        if isinstance(content, dict) and content.pop("digest", None) == digest_of(content):
            return content
    except (ValueError, RecursionError):
        pass
    return None


def save_archive(
    path: Path,
    kind: str,
    version: int,
    arrays: Mapping[str, Array],
    provenance: Mapping[str, object],
) -> None:
    """Saves arrays and their provenance as ``.npz`` that opens without pickle.

    Args:
        path: file to write, replaced whole if it exists.
        kind: what the file holds, such as "surface"; checked when it is loaded.
        version: version of the layout, stored as ``format_version``.
        arrays: the arrays by name.
        provenance: JSON values that say where the arrays come from.
    """
    members: dict[str, Any] = {
        **arrays,
        "kind": np.array(kind),
        "format_version": np.array(version),
        "provenance": np.array(canonical_json(provenance)),
    }
    members["digest"] = np.array(_digest_of_members(members))
    write_atomically(path, lambda file: np.savez(file, **members))


def _digest_of_members(members: Mapping[str, Array]) -> str:
    return digest_of(*(item for pair in sorted(members.items()) for item in pair))


def _damaged(path: Path, what: str) -> DamagedError:
    return DamagedError(
        f"{path} is damaged{what}; remove it to compute it again (`losspath repair RUN` puts a "
        "run's damaged results aside)"
    )


def load_archive(path: Path, kind: str, version: int) -> tuple[dict[str, Array], dict[str, Any]]:
    """Loads what `save_archive` wrote: the arrays and the provenance.

    Raises:
        StoreError: the file is missing, of another kind or version, or cannot be read now (such
            as with too many files open, or too little memory).
        DamagedError: its bytes are not what was written.
    """
    with wrap_os_errors(f"read {path}"):
        try:
            with np.load(path, allow_pickle=False) as archive:
                members: dict[str, Array] = {name: archive[name] for name in archive.files}
        except FileNotFoundError:
            raise StoreError(f"there is no file {path}; expected a {kind} that was saved") from None
        except OSError:
            raise
        except MemoryError as cause:
            # A wrong length in a header asks for too much memory; a sum over the bytes tells.
            if _is_whole_zip(path):
                raise StoreError(f"cannot read {path}: there is not enough memory now") from cause
            raise _damaged(path, ": its bytes do not match their sums") from cause
        except Exception as cause:  # a damaged archive can fail in any of its parsers
            raise _damaged(path, f", or is not a {kind} that was saved") from cause
    found = members.pop("digest", None)
    if found is None or "kind" not in members or "format_version" not in members:
        raise StoreError(f"{path} is not a file that losspath saved")
    if str(found) != _digest_of_members(members):
        raise _damaged(path, ": its content does not match its digest")
    found_kind = str(members.pop("kind"))
    if found_kind != kind:
        raise StoreError(f"{path} holds {found_kind!r} and not a {kind}")
    if int(members.pop("format_version")) != version:
        raise StoreError(
            f"{path} is in another version of the {kind} format than {version}, which this "
            "version of losspath reads; compute it again or use the version that wrote it"
        )
    return members, json.loads(str(members.pop("provenance")))


def _is_whole_zip(path: Path) -> bool:
    try:
        with zipfile.ZipFile(path) as file:
            return file.testzip() is None  # a megabyte at a time
    except OSError:
        raise
    except Exception:
        return False


@contextmanager
def only_writer(path: Path, what: str) -> Iterator[None]:
    """Holds a lock file for as long as the block runs; it dies with the process.

    Raises:
        BusyError: another process holds it.
        StoreError: the lock file cannot be made.
    """
    lock = acquire_lock(path, what)
    try:
        yield
    finally:
        lock.release()


def acquire_lock(path: Path, what: str) -> filelock.BaseFileLock:
    """Takes the lock file or soon raises `BusyError`; the caller releases it."""
    with wrap_os_errors(f"lock {path}"):
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = filelock.FileLock(path, thread_local=False)
        try:
            # A reader that asks whether anybody writes holds it for a moment.
            lock.acquire(timeout=0.1, poll_interval=0.01)
        except filelock.Timeout:
            raise BusyError(
                f"another process is writing {what}; wait for it to end, or stop it"
            ) from None
        return lock
