"""Recording a training loop: one line before it, one line in it."""

from __future__ import annotations

import logging
import time
import weakref
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, get_args

import torch

from losspath.arguments import (
    MODEL,
    Check,
    checked,
    count,
    described,
    file,
    flag,
    mapping,
    one_of,
    optional,
)
from losspath.errors import ArgumentError, LosspathError, LosspathWarning, StoreError
from losspath.files import canonical_json
from losspath.parameters import Layout, Taken, check_taken, unwrapped
from losspath.recording import chain, store
from losspath.recording.beginning import Beginning
from losspath.recording.cost import Cost
from losspath.recording.hidden import warn_of_hidden
from losspath.recording.numbers import as_number, as_step, as_value
from losspath.recording.opening import Existing
from losspath.recording.processes import Silent, check_unsharded, rank_of_process
from losspath.recording.schedules import Condition, Every, Schedule, When
from losspath.recording.session import Session
from losspath.recording.settings import SettingsReader
from losspath.recording.sharded import Follower, Leader, begin_together, shard_group
from losspath.recording.sketch import Sketch
from losspath.recording.state import StateReader

_LOGGER = logging.getLogger("losspath")

# Three buffers go round and stay within 64 MiB. Small states fill smaller buffers, that stay in the
# cache: measured, that is worth more than waking the writer less often.
_BUFFER_BYTES = 16 << 20
_PREFERRED_BYTES = 4 << 20
_MOST_ROWS = 512
# How long a state may wait until it is made durable (seconds): what a crash can cost of a slow
# training. Together with the time between two looks of the writer it stays within two seconds.
_COMMIT_SECONDS = 1.5


def check_schedule(name: str, value: object) -> object:
    """A schedule, a function, or None."""
    if value is None or isinstance(value, Schedule) or callable(value):
        return value
    raise ArgumentError(
        f"expected {name} as LogSpaced(), Pairs() or a function of step and loss, got "
        f"{described(value)}"
    )


def check_sketch(name: str, value: object) -> Sketch | None:
    """A sketch, its size, or None."""
    if value is None or isinstance(value, Sketch):
        return value
    return Sketch(int(count(1)(name, value)))


# The checks of what the callbacks of training libraries hand on to a recorder.
OPTIONS: dict[str, Check] = {
    "every": count(1),
    "schedule": check_schedule,
    "existing": one_of(get_args(Existing)),
    "dtype": one_of(("float32", "float64", "bfloat16")),
    "allow_complex": flag,
    "metadata": optional(mapping),
    "parameters": check_taken,
    "sketch": check_sketch,
    "processes": one_of(("first", "each")),
}


Dtype = Literal["float32", "float64", "bfloat16"]


class Recorder:
    """Records every step of a training loop: the parameters, buffers, and the loss.

    The state that the model is in, θ_0, is recorded at once; call `record` after every optimiser
    step. States are copied into a bounded buffer (at most 64 MiB in all) and written by a thread,
    which begins to make each durable within two seconds, whether `record` is called again or not.
    Where the disk is slower than the training, `record` waits.

    A state is the trainable parameters in ``named_parameters()`` order (tied ones once), as
    float32; half precisions widen exactly. Buffers of every dtype and frozen parameters are
    recorded beside it, again only when they change; they may appear, grow and go. Numbers that
    modules of your own hold as plain attributes (a temperature that is annealed) are noted where
    they change, and pictures say so, but they are no part of a state.

    Leaving the ``with`` block closes the recorder. One that is not closed is closed as the
    interpreter exits, and on SIGTERM and SIGHUP where nothing else handles them. In a forked child
    the copy of a recorder refuses to record. Rows of more than 16 MiB with ``every`` > 1 are the
    one exception to the two seconds: the newest state is then kept about once a second of calls,
    and at the end. So it is for sharded models of any size.

    Args:
        directory: where to record; made if it does not exist.
        model: any `torch.nn.Module`, on any device.
        every: store a state at every so many steps (and the newest one always); losses are all
            kept.
        schedule: which states to store, instead of `every`: `losspath.LogSpaced`, `losspath.Pairs`
            (two in a row now and then), or a function of step and loss that says whether. Once an
            epoch is ``every=len(loader)``.
        existing: what to do when the directory exists and is not empty: "error" refuses; "resume"
            goes on after the last state that was recorded, which the model must be in;
            "overwrite" removes the recorded trajectory in it and starts anew.
        step: the step that the model is at. In a new run, that of its first state (0 by default).
            With ``existing="resume"``, the step to go on from: give the step of the checkpoint
            that you loaded. What was recorded after it is moved into ``aside-<n>`` in the
            directory, a run of its own, and a warning says so.
        dtype: "float32"; "float64" to record models that hold float64 exactly; "bfloat16" for half
            the room, in which parameters of float32 are rounded by up to 0.4 %: steps that are
            smaller are lost in it, and training cannot go on from such a state as it was.
        allow_complex: record complex tensors as pairs (real, imaginary).
        metadata: JSON values to keep with the trajectory.
        parameters: "trainable" records the path of those that require a gradient (of all where none
            does); "all" takes frozen ones into the path. Patterns of names, as ``["head.*"]``, or a
            module of the model take a part of those that are trained; the others are left out of
            the run, so that it has step sizes and planes, and no surface.
        sketch: keep a `losspath.Sketch` of each state instead of the state, for paths too large to
            keep; a number k is ``Sketch(k)``. It serves distances, step sizes, turns and
            coordinates in a plane, with an error of 1/√(2k). For a surface record whole states
            too, now and then, by a second recorder in another directory.
        processes: where several processes train together (a process group of torch.distributed, as
            with DDP), "first" has that of rank 0 record, and the others do nothing; the loss is
            then rank 0's, unless you average it. With "each" every process records, a model and a
            directory of its own. Where a model is sharded (FSDP2, tensor parallelism), all
            processes of its mesh make the recorder and call it alike, as its tensors are gathered;
            the first of them writes.

    Raises:
        ExistsError: the directory is not empty and `existing` is "error".
        BusyError: another recorder is writing there.
        ModelError: the model has float64, complex or lazy parameters that were not allowed for,
            is sharded by FSDP1 or ZeRO-3, or is not in the state that the recording is to go on
            from.
        StoreError: the directory cannot be written, or holds damaged data.

    Example:
        >>> with Recorder("runs/mine", model) as recorder:  # doctest: +SKIP
        ...     for x, y in loader:
        ...         loss = loss_fn(model(x), y)
        ...         loss.backward(); optimizer.step(); optimizer.zero_grad()
        ...         recorder.record(loss)
    """

    @checked(directory=file, model=MODEL, **OPTIONS)
    def __init__(
        self,
        directory: str | PathLike[str],
        model: torch.nn.Module,
        *,
        every: int = 1,
        schedule: Schedule | Condition | None = None,
        existing: Existing = "error",
        step: int | None = None,
        dtype: Dtype = "float32",
        allow_complex: bool = False,
        metadata: Mapping[str, Any] | None = None,
        parameters: Taken = "trainable",
        sketch: Sketch | int | None = None,
        processes: Literal["first", "each"] = "first",
        _by_checkpoint: bool = False,  # states that were lost before `step` do not matter
        _made_again: bool = False,  # what was recorded after `step` is made again, so it is cut off
        _may_begin: bool = False,  # where there is no run to resume, one is begun at `step`
        _is_linked: bool = False,  # rows are not written, as checkpoints have them
        _prefix: str = "",  # what was taken off all names of a run that is begun
    ) -> None:
        if step is not None:
            step = as_step(step)
        self.directory = Path(directory).absolute()  # the process may go elsewhere
        check_unsharded(model)
        sketch = check_sketch("sketch", sketch)
        group = shard_group(model, records_each=processes == "each")
        layout = Layout.of(
            *(model, "float64" if sketch else dtype, allow_complex, parameters),
            sharded=True,
        )
        if sketch is not None:
            sketch.check(layout.parameter_count, 8 if layout.is_wide else 4)
        warn_of_hidden(unwrapped(model), stacklevel=3)
        kept = _kept(every, schedule)
        header = store.Header(
            *(layout, "sketch" if sketch else dtype, every, dict(metadata or {})),
            schedule=None if schedule is None else kept.to_json(),
            sketch=sketch,
            is_linked=_is_linked,
            prefix=_prefix,
        )
        _check_metadata(header.metadata)
        self._since = time.perf_counter()
        self._spent = 0, 0.0, self._since  # steps, seconds in `record`, and until when
        self._session: Session | Silent | Leader | Follower
        if group is None and processes == "first" and rank_of_process() > 0:
            self._session = Silent(self.directory, model, existing == "resume", step)
            self._finalizer = weakref.finalize(self, self._session.close)
            return
        state = StateReader(model, layout, header.torch_dtype, sketch, group)
        beginning = Beginning(
            *(self.directory, header, state, SettingsReader(model), kept, existing, step),
            sizes=chain.Sizes(_BUFFER_BYTES, _PREFERRED_BYTES, _MOST_ROWS),
            commit_seconds=_COMMIT_SECONDS,
            across_holes=_by_checkpoint,
            made_again=_made_again,
            may_begin=_may_begin,
        )
        try:
            self._session = begin_together(state, beginning.begin)
            # When nobody has the recorder any more, and when the interpreter exits.
            self._finalizer = weakref.finalize(self, self._session.close_quietly)
        except BaseException:
            beginning.abandon()
            raise

    @property
    def steps(self) -> int:
        """The step that was recorded last; without steps of your own, how many there are."""
        return self._session.step

    @property
    def unchanged_steps(self) -> int:
        """At how many steps no parameter changed, as where mixed precision skips a step."""
        return self._session.unchanged

    @property
    def cost(self) -> Cost:
        """What recording has cost so far; told to the logger "losspath" when it is closed."""
        steps, seconds, until = self._spent
        files = (self.directory / name for name in store.ALL_FILES)
        size = sum(file.stat().st_size for file in files if file.exists())
        return Cost(steps, seconds, until - self._since, size)

    def record(
        self, loss: float | torch.Tensor, step: int | None = None, **values: float | torch.Tensor
    ) -> None:
        """Records one optimiser step; call it after ``optimizer.step()``.

        An exception that comes while this runs, such as an interrupt from the keyboard, leaves the
        step recorded whole or not at all, and recording can go on.

        Args:
            loss: the loss whose gradient was followed, as a float or a tensor of one number on
                any device; it is detached. It may be NaN.
            step: the number of this step, more than the one before; by default that and one. Gaps
                are stored as they are.
            values: named numbers to keep with this step, such as ``lr=0.1``. Names that begin with
                a dot are the recorder's own.

        Raises:
            ArgumentError: the loss or a value is not one real number, a name begins with a dot, or
                the step is not after the one before.
            ModelError: a recorded parameter is gone or of another shape or dtype.
            StoreError: an earlier state could not be written (disk full, say) and once more not,
                the recorder is closed, or this is a copy of it in a forked process; of a sharded
                model, the processes do not all call this.
        """
        begin = time.perf_counter()
        session = self._session
        # Whatever can be refused is refused before anything is changed.
        try:
            session.check_usable()
            numbers = {n: as_value(n, value) for n, value in values.items()} if values else {}
            number, at = as_number(loss), None if step is None else as_step(step)
        except Exception as error:
            session.refuse(error)
            raise
        session.record(number, at, numbers)
        until = time.perf_counter()
        steps, seconds, _ = self._spent
        self._spent = steps + 1, seconds + until - begin, until

    def _note(self, loss: float | None, step: int, values: Mapping[str, float]) -> None:
        """Records what is known of a step without its state: see `Session.note`."""
        self._check_usable()
        self._session.note(loss, step, dict(values))

    def _check_usable(self) -> None:
        try:
            self._session.check_usable()
        except StoreError as error:
            self._session.refuse(error)
            raise

    def flush(self) -> None:
        """Returns once every recorded state is durable.

        Raises:
            StoreError: something could not be written.
        """
        self._check_usable()
        self._session.flush()

    def close(self) -> None:
        """Stores the last state if ``every`` left it out, makes all durable, and lets go.

        It can be called again, also after an exception that came while it ran. Where the disk was
        full, say, calling it again writes what could not be written, once there is room.

        Raises:
            StoreError: something could not be written; what was durable before stays valid.
        """
        try:
            self._session.close()
        except (LosspathError, LosspathWarning):
            raise
        except Exception as cause:
            raise StoreError(
                f"{self.directory} could not be closed, as {type(cause).__name__} was raised: "
                f"{cause}; close() can be called again, and what was recorded before is kept"
            ) from cause
        if self._finalizer.detach() and not isinstance(self._session, (Silent, Follower)):
            _LOGGER.info("%s: %s", self.directory, self.cost)

    def __deepcopy__(self, memo: dict[int, Any]) -> Recorder:
        """Itself: the copy of a model that holds it, as of an average, is not what is recorded."""
        return self

    def __reduce__(self) -> Any:
        raise StoreError(
            "a Recorder cannot be pickled, as it writes a run that is open; keep it out of what is "
            "sent to other processes or saved, such as the model"
        )

    def __enter__(self) -> Recorder:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if error is not None:
            self._session.leave()  # other processes may be anywhere
        try:
            self.close()
        except Exception:
            # The loop's own error is the one to see.
            if error is None:
                raise


def _kept(every: int, schedule: Schedule | Condition | None) -> Schedule:
    if schedule is None:
        return Every(every)
    if every != 1:
        raise ArgumentError(f"expected every or schedule, got every={every} and a schedule")
    return schedule if isinstance(schedule, Schedule) else When(schedule)


def _check_metadata(metadata: dict[str, Any]) -> None:
    try:
        canonical_json(metadata).encode()
    except (TypeError, ValueError, RecursionError) as cause:
        raise ArgumentError(f"expected metadata of JSON values: {cause}") from None
