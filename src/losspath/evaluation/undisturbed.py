"""Evaluating a model without leaving a trace."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch.nn.utils import parametrize

from losspath.evaluation.attributes import attributes_of
from losspath.evaluation.links import afterwards


@contextmanager
def _exact(on_gpu: bool) -> Iterator[None]:
    flags = [(torch.backends.cudnn, "allow_tf32"), (torch.backends.cuda.matmul, "allow_tf32")]
    flags = flags if on_gpu else []
    before = [getattr(owner, name) for owner, name in flags]

    def put_back() -> None:
        for (owner, name), value in zip(flags, before, strict=True):
            setattr(owner, name, value)

    with afterwards(put_back):
        for owner, name in flags:
            setattr(owner, name, False)
        yield


@contextmanager
def random_fork(model: torch.nn.Module) -> Iterator[None]:
    """Inside, random numbers are drawn from copies of the states; afterwards all are as before."""
    devices = sorted({p.device.index or 0 for p in model.parameters() if p.device.type == "cuda"})
    python_state, numpy_state = random.getstate(), np.random.get_state()  # noqa: NPY002

    def put_back() -> None:
        random.setstate(python_state)
        np.random.set_state(numpy_state)  # noqa: NPY002

    with afterwards(put_back), torch.random.fork_rng(devices=devices):
        yield


@contextmanager
def _uncached() -> Iterator[None]:
    """Outside of what keeps parametrised tensors (`parametrize.cached`): they are to be others."""
    before = parametrize._cache_enabled, parametrize._cache

    def put_back() -> None:
        parametrize._cache_enabled, parametrize._cache = before

    with afterwards(put_back):
        parametrize._cache_enabled, parametrize._cache = 0, {}
        yield


@contextmanager
def undisturbed(model: torch.nn.Module) -> Iterator[None]:
    """Evaluation mode inside; afterwards modes, attributes, buffers and random states as before.

    Flags are set without calling `train()` or `eval()`, whose effects could not be taken back.
    On a GPU float32 is computed as such: what TF32 leaves out would be seen in a surface.
    """
    modes = [(module, module.training) for module in model.modules()]
    attributes = attributes_of(model)
    buffers = [(buffer, buffer.detach().clone(), buffer._version) for buffer in model.buffers()]
    gradients = [(parameter, parameter.grad) for parameter in model.parameters()]

    def put_back() -> None:
        attributes()
        for module, training in modes:
            module.training = training
        for buffer, value, version in buffers:
            if buffer._version != version:
                buffer.data.copy_(value)
        for parameter, gradient in gradients:
            if parameter.grad is not gradient:
                parameter.grad = gradient

    on_gpu = any(parameter.device.type == "cuda" for parameter in model.parameters())
    with afterwards(put_back), random_fork(model), _exact(on_gpu), _uncached():
        for module, _ in modes:
            module.training = False
        yield
