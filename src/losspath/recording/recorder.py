"""Recording a training loop: one line before it, one line in it."""

from __future__ import annotations

import shutil
import time
import warnings
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, NoReturn

import numpy as np
import torch
import xxhash

from losspath.errors import (
    ArgumentError,
    ExistsError,
    LosspathError,
    LosspathWarning,
    ModelError,
    StoreError,
    wrap_os_errors,
)
from losspath.files import acquire_lock
from losspath.parameters import Layout, StateReader
from losspath.recording import store
from losspath.recording.writing import Piece, WriterThread

Existing = Literal["error", "resume", "overwrite"]

# Three buffers go round: one being filled, one waiting, one being written. Together with the copy
# of the last state (``every`` > 1) they stay within 64 MiB. They are this large because every time
# that the writer wakes it takes the interpreter, and a core, from the training for a moment.
_BUFFERS = 3
_BUFFER_BYTES = 16 << 20
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
        self.directory = Path(directory)
        layout = Layout.of(model, dtype, allow_complex)
        self._state = StateReader(model, layout)
        self._header = store.Header(layout, dtype, every, dict(metadata or {}))
        _prepare_directory(self.directory, existing)
        self._lock = acquire_lock(self.directory / ".lock", f"to {self.directory}")
        try:
            contents = self._open(existing, step)
        except BaseException:
            self._lock.release()
            raise
        self._step = int(contents.records["step"][-1]) if len(contents.records) else 0
        self._step = max(self._step, len(contents.losses))
        self._stored = int(contents.records["step"][-1]) if len(contents.records) else -1
        self._writer_thread = WriterThread(self.directory, contents)
        self._begin_buffers()
        if self._stored < 0:
            self._store_state()
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
        self._losses.append(_as_float(loss))
        self._step += 1
        if self._step % self._header.every == 0:
            self._store_state()
        elif self._last is not None:
            self._state.read_into(self._last)
        else:
            self._version = self._state.version()
        if time.monotonic() - self._submitted > _COMMIT_SECONDS:
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
        if self._lock.is_locked:
            try:
                if self._writer_thread.error is None:
                    self._store_last_state()
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

    # -- opening ------------------------------------------------------------------------------

    def _open(self, existing: Existing, step: int | None) -> store.Contents:
        if existing == "overwrite":
            with wrap_os_errors(f"overwrite {self.directory}"):
                for name in (store.META, *store.DATA_FILES):
                    (self.directory / name).unlink(missing_ok=True)
        elif existing == "error" and store.exists(self.directory):
            _refuse_existing(self.directory)  # another recorder was here before the lock was ours
        if not store.exists(self.directory):
            if step:
                raise StoreError(f"expected {step} recorded steps in {self.directory}, found none")
            store.write_header(self.directory, self._header)
        written = store.read_header(self.directory)
        self._check_header(written)
        contents = store.read_contents(self.directory, written)
        states, losses = _kept(contents, self._header.every, step, self.directory)
        if contents.tail or (states, losses) != (len(contents.records), len(contents.losses)):
            if contents.tail:
                warnings.warn(
                    f"{self.directory}: cut off {sum(contents.tail.values()):,} bytes of an "
                    "unfinished write",
                    LosspathWarning,
                    stacklevel=4,
                )
            resumed_at = contents.records[states - 1] if states else None
            contents = store.cut_back(self.directory, contents, states, losses)
        else:
            resumed_at = contents.records[-1] if states else None
        if resumed_at is not None:
            self._check_state(resumed_at, step)
        return contents

    def _check_header(self, written: store.Header) -> None:
        mine = self._header
        mine.layout.check_same(written.layout, "the model", str(self.directory))
        differences = [
            f"{name} was {old!r} and is now {new!r}"
            for name, old, new in [
                ("dtype", written.dtype, mine.dtype),
                ("every", written.every, mine.every),
                ("the list of buffers", written.layout.row_size, mine.layout.row_size),
            ]
            if old != new
        ]
        if differences:
            raise StoreError(f"cannot go on recording in {self.directory}: {differences[0]}")

    def _check_state(self, record: np.void, step: int | None) -> None:
        """The model must be where the recording goes on, or the path would have a break in it."""
        if step is not None and int(record["step"]) != step:
            return  # that step's state was not stored (every > 1), so there is nothing to compare
        row = torch.empty(self._header.layout.row_size, dtype=getattr(torch, self._header.dtype))
        self._state.read_into(row)
        if store.row_digest(row.numpy()) != int(record["digest"]):
            raise ModelError(
                f"the model is not in the state that was recorded at step {int(record['step'])} "
                f"of {self.directory}; load that state (or your checkpoint of it) first, or pass "
                "the step of the checkpoint that you loaded"
            )

    # -- the training thread's side -------------------------------------------------------------

    def _begin_buffers(self) -> None:
        dtype = getattr(torch, self._header.dtype)
        row_bytes = self._header.row_bytes
        # Whole rows; a row that is larger than a buffer goes through in pieces.
        whole = _BUFFER_BYTES // row_bytes * row_bytes
        numbers = (whole or _BUFFER_BYTES) // dtype.itemsize
        for _ in range(_BUFFERS):
            self._writer_thread.free.put(torch.empty(numbers, dtype=dtype))
        self._buffer = self._writer_thread.free.get()
        self._filled = self._row_begin = 0
        self._steps: list[int] = []
        self._digests: list[int] = []
        self._losses: list[float] = []
        self._hasher = xxhash.xxh3_64()
        self._submitted = time.monotonic()
        keep_copy = self._header.every > 1 and row_bytes <= _BUFFER_BYTES
        self._last = torch.empty(self._header.layout.row_size, dtype=dtype) if keep_copy else None
        self._version = self._state.version()

    def _store_state(self) -> None:
        if self._header.layout.row_size <= len(self._buffer):
            self._state.read_into(self._take_row())
        else:
            for tensor in self._state.tensors():
                self._store_piecewise(tensor)
        self._end_row()

    def _take_row(self) -> torch.Tensor:
        """The place of the next row in the buffer."""
        size = self._header.layout.row_size
        if self._filled + size > len(self._buffer):
            self._submit()
        self._row_begin = self._filled
        self._filled += size
        return self._buffer[self._row_begin : self._filled]

    def _end_row(self) -> None:
        # Hashed here, where the row is still in the processor's cache.
        if self._filled > self._row_begin:
            self._hash(self._buffer[self._row_begin : self._filled])
        self._digests.append(self._hasher.intdigest())
        self._hasher.reset()
        self._row_begin = self._filled
        self._steps.append(self._step)
        self._stored = self._step

    def _hash(self, numbers: torch.Tensor) -> None:
        self._hasher.update(numbers.numpy().view(np.uint8).data)

    def _store_piecewise(self, tensor: torch.Tensor) -> None:
        done = 0
        while done < len(tensor):
            if self._filled == len(self._buffer):
                self._hash(self._buffer[self._row_begin :])
                self._submit()
            count = min(len(tensor) - done, len(self._buffer) - self._filled)
            place = self._buffer[self._filled : self._filled + count]
            place.copy_(tensor[done : done + count])
            done += count
            self._filled += count

    def _submit(self, commit: bool = False, closed: bool = False) -> None:
        numbers = self._buffer[: self._filled] if self._filled else None
        piece = Piece(numbers, self._steps, self._digests, self._losses, commit, closed)
        self._writer_thread.put(piece)
        self._steps, self._digests, self._losses = [], [], []
        self._submitted = time.monotonic()
        if numbers is not None:
            self._buffer = self._writer_thread.take_free()
            self._filled = self._row_begin = 0

    def _store_last_state(self) -> None:
        if self._stored == self._step:
            return
        if self._last is not None:
            self._take_row().copy_(self._last)
            self._end_row()
        elif self._version == self._state.version():
            # Too large to keep a copy of, so it is taken from the model, if that has not changed.
            self._store_state()
        else:
            warnings.warn(
                f"{self.directory}: the state at the last step, {self._step}, was not stored, as "
                "the model was changed after it was recorded",
                LosspathWarning,
                stacklevel=4,
            )

    def _check_open(self) -> None:
        if self._writer_thread.error is not None:
            raise StoreError(
                f"recording stopped: {self._writer_thread.error}; what was committed before is "
                f"intact in {self.directory}"
            ) from self._writer_thread.error
        if not self._lock.is_locked:
            raise StoreError("the recorder is closed")


def _prepare_directory(directory: Path, existing: Existing) -> None:
    with wrap_os_errors(f"write {directory}"):
        if existing == "error" and directory.exists() and any(directory.iterdir()):
            _refuse_existing(directory)
        directory.mkdir(parents=True, exist_ok=True)
        if shutil.disk_usage(directory).free == 0:
            raise StoreError(f"cannot write {directory}: the disk is full")


def _refuse_existing(directory: Path) -> NoReturn:
    raise ExistsError(
        f"{directory} exists and is not empty; choose another directory, or pass "
        'existing="resume" to go on recording in it or existing="overwrite" to replace the '
        "trajectory in it"
    )


def _kept(
    contents: store.Contents, every: int, step: int | None, directory: Path
) -> tuple[int, int]:
    """How many states and losses stay when recording goes on."""
    steps = contents.records["step"]
    losses = len(contents.losses)
    if step is not None:
        if step > losses or step < 0:
            raise StoreError(
                f"expected at least {step} recorded steps in {directory}, found {losses}"
            )
        losses = step
    states = int(np.searchsorted(steps, losses, side="right"))
    # A last state between two multiples of `every` would not be there had the run not stopped.
    if states and steps[states - 1] % every and (step is not None or states == len(steps)):
        states -= 1
    return states, losses


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
        return float(loss)
    except (TypeError, ValueError):
        raise ArgumentError(
            f"expected the loss as a float or a tensor of one number, got {type(loss).__name__}"
        ) from None
