"""The network that an adapter is of, whose tensors are frozen beside the adapter's path."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from pathlib import Path

import torch

from losspath.errors import ArgumentError, DamagedError, ModelError, UnsupportedError
from losspath.importing.formats import ADAPTER_CONFIG, read_checkpoint
from losspath.importing.look import Look, differences, taken_of
from losspath.importing.state_dicts import Choice, Tensors

_OUTER = "base_model.model."  # what a `PeftModel` of LoRA begins its network's names with
_LORA, _SAVED = ".lora_", ".modules_to_save."
# What LoRA may begin with that takes something out of the network's own weights.
_CHANGING = ("pissa", "olora", "corda", "loftq")


def read_base(place: Path, look: Look) -> Tensors:
    """The tensors of the network that an adapter is of, named as in a `PeftModel`.

    Args:
        place: a file or folder as of a checkpoint.
        look: at the adapter.

    Returns:
        By name; those that the adapter has itself, such as biases that are trained, are left out.

    Raises:
        ArgumentError: the checkpoint is no adapter.
        UnsupportedError: it is an adapter of another kind than LoRA.
        ModelError: the network is not the one that the adapter is of; what differs is named.
    """
    _check_adapter(look)
    tensors, _ = taken_of(read_checkpoint(place, Choice()), None, place)
    _check_network(tensors, place, look)
    found = in_adapted(tensors, look.shapes)
    return {name: tensor for name, tensor in found.items() if name not in look.shapes}


def in_adapted(tensors: Mapping[str, torch.Tensor], adapter: Collection[str]) -> Tensors:
    """A network's tensors by what they are called in the `PeftModel` around it.

    Args:
        tensors: by their names in the network.
        adapter: the names of the adapter's tensors.
    """
    adapted = {name.partition(_LORA)[0] for name in adapter if _LORA in name}
    saved = {name.partition(_SAVED)[0] for name in adapter if _SAVED in name}
    return {_called(_OUTER + name, adapted, saved): each for name, each in tensors.items()}


def _called(name: str, adapted: Collection[str], saved: Collection[str]) -> str:
    """What a tensor is called where the module that holds it was put into another."""
    parts = name.split(".")
    for end in range(len(parts) - 1, 0, -1):
        module, rest = ".".join(parts[:end]), parts[end:]
        if module in adapted and len(rest) == 1:
            return ".".join([module, "base_layer", *rest])
        if module in saved:
            return ".".join([module, "original_module", *rest])
    return name


def _check_adapter(look: Look) -> None:
    if not look.is_adapter:
        raise ArgumentError(
            f"expected checkpoints of an adapter with base= (--base), got {look.place}, which is "
            "none: it has the weights of its network itself"
        )
    config = look.place / ADAPTER_CONFIG
    try:
        content = json.loads(config.read_text()) if config.exists() else {}
        kind, begun = content.get("peft_type", "LORA"), content.get("init_lora_weights")
    except (ValueError, AttributeError) as cause:
        raise DamagedError(f"{config} cannot be read: {cause}") from cause
    if kind != "LORA":
        raise UnsupportedError(
            f"expected an adapter of LoRA with base= (--base), got {kind} in {look.place}; leave "
            "base out, and pass --objective with the whole network"
        )
    if isinstance(begun, str) and begun.lower().startswith(_CHANGING):
        raise UnsupportedError(
            f"{look.place} began with init_lora_weights={begun!r}, which changes the network's own "
            "weights, so that they are not those of its base; leave base out, and pass --objective "
            "with the whole network"
        )


def _check_network(tensors: Tensors, place: Path, look: Look) -> None:
    """Compares what an adapter tells of its network's shapes with a network."""
    wanted: dict[str, tuple[int, ...] | None] = {}
    for name, shape in look.shapes.items():
        module, _, rest = name.partition(_LORA)
        inner = module.removeprefix(_OUTER)
        if rest.startswith(("A.", "embedding_A.")):
            other = look.shapes.get(f"{module}{_LORA}{rest.replace('A.', 'B.', 1)}")
            weight = tensors.get(f"{inner}.weight")
            if weight is None and f"{module}.base_layer.weight" in look.shapes:
                continue  # saved with the adapter, as it is another one of the base
            sides: tuple[int, ...] | None = None if other is None else (shape[1], other[0])
            # Linear layers hold (out, in), GPT-2's (in, out), embeddings (words, size).
            if sides and weight is not None and sorted(sides) == sorted(weight.shape[:2]):
                sides = tuple(weight.shape)
            wanted[f"{inner}.weight"] = sides
        elif _SAVED in name:
            saved, _, rest = name.removeprefix(_OUTER).partition(f"{_SAVED}default.")
            if (own := f"{saved}.{rest}") in tensors:  # a head that is new is not in the base
                wanted[own] = tuple(shape)
    others = {name: tuple(tensors[name].shape) for name in wanted if name in tensors}
    if told := differences(wanted, others):
        raise ModelError(
            f"{place} is not the base of the adapter {look.place}: {told}; pass the network that "
            "it was trained on as base= (--base)"
        )
