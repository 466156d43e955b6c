"""What checkpoints hold, looked at before anything is written."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import xxhash

from losspath.errors import ArgumentError, LosspathWarning, ModelError
from losspath.importing.files import natural
from losspath.importing.formats import read_checkpoint
from losspath.importing.shell import BUFFER, FROZEN, PARAMETER, Shell
from losspath.importing.state_dicts import Checkpoint, Choice, Tensors, is_called_average
from losspath.parameters import (
    Layout,
    layer_of,
    matches,
    named_buffers,
    named_parameters,
    unwrapped,
    without_wrappers,
)

# What normalisation layers keep beside their parameters.
_STATISTICS = (
    *("running_mean", "running_var", "num_batches_tracked"),
    *("weight_u", "weight_v", "_u", "_v"),  # spectral norm's
)
_EXACT = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_SHOWN = 3


@dataclass(frozen=True)
class Survey:
    """What all checkpoints have in common.

    Attributes:
        kinds: "parameter", "frozen" or "buffer" by name, in order.
        dtypes: of parameters, the widest that a checkpoint has.
        dtype: of the rows.
        shapes: of all tensors.
        notes: where it comes from, for the run's metadata.
        choice: which state dict.
        patterns: which tensors; None for all.
    """

    kinds: dict[str, str]
    dtypes: dict[str, torch.dtype]
    dtype: str
    shapes: Mapping[str, torch.Size]
    notes: dict[str, Any]
    choice: Choice
    patterns: Sequence[str] | None

    def shell(self) -> Shell:
        """A module for the tensors."""
        return Shell(self.kinds, self.dtypes)

    def read(self, place: Path) -> Tensors:
        """The tensors of a checkpoint by canonical names."""
        return taken_of(read_checkpoint(place, self.choice), self.patterns, place)[0]


def survey(
    dated: Sequence[tuple[int, Path]],
    choice: Choice,
    patterns: Sequence[str] | None,
    model: torch.nn.Module | None,
) -> Survey:
    """Looks at all checkpoints, and at every number in them once.

    Args:
        dated: checkpoints by their steps.
        choice: which state dict.
        patterns: of names.
        model: the network, where it is known.

    Raises:
        ModelError: they are not of one network.
    """
    _, first = dated[0]
    checkpoint = read_checkpoint(first, choice)
    tensors, tied = taken_of(checkpoint, patterns, first)
    names = list(tensors) if checkpoint.is_ordered else sorted(tensors, key=natural)
    shapes = {name: tensors[name].shape for name in names}
    dtypes = {name: tensors[name].dtype for name in names}
    digests = {name: _digest(tensors[name]) for name in names}
    changing: set[str] = set()
    for _, place in dated[1:]:
        others, _ = taken_of(read_checkpoint(place, choice), patterns, place)
        _check_same(shapes, others, first, place)
        for name in names:
            tensor = others[name]
            dtypes[name] = _promoted(name, dtypes[name], tensor.dtype, place)
            if name not in changing and _digest(tensor) != digests[name]:
                changing.add(name)
    kinds = {name: _kind(name, dtypes[name]) for name in names}
    if changing:
        kinds |= dict.fromkeys(_frozen(kinds, shapes, changing), FROZEN)
    if model is not None:
        is_partial = checkpoint.is_adapter or patterns is not None
        kinds = _kinds_of_model(model, kinds, shapes, first, is_partial)
    rows = {name: _row_dtype(dtypes[name]) for name, kind in kinds.items() if kind != BUFFER}
    taken = [name for name, kind in kinds.items() if kind == PARAMETER]
    if not taken:
        raise ModelError(f"{first} holds no parameters: {', '.join(names[:_SHOWN])} are buffers")
    _warn_of_averages(taken, first)
    is_wide = any(rows[name] in (torch.float64, torch.complex128) for name in taken)
    notes = {
        "from": [str(place) for _, place in dated],
        **({"key": choice.key} if choice.key else {}),
        **({"weights": choice.weights} if choice.weights else {}),
        **({"prefix": choice.prefix} if choice.prefix else {}),
        **({"parameters": list(patterns)} if patterns is not None else {}),
        **({"tied": tied} if tied else {}),
    }
    dtype = "float64" if is_wide else "float32"
    return Survey(kinds, rows, dtype, shapes, notes, choice, patterns)


def taken_of(
    checkpoint: Checkpoint, patterns: Sequence[str] | None, place: Path
) -> tuple[Tensors, dict[str, str]]:
    """The tensors that are meant, by canonical names, each once; and what is tied to them."""
    inside, _ = without_wrappers(checkpoint.tensors)
    saved: dict[str, str] = {}
    for name, other in zip(inside, checkpoint.tensors, strict=True):
        if saved.setdefault(name, other) != other:
            raise ModelError(
                f"{place} has tensors that have one name once what wrappers add is left out, such "
                f"as {saved[name]} and {other}; take one of them by parameters=[…]"
            )
    named = {name: checkpoint.tensors[other] for name, other in saved.items()}
    if patterns is not None:
        named = _matching(named, patterns)
        if not named:
            some = ", ".join(list(checkpoint.tensors)[:_SHOWN])
            raise ArgumentError(
                f"expected parameters that match {' or '.join(patterns)} in {place}, whose names "
                f"are like {some}"
            )
    kept: Tensors = {}
    tied: dict[str, str] = {}
    held: dict[object, str] = {}
    for name, tensor in named.items():
        _check(name, tensor, place)
        memory = (tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype)
        if tensor.numel() and memory in held:
            tied[name] = held[memory]
            continue
        held[memory] = name
        kept[name] = tensor
    return kept, tied


def _matching(named: Tensors, patterns: Sequence[str]) -> Tensors:
    """Those whose names match, and the statistics of modules of which any does."""
    found = [name for name in named if matches(name, patterns)]
    modules = {layer_of(name) for name in found}
    kept = {*found, *(n for n in named if _is_statistic(n) and layer_of(n) in modules)}
    return {name: tensor for name, tensor in named.items() if name in kept}


def _is_statistic(name: str) -> bool:
    return name.rpartition(".")[2] in _STATISTICS


def _check(name: str, tensor: torch.Tensor, place: Path) -> None:
    if tensor.is_meta or tensor.layout != torch.strided or tensor.is_quantized:
        raise ModelError(
            f"expected numbers for {name} in {place}, got a tensor of layout {tensor.layout}"
            + (" on the meta device" if tensor.is_meta else "")
            + "; leave it out by parameters=[…]"
        )
    if tensor.shape == (0,) and name.endswith(("weight", "bias")):
        raise ModelError(
            f"{name} in {place} has no numbers, as where DeepSpeed's ZeRO-3 saved a part of the "
            "model only; put it together first (zero_to_fp32.py in that folder), or leave it out "
            "by parameters=[…]"
        )


def _check_same(
    shapes: Mapping[str, torch.Size], others: Tensors, first: Path, place: Path
) -> None:
    missing = [name for name in shapes if name not in others]
    extra = [name for name in others if name not in shapes]
    reshaped = [
        f"{name} {list(others[name].shape)} for {list(shape)}"
        for name, shape in shapes.items()
        if name in others and others[name].shape != shape
    ]
    told = [
        f"{what} {', '.join(names[:_SHOWN])}" + (" and others" if len(names) > _SHOWN else "")
        for what, names in (
            ("it lacks", missing),
            ("it has besides", extra),
            ("of another shape are", reshaped),
        )
        if names
    ]
    if told:
        raise ModelError(
            f"{place} is not of the same network as {first}: {'; '.join(told)}; take what they "
            'share by parameters=["PATTERN", …] (--parameters)'
        )


def _kind(name: str, dtype: torch.dtype) -> str:
    is_number = dtype.is_floating_point or dtype.is_complex
    return PARAMETER if is_number and not _is_statistic(name) else BUFFER


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
    place: Path,
    is_partial: bool,
) -> dict[str, str]:
    """Kinds as the model has them, in its order.

    Args:
        model: the network.
        found: the kinds as names tell them.
        shapes: of the checkpoint's tensors.
        place: the checkpoint.
        is_partial: whether frozen parameters and others may be missing, as in an adapter.
    """
    inner = unwrapped(model)
    layout = Layout.of(inner, dtype="float64", allow_complex=True)
    rows = {entry.name for entry in layout.parameters}
    own = dict(named_parameters(inner)) | dict(named_buffers(inner))
    buffers = {name for name, _ in named_buffers(inner)}
    kinds: dict[str, str] = {}
    for name, tensor in own.items():
        kind = PARAMETER if name in rows else BUFFER if name in buffers else FROZEN
        if name in found and shapes[name] == tensor.shape:
            kinds[name] = kind
        elif name in found or kind == PARAMETER or (kind == FROZEN and not is_partial):
            there = f"of shape {list(shapes[name])}" if name in found else "absent"
            raise ModelError(
                f"the checkpoint {place} is not of the model: {name} {list(tensor.shape)} is "
                f"{there}; names there are like {', '.join(list(found)[:_SHOWN])}. Look at prefix= "
                "and key=, or leave the model out"
            )
    known = set(without_wrappers(inner.state_dict())[0])  # those of tied tensors too
    extra = [name for name in found if name not in kinds and name not in known]
    if extra:
        raise ModelError(
            f"the checkpoint {place} is not of the model, which has no {', '.join(extra[:_SHOWN])}"
            + (f" and {len(extra) - _SHOWN} others" if len(extra) > _SHOWN else "")
            + "; look at prefix= and key=, or leave them out by parameters=[…]"
        )
    return kinds


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


def _digest(tensor: torch.Tensor) -> int:
    hasher = xxhash.xxh3_64()
    for part in tensor.detach().reshape(-1).split(1 << 22):  # type: ignore[no-untyped-call]
        hasher.update(part.contiguous().view(torch.uint8).numpy().data)
    return hasher.intdigest()
