"""The files of a run, as a writer has them."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from losspath.errors import StoreError, wrap_os_errors
from losspath.files import sync_directory, sync_file, write_all
from losspath.recording import store


class Files:
    """The files of a run, open to be written at given places.

    Args:
        directory: the run.
        names: which of its files.
    """

    def __init__(self, directory: Path, names: tuple[str, ...]) -> None:
        self.directory = directory
        self._open: dict[str, int] = {}
        with wrap_os_errors(f"write {directory}"):
            try:
                for name in names:
                    flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0)
                    self._open[name] = os.open(directory / name, flags, 0o666)
                sync_directory(directory)
                self._place = directory.stat()
            except BaseException:
                self.close()
                raise

    def write(self, name: str, data: bytes | memoryview, offset: int) -> None:
        """Writes all bytes at a place."""
        with wrap_os_errors(f"write {self.directory / name}"):
            write_all(self._open[name], data, offset)

    def read(self, name: str, size: int, offset: int) -> bytes:
        """So many bytes from a place; fewer where the file ends."""
        parts = []
        with wrap_os_errors(f"read {self.directory / name}"):
            os.lseek(self._open[name], offset, os.SEEK_SET)
            while size and (part := os.read(self._open[name], size)):
                parts.append(part)
                size -= len(part)
        return b"".join(parts)

    def sync(self, name: str) -> None:
        """Makes a file durable, and gives its pages back."""
        with wrap_os_errors(f"write {self.directory / name}"):
            sync_file(self._open[name])
        if name in (store.STATES, store.NEWEST) and hasattr(os, "posix_fadvise"):
            with contextlib.suppress(OSError):
                os.posix_fadvise(self._open[name], 0, 0, os.POSIX_FADV_DONTNEED)

    def check_there(self) -> None:
        """Raises where a file was removed, or another one put in its place.

        A directory that was moved is as good as before, also where another run is in its place.

        Raises:
            StoreError: what is written would be lost.
        """
        try:
            is_moved = not os.path.samestat(self._place, self.directory.stat())
        except OSError:  # nothing has its name
            is_moved = True
        for name, descriptor in list(self._open.items()):
            path = self.directory / name
            with wrap_os_errors(f"write {path}"):
                own = os.fstat(descriptor)
            try:
                is_own = is_moved or os.path.samestat(own, path.stat())
            except OSError:  # it was moved just now
                is_own = True
            if own.st_nlink == 0 or not is_own:
                raise StoreError(
                    f"{path} was removed while it was being recorded, or another file put in its "
                    "place, and with it what it held; keep clean-up and sync tools from the run, "
                    "and record into another directory"
                )

    def cut(self, name: str, size: int) -> None:
        """Cuts off what lies behind a place."""
        with wrap_os_errors(f"write {self.directory / name}"):
            if os.fstat(self._open[name]).st_size > size:
                os.ftruncate(self._open[name], size)

    def size(self, name: str) -> int:
        """The bytes of a file."""
        return os.fstat(self._open[name]).st_size

    def sizes(self) -> dict[str, int]:
        """The bytes of each."""
        return {name: self.size(name) for name in list(self._open)}

    def close(self) -> None:
        """Closes them."""
        # Both threads may be at it; what was interrupted as it was made has none.
        with contextlib.suppress(KeyError, AttributeError):
            while self._open:
                with contextlib.suppress(OSError):
                    os.close(self._open.popitem()[1])

    def __del__(self) -> None:
        self.close()
