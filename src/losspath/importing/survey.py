"""What checkpoints have in common, found out before anything is written."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from losspath.errors import LosspathWarning, ModelError
from losspath.importing.base import read_base
from losspath.importing.files import natural
from losspath.importing.linked_base import digest_of_base
from losspath.importing.look import SHOWN, Changes, Look, Reading, differences, is_parameter
from losspath.importing.shell import BUFFER, FROZEN, PARAMETER, Shell
from losspath.importing.state_dicts import Tensors, is_called_average
from losspath.parameters import (
    Layout,
    named_buffers,
    named_parameters,
    prefix_in,
    unwrapped,
    without_wrappers,
)

_EXACT = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


@dataclass(frozen=True)
class Survey:
    """What all checkpoints have in common.

    Attributes:
        kinds: "parameter", "frozen" or "buffer" by name, in order.
        dtypes: of parameters, the widest that a checkpoint has.
        dtype: of the rows.
        shapes: of all tensors.
        notes: where it comes from, for the run's metadata.
        reading: how a checkpoint is read.
        wrapper: what was taken off all names, as DDP's.
        base: tensors of the network that an adapter is of, by their names in the run.
    """

    kinds: dict[str, str]
    dtypes: dict[str, torch.dtype]
    dtype: str
    shapes: Mapping[str, torch.Size]
    notes: dict[str, Any]
    reading: Reading
    wrapper: str
    base: Tensors

    def shell(self) -> Shell:
        """A module for the tensors."""
        return Shell(self.kinds, self.dtypes)

    def read(self, place: Path) -> Tensors:
        """The tensors of a checkpoint, and of its base, by their names in the run."""
        return {**self.base, **self.reading.read(place)}


def survey(
    looks: Sequence[Look],
    changes: Changes,
    reading: Reading,
    model: torch.nn.Module | None,
    names: Collection[str] | None,
    base: Path | None,
    is_linked: bool,
) -> Survey:
    """What checkpoints have in common.

    Args:
        looks: at the checkpoints, by their steps.
        changes: which of their tensors change.
        reading: which state dict, and which tensors of it.
        model: the network, where it is known.
        names: of the tensors of the run that is gone on with, if there is one.
        base: the network that the checkpoints are adapters of, if it is given.
        is_linked: whether the run refers to the checkpoints, and so to the base.

    Raises:
        ModelError: they are not of one network, or of another than the model.
    """
    first = looks[0]
    shapes, dtypes = _agreed(looks)
    kinds = _kinds_by_names(first, shapes, dtypes, changes)
    own = {} if base is None else read_base(base, first)
    for name, tensor in own.items():
        shapes[name], dtypes[name] = tensor.shape, tensor.dtype
        kinds[name] = FROZEN if is_parameter(name, tensor.dtype) else BUFFER
    put_on = ""
    if model is not None:
        is_partial = first.is_adapter or reading.patterns is not None
        kinds, put_on = _kinds_of_model(model, kinds, shapes, first, is_partial)
    if names is not None:
        put_on = prefix_in(first.wrapper, kinds, names)
    rows = {name: _row_dtype(dtypes[name]) for name, kind in kinds.items() if kind != BUFFER}
    taken = [name for name, kind in kinds.items() if kind == PARAMETER]
    if not taken:
        some = ", ".join(list(shapes)[:SHOWN])
        raise ModelError(f"{first.place} holds no parameters: {some} are buffers")
    _warn_of_averages(taken, first.place)
    own = {name: tensor for name, tensor in own.items() if name in kinds}
    is_wide = any(rows[name] in (torch.float64, torch.complex128) for name in taken)
    are_wrapped = not put_on and all(look.wrapper == first.wrapper for look in looks)
    return Survey(
        kinds={put_on + name: kind for name, kind in kinds.items()},
        dtypes={put_on + name: dtype for name, dtype in rows.items()},
        dtype="float64" if is_wide else "float32",
        shapes={put_on + name: shape for name, shape in shapes.items()},
        notes=_notes(looks, reading) | _notes_of_base(base, own, kinds, is_linked),
        reading=replace(reading, put_on=put_on),
        wrapper=first.wrapper if are_wrapped else "",
        base=own,
    )


def _agreed(
    looks: Sequence[Look],
) -> tuple[dict[str, torch.Size], dict[str, torch.dtype]]:
    """The shapes that all checkpoints have, and dtypes that hold the numbers of all exactly."""
    first = looks[0]
    shapes = _in_order(first)
    dtypes = {name: first.dtypes[name] for name in shapes}
    for look in looks[1:]:
        _check_same(shapes, look, first.place)
        for name in shapes:
            dtypes[name] = _promoted(name, dtypes[name], look.dtypes[name], look.place)
    return shapes, dtypes


def _kinds_by_names(
    first: Look,
    shapes: Mapping[str, torch.Size],
    dtypes: Mapping[str, torch.dtype],
    changes: Changes,
) -> dict[str, str]:
    """Kinds as names, dtypes and what changes tell them."""
    kinds = {name: PARAMETER if is_parameter(name, dtypes[name]) else BUFFER for name in shapes}
    if changes.names and not changes.are_most:
        kinds |= dict.fromkeys(_frozen(kinds, shapes, changes.names), FROZEN)
    if first.is_adapter:  # saved with an embedding that is adapted, and not trained
        kinds |= {name: FROZEN for name in shapes if name.endswith(".base_layer.weight")}
    return kinds


def _in_order(look: Look) -> dict[str, torch.Size]:
    """Shapes in the order that the network has tensors in, or else that of their names."""
    names = look.shapes if look.is_ordered else sorted(look.shapes, key=natural)
    return {name: look.shapes[name] for name in names}


def _notes(looks: Sequence[Look], reading: Reading) -> dict[str, Any]:
    """Where a run comes from, for its metadata."""
    choice, patterns, tied = reading.choice, reading.patterns, looks[0].tied
    return {
        "from": [str(look.place) for look in looks],
        **({"key": choice.key} if choice.key else {}),
        **({"weights": choice.weights} if choice.weights else {}),
        **({"prefix": choice.prefix} if choice.prefix else {}),
        **({"parameters": list(patterns)} if patterns is not None else {}),
        **({"tied": tied} if tied else {}),
    }


def _notes_of_base(
    base: Path | None, own: Tensors, kinds: Mapping[str, str], is_linked: bool
) -> dict[str, Any]:
    """Which base a run has, and what vouches for one that is referred to."""
    if base is None:
        return {}
    told = {"base": str(base)}
    if not is_linked:
        return told
    named = {name: kinds[name] for name in own}
    return {**told, "base_digest": f"{digest_of_base(own):016x}", "base_tensors": named}


def _check_same(shapes: Mapping[str, torch.Size], look: Look, first: Path) -> None:
    if told := differences(shapes, look.shapes):
        raise ModelError(
            f"{look.place} is not of the same network as {first}: {told}; take what they share by "
            'parameters=["PATTERN", …] (--parameters)'
        )


def _warn_of_averages(names: Sequence[str], place: Path) -> None:
    """Warns where a network holds an average of its own parameters, which would count twice."""
    for top in dict.fromkeys(name.partition(".")[0] for name in names):
        if not is_called_average(top):
            continue
        inside = {
            name.partition(".")[2].removeprefix("module.")
            for name in names
            if name.startswith(f"{top}.")
        }
        others = [name for name in names if not name.startswith(f"{top}.")]
        known = {*others, *(name.partition(".")[2] for name in others)}
        if inside and inside <= known:
            warnings.warn(
                f"{place} has each parameter twice, as {top} is an average by its name, so both "
                "count in sizes and planes; take one by prefix= or parameters=[…]",
                LosspathWarning,
                stacklevel=5,
            )


def _frozen(
    kinds: Mapping[str, str], shapes: Mapping[str, torch.Size], changing: Collection[str]
) -> list[str]:
    """Parameters that never change, where these are most of the numbers.

    A few that do not change are trained and get no gradient, such as a bias before BatchNorm.
    """
    taken = [name for name, kind in kinds.items() if kind == PARAMETER]
    still = [name for name in taken if name not in changing]
    total, same = (sum(shapes[name].numel() for name in names) for names in (taken, still))
    return still if 2 * same > total else []


def _kinds_of_model(
    model: torch.nn.Module,
    found: Mapping[str, str],
    shapes: Mapping[str, torch.Size],
    look: Look,
    is_partial: bool,
) -> tuple[dict[str, str], str]:
    """Kinds as the model has them, in its order, and what its names begin with besides.

    Args:
        model: the network.
        found: the kinds as names tell them.
        shapes: of the checkpoint's tensors.
        look: at the checkpoint.
        is_partial: whether frozen parameters and others may be missing, as in an adapter.
    """
    inner = unwrapped(model)
    layout = Layout.of(inner, dtype="float64", allow_complex=True)
    rows = {entry.name for entry in layout.parameters}
    own = dict(named_parameters(inner)) | dict(named_buffers(inner))
    buffers = {name for name, _ in named_buffers(inner)}
    saved, wrapper = without_wrappers(inner.state_dict())
    known = {wrapper + name for name in saved}  # those of tied tensors too
    put_on = prefix_in(look.wrapper, found, {*own, *known})
    kinds: dict[str, str] = {}
    for full, tensor in own.items():
        name = full.removeprefix(put_on)
        kind = PARAMETER if full in rows else BUFFER if full in buffers else FROZEN
        if name in found and shapes[name] == tensor.shape:
            kinds[name] = kind
        elif name in found or kind == PARAMETER or (kind == FROZEN and not is_partial):
            there = f"of shape {list(shapes[name])}" if name in found else "absent"
            raise ModelError(
                f"the checkpoint {look.place} is not of the model: {name} {list(tensor.shape)} is "
                f"{there}; names there are like {', '.join(list(found)[:SHOWN])}. Look at prefix= "
                "and key=, or leave the model out"
            )
    extra = [name for name in found if name not in kinds and put_on + name not in known]
    if extra:
        raise ModelError(
            f"the checkpoint {look.place} is not of the model, which has no "
            + ", ".join(extra[:SHOWN])
            + (f" and {len(extra) - SHOWN} others" if len(extra) > SHOWN else "")
            + "; look at prefix= and key=, or leave them out by parameters=[…]"
        )
    return kinds, put_on


def _promoted(name: str, one: torch.dtype, other: torch.dtype, place: Path) -> torch.dtype:
    """A dtype that holds the numbers of both exactly."""
    if one == other:
        return one
    try:
        return torch.promote_types(_row_dtype(one), _row_dtype(other))
    except RuntimeError:
        raise ModelError(
            f"{name} is {other} in {place} and {one} in the checkpoint before, which no dtype "
            "holds both; leave it out by parameters=[…]"
        ) from None


def _row_dtype(dtype: torch.dtype) -> torch.dtype:
    """What a recorder takes a parameter as: float8 has no other exact form there."""
    return dtype if dtype in _EXACT or not dtype.is_floating_point else torch.float32
