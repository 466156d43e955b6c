"""Trainings that go on from a state of a run with other batches."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from losspath.errors import ArgumentError
from losspath.parameters import flatten_parameters
from losspath.recording.paths import ArrayPath
from losspath.recording.trajectory import Trajectory
from losspath.thesis.checkpoints import Checkpoint, checkpoint_before
from losspath.thesis.config import TrainingConfig
from losspath.thesis.datasets import Dataset
from losspath.thesis.networks import build_network
from losspath.thesis.schedules import Schedule, make_schedule
from losspath.thesis.training import batches_of, make_optimizer

# Where a fork begins, and how long it is, as parts of the run.
_BEGINS, _LENGTHS = (0.02, 0.97), (0.01, 0.03)
LEAST_STEPS = round(1 / _LENGTHS[0])
"""Of a run that can be forked: the shortest fork has a step."""

_STATES = 6  # of a fork: where it begins, and some on its way

OnStep = Callable[[int, int], object]


def forks_of(
    directory: Path,
    config: TrainingConfig,
    dataset: Dataset,
    count: int,
    seed: int,
    on_step: OnStep | None = None,
) -> list[ArrayPath]:
    """Forks of a run that `train` made: it is trained again up to each, and goes on otherwise.

    The optimiser's state is none of what is recorded, so it is made again, from the checkpoint
    before where there is one. Parameters are the recorded ones.

    Args:
        directory: the run.
        config: how it was trained.
        dataset: its data.
        count: how many forks.
        seed: of the choice of states, and of the batches.
        on_step: called with (steps taken, steps in all).

    Returns:
        Paths of six states each, of which the first is the run's own.

    Raises:
        ArgumentError: the run is too short.
    """
    path = Trajectory(directory)
    total = int(path.steps[-1])
    generator = np.random.default_rng(seed)
    low, high = (int(part * total) for part in _BEGINS)
    usable = np.flatnonzero((path.steps >= low) & (path.steps <= high))
    if len(usable) < count or total < LEAST_STEPS:
        raise ArgumentError(
            f"expected a run of {LEAST_STEPS} steps or more, with {count} states to fork from, got "
            f"{total} steps and {len(usable)} states; ask for no forks"
        )
    chosen = np.sort(generator.choice(usable, count, replace=False)).tolist()
    lengths = (generator.uniform(*_LENGTHS, count) * total).round().astype(int)
    told = _Told(int(path.steps[chosen[-1]]) + int(lengths.sum()), on_step)
    replay, found = _Replay(directory, config, dataset, told), []
    for number, index in enumerate(chosen):
        replay.go_to(int(path.steps[index]))
        path.load_into(replay.model, index)
        found.append(replay.fork(max(int(lengths[number]), _STATES - 1), [seed, number]))
    return found


class _Told:
    """Says how many steps are done."""

    def __init__(self, total: int, on_step: OnStep | None) -> None:
        self.done, self.total, self._on_step = 0, total, on_step

    def step(self, count: int = 1) -> None:
        self.done += count
        if self._on_step:
            self._on_step(self.done, max(self.total, self.done))


class _Replay:
    """A run's training, made again from its checkpoints or from the beginning."""

    def __init__(
        self, directory: Path, config: TrainingConfig, dataset: Dataset, told: _Told
    ) -> None:
        self.config, self._directory, self._told = config, directory, told
        self.batches = batches_of(config, dataset)
        self.schedule: Schedule = make_schedule(config, self.batches)
        self.inputs, self.targets = dataset.train_inputs, dataset.train_targets
        self.model = build_network(
            config.network, dataset.channels, len(dataset.classes), config.dropout, config.seed
        )
        self.optimizer = make_optimizer(config, self.model)
        self.shuffle = torch.Generator().manual_seed(config.seed)
        self.noise = torch.Generator().manual_seed(config.seed).get_state()
        self.step, self._order = 0, torch.empty(0, dtype=torch.int64)

    def go_to(self, step: int) -> None:
        """Trains up to a step, which lies ahead."""
        found = checkpoint_before(self._directory, step)
        if found is not None and found.step > self.step:
            self._restore(found)
        with torch.random.fork_rng(devices=[]):
            torch.set_rng_state(self.noise)
            while self.step < step:
                at = self.step % self.batches
                if at == 0 or not len(self._order):
                    self._order = torch.randperm(len(self.targets), generator=self.shuffle)
                self._take(self.model, self.optimizer, self._order, at, self.step)
                self.step += 1
            self.noise = torch.get_rng_state()

    def _restore(self, found: Checkpoint) -> None:
        self.model.load_state_dict(found.model)
        self.optimizer.load_state_dict(found.optimizer)
        self.shuffle.set_state(found.generators["shuffle"])
        self.noise = found.generators["noise"]
        self._told.step(found.step - self.step)
        self.step, self._order = found.step, torch.empty(0, dtype=torch.int64)

    def fork(self, length: int, seeds: list[int]) -> ArrayPath:
        """Goes on for some steps with batches of its own; the replay stays where it is."""
        model = copy.deepcopy(self.model)
        optimizer = make_optimizer(self.config, model)
        optimizer.load_state_dict(copy.deepcopy(self.optimizer.state_dict()))
        seed = int(np.random.default_rng(seeds).integers(2**62))
        generator = torch.Generator().manual_seed(seed)
        keep = {*np.linspace(0, length, _STATES).round().astype(int).tolist()}
        states = [flatten_parameters(model).copy()]
        order = torch.randperm(len(self.targets), generator=generator)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            for done in range(1, length + 1):
                at = (done - 1) % self.batches
                if at == 0 and done > 1:
                    order = torch.randperm(len(self.targets), generator=generator)
                self._take(model, optimizer, order, at, self.step + done - 1)
                if done in keep:
                    states.append(flatten_parameters(model).copy())
        return ArrayPath(np.stack(states))

    def _take(
        self,
        model: torch.nn.Module,
        optimizer: torch.optim.Optimizer,
        order: torch.Tensor,
        batch: int,
        step: int,
    ) -> None:
        """One step of training, as `train` takes it."""
        size = self.config.batch_size
        chosen = order[batch * size : (batch + 1) * size]
        model.train()
        loss = F.cross_entropy(model(self.inputs[chosen]), self.targets[chosen])
        for group in optimizer.param_groups:
            group["lr"] = self.schedule.rate(step)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        self._told.step()
