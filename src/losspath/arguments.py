"""Arguments of public functions, checked before anything is done with them.

A decorator names the kind of each argument. What is wrong is refused by `ArgumentError`: what was
expected, and what came.
"""

from __future__ import annotations

import functools
import inspect
import numbers
import operator
import sys
from collections.abc import Callable, Mapping, Sequence
from contextvars import ContextVar
from os import PathLike, fspath
from typing import Any, ParamSpec, TypeVar, cast

import numpy as np

from losspath.errors import ArgumentError

P = ParamSpec("P")
R = TypeVar("R")

Check = Callable[[str, Any], Any]
"""Takes an argument's name and value, and gives the value to use, or raises `ArgumentError`."""

_operation: ContextVar[object | None] = ContextVar("operation", default=None)

_LONGEST = 60  # letters of a value that is shown


def checked(**checks: Check) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Decorates a function so that the named arguments are checked at each call.

    Args:
        checks: by the argument's name, what checks it; see the functions of this module. Default
            values are not checked.
    """

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        signature = inspect.signature(function)

        @functools.wraps(function)
        def call(*args: P.args, **kwargs: P.kwargs) -> R:
            try:
                bound = signature.bind(*args, **kwargs)
            except TypeError:
                return function(*args, **kwargs)  # Python says itself which argument it misses
            for name, value in bound.arguments.items():
                if name in checks:
                    bound.arguments[name] = checks[name](name, value)
            outer = _operation.get()
            token = _operation.set(outer or object())
            try:
                return function(*bound.args, **bound.kwargs)
            finally:
                _operation.reset(token)

        return call

    return decorate


def operation() -> object | None:
    """The same object within one call of a public function; None outside of all."""
    return _operation.get()


def described(value: object) -> str:
    """What came, in a few words."""
    kind = type(value).__name__
    shape = getattr(value, "shape", None)
    if isinstance(shape, tuple) and hasattr(value, "dtype"):
        what = "a tensor" if kind in ("Tensor", "Parameter") else "an array"
        return f"{what} of shape {tuple(shape)} and {str(value.dtype).removeprefix('torch.')}"
    if value is None or isinstance(value, (str, bytes, numbers.Number)):
        text = repr(value)
        return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"
    if isinstance(value, type):
        return f"the class {value.__name__}"
    if inspect.isroutine(value):
        return f"the function {getattr(value, '__name__', kind)}"
    if isinstance(value, (list, tuple, set, dict)):
        return f"a {kind} of {len(value)}" if value else f"an empty {kind}"
    return f"{'an' if kind[:1] in 'AEIOUaeiou' else 'a'} {kind}"


def range_of(values: Any) -> str:
    """The smallest and the largest finite number of an array, in a few words."""
    array = np.asarray(values, np.float64)
    finite = array[np.isfinite(array)]
    return f"{finite.min():.4g} to {finite.max():.4g}" if finite.size else "not known"


def _refused(name: str, expected: str, value: object) -> ArgumentError:
    return ArgumentError(f"expected {name} as {expected}, got {described(value)}")


def optional(check: Check) -> Check:
    """None, or what a check takes."""
    return lambda name, value: None if value is None else check(name, value)


def count(least: int | None = 0, most: int | None = None) -> Check:
    """A whole number; 19.0 is 19."""
    kind = "a whole number" + ("" if least is None else f", at least {least}")

    def check(name: str, value: Any) -> int:
        try:
            if isinstance(value, (bool, np.bool_)):
                raise TypeError
            is_whole = isinstance(value, (float, np.floating)) and float(value).is_integer()
            number = int(value) if is_whole else operator.index(value)
        except Exception:  # torch's tensors raise what they like
            raise _refused(name, kind, value) from None
        if least is not None and number < least:
            raise _refused(name, kind, value)
        if most is not None and number > most:
            raise _refused(name, f"a whole number, at most {most:,}", value)
        return number

    return check


def number(above: float | None = None, least: float | None = None) -> Check:
    """A finite number."""
    kind = "a finite number"
    kind += "" if above is None else f" > {above:g}"
    kind += "" if least is None else f" ≥ {least:g}"

    def check(name: str, value: Any) -> float:
        try:
            if isinstance(value, (bool, np.bool_, str, bytes)) or np.iscomplexobj(value):
                raise TypeError
            found = float(value)
        except Exception:
            raise _refused(name, kind, value) from None
        fits = (above is None or found > above) and (least is None or found >= least)
        if not fits or not np.isfinite(found):
            raise _refused(name, kind, value)
        return found

    return check


def flag(name: str, value: Any) -> bool:
    """True or False."""
    if isinstance(value, (bool, np.bool_)) or (isinstance(value, int) and value in (0, 1)):
        return bool(value)
    raise _refused(name, "True or False", value)


def text(name: str, value: Any) -> str:
    """Text."""
    if not isinstance(value, str):
        raise _refused(name, "text", value)
    return value


def texts(name: str, value: Any) -> Sequence[str]:
    """A list of texts, and no text itself."""
    if isinstance(value, np.ndarray):
        value = value.tolist()
    is_list = isinstance(value, Sequence) and not isinstance(value, (str, bytes))
    if not is_list or not all(isinstance(each, str) for each in value):
        raise _refused(name, "a list of texts", value)
    return cast(Sequence[str], value)


def one_of(choices: Sequence[str]) -> Check:
    """One of some words."""

    def check(name: str, value: Any) -> str:
        if not isinstance(value, str) or value not in choices:
            raise ArgumentError(
                f"expected {name} among {', '.join(choices)}, got {described(value)}"
            )
        return value

    return check


def function(name: str, value: Any) -> Any:
    """Something that can be called."""
    if not callable(value):
        raise _refused(name, "a function", value)
    return value


def mapping(name: str, value: Any) -> Any:
    """A mapping from names to values."""
    if not isinstance(value, Mapping):
        raise _refused(name, "a dict by names", value)
    return value


def file(name: str, value: Any) -> Any:
    """The name of a file or directory."""
    if _is_of(value, "torch.nn", "Module"):
        raise ArgumentError(
            f"expected {name} as the name of a file, got {described(value)}, which is a model: the "
            "two may be swapped; the name comes first, as in Recorder(directory, model)"
        )
    if not isinstance(value, (str, PathLike)):
        raise _refused(name, "the name of a file, as text or a pathlib.Path", value)
    if not fspath(value) or "\0" in str(fspath(value)):
        raise _refused(name, "the name of a file", value)
    return value


def of_type(kind: str, how: str = "") -> Check:
    """An instance of a class, which need not be loaded.

    Args:
        kind: "module:name" of the class, or several joined by "|".
        how: what to do to have one.
    """

    def check(name: str, value: Any) -> Any:
        classes = [each.partition(":") for each in kind.split("|")]
        if not any(_is_of(value, module, cls) for module, _, cls in classes):
            wanted = " or ".join(f"{_public(module)}{cls}" for module, _, cls in classes)
            article = "an" if wanted[0] in "AEIOU" else "a"
            raise ArgumentError(
                f"expected {name} as {article} {wanted}, got {described(value)}"
                f"{f'; {how}' if how else ''}"
            )
        return value

    return check


def _is_of(value: object, module: str, name: str) -> bool:
    # Of a class that nobody has loaded there is no instance.
    found = getattr(sys.modules.get(module), name, None)
    return found is not None and isinstance(value, found)


def _public(module: str) -> str:
    """What comes before a class's name: nothing for those of this package."""
    return "" if module.startswith("losspath.") else f"{module}."


def floats(form: str, *, ndim: int | None = None) -> Check:
    """Real numbers, as an array of float64.

    Args:
        form: the shape in words, such as "(k, 2)".
        ndim: how many axes there must be.
    """

    def check(name: str, value: Any) -> Any:
        expected = f"numbers {form}".strip()
        array = as_floats(name, expected, value)
        if ndim is not None and array.ndim != ndim:
            raise ArgumentError(f"expected {name} as {expected}, got shape {array.shape}")
        return array

    return check


def as_floats(name: str, expected: str, value: Any) -> Any:
    """A float64 array of what was given, refused by `ArgumentError` where it is no real numbers."""
    return as_numbers(name, expected, value).astype(np.float64, copy=False)


def as_numbers(name: str, expected: str, value: Any) -> Any:
    """The same in the precision that was given."""
    try:
        if isinstance(value, (str, bytes)) or value is None:
            raise TypeError
        if hasattr(value, "detach"):  # a tensor, on whatever device
            value = value.detach().cpu()
            narrow = value.is_floating_point() and value.element_size() < 4
            value = value.float() if narrow else value
        array = np.asarray(value)
        if array.dtype.kind not in "biuf":
            raise TypeError
    except Exception:  # torch's tensors raise what they like
        raise _refused(name, expected, value) from None
    return array


def state(name: str, value: Any) -> Any:
    """A vector of parameters."""
    array = as_numbers(name, "one state (P,), such as path[-1]", value)
    if array.ndim != 1:
        raise ArgumentError(
            f"expected {name} as one state (P,), such as path[-1], got shape {array.shape}"
        )
    return array


def indices(name: str, value: Any) -> list[int]:
    """A list of whole numbers."""
    array = as_numbers(name, "a list of whole numbers", value)
    if array.ndim != 1 or not (array.size == 0 or array.dtype.kind in "iu"):
        raise _refused(name, "a list of whole numbers", value)
    found: list[int] = array.tolist()
    return found


# What is asked of many functions.
OBJECTIVE = of_type(
    "losspath.evaluation.objective:Objective",
    "make one of the model, Objective(model, inputs, targets, loss_fn)",
)
MODEL = of_type("torch.nn:Module", "give the network itself")
PLANE = of_type("losspath.geometry.plane:Plane", "make one by fit_plane(path)")
GRID = of_type("losspath.geometry.grid:Grid", "make one by Grid.around(plane.path.coordinates)")
SURFACE = of_type(
    "losspath.surface:Surface", "compute_surface makes one, Surface.load(path) reads one"
)
DYNAMICS = of_type(
    "losspath.analysis.dynamics:Dynamics",
    "measure_dynamics makes them, Dynamics.load(path) reads some",
)
OPTIMIZER = of_type("torch.optim:Optimizer")
AXES = of_type("matplotlib.axes:Axes", "make them by figure.add_subplot()")
RESOLUTION = count(3, 10_000)
TITLE = optional(text)
WHOLE = count(None)
"""A whole number, whose range the function itself looks at."""


def executor(name: str, value: Any) -> Any:
    """Something that evaluates elsewhere."""
    if isinstance(value, type) or not callable(getattr(value, "submit", None)):
        raise ArgumentError(
            f"expected {name} as an executor, got {described(value)}; give LocalProcesses(4), or "
            "another that has submit() as those of concurrent.futures do"
        )
    return value
