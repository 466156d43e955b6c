"""Surfaces by workers: every executor gives the surface of a single process, to rounding."""

import collections
import os
import signal
import subprocess
import sys
import time
import warnings
from concurrent.futures import ThreadPoolExecutor

import filelock
import numpy as np
import pytest
import torch
import torch.nn.functional as F

import losspath
from losspath import LocalProcesses, Objective, Recorder, Trajectory, compute_surface
from losspath.errors import ArgumentError, LosspathWarning, PathError, WorkerError
from losspath.evaluation.execution import engine, tuning
from losspath.evaluation.execution.tuning import EngineConfig
from losspath.methods import METHODS
from losspath.surface import workers
from losspath.thesis.networks import build_network

RESOLUTION = 12  # 144 points: several tasks, whatever the method


class Slow(torch.nn.Module):
    """Takes its time, so that there is some in which a worker can be killed.

    Large enough for what is quickest to be measured, and slow by work that a fast path does too.
    """

    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(4, 128)
        self.mix = torch.nn.Linear(128, 128)
        self.head = torch.nn.Linear(128, 3)
        self.more = torch.nn.Parameter(torch.zeros(250_000))

    def forward(self, inputs):
        hidden = self.layer(inputs)
        for _ in range(300):
            hidden = torch.tanh(self.mix(hidden))
        return self.head(hidden) + self.more.sum()


def make(directory, model, *shape):
    """A recorded path and its objective."""
    torch.manual_seed(0)
    inputs, targets = torch.randn(40, *shape), torch.randint(3, (40,))
    with Recorder(directory, model) as recorder:
        for _ in range(15):
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter.add_(0.05 * torch.randn_like(parameter))
            recorder.record(1.0)
    return Trajectory(directory), Objective(model, inputs, targets, F.cross_entropy)


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    return make(tmp_path_factory.mktemp("path") / "run", build_network("tiny-cnn", 1, 3), 1, 32, 32)


@pytest.fixture(scope="module")
def slow(tmp_path_factory):
    return make(tmp_path_factory.mktemp("slow") / "run", Slow(), 4)


@pytest.fixture(scope="module")
def plain(recorded):
    return {name: compute_surface(*recorded, name, RESOLUTION) for name in METHODS}


@pytest.fixture(scope="module", params=["threads", "processes", "dask"])
def executor(request):
    if request.param == "threads":
        with ThreadPoolExecutor(3) as pool:
            yield pool
    elif request.param == "processes":
        with LocalProcesses(2) as pool:
            yield pool
    else:
        distributed = pytest.importorskip("distributed")
        with (
            distributed.LocalCluster(2, threads_per_worker=1, dashboard_address=":0") as cluster,
            distributed.Client(cluster) as client,
        ):
            yield client.get_executor()


@pytest.mark.mostly_slow(1)
@pytest.mark.parametrize("method", METHODS)
def test_the_surface_is_that_of_one_process(recorded, plain, executor, method):
    surface = compute_surface(*recorded, method, RESOLUTION, executor=executor)
    np.testing.assert_allclose(surface.loss, plain[method].loss, rtol=1e-5)
    np.testing.assert_array_equal(surface.accuracy, plain[method].accuracy)
    np.testing.assert_array_equal(surface.states.loss, plain[method].states.loss)
    assert surface.evaluated.all()
    assert surface.provenance["key"] == plain[method].provenance["key"]
    assert surface.provenance["evaluation"][0] == "by workers"
    again = compute_surface(*recorded, method, RESOLUTION, executor=executor)
    np.testing.assert_array_equal(again.loss, surface.loss)


@pytest.mark.mostly_slow(1)
def test_it_is_refined_level_by_level(recorded, executor):
    surfaces = list(losspath.refine_surface(*recorded, "averaged", RESOLUTION, executor=executor))
    counts = [int(surface.evaluated.sum()) for surface in surfaces]
    assert counts == sorted(set(counts))
    assert counts[-1] == RESOLUTION**2
    for surface in surfaces:
        np.testing.assert_array_equal(np.isfinite(surface.loss), surface.evaluated)


class Stop(Exception):
    pass


@pytest.mark.mostly_slow(1)
def test_a_stopped_surface_goes_on(recorded, executor, tmp_path):
    options = {"method": "averaged", "resolution": RESOLUTION, "executor": executor}
    whole = compute_surface(*recorded, **options)

    def stop(done, total):
        if done > 60:
            raise Stop

    options["checkpoint"] = tmp_path / "points"
    with pytest.raises(Stop):
        compute_surface(*recorded, progress=stop, **options)
    calls = []
    found = compute_surface(*recorded, progress=lambda *call: calls.append(call), **options)
    assert calls[0][0] > 60
    np.testing.assert_array_equal(found.loss, whole.loss)


@pytest.mark.mostly_slow(1)
def test_an_array_is_a_path_too(recorded, plain, executor):
    path, objective = recorded
    surface = compute_surface(path[:], objective, "sampled", RESOLUTION, executor=executor)
    np.testing.assert_allclose(surface.loss, plain["sampled"].loss, rtol=1e-5)


def test_what_cannot_be_sent_is_refused(slow):
    path, objective = slow
    local = Objective(
        objective.model,
        objective.inputs_of(0, 40),
        torch.randint(3, (40,)),
        lambda outputs, targets: F.cross_entropy(outputs, targets),
    )
    with LocalProcesses(1) as processes, pytest.raises(WorkerError, match="cannot be sent"):
        compute_surface(path, local, "pca", 3, executor=processes)


@pytest.fixture
def submitted(monkeypatch):
    """How often each task was handed to a worker that was thought to have the job."""
    counts = collections.Counter()
    original = workers.WorkerPool._submit

    def submit(self, task, job=None):
        counts[tuple(task.numbers.tolist())] += job is None
        original(self, task, job)

    monkeypatch.setattr(workers.WorkerPool, "_submit", submit)
    return counts


@pytest.mark.slow
def test_a_killed_process_costs_its_points_alone(slow, submitted):
    path, objective = slow
    with LocalProcesses(2) as processes:
        whole = compute_surface(path, objective, "averaged", RESOLUTION, executor=processes)
    assert any("batches of" in note for note in whole.provenance["evaluation"])
    assert set(submitted.values()) == {1}
    submitted.clear()
    killed = []

    def kill(done, total):
        if done > 60 and not killed:
            killed.append(done)
            os.kill(next(iter(processes._pool._processes)), signal.SIGKILL)

    with LocalProcesses(2) as processes, warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always", LosspathWarning)
        found = compute_surface(
            path, objective, "averaged", RESOLUTION, executor=processes, progress=kill
        )
    assert killed
    assert any("computed again" in str(each.message) for each in said)
    assert max(submitted.values()) > 1  # a task was under way, and was begun again
    assert min(submitted.values()) == 1  # and what was done was not
    np.testing.assert_array_equal(found.loss, whole.loss)


@pytest.mark.slow
def test_processes_that_always_die_are_an_error(tmp_path):
    path, objective = make(tmp_path / "run", Deadly(), 4)
    objective.model.armed = True
    options = {"method": "pca", "resolution": 3, "states": 2}
    objective.model.home = os.getpid()
    with LocalProcesses(1) as processes, warnings.catch_warnings():
        warnings.simplefilter("ignore", LosspathWarning)
        with pytest.raises(WorkerError, match="lost"):
            compute_surface(path, objective, executor=processes, **options)


class Deadly(torch.nn.Linear):
    """Ends every process but the one it was made in."""

    armed, home = False, 0

    def __init__(self):
        super().__init__(4, 3)

    def forward(self, inputs):
        if self.armed and os.getpid() != self.home:
            os._exit(1)
        return super().forward(inputs)


@pytest.mark.slow
def test_a_dask_worker_killed_halfway_changes_nothing(slow, monkeypatch):
    monkeypatch.setattr(workers, "_SEPARATE_POINTS", 12)
    distributed = pytest.importorskip("distributed")
    path, objective = slow
    lost = []

    def surface(kill):
        options = {"threads_per_worker": 1, "dashboard_address": ":0"}
        with (
            distributed.LocalCluster(2, **options) as cluster,
            distributed.Client(cluster) as client,
        ):
            pids = client.run(os.getpid)  # of the workers themselves, not of their nannies
            return compute_surface(
                path,
                objective,
                "averaged",
                RESOLUTION,
                executor=client.get_executor(),
                progress=lambda done, total: kill and kill(done, client, pids),
            )

    def kill(done, client, pids):
        if done <= 30 or lost:
            return
        for address, tasks in client.processing().items():
            if tasks and not lost:
                os.kill(pids[address], signal.SIGKILL)
                lost.extend(tasks)

    whole = surface(None)
    assert any("batches of" in note for note in whole.provenance["evaluation"])
    found = surface(kill)
    assert lost
    np.testing.assert_array_equal(found.loss, whole.loss)
    alone = compute_surface(path, objective, "averaged", RESOLUTION)
    np.testing.assert_allclose(found.loss, alone.loss, rtol=1e-5)


class Branching(torch.nn.Module):
    """Looks at values, so that only the plain loop is for it."""

    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(4, 3)

    def forward(self, inputs):
        outputs = self.layer(inputs)
        return outputs if float(outputs.sum()) > 0 else outputs * 2


def test_models_that_cannot_be_recorded_keep_all_workers_at_work(tmp_path, monkeypatch):
    path, objective = make(tmp_path / "run", Branching(), 4)
    monkeypatch.setattr(engine, "_SMALL", 0)
    most = []
    original = workers.WorkerPool._submit

    def submit(self, task, job=None):
        original(self, task, job)
        most.append(len(self._pending))

    monkeypatch.setattr(workers.WorkerPool, "_submit", submit)
    monkeypatch.setattr(workers, "_SEPARATE_POINTS", 8)
    with ThreadPoolExecutor(2) as pool:
        surface = compute_surface(path, objective, "averaged", RESOLUTION, executor=pool)
    assert max(most[len(most) // 2 :]) > 1
    alone = compute_surface(path, objective, "averaged", RESOLUTION)
    np.testing.assert_allclose(surface.loss, alone.loss, rtol=1e-5)


def test_one_task_measures_and_all_others_do_as_it_found(recorded, monkeypatch):
    monkeypatch.setattr(engine, "_SMALL", 0)
    measured = []

    def remembered(key, measure):
        measured.append(key)
        return EngineConfig(batch_size=16, threads=1, first_layer_group=2, group_size=7)

    monkeypatch.setattr(tuning, "remembered", remembered)
    with ThreadPoolExecutor(3) as pool:
        surface = compute_surface(*recorded, "averaged", RESOLUTION, executor=pool)
    assert len(measured) == 1
    assert any("batches of 16" in note for note in surface.provenance["evaluation"])


def test_workers_with_another_trajectory_are_refused(recorded, tmp_path, monkeypatch):
    other, _ = make(tmp_path / "run", build_network("tiny-cnn", 1, 3), 1, 32, 32)
    original = workers._Worker.__init__

    def begin(self, job):
        object.__setattr__(job, "path", other.window(0, 10))
        original(self, job)

    monkeypatch.setattr(workers._Worker, "__init__", begin)
    with ThreadPoolExecutor(1) as pool, pytest.raises(PathError, match="same files"):
        compute_surface(*recorded, "sampled", 5, executor=pool)


@pytest.mark.parametrize("arguments", [(0,), (1, 0)])
def test_numbers_of_processes_and_threads(arguments):
    with pytest.raises(ArgumentError, match="at least 1"):
        LocalProcesses(*arguments)


def test_threads_are_shared_out(monkeypatch):
    monkeypatch.setattr("losspath.evaluation.execution.processes.available_cores", lambda: 8)
    assert [LocalProcesses(count).threads for count in (1, 3, 8, 20)] == [8, 2, 1, 1]
    with LocalProcesses(1, threads=3) as processes:
        assert processes.submit(torch.get_num_threads).result() == 3


HOLD = """
import sys, time
from pathlib import Path

from losspath import LocalProcesses
from losspath.files import acquire_lock


def hold(path):
    lock = acquire_lock(Path(path), "a file")
    Path(path + ".held").touch()
    time.sleep(600)


if __name__ == "__main__":
    with LocalProcesses(1) as processes:
        processes.submit(hold, sys.argv[1]).result()
"""


@pytest.mark.skipif(os.name == "nt", reason="kills a process as POSIX has it")
def test_workers_end_with_a_killed_parent(tmp_path):
    """Else they would go on, and hold the files that a new start needs."""
    script, path = tmp_path / "hold.py", tmp_path / "lock"
    script.write_text(HOLD)
    parent = subprocess.Popen([sys.executable, script, path])
    try:
        held = path.with_name("lock.held")
        for _ in range(1200):
            if held.exists():
                break
            time.sleep(0.1)
        assert held.exists()
        with pytest.raises(filelock.Timeout), filelock.FileLock(path, timeout=0):
            pass
    finally:
        parent.kill()
        parent.wait()
    with filelock.FileLock(path, timeout=60):
        pass
