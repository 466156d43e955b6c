"""Runs of the first format become runs of the second, with nothing changed or lost."""

import contextlib
import errno
import itertools
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from old_format import FILES, Walk, row_of, write_run

from losspath import Recorder, Trajectory
from losspath.errors import BusyError, DamagedError, ModelError, StoreError
from losspath.files import only_writer
from losspath.recording.header import read_header
from losspath.recording.migrate import migrate


def snapshot(directory):
    return {
        str(file.relative_to(directory)): file.read_bytes()
        for file in directory.rglob("*")
        if file.is_file() and file.name != ".lock"
    }


def assert_same(path, walk, closed=True):
    """A run of a walk, whatever its format, by the walk's own numbers."""
    assert path.steps.tolist() == walk.steps
    np.testing.assert_array_equal(path[:], np.stack([walk.parameters[s] for s in walk.steps]))
    assert path.dtype == walk.dtype
    assert path.all_losses.tolist() == walk.losses
    assert path.loss_steps.tolist() == list(range(1, len(walk.losses) + 1))
    assert path.losses.tolist() == [walk.losses[s] for s in walk.steps[:-1]]
    assert path.every == walk.every
    assert path.metadata == {"a": [1, "ü"]}
    assert path.closed == closed
    assert [entry.name for entry in path.layout.entries] == [
        name for name, _ in walk.model.named_parameters()
    ]
    for index, step in enumerate(walk.steps):
        sides = path.sides(index)
        assert sides.keys() == walk.buffers[step].keys()
        for name, tensor in sides.items():
            assert tensor.dtype == walk.buffers[step][name].dtype
            if walk.dtype == "float32":
                assert torch.equal(tensor, walk.buffers[step][name])
    assert path.holes == ()


@pytest.mark.parametrize(
    ("steps", "every", "dtype", "closed"),
    [
        (10, 1, "float32", True),
        (10, 3, "float32", True),
        (9, 3, "float64", False),
        (1, 1, "float32", True),
    ],
)
def test_a_run_is_read_before_and_after_as_it_was_recorded(tmp_path, steps, every, dtype, closed):
    walk = Walk(steps, every, dtype)
    run = walk.write(tmp_path / "run", closed)
    before = snapshot(run)
    assert_same(Trajectory(run), walk, closed)
    (line,) = migrate(run)
    assert "aside-1" in line
    assert read_header(run).version == 2
    assert_same(Trajectory(run), walk, closed)
    for name, raw in before.items():
        assert (run / "aside-1" / name).read_bytes() == raw
    assert not [file for file in run.iterdir() if file.name.startswith("migrat")]
    after = snapshot(run)
    assert migrate(run) == []
    assert snapshot(run) == after


def test_buffers_are_written_again_only_where_they_change(tmp_path):
    walk = Walk(10)
    run = walk.write(tmp_path / "run")
    migrate(run)
    path = Trajectory(run)
    keys = [path.side_key(index) for index in range(11)]
    assert len(set(keys)) == 6  # the first, and every other step
    assert all(keys[step] == keys[step + 1] for step in range(1, 9, 2))
    assert (run / "sides.bin").stat().st_size < 11 * (64 + 4 * 6)


def test_complex_tensors_and_models_without_buffers(tmp_path):
    class Own(torch.nn.Module):
        def __init__(self, buffer):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.arange(4).to(torch.complex64) * (1 + 2j))
            if buffer:
                self.register_buffer("phase", torch.tensor([1j, 2 - 1j]))
                self.register_buffer("narrow", torch.tensor(0.5, dtype=torch.bfloat16))

    for buffer in (False, True):
        model = Own(buffer)
        run = tmp_path / str(buffer)
        rows = [row_of(model), row_of(model)]
        write_run(run, model, rows, [0, 1], [0.5], [(2, 1, True)])
        migrate(run)
        path = Trajectory(run)
        expected = torch.view_as_real(model.weight).detach().reshape(-1).numpy()
        np.testing.assert_array_equal(path[:], [expected, expected])
        sides = path.sides(1)
        assert sides.keys() == dict(model.named_buffers()).keys()
        for name, tensor in model.named_buffers():
            assert sides[name].dtype == tensor.dtype
            assert torch.equal(sides[name], tensor)


def test_recording_goes_on_after_migrating(tmp_path):
    walk = Walk(10)
    run = walk.write(tmp_path / "run")
    with pytest.raises(StoreError, match="losspath migrate"):
        Recorder(run, walk.model, existing="resume")
    before = snapshot(run)
    assert snapshot(run) == before
    migrate(run)
    model = Walk(10).model
    with Recorder(run, model, existing="resume") as recorder:
        with torch.no_grad():
            model[0].bias += 1
        recorder.record(3.5)
    path = Trajectory(run)
    assert path.steps.tolist() == list(range(12))
    np.testing.assert_array_equal(path[:11], np.stack(walk.parameters))


def test_a_tail_of_an_unfinished_write_stays_with_the_old_files(tmp_path):
    walk = Walk(10)
    run = walk.write(tmp_path / "run", closed=False)
    for name in FILES[1:]:
        (run / name).write_bytes((run / name).read_bytes() + b"torn")
    migrate(run)
    assert_same(Trajectory(run), walk, closed=False)
    assert (run / "aside-1" / "states.bin").read_bytes().endswith(b"torn")


def test_what_is_damaged_missing_or_busy_is_refused_and_left(tmp_path):
    walk = Walk(10)
    with pytest.raises(StoreError, match="holds no recorded trajectory"):
        migrate(tmp_path / "none")
    assert not (tmp_path / "none").exists()
    for name in FILES:
        run = walk.write(tmp_path / name)
        raw = bytearray((run / name).read_bytes())
        raw[len(raw) // 2] ^= 64
        (run / name).write_bytes(raw)
        before = snapshot(run)
        with pytest.raises(DamagedError):
            migrate(run)
        assert snapshot(run) == before
    run = walk.write(tmp_path / "busy")
    with only_writer(run / ".lock", "to it"), pytest.raises(BusyError):
        migrate(run)
    assert_same(Trajectory(run), walk)


class Stop(BaseException):
    """As a kill: nothing catches it by name."""


@pytest.mark.mostly_slow(1)
@pytest.mark.parametrize("error", [Stop(), OSError(errno.ENOSPC, "No space left on device")])
def test_stopped_anywhere_it_is_readable_or_goes_on(tmp_path, monkeypatch, error):
    """Each call that changes the disk is once the last one."""
    walk = Walk(4)
    source = walk.write(tmp_path / "source")
    whole = set(snapshot(source).items())
    stopped = 0
    for number in itertools.count():
        run = tmp_path / "run"
        shutil.copytree(source, run)
        left, failed = [number], []

        def allow(left=left, failed=failed):
            left[0] -= 1
            # After a kill nothing happens any more, clearing up neither.
            if left[0] == -1 or (failed and isinstance(error, Stop)):
                failed.append(True)
                raise error

        with monkeypatch.context() as patch:
            guard(patch, run, allow)
            done = False
            with contextlib.suppress(Stop, StoreError):
                migrate(run)
                done = True
        if not done:
            stopped += 1
            # Between the last old file and the first new one there is no run to read or write.
            try:
                path = Trajectory(run)
            except StoreError:
                path = None
            if path is None:
                for call in (Trajectory, lambda run: Recorder(run, walk.model, existing="resume")):
                    with pytest.raises(StoreError, match="losspath migrate"):
                        call(run)
            else:
                assert_same(path, walk)
            kept = {(Path(name).name, raw) for name, raw in snapshot(run).items()}
            assert whole <= kept
            migrate(run)
        assert_same(Trajectory(run), walk)
        assert read_header(run).version == 2
        kept = {(Path(name).name, raw) for name, raw in snapshot(run).items()}
        assert whole <= kept
        shutil.rmtree(run)
        if not failed:
            break
    assert stopped > 15


def guard(patch, run, allow):
    """Asks `allow` before every system call that changes something."""
    for name in ("rename", "replace", "unlink", "rmdir", "mkdir", "write", "fsync", "fdatasync"):
        real = getattr(os, name)

        def call(*arguments, real=real, **options):
            allow()
            return real(*arguments, **options)

        patch.setattr(os, name, call)


def test_the_command_says_what_it_did(tmp_path, capsys):
    from losspath.cli import main

    run = Walk(4).write(tmp_path / "run")
    for expected in ("aside-1", "nothing to do"):
        with pytest.raises(SystemExit) as end:
            main(["migrate", str(run)])
        assert end.value.code == 0
        assert expected in capsys.readouterr().out.replace("\n", " ")


class Held(torch.nn.Module):
    """A network whose only child is called as what DDP and DataParallel add, or one of these."""

    def __init__(self, inner):
        super().__init__()
        self.module = inner


def normalised():
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2))


@pytest.mark.parametrize("loaded", [normalised, lambda: Held(normalised())])
@pytest.mark.parametrize("recorded", [lambda: Held(normalised()), lambda: Held(Held(normalised()))])
def test_what_began_every_name_may_be_a_wrappers_or_the_networks_own(tmp_path, recorded, loaded):
    if isinstance(recorded().module, Held) and isinstance(loaded(), Held):
        pytest.skip("neither spelling is the network's")
    model = recorded()
    rows = []
    for _ in range(3):
        rows.append(row_of(model))
        with torch.no_grad():
            for tensor in [*model.parameters(), *model.buffers()]:
                tensor += 1
    run = tmp_path / "run"
    write_run(run, model, rows, [0, 1, 2], [0.5, 1.5], [(3, 2, True)])
    for _ in range(2):
        path, target = Trajectory(run), loaded()
        path.load_into(target, 1, buffers=True)
        np.testing.assert_array_equal(row_of(target), rows[1])
        names = [name for name, _ in target.named_parameters()]
        assert [entry.name for entry in path.layout_in(names).parameters] == names
        path.window(1).load_into(target, 1, buffers=True)
        np.testing.assert_array_equal(row_of(target), rows[2])
        migrate(run)
    with Recorder(run, target, existing="resume") as recorder:
        recorder.record(2.5)
    assert Trajectory(run).steps.tolist() == [0, 1, 2, 3]
    with pytest.raises(ModelError, match="not of the same network"):
        Trajectory(run).load_into(torch.nn.Linear(3, 2), 1)
