"""Surface methods: rules that say which states a grid point is blended from.

A grid point g in the plane gets the parameters θ(g) = θ̄ + U g + Σ_i w_i(g) r_i, with the states'
residuals r_i off the plane. The methods differ in the weights w alone.
"""

from __future__ import annotations

from losspath.arguments import one_of
from losspath.discovery import classes_by_name
from losspath.errors import ArgumentError
from losspath.methods.averaged import Averaged, AveragedND
from losspath.methods.method import Lift, Method
from losspath.methods.pca import PCA
from losspath.methods.sampled import Sampled
from losspath.methods.sampled_pca import SampledPCA

__all__ = [
    "METHODS",
    "PCA",
    "Averaged",
    "AveragedND",
    "Lift",
    "Method",
    "Sampled",
    "SampledPCA",
    "method_named",
]

OWN: tuple[type[Method], ...] = (PCA, Sampled, SampledPCA, Averaged, AveragedND)
"""The package's own, whose code counts as known: other methods are keyed by their code."""

METHODS: dict[str, type[Method]] = classes_by_name(
    *(__name__, __path__, Method, OWN),  # type: ignore[type-abstract]
)
"""By name: the package's own, and whatever else has a file here."""


def method_named(method: str | Method) -> Method:
    """A method as given, or by its name with its default options.

    Raises:
        ArgumentError: no method has this name.
    """
    if isinstance(method, Method):
        return method
    if isinstance(method, type) and issubclass(method, Method):
        raise ArgumentError(f"expected a method, got its class; make one: {method.__name__}()")
    return METHODS[one_of(list(METHODS))("method", method)]()
