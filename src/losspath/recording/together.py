"""Processes that have a model's parts, and do what one of them says.

One of them leads: it records, as it would record a model that it has whole. The others follow: in
each call of the recorder's they wait for what it says, which is to gather some tensors, that the
call is done, or what it raised. So which states are kept, what is on disk and what goes wrong is
known to the leader alone, and none waits for tensors that nobody gathers.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import weakref
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any, NoReturn

import torch

from losspath import errors
from losspath.errors import LosspathError, StoreError

# How long a process waits for the others: as long as gloo does by default.
TIMEOUT = timedelta(minutes=30)

# What the leader says.
_GATHER, _DONE, _FAILED = range(3)
# What is called.
CALLS = ("Recorder(…)", "record()", "flush()", "close()", "what was refused")
BEGIN, RECORD, FLUSH, CLOSE, REFUSED = range(5)

_LONGEST_MESSAGE = 4000
# Groups are made once for the same processes, as each keeps connections and a thread. Threads are
# there while somebody holds the group, and Python may end by an abort where they are.
_groups: dict[tuple[int, ...], tuple[Any, Any]] = {}
_holders: weakref.WeakSet[ShardGroup] = weakref.WeakSet()


@atexit.register
def _let_go() -> None:
    _groups.clear()
    for holder in _holders:
        holder.let_go()


class ShardGroup:
    """The processes that have parts of one model.

    Args:
        ranks: theirs, ascending.
        rank: this process's.

    Attributes:
        leads: whether this process records.
        is_broken: whether they have lost each other.
    """

    def __init__(self, ranks: list[int], rank: int) -> None:
        self._ranks, self._rank = ranks, rank
        self.leads = rank == ranks[0]
        self.is_broken = False
        self._group = _group_of(tuple(ranks)) if len(ranks) > 1 else None
        _holders.add(self)

    def let_go(self) -> None:
        """Nothing is said any more."""
        self.is_broken, self._group = True, None

    def enter(
        self, call: int, step: int | None, key: int, error: BaseException | None = None
    ) -> None:
        """Begins a call; the leader learns whether all processes make the same one.

        Args:
            call: which.
            step: that is recorded, where the caller numbers steps.
            key: identifies the model's parameters.
            error: why this process cannot make it.

        Raises:
            LosspathError: in all of them, what one of them cannot do, or how they differ; in those
                that follow, `follow` raises it.
        """
        if self._group is None:
            if error is not None:
                raise error
            return
        mine = _numbers(call, -1 if step is None else step, key, error is not None)
        theirs = [torch.empty_like(mine) for _ in self._ranks] if self.leads else None
        self._collective(torch.distributed.gather, mine, theirs, dst=self._ranks[0])
        if theirs is None:
            if error is not None:
                self.follow(lambda first, last: None, error)
            return
        said = [each.tolist() for each in theirs]
        for rank, (*_, failed) in zip(self._ranks, said, strict=True):
            if failed:
                self._say(_FAILED, rank)
                self._raise(rank, error)
        for rank, each in zip(self._ranks, said, strict=True):
            if each != said[0]:
                difference = StoreError(_difference(rank, each, self._ranks[0], said[0]))
                self.tell(difference)
                raise difference

    def gather(self, first: int, last: int) -> None:
        """Tells the others to gather tensors first … last−1; the leader calls this."""
        self._say(_GATHER, first, last)

    def done(self, step: int, unchanged: int) -> None:
        """Tells the others that a call is over, and what came of it; the leader calls this."""
        self._say(_DONE, step, unchanged)

    def tell(self, error: BaseException) -> None:
        """Tells the others what the leader is about to raise."""
        with contextlib.suppress(Exception):
            self._say(_FAILED, self._ranks[0])
            if not self.is_broken:
                self._message(self._ranks[0], error)

    def follow(
        self, gather: Callable[[int, int], None], error: BaseException | None = None
    ) -> tuple[int, int]:
        """Does what the leader says until a call is over; those that follow call this.

        Args:
            gather: takes part in gathering tensors first … last−1.
            error: why this process cannot make the call.

        Returns:
            The step that was recorded last, and how many changed nothing.

        Raises:
            LosspathError: what the leader raised.
        """
        command = _numbers(0, 0, 0)
        while True:
            self._collective(torch.distributed.broadcast, command, src=self._ranks[0])
            what, first, second = command.tolist()
            if what == _DONE:
                return first, second
            if what == _FAILED:
                self._raise(first, error)
            gather(first, second)

    def _say(self, *numbers: int) -> None:
        if self._group is not None and not self.is_broken:
            command = _numbers(*numbers, *[0] * (3 - len(numbers)))
            self._collective(torch.distributed.broadcast, command, src=self._ranks[0])

    def _raise(self, rank: int, error: BaseException | None) -> NoReturn:
        """Raises in all processes what one of them has met."""
        kind, text = self._message(rank, error)
        if error is not None and rank == self._rank:
            raise error
        known = getattr(errors, kind, None)
        if isinstance(known, type) and issubclass(known, LosspathError):
            raise known(text)
        raise StoreError(f"the process of rank {rank} raised {kind}: {text}")

    def _message(self, rank: int, error: BaseException | None) -> tuple[str, str]:
        raw = b""
        if rank == self._rank:
            raw = json.dumps([type(error).__name__, str(error)[:_LONGEST_MESSAGE]]).encode()
        size = _numbers(len(raw))
        self._collective(torch.distributed.broadcast, size, src=rank)
        content = torch.empty(int(size), dtype=torch.uint8, device="cpu")
        if raw:
            content = torch.frombuffer(bytearray(raw), dtype=torch.uint8)
        self._collective(torch.distributed.broadcast, content, src=rank)
        kind, text = json.loads(content.numpy().tobytes())
        return kind, text

    def _collective(self, what: Callable[..., Any], *tensors: Any, **options: int) -> None:
        with self.reaching():
            what(*tensors, group=self._group, **options)

    @contextlib.contextmanager
    def reaching(self) -> Iterator[None]:
        """While it lasts, processes speak to each other.

        Raises:
            StoreError: they did not reach each other; nothing can be said any more.
        """
        try:
            yield
        except (RuntimeError, ValueError) as cause:
            self.is_broken = True
            reason = str(cause).partition("\n")[0]
            raise StoreError(
                "the processes that hold this model's parts lost each other, as where one of them "
                "ended; all of them make the recorder and call record(), flush() and close() "
                f"equally often ({reason})"
            ) from cause


def _numbers(*numbers: int) -> torch.Tensor:
    return torch.tensor(numbers, dtype=torch.int64, device="cpu")


def _group_of(ranks: tuple[int, ...]) -> Any:
    """A process group of some ranks that works on the CPU, whatever training uses."""
    world, (held, group) = torch.distributed.group.WORLD, _groups.get(ranks, (None, None))
    if held is not world:
        if not torch.distributed.is_gloo_available():
            raise StoreError(
                "expected a torch that has gloo, by which processes agree on what to record of a "
                "sharded model, got one without; install one that has it"
            )
        group = torch.distributed.new_group(
            list(ranks), timeout=TIMEOUT, backend="gloo", use_local_synchronization=True
        )
        _groups[ranks] = world, group
    return group


def _difference(rank: int, theirs: list[int], leader: int, mine: list[int]) -> str:
    if theirs[0] != mine[0]:
        what = f"expected the same call from all processes, got {CALLS[mine[0]]} from rank {leader}"
        what += f" and {CALLS[theirs[0]]} from rank {rank}"
    elif theirs[1] != mine[1]:
        mine_, theirs_ = ("none" if each[1] < 0 else each[1] for each in (mine, theirs))
        what = f"expected the same step from all processes, got {mine_} from rank {leader} and "
        what += f"{theirs_} from rank {rank}"
    else:
        what = "expected parts of the same parameters in all processes, got others from rank "
        what += f"{rank} than from rank {leader}"
    return f"{what}; where a model is sharded, all processes of its mesh record together"
