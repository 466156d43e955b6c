"""Two processes that train one network, under torchrun.

    torchrun --nproc-per-node 2 benchmarks/real_runs_processes.py WRAPPER FOLDER DATA.pt EPOCHS

A way to spread a network over processes is a function in `WRAPPERS`: DDP is there. One that shards
its parameters, as FSDP2 does, needs a function there, a `save` of its own, and a line in
`real_runs.py`.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import torch
import torch.nn.functional as F
from real_runs_images import BATCH, SAMPLES, Data, flipped, resnet
from real_runs_kit import Run, Timing, train_and_time

import losspath

WIDTH = 8


def distributed_data_parallel(model: torch.nn.Module) -> torch.nn.Module:
    return torch.nn.parallel.DistributedDataParallel(model)


WRAPPERS: dict[str, Callable[[torch.nn.Module], torch.nn.Module]] = {
    "ddp": distributed_data_parallel,
}


def two_processes(folder: Path, data: Data, epochs: int, wrapper: str) -> Run:
    """Half of each batch in each of two processes of gloo; rank 0 saves state dicts."""
    kept = folder / "data.pt"
    torch.save(data, kept)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    done = subprocess.run(
        [*command, __file__, wrapper, folder, kept, str(epochs)],
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
    saved = {"torch.save in DDP": (folder / "checkpoint-*.pt", {"key": "model"})}
    return Run(losspath.Trajectory(folder / "run"), objective, timing, saved)


def train(wrapper: str, folder: Path, data: Data, epochs: int) -> None:
    """What each process does."""
    torch.distributed.init_process_group("gloo")
    rank, count = torch.distributed.get_rank(), torch.distributed.get_world_size()
    inputs, targets = (part[rank::count] for part in data)
    torch.manual_seed(0)  # all begin with the same weights
    model = WRAPPERS[wrapper](resnet(inputs.shape[1], WIDTH))
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
        if rank == 0:
            content = {"model": model.state_dict(), "step": number}
            torch.save(content, folder / f"checkpoint-{number}.pt")

    timing = train_and_time(folder, {"run": model}, step, steps, save, 50)
    if rank == 0:
        (folder / "timing.json").write_text(json.dumps(asdict(timing)))
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    torch.set_num_threads(1)
    train(sys.argv[1], Path(sys.argv[2]), torch.load(sys.argv[3]), int(sys.argv[4]))
