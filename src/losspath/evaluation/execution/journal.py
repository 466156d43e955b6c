"""Finished evaluations, kept as they come, so that a stopped computation goes on."""

from __future__ import annotations

import dataclasses
import json
import os
import time
from collections.abc import Callable, Iterator, MutableMapping
from contextlib import AbstractContextManager, nullcontext
from os import PathLike
from pathlib import Path
from types import TracebackType
from typing import Any

import xxhash

from losspath.errors import DamagedError, StoreError, wrap_os_errors
from losspath.evaluation.execution import tuning
from losspath.evaluation.execution.tuning import EngineConfig
from losspath.evaluation.objective import Objective
from losspath.evaluation.quantities import Evaluation
from losspath.files import acquire_lock, digest_of, sync_file, write_all

Progress = Callable[[int, int], None]

# A power failure costs at most about so many seconds of work; a kill costs what was under way.
_SYNC_SECONDS = 2.0


class Journal:
    """An append-only file of evaluations by number, for one computation at a time.

    The first line holds the key of the computation, each further line one evaluation and a check,
    or a config of how to evaluate, so that what goes on rounds as what is there. A last line that
    was cut off is dropped; any other damage is refused.

    Args:
        path: the file; made if it does not exist.
        key: a digest of everything that the evaluations depend on.

    Attributes:
        done: the evaluations.
        configs: how to evaluate, by what was measured.

    Raises:
        StoreError: the file belongs to another computation, or cannot be written.
        DamagedError: a line is not what was written.
        BusyError: another process is at it.
    """

    def __init__(self, path: Path, key: str) -> None:
        self.path = path
        self.done: dict[int, Evaluation] = {}
        self.configs: dict[str, EngineConfig] = {}
        self._end = 0
        self._synced = time.monotonic()
        self._lock = acquire_lock(path.with_name(path.name + ".lock"), str(path))
        try:
            with wrap_os_errors(f"write {path}"):
                self._file = path.open("a+b", buffering=0)
        except BaseException:
            self._lock.release()
            raise
        try:
            with wrap_os_errors(f"write {path}"):
                self._load(key)
        except BaseException:
            self.close()
            raise

    def _load(self, key: str) -> None:
        self._file.seek(0)
        raw = self._file.read()
        whole = raw[: raw.rfind(b"\n") + 1]
        lines = whole.splitlines()
        # Nothing is cut off before it is known that this is a journal.
        if not lines and not _line(["key", key]).startswith(raw):
            _parse(self.path, raw)
        if lines and _parse(self.path, lines[0]) != ["key", key]:
            raise StoreError(
                f"{self.path} holds points of another computation (other states, samples, model, "
                "loss, method, grid or number of threads); remove it or choose another checkpoint"
            )
        for line in lines[1:]:
            what, one, other, *rest = _parse(self.path, line)
            if what == "config":
                self.configs[one] = EngineConfig(**other)
            else:
                self.done[int(what)] = Evaluation(one, other, *rest)
        self._end = len(whole)  # `_append` cuts off what is beyond it
        if not lines:
            self._append(["key", key])

    def _append(self, values: list[object]) -> None:
        line = _line(values)
        descriptor = self._file.fileno()
        with wrap_os_errors(f"write {self.path}"):
            # A line whose writing failed half-way, or was interrupted, is not gone on from.
            if os.fstat(descriptor).st_size != self._end:
                self._file.truncate(self._end)
            write_all(descriptor, line)
            self._end += len(line)
            if time.monotonic() - self._synced > _SYNC_SECONDS:
                sync_file(descriptor)
                self._synced = time.monotonic()

    def add(self, number: int, evaluation: Evaluation) -> None:
        """Keeps one evaluation."""
        metrics = [dict(evaluation.metrics)] if evaluation.metrics else []
        self._append([number, evaluation.loss, evaluation.accuracy, *metrics])
        self.done[number] = evaluation

    def remembered(self, key: str, measure: Callable[[], EngineConfig]) -> EngineConfig:
        """As `tuning.remembered`, but what this computation began with comes first."""
        if key not in self.configs:
            self.keep_config(key, tuning.remembered(key, measure))
        return self.configs[key]

    def keep_config(self, key: str, config: EngineConfig) -> None:
        """Keeps a config of how to evaluate; one that replaces another counts from now on."""
        if self.configs.get(key) != config:
            self._append(["config", key, dataclasses.asdict(config)])
            self.configs[key] = config

    def close(self) -> None:
        """Closes the file and lets others have it."""
        self._file.close()
        self._lock.release()

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


class Kept(MutableMapping[int, Evaluation]):
    """Evaluations that a journal keeps behind others, by numbers of their own from 0 on.

    Args:
        journal: the file.
        offset: how many numbers are others'.
    """

    def __init__(self, journal: Journal, offset: int) -> None:
        self._journal, self._offset = journal, offset

    def __getitem__(self, number: int) -> Evaluation:
        return self._journal.done[self._offset + number]

    def __setitem__(self, number: int, evaluation: Evaluation) -> None:
        self._journal.add(self._offset + number, evaluation)

    def __delitem__(self, number: int) -> None:
        raise TypeError("what a journal keeps stays there")

    def __iter__(self) -> Iterator[int]:
        return (number - self._offset for number in self._journal.done if number >= self._offset)

    def __len__(self) -> int:
        return sum(1 for _ in self)


class Section:
    """A part of a journal as a journal of its own, whose numbers begin at 0.

    Args:
        journal: the whole.
        offset: its number of the part's first evaluation.
        count: how many there will be at most.

    Attributes:
        done: the part's evaluations, as they were when it was made.
    """

    def __init__(self, journal: Journal, offset: int, count: int) -> None:
        self._journal, self._offset = journal, offset
        numbers = range(offset, offset + count)
        self.done = {n - offset: journal.done[n] for n in numbers if n in journal.done}
        self.remembered, self.keep_config = journal.remembered, journal.keep_config

    def add(self, number: int, evaluation: Evaluation) -> None:
        """Keeps one evaluation."""
        self._journal.add(self._offset + number, evaluation)


def open_checkpoint(
    checkpoint: str | PathLike[str] | None, key: str, objective: Objective, where: str = ""
) -> AbstractContextManager[Journal | None]:
    """The journal of a computation, or nothing where none was asked for.

    Args:
        checkpoint: its file, or None.
        key: a digest of what the computation is of.
        objective: evaluates its points; those that go on must round as those that are there.
        where: evaluated elsewhere than in this process, points round otherwise; by what.
    """
    if not checkpoint:
        return nullcontext()
    return Journal(Path(checkpoint), digest_of(key, objective.rounding, where))


def forget_checkpoint(checkpoint: Path) -> None:
    """Removes a checkpoint whose result has been saved."""
    checkpoint.unlink(missing_ok=True)
    checkpoint.with_name(checkpoint.name + ".lock").unlink(missing_ok=True)


def _line(values: list[object]) -> bytes:
    check = xxhash.xxh3_64_hexdigest(json.dumps(values).encode())
    return json.dumps([*values, check]).encode() + b"\n"


def _parse(path: Path, line: bytes) -> list[Any]:
    try:
        values: list[Any]
        *values, check = json.loads(line)
        if check == xxhash.xxh3_64_hexdigest(json.dumps(values).encode()):
            return values
    except (ValueError, TypeError):
        pass
    raise DamagedError(f"{path} is damaged; remove it to compute its points again")


def is_readable(path: Path) -> bool:
    """Whether every whole line of a journal is what was written."""
    return sound_part(path) is None


def sound_part(path: Path) -> bytes | None:
    """The lines before the first one that is not what was written; None where all are.

    What comes after such a line is not taken: the line may have been a config of how to evaluate.

    Raises:
        StoreError: the file cannot be read now.
    """
    with wrap_os_errors(f"read {path}"):
        raw = path.read_bytes()
    sound = 0
    for line in raw[: raw.rfind(b"\n") + 1].splitlines(keepends=True):
        try:
            _parse(path, line)
        except DamagedError:
            return raw[:sound]
        sound += len(line)
    return None
