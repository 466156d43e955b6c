"""Whether a model is in the state that a recording is to go on from."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from losspath.errors import ModelError
from losspath.recording import slots, store
from losspath.recording.state import StateReader
from losspath.recording.watch import Known, SideWatch


def check_state(
    directory: Path,
    header: store.Header,
    contents: store.Contents,
    state: StateReader,
    step: int,
) -> None:
    """The model must be where the recording goes on, or the path would have a break in it.

    Buffers that only the model or only the recorded state has are passed over: some appear in the
    first forward pass.

    Raises:
        ModelError: it is in another state; what differs is named.
    """
    table = contents.stream.slots
    records = table[(table["kind"] == slots.RECORD) & (table["step"] == step)]
    if not len(records):
        return
    record = records[-1]
    is_known = not record["flags"] & slots.NO_DIGEST
    if is_known and state.digest() != int(record["b"]):
        _refuse(directory, step, "parameters")
    place = int(np.searchsorted(contents.steps, step))
    if place == len(contents.steps) or contents.steps[place] != step:
        return  # that step's side tensors were not stored (every > 1)
    state.tensors()
    now, _, _ = SideWatch(directory).compare(state.sides, Known())
    if now.key == int(contents.keys[place]):
        return
    log = contents.sides
    recorded = log.digests(step, bool(contents.rows[place] < 0))
    for name, digest in now.digests.items():
        if name in recorded and recorded[name] != digest:
            _refuse(directory, step, f"buffer or frozen parameter {name}")


def _refuse(directory: Path, step: int, what: str) -> None:
    raise ModelError(
        f"the model is not in the state that was recorded at step {step} of {directory}: its "
        f"{what} differ; load your checkpoint of it first, or the state alone, by "
        "Trajectory(…).load_into(model, -1, buffers=True), or pass the step of the checkpoint that "
        "you loaded"
    )
