"""What the modules of a network put out in a forward pass."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from losspath.errors import ArgumentError, UnsupportedError
from losspath.evaluation.data import Batch, Samples
from losspath.evaluation.isolation.attributes import attributes_of
from losspath.evaluation.isolation.replica import Sides
from losspath.evaluation.objective import Objective
from losspath.parameters import named_modules, unwrapped

_HALF = (torch.float16, torch.bfloat16)
# Where torch and the libraries around it define their activation functions.
_FUNCTIONS = ("activation", "activations")
_PARAMETRIZATIONS = "parametrizations"


@contextmanager
def evaluating(
    objective: Objective, parameters: npt.ArrayLike, sides: Sides | None = None
) -> Iterator[nn.Module]:
    """A network as it was at one moment, to look into: whatever is done to it is not kept.

    Args:
        objective: its model.
        parameters: (P,) the state.
        sides: buffers and frozen parameters of that moment, by name; the model's own by default.

    Yields:
        A private copy of the network, in evaluation mode, without gradients unless its forward pass
        needs some.

    Raises:
        ModelError: the state has not as many numbers as the model has parameters.
    """
    with (
        objective.evaluating(np.asarray(parameters), sides) as model,
        torch.set_grad_enabled(objective.needs_gradients),
    ):
        _show_inside(model)
        yield model


def _show_inside(model: nn.Module) -> None:
    """Puts what was compiled in place of its compiled form, in which no module tells that it ran.

    That of the whole model is left out already.
    """
    for module in list(model.modules()):
        for name, child in module.named_children():
            if child is not (plain := unwrapped(child)) and hasattr(child, "_orig_mod"):
                module._modules[name] = plain


def passes(
    objective: Objective, model: nn.Module, batches: Iterable[Batch]
) -> Iterator[tuple[Any, Any]]:
    """Forward passes, each of which finds the network as the first one did.

    Args:
        objective: which says how its model is called.
        model: the network that `evaluating` gave.
        batches: what to send through it.

    Yields:
        Outputs and targets of each batch; None where it is not known which these are.
    """
    restore = _restoring(model)
    for batch in batches:
        restore()
        targets = batch.targets
        if targets is None and batch.args and isinstance(batch.args[0], Mapping):
            targets = batch.args[0].get("labels")  # as transformers name them
        yield _outputs(objective, model, batch), targets


def _outputs(objective: Objective, model: nn.Module, batch: Batch) -> Any:
    """What the model puts out for a batch; None where the loss does not call it."""
    if isinstance(objective.data, Samples):
        return model(*batch.args, **batch.kwargs)
    found: list[Any] = []
    with watched({"": model}, lambda _, __, output: found.append(output)):
        objective.pass_batch(model, batch)
    return found[-1] if found else None


def _restoring(model: nn.Module) -> Callable[[], None]:
    """Puts back what a forward pass leaves behind: states of recurrent networks, caches, counts."""
    attributes = attributes_of(model)
    buffers = [(buffer, buffer.detach().clone()) for buffer in model.buffers()]

    def restore() -> None:
        attributes()
        for buffer, value in buffers:
            buffer.data.copy_(value)

    return restore


def tensors_in(value: Any) -> Iterator[torch.Tensor]:
    """The tensors in what a module takes or puts out: itself, or a table or sequence of several."""
    items: Iterable[Any] = ()
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, Mapping):
        items = value.values()
    elif isinstance(value, (tuple, list)):
        items = value
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        items = (getattr(value, each.name) for each in dataclasses.fields(value))
    for item in items:
        yield from tensors_in(item)


def first_tensor(value: Any) -> torch.Tensor | None:
    """The first tensor in it that has axes; a single number, such as a loss, is none."""
    return next((tensor for tensor in tensors_in(value) if tensor.dim()), None)


def taken(output: Any) -> torch.Tensor | str:
    """A copy of what a module has just put out, before anything rewrites it; or why there is none.

    Of several tensors the first that has axes, on the CPU and of no half precision. A function that
    works in place, such as ``ReLU(inplace=True)``, would change what is kept.
    """
    found = first_tensor(output)
    if found is None:
        return f"puts out a {type(output).__name__} without a tensor in it"
    if found.is_nested or found.is_complex():
        return f"puts out a {'nested' if found.is_nested else 'complex'} tensor"
    found = found.detach()
    if found.is_quantized:
        found = found.dequantize()
    if found.layout != torch.strided:
        found = found.to_dense()
    wide = found.is_floating_point() and found.dtype not in _HALF
    return found.to("cpu", found.dtype if wide else torch.float32, copy=True)


@contextmanager
def watched(
    modules: Mapping[str, nn.Module], tell: Callable[[str, Any, Any], None]
) -> Iterator[None]:
    """Calls ``tell(name, arguments, output)`` each time that a module has run.

    Args:
        modules: by name; those of TorchScript run without telling, and are passed over.
        tell: what to call; arguments are a tuple of positional and named ones.
    """
    handles = []
    try:
        for name, module in modules.items():
            if isinstance(module, torch.jit.ScriptModule):
                continue
            handles.append(
                module.register_forward_hook(
                    lambda _, args, kwargs, output, name=name: tell(name, (args, kwargs), output),
                    with_kwargs=True,
                )
            )
        yield
    finally:
        for handle in handles:
            handle.remove()


def modules_of(model: nn.Module, names: Sequence[str]) -> dict[str, nn.Module]:
    """Modules by their canonical names, or by any that they have.

    Raises:
        ArgumentError: the model has none of a name.
    """
    known = dict(named_modules(model))
    others = dict(model.named_modules(remove_duplicate=False))
    for name in names:
        if name not in known and name not in others:
            raise ArgumentError(
                f"expected modules among {', '.join(filter(None, known))}, got {name!r}"
            )
    return {name: known[name] if name in known else others[name] for name in names}


def outputs_in_parts(
    objective: Objective,
    parameters: npt.ArrayLike,
    names: Sequence[str],
    given: Iterable[Batch],
    sides: Sides | None = None,
    *,
    leave_out: bool = False,
) -> dict[str, list[npt.NDArray[Any]]]:
    """What modules put out: by name an array for each batch.

    Each output is copied at the moment that the module returns it, so a function that works in
    place afterwards does not change it. Of an output that holds several tensors, as of recurrent
    layers and attention, it is the first.

    Args:
        objective: its model.
        parameters: (P,) the state of the network.
        names: of the modules.
        given: the batches, as of the objective's own.
        sides: buffers and frozen parameters; see `evaluating`.
        leave_out: leave out modules that would be refused.

    Raises:
        ArgumentError: the model has no such module.
        UnsupportedError: a module has no tensor in its output, or does not run once in every pass.
    """
    kept: list[dict[str, list[torch.Tensor | str]]] = []
    with evaluating(objective, parameters, sides) as model:
        modules = modules_of(model, names)

        def keep(name: str, _: Any, output: Any) -> None:
            kept[-1][name].append(taken(output))

        def counted() -> Iterator[Batch]:
            for batch in given:
                kept.append({name: [] for name in names})
                yield batch

        with watched(modules, keep):
            for _ in passes(objective, model, counted()):
                pass
    found = {}
    for name in names:
        try:
            found[name] = [_only(name, part[name]).numpy() for part in kept]
        except UnsupportedError:
            if not leave_out:
                raise
    return found


def _only(name: str, runs: Sequence[torch.Tensor | str]) -> torch.Tensor:
    name = name or "the whole model"
    if not runs:
        raise UnsupportedError(
            f"{name} does not run in a forward pass: its branch is not taken, what holds it uses "
            "its parameters without calling it, or it is of TorchScript, whose modules do not tell "
            "that they run; choose other modules"
        )
    if len(runs) > 1:
        raise UnsupportedError(
            f"{name} runs {len(runs)} times in a forward pass, so it has no one output; choose "
            "other modules"
        )
    if isinstance(runs[0], str):
        raise UnsupportedError(f"{name} {runs[0]}; choose other modules")
    return runs[0]


def leaves(model: nn.Module) -> dict[str, nn.Module]:
    """The modules that have no others in them, by name, in the order of the model.

    A layer is a leaf also where its weight is computed by a parametrisation, a module of its own.
    """
    return {
        name: module
        for name, module in named_modules(model)
        if all(child == _PARAMETRIZATIONS for child, _ in module.named_children())
        and _PARAMETRIZATIONS not in name.split(".")
    }


def is_function(module: nn.Module) -> bool:
    """Whether a module is an activation function."""
    return not isinstance(module, nn.MultiheadAttention) and any(
        kind.__module__.rpartition(".")[2] in _FUNCTIONS for kind in type(module).__mro__
    )


def is_layer(module: nn.Module) -> bool:
    """Whether a module has parameters of its own, or such as are made by a parametrisation."""
    own = any(True for _ in module.parameters(recurse=False))
    return own or isinstance(getattr(module, _PARAMETRIZATIONS, None), nn.ModuleDict)


def default_modules(model: nn.Module, ran: Sequence[str] | None = None) -> tuple[str, ...]:
    """Activation functions and the last layer; all layers where no function is a module.

    Args:
        model: the network.
        ran: names of modules in the order in which they ran, to choose among; by default all, in
            the order of the model.
    """
    known = leaves(model)
    names = list(known) if ran is None else [name for name in ran if name in known]
    layers = [name for name in names if is_layer(known[name])]
    functions = {name for name in names if is_function(known[name])}
    chosen = {*functions, *layers[-1:]} if functions else set(layers)
    return tuple(name for name in names if name in chosen)
