"""Evaluating a model without leaving a trace."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch.nn.utils import parametrize

from losspath.evaluation.isolation.attributes import attributes_of
from losspath.evaluation.isolation.links import afterwards

# The caller's model is lent to one evaluation at a time, whichever threads ask.
LENT = threading.RLock()


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
def _uncast() -> Iterator[None]:
    """Outside of what autocast keeps of parameters: it does not see that they are written."""
    before = torch.is_autocast_cache_enabled()

    with afterwards(lambda: torch.set_autocast_cache_enabled(before)):
        torch.set_autocast_cache_enabled(False)
        yield


@contextmanager
def evaluation_mode(model: torch.nn.Module, writes_gradients: bool = False) -> Iterator[None]:
    """Evaluation mode inside; afterwards modes, attributes, buffers and random states as before.

    Flags are set without calling `train()` or `eval()`, whose effects could not be taken back.
    On a GPU float32 is computed as such: what TF32 leaves out would be seen in a surface.

    Args:
        model: what is evaluated.
        writes_gradients: whether the loss may write into `grad` of the model's parameters, so that
            its numbers have to be kept too.
    """
    modes = [(module, module.training) for module in model.modules()]
    attributes = attributes_of(model)
    buffers = [(buffer, buffer.detach().clone(), buffer._version) for buffer in model.buffers()]
    gradients = [(parameter, parameter.grad) for parameter in model.parameters()]
    numbers = [
        (gradient, gradient.detach().clone(), gradient._version)
        for _, gradient in gradients
        if writes_gradients and gradient is not None and not gradient.is_inference()
    ]

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
        for gradient, value, version in numbers:
            if gradient._version != version:
                gradient.data.copy_(value)

    on_gpu = any(parameter.device.type == "cuda" for parameter in model.parameters())
    with afterwards(put_back), random_fork(model), _exact(on_gpu), _uncached(), _uncast():
        for module, _ in modes:
            module.training = False
        yield
