"""Recording a training loop: one line before it, one line in it."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Mapping
from os import PathLike
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import numpy as np
import torch
import xxhash

from losspath.errors import (
    ArgumentError,
    LosspathError,
    LosspathWarning,
    ModelError,
    StoreError,
)
from losspath.files import acquire_lock, canonical_json
from losspath.parameters import Layout
from losspath.recording.state import StateReader
from losspath.recording import store
from losspath.recording.opening import Existing, open_store, prepare_directory
from losspath.recording.writing import Buffer, Piece, WriterThread

# Three buffers go round: one being filled, one waiting, one being written. Together with the copy
# of the last state (``every`` > 1) they stay within 64 MiB. Small states fill smaller buffers, that
# stay in the cache: measured, that is worth more than waking the writer less often.
_BUFFERS = 3
_BUFFER_BYTES = 16 << 20
_PREFERRED_BYTES = 4 << 20
_MOST_ROWS = 512
# States are made durable at least this often (seconds): what a crash can cost of a slow training.
_COMMIT_SECONDS = 2.0


class Recorder:
    """Records every step of a training loop: the parameters and the loss.

    The state that the model is in, θ_0, is recorded at once; call `record` after every optimiser
    step. States are copied into a bounded buffer (at most 64 MiB in all) and written by a thread;
    they are durable within about two seconds, and on leaving the ``with`` block.

    A stored row holds the parameters in ``named_parameters()`` order (tied ones once, frozen ones
    included) and then the floating-point buffers, as float32. Half precisions widen exactly.

    Args:
        directory: where to record; made if it does not exist.
        model: any `torch.nn.Module`, on any device.
        every: store a state at every so many steps (and the last one always); losses are all kept.
        existing: what to do when the directory exists and is not empty: "error" refuses; "resume"
            goes on after the last state that was recorded, which the model must be in;
            "overwrite" removes the recorded trajectory in it and starts anew.
        step: with ``existing="resume"``, the step to go on from: later states are dropped. Give
            the step of the checkpoint that you loaded.
        dtype: "float32", or "float64" to record models that hold float64 exactly.
        allow_complex: record complex tensors as pairs (real, imaginary).
        metadata: JSON values to keep with the trajectory.

    Raises:
        ExistsError: the directory is not empty and `existing` is "error".
        BusyError: another recorder is writing there.
        ModelError: the model has float64, complex or lazy parameters that were not allowed for,
            or is not in the state that the recording is to go on from.
        StoreError: the directory cannot be written, or holds damaged data.

    Example:
        >>> with Recorder("runs/mine", model) as recorder:  # doctest: +SKIP
        ...     for x, y in loader:
        ...         loss = loss_fn(model(x), y)
        ...         loss.backward(); optimizer.step(); optimizer.zero_grad()
        ...         recorder.record(loss)
    """

    def __init__(
        self,
        directory: str | PathLike[str],
        model: torch.nn.Module,
        *,
        every: int = 1,
        existing: Existing = "error",
        step: int | None = None,
        dtype: Literal["float32", "float64"] = "float32",
        allow_complex: bool = False,
        metadata: Mapping[str, Any] | None = None,
    ) -> None:
        if every < 1:
            raise ArgumentError(f"expected every ≥ 1, got {every}")
        if existing not in ("error", "resume", "overwrite"):
            raise ArgumentError(
                f'expected existing="error", "resume" or "overwrite", got {existing!r}'
            )
        if dtype not in ("float32", "float64"):
            raise ArgumentError(f'expected dtype="float32" or "float64", got {dtype!r}')
        if step is not None and existing != "resume":
            raise ArgumentError(f'step goes with existing="resume", got existing={existing!r}')
        self.directory = Path(directory)
        layout = Layout.of(model, dtype, allow_complex)
        self._state = StateReader(model, layout)
        self._header = store.Header(layout, dtype, every, dict(metadata or {}))
        _check_metadata(self._header.metadata)
        prepare_directory(self.directory, existing)
        self._lock = acquire_lock(self.directory / ".lock", f"to {self.directory}")
        try:
            contents = open_store(self.directory, self._header, self._state, existing, step)
            self._writer_thread = WriterThread(self.directory, contents)
        except BaseException:
            self._lock.release()
            raise
        self._step = int(contents.records["step"][-1]) if len(contents.records) else 0
        self._step = max(self._step, len(contents.losses))
        self._stored = int(contents.records["step"][-1]) if len(contents.records) else -1
        self._begin_buffers()
        self._is_open = True
        if self._stored < 0:
            self._store_state(self._state.tensors())
            self._submit(commit=True)

    @property
    def steps(self) -> int:
        """How many optimiser steps have been recorded."""
        return self._step

    def record(self, loss: float | torch.Tensor) -> None:
        """Records one optimiser step; call it after ``optimizer.step()``.

        Args:
            loss: the loss whose gradient was followed, as a float or a tensor of one number on
                any device; it is detached. It may be NaN.

        Raises:
            ArgumentError: the loss is not one real number.
            StoreError: an earlier state could not be written (disk full, say), or the recorder is
                closed.
        """
        self._check_open()
        # Whatever can be refused is refused here, before anything is changed.
        value, tensors = _as_float(loss), self._state.tensors()
        self._losses.append(value)
        self._step += 1
        if self._step % self._header.every == 0:
            self._store_state(tensors)
        else:
            self._keep_last(tensors)
        if time.monotonic() - self._committed > _COMMIT_SECONDS:
            self._submit(commit=True)

    def flush(self) -> None:
        """Returns once every recorded state is durable.

        Raises:
            StoreError: something could not be written.
        """
        self._check_open()
        self._submit(commit=True)
        self._writer_thread.wait()

    def close(self) -> None:
        """Stores the last state if ``every`` left it out, makes all durable, and lets go.

        Raises:
            StoreError: something could not be written; what was committed before stays valid.
        """
        if self._is_open:
            self._is_open = False
            try:
                try:
                    if self._writer_thread.error is None:
                        self._store_last_state()
                finally:
                    if self._writer_thread.error is None:
                        self._submit(commit=True, closed=True)
                    self._writer_thread.stop()
            finally:
                self._lock.release()

    def __enter__(self) -> Recorder:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            self.close()
        except LosspathError:
            # The loop's own error is the one to see.
            if error is None:
                raise

    # -- the training thread's side -------------------------------------------------------------

    def _begin_buffers(self) -> None:
        dtype = getattr(torch, self._header.dtype)
        row_size, row_bytes = self._header.layout.row_size, self._header.row_bytes
        # Whole rows; a row that is larger than a buffer goes through in pieces.
        rows = min(max(1, _PREFERRED_BYTES // row_bytes), _BUFFER_BYTES // row_bytes, _MOST_ROWS)
        size = rows * row_size or _BUFFER_BYTES // dtype.itemsize
        for _ in range(_BUFFERS):
            self._writer_thread.free.put(Buffer(row_size, size, dtype))
        self._buffer = self._writer_thread.free.get()
        self._filled = 0
        self._steps: list[int] = []
        self._digests: list[int] = []
        self._losses: list[float] = []
        self._committed = time.monotonic()
        keep_copy = self._header.every > 1 and row_bytes <= _BUFFER_BYTES
        self._last = torch.empty(row_size, dtype=dtype) if keep_copy else None
        if self._header.every > 1:
            self._keep_last(self._state.tensors())

    def _keep_last(self, tensors: list[torch.Tensor]) -> None:
        """Keeps the state in case it is the last one; of a large one, what tells if it changes."""
        if self._last is not None:
            self._state.read_into(self._last, tensors)
        else:
            self._version = self._state.version()

    def _store_state(self, tensors: list[torch.Tensor]) -> None:
        if self._buffer.rows:
            self._store_row(lambda row: self._state.read_into(row, tensors))
        else:
            self._store_piecewise(tensors)

    def _store_row(self, fill: Callable[[torch.Tensor], object]) -> None:
        number, size = self._filled // self._header.layout.row_size, self._header.layout.row_size
        if number == len(self._buffer.rows):
            self._submit()
            number = 0
        fill(self._buffer.rows[number])
        self._filled += size
        # Hashed here, where the row is still in the processor's cache.
        self._end_row(xxhash.xxh3_64_intdigest(self._buffer.row_bytes[number]))

    def _end_row(self, digest: int) -> None:
        self._digests.append(digest)
        self._steps.append(self._step)
        self._stored = self._step

    def _store_piecewise(self, tensors: list[torch.Tensor]) -> None:
        hasher = xxhash.xxh3_64()
        for tensor in tensors:
            done = 0
            while done < len(tensor):
                if self._filled == len(self._buffer.numbers):
                    self._submit()
                count = min(len(tensor) - done, len(self._buffer.numbers) - self._filled)
                place = self._buffer.numbers[self._filled : self._filled + count]
                place.copy_(tensor[done : done + count])
                hasher.update(self._buffer.bytes(self._filled, count))
                done += count
                self._filled += count
        self._end_row(hasher.intdigest())

    def _submit(self, commit: bool = False, closed: bool = False) -> None:
        buffer = self._buffer if self._filled else None
        self._writer_thread.put(
            Piece(buffer, self._filled, self._steps, self._digests, self._losses, commit, closed)
        )
        self._steps, self._digests, self._losses = [], [], []
        if commit:
            self._committed = time.monotonic()
        if buffer is not None:
            self._buffer = self._writer_thread.take_free()
            self._filled = 0

    def _store_last_state(self) -> None:
        if self._stored == self._step:
            return
        if (last := self._last) is not None:
            self._store_row(lambda row: row.copy_(last))
        elif (tensors := self._unchanged()) is not None:
            self._store_state(tensors)
        else:
            warnings.warn(
                f"{self.directory}: the state at the last step, {self._step}, was not stored, as "
                "the model was changed after it was recorded",
                LosspathWarning,
                stacklevel=4,
            )

    def _unchanged(self) -> list[torch.Tensor] | None:
        """The model's state, if it is still the last one: too large to keep a copy of."""
        try:
            tensors = self._state.tensors()
        except ModelError:
            return None
        return tensors if self._state.version() == self._version else None

    def _check_open(self) -> None:
        if self._writer_thread.error is not None:
            raise StoreError(
                f"recording stopped: {self._writer_thread.error}; what was committed before is "
                f"intact in {self.directory}"
            ) from self._writer_thread.error
        if not self._is_open:
            raise StoreError("the recorder is closed")


def _check_metadata(metadata: dict[str, Any]) -> None:
    try:
        canonical_json(metadata).encode()
    except (TypeError, ValueError, RecursionError) as cause:
        raise ArgumentError(f"expected metadata of JSON values: {cause}") from None


def _as_float(loss: float | torch.Tensor) -> float:
    if isinstance(loss, torch.Tensor):
        loss = loss.detach()
        if loss.numel() != 1 or loss.is_complex():
            raise ArgumentError(
                f"expected the loss as one real number, got a {loss.dtype} tensor of shape "
                f"{tuple(loss.shape)}; take its mean first"
            )
        return float(loss.item())
    try:
        if isinstance(loss, (str, bytes, bytearray)) or np.iscomplexobj(loss):
            raise TypeError
        return float(loss)
    except (TypeError, ValueError, OverflowError):
        raise ArgumentError(
            f"expected the loss as a float or a tensor of one number, got {type(loss).__name__}"
        ) from None
