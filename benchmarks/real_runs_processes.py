"""Two processes that train one network, under torchrun.

    torchrun --nproc-per-node 2 benchmarks/real_runs_processes.py WRAPPER FOLDER DATA.pt EPOCHS KEPT

A way to spread a network over processes is a `Wrapper` in `WRAPPERS`, and a line in `real_runs.py`.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from real_runs_images import BATCH, SAMPLES, Block, Data, flipped, resnet
from real_runs_kit import Run, Timing, train_and_time
from torch import nn
from torch.distributed import checkpoint
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

import losspath

WIDTH = 8


@dataclass(frozen=True)
class Wrapper:
    """A way to spread a network over processes.

    Attributes:
        wrap: makes of a network what is trained.
        save: saves it into a path without a suffix; all processes call it.
        saved: what the checkpoints are called, and what they are found by.
    """

    wrap: Callable[[nn.Module], nn.Module]
    save: Callable[[nn.Module, Path], None]
    saved: tuple[str, str]


def save_in_one(model: nn.Module, place: Path) -> None:
    """The state dict, by rank 0."""
    if torch.distributed.get_rank() == 0:
        torch.save({"model": model.state_dict()}, place.with_suffix(".pt"))


def shard(model: nn.Module) -> nn.Module:
    """FSDP2: each block of its own, and then what is left; half of each parameter in a process."""
    mesh = init_device_mesh("cpu", (torch.distributed.get_world_size(),))
    for block in model.children():
        if isinstance(block, Block):
            fully_shard(block, mesh=mesh)
    return fully_shard(model, mesh=mesh)


def save_in_parts(model: nn.Module, place: Path) -> None:
    """A folder with a file of each process; running statistics differ, and are rank 0's."""
    planner = checkpoint.DefaultSavePlanner(dedup_save_to_lowest_rank=True)
    checkpoint.save({"model": model.state_dict()}, checkpoint_id=place, planner=planner)


WRAPPERS = {
    "ddp": Wrapper(
        nn.parallel.DistributedDataParallel, save_in_one, ("torch.save in DDP", "checkpoint-*.pt")
    ),
    "fsdp2": Wrapper(
        shard, save_in_parts, ("torch.distributed.checkpoint of FSDP2", "checkpoint-*")
    ),
}


def two_processes(folder: Path, data: Data, epochs: int, wrapper: str, kept: int = 1) -> Run:
    """Half of each batch in each of two processes of gloo; every so many states are kept."""
    samples = folder / "data.pt"
    torch.save(data, samples)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    done = subprocess.run(
        [*command, __file__, wrapper, folder, samples, str(epochs), str(kept)],
        check=False,
        capture_output=True,
        text=True,
    )
    if done.returncode != 0:
        raise SystemExit(done.stderr)
    timing = Timing(**json.loads((folder / "timing.json").read_text()))
    inputs, targets = data
    model = resnet(inputs.shape[1], WIDTH)
    objective = losspath.Objective(model, inputs[:SAMPLES], targets[:SAMPLES], F.cross_entropy)
    what, places = WRAPPERS[wrapper].saved
    saved = {what: (folder / places, {"key": "model"})}
    return Run(losspath.Trajectory(folder / "run"), objective, timing, saved)


def train(wrapper: str, folder: Path, data: Data, epochs: int, kept: int) -> None:
    """What each process does."""
    torch.distributed.init_process_group("gloo")
    rank, count = torch.distributed.get_rank(), torch.distributed.get_world_size()
    inputs, targets = (part[rank::count] for part in data)
    torch.manual_seed(0)  # all begin with the same weights
    model = WRAPPERS[wrapper].wrap(resnet(inputs.shape[1], WIDTH))
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9, weight_decay=5e-4)
    steps = epochs * (len(inputs) // (BATCH // count))
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    torch.manual_seed(rank)

    def step() -> list[torch.Tensor]:
        chosen = torch.randint(len(inputs), (BATCH // count,))
        loss = F.cross_entropy(model(flipped(inputs[chosen])), targets[chosen])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        mean = loss.detach().clone()
        torch.distributed.all_reduce(mean)
        return [mean / count]

    def save(number: int) -> None:
        WRAPPERS[wrapper].save(model, folder / f"checkpoint-{number}")

    timing = train_and_time(folder, {"run": model}, step, steps, save, 50, kept)
    if rank == 0:
        (folder / "timing.json").write_text(json.dumps(asdict(timing)))
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    torch.set_num_threads(1)
    _, chosen, place, samples, *numbers = sys.argv
    train(chosen, Path(place), torch.load(samples), *map(int, numbers))
