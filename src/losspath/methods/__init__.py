"""Surface methods: rules that say which states a grid point is blended from.

A grid point g in the plane gets the parameters θ(g) = θ̄ + U g + Σ_i w_i(g) r_i, with the states'
residuals r_i off the plane. The methods differ in the weights w alone.

Another package adds methods by entry points of the group ``losspath.methods``: the entry's name is
the method's, and it names the class.
"""

from __future__ import annotations

from losspath.arguments import one_of
from losspath.discovery import added_class, added_names, classes_by_name
from losspath.errors import ArgumentError
from losspath.methods.averaged import Averaged, AveragedND
from losspath.methods.local_draws import LocalDraws
from losspath.methods.local_planes import LocalPlanes
from losspath.methods.method import Lift, Method
from losspath.methods.pca import PCA
from losspath.methods.sampled import Sampled
from losspath.methods.sampled_pca import SampledPCA

__all__ = [
    "DEFAULT",
    "METHODS",
    "PCA",
    "Averaged",
    "AveragedND",
    "Lift",
    "LocalDraws",
    "LocalPlanes",
    "Method",
    "Sampled",
    "SampledPCA",
    "method_class",
    "method_named",
    "method_names",
]

OWN: tuple[type[Method], ...] = (
    *(PCA, Sampled, SampledPCA, Averaged, AveragedND),
    *(LocalPlanes, LocalDraws),
)
"""The package's own, whose code counts as known: other methods are keyed by their code."""

DEFAULT = "local-planes"
"""The method of pictures that name none: see `LocalPlanes`, and docs/trust.md for why."""

METHODS: dict[str, type[Method]] = classes_by_name(
    *(__name__, __path__, Method, OWN),  # type: ignore[type-abstract]
)
"""By name: the package's own, and whatever else has a file here."""

_GROUP = "losspath.methods"


def method_names() -> list[str]:
    """The names of all methods: those in `METHODS`, and those that other packages add."""
    return [*METHODS, *(name for name in added_names(_GROUP) if name not in METHODS)]


def method_class(name: str) -> type[Method]:
    """The method of a name.

    Raises:
        ArgumentError: no method has this name.
        UnsupportedError: another package's cannot be loaded.
    """
    if isinstance(name, str) and name in METHODS:
        return METHODS[name]
    one_of(method_names())("method", name)
    return added_class(_GROUP, name, Method)  # type: ignore[type-abstract]


def method_named(method: str | Method) -> Method:
    """A method as given, or by its name with its default options.

    Raises:
        ArgumentError: no method has this name.
        UnsupportedError: another package's cannot be loaded.
    """
    if isinstance(method, Method):
        return method
    if isinstance(method, type) and issubclass(method, Method):
        raise ArgumentError(f"expected a method, got its class; make one: {method.__name__}()")
    return method_class(method)()
