"""A private copy of a model, on which parameter vectors are evaluated.

Whatever a forward pass changes (buffers, caches, attributes that hooks set) it changes on the copy.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch

from losspath.arguments import described
from losspath.errors import ArgumentError, ModelError
from losspath.evaluation.isolation.attributes import SMALL, numbers_of, put_back, remembered
from losspath.evaluation.isolation.links import afterwards, is_plain, linked
from losspath.objects import leaves_in
from losspath.parameters import (
    Layout,
    SideTensor,
    named_modules,
    named_parameters,
    side_tensors,
    unwrapped,
)

_HALF = (torch.float16, torch.bfloat16)

Sides = Mapping[str, torch.Tensor | None]
"""Side tensors by name; None for a buffer that is not there."""


_OTHERS: Sides = {}  # what is written is neither the base nor a state's


def copy_model(model: torch.nn.Module, shared: Iterable[Any] = ()) -> torch.nn.Module:
    """A deep copy in which tensors share memory as they do in the model.

    Args:
        model: the model.
        shared: objects that the copy has as they are.

    `copy.deepcopy` alone parts a stored view from what it is a view of, and refuses tensors with a
    history. Wrappers around the whole model (DDP, `torch.compile`) are left out.

    Raises:
        Exception: whatever a module raises that cannot be copied.
    """
    model = unwrapped(model)
    memo: dict[int, Any] = {id(each): each for each in shared}
    storages: dict[int, torch.UntypedStorage] = {}
    leaves = leaves_in([vars(module) for module in model.modules()])
    originals = [each for each in leaves if isinstance(each, torch.Tensor)]
    for tensor in originals:
        if id(tensor) not in memo and is_plain(tensor):
            memo[id(tensor)] = _copy_tensor(tensor, storages)
    copied: torch.nn.Module = copy.deepcopy(model, memo)
    own = {id(held) for held in (*model.modules(), *model.parameters())}
    for name, held in (*copied.named_modules(), *copied.named_parameters()):
        if id(held) in own:
            raise ModelError(f"{name or 'the model'} is not copied by its own __deepcopy__")
    return copied


def _copy_tensor(tensor: torch.Tensor, storages: dict[int, torch.UntypedStorage]) -> torch.Tensor:
    storage = tensor.untyped_storage()
    place = storage.data_ptr()
    if place not in storages or not place:
        storages[place] = storage.clone()  # type: ignore[no-untyped-call]
    value = torch.empty(0, dtype=tensor.dtype, device=tensor.device)
    value.set_(storages[place], tensor.storage_offset(), tensor.shape, tensor.stride())
    made: torch.Tensor = value
    if isinstance(tensor, torch.nn.Parameter):
        made = torch.nn.Parameter(value, tensor.requires_grad)
    elif type(tensor) is torch.nn.Buffer:
        made = torch.nn.Buffer(value, persistent=getattr(tensor, "persistent", True))
    elif tensor.is_leaf and tensor.requires_grad:
        made = value.requires_grad_()
    made.__dict__.update(
        {name: item for name, item in tensor.__dict__.items() if not callable(item)}
    )
    return made


def overrides_train(model: torch.nn.Module) -> bool:
    """Whether some module does more in `train()` and `eval()` than to set a flag."""
    return any(map(_has_own_train, model.modules()))


def _has_own_train(module: torch.nn.Module) -> bool:
    own = (torch.nn.Module.train, torch.jit.ScriptModule.train)
    return type(module).train not in own or type(module).eval is not torch.nn.Module.eval


def merged_modules(model: torch.nn.Module) -> set[str]:
    """Names of modules that say that they are merged, and that evaluation mode does not take apart.

    Their own parameters have no say in what they compute.
    """
    return {
        name
        for name, module in model.named_modules()
        if getattr(module, "merged", False) is True and not _has_own_train(module)
    }


class Replica:
    """A model's copy in evaluation mode, whose parameters and side tensors can be written.

    Args:
        model: the caller's model; it is not changed.
        layout: which parameters vectors are of.
        base: side tensors to begin with, in place of the model's own.
        widens: make float32 of half precisions.
        deletes: take the attribute away for a buffer that is not there, in place of None.
        shared: objects that the copy has as they are: see `losspath.evaluation.isolation.reached`.

    Attributes:
        model: the copy.
        is_private: False where the model cannot be copied, and is itself what is evaluated.
        widened: whether half precisions were widened to float32.
        why_shared: why the model cannot be copied.
        merges: whether evaluation mode changes parameters, as adapters do that merge in it.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        layout: Layout,
        base: Sides | None = None,
        widens: bool = True,
        deletes: bool = False,
        shared: Iterable[Any] = (),
    ) -> None:
        self.why_shared = ""
        self._deletes = deletes
        try:
            self.model = copy_model(model, shared)
        except Exception as cause:
            # A generator, a lock or an open file in a module: the model itself has to do.
            self.why_shared = f"{type(cause).__name__}: {cause}"
            self.model = unwrapped(model)
        self.is_private = not self.why_shared
        self._cycles = self.is_private and overrides_train(self.model)
        if self._cycles:
            self.model.train()  # adapters that are merged come apart, caches are dropped
        self.widened = widens and self.is_private and widen(self.model)
        self.layout = layout
        self._rows = self._find_rows()
        self._sides = side_tensors(self.model, layout)
        self._own = [each.tensor.detach().clone() for each in self._sides]
        self._own_by_name = {e.name: own for e, own in zip(self._sides, self._own, strict=True)}
        self._base = base
        self._written: Sides | None = None
        self._link: Callable[[], None] | None = None
        self._attributes_before = remembered(self.model)
        if base is not None and self.is_private:
            self.write_sides(base)
            self._written = base
        elif base is not None:  # written with the first vector, where they are put back again
            self._written = _OTHERS
        trained = self._values() if self._cycles else []
        self._enter_evaluation()
        self.merges = self._cycles and not _equal(trained, self._values())

    def _values(self) -> list[torch.Tensor]:
        return [parameter.detach().clone() for _, parameter in named_parameters(self.model)]

    def _find_rows(self) -> list[torch.Tensor]:
        # By name alone, as those of half precision have another dtype by now.
        named = dict(named_parameters(self.model))
        rows = [named[entry.name] for entry in self.layout.parameters]
        for entry, row in zip(self.layout.parameters, rows, strict=True):
            if any(not step and n > 1 for step, n in zip(row.stride(), row.shape, strict=True)):
                raise ModelError(
                    f"expected a parameter {entry.name} with memory for each of its numbers, got "
                    f"one of shape {tuple(row.shape)} that repeats fewer (expand()), which no "
                    "vector can be written into; make it by expand(…).clone()"
                )
        return rows

    def _enter_evaluation(self) -> None:
        if self.is_private:
            self.model.eval()
        self._attributes = remembered(self.model)
        self._kept = [
            (each.tensor, self._kept_value(each), each.tensor._version)
            for each in side_tensors(self.model, self.layout)
        ]

    def _kept_value(self, side: SideTensor) -> torch.Tensor:
        """What `restore` puts back."""
        if side.kind == "frozen" and not self._cycles:  # they may be large, and are held already
            written = None if self._written is None else self._written.get(side.name)
            if written is not None:
                return written
            if side.name in self._own_by_name:
                return self._own_by_name[side.name]
        return side.tensor.detach().clone()

    def keep_buffers(self) -> None:
        """Takes the buffers as they are now for those that `restore` puts back."""
        self._enter_evaluation()
        self._written = None if self._base is not None else {}

    def to_double(self) -> None:
        """Makes float64 of the copy's floating-point numbers."""
        self.model._apply(  # type: ignore[no-untyped-call]
            lambda tensor: tensor.double() if tensor.is_floating_point() else tensor
        )
        self._rows = self._find_rows()
        self._sides = side_tensors(self.model, self.layout)
        self._attributes_before = remembered(self.model)
        self._enter_evaluation()

    @property
    def parameters(self) -> list[torch.Tensor]:
        """The copy's parameters that vectors are of, in order."""
        return self._rows

    def write(self, vector: torch.Tensor, sides: Sides | None = None) -> None:
        """Writes a parameter vector, and side tensors where they are another than the base's.

        Args:
            vector: (P,) numbers of any float dtype.
            sides: side tensors by name; None for those that the copy began with.
        """
        wanted = self._base if sides is None else sides
        if self._cycles:
            self.model.train()
            self._rows = self._find_rows()
        if self._cycles or wanted is not self._written:
            self._put_back_own()
        with torch.no_grad():
            for entry, parameter in zip(self.layout.parameters, self._rows, strict=True):
                target = parameter.data
                if target.is_complex():
                    target = torch.view_as_real(target)
                target.copy_(vector[entry.place].view(entry.shape))
            if self._cycles or wanted is not self._written:
                self._written = wanted
                self.write_sides(wanted or {})
                trained = self._values() if self._cycles and not self.merges else []
                self._enter_evaluation()
                if trained:  # an adapter of zeros does not show it
                    self.merges = not _equal(trained, self._values())
        if self._cycles and self._link is not None:
            self._link()  # merging may have made other tensors

    def _put_back_own(self) -> None:
        if self.is_private and not self._cycles:
            put_back(self._attributes_before)  # buffers that came or grew with other side tensors
        for each, own in zip(self._sides, self._own, strict=True):
            each.tensor.data.copy_(own)

    def side_tensors(self, names: Collection[str]) -> dict[str, torch.Tensor]:
        """The copy's side tensors of some names, as far as it has them."""
        found = side_tensors(self.model, self.layout)
        return {each.name: each.tensor for each in found if each.name in names}

    def write_sides(self, sides: Sides) -> None:
        """Writes recorded side tensors into those of the copy, by name."""
        present = {each.name: each for each in side_tensors(self.model, self.layout)}
        for name, value in sides.items():
            if not (value is None or isinstance(value, torch.Tensor)):
                raise ArgumentError(
                    "expected sides as tensors by name, such as path.sides(-1), got "
                    f"{described(value)} for {name!r}"
                )
            each = present.get(name)
            if value is not None and each is not None and each.tensor.shape == value.shape:
                each.tensor.data.copy_(value)
            elif value is not None and each is None and self._is_parameter(name):
                self._check_tied(name, value, sides, present)
            elif value is None or each is None or each.kind == "buffer":
                self._set_buffer(name, value)
            else:
                raise ModelError(
                    f"the recorded path has a frozen parameter {name} of shape "
                    f"{tuple(value.shape)}, the objective's model one of "
                    f"{tuple(each.tensor.shape)}; make the objective with the recorded network"
                )

    def _is_parameter(self, name: str) -> bool:
        owner, _, attribute = name.rpartition(".")
        module = dict(named_modules(self.model)).get(owner)
        return module is not None and attribute in module._parameters

    def _check_tied(
        self, name: str, value: torch.Tensor, sides: Sides, present: Mapping[str, SideTensor]
    ) -> None:
        """Of a parameter that is another one in the model, the numbers must be that one's."""
        owner, _, attribute = name.rpartition(".")
        tensor = dict(named_modules(self.model))[owner]._parameters[attribute]
        first = next((each for each, side in present.items() if side.tensor is tensor), None)
        other = tensor if first is None else sides.get(first, tensor)
        if first is None or other is None or not torch.equal(other.cpu().to(value.dtype), value):
            raise ModelError(
                f"the recorded path has a frozen parameter {name} with numbers of its own, which "
                f"is {first or 'a trained one'} in the objective's model; make the objective with "
                "the recorded network"
            )

    def _set_buffer(self, name: str, value: torch.Tensor | None) -> None:
        """Gives a module a buffer in another size, or that training made later, or none."""
        owner, _, attribute = name.rpartition(".")
        module = dict(named_modules(self.model)).get(owner)  # of wrapped ones the innermost
        if module is None:  # told by `PathObjective`
            return
        if value is not None:
            device = next(module.parameters(), torch.empty(0, device="cpu")).device
            value = value.to(device, copy=True)
        if value is None and self._deletes:
            module._buffers.pop(attribute, None)
        elif attribute in module._buffers or not hasattr(module, attribute):
            module._buffers[attribute] = value
        else:  # a plain tensor by now
            setattr(module, attribute, value)

    def stored_view(self) -> str | None:
        """The name of a tensor that is held as an attribute and shares memory with the vector's.

        Its numbers follow the parameters, but no gradient goes through it.
        """
        places = {tensor.untyped_storage().data_ptr() for tensor in self._rows}
        for name, module in self.model.named_modules():
            for attribute, value in vars(module).items():
                is_tensor = type(value) is torch.Tensor and is_plain(value)
                if is_tensor and value.untyped_storage().data_ptr() in places:
                    return f"{name}.{attribute}" if name else attribute
        return None

    def restore(self) -> None:
        """Puts side tensors and attributes back that a forward pass has changed."""
        if self.is_private:
            put_back(self._attributes)
        for tensor, value, version in self._kept:
            if tensor.numel() <= SMALL or tensor._version != version:
                tensor.data.copy_(value)

    @contextmanager
    def linked(self, model: torch.nn.Module) -> Iterator[None]:
        """Lets the caller's parameters and buffers have the copy's numbers, for whoever reads them.

        That is a loss with a penalty, or a function of the model's that closes over it. No byte of
        the caller's is written: for the time being its tensors refer to the copy's memory.

        Args:
            model: the caller's.
        """
        if not self.is_private:
            with self._lent():
                yield
            return
        with linked(model, self.model) as link:
            self._link = link
            try:
                yield
            finally:
                self._link = None

    @contextmanager
    def _lent(self) -> Iterator[None]:
        """For a model that cannot be copied: its own numbers are put back afterwards."""
        tensors = [*self._rows, *(each.tensor for each in self._sides)]
        before = [tensor.detach().clone() for tensor in tensors]
        attributes = numbers_of(self.model)

        def put_numbers_back() -> None:
            _write_back(tensors, before)
            attributes()
            self._written = None if self._base is None else _OTHERS

        with afterwards(put_numbers_back):
            yield


def _write_back(tensors: list[torch.Tensor], before: list[torch.Tensor]) -> None:
    for tensor, value in zip(tensors, before, strict=True):
        tensor.data.copy_(value)


def _equal(ones: list[torch.Tensor], others: list[torch.Tensor]) -> bool:
    return len(ones) == len(others) and all(map(torch.equal, ones, others))


def widen(model: torch.nn.Module) -> bool:
    """Makes float32 of half precisions; whether there were any among the parameters."""
    if not any(parameter.dtype in _HALF for parameter in model.parameters()):
        return False
    model._apply(  # type: ignore[no-untyped-call]
        lambda tensor: tensor.float() if tensor.dtype in _HALF else tensor
    )
    return True
