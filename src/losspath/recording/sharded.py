"""Recording a model of which each process has a part: one process leads, and others follow."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch

from losspath.errors import StoreError
from losspath.parameters import ranks_of, reshard
from losspath.recording.processes import rank_of_process
from losspath.recording.session import Session
from losspath.recording.state import StateReader
from losspath.recording.together import BEGIN, CLOSE, FLUSH, RECORD, REFUSED, ShardGroup


def shard_group(model: torch.nn.Module, records_each: bool) -> ShardGroup | None:
    """The processes that have a model's parts; None where nobody gathers anything.

    Args:
        model: the model; of FSDP2's modules it has parts afterwards.
        records_each: whether other processes than that of rank 0 may lead.
    """
    reshard(model.modules())
    ranks = ranks_of(model)
    return ShardGroup(ranks, rank_of_process()) if ranks and (records_each or 0 in ranks) else None


def begin_together(state: StateReader, begin: Callable[[], Session]) -> Session | Leader | Follower:
    """Begins to record, in all processes that have a model's parts together.

    Args:
        state: reads the model.
        begin: makes the session, in the process that leads.

    Raises:
        LosspathError: in all of them, what `begin` raises.
    """
    if (group := state.group) is None:
        return begin()
    _enter(state, BEGIN, None)
    if not group.leads:
        return Follower(state, *group.follow(state.take_part))
    try:
        session = begin()
    except BaseException as error:
        group.tell(error)
        raise
    group.done(session.step, session.unchanged)
    return Leader(session, state)


def _enter(state: StateReader, call: int, step: int | None) -> None:
    assert state.group is not None
    key, error = 0, None
    try:
        key = state.key()
    except Exception as cause:  # the model has changed
        error = cause
    state.group.enter(call, step, key, error)


class Leader:
    """A session whose states are gathered from several processes.

    Args:
        session: the session.
        state: reads the model.
    """

    def __init__(self, session: Session, state: StateReader) -> None:
        assert state.group is not None
        self._session, self._state, self._group = session, state, state.group

    @property
    def step(self) -> int:
        """The last step that was recorded."""
        return self._session.step

    @property
    def unchanged(self) -> int:
        """At how many steps no parameter changed."""
        return self._session.unchanged

    def check_usable(self) -> None:
        """Raises `StoreError` where nothing more can be recorded."""
        self._session.check_usable()

    def refuse(self, error: Exception) -> None:
        """Has all processes raise what this one cannot record."""
        if not (self._session.closing or self._session.is_copy):
            self._group.enter(REFUSED, None, 0, error)

    def record(
        self,
        loss: float | torch.Tensor,
        step: int | None,
        values: Mapping[str, float | torch.Tensor],
    ) -> None:
        """Records a step."""
        self._lead(RECORD, step, lambda: self._session.record(loss, step, values))

    def note(self, loss: float | None, step: int, values: dict[str, float]) -> None:
        """Records a step without its state."""
        self._lead(RECORD, step, lambda: self._session.note(loss, step, values))

    def flush(self) -> None:
        """Returns once everything recorded is durable."""
        self._lead(FLUSH, None, self._session.flush)

    def close(self) -> None:
        """Makes everything durable and lets go; can be called again."""
        if self._session.is_closed or self._session.is_copy:
            return
        if self._state.is_alone:
            self._session.close()
            return
        try:
            self._lead(CLOSE, None, self._session.close)
        except StoreError:
            if self._group.is_broken:  # what there is, is closed all the same
                self._session.close_quietly()
            raise

    def leave(self) -> None:
        """Gathers nothing any more, as the others may not take part."""
        self._state.is_alone = True

    def close_quietly(self) -> None:
        """Closes it and raises nothing: the process ends, or nobody has the recorder any more."""
        self._session.close_quietly()

    def _lead(self, call: int, step: int | None, what: Callable[[], None]) -> None:
        _enter(self._state, call, step)
        try:
            what()
        except BaseException as error:
            self._group.tell(error)
            raise
        self._group.done(self._session.step, self._session.unchanged)


class Follower:
    """Stands for a session in a process that gives its parts to another one.

    Args:
        state: reads the model.
        step: the last step that was recorded.
        unchanged: at how many steps no parameter changed.
    """

    def __init__(self, state: StateReader, step: int, unchanged: int) -> None:
        assert state.group is not None
        self.step, self.unchanged = step, unchanged
        self._state, self._group = state, state.group
        self._is_closing = self._is_closed = False

    def check_usable(self) -> None:
        """Raises `StoreError` once it was to be closed."""
        if self._is_closing:
            raise StoreError("the recorder is closed")

    def refuse(self, error: Exception) -> None:
        """Has all processes raise what this one cannot record."""
        if not self._is_closing:
            self._group.enter(REFUSED, None, 0, error)

    def record(
        self,
        loss: float | torch.Tensor,
        step: int | None,
        values: Mapping[str, float | torch.Tensor],
    ) -> None:
        """Gives its parts of a step's state, if the one that leads keeps it."""
        self._follow(RECORD, step)

    def note(self, loss: float | None, step: int, values: dict[str, float]) -> None:
        """Counts a step."""
        self._follow(RECORD, step)

    def flush(self) -> None:
        """Returns once everything recorded is durable."""
        self._follow(FLUSH, None)

    def close(self) -> None:
        """Gives its parts of the last state, if they are asked for; can be called again."""
        self._is_closing = True
        if not self._is_closed:
            self._follow(CLOSE, None)
            self._is_closed = True

    def leave(self) -> None:
        """Takes part in nothing any more."""
        self._is_closing = self._is_closed = True

    close_quietly = leave

    def _follow(self, call: int, step: int | None) -> None:
        _enter(self._state, call, step)
        self.step, self.unchanged = self._group.follow(self._state.take_part)
