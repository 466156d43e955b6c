"""Whether an objective is well defined, and is that of the model as its owner uses it."""

from __future__ import annotations

import warnings

import numpy as np
import torch

from losspath.errors import LosspathError, LosspathWarning, ObjectiveError
from losspath.evaluation.base import BaseObjective
from losspath.evaluation.checking.caches import check_caches
from losspath.evaluation.checking.counting import (
    copied,
    counted,
    far_from,
    is_close,
    mean_of,
    spread,
)
from losspath.evaluation.checking.means import WHOLE, check_means, taken
from losspath.evaluation.checking.owner import check_against_owner
from losspath.evaluation.checking.repeats import check_repeats, one_pass
from losspath.evaluation.counter import failed
from losspath.evaluation.data import Batch, Samples, tensors_in
from losspath.evaluation.evaluator import Evaluator
from losspath.evaluation.isolation.replica import overrides_train
from losspath.evaluation.quantities import LOSS, Count
from losspath.evaluation.recalibration import norms_in, run_pass
from losspath.parameters import flatten_parameters, unwrapped
from losspath.recording.hidden import warn_of_hidden

# How far from the model's own the vectors are that are tried, in standard deviations of each
# parameter tensor; None for numbers that have nothing to do with the model's.
_FAR = (0.1, 0.5, 0.02, None)
_CHECKED_SAMPLES = 32


def check_objective(objective: BaseObjective) -> None:
    """Refuses an objective that has no surface, or is another than the caller means.

    All is evaluated at a vector far from the model's own, at which the loss is finite and not
    zero, so that a perfect fit or a run that has diverged hides nothing.

    Args:
        objective: the objective; whether it needs gradients is found out and set.

    Raises:
        ObjectiveError: as `Objective` says.
    """
    buffers = objective.buffers
    if buffers == "recalibrated":  # an estimate over the data, not what the owner's model has
        objective.buffers = "model"
    try:
        _check(objective)
        if buffers == "recalibrated":
            _note_not_estimated(objective)
    finally:
        objective.buffers = buffers


def _check(objective: BaseObjective) -> None:
    batch = _some(objective)
    warn_of_hidden(unwrapped(objective.model), stacklevel=4)
    own = torch.from_numpy(flatten_parameters(objective.model, objective.layout))
    evaluator, vector = _settled(objective, batch, own)
    objective.notes += _notes_of(objective, evaluator)
    if evaluator.loss_learns():
        objective.notes.append("the loss has parameters of its own, which are those of now")
    if not objective.checked:
        return
    if not evaluator.replica.is_private and overrides_train(unwrapped(objective.model)):
        raise ObjectiveError(
            f"the model cannot be copied ({evaluator.replica.why_shared}), and some of its modules "
            "have a train() of their own, which cannot be called on the model itself without "
            "changing it; keep what cannot be copied out of the module"
        )
    try:
        _check_all(objective, own, vector)
    except (LosspathError, LosspathWarning):
        raise
    except Exception as cause:
        reason = str(cause).strip().splitlines()
        raise ObjectiveError(
            f"the model and the loss work on {batch.size} samples, but not on others, or not "
            f"again: {type(cause).__name__}: {reason[0] if reason else ''}; look for what is kept "
            "of an earlier batch (a hidden state), for sizes that are written down, or for "
            f"squeeze() without a dimension; {WHOLE}"
        ) from cause


def _note_not_estimated(objective: BaseObjective) -> None:
    evaluator = Evaluator(objective)
    with evaluator.lent():
        names = _not_estimated(evaluator, _some(objective))
    if names:
        note = (
            f"{names[0]}{f' and {len(names) - 1} more' if names[1:] else ''} is changed by "
            "training, but not estimated anew, as it is of none of torch's normalisations"
        )
        objective.notes.append(note)
        warnings.warn(note, LosspathWarning, stacklevel=4)


def _not_estimated(evaluator: Evaluator, batch: Batch) -> list[str]:
    """Names of other buffers that training changes, which `recalibrate` leaves as they are.

    The batch is trained on for once; nothing of it stays.
    """
    replica = evaluator.replica
    if not replica.is_private:
        return []
    model = replica.model
    estimated = {id(buffer) for module in norms_in(model) for buffer in module.buffers()}
    others = [
        (name, buffer.detach().clone())
        for name, buffer in model.named_buffers()
        if buffer.is_floating_point() and id(buffer) not in estimated
    ]
    if not others:
        return []
    try:
        for module in model.modules():
            module.training = True
        run_pass(evaluator.objective, replica, copied(batch))
        now = dict(model.named_buffers())
        return [n for n, value in others if n not in now or not torch.equal(now[n], value)]
    except LosspathError:  # what training does is not asked here
        return []
    finally:
        evaluator.restore()


def _check_all(objective: BaseObjective, own: torch.Tensor, vector: torch.Tensor) -> None:
    evaluator, batch = Evaluator(objective), _some(objective)
    with evaluator.lent():
        whole, halved, outputs = check_repeats(objective, evaluator, batch, vector)
        is_fixed = _is_fixed(objective, evaluator, batch, own, whole, halved)
        few, fewer = _some(objective, _CHECKED_SAMPLES), _others(objective)
        _check_carried(objective, evaluator, few, vector)
        check_caches(objective, evaluator, few, fewer, vector)
        if isinstance(objective.data, Samples):
            varied = far_from(objective, own, None)
            evaluator.write(varied)
            elsewhere, outputs_there = one_pass(objective, evaluator, batch)
            moves = _moves(whole, elsewhere)
            if np.isfinite(moves[LOSS]):
                objective.moves = moves[LOSS]
            check_means(objective, evaluator, batch, vector, whole, outputs, moves)
            # Where all samples have much the same loss, it does not show how they are weighted.
            if np.isfinite(elsewhere[LOSS][0]):
                check_means(objective, evaluator, batch, varied, elsewhere, outputs_there, moves)
    check_against_owner(objective, few, [vector, 1.4 * far_from(objective, own, 0.2)])
    if is_fixed:
        _tell_fixed(objective)


def _settled(
    objective: BaseObjective, batch: Batch, own: torch.Tensor
) -> tuple[Evaluator, torch.Tensor]:
    """An evaluator and a vector to check at; in half precision where float32 does not go."""
    evaluator = Evaluator(objective, is_first=True)
    try:
        with evaluator.lent():
            return evaluator, _settle(objective, evaluator, batch, own)
    except ObjectiveError:
        if not evaluator.replica.widened:
            raise
        objective.widens = False  # the model casts to half precision by itself, maybe
        half = Evaluator(objective, is_first=True)
        try:
            with half.lent():
                return half, _settle(objective, half, batch, own)
        except ObjectiveError:
            pass
        raise


def _notes_of(objective: BaseObjective, evaluator: Evaluator) -> list[str]:
    notes, replica = [], evaluator.replica
    if not objective.widens:
        notes.append("evaluated in half precision, as the model fails in float32")
    elif replica.widened:
        notes.append("parameters of half precision are evaluated in float32")
    if not replica.is_private:
        notes.append(f"evaluated on the model itself, not on a copy ({replica.why_shared})")
        if any(entry.dtype in ("float16", "bfloat16") for entry in objective.layout.parameters):
            notes.append("evaluated in half precision, as a model that cannot be copied is")
    kind = objective.device.type
    if torch.is_autocast_enabled(kind):
        dtype = str(torch.get_autocast_dtype(kind)).removeprefix("torch.")
        notes.append(f"made under autocast to {dtype}, and evaluated under what is on at the time")
    return notes


def _some(objective: BaseObjective, most: int | None = None) -> Batch:
    """Samples from all over the data, which may be sorted; or the smallest batch."""
    data = objective.data
    if isinstance(data, Samples):
        return data.load(spread(len(data), most or objective.batch_size, data.targets))
    parts = data.parts()
    return min((data.load(part) for part in parts[:16]), key=lambda batch: batch.size)


def _others(objective: BaseObjective) -> Batch | None:
    """Fewer samples than `_some`, or another batch; None where there is none."""
    data, parts = objective.data, objective.data.parts()
    if isinstance(data, Samples):
        return (
            data.load(range(min(len(data) // 2, _CHECKED_SAMPLES // 2))) if len(data) > 1 else None
        )
    return data.load(parts[-1]) if len(parts) > 1 else None


def _settle(
    objective: BaseObjective, evaluator: Evaluator, batch: Batch, own: torch.Tensor
) -> torch.Tensor:
    """A vector to check at; finds out on the way whether gradients are needed.

    Raises:
        ObjectiveError: the model or the loss fails on the data.
    """
    chosen: torch.Tensor | None = None
    for scale in _FAR:
        vector = far_from(objective, own, scale)
        evaluator.write(vector)
        if chosen is None:
            chosen = vector
            count = _first_count(objective, evaluator, batch)
            batch = _some(objective)  # in single precision by now, maybe
        else:
            count = counted(evaluator, batch)
        total, weight = count[LOSS]
        if np.isfinite(total) and np.isfinite(weight) and total != 0.0:
            return vector
    assert chosen is not None
    return chosen


def _first_count(objective: BaseObjective, evaluator: Evaluator, batch: Batch) -> Count:
    """The first forward pass: with gradients where it does not go without."""
    try:
        return counted(evaluator, batch)
    except LosspathError:
        raise
    except Exception as without:
        try:
            with torch.enable_grad():
                count = counted(evaluator, batch)
        except Exception:
            if (cause := _as_float32(objective, evaluator, without)) is not None:
                return cause
            raise failed(batch, without) from without
        objective.needs_gradients = True
        torch.set_grad_enabled(True)  # inside `lent`, which puts it back
        return count


def _as_float32(objective: BaseObjective, evaluator: Evaluator, error: Exception) -> Count | None:
    """Tries double-precision inputs again in single precision, for a model that has no other."""
    data = objective.data
    given = _some(objective)
    wide = any(t.dtype == torch.float64 for t in tensors_in((given.args, given.kwargs), True))
    if not wide or objective.layout.is_wide:
        return None
    narrow = data.in_float32()
    objective.data, before = narrow, data
    try:
        return counted(evaluator, _some(objective))
    except Exception:
        objective.data = before
        return None


def _is_fixed(
    objective: BaseObjective,
    evaluator: Evaluator,
    batch: Batch,
    own: torch.Tensor,
    first: Count,
    halved: Count,
) -> bool:
    """Whether the loss does not move with the parameters, wherever they go."""
    total = first[LOSS][0]
    if not np.isfinite(total) or total == 0.0 or halved[LOSS] != first[LOSS]:
        return False
    far = far_from(objective, own, None)
    for vector in (far_from(objective, own, 0.5), -far, 0.3 * far):
        evaluator.write(vector)
        if counted(evaluator, batch)[LOSS] != first[LOSS]:
            return False
    return True


def _tell_fixed(objective: BaseObjective) -> None:
    note = "the loss is the same at very different parameters"
    objective.notes.append(note)
    warnings.warn(
        f"{note}, so every picture of it is flat; look for a cache that outlives the model "
        "(a global dict, lru_cache), for outputs that the loss does not use, and for parameters "
        "that the model does not",
        LosspathWarning,
        stacklevel=6,
    )


def _moves(one: Count, other: Count) -> dict[str, float]:
    """How far each mean moves between very different parameters, where it is finite at both."""
    return {name: abs(mean_of([one[name]]) - mean_of([other[name]])) for name in one}


def _check_carried(
    objective: BaseObjective, evaluator: Evaluator, few: Batch, vector: torch.Tensor
) -> None:
    """A batch's loss must not depend on the batch before."""
    parts, is_samples = objective.data.parts(), isinstance(objective.data, Samples)
    if not evaluator.replica.is_private or (len(parts) < 2 and not is_samples):
        return
    evaluator.write(vector)

    def after(before: Batch, batch: Batch) -> Count:
        try:
            objective.count_batch(evaluator.replica.model, copied(before))
            if is_samples:
                evaluator.restore_loss()  # one with a state of its own is taken with that of now
            return counted(evaluator, batch)
        finally:
            evaluator.restore()

    if is_samples:  # as many others, as what is kept may have their number
        turned = taken(few, torch.arange(few.size - 1, -1, -1, device="cpu"))
        alone, later = after(few, few), after(turned, few)
    else:
        batch = objective.data.load(parts[1])
        alone, later = counted(evaluator, batch), after(objective.data.load(parts[0]), batch)
    tolerance = 1e-6 if objective.device.type == "cpu" else 1e-5
    for name in alone:
        one, other = mean_of([alone[name]]), mean_of([later.get(name, (0.0, 0.0))])
        if not is_close(one, other, tolerance):
            raise ObjectiveError(
                f"the {name} of a batch is {one:.6g} or {other:.6g}, by which one came before: the "
                "model or the loss keeps something from one batch to the next (a hidden state), "
                "which the objective does not carry on; reset it at the start of each batch, or "
                "give whole sequences as one batch; check=False takes each batch with what is "
                "kept now"
            )
