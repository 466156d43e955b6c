"""Finding the state dict in what a checkpoint holds."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import torch

from losspath.errors import ArgumentError, UnsupportedError

Tensors = dict[str, torch.Tensor]
Weights = Literal["raw", "averaged"]
WEIGHTS: tuple[Weights, ...] = get_args(Weights)

# Lightning keeps what it trains here where it saves an average as the state dict.
_TRAINED = "current_model_state"
_OF_AVERAGES = ("ema", "avg", "average", "averaged", "swa", "shadow")
_DEPTH = 4
EPOCHS = ("epoch",)
_MODEL = "state_dict"
_STEPS = (
    *("global_step", "global_steps", "step", "steps", "num_steps"),
    *("iteration", "iterations", "iter", "iter_num", "num_updates"),
)
_COUNTS = (*_STEPS, *EPOCHS)


@dataclass(frozen=True)
class Checkpoint:
    """What a checkpoint holds of a network.

    Attributes:
        tensors: by name, on the CPU; read from the file as they are used, where it allows that.
        step: how many steps were taken, where the checkpoint says so.
        is_ordered: whether the tensors are in the order that the network has them in.
        epoch: the epoch, where the checkpoint says it.
        is_adapter: whether it is meant to hold a part of the network only.
    """

    tensors: Tensors
    step: int | None
    is_ordered: bool = True
    epoch: int | None = None
    is_adapter: bool = False


@dataclass(frozen=True)
class Choice:
    """Which of several state dicts is meant.

    Attributes:
        key: where it is, by keys with dots between.
        weights: "raw" for those that training went on from, "averaged" for their average.
        prefix: what its names begin with; others are left out, and it is taken off.
    """

    key: str | None = None
    weights: Weights | None = None
    prefix: str = ""


def chosen(content: object, choice: Choice, file: Path) -> dict[str, torch.Tensor]:
    """The state dict that is meant.

    Args:
        content: what a checkpoint holds.
        choice: which one.
        file: the checkpoint, for errors.

    Raises:
        UnsupportedError: there is none.
        ArgumentError: there are several, and `choice` does not say which; or it says one that is
            not there.
    """
    found = {".".join(at): each for at, each in _state_dicts(content, ())}
    if not found:
        raise UnsupportedError(
            f"{file} holds no state dict: expected tensors by their names, at the top or under a "
            f"key, got {_told(content)}"
        )
    tensors = found[_key(found, choice, file)]
    named = {name: each for name, each in tensors.items() if isinstance(each, torch.Tensor)}
    if not choice.prefix:
        return named
    cut = {
        name.removeprefix(choice.prefix): each
        for name, each in named.items()
        if name.startswith(choice.prefix)
    }
    if not cut:
        some = ", ".join(list(named)[:3])
        raise ArgumentError(
            f"expected a prefix that names in {file} begin with, got {choice.prefix!r}; they are "
            f"like {some}"
        )
    return cut


def _key(found: Mapping[str, Mapping[str, Any]], choice: Choice, file: Path) -> str:
    if choice.key is not None:
        if choice.key not in found:
            raise ArgumentError(
                f"expected a key of a state dict in {file}, got {choice.key!r}; there are "
                f"{_listed(found)}"
            )
        return _checked(choice.key, choice, file)
    averages = [key for key in found if _is_average(key, found)]
    raw = [key for key in found if key not in averages]
    if not averages and choice.weights == "averaged":
        averages = [key for key in found if is_called_average(key)]
        if not averages:
            raise ArgumentError(f"{file} holds no averaged weights; there are {_listed(found)}")
        return _only(averages, found, file)
    if averages and raw:
        if choice.weights is None:
            raise ArgumentError(
                f"{file} holds two sets of weights, {_listed(found)}; pass weights='raw' for those "
                "that training went on from, or weights='averaged' (--weights)"
            )
        return _only(raw if choice.weights == "raw" else averages, found, file)
    return _checked(_only([*found], found, file), choice, file)


def _checked(key: str, choice: Choice, file: Path) -> str:
    """A key, if it is not called what `weights` says it is not."""
    if choice.weights == ("raw" if is_called_average(key) else "averaged") and key:
        raise ArgumentError(
            f"expected {choice.weights} weights in {file}, got those under {key}, which are "
            f"{'averaged' if choice.weights == 'raw' else 'not'} by their name"
        )
    return key


def is_called_average(key: str) -> bool:
    """Whether a key or name has a word for an average in it."""
    words = key.lower().replace(".", "_").split("_")
    return any(word in _OF_AVERAGES for word in words)


def _only(keys: list[str], found: Mapping[str, Mapping[str, Any]], file: Path) -> str:
    if len(keys) > 1:
        raise ArgumentError(
            f"{file} holds several state dicts, {_listed({key: found[key] for key in keys})}; say "
            "which by its key (key=, --key)"
        )
    return keys[0]


def _is_average(key: str, found: Mapping[str, Mapping[str, Any]]) -> bool:
    """Whether a state dict is an average of another one there, of the same names."""
    others = [each for other, each in found.items() if other != key]
    if not any(set(other) == set(found[key]) for other in others):
        return False
    if key == _MODEL and _TRAINED in found:
        return True
    return is_called_average(key)


def _state_dicts(content: object, at: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
    if not isinstance(content, Mapping) or len(at) > _DEPTH or "param_groups" in content:
        return
    if _is_state_dict(content):
        yield at, content
        return
    direct = {
        name: value
        for name, value in content.items()
        if isinstance(name, str) and isinstance(value, torch.Tensor) and name not in _COUNTS
    }
    if any(
        each.is_floating_point() and ("." in name or each.dim() > 1)
        for name, each in direct.items()
    ):
        yield at, direct  # a state dict with other things beside its tensors
    for key, value in content.items():
        if isinstance(key, str):
            yield from _state_dicts(value, (*at, key))


def _is_state_dict(content: Mapping[Any, Any]) -> bool:
    """Whether it is tensors by name, and not only counters, or states of random numbers."""
    if not all(isinstance(key, str) for key in content):
        return False
    tensors = [each for each in content.values() if isinstance(each, torch.Tensor)]
    others = [
        each
        for name, each in content.items()
        if not isinstance(each, torch.Tensor) and not name.endswith("_extra_state")
    ]
    return not others and any(
        each.is_floating_point() or each.is_complex() for each in tensors if each.numel() > 1
    )


def _listed(found: Mapping[str, Mapping[str, Any]]) -> str:
    return " and ".join(f"{key or 'the top'} ({len(each)} tensors)" for key, each in found.items())


def _told(content: object) -> str:
    if isinstance(content, Mapping):
        return f"a mapping with {', '.join(map(str, list(content)[:6])) or 'nothing in it'}"
    return f"a {type(content).__name__}"


def step_in(notes: Mapping[Any, Any], names: Sequence[str] = _STEPS) -> int | None:
    """The number of steps that notes in a checkpoint tell; None where they do not.

    Args:
        notes: by their names.
        names: under which it may be.
    """
    for name in names:
        value = notes.get(name)
        if isinstance(value, torch.Tensor) and value.numel() == 1:
            value = value.item()
        if isinstance(value, str):
            try:
                value = float(value)
            except ValueError:
                continue
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
            return value
    return None
