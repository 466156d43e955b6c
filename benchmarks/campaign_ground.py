"""What the parts of the campaign share: counting, children that are stopped, and what is true."""

from __future__ import annotations

import contextlib
import mmap
import os
import signal
import struct
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from losspath import Trajectory
from losspath.errors import LosspathWarning, StoreError

WAIT_SECONDS = 60.0
_SIGNALS = (signal.SIGINT, signal.SIGTERM)


@dataclass
class Tally:
    """What happened in one part of the campaign."""

    name: str
    tried: int = 0
    false: int = 0
    lost: int = 0
    problems: list[str] = field(default_factory=list)

    @contextlib.contextmanager
    def judged(self, what: str) -> Iterator[None]:
        """Counts one trial; an `AssertionError` is something false, `LostError` something lost."""
        self.tried += 1
        try:
            yield
        except LostError as problem:
            self.lost += 1
            self.problems.append(f"{what}: {problem}")
        except AssertionError as problem:
            self.false += 1
            self.problems.append(f"{what}: {str(problem).strip()[:300]}")


class LostError(Exception):
    """Something true is not there any more."""


class Counter:
    """A number that two processes see."""

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, 8)

    @property
    def value(self) -> int:
        return int(struct.unpack("q", self._memory[:8])[0])

    @value.setter
    def value(self, number: int) -> None:
        self._memory[:8] = struct.pack("q", number)


def in_child(action: Callable[[], object], quiet: bool = False) -> int:
    """Runs `action` in a forked child, which says nothing (but errors); returns its id."""
    # A signal is to hit the action, and not what Python does in a fork.
    signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    pid = os.fork()
    if pid:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
        return pid
    code = 1
    try:
        silence = os.open(os.devnull, os.O_WRONLY)
        os.dup2(silence, 1)
        if quiet:
            os.dup2(silence, 2)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        warnings.simplefilter("ignore", LosspathWarning)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
        action()
        code = 0
    except KeyboardInterrupt:
        code = 130
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def stopped(pid: int, seconds: float, number: int) -> int:
    """Lets a child run for a while, sends it a signal, and returns its exit status."""
    time.sleep(seconds)
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)
    deadline = time.monotonic() + WAIT_SECONDS
    while True:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() > deadline:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            raise LostError(f"a process that was sent signal {number} hung")
        time.sleep(0.001)


def network() -> torch.nn.Module:
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.BatchNorm1d(3))


def advance(model: torch.nn.Module, step: int) -> None:
    with torch.no_grad():
        for tensor in (*model.parameters(), *model.buffers()):
            if tensor.is_floating_point():
                change = torch.cos(torch.arange(tensor.numel()) + step)
                tensor.mul_(0.75).add_(change.view_as(tensor))
            elif step % 3 == 0:
                tensor.add_(1)


class Truth:
    """Rows, side tensors and losses of a walk."""

    def __init__(self, steps: int) -> None:
        model, self.rows, self.sides = network(), [], []
        for step in range(steps + 1):
            parameters = [p.detach().reshape(-1) for p in model.parameters()]
            self.rows.append(torch.cat(parameters).numpy().copy())
            self.sides.append({name: b.clone() for name, b in model.named_buffers()})
            advance(model, step)

    def check(self, run: Path) -> list[int]:
        """Asserts that whatever is read is true; returns the steps of the states that are read."""
        path, found = Trajectory(run), []
        for index, step in enumerate(path.steps.tolist()):
            try:
                row = path[index]
            except StoreError:
                continue
            assert np.array_equal(row, self.rows[step]), f"state {step} is false"
            found.append(step)
            try:
                tensors = path.sides(index)
            except StoreError:
                continue
            assert tensors.keys() == self.sides[step].keys(), f"side tensors of {step}"
            for name, tensor in tensors.items():
                assert torch.equal(tensor, self.sides[step][name]), f"{name} of {step} is false"
        steps, losses = path.loss_steps.tolist(), path.all_losses.tolist()
        for step, loss in zip(steps, losses, strict=True):
            assert np.isnan(loss) or loss == step / 8, f"the loss of step {step} is false"
        return found


TRAIN = ("train", "--network", "tiny-cnn", "--epochs", "8", "--batch-size", "64", "--lr", "0.05")
SURFACE = ("--method", "averaged", "--resolution", "11", "--samples", "400")


def command(*arguments: object) -> None:
    """The command line, as in a child of its own."""
    from losspath.cli import main
    from losspath.thesis import training

    torch.set_num_threads(1)
    training.CHECKPOINT_SECONDS = 0.05
    main([str(argument) for argument in arguments])


def whole(place: Path, *arguments: object) -> None:
    """A command that is not stopped."""
    code = os.waitstatus_to_exitcode(os.waitpid(in_child(lambda: command(*arguments)), 0)[1])
    if code != 0:
        raise SystemExit(f"{arguments} ended with {code}")
