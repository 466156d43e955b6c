"""Training the reference networks: deterministic, recorded, and exact to resume."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from losspath.errors import ArgumentError, RunError
from losspath.files import only_writer, write_document
from losspath.parameters import flatten_parameters
from losspath.recording import store
from losspath.recording.recorder import Recorder
from losspath.thesis.checkpoints import (
    Checkpoint,
    load_latest_checkpoint,
    none_is_missing,
    save_checkpoint,
)
from losspath.thesis.config import TrainingConfig
from losspath.thesis.datasets import Dataset
from losspath.thesis.networks import build_network
from losspath.thesis.objectives import classification_objective
from losspath.thesis.records import HISTORY, Row, recorded_device, training_identity
from losspath.thesis.schedules import Schedule, make_schedule

CHECKPOINT_SECONDS = 60.0  # what a kill can cost of a long epoch


@dataclass
class _Loop:
    """Where a training stands."""

    epoch: int  # epochs finished
    batch: int  # batches done in the epoch that is under way
    step: int
    seconds: float  # spent on that epoch's batches
    history: list[Row]


@dataclass(frozen=True)
class Trained:
    """What `train` returns: the history, and whether there was anything left to do."""

    directory: Path
    history: list[Row]
    resumed_at: int
    was_done: bool


def train(
    config: TrainingConfig,
    dataset: Dataset,
    directory: str | Path,
    epochs: int,
    *,
    data_dir: str | None = None,
    device: str = "cpu",
    checkpoint_seconds: float | None = None,
    on_step: Callable[[int, int], None] | None = None,
    on_epoch: Callable[[Row], None] | None = None,
) -> Trained:
    """Trains a reference network and records every step, or goes on where a run was stopped.

    The same configuration and seed give the same path, byte for byte, on one machine with one
    thread count and version of torch; also when the run is killed at any moment and started again.
    It goes on from its newest checkpoint, and what was recorded since is made again. Where that
    checkpoint was lost, what comes after an older one is put into ``aside-<n>`` in the run first.
    States that were lost before the checkpoint stay lost.

    Args:
        config: what the run depends on.
        dataset: the data that `config.data` names.
        directory: the run; made if it does not exist.
        epochs: how many epochs in all; may grow in a later call.
        data_dir: where the data came from, kept with the run so that later commands find them.
        device: "cpu" or "cuda"; a run goes on exactly on the device that it began on.
        checkpoint_seconds: the longest time between checkpoints, 60 by default; every epoch ends
            with one.
        on_step: called with (steps taken, steps in all).
        on_epoch: called with each new row of the history.

    Returns:
        The history: training and validation loss and accuracy before the first step and after
        every epoch.

    Raises:
        RunError: the directory holds a run of another configuration, or of more epochs.
        BusyError: another process is training there.
        StoreError: something cannot be written, or is damaged.
    """
    if epochs < 0:
        raise ArgumentError(f"expected epochs ≥ 0, got {epochs}")
    directory = Path(directory)
    # What is refused here leaves no directory behind.
    where = _prepare_device(torch.device(device))
    batches = batches_of(config, dataset)
    schedule = make_schedule(config, batches)
    schedule.check(epochs * batches)
    with only_writer(directory / ".train.lock", f"to {directory}"):
        training = _Training(config, dataset, schedule, directory, where)
        training.epochs = epochs
        if checkpoint_seconds is not None:
            training.checkpoint_seconds = checkpoint_seconds
        training.metadata = {
            "training": training.identity,
            "data_dir": data_dir,
            "device": training.device.type,
        }
        return training.run(on_step, on_epoch)


def batches_of(config: TrainingConfig, dataset: Dataset) -> int:
    """Steps in an epoch."""
    return -(-len(dataset.train_targets) // config.batch_size)


class _Training:
    def __init__(
        self,
        config: TrainingConfig,
        dataset: Dataset,
        schedule: Schedule,
        directory: Path,
        device: torch.device,
    ) -> None:
        self.config, self.schedule = config, schedule
        self.directory, self.device = directory, device
        self.identity = {**dataclasses.asdict(config), "data_digest": dataset.digest}
        self.batches = batches_of(config, dataset)
        self.identity["lr_digest"] = self.schedule.digest
        self.recorded = _recorded_steps(directory, self.identity, device.type)
        self.model = build_network(
            config.network, dataset.channels, len(dataset.classes), config.dropout, config.seed
        ).to(self.device)
        self.optimizer = make_optimizer(config, self.model)
        self.shuffle = torch.Generator().manual_seed(config.seed)
        self.shuffle_before = self.shuffle.get_state()
        self.noise = torch.Generator(self.device).manual_seed(config.seed).get_state()
        self.loop = _Loop(epoch=0, batch=0, step=0, seconds=0.0, history=[])
        self.inputs = dataset.train_inputs.to(self.device)
        self.targets = dataset.train_targets.to(self.device)
        self.objectives = {
            "training": classification_objective(self.model, self.inputs, self.targets),
            "validation": classification_objective(
                self.model, dataset.test_inputs, dataset.test_targets
            ),
        }
        self.epochs = 0
        self.checkpoint_seconds = CHECKPOINT_SECONDS
        self.metadata: dict[str, Any] = {}

    def run(
        self,
        on_step: Callable[[int, int], None] | None,
        on_epoch: Callable[[Row], None] | None,
    ) -> Trained:
        checkpoint = load_latest_checkpoint(self.directory, self.recorded or ())
        if checkpoint is not None:
            self._restore(checkpoint)
        elif self.recorded and 0 not in self.recorded:
            raise RunError(
                f"the first state of {self.directory} is lost and no checkpoint is left, so its "
                "training cannot go on; choose another directory (--out)"
            )
        if self.loop.epoch > self.epochs:
            raise RunError(
                f"{self.directory} was trained for {self.loop.epoch} epochs and {self.epochs} are "
                "asked for; epochs may only grow"
            )
        resumed_at = self.loop.step
        done = self.loop.epoch == self.epochs and _is_closed(self.directory)
        if not done:
            if self.loop.history:
                # A kill between a checkpoint and the history leaves the history a row short.
                write_document(self.directory / HISTORY, {"history": self.loop.history})
            with (
                Recorder(
                    self.directory,
                    self.model,
                    every=self.config.record_every,
                    existing="resume",
                    step=None if self.recorded is None else self.loop.step,
                    metadata=self.metadata if self.recorded is None else None,
                    _by_checkpoint=True,
                    _made_again=checkpoint is not None and self._is_newest(checkpoint),
                ) as recorder,
                self._own_noise(),
            ):
                if not self.loop.history:
                    self._evaluate(recorder, on_epoch)
                while self.loop.epoch < self.epochs:
                    self._run_epoch(recorder, on_step)
                    self._evaluate(recorder, on_epoch)
        return Trained(self.directory, self.loop.history, resumed_at, done)

    def _is_newest(self, checkpoint: Checkpoint) -> bool:
        """Whether only what came after a checkpoint and before the next is made again."""
        next_at_the_latest = (self.loop.epoch + 1) * self.batches
        is_short = max(self.recorded or (0,)) <= next_at_the_latest
        return is_short and none_is_missing(self.directory, checkpoint.step)

    def _run_epoch(self, recorder: Recorder, on_step: Callable[[int, int], None] | None) -> None:
        loop, size = self.loop, self.config.batch_size
        self.shuffle_before = self.shuffle.get_state()
        order = torch.randperm(len(self.targets), generator=self.shuffle).to(self.device)
        self.model.train()
        saved = time.monotonic()
        while loop.batch < self.batches:
            began = time.perf_counter()
            chosen = order[loop.batch * size : (loop.batch + 1) * size]
            loss = F.cross_entropy(self.model(self.inputs[chosen]), self.targets[chosen])
            for group in self.optimizer.param_groups:
                group["lr"] = self.schedule.rate(loop.step)
            self.optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            self.optimizer.step()
            recorder.record(loss)
            loop.batch += 1
            loop.step += 1
            loop.seconds += time.perf_counter() - began
            if on_step:
                on_step(loop.step, self.epochs * self.batches)
            if time.monotonic() - saved > self.checkpoint_seconds and loop.batch < self.batches:
                self._save(recorder)
                saved = time.monotonic()
        loop.epoch, loop.batch = loop.epoch + 1, 0
        self.shuffle_before = self.shuffle.get_state()

    def _evaluate(self, recorder: Recorder, on_epoch: Callable[[Row], None] | None) -> None:
        loop = self.loop
        row: Row = {"epoch": loop.epoch, "step": loop.step}
        parameters = flatten_parameters(self.model)
        for name, objective in self.objectives.items():
            evaluation = objective(parameters)
            row |= {f"{name}_loss": evaluation.loss, f"{name}_accuracy": evaluation.accuracy}
        row["seconds"] = round(loop.seconds, 3)
        loop.seconds = 0.0
        loop.history.append(row)
        self._save(recorder)
        write_document(self.directory / HISTORY, {"history": loop.history})
        if on_epoch:
            on_epoch(row)

    @contextmanager
    def _own_noise(self) -> Iterator[None]:
        """Dropout draws from torch's global generator: ours inside, the caller's afterwards."""
        cuda = self.device.type == "cuda"
        with torch.random.fork_rng(devices=[self.device] if cuda else []):
            if cuda:
                torch.cuda.set_rng_state(self.noise, self.device)
            else:
                torch.set_rng_state(self.noise)
            yield

    def _noise_now(self) -> torch.Tensor:
        if self.device.type == "cuda":
            return torch.cuda.get_rng_state(self.device)
        return torch.get_rng_state()

    def _save(self, recorder: Recorder) -> None:
        recorder.flush()  # a checkpoint must never be ahead of the states
        save_checkpoint(
            self.directory,
            Checkpoint(
                step=self.loop.step,
                model=self.model.state_dict(),
                optimizer=self.optimizer.state_dict(),
                generators={"shuffle": self.shuffle_before, "noise": self._noise_now()},
                progress=dataclasses.asdict(self.loop),
            ),
        )

    def _restore(self, checkpoint: Checkpoint) -> None:
        self.model.load_state_dict(checkpoint.model)
        self.optimizer.load_state_dict(checkpoint.optimizer)
        self.shuffle.set_state(checkpoint.generators["shuffle"])
        self.noise = checkpoint.generators["noise"]
        self.loop = _Loop(**checkpoint.progress)


def _recorded_steps(
    directory: Path, identity: dict[str, Any], device: str
) -> frozenset[int] | None:
    """The steps that a run can go on from: those with a record; None if there is no trajectory."""
    if not store.exists(directory):
        foreign = [p.name for p in directory.iterdir() if p.name not in _OWN_NAMES]
        if foreign and not any((directory / name).exists() for name in store.DATA_FILES):
            raise RunError(
                f"{directory} exists and holds no run but {foreign[0]}; choose another directory"
            )
        return None
    try:
        before = training_identity(directory)
    except RunError:
        raise RunError(
            f"{directory} was recorded by a training loop of your own, which only that loop can go "
            "on with; choose another directory (--out)"
        ) from None
    begun_on = recorded_device(directory)
    if begun_on != device:
        raise RunError(
            f"{directory} was begun on {begun_on} and cannot go on exactly on {device}; pass "
            f"--device {begun_on}, or choose another directory (--out)"
        )
    for name, value in identity.items():
        if name == "lr_schedule" and identity["lr_digest"] and before.get("lr_digest"):
            continue  # wherever the step sizes lie, their digest says which they are
        if before.get(name, _NOT_RECORDED.get(name)) != value:
            shown = "--" + name.replace("_", "-")
            if name == "data_digest":
                raise RunError(
                    f"{directory} was trained on other data named {before.get('data')!r} than "
                    "these; look at --data-dir"
                )
            if name == "lr_digest":
                raise RunError(
                    f"{directory} was trained with learning rates of other step sizes than "
                    f"{identity['lr_schedule']} has now; take them as they were, or choose another "
                    "directory (--out)"
                )
            raise RunError(
                f"{directory} holds a run with {shown} {before.get(name)} and {shown} {value} is "
                "asked for; only --epochs may grow: choose another directory (--out)"
            )
    found = store.read_contents(directory, store.read_header(directory))
    return frozenset([*found.steps.tolist(), *found.loss_steps.tolist()])


# What runs of versions that had no such option were trained with.
_NOT_RECORDED = {"lr_schedule": "constant", "lr_form": "raw", "lr_smooth": 1}
_OWN_NAMES = {".train.lock", ".lock"}


def _prepare_device(device: torch.device) -> torch.device:
    if device.type == "cuda":
        if not torch.cuda.is_available():
            raise ArgumentError("this machine has no GPU that torch can use; train on the CPU")
        # Without these, cuDNN may sum in another order at every run.
        torch.backends.cudnn.benchmark = False
        torch.backends.cudnn.deterministic = True
    return device


def _is_closed(directory: Path) -> bool:
    if not store.exists(directory):
        return False
    return store.read_contents(directory, store.read_header(directory)).closed


def make_optimizer(config: TrainingConfig, model: nn.Module) -> torch.optim.Optimizer:
    """The optimiser of a run."""
    if config.optimizer == "adam":
        return torch.optim.Adam(model.parameters(), config.lr, weight_decay=config.weight_decay)
    return torch.optim.SGD(
        model.parameters(),
        config.lr,
        momentum=config.momentum,
        weight_decay=config.weight_decay,
    )
