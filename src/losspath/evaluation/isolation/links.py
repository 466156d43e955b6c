"""A model that for the time being is what its copy is, for whoever reads it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from losspath.parameters import named_buffers, named_parameters, unwrapped


def is_plain(tensor: torch.Tensor) -> bool:
    """Whether a tensor is numbers in memory and nothing else."""
    return (
        type(tensor) in (torch.Tensor, torch.nn.Parameter, torch.nn.Buffer)
        and tensor.layout == torch.strided
        and not tensor.is_quantized
        and not tensor.is_conj()
        and not tensor.is_neg()
        and tensor.device.type != "meta"
    )


@contextmanager
def linked(model: torch.nn.Module, copied: torch.nn.Module) -> Iterator[Callable[[], None]]:
    """Lets a model be what its copy is, for a loss or a hook that reads the model.

    Its modules have the attributes of the copy's, whatever a forward pass of the copy sets among
    them; and its tensors, which may be held elsewhere, refer to the copy's memory. No byte of the
    model's is written.

    Args:
        model: the caller's.
        copied: the copy.

    Yields:
        What links them again, where the copy has other tensors by now.
    """
    owner = unwrapped(model)
    tensors = [
        (name, tensor, tensor.data)
        for name, tensor in _named_tensors(owner)
        if is_plain(tensor) and not tensor.is_inference()
    ]
    modules = _pairs(owner, copied)

    def link() -> None:
        copies = dict(_named_tensors(copied))
        for name, tensor, _ in tensors:
            made = copies.get(name)
            if made is not None and made.dtype == tensor.dtype and is_plain(made):
                tensor.data = made.data
        for module, _, made_of in modules:
            object.__setattr__(module, "__dict__", made_of.__dict__)

    def unlink() -> None:
        for module, own, _ in modules:
            object.__setattr__(module, "__dict__", own)
        for _, tensor, data in tensors:
            tensor.data = data

    with afterwards(unlink):
        link()
        yield link


def _named_tensors(model: torch.nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    yield from named_parameters(model)
    yield from named_buffers(model)


def _pairs(
    owner: torch.nn.Module, copied: torch.nn.Module
) -> list[tuple[torch.nn.Module, dict[str, Any], torch.nn.Module]]:
    """Modules of a model with the dicts of their attributes, and their copies."""
    copies = dict(copied.named_modules())
    pairs = []
    for name, module in owner.named_modules():
        made = copies.get(name)
        if made is None or made is module or type(made) is not type(module):
            continue
        if not isinstance(module, torch.jit.ScriptModule):
            pairs.append((module, module.__dict__, made))
    return pairs


@contextmanager
def afterwards(put_back: Callable[[], None]) -> Iterator[None]:
    """Puts things back at the end, even where one interrupt comes at any moment.

    Args:
        put_back: what does; it is called twice, so that one interrupt does not keep it from it.
    """
    try:
        try:
            yield
        finally:
            surely(put_back)
    finally:
        surely(put_back)


def surely(put_back: Callable[[], None]) -> None:
    """Calls what puts things back, again where an interrupt came in between."""
    interrupt: BaseException | None = None
    while True:
        try:
            put_back()
            break
        except KeyboardInterrupt as error:
            interrupt = error
    if interrupt is not None:
        raise interrupt
