"""Whether an objective is well defined, and is that of the model as its owner uses it."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from losspath.errors import LosspathError, ObjectiveError
from losspath.evaluation.data import Batch, Samples, map_tensors, tensors_in
from losspath.evaluation.evaluator import Evaluator
from losspath.evaluation.kernels import unfused
from losspath.evaluation.links import linked, surely
from losspath.evaluation.quantities import ACCURACY, LOSS, Count, Sum
from losspath.evaluation.replica import copy_model, overrides_train
from losspath.evaluation.undisturbed import random_fork, undisturbed
from losspath.parameters import flatten_parameters, in_order, named_modules, unwrapped

if TYPE_CHECKING:
    from losspath.evaluation.objective import Objective

# A mean over parts may differ from the whole by the rounding of float32 sums.
_ROUNDING = 1e-4
# How far from the model's own the vectors are that are tried, in standard deviations of each
# parameter tensor; None for numbers that have nothing to do with the model's.
_FAR = (0.1, 0.5, 0.02, None)
_CHECKED_SAMPLES = 32


def check_objective(objective: Objective) -> None:
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
    finally:
        objective.buffers = buffers


def _check(objective: Objective) -> None:
    batch = _some(objective)
    evaluator = Evaluator(objective)
    note = _note_of(evaluator)
    if note:
        objective.notes.append(note)
    own = torch.from_numpy(flatten_parameters(objective.model, objective.layout))
    with evaluator.lent():
        vector = _settle(objective, evaluator, batch, own)
    if not objective.checked:
        return
    if not evaluator.replica.is_private and overrides_train(unwrapped(objective.model)):
        raise ObjectiveError(
            f"the model cannot be copied ({evaluator.replica.why_shared}), and some of its modules "
            "have a train() of their own, which cannot be called on the model itself without "
            "changing it; keep what cannot be copied out of the module"
        )
    evaluator, batch = Evaluator(objective), _some(objective)
    with evaluator.lent():
        whole = _check_repeats(objective, evaluator, batch, vector)
        _check_caches(objective, evaluator, batch, vector, whole)
        if isinstance(objective.data, Samples):
            _check_means(objective, evaluator, batch, vector, whole)
            # Where all samples have much the same loss, it does not show how they are weighted.
            varied = _far(objective, own, None)
            evaluator.write(varied)
            whole = _count(evaluator, batch)
            if np.isfinite(whole[LOSS][0]):
                _check_means(objective, evaluator, batch, varied, whole)
    _check_against_owner(objective, vector)


def _note_of(evaluator: Evaluator) -> str:
    if evaluator.replica.widened:
        return "parameters of half precision are evaluated in float32"
    if not evaluator.replica.is_private:
        return f"evaluated on the model itself, not on a copy ({evaluator.replica.why_shared})"
    return ""


def _some(objective: Objective, most: int | None = None) -> Batch:
    """Samples from all over the data, which may be sorted; or the smallest batch."""
    data = objective.data
    if isinstance(data, Samples):
        count = min(len(data), most or objective.batch_size)
        return data.load(torch.linspace(0, len(data) - 1, count, dtype=torch.float64).long())
    parts = data.parts()
    return min((data.load(part) for part in parts[:16]), key=lambda batch: batch.size)


def _settle(
    objective: Objective, evaluator: Evaluator, batch: Batch, own: torch.Tensor
) -> torch.Tensor:
    """A vector to check at; finds out on the way whether gradients are needed.

    Raises:
        ObjectiveError: the model or the loss fails on the data.
    """
    chosen: torch.Tensor | None = None
    for scale in _FAR:
        vector = _far(objective, own, scale)
        evaluator.write(vector)
        if chosen is None:
            chosen = vector
            count = _first_count(objective, evaluator, batch)
            batch = _some(objective)  # in single precision by now, maybe
        else:
            count = _count(evaluator, batch)
        total, weight = count[LOSS]
        if np.isfinite(total) and np.isfinite(weight) and total != 0.0:
            return vector
    assert chosen is not None
    return chosen


def _far(objective: Objective, own: torch.Tensor, scale: float | None) -> torch.Tensor:
    """Numbers beside the model's own, the same at every call."""
    generator = torch.Generator().manual_seed(0)
    vector = own.double().clone()
    for entry in objective.layout.parameters:
        values = vector[entry.place]
        noise = torch.randn(values.shape, generator=generator, dtype=torch.float64)
        finite = torch.isfinite(values)
        if scale is None or not bool(finite.all()):
            fan_in = max(1, int(np.prod(entry.shape[1:])))
            values.copy_(noise / fan_in**0.5)
        else:
            size = float(values.pow(2).mean().sqrt()) if values.numel() else 0.0
            values.add_(noise * (scale * (size or 0.1)))
    return vector


def _first_count(objective: Objective, evaluator: Evaluator, batch: Batch) -> Count:
    """The first forward pass: with gradients where it does not go without."""
    try:
        return _count(evaluator, batch)
    except LosspathError:
        raise
    except Exception as without:
        try:
            with torch.enable_grad():
                count = _count(evaluator, batch)
        except Exception:
            if (cause := _as_float32(objective, evaluator, without)) is not None:
                return cause
            raise _failed(batch, without) from without
        objective.needs_gradients = True
        torch.set_grad_enabled(True)  # inside `lent`, which puts it back
        return count


def _as_float32(objective: Objective, evaluator: Evaluator, error: Exception) -> Count | None:
    """Tries double-precision inputs again in single precision, for a model that has no other."""
    data = objective.data
    wide = isinstance(data, Samples) and any(
        tensor.dtype == torch.float64 for tensor in tensors_in(data.inputs)
    )
    if not wide or objective.layout.is_wide or not isinstance(data, Samples):
        return None
    narrow = data.in_float32()
    objective.data, before = narrow, data
    try:
        return _count(evaluator, _some(objective))
    except Exception:
        objective.data = before
        return None


def _failed(batch: Batch, cause: Exception) -> ObjectiveError:
    shapes = [
        f"{tuple(t.shape)} {str(t.dtype)[6:]}" for t in tensors_in((batch.args, batch.kwargs))
    ]
    reason = str(cause).strip().splitlines()
    return ObjectiveError(
        f"the model or the loss fails on the data (tensors {', '.join(shapes) or 'none'}): "
        f"{type(cause).__name__}: {reason[0] if reason else ''}; expected what one step of the "
        "training loop computes of a batch"
    )


def _count(evaluator: Evaluator, batch: Batch) -> Count:
    try:
        return evaluator.objective.count_batch(evaluator.replica.model, _copied(batch))
    finally:
        evaluator.replica.restore()


def _copied(batch: Batch) -> Batch:
    args, kwargs, targets = map_tensors(
        (batch.args, batch.kwargs, batch.targets), torch.Tensor.clone
    )
    return Batch(args, kwargs, targets, batch.size)


def _check_repeats(
    objective: Objective, evaluator: Evaluator, batch: Batch, vector: torch.Tensor
) -> Count:
    """Two evaluations of one vector must be equal, with another one in between."""
    evaluator.write(vector)
    first = _count(evaluator, batch)
    outputs = _outputs(objective, evaluator, batch)
    evaluator.write(vector * 0.5)
    _count(evaluator, batch)
    evaluator.write(vector)
    second = _count(evaluator, batch)
    again = _outputs(objective, evaluator, batch)
    tolerance = 0.0 if objective.device.type == "cpu" else 1e-5  # sums in no fixed order
    same = all(_same(first[name][0], second[name][0], tolerance) for name in first)
    if not same or _outputs_differ(outputs, again, tolerance):
        raise ObjectiveError(
            "two evaluations of the same state differ, so there is no surface to draw: the model "
            "is random even in evaluation mode (look for dropout or noise that ignores "
            "model.eval()), or keeps something from one call to the next (a hidden state, a "
            "counter, a cache that is changed in place): reset it in forward()"
        )
    return first


def _check_caches(
    objective: Objective, evaluator: Evaluator, batch: Batch, vector: torch.Tensor, whole: Count
) -> None:
    """Where a module holds a tensor or is merged, its parameters must still have a say."""
    if not evaluator.replica.is_private or not np.isfinite(whole[LOSS][0]):
        return
    for name, module in named_modules(evaluator.replica.model):
        held = [
            attribute
            for attribute, value in vars(module).items()
            if attribute not in ("_parameters", "_buffers", "_modules")
            and any(not isinstance(t, torch.nn.Parameter) for t in tensors_in(value))
        ]
        below = [
            entry
            for entry in objective.layout.parameters
            if entry.name.startswith(f"{name}." if name else "")
        ]
        is_merged = getattr(module, "merged", False) is True
        if not (held or is_merged) or not below:
            continue
        other = vector.clone()
        for entry in below:  # by no power of two, which a normalised layer might not notice
            other[entry.place] = other[entry.place] * 1.5 + 0.01
        evaluator.write(other)
        if _count(evaluator, batch) != whole:
            continue
        silent = f"the parameters of {name or 'the model'} ({type(module).__name__}) have no say in"
        if is_merged:
            raise ObjectiveError(
                f"{silent} the loss, as it says that they are merged into other weights; take "
                "them out (unmerge_adapter() in peft) before the objective is made"
            )
        raise ObjectiveError(
            f"{silent} the loss, and it holds a tensor, {held[0]}: most likely a cache of what "
            "evaluation mode computed from them before; drop it before the objective is made"
        )


def _outputs(objective: Objective, evaluator: Evaluator, batch: Batch) -> list[torch.Tensor]:
    if not isinstance(objective.data, Samples):
        return []  # the losses were compared
    return tensors_in(evaluator.outputs(_copied(batch)))


def _check_means(
    objective: Objective, evaluator: Evaluator, batch: Batch, vector: torch.Tensor, whole: Count
) -> None:
    """Losses must be means over samples, and outputs must not depend on their neighbours."""
    if batch.size < 2:
        return
    evaluator.write(vector)
    third = max(1, batch.size // 3)
    parts = [_taken(batch, slice(0, third)), _taken(batch, slice(third, None))]
    sums = [_count(evaluator, part) for part in parts]
    outputs = evaluator.outputs(_copied(batch))
    is_rows = isinstance(outputs, torch.Tensor) and outputs.shape[:1] == (batch.size,)
    if is_rows and objective.takes_one_tensor:
        # One by one: a mean with weights of its own hides in large parts.
        few = torch.linspace(0, batch.size - 1, min(batch.size, 64), dtype=torch.float64).long()
        singles = [
            objective.count_outputs(outputs[i : i + 1], _taken(batch, slice(i, i + 1)))
            for i in few.tolist()
        ]
        together = objective.count_outputs(outputs[few], _taken(batch, few))
        _check_mean(together, singles, "loss", outputs, batch)
    _check_mean(whole, sums, "batch", outputs, batch)


def _taken(batch: Batch, chosen: Any) -> Batch:
    def take(tensor: torch.Tensor) -> torch.Tensor:
        return tensor[chosen].clone() if tensor.dim() else tensor.clone()

    args, kwargs, targets = map_tensors((batch.args, batch.kwargs, batch.targets), take)
    size = len(range(batch.size)[chosen]) if isinstance(chosen, slice) else len(chosen)
    return Batch(args, kwargs, targets, size)


def _check_mean(whole: Count, parts: list[Count], what: str, outputs: Any, batch: Batch) -> None:
    for name in whole:
        if name == ACCURACY:
            continue
        mean = _mean([whole[name]])
        again = _mean([part[name] for part in parts])
        if _same(mean, again, _ROUNDING):
            continue
        subject = "loss_fn" if name == LOSS else f"metric {name}"
        if what == "loss":
            raise ObjectiveError(
                f"expected {subject} to return a mean over samples, but it gives {mean:.6g} for a "
                f"batch and {again:.6g} as the mean over its parts; use a mean, or return "
                f"(sum, weight){_broadcast(outputs, batch.targets)}"
            )
        raise ObjectiveError(
            f"the outputs for a sample depend on what else is in its batch ({mean:.6g} against "
            f"{again:.6g} in two parts), so the loss depends on the batch size; look for batch "
            "statistics that are used in evaluation mode, or for a mean over something else than "
            "samples, as over tokens that are not ignored: return (sum, weight) for that"
            f"{_broadcast(outputs, batch.targets)}"
        )


def _broadcast(outputs: Any, targets: Any) -> str:
    """A hint where outputs (N, 1) and targets (N,) make a table of N × N differences."""
    if not isinstance(outputs, torch.Tensor) or not isinstance(targets, torch.Tensor):
        return ""
    if outputs.shape == targets.shape or targets.numel() != outputs.numel():
        return ""
    return (
        f"; outputs of shape {tuple(outputs.shape)} and targets of shape {tuple(targets.shape)} "
        "are broadcast against each other: give both one shape, as by outputs.squeeze(1)"
    )


def _mean(sums: list[Sum]) -> float:
    weight = sum(part[1] for part in sums)
    return sum(part[0] for part in sums) / weight if weight else float("nan")


def _same(one: float, other: float, tolerance: float) -> bool:
    if one == other or (one != one and other != other):
        return True
    return abs(one - other) <= tolerance * max(abs(one), abs(other), 1e-6)


def _outputs_differ(one: list[torch.Tensor], other: list[torch.Tensor], tolerance: float) -> bool:
    return len(one) != len(other) or any(
        a.shape != b.shape
        or not torch.allclose(
            a.to(b.dtype), b, rtol=tolerance, atol=tolerance, equal_nan=b.is_floating_point()
        )
        for a, b in zip(one, other, strict=True)
    )


def _check_against_owner(objective: Objective, vector: torch.Tensor) -> None:
    """The loss must be that of the model with the vector written into its parameters."""
    batch = _some(objective, _CHECKED_SAMPLES)
    evaluator = Evaluator(objective)
    with evaluator.lent():
        evaluator.write(vector)
        ours = _count(evaluator, batch)
    owners = _as_owner(objective, evaluator, vector, _copied(batch))
    if owners is None:
        return
    for name in owners:
        one, other = _mean([ours.get(name, (0.0, 0.0))]), _mean([owners[name]])
        if not _same(one, other, _ROUNDING):
            raise ObjectiveError(
                f"the {name} at a vector of parameters would be {one:.6g}, but the model with "
                f"that vector written into it has {other:.6g}: "
                f"{_likely_cause(objective, evaluator)}; check=False takes the first as it is"
            )


def _as_owner(
    objective: Objective, evaluator: Evaluator, vector: torch.Tensor, batch: Batch
) -> Count | None:
    """What the owner would get: the vector in the real parameters, `eval()`, the loss afresh."""
    model = unwrapped(objective.model)
    wide = evaluator.replica.widened
    modes = overrides_train(model) and not model.training
    if wide or not evaluator.replica.is_private:
        return None  # the numbers would be rounded; or there is nothing else to evaluate on
    # Adapters that are merged in evaluation mode come apart before the vector goes in.
    with torch.inference_mode(False), undisturbed(model), unfused(), torch.no_grad():
        if modes:
            used = copy_model(objective.model)
            used.train()
            _write(in_order(used, objective.layout), vector, objective)
        with _written(objective, vector):
            if not modes:
                try:
                    used = copy.deepcopy(model)
                except Exception:
                    used = copy_model(objective.model)
            return _owners_count(objective, used.eval(), batch)


def _owners_count(objective: Objective, used: torch.nn.Module, batch: Batch) -> Count:
    # A loss that reads the owner's model sees what is evaluated, merged weights too.
    with (
        random_fork(used),
        linked(objective.model, used),
        torch.set_grad_enabled(objective.needs_gradients),
    ):
        return objective.count_batch(used, batch)


@contextmanager
def _written(objective: Objective, vector: torch.Tensor) -> Iterator[None]:
    """The vector in the caller's own parameters, whose bytes come back whatever happens."""
    parameters = in_order(objective.model, objective.layout)
    before = [parameter.detach().clone() for parameter in parameters]

    def put_back() -> None:
        for parameter, value in zip(parameters, before, strict=True):
            parameter.data.copy_(value)

    try:
        _write(parameters, vector, objective)
        yield
    finally:
        surely(put_back)


def _write(parameters: list[torch.Tensor], vector: torch.Tensor, objective: Objective) -> None:
    for entry, parameter in zip(objective.layout.parameters, parameters, strict=True):
        target = parameter.data
        target = torch.view_as_real(target) if target.is_complex() else target
        target.copy_(vector[entry.place].view(entry.shape))


def _likely_cause(objective: Objective, evaluator: Evaluator) -> str:
    """What most often makes the two differ, by what the model has."""
    model = unwrapped(objective.model)
    own = [
        f"{name or 'the model'} ({type(module).__name__})"
        for name, module in model.named_modules()
        if type(module).train is not torch.nn.Module.train
        and not isinstance(module, torch.jit.ScriptModule)
    ]
    if own:
        return f"{own[0]} has a train() of its own, which may merge or cache weights"
    held = [
        f"{name or 'the model'}.{attribute}"
        for name, module in model.named_modules()
        for attribute, value in vars(module).items()
        if isinstance(value, torch.Tensor)
    ]
    if held:
        return (
            f"{held[0]} is a tensor that is no parameter and no buffer, perhaps computed from "
            "parameters before; compute it in forward()"
        )
    return (
        "something of the model's outputs is computed outside of forward(), or kept between calls"
    )
