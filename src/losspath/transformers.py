"""Recording what the Trainer of transformers trains: one callback."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from os import PathLike
from typing import TYPE_CHECKING, Any, Unpack

import torch

from losspath.extras import extra
from losspath.recording.trainers import Options, Run, Settings, numbers, rates

if TYPE_CHECKING:
    from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState
    from transformers import TrainingArguments as Arguments
else:
    with extra("transformers"):
        from transformers import Trainer, TrainerCallback

__all__ = ["RecorderCallback"]


class RecorderCallback(TrainerCallback):
    """Records the training of a transformers Trainer: give it to the Trainer among its callbacks.

    What is recorded is the Trainer's model: the state θ_0 before the first step, and one state
    after each step of the optimiser, taken in ``on_optimizer_step``, which comes right after
    ``optimizer.step()`` and before gradients are set to zero. Micro-batches that only accumulate
    gradients are no steps. Steps are numbered as ``trainer.state.global_step`` counts them.

    - **The loss** of a step is the sum of what ``Trainer.training_step`` returned for its
      micro-batches, which the Trainer has divided by their number (or by that of the labels): the
      loss whose gradient was followed. Callbacks are told no losses, so while training runs the
      Trainer's ``training_step`` goes through this callback; it is put back when training ends. It
      is this process's share where several train. Where no Trainer is found, losses are NaN.
    - **Steps that mixed precision skips** are counted by the Trainer, and recorded without a change
      (`Trajectory.unchanged_steps`).
    - **Named values**: ``lr`` of the step (``lr/group1`` of a parameter group that has another than
      the first), ``grad_norm`` of the step, and what the Trainer logs that is one number. The
      Trainer logs after a step, so logged values are kept with the step after the one that they
      are of, and those after the last step are not kept. The mean loss that is logged is called
      ``logged_loss``. ``learning_rate`` is left out, as ``lr`` has it for every step.
    - **The best model** that ``load_best_model_at_end=True`` puts into the model is not recorded.
    - **Going on**: with ``resume_from_checkpoint=`` and the same directory the run goes on at the
      checkpoint's step; what was recorded after it is moved into ``aside-<n>``, and a warning says
      so. Where the directory holds no run, one is begun at that step.
    - **The end**: the run is closed when training ends, and where an error ends it in an epoch. The
      Trainer tells callbacks of no errors: after one elsewhere call `close`, or train again; at
      the latest the run is closed as the interpreter exits.
    - **Several processes**: the first one records.
    - **Adapters** (peft): the states are the adapters' parameters, as they alone are trained.

    Training is not changed: the weights are the same bits as without the callback.

    Args:
        directory: where to record; made if it does not exist.
        options: `every`, `schedule`, `existing`, `dtype`, `allow_complex`, `metadata`,
            `parameters` and `sketch`, as for `Recorder`. `existing` is for training that begins
            at step 0. The metadata get ``library``, ``library_version`` and ``model_class``.

    Raises:
        MissingExtraError: when this module is imported and transformers is not installed.
        ArgumentError: an option is not what `Recorder` takes.
        LosspathError: when training begins: what `Recorder` raises, and `ModelError` for a model
            whose parameters are spread over processes (FSDP, DeepSpeed's ZeRO-3).

    Example:
        >>> from transformers import Trainer  # doctest: +SKIP
        >>> from losspath.transformers import RecorderCallback  # doctest: +SKIP
        >>> Trainer(model, arguments, train_dataset=data,  # doctest: +SKIP
        ...         callbacks=[RecorderCallback("runs/mine")]).train()
    """

    def __init__(self, directory: str | PathLike[str], **options: Unpack[Options]) -> None:
        self._settings = Settings(directory, **options)
        self._clear()
        self._is_blank = False

    def _clear(self) -> None:
        self._run: Run | None = None
        self._is_waiting = False  # for the first step
        self._taps: list[_Tap] = []
        self._losses: list[torch.Tensor | float] = []
        self._grad_norm: Any = None
        self._logged: dict[str, float] = {}

    def __getstate__(self) -> dict[str, Any]:  # a copy records nothing until it trains
        return {"_settings": self._settings, "_is_blank": self._is_blank}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._clear()

    def on_train_begin(
        self, args: Arguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Finds the Trainer; refuses a model that no process has whole."""
        self._close_after_an_error()  # of the training before
        self._settings.check(kwargs["model"])
        if not state.is_world_process_zero:
            return
        self._is_waiting = True
        trainer = _calling_trainer()
        if trainer is not None:
            self._taps = [
                _Tap(trainer, "training_step", self._note_loss, self._close_after_an_error),
                _Tap(trainer, "_get_grad_norm", self._note_norm),
                _Tap(trainer, "_run_epoch", None, self._close_after_an_error),
            ]

    def on_step_begin(
        self, args: Arguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Begins before the first step, when all that prepares the model is done."""
        if self._is_waiting:
            self._is_waiting = False
            step, model = state.global_step, kwargs["model"]
            version = str(getattr(sys.modules["transformers"], "__version__", ""))
            self._run = self._settings.begin(model, step, "transformers", version, self._is_blank)
            self._is_blank = False

    def on_optimizer_step(
        self, args: Arguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Records the step, which the Trainer counts afterwards."""
        if self._run is None:
            return
        values, self._logged = self._logged, {}
        values |= rates(getattr(kwargs.get("optimizer"), "param_groups", ()))
        if self._grad_norm is not None:
            values |= numbers({"grad_norm": self._grad_norm})
        losses, self._losses, self._grad_norm = self._losses, [], None
        self._run.record(state.global_step + 1, losses, values)

    def on_log(
        self,
        args: Arguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Notes what is logged, for the next step."""
        if self._run is not None and logs:
            self._logged |= numbers({k: v for k, v in logs.items() if k != "learning_rate"})

    def on_step_end(
        self, args: Arguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Makes durable what a checkpoint that is about to be written may be gone on from."""
        if self._run is not None and control.should_save:
            self._run.recorder.flush()

    def on_epoch_end(
        self, args: Arguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Keeps the newest state, as the best one may be put in its place when training ends."""
        if self._run is not None and (self._settings.leaves_out_states or control.should_save):
            self._run.recorder.flush()

    def on_save(
        self, args: Arguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Does so where another callback asked for the checkpoint."""
        if self._run is not None:
            self._run.recorder.flush()

    def on_train_end(
        self, args: Arguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Closes the run."""
        self.close()

    def close(self) -> None:
        """Closes the run and lets go of the Trainer; training that goes on is not recorded.

        It is called when training ends. Call it yourself where an error ended training outside of
        an epoch, and the run is wanted before the process ends.

        Raises:
            StoreError: something could not be written.
        """
        if (run := self._let_go()) is not None:
            run.close()

    def _close_after_an_error(self) -> None:
        if (run := self._let_go()) is not None:
            run.close_after_an_error()

    def _let_go(self) -> Run | None:
        run = self._run
        for tap in self._taps:
            tap.remove()
        if run is not None:
            self._is_blank = run.is_blank
        self._clear()
        return run

    def _note_loss(self, loss: Any) -> None:
        is_one = isinstance(loss, torch.Tensor) and loss.numel() == 1 and not loss.is_complex()
        self._losses.append(loss.detach().clone() if is_one else float("nan"))

    def _note_norm(self, norm: Any) -> None:
        self._grad_norm = norm


class _Tap:
    """Watches what a method of one object returns and raises, until it is removed.

    Args:
        owner: the object; what has no such method is left alone.
        name: the method's.
        returned: is told what it returned.
        failed: is called when it raises.
    """

    def __init__(
        self,
        owner: Any,
        name: str,
        returned: Callable[[Any], None] | None,
        failed: Callable[[], None] | None = None,
    ) -> None:
        self._owner, self._name = owner, name
        method = getattr(owner, name, None)
        self._was_own = name in vars(owner)
        self._is_on = method is not None
        if method is None:
            return

        @functools.wraps(method)
        def watched(*args: Any, **kwargs: Any) -> Any:
            try:
                result = method(*args, **kwargs)
            except BaseException:
                if self._is_on and failed is not None:
                    failed()
                raise
            if self._is_on and returned is not None:
                returned(result)
            return result

        self._method, self._watched = method, watched
        setattr(owner, name, watched)

    def remove(self) -> None:
        """Puts the method back; where somebody else watches it too by now, it is let through."""
        if not self._is_on:
            return
        self._is_on = False
        if vars(self._owner).get(self._name) is not self._watched:
            return
        if self._was_own:
            setattr(self._owner, self._name, self._method)
        else:
            delattr(self._owner, self._name)


def _calling_trainer() -> Trainer | None:
    """The Trainer that calls: callbacks are not given it, and it alone knows losses."""
    frame = sys._getframe(1)
    while frame.f_back is not None:
        frame = frame.f_back
        first = frame.f_code.co_varnames[:1]
        if frame.f_code.co_argcount and first == ("self",):
            owner = frame.f_locals.get("self")
            if isinstance(owner, Trainer):
                return owner
    return None
