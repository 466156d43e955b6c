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


@dataclass
class Piece:
    """What the training thread hands to the writer: bytes of rows, and what to commit.

    Attributes:
        numbers: part of a buffer, given back to `WriterThread.free` when written; None for none.
        steps: the step of each row that ends in this piece.
        digests: the digest of each.
        losses: new losses.
        commit: whether everything up to here is to be made durable.
        closed: whether the recording ends here.
    """

    numbers: torch.Tensor | None
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
        self.free: queue.SimpleQueue[torch.Tensor] = queue.SimpleQueue()
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

    def take_free(self) -> torch.Tensor:
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
                if piece.numbers is not None:
                    base = piece.numbers._base
                    self.free.put(piece.numbers if base is None else base)

    def _write(self, piece: Piece) -> None:
        if piece.numbers is not None:
            rows = piece.numbers.numpy().view(np.uint8).data
            self._writer.write_rows(rows)
        self._steps += piece.steps
        self._digests += piece.digests
        self._losses += piece.losses
        if piece.commit and (self._steps or self._losses or piece.closed):
            self._writer.commit(self._steps, self._digests, self._losses, piece.closed)
            self._steps, self._digests, self._losses = [], [], []
