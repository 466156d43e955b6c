"""One exception at any line of a call, at any line of the writer, or from a real signal.

Whatever happens, a state whose `record` returned is there and true, and the interrupted one is
there whole or not at all.
"""

import contextlib
import errno
import gc
import itertools
import math
import mmap
import os
import random
import shutil
import signal
import struct
import subprocess
import sys
import threading
import time
import traceback
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

import losspath
from losspath import Recorder, Trajectory
from losspath.errors import ArgumentError, LosspathError, LosspathWarning, StoreError
from losspath.files import only_writer
from losspath.recording import chain, session, writing
from losspath.recording import recorder as recorder_module
from losspath.recording.state import StateReader

PACKAGE = str(Path(losspath.__file__).parent)


class Planted(Exception):
    """What no code expects."""


class Injector:
    """Raises at the n-th line event inside the package in this thread; notes them without n."""

    def __init__(self, number=-1, error=None):
        self.left, self.error = number, error
        self.where = None
        self.seen = []

    def _enter(self, frame, event, argument):
        return self._line if frame.f_code.co_filename.startswith(PACKAGE) else None

    def _line(self, frame, event, argument):
        if event == "line" and self.where is None:
            self.left -= 1
            if self.left < 0:
                self.seen.append((frame.f_code.co_filename, frame.f_lineno))
            elif self.left == 0:
                self.where = f"{Path(frame.f_code.co_filename).name}:{frame.f_lineno}"
                raise self.error
        return self._line

    def __enter__(self):
        self._before = sys.gettrace()
        gc.disable()  # what a collection runs is in no call's hands
        sys.settrace(self._enter)
        return self

    def __exit__(self, *error):
        sys.settrace(self._before)
        gc.enable()


def moments(injector, thorough):
    """At which events of a run to raise, and what.

    Both errors at all of them, or one of the two where each line is come to first and last.
    """
    numbers = range(1, len(injector.seen) + 1)
    if thorough:
        return list(itertools.product(numbers, PLANTED))
    first = dict(zip(reversed(injector.seen), reversed(numbers), strict=True))
    last = dict(zip(injector.seen, numbers, strict=True))
    chosen = sorted({*first.values(), *last.values()})
    return list(zip(chosen, itertools.cycle(PLANTED)))


THOROUGH = [False, pytest.param(True, marks=pytest.mark.slow)]
PLANTED = [KeyboardInterrupt, Planted]


def tiny(kind):
    torch.manual_seed(0)
    if kind == "plain":
        return torch.nn.Linear(2, 3)
    return torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.BatchNorm1d(3))


def train(model, number):
    """Moves everything that a recorder looks at; no two numbers give the same."""
    with torch.no_grad():
        for tensor in itertools.chain(model.parameters(), model.buffers()):
            tensor.add_(number + 1)


class Truth:
    """What was recorded by whose word, and what may have been."""

    def __init__(self, model):
        self.model = model
        self.states = {0: self.now()}
        self.losses = {}
        self.maybe = {}

    def now(self):
        row = np.concatenate([p.detach().reshape(-1).numpy() for p in self.model.parameters()])
        return row.copy(), {name: b.clone() for name, b in self.model.named_buffers()}

    def attempt(self, recorder, number, injector=None):
        """Trains on and records; returns the error that came out."""
        train(self.model, number)
        loss, state = float(number) + 0.5, self.now()
        step = recorder.steps + 1
        try:
            with injector or contextlib.nullcontext():
                recorder.record(loss)
        except (Exception, KeyboardInterrupt) as error:
            self.maybe[step] = state, loss
            return error
        assert recorder.steps == step
        self.maybe.pop(step, None)
        self.states[step], self.losses[step] = state, loss
        return None

    def check_told(self, directory, every, errors, flushed):
        """All is there, or errors told of what is not; what was flushed is there all the same."""
        # An error that came after the last byte is told too, of a run that is whole and closed.
        is_whole = not errors or Trajectory(directory).closed
        self.check(directory, every, is_whole, math.inf if is_whole else flushed)

    def check(self, directory, every=1, closed=True, until=math.inf, newest=True):
        """All that is read is true, and all of it is there, up to a step."""
        path = Trajectory(directory)
        steps = path.steps.tolist()
        assert steps == sorted(set(steps))
        assert path.closed == closed
        for index, step in enumerate(steps):
            row, buffers = self.states.get(step) or self.maybe[step][0]
            np.testing.assert_array_equal(path[index], row)
            sides = path.sides(index)
            assert sides.keys() == buffers.keys()
            for name, buffer in buffers.items():
                assert torch.equal(sides[name], buffer)
        for step, loss in zip(path.loss_steps.tolist(), path.all_losses.tolist(), strict=True):
            assert loss == (self.losses[step] if step in self.losses else self.maybe[step][1])
        assert {s for s in self.states if s <= until and s % every == 0} <= set(steps)
        assert not newest or max(steps) >= min(until, max(self.states))
        assert {s for s in self.losses if s <= until} <= set(path.loss_steps.tolist())
        return path


def assert_free(directory):
    """The lock is gone."""
    with only_writer(directory / ".lock", "to it"):
        pass


def writers():
    return [t for t in threading.enumerate() if t is not threading.main_thread()]


@pytest.fixture(params=["plain", "buffers", "pieces", "small-buffers"])
def kind(request, monkeypatch):
    """Models and sizes of buffers, so that every way through `record` is gone."""
    monkeypatch.setattr(writing, "LOOK_SECONDS", 0.01)
    monkeypatch.setattr(chain, "_POLL_SECONDS", 0.0001)
    for name in ("fsync", "fdatasync"):  # nothing here is about losing power
        monkeypatch.setattr(os, name, lambda descriptor: None)
    if request.param == "pieces":
        monkeypatch.setattr(recorder_module, "_BUFFER_BYTES", 32)
        monkeypatch.setattr(session, "_KEEP_SECONDS", 0.0)
    if request.param == "small-buffers":
        monkeypatch.setattr(recorder_module, "_BUFFER_BYTES", 128)
        monkeypatch.setattr(recorder_module, "_PREFERRED_BYTES", 64)
    return request.param


def begin(directory, kind, every=1, steps=3):
    model = tiny(kind)
    truth = Truth(model)
    recorder = Recorder(directory, model, every=every)
    for number in range(steps):
        assert truth.attempt(recorder, number) is None
    return recorder, truth


def assert_told(error, planted, where):
    """An interrupt is seen as it is; another exception as it is or as one of the package's.

    What the attributes of a user's modules raise as they are read is passed over.
    """
    if planted is KeyboardInterrupt:
        assert type(error) is KeyboardInterrupt
    elif error is not None or not where.startswith("settings.py"):
        assert isinstance(error, (Planted, LosspathError)), where


def go_on(recorder, truth):
    """Later calls go on correctly, or raise the package's own errors."""
    refused = False
    for number in (10, 11, 12):
        error = truth.attempt(recorder, number)
        assert error is None or isinstance(error, LosspathError), error
        refused |= error is not None
    return refused


@pytest.mark.mostly_slow(1)
@pytest.mark.parametrize("every", [1, 3])
@pytest.mark.parametrize("thorough", THOROUGH)
def test_an_exception_at_any_line_of_record(tmp_path, kind, every, thorough):
    recorder, truth = begin(tmp_path / "whole", kind, every)
    seen = Injector()
    assert truth.attempt(recorder, 3, seen) is None
    recorder.close()
    for number, planted in moments(seen, thorough):
        directory = tmp_path / f"{number} {planted.__name__}"
        recorder, truth = begin(directory, kind, every)
        injector = Injector(number, planted())
        error = truth.attempt(recorder, 3, injector)
        if injector.where is not None:
            assert_told(error, planted, injector.where)
        refused = go_on(recorder, truth)
        recorder.close()
        recorder.close()
        truth.check(directory, every)
        assert not refused, f"recording did not go on after an exception at {injector.where}"
        assert_free(directory)
    assert number > 20


@pytest.mark.mostly_slow(1)
@pytest.mark.parametrize("every", [1, 3])
@pytest.mark.parametrize("how", ["close", "with", "flush"])
@pytest.mark.parametrize("thorough", THOROUGH)
def test_an_exception_at_any_line_of_closing(tmp_path, kind, every, how, thorough):
    if kind not in ("pieces", "buffers") or (how != "close" and kind == "buffers"):
        pytest.skip("as with others")

    def end(recorder):
        if how == "with":
            with recorder:
                pass
        else:
            getattr(recorder, how)()

    recorder, _ = begin(tmp_path / "whole", kind, every, steps=4)
    with Injector() as seen:
        end(recorder)
    recorder.close()
    for number, planted in moments(seen, thorough):
        directory = tmp_path / f"{number} {planted.__name__}"
        recorder, truth = begin(directory, kind, every, steps=4)
        injector, error = Injector(number, planted()), None
        try:
            with injector:
                end(recorder)
        except (Exception, KeyboardInterrupt) as caught:
            error = caught
        if error is not None:
            assert_told(error, planted, injector.where)
        if how == "flush":
            assert not go_on(recorder, truth)
        recorder.close()
        recorder.close()
        truth.check(directory, every)
        assert_free(directory)
    assert number > 10


def fail_with(stack, injector):
    """The loop's own error; what closes the recorder then is injected in."""
    stack.enter_context(injector)
    raise ZeroDivisionError


def test_the_loops_own_error_wins_over_the_recorders_but_not_over_an_interrupt(tmp_path, kind):
    if kind != "buffers":
        pytest.skip("as with others")
    for number in itertools.count(1):
        recorder, truth = begin(tmp_path / str(number), kind)
        injector = Injector(number, KeyboardInterrupt())
        with (
            pytest.raises((ZeroDivisionError, KeyboardInterrupt)) as caught,
            contextlib.ExitStack() as stack,
            recorder,
        ):
            fail_with(stack, injector)
        expected = ZeroDivisionError if injector.where is None else KeyboardInterrupt
        assert caught.type is expected, injector.where
        recorder.close()
        truth.check(tmp_path / str(number))
        if injector.where is None:
            break
    assert number > 10


@pytest.mark.parametrize("own", [KeyboardInterrupt, ZeroDivisionError])
def test_what_is_under_way_is_not_replaced_by_what_close_comes_to(tmp_path, monkeypatch, own):
    monkeypatch.setattr(recorder_module, "_BUFFER_BYTES", 32)  # the last state is kept at the end
    recorder, truth = begin(tmp_path / "run", "plain", 3, 2)

    def broken(reader, tensors=None):
        raise RuntimeError("CUDA error: device-side assert triggered")

    with monkeypatch.context() as patch:
        patch.setattr(StateReader, "digest", broken)
        with pytest.raises(own), recorder:
            raise own
    recorder.close()
    truth.check(tmp_path / "run", 3)


def test_what_close_comes_to_is_an_error_of_the_package(tmp_path, monkeypatch):
    monkeypatch.setattr(recorder_module, "_BUFFER_BYTES", 32)
    recorder, truth = begin(tmp_path / "run", "plain", 3, 2)

    def broken(reader, tensors=None):
        raise RuntimeError("CUDA error: device-side assert triggered")

    with monkeypatch.context() as patch:
        patch.setattr(StateReader, "digest", broken)
        with pytest.raises(StoreError, match=r"RuntimeError .* device-side assert") as caught:
            recorder.close()
        assert type(caught.value.__cause__) is RuntimeError
    recorder.close()
    truth.check(tmp_path / "run", 3)


@pytest.mark.slow
@pytest.mark.parametrize("existing", ["error", "resume"])
@pytest.mark.parametrize("thorough", THOROUGH)
def test_an_exception_at_any_line_of_the_constructor(tmp_path, kind, existing, thorough):
    if kind != "buffers":
        pytest.skip("as with others")
    before, truth = len(writers()), None
    if existing == "resume":
        recorder, truth = begin(tmp_path / "run", kind)
        recorder.close()

    def model():
        return tiny(kind) if truth is None else truth.model

    with Injector() as seen:
        recorder = Recorder(tmp_path / "run", model(), existing=existing)
    recorder.close()
    for number, planted in moments(seen, thorough):
        if existing == "error":
            shutil.rmtree(tmp_path / "run")
        injector, made = Injector(number, planted()), None
        try:
            with injector:
                made = Recorder(tmp_path / "run", model(), existing=existing)
        except (Exception, KeyboardInterrupt) as error:
            assert_told(error, planted, injector.where)
            traceback.clear_frames(error.__traceback__)
            del error
        if made is not None:
            made.close()
            del made
        if len(writers()) > before:
            gc.collect()
        deadline = time.monotonic() + 5
        while len(writers()) > before and time.monotonic() < deadline:
            time.sleep(0.001)
        assert len(writers()) == before, injector.where
        (tmp_path / "run").mkdir(exist_ok=True)
        assert_free(tmp_path / "run")
        if truth is not None:
            with Recorder(tmp_path / "run", truth.model, existing="resume"):
                pass
            truth.check(tmp_path / "run")
    assert number > 50


# --------------------------------------------------------------------------------------------------
# The writer


class Failing(Injector):
    """Raises at the n-th line event inside the package in any thread begun meanwhile."""

    def _enter(self, frame, event, argument):
        if threading.current_thread() is threading.main_thread():
            return None
        return super()._enter(frame, event, argument)

    def __enter__(self):
        threading.settrace(self._enter)
        return self

    def __exit__(self, *error):
        threading.settrace(None)


def no_space():
    return OSError(errno.ENOSPC, "No space left on device")


FAILURES = [no_space, MemoryError]


def run_until_it_fails(directory, kind, every, pause):
    """Records, flushes now and then, closes; returns the truth and the steps that were flushed.

    These are None where there was no recorder to begin with.
    """
    model = tiny(kind)
    truth, flushed, errors = Truth(model), -1, []
    try:
        recorder = Recorder(directory, model, every=every)
    except StoreError as error:  # a first state that no buffer holds waits for the writer
        return truth, None, [error]
    for number in range(9):
        errors.append(truth.attempt(recorder, number))
        time.sleep(pause)
        if number == 4:
            try:
                recorder.flush()
                flushed = recorder.steps
            except StoreError as error:
                errors.append(error)
    try:
        recorder.close()
    except StoreError as error:
        errors.append(error)
    for _ in range(2):
        try:
            recorder.close()
        except StoreError as error:
            errors.append(error)
    return truth, flushed, [error for error in errors if error is not None]


@pytest.mark.mostly_slow(1)
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.parametrize("every", [1, 3])
@pytest.mark.parametrize("thorough", THOROUGH)
def test_an_error_at_any_line_of_the_writer(tmp_path, kind, every, thorough):
    if kind not in ("buffers", "pieces") and not thorough:
        pytest.skip("as with others")
    failures = itertools.cycle(FAILURES)
    for number in itertools.count(1, 1 if thorough else 6):
        directory = tmp_path / str(number)
        with Failing(number, next(failures)()) as failing:
            truth, flushed, errors = run_until_it_fails(directory, kind, every, 0.0)
        assert all(isinstance(error, StoreError) for error in errors), errors
        if flushed is not None:  # it failed once: all that `record` took is there in the end
            truth.check(directory, every)
        assert_free(directory)
        if failing.where is None:
            assert not errors
            break
    assert number > 20


def test_a_garbage_collection_that_interrupts_threading_does_not_wait_for_a_thread(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(writing, "BEGIN_SECONDS", 0.2)
    model = tiny("buffers")
    truth, real = Truth(model), os.write

    def full(*arguments):
        raise no_space()

    recorder = losspath.Recorder(tmp_path / "run", model)
    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", full)
        patch.setattr(os, "write", full)
        truth.attempt(recorder, 0)
        with contextlib.suppress(StoreError):
            recorder.flush()  # its thread ends, and closing begins another
    assert os.write is real
    # Every new thread takes this lock first; whoever lists threads holds it meanwhile.
    with threading._active_limbo_lock:
        del recorder
        gc.collect()
    for thread in writers():
        thread.join(10)
    assert_free(tmp_path / "run")
    truth.check(tmp_path / "run", 1)


@pytest.mark.mostly_slow(3)
@pytest.mark.parametrize("name", ["write", "pwrite", "fdatasync", "ftruncate", "fsync"])
@pytest.mark.parametrize("failure", FAILURES)
def test_a_system_call_that_fails_in_the_writer_is_told(tmp_path, monkeypatch, name, failure):
    monkeypatch.setattr(writing, "LOOK_SECONDS", 0.01)
    real = getattr(os, name)
    for number in range(1, 12):
        directory, calls = tmp_path / str(number), [0]

        def fail(*arguments, calls=calls, number=number):
            if threading.current_thread() is threading.main_thread():
                return real(*arguments)
            calls[0] += 1
            if calls[0] >= number:
                raise failure()
            return real(*arguments)

        with monkeypatch.context() as patch:
            patch.setattr(os, name, fail)
            truth, flushed, errors = run_until_it_fails(directory, "buffers", 1, 0.0)
        assert all(isinstance(error, StoreError) for error in errors)
        if calls[0] >= number:
            assert errors
        if flushed is not None and (flushed >= 0 or not errors):
            truth.check_told(directory, 1, errors, flushed)
        assert_free(directory)


@pytest.mark.mostly_slow(5)
@pytest.mark.parametrize("name", ["write", "pwrite", "fdatasync", "ftruncate", "fsync"])
@pytest.mark.parametrize("failure", FAILURES)
@pytest.mark.parametrize("size", [None, 128])
def test_a_system_call_that_fails_once_in_the_writer_loses_nothing(
    tmp_path, monkeypatch, name, failure, size
):
    monkeypatch.setattr(writing, "LOOK_SECONDS", 0.01)
    if size is not None:  # many buffers, each of which goes round
        monkeypatch.setattr(recorder_module, "_BUFFER_BYTES", size)
        monkeypatch.setattr(recorder_module, "_PREFERRED_BYTES", size)
    real = getattr(os, name)
    for number in range(1, 20):
        calls = [0]

        def fail(*arguments, calls=calls, number=number):
            calls[0] += threading.current_thread() is not threading.main_thread()
            if calls[0] == number and threading.current_thread() is not threading.main_thread():
                raise failure()
            return real(*arguments)

        with monkeypatch.context() as patch:
            patch.setattr(os, name, fail)
            truth, _, errors = run_until_it_fails(tmp_path / str(number), "buffers", 1, 0.0)
        assert not errors
        truth.check(tmp_path / str(number))
        if calls[0] < number:
            break


def test_pages_that_a_failed_sync_gave_up_are_noticed(tmp_path, monkeypatch):
    # What the buffers held of them is gone: it is read back, and held against its digest.
    monkeypatch.setattr(writing, "LOOK_SECONDS", 0.01)
    monkeypatch.setattr(recorder_module, "_BUFFER_BYTES", 128)
    monkeypatch.setattr(recorder_module, "_PREFERRED_BYTES", 64)
    recorder, truth = begin(tmp_path / "run", "plain")
    recorder.flush()
    real, lost = writing.Files.sync, []

    def sync(files, name):
        if name == "states.bin" and not lost:
            lost.append(name)
            files.write(name, bytes(36), 4 * 36)  # of the first row that is not synced yet
            raise OSError(errno.EIO, "Input/output error")
        real(files, name)

    monkeypatch.setattr(writing.Files, "sync", sync)
    for number in range(8):
        truth.attempt(recorder, number)
    with pytest.raises(StoreError, match="the disk lost the state of step 4"):
        recorder.close()
    truth.check(tmp_path / "run", closed=False, until=3)


def test_writes_that_take_half_are_gone_on_with(tmp_path, monkeypatch, kind):
    write, pwrite = os.write, os.pwrite
    monkeypatch.setattr(os, "write", lambda fd, b: write(fd, bytes(b)[: len(bytes(b)) // 2 or 1]))
    monkeypatch.setattr(
        os, "pwrite", lambda fd, b, at: pwrite(fd, bytes(b)[: len(bytes(b)) // 2 or 1], at)
    )
    recorder, truth = begin(tmp_path / "run", kind, 1, 5)
    recorder.close()
    truth.check(tmp_path / "run")


def test_a_system_without_fdatasync_or_syncs_of_directories(tmp_path, monkeypatch):
    fsync = os.fsync

    def refuse(descriptor):
        if Path(f"/proc/self/fd/{descriptor}").is_dir():
            raise OSError(errno.EINVAL, "Invalid argument")
        fsync(descriptor)

    monkeypatch.delattr(os, "fdatasync")
    monkeypatch.setattr(os, "fsync", refuse)
    recorder, truth = begin(tmp_path / "run", "buffers", 1, 5)
    recorder.flush()
    recorder.close()
    truth.check(tmp_path / "run")


# --------------------------------------------------------------------------------------------------
# Real signals


def is_kept(kind, every):
    """Whether the newest state is kept at every step: one in pieces about once a second."""
    return every == 1 or kind != "pieces"


def in_child(action):
    """Runs `action` in a forked child; returns its id."""
    # A signal is to hit the action, and not what Python does in a fork.
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT, signal.SIGTERM])
    pid = os.fork()
    if pid:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT, signal.SIGTERM])
        return pid
    code = 1
    try:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        warnings.simplefilter("ignore", LosspathWarning)
        torch.set_num_threads(1)  # threads of the parent are not in the child
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT, signal.SIGTERM])
        action()
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


def ended(pid):
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


class Counter:
    """A number that two processes see."""

    def __init__(self):
        self._memory = mmap.mmap(-1, 8)

    @property
    def value(self):
        return struct.unpack("q", self._memory[:8])[0]

    @value.setter
    def value(self, number):
        self._memory[:8] = struct.pack("q", number)


def wait_for(counter, value):
    deadline = time.monotonic() + 30
    while counter.value < value and time.monotonic() < deadline:
        time.sleep(0.0005)


@pytest.mark.mostly_slow(6)
@pytest.mark.parametrize("every", [1, 3])
@pytest.mark.parametrize("seed", range(4))
def test_a_notebook_that_is_interrupted_and_goes_on(tmp_path, kind, every, seed):
    """The child catches every interrupt, goes on, and judges in the end what is there."""
    counter = Counter()

    def loop():
        signal.signal(signal.SIGINT, interrupt)
        model = tiny(kind)
        truth = Truth(model)
        recorder = Recorder(tmp_path / "run", model, every=every)
        counter.value = 1
        for number in itertools.count():
            error = interruptible(truth, recorder, number)
            assert error is None or type(error) is KeyboardInterrupt, error
            if counter.value == 3:
                break
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        recorder.close()
        truth.check(tmp_path / "run", every)

    inside = [False]

    def interrupt(number, frame):
        """Once in a call; between the calls it would be none in `record`."""
        if inside[0]:
            inside[0] = False
            raise KeyboardInterrupt

    def interruptible(truth, recorder, number):
        train(truth.model, number)
        loss, state, step = float(number) + 0.5, truth.now(), recorder.steps + 1
        truth.maybe[step] = state, loss
        try:
            inside[0] = True
            recorder.record(loss)
            inside[0] = False
        except (Exception, KeyboardInterrupt) as caught:
            inside[0] = False
            return caught
        truth.states[step], truth.losses[step] = state, loss
        truth.maybe.pop(step, None)
        return None

    pid = in_child(loop)
    wait_for(counter, 1)
    moments = random.Random(f"{seed} {every} {kind}")
    for _ in range(25):
        time.sleep(moments.uniform(0.0, 0.004))
        os.kill(pid, signal.SIGINT)
    counter.value = 3
    assert ended(pid) == 0


@pytest.mark.mostly_slow(6)
@pytest.mark.parametrize("every", [1, 3])
@pytest.mark.parametrize("seed", range(4))
def test_a_process_that_is_terminated_keeps_what_was_recorded(tmp_path, kind, every, seed):
    counter = Counter()

    def loop():
        model = tiny(kind)
        recorder = Recorder(tmp_path / "run", model, every=every)
        for number in range(10**6):
            counter.value = recorder.steps + 1
            train(model, number)
            recorder.record(float(number) + 0.5)

    pid = in_child(loop)
    wait_for(counter, 1)
    time.sleep(random.Random(f"{seed} {every} {kind}").uniform(0.0, 0.2))
    os.kill(pid, signal.SIGTERM)
    assert ended(pid) == -signal.SIGTERM
    returned = counter.value - 1
    model = tiny(kind)
    truth = Truth(model)
    for number in range(returned + 1):
        train(model, number)
        truth.states[number + 1], truth.losses[number + 1] = truth.now(), float(number) + 0.5
    last = returned + 1
    truth.maybe[last] = truth.states.pop(last), truth.losses.pop(last)
    truth.check(tmp_path / "run", every, newest=is_kept(kind, every))
    assert_free(tmp_path / "run")


def test_a_handler_of_the_users_own_is_left_to_them(tmp_path):
    counter = Counter()

    def loop():
        seen = []
        signal.signal(signal.SIGTERM, lambda number, frame: seen.append(number))
        model = tiny("plain")
        recorder = Recorder(tmp_path / "run", model)
        train(model, 0)
        recorder.record(0.5)
        counter.value = 1
        while not seen:
            time.sleep(0.001)
        train(model, 1)
        recorder.record(1.5)
        recorder.close()
        assert signal.getsignal(signal.SIGTERM) not in (signal.SIG_DFL, signal.SIG_IGN, None)

    pid = in_child(loop)
    wait_for(counter, 1)
    os.kill(pid, signal.SIGTERM)
    assert ended(pid) == 0
    assert Trajectory(tmp_path / "run").steps.tolist() == [0, 1, 2]


def test_a_script_that_forgets_to_close_keeps_all(tmp_path):
    code = (
        "import sys, torch, losspath\n"
        "model = torch.nn.Linear(2, 1)\n"
        "recorder = losspath.Recorder(sys.argv[1], model)\n"
        "for number in range(20):\n"
        "    with torch.no_grad(): model.bias += 1\n"
        "    recorder.record(number)\n"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "run")], check=True, timeout=120)
    path = Trajectory(tmp_path / "run")
    assert path.steps.tolist() == list(range(21))
    assert path.closed


def test_a_step_that_is_refused_changes_nothing(tmp_path):
    recorder, truth = begin(tmp_path / "run", "buffers")
    train(truth.model, 5)
    with pytest.raises(ArgumentError):
        recorder.record(torch.zeros(3))
    with pytest.raises(ArgumentError):
        recorder.record(0.0, step=3)
    assert recorder.steps == 3
    assert not go_on(recorder, truth)
    recorder.close()
    truth.check(tmp_path / "run")
