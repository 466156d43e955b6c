"""Two processes that record models of which each has a part: every scenario of test_sharded.

Called as ``python sharded.py RANK DIRECTORY``, once for each rank; what came of a scenario is
written into the directory, for each rank.
"""

import gc
import json
import os
import sys
import traceback
import warnings
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, Partial, distribute_tensor
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    RowwiseParallel,
    parallelize_module,
)

import losspath.recording.recorder
from losspath import LosspathError, LosspathWarning, Pairs, Recorder, Trajectory
from losspath.recording import session, together, writing

COUNT = 2
SCENARIOS = {}


def scenario(function):
    SCENARIOS[function.__name__] = function
    return function


class Network(torch.nn.Module):
    """Uneven, tiny, tied and frozen parameters, buffers, and a number that is annealed."""

    def __init__(self, has_statistics=True):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.ones(1))
        self.first = torch.nn.Linear(6, 5)
        self.norm = torch.nn.BatchNorm1d(5) if has_statistics else torch.nn.Identity()
        self.second = torch.nn.Linear(5, 5, bias=False)
        self.third = torch.nn.Linear(5, 5, bias=False)
        self.third.weight = self.second.weight
        self.last = torch.nn.Linear(5, 3).requires_grad_(False)
        self.warmth = 0.5

    def forward(self, x):
        x = torch.tanh(self.second(self.norm(self.first(x))))
        return self.last(self.third(x) * self.scale * self.warmth)


def network(has_statistics=True):
    torch.manual_seed(0)
    return Network(has_statistics)


def shard(model, **options):
    mesh = init_device_mesh("cpu", (COUNT,))
    for child in (model.first, model):
        fully_shard(child, mesh=mesh, **options)
    return model


class Training:
    """A sharded network in training, of which every state is known."""

    def __init__(self, model=None, rank=None):
        self.model = shard(network()) if model is None else model
        self.trained = [p for p in self.model.parameters() if p.requires_grad]
        self.optimizer = torch.optim.SGD(self.trained, 0.1, momentum=0.5)
        rank = dist.get_rank() if rank is None else rank
        self.inputs = torch.randn(8, 6, generator=torch.Generator().manual_seed(rank))
        self.states = [self.state()]

    def state(self):
        whole = [p.full_tensor() for p in self.trained]
        return torch.cat([each.detach().float().reshape(-1) for each in whole]).tolist()

    def step(self):
        loss = self.model(self.inputs).square().mean()
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        self.states.append(self.state())
        return loss

    def record(self, recorder, steps):
        for _ in range(steps):
            recorder.record(self.step())


def told(function):
    """What a call raised."""
    try:
        function()
    except LosspathError as error:
        return f"{type(error).__name__}: {error}"
    return ""


def states_of(training):
    return {"states": training.states}


@scenario
def every_step(directory):
    training = Training()
    with Recorder(directory / "run", training.model) as recorder:
        for _ in range(4):
            recorder.record(training.step(), lr=0.1)
            training.model.warmth *= 0.5
    return {**states_of(training), "steps": recorder.steps, "unchanged": recorder.unchanged_steps}


@scenario
def every_third_step(directory):
    """An evaluation before and after leaves whole parameters of 16 bits in the model."""
    policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16)
    training = Training(shard(network(has_statistics=False), mp_policy=policy))
    kinds = []

    def evaluate():
        with torch.no_grad():
            training.model(training.inputs)
        kinds.append(sorted({type(p.data).__name__ for p in training.model.parameters()}))

    evaluate()
    with Recorder(directory / "run", training.model, every=3) as recorder:
        training.record(recorder, 7)
        evaluate()
    return {**states_of(training), "kinds": kinds}


@scenario
def schedules(directory):
    conditions = {
        "condition": lambda step, loss: dist.get_rank() == 1 or step in (2, 5),
        "pairs": Pairs(4),
    }
    trainings = {name: Training() for name in conditions}
    for name, schedule in conditions.items():
        with Recorder(directory / name, trainings[name].model, schedule=schedule) as recorder:
            trainings[name].record(recorder, 6)
    return {name: training.states for name, training in trainings.items()}


@scenario
def a_raising_condition(directory):
    training = Training()

    def condition(step, loss):
        if step == 2:
            raise ValueError("no such step")
        return True

    recorder = Recorder(directory / "run", training.model, schedule=condition)
    training.record(recorder, 1)
    if dist.get_rank() == 0:
        try:
            recorder.record(training.step())
        except ValueError as error:
            found = f"ValueError: {error}"
    else:
        loss = training.step()
        found = told(lambda: recorder.record(loss))
    recorder.record(training.step(), step=3)
    recorder.close()
    return {"told": found, **states_of(training)}


@scenario
def forms(directory):
    """Rows of bfloat16, sketches, rows in pieces, and all parameters."""
    training = Training()
    found = {}
    for name, options in {
        "bfloat16": {"dtype": "bfloat16"},
        "sketch": {"sketch": 3},
        "all": {"parameters": "all"},
        "part": {"parameters": ["first.*"]},
        "pieces": {"every": 2},
    }.items():
        kept = losspath.recording.recorder._BUFFER_BYTES
        if name == "pieces":
            losspath.recording.recorder._BUFFER_BYTES = 64
        with Recorder(directory / name, training.model, **options) as recorder:
            first = len(training.states) - 1
            training.record(recorder, 3)
        losspath.recording.recorder._BUFFER_BYTES = kept
        found[name] = training.states[first:]
    return found


@scenario
def by_the_clock(directory):
    kept = session._KEEP_SECONDS, session._KEEP_SHARE
    session._KEEP_SECONDS = session._KEEP_SHARE = 0
    training = Training()
    recorder = Recorder(directory / "run", training.model, every=100)
    training.record(recorder, 3)
    recorder._session.leave()  # as at the end of a process that closes nothing
    recorder.close()
    session._KEEP_SECONDS, session._KEEP_SHARE = kept
    return states_of(training)


@scenario
def flushed(directory):
    training = Training()
    recorder = Recorder(directory / "run", training.model, every=100)
    training.record(recorder, 3)
    recorder.flush()
    dist.barrier()
    steps = Trajectory(directory / "run").steps.tolist()
    dist.barrier()
    training.record(recorder, 1)
    recorder.close()
    recorder.close()
    return {"flushed": steps, **states_of(training)}


@scenario
def resumed(directory):
    run, training = directory / "run", Training()
    with Recorder(run, training.model, every=2) as recorder:
        training.record(recorder, 3)
    found = {"exists": told(lambda: Recorder(run, training.model, every=2))}
    with Recorder(run, training.model, every=2, existing="resume") as recorder:
        found["step"] = recorder.steps
        training.record(recorder, 3)
    again = {"every": 2, "existing": "resume"}
    training.step()
    found["other"] = told(lambda: Recorder(run, training.model, **again))
    found["load"] = told(lambda: Trajectory(run).load_into(training.model, -1))
    plain = network()  # as in a new process
    Trajectory(run).load_into(plain, -1, buffers=True)
    dist.barrier()
    new = Training(shard(plain))
    with Recorder(run, new.model, **again) as recorder:
        new.record(recorder, 2)
    return {**found, "states": training.states[:-2] + new.states}


@scenario
def arguments(directory):
    """What one process is given wrong, all refuse; and all go on."""
    rank, training = dist.get_rank(), Training()
    with Recorder(directory / "run", training.model) as recorder:
        training.record(recorder, 1)
        found = [
            told(lambda: recorder.record(1.0 if rank == 0 else None)),
            told(lambda: recorder.record("much" if rank == 0 else 1.0)),
            told(lambda: recorder.record(1.0, step=1)),
            told(lambda: recorder.record(1.0, step=7 + rank)),
            told(lambda: recorder.record(1.0, step=None if rank else 2)),
            told(lambda: recorder.flush() if rank else recorder.record(1.0)),
        ]
        training.record(recorder, 1)
    found.append(told(lambda: recorder.record(1.0)))
    return {"told": found, **states_of(training)}


@scenario
def changed_models(directory):
    training = Training()
    recorder = Recorder(directory / "run", training.model)
    training.record(recorder, 1)
    first = training.model.first
    if dist.get_rank() == 1:
        kept = first.bias
        del first.bias
        first.register_parameter("bias", None)
    found = [told(lambda: recorder.record(1.0))]
    if dist.get_rank() == 1:
        first.bias = kept
        training.model.register_buffer("late", torch.ones(2))
    found.append(told(lambda: recorder.record(1.0)))
    return {"told": found}  # it is closed as nobody has it any more, which waits for nobody


@scenario
def a_full_disk(directory):
    """The first process alone meets it: at `flush`, then at `record`, and all are told."""
    training = Training()
    recorder = Recorder(directory / "run", training.model)
    training.record(recorder, 2)
    recorder.flush()
    write = writing.Files.write

    def refused(*arguments):
        raise OSError(28, "No space left on device")

    writing.Files.write = refused
    training.record(recorder, 1)
    failing = [recorder.flush, lambda: recorder.record(1.0), recorder.flush, recorder.close]
    found = [told(call) for call in failing]
    assert told(lambda: recorder.record(1.0))  # without a word to the other, which may not ask
    writing.Files.write = write
    recorder.close()
    return {"told": found, **states_of(training)}


@scenario
def interrupts(directory):
    training = Training()
    recorder = Recorder(directory / "run", training.model)
    training.record(recorder, 1)
    state = recorder._session._state
    taken = state._parts.gather

    def interrupted(first, last):
        found = taken(first, last)
        if dist.get_rank() == 0:
            raise KeyboardInterrupt
        return found

    state._parts.gather = interrupted
    loss = training.step()
    try:
        recorder.record(loss)
    except KeyboardInterrupt:
        found = "interrupted"
    except LosspathError as error:
        found = str(error)
    state._parts.gather = taken
    recorder.record(loss)
    recorder.close()
    return {"told": found, **states_of(training)}


@scenario
def forgotten(directory):
    """The first process has its recorder no more, and the other is elsewhere."""

    def trained():
        training = Training()
        recorder = Recorder(directory / "run", training.model, every=10)
        training.record(recorder, 2)
        dist.barrier()
        return training if dist.get_rank() == 0 else (training, recorder)

    held = trained()
    gc.collect()
    dist.barrier()
    return states_of(held if dist.get_rank() == 0 else held[0])


@scenario
def one_that_does_not_come(directory):
    kept, together.TIMEOUT = together.TIMEOUT, timedelta(seconds=1)
    together._groups.clear()
    training = Training()
    recorder = Recorder(directory / "run", training.model)
    training.record(recorder, 1)
    loss = training.step()
    found = told(lambda: recorder.record(loss)) if dist.get_rank() == 0 else None
    dist.barrier()
    found = found, told(recorder.close)
    together._groups.clear()
    together.TIMEOUT = kept
    return {"told": found, **states_of(training)}


@scenario
def errors_of_the_loop(directory):
    """One process leaves its loop by an error: nothing is gathered any more."""
    training = Training()
    try:
        with Recorder(directory / "run", training.model, every=10) as recorder:
            training.record(recorder, 3)
            raise ZeroDivisionError
    except ZeroDivisionError:
        dist.barrier()
    return states_of(training)


@scenario
def late_changes(directory):
    """After the last step, all numbers are changed in a way that torch does not count."""
    training = Training()
    recorder = Recorder(directory / "run", training.model, every=10)
    training.record(recorder, 2)
    for parameter in training.trained:
        parameter.data.mul_(2)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        recorder.close()
    return {"warned": [str(each.message) for each in caught], **states_of(training)}


@scenario
def frozen_ones_that_change(directory):
    """Rows that the other process has: only torch's count tells the first one of it."""
    training = Training()
    frozen = [training.model.last.weight.full_tensor().tolist()]
    with Recorder(directory / "run", training.model) as recorder:
        training.record(recorder, 2)
        with torch.no_grad():
            own = training.model.last.weight
            change = torch.zeros(3, 5)
            change[2] = 1
            own.add_(distribute_tensor(change, own.device_mesh, own.placements))
        frozen.append(own.full_tensor().tolist())
        training.record(recorder, 1)
    return {"frozen": frozen, **states_of(training)}


@scenario
def checkpoints(directory):
    """What `torch.distributed.checkpoint` saves of the same steps."""
    training = Training()
    with Recorder(directory / "run", training.model) as recorder:
        for step in range(3):
            if step:
                recorder.record(training.step())
            weights = {"model": training.model.state_dict()}
            dcp.save(weights, checkpoint_id=directory / f"step_{step}")
    return states_of(training)


@scenario
def tensor_parallel(directory):
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(6, 8), torch.nn.Tanh(), torch.nn.Linear(8, 3))
    mesh = init_device_mesh("cpu", (COUNT,))
    plan = {"0": ColwiseParallel(), "2": RowwiseParallel()}
    training = Training(parallelize_module(model, mesh, plan), rank=0)
    with Recorder(directory / "run", training.model) as recorder:
        training.record(recorder, 2)
    return states_of(training)


@scenario
def sums(directory):
    """A parameter of which each process has a summand, beside one that all have whole."""
    mesh = init_device_mesh("cpu", (COUNT,))
    model = torch.nn.Module()
    local = torch.full((3,), 1.0 + dist.get_rank())
    model.summed = torch.nn.Parameter(DTensor.from_local(local, mesh, [Partial()], run_check=False))
    model.plain = torch.nn.Parameter(torch.ones(2))
    with Recorder(directory / "run", model) as recorder:
        recorder.record(DTensor.from_local(local[0], mesh, [Partial()], run_check=False))
    return {}


@scenario
def two_recorders(directory):
    training = Training()
    with (
        Recorder(directory / "states", training.model, every=2) as states,
        Recorder(directory / "sketches", training.model, sketch=3) as sketches,
    ):
        for _ in range(3):
            loss = training.step()
            states.record(loss)
            sketches.record(loss)
    return states_of(training)


@scenario
def zz_a_process_that_ends(directory):
    """The last one, as the other process is gone then."""
    training = Training()
    recorder = Recorder(directory / "run", training.model)
    training.record(recorder, 2)
    dist.barrier()
    if dist.get_rank() == 1:
        os._exit(0)
    found = told(lambda: recorder.record(1.0)), told(recorder.close)
    return {"told": found, "closed": recorder._session._session.is_closed, **states_of(training)}


def main(rank, base, names):
    torch.set_num_threads(1)
    method = f"file://{base}/rendezvous"
    dist.init_process_group("gloo", init_method=method, rank=rank, world_size=COUNT)
    for name in names or sorted(SCENARIOS):
        directory = base / name
        directory.mkdir(exist_ok=True)
        with warnings.catch_warnings():
            warnings.simplefilter("error", LosspathWarning)
            try:
                found = SCENARIOS[name](directory)
            except Exception:
                found = {"failed": traceback.format_exc()}
        (directory / f"found-{rank}.json").write_text(json.dumps(found))
    if "zz_a_process_that_ends" not in (names or SCENARIOS):
        dist.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:])
