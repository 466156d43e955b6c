"""Bytes that are written to the files of a run, and synced in portions."""

from __future__ import annotations

from collections.abc import Callable

from losspath.recording.disk import Files

# Rows are synced, and their pages given back, in portions of this size. A page cache that grows
# with the recording costs a training step more than the recording itself (see the design page).
SYNC_BYTES = 8 << 20
_COPIED_BYTES = 1 << 20


class Syncing:
    """Writes to files, and knows which of their bytes are not synced yet.

    Args:
        files: the files.
    """

    def __init__(self, files: Files) -> None:
        self._files = files
        self._unsynced: dict[str, tuple[int, int]] = {}  # which bytes of a file
        self._doubtful: set[str] = set()  # files whose syncing failed

    def write(self, name: str, raw: bytes | memoryview, offset: int) -> None:
        """Writes bytes at a place; syncs where a portion is full."""
        begin, end = self._unsynced.get(name, (offset, offset))
        self._unsynced[name] = begin, end = min(begin, offset), max(end, offset + len(raw))
        self._files.write(name, raw, offset)
        if end - begin >= SYNC_BYTES:
            self._sync(name)

    def cut(self, name: str, end: int) -> None:
        """Cuts off what lies behind a place, to be synced too."""
        self._files.cut(name, end)
        self._unsynced.setdefault(name, (end, end))

    def sync(self) -> None:
        """Makes all that was written durable."""
        for name in list(self._unsynced):
            self._sync(name)

    def _sync(self, name: str) -> None:
        self._doubtful.add(name)
        self._files.sync(name)
        self._doubtful.discard(name)
        del self._unsynced[name]

    def mend(self, check: Callable[[str, int], object]) -> None:
        """Writes once more what a system that failed to sync may have given up.

        Args:
            check: called with the name of each such file, and where its bytes begin; what it
                raises is passed on.
        """
        for name in list(self._doubtful):
            begin, end = self._unsynced[name]
            for at in range(begin, end, _COPIED_BYTES):
                raw = self._files.read(name, min(_COPIED_BYTES, end - at), at)
                self._files.write(name, raw, at)
            check(name, begin)
            self._doubtful.discard(name)
