"""Opening a store to record in: a new one, or one that recording goes on in."""

from __future__ import annotations

import shutil
import warnings
from pathlib import Path
from typing import Literal, NoReturn

import numpy as np
import torch

from losspath.errors import (
    DamagedError,
    ExistsError,
    LosspathWarning,
    ModelError,
    StoreError,
    wrap_os_errors,
)
from losspath.recording.state import StateReader
from losspath.recording import store

Existing = Literal["error", "resume", "overwrite"]


def prepare_directory(directory: Path, existing: Existing) -> None:
    """Makes the directory, before its lock can be taken.

    Raises:
        ExistsError: it is not empty and `existing` is "error".
        StoreError: it cannot be made, or its disk is full.
    """
    with wrap_os_errors(f"write {directory}"):
        if existing == "error" and directory.exists() and any(directory.iterdir()):
            _refuse_existing(directory)
        directory.mkdir(parents=True, exist_ok=True)
        if shutil.disk_usage(directory).free == 0:
            raise StoreError(f"cannot write {directory}: the disk is full")


def open_store(
    directory: Path,
    header: store.Header,
    state: StateReader,
    existing: Existing,
    step: int | None,
) -> store.Contents:
    """What a store holds, cut back to where recording goes on. The caller holds the lock.

    Whatever is refused leaves the store as it was.

    Args:
        directory: the store; begun if there is none.
        header: what is to be recorded.
        state: the model, which must be in the state that recording goes on from.
        existing: what to do with a store that is there.
        step: the step to go on from; None for that of the last state.

    Raises:
        ExistsError, ModelError, StoreError: as `Recorder` says.
    """
    if existing == "overwrite":
        with wrap_os_errors(f"overwrite {directory}"):
            for name in (store.META, *store.DATA_FILES):
                (directory / name).unlink(missing_ok=True)
    elif existing == "error" and store.exists(directory):
        _refuse_existing(directory)  # another recorder was here before the lock was ours
    if not store.exists(directory):
        if step:
            raise StoreError(f"expected {step} recorded steps in {directory}, found none")
        index = directory / store.INDEX
        if index.exists() and index.stat().st_size:
            raise DamagedError(
                f"{directory} is damaged: {store.META} is missing, but recorded states are there; "
                "put it back, or record in another directory"
            )
        store.write_header(directory, header)
    written = store.read_header(directory)
    _check_header(directory, header, written)
    contents = store.read_contents(directory, written)
    resumed_at = _resumed_at(contents, step, directory)
    states, losses = _kept(contents, header.every, resumed_at)
    _check_state(directory, contents, header, state, resumed_at)
    if not contents.tail and (states, losses) == (len(contents.records), len(contents.losses)):
        return contents
    if contents.tail:
        warnings.warn(
            f"{directory}: cut off {sum(contents.tail.values()):,} bytes of an unfinished write",
            LosspathWarning,
            stacklevel=4,
        )
    return store.cut_back(directory, contents, states, losses)


def _refuse_existing(directory: Path) -> NoReturn:
    raise ExistsError(
        f"{directory} exists and is not empty; choose another directory, or pass "
        'existing="resume" to go on recording in it or existing="overwrite" to replace the '
        "trajectory in it"
    )


def _check_header(directory: Path, mine: store.Header, written: store.Header) -> None:
    mine.layout.check_same(written.layout, "the model", str(directory))
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
        raise StoreError(f"cannot go on recording in {directory}: {differences[0]}")


def _check_state(
    directory: Path, contents: store.Contents, header: store.Header, state: StateReader, step: int
) -> None:
    """The model must be where the recording goes on, or the path would have a break in it."""
    place = int(np.searchsorted(contents.records["step"], step))
    if place == len(contents.records) or contents.records["step"][place] != step:
        return  # that step's state was not stored (every > 1), so there is nothing to compare
    if state.digest(getattr(torch, header.dtype)) != int(contents.records["digest"][place]):
        raise ModelError(
            f"the model is not in the state that was recorded at step {step} of {directory}; load "
            "that state (or your checkpoint of it) first, or pass the step of the checkpoint that "
            "you loaded"
        )


def _resumed_at(contents: store.Contents, step: int | None, directory: Path) -> int:
    """The step to go on from: the one given, or that of the last state that was recorded."""
    losses = len(contents.losses)
    if step is None:
        return int(contents.records["step"][-1]) if len(contents.records) else 0
    if not 0 <= step <= losses:
        raise StoreError(f"expected at least {step} recorded steps in {directory}, found {losses}")
    return step


def _kept(contents: store.Contents, every: int, step: int) -> tuple[int, int]:
    """How many states and losses stay when recording goes on from a step."""
    steps = contents.records["step"]
    states = int(np.searchsorted(steps, step, side="right"))
    # A last state between two multiples of `every` would not be there had the run not stopped.
    if states and steps[states - 1] % every:
        states -= 1
    return states, step
