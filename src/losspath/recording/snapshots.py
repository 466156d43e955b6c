"""Copies of a model's state that a GPU makes while training goes on."""

from __future__ import annotations

import contextlib
import itertools
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

import torch

from losspath.parameters import SideTensor, digest_of_numbers
from losspath.recording.settings import Settings

# The devices whose states are copied while training goes on.
DEVICES = {"cuda"}
# A snapshot takes that much of the device's memory, and as much that is pinned; larger states, and
# side tensors that are not all looked at in each step, are copied where `record` is called.
_MOST_BYTES = 256 << 20
_MOST_SIDE_BYTES = 1 << 20
# Copying less than that takes a device less time than a stream of its own takes the host.
_OWN_STREAM_BYTES = 4 << 20
# A state that is on its way is taken over by the next step, or after so long (seconds).
LATE_SECONDS = 0.25


class Coming(NamedTuple):
    """A step that was recorded and whose state is on its way from the device.

    Attributes:
        step: its number.
        names: of its values.
        in_row: whether its state gets a row.
        settings: plain numbers that modules held.
        time: when it was recorded.
        snapshot: the state, with the loss and the values.
    """

    step: int
    names: tuple[str, ...]
    in_row: bool
    settings: Settings
    time: float
    snapshot: Snapshot

    def wait(self) -> tuple[float, dict[str, float], torch.Tensor]:
        """The loss, the values and the row, once they are there."""
        loss, *numbers = self.snapshot.wait()
        return loss, dict(zip(self.names, numbers, strict=True)), self.snapshot.row


class Snapshot:
    """A model's state at a moment, on its way from the device to the host.

    `capture` puts the state together on the device, in the stream that training runs in, and has
    it copied into pinned memory in a stream of its own. So it waits for nothing, and what training
    does next changes nothing of it.

    Args:
        row: the tensors of a row, one-dimensional and on one device.
        sides: the side tensors, on that device or the CPU.
        dtype: the dtype of a row.
        numbers: how many numbers of a step are captured with it at most.

    Attributes:
        row: (P,) of the row's dtype, on the host; right once `wait` has returned.
        sides: the side tensors on the host; the same list every time.
        numbers: how many numbers of a step find room in it.
    """

    def __init__(
        self,
        row: Sequence[torch.Tensor],
        sides: Sequence[SideTensor],
        dtype: torch.dtype,
        numbers: int = 64,
    ) -> None:
        device, self.numbers = row[0].device, numbers
        groups: dict[tuple[torch.dtype, torch.device], list[SideTensor]] = {}
        for side in sides:
            groups.setdefault((side.tensor.dtype, side.tensor.device), []).append(side)
        # What is on the host already needs no way through the device, and comes last.
        ordered = sorted(groups.items(), key=lambda group: group[0][1] != device)
        lengths = [(dtype, sum(map(len, row))), (torch.float64, numbers)]
        lengths += [(key[0], sum(s.tensor.numel() for s in some)) for key, some in ordered]
        sizes = [-(-length * kind.itemsize // 16) * 16 for kind, length in lengths]
        begins = [0, *itertools.accumulate(sizes)]
        moved = begins[2 + sum(place == device for _, place in groups)]
        is_gpu = device.type == "cuda"
        with torch.inference_mode(False):  # memory made within could not be written to outside
            self._host = torch.empty(begins[-1], dtype=torch.uint8, device="cpu", pin_memory=is_gpu)
            self._device = self._host
            if is_gpu:
                self._device = torch.empty(moved, dtype=torch.uint8, device=device)
        self._moved = self._host[:moved]
        self._stream = None
        if is_gpu and moved > _OWN_STREAM_BYTES:
            self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._done = torch.cuda.Event() if is_gpu else None  # type: ignore[no-untyped-call]

        def view(buffer: torch.Tensor, number: int) -> torch.Tensor:
            kind, length = lengths[number]
            return buffer[begins[number] : begins[number] + length * kind.itemsize].view(kind)

        self._row, self.row = view(self._device, 0), view(self._host, 0)
        self._is_same_dtype = all(tensor.dtype == dtype for tensor in row)
        self._number_places, self._numbers_on_host = (
            view(self._device, 1).unbind(),
            view(self._host, 1),
        )
        self._given: list[float | None] = []
        self._parts: list[tuple[list[torch.Tensor], torch.Tensor]] = []
        copies: dict[str, SideTensor] = {}
        for number, ((_, place), some) in enumerate(ordered, 2):
            buffer = self._device if place == device else self._host
            self._parts.append(([side.tensor for side in some], view(buffer, number)))
            lengths_of_each = [side.tensor.numel() for side in some]
            flat = torch.split(view(self._host, number), lengths_of_each)
            for side, part in zip(some, flat, strict=True):
                copies[side.name] = side._replace(tensor=part.view(side.tensor.shape))
        self.sides = [copies[side.name] for side in sides]
        self._frozen = [
            (live.tensor, side.tensor)
            for live, side in zip(sides, self.sides, strict=True)
            if live.kind == "frozen"
        ]

    def has_room(
        self, loss: float | torch.Tensor, values: Mapping[str, float | torch.Tensor]
    ) -> bool:
        """Whether the numbers of a step can be captured with it."""
        place = self._row.device
        given = [number for number in (loss, *values.values()) if isinstance(number, torch.Tensor)]
        return len(given) <= self.numbers and all(number.device == place for number in given)

    def capture(
        self,
        row: Sequence[torch.Tensor],
        step: int,
        loss: float | torch.Tensor,
        values: Mapping[str, float | torch.Tensor],
        kept: tuple[bool, Settings],
    ) -> Coming:
        """Begins to copy the state as it is now.

        Args:
            row: the tensors of a row.
            step: its number.
            loss: a float, or a tensor of one number on the device, like all values.
            values: named numbers.
            kept: whether the state gets a row, and plain numbers that modules hold.
        """
        numbers = (loss, *values.values())
        if self._done is None:
            self._put_together(row, numbers)
            return Coming(step, tuple(values), *kept, time.monotonic(), self)
        # Of the model's device, which need not be the current one.
        current = torch.cuda.current_stream(self._device.device)
        current.wait_event(self._done)  # a capture that was given up may be under way
        self._put_together(row, numbers)
        if self._stream is None:
            self._moved.copy_(self._device, non_blocking=True)
            self._done.record(current)
        else:
            self._stream.wait_stream(current)
            with torch.cuda.stream(self._stream):
                self._moved.copy_(self._device, non_blocking=True)
                self._done.record(self._stream)
        return Coming(step, tuple(values), *kept, time.monotonic(), self)

    @torch.no_grad()
    def _put_together(
        self, row: Sequence[torch.Tensor], numbers: Sequence[float | torch.Tensor]
    ) -> None:
        if self._is_same_dtype:
            torch.cat(list(row), out=self._row)
        else:
            torch.cat([tensor.to(self._row.dtype) for tensor in row], out=self._row)
        self._given = [None if isinstance(each, torch.Tensor) else each for each in numbers]
        given = [each for each in numbers if isinstance(each, torch.Tensor)]
        for number, place in zip(given, self._number_places, strict=False):
            place.copy_(number.reshape(()))
        for tensors, together in self._parts:
            torch.cat([tensor.detach().reshape(-1) for tensor in tensors], out=together)
        for live, side in self._frozen:
            if live.requires_grad != side.requires_grad:
                side.requires_grad_(live.requires_grad)

    def wait(self) -> list[float]:
        """Returns the numbers once the state is there; it is as a rule, a step later.

        Raises:
            RuntimeError: the device failed.
        """
        if self._done is not None:
            self._done.synchronize()
        found = iter(self._numbers_on_host[: self._given.count(None)].tolist())
        return [next(found) if number is None else number for number in self._given]

    def read_into(self, row: torch.Tensor, tensors: Iterable[torch.Tensor]) -> None:
        """Copies the state into a row, a one-dimensional CPU tensor of the rows' dtype."""
        row.copy_(self.row)

    def digest(self, tensors: Iterable[torch.Tensor]) -> int:
        """The XXH3-64 of the bytes of the row."""
        return digest_of_numbers([self.row])


def snapshot_for(
    row: Sequence[torch.Tensor], sides: Sequence[SideTensor], dtype: torch.dtype
) -> Snapshot | None:
    """A snapshot for states of this form; None where they are copied at once.

    Args:
        row: the tensors of a row, on one device of `DEVICES`.
        sides: the side tensors.
        dtype: the dtype of a row.
    """
    places = {row[0].device, torch.device("cpu")}
    size = sum(len(tensor) for tensor in row) * dtype.itemsize
    held = [side.tensor for side in sides]
    is_plain = all(
        tensor.device in places
        and tensor.layout == torch.strided
        and not (tensor.is_nested or tensor.is_quantized or tensor.is_meta)
        and not (tensor.is_conj() or tensor.is_neg())
        for tensor in held
    )
    if not is_plain or size > _MOST_BYTES:
        return None
    if sum(tensor.numel() * tensor.element_size() for tensor in held) > _MOST_SIDE_BYTES:
        return None
    try:
        return Snapshot(row, sides, dtype)
    except RuntimeError:  # no room for a copy, or none can be pinned
        return None


def call_now_and_then(what: Callable[[], bool]) -> threading.Thread:
    """Calls a function in a thread of its own until it returns False.

    What it raises is passed over: the training thread meets the same.
    """

    def run() -> None:
        goes_on = True
        while goes_on:
            time.sleep(LATE_SECONDS / 2)
            with contextlib.suppress(Exception):
                goes_on = what()

    thread = threading.Thread(target=run, name="losspath-late", daemon=True)
    thread.start()
    return thread
