"""Cutting a damaged trajectory back to its last good state."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from losspath.errors import StoreError, wrap_os_errors
from losspath.files import only_writer
from losspath.recording import store


def repair_trajectory(directory: Path) -> list[str]:
    """Cuts a trajectory back to its last good state and says what is lost.

    Args:
        directory: where a recorder wrote; it must not be writing now.

    Returns:
        One line for each thing that was done; empty when nothing was wrong.

    Raises:
        StoreError: there is no trajectory, or its header (what lies where) is damaged, so that
            the rest cannot be read.
        BusyError: a recorder is writing there.
    """
    if not store.exists(directory):
        store.read_header(directory)
    try:
        header = store.read_header(directory)
    except StoreError as cause:
        raise StoreError(f"cannot repair {directory}: {cause}") from cause
    with only_writer(directory / ".lock", f"to {directory}"):
        with wrap_os_errors(f"repair {directory}"):
            for name in store.DATA_FILES:
                (directory / name).touch()
        contents = store.read_contents(directory, header, tolerant=True)
        states = _good_states(directory, header, contents)
        losses = len(contents.losses)
        if states < len(contents.records):
            losses = min(losses, int(contents.records["step"][states - 1]) if states else 0)
        if contents.damage is None and not contents.tail and states == len(contents.records):
            return []
        lines = [contents.damage] if contents.damage else []
        if states < len(contents.records):
            lines.append(f"state {states} has other bytes than were recorded")
        if contents.tail:
            lines.append(f"{sum(contents.tail.values()):,} bytes that no line vouches for")
        store.cut_back(directory, contents, states, losses)
        step = int(contents.records["step"][states - 1]) if states else 0
        lines.append(f"cut back to {states:,} states, the last at step {step:,}")
        return lines


def _good_states(directory: Path, header: store.Header, contents: store.Contents) -> int:
    """How many states from the first on have the bytes that were recorded."""
    row = np.empty(header.layout.row_size, header.row_dtype)
    view = row.view(np.uint8).data
    with (
        wrap_os_errors(f"read {directory}"),
        (directory / store.STATES).open("rb") as file,
    ):
        for number, digest in enumerate(contents.records["digest"].tolist()):
            if file.readinto(view) < header.row_bytes or store.row_digest(row) != digest:
                return number
    return len(contents.records)
