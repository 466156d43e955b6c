"""Looking at checkpoints once, before anything is written: their names, shapes and steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from losspath.errors import ArgumentError, ModelError
from losspath.importing.formats import read_checkpoint
from losspath.importing.state_dicts import Checkpoint, Choice, Tensors
from losspath.parameters import digest_of_numbers, layer_of, matches, without_wrappers

# What normalisation layers keep beside their parameters.
_STATISTICS = (
    *("running_mean", "running_var", "num_batches_tracked"),
    *("weight_u", "weight_v", "_u", "_v"),  # spectral norm's
)
SHOWN = 3


@dataclass(frozen=True)
class Reading:
    """How the tensors of a run are read out of a checkpoint.

    Attributes:
        choice: which state dict.
        patterns: which tensors of it; None for all.
        put_on: what the run's names begin with besides: see `without_wrappers`.
    """

    choice: Choice
    patterns: Sequence[str] | None = None
    put_on: str = ""

    def read(self, place: Path) -> Tensors:
        """The tensors of a checkpoint by their names in the run."""
        tensors, _ = taken_of(read_checkpoint(place, self.choice), self.patterns, place)
        return {self.put_on + name: tensor for name, tensor in tensors.items()}


@dataclass(frozen=True)
class Look:
    """What a checkpoint holds, but for the numbers.

    Attributes:
        place: the file or folder.
        step: how many steps were taken, where it says so.
        epoch: the epoch, where it says so.
        shapes: of the tensors that are meant, by canonical names.
        dtypes: of them.
        tied: names of tensors that are others of them, with those.
        wrapper: what was taken off all names as DDP's; see `without_wrappers`.
        is_ordered: whether the tensors are in the order that the network has them in.
        is_adapter: whether it is meant to hold a part of the network only.
    """

    place: Path
    step: int | None
    epoch: int | None
    shapes: dict[str, torch.Size]
    dtypes: dict[str, torch.dtype]
    tied: dict[str, str]
    wrapper: str
    is_ordered: bool
    is_adapter: bool


class Changes:
    """Which tensors are not the same in all checkpoints.

    A tensor is read until it is known to change, and none any more once most of the numbers do.

    Attributes:
        names: of those that change, as far as was looked.
        are_most: whether at least half of the parameters' numbers change.
    """

    def __init__(self) -> None:
        self.names: set[str] = set()
        self.are_most = False
        self._digests: dict[str, int] = {}

    def see(self, tensors: Tensors) -> None:
        """Compares a checkpoint with the first one."""
        if self.are_most:
            return
        for name, tensor in tensors.items():
            if name not in self.names:
                digest = digest_of_numbers([tensor.detach().reshape(-1)])
                if self._digests.setdefault(name, digest) != digest:
                    self.names.add(name)
        counts = {n: t.numel() for n, t in tensors.items() if is_parameter(n, t.dtype)}
        changing = sum(count for name, count in counts.items() if name in self.names)
        self.are_most = 2 * changing >= sum(counts.values())


def look_at(places: Sequence[Path], reading: Reading, compares: bool) -> tuple[list[Look], Changes]:
    """Looks at checkpoints, each opened once and one at a time.

    Args:
        places: files and folders.
        reading: which state dict, and which tensors of it.
        compares: whether to find out which tensors change, for which their numbers are read.

    Raises:
        ModelError: a tensor has no numbers, or two have one name.
        ArgumentError: no name matches.
    """
    looks, changes = [], Changes()
    for place in places:
        checkpoint = read_checkpoint(place, reading.choice)
        tensors, tied = taken_of(checkpoint, reading.patterns, place)
        if compares and len(places) > 1:
            changes.see(tensors)
        looks.append(
            Look(
                *(place, checkpoint.step, checkpoint.epoch),
                {name: tensor.shape for name, tensor in tensors.items()},
                {name: tensor.dtype for name, tensor in tensors.items()},
                *(tied, without_wrappers(checkpoint.tensors)[1]),
                *(checkpoint.is_ordered, checkpoint.is_adapter),
            )
        )
    return looks, changes


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
            some = ", ".join(list(checkpoint.tensors)[:SHOWN])
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


def is_parameter(name: str, dtype: torch.dtype) -> bool:
    """Whether a tensor is a parameter by its name and dtype, and no buffer."""
    return (dtype.is_floating_point or dtype.is_complex) and not _is_statistic(name)


def differences(
    shapes: Mapping[str, tuple[int, ...] | None], others: Mapping[str, tuple[int, ...]]
) -> str:
    """How the tensors of one checkpoint differ from those of another, in words; "" where not.

    Args:
        shapes: of the first one's tensors; None for a shape that is not known.
        others: of the other one's.
    """
    missing = [name for name in shapes if name not in others]
    extra = [name for name in others if name not in shapes]
    reshaped = [
        f"{name} {list(others[name])} for {list(shape)}"
        for name, shape in shapes.items()
        if shape is not None and name in others and tuple(others[name]) != tuple(shape)
    ]
    return "; ".join(
        f"{what} {', '.join(names[:SHOWN])}" + (" and others" if len(names) > SHOWN else "")
        for what, names in (
            ("it lacks", missing),
            ("it has besides", extra),
            ("of another shape are", reshaped),
        )
        if names
    )
