"""The thread that writes what a recorder hands over."""

from __future__ import annotations

import queue
import threading
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from losspath.errors import StoreError
from losspath.recording import store


class Buffer:
    """Room for rows, with the views that rows are copied and hashed through made once.

    Making a view costs a training step as much as copying a tenth of a small network through it.

    Args:
        row_size: the numbers of a row.
        size: the numbers of the buffer; fewer than a row's where rows go through in pieces.
        dtype: the rows' dtype.

    Attributes:
        numbers: all of it.
        rows: the whole rows that find room in it.
        row_bytes: the bytes of each.
    """

    def __init__(self, row_size: int, size: int, dtype: torch.dtype) -> None:
        self.numbers = torch.empty(size, dtype=dtype)
        self._bytes = self.numbers.numpy().view(np.uint8).data
        begins = range(0, size - row_size + 1, row_size)
        self.rows = [self.numbers[begin : begin + row_size] for begin in begins]
        self.row_bytes = [self.bytes(begin, row_size) for begin in begins]

    def bytes(self, begin: int, count: int) -> memoryview:
        """The bytes of `count` numbers from `begin` on."""
        width = self.numbers.dtype.itemsize
        return self._bytes[begin * width : (begin + count) * width]


@dataclass
class Piece:
    """What the training thread hands to the writer: bytes of rows, and what to commit.

    Attributes:
        buffer: given back to `WriterThread.free` when written; None for none.
        filled: how many of its numbers are to be written.
        steps: the step of each row that ends in this piece.
        digests: the digest of each.
        losses: new losses.
        commit: whether everything up to here is to be made durable.
        closed: whether the recording ends here.
    """

    buffer: Buffer | None
    filled: int = 0
    steps: list[int] = field(default_factory=list)
    digests: list[int] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    commit: bool = False
    closed: bool = False


class WriterThread:
    """Writes pieces in order; keeps its first error for the training thread to find.

    Args:
        directory: the store.
        contents: what it holds, its tail cut off.

    Attributes:
        free: buffers that may be filled.
        error: the first error, after which nothing more is written; None as long as all is well.
    """

    def __init__(self, directory: Path, contents: store.Contents) -> None:
        self.free: queue.SimpleQueue[Buffer] = queue.SimpleQueue()
        self.error: BaseException | None = None
        self._pieces: queue.SimpleQueue[Piece | threading.Event | None] = queue.SimpleQueue()
        self._writer = store.Writer(directory, contents)
        self._digests: list[int] = []
        self._steps: list[int] = []
        self._losses: list[float] = []
        self._thread = threading.Thread(target=self._run, name="losspath-writer", daemon=True)
        self._thread.start()

    def put(self, piece: Piece) -> None:
        """Hands over a piece; never waits."""
        self._pieces.put(piece)

    def take_free(self) -> Buffer:
        """Waits for a buffer; this is where a disk slower than the training holds it back."""
        return self.free.get()

    def wait(self) -> None:
        """Waits until every piece is written, and raises what went wrong."""
        reached = threading.Event()
        self._pieces.put(reached)
        reached.wait()
        self._raise()

    def stop(self) -> None:
        """Waits, ends the thread and closes the files, and raises what went wrong."""
        self._pieces.put(None)
        self._thread.join()
        self._writer.close()
        self._raise()

    def _raise(self) -> None:
        if self.error is not None:
            raise StoreError(f"recording stopped: {self.error}") from self.error

    def _run(self) -> None:
        while (piece := self._pieces.get()) is not None:
            if isinstance(piece, threading.Event):
                piece.set()
                continue
            try:
                # After an error nothing more may be written: rows would be missing in between.
                if self.error is None:
                    self._write(piece)
            except BaseException as error:
                self.error = error
            finally:
                if piece.buffer is not None:
                    self.free.put(piece.buffer)

    def _write(self, piece: Piece) -> None:
        if piece.buffer is not None:
            self._writer.write_rows(piece.buffer.bytes(0, piece.filled))
        self._steps += piece.steps
        self._digests += piece.digests
        self._losses += piece.losses
        if piece.commit and (self._steps or self._losses or piece.closed):
            self._writer.commit(self._steps, self._digests, self._losses, piece.closed)
            self._steps, self._digests, self._losses = [], [], []
