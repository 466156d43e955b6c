"""Products with a Hessian that torch cannot give, by differences of gradients."""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch

from losspath.evaluation.data import Batch, map_tensors

Floats = npt.NDArray[np.float64]
Gradient = Callable[[Floats], Floats]

# Central differences are off by the square of the way, and by rounding over it: together least
# at the cube root of the precision.
WAY = float(np.finfo(np.float64).eps) ** (1 / 3)


def central_difference(gradient: Gradient, at: Floats, direction: Floats) -> Floats:
    """The Hessian times a direction, from the gradients before and behind a point.

    Args:
        gradient: the gradient (P,) at a point (P,), exact to double precision.
        at: (P,) the point.
        direction: (P,).
    """
    length = float(np.linalg.norm(direction))
    if not length > 0:
        return np.zeros(len(at))
    way = WAY * max(1.0, float(np.linalg.norm(at)))
    step = direction * (way / length)
    product: Floats = (gradient(at + step) - gradient(at - step)) * (length / (2 * way))
    return product


def doubtful_functions(*tensors: torch.Tensor) -> list[str]:
    """What in torch's graphs may lack a second derivative without torch saying so.

    Functions that somebody wrote in Python, whose gradient may be computed by kernels that torch
    knows nothing of, and those that are marked as differentiable once.
    """
    waiting = [tensor.grad_fn for tensor in tensors if tensor.grad_fn is not None]
    seen: set[torch.autograd.graph.Node] = set()
    found: dict[str, None] = {}
    is_once = False
    while waiting:
        node = waiting.pop()
        if node in seen:
            continue
        seen.add(node)
        if isinstance(node, torch.autograd.function.BackwardCFunction):
            found[node.name()] = None
        is_once |= node.name().endswith("autograd::Error")
        waiting += [each for each, _ in node.next_functions if each is not None]
    return list(found) or ["a function that is differentiable once"] * is_once


def in_double(batch: Batch) -> Batch:
    """A batch with its floating-point tensors in double precision."""

    def widen(tensor: torch.Tensor) -> torch.Tensor:
        return tensor.double() if tensor.is_floating_point() else tensor

    args, kwargs, targets = map_tensors((batch.args, batch.kwargs, batch.targets), widen)
    return Batch(args, kwargs, targets, batch.size)


def layers_behind(model: torch.nn.Module, reason: str) -> str:
    """Names of the layers that one of torch's messages is about, " in" before them; or nothing."""
    found = re.search(r"_*(\w+?)_(?:backward|forward)", reason)
    if found is None:
        return ""
    kernel = re.sub(r"[\W_]", "", found[1]).lower()
    names = [
        f"{name or 'the model'} ({type(module).__name__})"
        for name, module in model.named_modules()
        if kernel in type(module).__name__.lower()
    ]
    return f" in {', '.join(names[:3])}" if names else ""
