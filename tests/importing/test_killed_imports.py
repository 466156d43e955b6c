"""Imports that are killed at any moment, and called again."""

import os
import random
import signal
import time
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

from killing import in_child
from losspath import Trajectory, import_checkpoints
from losspath.errors import LosspathWarning, StoreError
from losspath.recording import recorder as recorder_module

STEPS = (0, 3, 7, 12, 13)
CALLS = ("write", "pwrite", "fsync", "fdatasync", "replace", "unlink", "mkdir", "open")


def save(folder):
    folder.mkdir()
    for step in STEPS:
        generator = torch.Generator().manual_seed(step)
        state = {"w": torch.randn(40, 3, generator=generator), "b": torch.randn(7)}
        state |= {"norm.running_mean": torch.full((3,), float(step))}
        torch.save({"model": state, "step": step}, folder / f"{step}.pt")
    return folder / "*.pt"


def ends_at(number):
    """Ends this process without further ado at so many calls that change something on the disk."""
    done = [0]

    def counted(call):
        def wrapper(*arguments, **options):
            done[0] += 1
            if done[0] > number:
                os.kill(os.getpid(), signal.SIGKILL)
            return call(*arguments, **options)

        return wrapper

    for name in CALLS:
        setattr(os, name, counted(getattr(os, name)))
    Path.replace = counted(Path.replace)
    Path.unlink = counted(Path.unlink)
    Path.mkdir = counted(Path.mkdir)


def again(pattern, run, link):
    """What a user does: the same command once more."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", LosspathWarning)
        return import_checkpoints(pattern, run, link=link, existing="resume")


@pytest.mark.parametrize(
    ("link", "stride"),
    [(True, 7), *(pytest.param(link, 1, marks=pytest.mark.slow) for link in (False, True))],
)
def test_an_import_killed_at_any_call_goes_on(tmp_path, link, stride, monkeypatch):
    pattern = save(tmp_path / "saved")
    whole = import_checkpoints(pattern, tmp_path / "whole", link=link)
    monkeypatch.setattr(recorder_module, "_COMMIT_SECONDS", 0.0)
    empty = begun = 0
    for number in range(0, 300, stride):
        run = tmp_path / f"run-{number}"

        def work(run=run, number=number):
            ends_at(number)
            import_checkpoints(pattern, run, link=link)

        code = os.waitstatus_to_exitcode(os.waitpid(in_child(work), 0)[1])
        if code == 0:
            break
        assert code == -signal.SIGKILL
        try:
            states = Trajectory(run)[:] if run.exists() else []
        except StoreError:
            states = []
        empty, begun = empty + (len(states) == 0), begun + (0 < len(states) < len(STEPS))
        assert not len(states) or np.array_equal(states, whole[: len(states)])
        path = again(pattern, run, link)
        assert path.digest == whole.digest
        assert path.closed
        np.testing.assert_array_equal(path[:], whole[:])
        assert [path.buffers(i)["norm.running_mean"].tolist() for i in range(5)] == [
            [float(step)] * 3 for step in STEPS
        ]
    else:
        pytest.fail("never finished")
    assert empty > 2
    assert begun > 0


@pytest.mark.slow
@pytest.mark.parametrize("link", [False, True])
def test_an_import_killed_at_random_and_again_and_again(tmp_path, link, monkeypatch):
    pattern = save(tmp_path / "saved")
    whole = import_checkpoints(pattern, tmp_path / "whole", link=link)
    monkeypatch.setattr(recorder_module, "_COMMIT_SECONDS", 0.0)
    moments, kills = random.Random(int(link)), 0
    for trial in range(15):
        run = tmp_path / f"run-{trial}"
        for attempt in range(50):
            pid = in_child(lambda run=run: again(pattern, run, link))
            time.sleep(moments.uniform(0.0, 0.02 + 0.01 * attempt))
            os.kill(pid, signal.SIGKILL)
            code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
            if code == 0:
                break
            assert code == -signal.SIGKILL
            kills += 1
        else:
            pytest.fail("never finished")
        path = Trajectory(run)
        assert path.digest == whole.digest
        np.testing.assert_array_equal(path[:], whole[:])
    assert kills >= 15


@pytest.mark.parametrize("left", ["header", "one copy", "rows", "unfinished file"])
def test_what_was_killed_before_its_first_state_begins_anew(tmp_path, left):
    pattern, run = save(tmp_path / "saved"), tmp_path / "run"
    whole = import_checkpoints(pattern, run)[:]
    rows = (run / "states.bin").read_bytes()
    kept = {"unfinished file": []}.get(left, ["trajectory.json", "trajectory.copy.json"])
    for file in run.iterdir():
        if file.name not in kept[: 1 if left == "one copy" else 2]:
            file.unlink()
    if left == "unfinished file":
        (run / ".trajectory.json.0a1b2c3d.tmp").write_text("{")
        path = import_checkpoints(pattern, run)
    elif left == "rows":
        (run / "states.bin").write_bytes(rows)
        with pytest.warns(LosspathWarning, match=r"stopped before its first state .* moved to"):
            path = import_checkpoints(pattern, run, existing="resume")
        assert (run / "aside-1" / "states.bin").read_bytes() == rows
        assert (run / "aside-1" / "trajectory.json").exists()
    else:
        path = import_checkpoints(pattern, run, existing="resume")
    np.testing.assert_array_equal(path[:], whole)
    assert path.notes == []


def test_the_command_line_goes_on_with_an_empty_run(tmp_path, capsys):
    from losspath.cli import main

    pattern, run = save(tmp_path / "saved"), tmp_path / "run"
    import_checkpoints(pattern, run)
    for file in run.iterdir():
        if not file.name.startswith("trajectory"):
            file.unlink()
    with pytest.raises(SystemExit) as end:
        main(["import", str(pattern), "--out", str(run)])
    assert end.value.code == 0
    assert "5 states of 127 parameters, steps 0 to 13\n" in capsys.readouterr().out
