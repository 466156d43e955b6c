"""Whether a model computes with what it kept of other parameters."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from losspath.errors import ObjectiveError
from losspath.evaluation.base import BaseObjective
from losspath.evaluation.checking.counting import copied, counted, is_close, mean_of
from losspath.evaluation.data import Batch, map_tensors, tensors_in
from losspath.evaluation.evaluator import Evaluator
from losspath.evaluation.quantities import LOSS, Count
from losspath.objects import own_attributes, walk
from losspath.parameters import Entry, named_modules

# Of more places that hold tensors not all are tried.
_TRIED = 64
_ROUNDING = 1e-6

# The attributes of a module or an object, and the name of one.
Place = tuple[Any, str]


def check_caches(
    objective: BaseObjective,
    evaluator: Evaluator,
    batch: Batch,
    other: Batch | None,
    vector: torch.Tensor,
) -> None:
    """Refuses a model that holds something computed from parameters that it had before.

    Args:
        objective: the objective.
        evaluator: where the vector is written.
        batch: what is evaluated.
        other: other samples, of another number where possible.
        vector: the vector.

    Raises:
        ObjectiveError: parameters without a say beside a tensor that is held, or a tensor that the
            model makes anew, and otherwise, where it is missing.
    """
    evaluator.write(vector)
    whole = counted(evaluator, batch)
    if not evaluator.replica.is_private or not np.isfinite(whole[LOSS][0]):
        return
    _check_say(objective, evaluator, batch, vector, whole)
    evaluator.write(vector)
    _check_refilled(objective, evaluator, batch, other, whole)


def _held_by(module: torch.nn.Module) -> dict[str, Place]:
    """Attributes that tensors are held in which are neither parameters nor buffers.

    Those of plain objects too, by their paths.
    """
    places: dict[str, Place] = {}
    for held in walk([own_attributes(module, hooks=True)]):
        if held.path and held.is_container:
            continue  # what is in it is in the attribute that holds it
        table = held.table if held.path else vars(module)
        for name, value in held.items:
            if any(not isinstance(tensor, torch.nn.Parameter) for tensor in tensors_in(value)):
                places[".".join(map(str, (*held.path, name)))] = table, name
    return places


def _check_say(
    objective: BaseObjective, evaluator: Evaluator, batch: Batch, vector: torch.Tensor, whole: Count
) -> None:
    """Where a module holds a tensor or is merged, its parameters must still have a say."""

    def counted_at(other: torch.Tensor) -> Count:
        evaluator.write(other)
        return counted(evaluator, batch)

    for name, module in named_modules(evaluator.replica.model):
        held = _held_by(module)
        below = [
            entry
            for entry in objective.layout.parameters
            if entry.name.startswith(f"{name}." if name else "")
        ]
        is_merged = getattr(module, "merged", False) is True
        if not (held or is_merged) or not below:
            continue
        if any(counted_at(other) != whole for other in _others(vector, below)):
            continue
        if not is_merged and not _is_used(evaluator, batch, vector, list(held.values()), whole):
            continue  # as of an auxiliary head, that evaluation does without
        silent = f"the parameters of {name or 'the model'} ({type(module).__name__}) have no say in"
        if is_merged:
            raise ObjectiveError(
                f"{silent} the loss, as it says that they are merged into other weights; take "
                "them out (unmerge_adapter() in peft) before the objective is made"
            )
        raise ObjectiveError(
            f"{silent} the loss, and it holds a tensor, {next(iter(held))}: most likely a "
            "cache of what evaluation mode computed from them before; drop it before the "
            "objective is made"
        )


def _is_used(
    evaluator: Evaluator, batch: Batch, vector: torch.Tensor, places: list[Place], whole: Count
) -> bool:
    """Whether the loss is another where the tensors that are held have other numbers."""

    def other(tensor: torch.Tensor) -> torch.Tensor:
        is_number = tensor.is_floating_point() or tensor.is_complex()
        return tensor * -1.7 + 0.3 if is_number else torch.zeros_like(tensor)

    evaluator.write(vector)
    try:
        for own, attribute in places:  # others in their place, as held ones may repeat their memory
            own[attribute] = map_tensors(own[attribute], other)
        return evaluator.objective.count_batch(evaluator.replica.model, copied(batch)) != whole
    except Exception:  # the model does not do without them
        return True
    finally:
        evaluator.restore()


def _others(vector: torch.Tensor, entries: list[Entry]) -> Iterator[torch.Tensor]:
    """A vector with other numbers in some places, near and far.

    Several, as a layer behind may take only the sign or the nearest whole number; and by no power
    of two, which a normalised layer might not notice.
    """
    generator = torch.Generator("cpu").manual_seed(1)
    for factor, shift, noise in (
        (1.5, 0.01, 0.0),
        (-3.0, 0.1, 0.3),
        (0.7, 0.0, 1.0),
        (5.0, 0.0, 3),
    ):
        other = vector.clone()
        for entry in entries:
            values = other[entry.place]
            drawn = torch.randn(values.shape, generator=generator, dtype=values.dtype, device="cpu")
            other[entry.place] = values * factor + shift + drawn * noise
        yield other


def _check_refilled(
    objective: BaseObjective, evaluator: Evaluator, batch: Batch, other: Batch | None, whole: Count
) -> None:
    """What a model makes where it is missing must be what it holds, unless data decide it."""
    places: dict[str, Place] = {}
    for name, module in named_modules(evaluator.replica.model):
        for path, place in _held_by(module).items():
            places[f"{name}.{path}" if name else path] = place
    if not places or other is None:
        return
    together = _refilled(evaluator, batch, list(places.values()), False)
    if together is not None and _is_same(together[0], whole):
        return
    for name, place in list(places.items())[:_TRIED]:
        for absent in (False, True):
            found = _refilled(evaluator, batch, [place], absent)
            if found is None or not found[1] or _is_same(found[0], whole):
                continue
            again = _refilled(evaluator, other, [place], absent)
            if again is not None and _are_equal(found[1], again[1]):
                raise ObjectiveError(
                    f"{name} holds a tensor that the model computes where there is none, and now "
                    "with other numbers: most likely a cache of what it computed from its "
                    "parameters before; empty it before the objective is made"
                )


def _refilled(
    evaluator: Evaluator, batch: Batch, places: list[Place], absent: bool
) -> tuple[Count, list[torch.Tensor]] | None:
    """A batch with nothing held in some places, and what is held there then.

    None where the model does not go without.
    """
    for own, attribute in places:
        held = own[attribute]
        if isinstance(held, (dict, list)):
            held.clear()
        elif absent:
            del own[attribute]
        else:
            own[attribute] = None
    try:
        count = evaluator.objective.count_batch(evaluator.replica.model, copied(batch))
        made = [own.get(attribute) for own, attribute in places]
        return count, [tensor.clone() for tensor in tensors_in(made)]
    except Exception:
        return None
    finally:
        evaluator.restore()


def _is_same(one: Count, other: Count) -> bool:
    return is_close(mean_of([one[LOSS]]), mean_of([other[LOSS]]), _ROUNDING)


def _are_equal(ones: list[torch.Tensor], others: list[torch.Tensor]) -> bool:
    return len(ones) == len(others) and all(
        one.shape == other.shape and bool(torch.equal(one, other))
        for one, other in zip(ones, others, strict=True)
    )
