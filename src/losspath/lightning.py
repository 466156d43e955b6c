"""Recording what a Lightning Trainer trains: one callback."""

from __future__ import annotations

import contextlib
import importlib
import sys
from collections.abc import Iterable, Iterator
from functools import partial
from os import PathLike
from typing import TYPE_CHECKING, Any, Unpack

import torch
from torch.optim import Optimizer

from losspath.extras import extra
from losspath.recording.trainers import Options, Run, Settings, numbers, rates

if TYPE_CHECKING:
    from lightning.pytorch import Callback, LightningModule, Trainer
else:
    with extra("lightning"):
        try:
            _library = importlib.import_module("lightning.pytorch")
        except ModuleNotFoundError as missing:  # the same, under its older name
            try:
                _library = importlib.import_module("pytorch_lightning")
            except ModuleNotFoundError:
                raise missing from None
    Callback = _library.Callback

_PACKAGE = Callback.__module__.partition(".")[0]

__all__ = ["RecorderCallback"]


class RecorderCallback(Callback):
    """Records the training of a LightningModule: give it to the Trainer among its callbacks.

    What is recorded is the module that is trained: the state θ_0 before the first batch, and one
    state after each step of an optimiser, taken as ``optimizer.step()`` returns. Batches that only
    accumulate gradients are no steps. Steps are numbered as ``trainer.global_step`` counts them.

    - **The loss** of a step is what was given to ``backward`` since the step before. With
      ``accumulate_grad_batches`` it is the mean over the micro-batches, in the last and shorter
      window of an epoch too (whose gradient Lightning divides by the whole number all the same).
      With mixed precision it is the loss before it was scaled. It is this process's share where
      several train. An optimiser that asks for the loss again within a step, such as LBFGS, has the
      loss that the step began with.
    - **Manual optimisation**: each ``step()`` of each optimiser is a step, as Lightning counts. Its
      loss is the sum of those given to ``manual_backward`` since the step before; where there are
      none, as they were all given before the first of several steps, the same as that one's. It is
      NaN where ``loss.backward()`` is called instead. With several optimisers the value
      ``optimizer`` says which it was.
    - **Steps that mixed precision skips** are counted by Lightning, and recorded without a change
      (`Trajectory.unchanged_steps`).
    - **Named values**: ``lr`` of the optimiser (``lr/0``, ``lr/1`` of several; ``lr/group2`` of a
      parameter group that has another than the first), and whatever ``self.log`` was given that is
      one number, with the first step that is recorded after it was logged: in the training step of
      automatic optimisation it is that very step, for validation the one after. The values "loss",
      "step" and "self" are called "logged_loss" and so on, and so are names with a dot before them.
    - **Averages** (`WeightAveraging`, `EMAWeightAveraging`, `StochasticWeightAveraging`) that are
      put into the module while it is validated or when training ends are not recorded, nor is the
      pass over the data by which averages get their statistics.
    - **Going on**: with ``ckpt_path=`` and the same directory the run goes on at the checkpoint's
      step; what was recorded after it is moved into ``aside-<n>``, and a warning says so. Where the
      directory holds no run, one is begun at that step.
    - **Several processes**: the first one records.

    Training is not changed: the weights are the same bits as without the callback.

    Args:
        directory: where to record; made if it does not exist.
        options: `every`, `schedule`, `existing`, `dtype`, `allow_complex`, `metadata`,
            `parameters` and `sketch`, as for `Recorder`. `existing` is for training that begins
            at step 0. The metadata get ``library``, ``library_version`` and ``model_class``.

    Raises:
        MissingExtraError: when this module is imported and Lightning is not installed.
        ArgumentError: an option is not what `Recorder` takes.
        LosspathError: when training begins: what `Recorder` raises, and `ModelError` for a module
            whose parameters are spread over processes (FSDP, DeepSpeed's ZeRO-3).

    Example:
        >>> from lightning.pytorch import Trainer  # doctest: +SKIP
        >>> from losspath.lightning import RecorderCallback  # doctest: +SKIP
        >>> trainer = Trainer(callbacks=[RecorderCallback("runs/mine")])  # doctest: +SKIP
        >>> trainer.fit(module, loader)  # doctest: +SKIP
    """

    def __init__(self, directory: str | PathLike[str], **options: Unpack[Options]) -> None:
        super().__init__()
        self._settings = Settings(directory, **options)
        self._fit: _Fit | None = None
        self._is_blank = False

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_fit": None}  # a copy records nothing until it trains

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Refuses a module that no process has whole."""
        model = trainer.strategy.model
        self._settings.check(pl_module if model is None else model)

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Begins before the first batch, when all that prepares the module is done."""
        if self._fit is None and trainer.is_global_zero:
            step, library = trainer.global_step, sys.modules[_PACKAGE]
            version = str(getattr(library, "__version__", ""))
            with _detached(pl_module):
                run = self._settings.begin(pl_module, step, "lightning", version, self._is_blank)
            self._is_blank = False
            self._fit = _Fit(run, trainer)
        elif self._fit is not None:
            self._fit.begin_batch()

    def on_before_backward(
        self, trainer: Trainer, pl_module: LightningModule, loss: torch.Tensor
    ) -> None:
        """Notes the loss, scaled as it may be."""
        if self._fit is not None:
            self._fit.note(loss)

    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer
    ) -> None:
        """Records a step before this one that was skipped."""
        if self._fit is not None:
            self._fit.catch_up()

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Records a step that was skipped."""
        if self._fit is not None:
            self._fit.catch_up()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Keeps the newest state, as callbacks put averages in its place when training ends."""
        if self._fit is not None and self._settings.leaves_out_states:
            self._fit.run.recorder.flush()

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Makes durable what a checkpoint that is about to be written may be gone on from."""
        if self._fit is not None:
            self._fit.run.recorder.flush()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Closes the run."""
        if (fit := self._end()) is not None:
            fit.run.close()

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Closes the run, with the error under way."""
        if (fit := self._end()) is not None:
            fit.run.close_after_an_error()

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Closes the run, where training ended in another way."""
        if (fit := self._end()) is not None:
            fit.run.close_after_an_error()

    def _end(self) -> _Fit | None:
        fit, self._fit = self._fit, None
        if fit is not None:
            self._is_blank = fit.run.is_blank
            fit.let_go()
        return fit


class _Fit:
    """One call of ``trainer.fit`` that is recorded."""

    def __init__(self, run: Run, trainer: Trainer) -> None:
        self.run = run
        self._trainer = trainer
        self._losses: list[torch.Tensor | float] = []  # of backward passes since the last step
        self._last_losses: list[torch.Tensor | float] = []
        self._logged: dict[str, torch.Tensor] = {}  # held, so that their memory stays theirs
        self._depths: list[int] = []  # how many calls of step() run, one in the other
        self._is_noted = False  # the loss of the step() that runs
        self._handles: list[Any] = []
        for index, optimizer in enumerate(trainer.optimizers):
            self._depths.append(0)
            if hasattr(optimizer, "register_step_post_hook"):
                before, after = partial(self._enter, index), partial(self._leave, index)
                self._handles.append(optimizer.register_step_pre_hook(before))
                self._handles.append(optimizer.register_step_post_hook(after))

    def let_go(self) -> None:
        """Takes the hooks off the optimisers."""
        for handle in self._handles:
            handle.remove()

    def begin_batch(self) -> None:
        """No step is under way, and none of the batch was taken."""
        self._depths = [0] * len(self._depths)
        self._last_losses = []

    def note(self, loss: torch.Tensor) -> None:
        """Notes a loss that is about to be followed."""
        self.catch_up()
        if any(self._depths):
            if self._is_noted:
                return
            self._is_noted = True
        scaler = getattr(self._trainer.precision_plugin, "scaler", None)
        if loss.numel() != 1 or loss.is_complex():
            self._losses.append(float("nan"))
            return
        loss = loss.detach().clone()
        self._losses.append(loss if scaler is None else loss / scaler.get_scale())

    def catch_up(self) -> None:
        """Records a step that the trainer counted and no optimiser told of, as it was skipped."""
        if self._trainer.global_step > self.run.step:
            self._record(self._trainer.global_step, range(len(self._depths)))

    def _enter(self, index: int, *call: Any) -> None:
        if not any(self._depths):
            self._is_noted = False
        self._depths[index] += 1

    def _leave(self, index: int, *call: Any) -> None:
        # A step() that calls that of its base class comes here twice.
        self._depths[index] = max(0, self._depths[index] - 1)
        if not self._depths[index]:
            self._record(self._trainer.global_step + 1, [index])

    def _record(self, step: int, stepped: Iterable[int]) -> None:
        trainer = self._trainer
        if getattr(trainer.fit_loop, "_skip_backward", False):
            return  # a pass over the data for the statistics of averaged weights
        losses = self._losses or self._last_losses
        module = trainer.lightning_module
        if module.automatic_optimization:
            losses = self._losses
            whole = trainer.accumulate_grad_batches
            if 0 < len(losses) < whole:  # the last window of an epoch
                losses = [loss * (whole / len(losses)) for loss in losses]
        self._last_losses, self._losses = self._losses or self._last_losses, []
        optimizers = trainer.optimizers
        values = self._newly_logged()
        for index in stepped:
            stem = f"lr/{index}" if len(optimizers) > 1 else "lr"
            values |= rates(optimizers[index].param_groups, stem)
        if len(optimizers) > 1 and isinstance(stepped, list):
            values["optimizer"] = float(stepped[0])
        self.run.record(step, losses, values)

    def _newly_logged(self) -> dict[str, float]:
        """What was logged since the step before; other tensors than then are new."""
        new: dict[str, torch.Tensor] = {}
        metrics = self._trainer.callback_metrics
        for name, value in metrics.items():
            if not isinstance(value, torch.Tensor):
                continue
            before = self._logged.get(name)
            if before is None or before.data_ptr() != value.data_ptr():
                new[name] = value
        self._logged |= new
        same = {id(value): name for name, value in reversed(new.items())}  # "a" is "a_step" too
        return numbers({name: value for name, value in new.items() if same[id(value)] == name})


@contextlib.contextmanager
def _detached(module: LightningModule) -> Iterator[None]:
    """While it lasts, a module does not hold its Trainer, nor what that holds: averages, say."""
    held = [(each, vars(each)["_trainer"]) for each in module.modules() if "_trainer" in vars(each)]
    for each, _ in held:
        vars(each)["_trainer"] = None
    try:
        yield
    finally:
        for each, trainer in held:
            vars(each)["_trainer"] = trainer
