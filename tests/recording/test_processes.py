"""Several processes that train one model: the first records, and the others do nothing."""

import json
import subprocess
import sys
import warnings

import numpy as np
import pytest
import torch
from walks import advance, network

from losspath import Recorder, Trajectory, import_checkpoints
from losspath.errors import ArgumentError, ExistsError, LosspathWarning, ModelError, StoreError
from losspath.recording import processes


class DistributedDataParallel(torch.nn.Module):
    """Called like torch's, which needs a process group."""

    def __init__(self, module):
        super().__init__()
        self.module = module

    def forward(self, x):
        return self.module(x)


@pytest.fixture
def second(monkeypatch):
    monkeypatch.setattr("losspath.recording.recorder.rank_of_process", lambda: 1)


def test_another_process_than_the_first_counts_and_writes_nothing(tmp_path, second):
    model = DistributedDataParallel(network())
    with Recorder(tmp_path / "run", model) as recorder:
        for step in range(3):
            recorder.record(float(step), norm=torch.tensor(1.0))
        recorder.record(torch.tensor(3.0), step=7)
        assert (recorder.steps, recorder.unchanged_steps, recorder.cost.steps) == (7, 0, 4)
        with pytest.raises(ArgumentError, match="expected a step after the last one, 7, got 7"):
            recorder.record(1.0, step=7)
        with pytest.raises(ArgumentError, match="the loss as"):
            recorder.record("much")
        recorder.flush()
    with pytest.raises(StoreError, match="the recorder is closed"):
        recorder.record(1.0)
    assert not (tmp_path / "run").exists()


def test_it_refuses_what_the_first_refuses(tmp_path, second):
    with pytest.raises(ModelError, match="float64"):
        Recorder(tmp_path / "run", DistributedDataParallel(network().double()))


def test_it_is_told_where_nothing_says_that_models_are_the_same(tmp_path, second):
    with pytest.warns(LosspathWarning, match=r"records nothing.*each") as told:
        Recorder(tmp_path / "run", network())
    assert told[0].filename == __file__
    assert not (tmp_path / "run").exists()


def test_each_process_records_where_it_is_asked_to(tmp_path, second):
    with Recorder(tmp_path / "run", network(), processes="each") as recorder:
        recorder.record(1.0)
    assert len(Trajectory(tmp_path / "run")) == 2


def test_going_on_it_is_at_the_step_of_the_run(tmp_path, monkeypatch):
    model = network()
    with Recorder(tmp_path / "run", model, every=4) as recorder:
        for step in range(6):
            advance(model, step)
            recorder.record(float(step))
    monkeypatch.setattr("losspath.recording.recorder.rank_of_process", lambda: 1)
    wrapped = DistributedDataParallel(model)
    assert Recorder(tmp_path / "run", wrapped, every=4, existing="resume").steps == 6
    assert Recorder(tmp_path / "run", wrapped, every=4, existing="resume", step=4).steps == 4
    assert Recorder(tmp_path / "none", wrapped, existing="resume").steps == 0


@pytest.mark.parametrize(
    ("environment", "rank"),
    [({}, 0), ({"RANK": "3"}, 0), ({"RANK": "3", "TORCHELASTIC_RUN_ID": "none"}, 3)],
)
def test_ranks_are_torchruns_before_there_is_a_group(monkeypatch, environment, rank):
    for name in ("RANK", "TORCHELASTIC_RUN_ID"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert processes.rank_of_process() == rank


def test_a_part_of_a_model_is_refused(tmp_path):
    kind = type(
        "FullyShardedDataParallel", (torch.nn.Module,), {"__module__": "torch.distributed.fsdp"}
    )
    sharded = kind()
    sharded._fsdp_wrapped_module = network()
    with pytest.raises(ModelError, match=r"FullyShardedDataParallel.*`losspath import`"):
        Recorder(tmp_path / "run", torch.nn.Sequential(sharded))
    assert not (tmp_path / "run").exists()


SCRIPT = """
import json, os, sys, warnings
import torch
import losspath

warnings.simplefilter("error", losspath.LosspathWarning)
run, until, stop = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
torch.distributed.init_process_group("gloo")
rank = torch.distributed.get_rank()
torch.manual_seed(0)
network = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4), torch.nn.Linear(4, 2))
path, begun = None, os.path.exists(run)
if begun:
    path = losspath.Trajectory(run)
    path.load_into(network, -1, buffers=True)
torch.distributed.barrier()
model = torch.nn.parallel.DistributedDataParallel(network)
optimizer = torch.optim.SGD(model.parameters(), 0.1)
x = torch.randn(16, 3, generator=torch.Generator().manual_seed(1))
y = torch.arange(16) % 2
own = slice(8 * rank, 8 * rank + 8)
with losspath.Recorder(run, model, existing="resume" if begun else "error") as recorder:
    states = [torch.nn.utils.parameters_to_vector(network.parameters()).tolist()]
    while recorder.steps < until:
        loss = torch.nn.functional.cross_entropy(model(x[own]), y[own])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        mean = loss.detach().clone()
        torch.distributed.all_reduce(mean)
        recorder.record(mean / 2, own=loss)
        if rank == 0:
            torch.save({"model": model.state_dict()}, f"{run}-step{recorder.steps}.pt")
        states.append(torch.nn.utils.parameters_to_vector(network.parameters()).tolist())
        if recorder.steps == stop:
            recorder.flush()
            torch.distributed.barrier()
            os._exit(3)
    json.dump([recorder.steps, states], open(f"{run}-{rank}.json", "w"))
torch.distributed.destroy_process_group()
os._exit(0)  # gloo's threads may abort Python's own end
"""


def torchrun(script, *arguments):
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    command += ["--master-port", "0", "--standalone", str(script), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)


@pytest.mark.slow
def test_under_torchrun_the_first_process_records_what_all_train(tmp_path):
    script = tmp_path / "train.py"
    script.write_text(SCRIPT)
    done = torchrun(script, tmp_path / "run", 6, -1)
    assert done.returncode == 0, done.stderr
    found = [json.loads((tmp_path / f"run-{rank}.json").read_text()) for rank in (0, 1)]
    assert found[0] == found[1]
    steps, states = found[0]
    path = Trajectory(tmp_path / "run")
    assert (steps, path.closed, path.notes) == (6, True, [])
    np.testing.assert_array_equal(path[:], np.array(states, np.float32))
    assert path.layout.parameters[0].name == "0.weight"
    assert np.all(path.values["own"][1] != path.all_losses)
    # What the first process saves, with the wrapper's names, imported.
    model = torch.nn.Sequential(
        torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4), torch.nn.Linear(4, 2)
    )
    saved = import_checkpoints(tmp_path / "run-step*.pt", tmp_path / "imported", model=model)
    assert saved.layout == path.layout
    np.testing.assert_array_equal(saved[:], path[1:])
    for index in range(len(saved)):
        kept = path.buffers(index + 1)
        assert saved.buffers(index).keys() == kept.keys()
        for name, value in saved.buffers(index).items():
            assert value.tobytes() == kept[name].tobytes()
    # Stopped hard and begun again, it comes to the same.
    done = torchrun(script, tmp_path / "again", 6, 4)
    assert done.returncode != 0
    assert Trajectory(tmp_path / "again").steps.tolist() == [0, 1, 2, 3, 4]
    done = torchrun(script, tmp_path / "again", 6, -1)
    assert done.returncode == 0, done.stderr
    again = Trajectory(tmp_path / "again")
    np.testing.assert_array_equal(again.steps, path.steps)
    np.testing.assert_array_equal(again[:5], path[:5])
    np.testing.assert_allclose(again[5:], path[5:], rtol=1e-5)


@pytest.mark.slow
def test_under_torchrun_each_process_may_record_a_model_of_its_own(tmp_path):
    script = tmp_path / "train.py"
    script.write_text(
        "import sys, torch, losspath\n"
        "torch.distributed.init_process_group('gloo')\n"
        "rank = torch.distributed.get_rank()\n"
        "model = torch.nn.Linear(2, 1)\n"
        "with losspath.Recorder(f'{sys.argv[1]}-{rank}', model, processes='each') as recorder:\n"
        "    for _ in range(3 + rank):\n"
        "        recorder.record(float(rank))\n"
    )
    done = torchrun(script, tmp_path / "run")
    assert done.returncode == 0, done.stderr
    for rank in (0, 1):
        assert Trajectory(tmp_path / f"run-{rank}").all_losses.tolist() == [rank] * (3 + rank)


def test_accelerate_adds_nothing_to_names(tmp_path):
    accelerate = pytest.importorskip("accelerate")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        accelerator = accelerate.Accelerator(cpu=True)
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    model, optimizer = accelerator.prepare(model, optimizer)
    with Recorder(tmp_path / "run", model) as recorder:
        loss = model(torch.randn(8, 2)).square().mean()
        accelerator.backward(loss)
        optimizer.step()
        recorder.record(loss)
    path = Trajectory(tmp_path / "run")
    assert [e.name for e in path.layout.parameters][:2] == ["0.weight", "0.bias"]
    assert not np.array_equal(path[0], path[1])


def test_on_another_rank_what_is_there_is_not_looked_at(tmp_path, second):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "file").write_text("x")
    Recorder(tmp_path / "run", DistributedDataParallel(network())).close()
    with pytest.raises(ExistsError):
        Recorder(tmp_path / "run", network(), processes="each")
