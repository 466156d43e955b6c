"""Surface methods: rules that say which states a grid point is blended from.

A grid point g in the plane gets the parameters θ(g) = θ̄ + U g + Σ_i w_i(g) r_i, with the states'
residuals r_i off the plane. The methods differ in the weights w alone.
"""

from __future__ import annotations

from losspath.arguments import one_of
from losspath.discovery import classes_in
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

# Those of the thesis in its order, and whatever else has a file here.
_KINDS: tuple[type[Method], ...] = (PCA, Sampled, SampledPCA, Averaged, AveragedND)
_KINDS += tuple(classes_in(__name__, __path__, Method))  # type: ignore[type-abstract]
METHODS: dict[str, type[Method]] = {kind.name: kind for kind in _KINDS}


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
