"""Layers that see the same input at every point: computed for several points at once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F

from losspath.errors import UnsupportedError

CONVOLUTIONS = (torch.conv1d, torch.conv2d, torch.conv3d)

# Patches that take more than this leave the cache, and cost more than the convolution saves.
_PATCH_BYTES = 8 << 20


@dataclass(frozen=True)
class FirstLayer:
    """A layer that sees the same input at every point: linear in its own, changing parameters.

    Attributes:
        function: torch's linear, convolution or embedding.
        weight: name of its weight.
        bias: name of its bias, or None.
        rest: its further arguments.
        options: its keyword arguments.
        window: the window (h, w) of the max-pooling that follows, if its results are to be given
            position by position of the window: (h·w, N, C, H//h, W//w) instead of (N, C, H, W).
            The maximum over the first axis is then the pooling, and vectors are compared with
            vectors.
    """

    function: Callable[..., torch.Tensor]
    weight: str
    bias: str | None
    rest: tuple[Any, ...]
    options: dict[str, Any]
    window: tuple[int, int] | None = None

    def with_window(self, window: tuple[int, int]) -> FirstLayer | None:
        """The layer with results by position of the window; None for layers that have none."""
        simple = self.function is torch.conv2d and self.can_share and not self.options
        return replace(self, window=window) if simple else None

    @property
    def can_share(self) -> bool:
        """Whether the weights of several points can go into one wide call."""
        grouped = self.function in CONVOLUTIONS and (self.rest[3:4] or (1,))[0] != 1
        return not grouped and self.function is not F.embedding

    def prepare(self, inputs: torch.Tensor, weight: torch.Tensor) -> Prepared:
        """Lays the input of one batch out for any number of `results`.

        Args:
            inputs: the layer's input.
            weight: its weight at some point, for its shape.
        """
        if self.function is not torch.conv2d or not self.can_share or self.options:
            return Prepared(self, inputs)
        if inputs.dim() != 4:
            raise UnsupportedError(f"a convolution of an input of shape {tuple(inputs.shape)}")
        geometry = _Geometry.of(self, inputs, weight)
        if geometry is None:
            return Prepared(self, inputs)
        size = inputs.element_size() * len(inputs) * geometry.rows * geometry.columns
        patches = _patches(inputs, geometry) if size <= _PATCH_BYTES else None
        return Prepared(self, inputs, geometry, patches)


@dataclass(frozen=True)
class Prepared:
    """A layer with the input of one batch.

    Attributes:
        layer: which layer.
        inputs: its input.
        geometry: how its patches lie; None where it has none.
        patches: (N, C·kh·kw + 1, positions): every position's patch and a one, so that a
            convolution with its bias is one product; None where they would be too large.
    """

    layer: FirstLayer
    inputs: torch.Tensor
    geometry: _Geometry | None = None
    patches: torch.Tensor | None = None

    def results(
        self, weights: torch.Tensor, bias: torch.Tensor | None, count: int
    ) -> tuple[torch.Tensor, ...]:
        """The results for `count` points.

        Args:
            weights: the points' weights one after the other along the first axis, or the one
                point's.
            bias: their biases in the same way.
            count: the number of points.
        """
        layer, geometry = self.layer, self.geometry
        if self.patches is not None and geometry is not None:
            flat = weights.reshape(len(weights), -1)
            last = flat.new_zeros(len(flat), 1) if bias is None else bias[:, None]
            product = torch.cat([flat, last], dim=1) @ self.patches
            shape = (len(product), len(flat), *geometry.places)
            wide = product.view(shape).movedim(2, 0)
            wide = wide if layer.window else wide[0]
        elif layer.function is F.embedding:
            wide = layer.function(self.inputs, weights, *layer.rest, **layer.options)
        else:
            wide = layer.function(self.inputs, weights, bias, *layer.rest, **layer.options)
            if layer.window:
                wide = _by_position(wide, layer.window)
        axis = (1 if layer.window is None else 2) if layer.function in CONVOLUTIONS else -1
        return wide.chunk(count, dim=axis)


@dataclass(frozen=True)
class _Geometry:
    """A two-dimensional convolution's numbers: each a pair (along height, along width)."""

    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]
    window: tuple[int, int]
    pooled: tuple[int, int]  # results of the pooling: positions that no window covers are left out
    channels: int

    @classmethod
    def of(cls, layer: FirstLayer, inputs: torch.Tensor, weight: torch.Tensor) -> _Geometry | None:
        values = [*layer.rest, *(1, 0, 1)[len(layer.rest) :]][:3]
        if any(isinstance(value, str) for value in values):  # padding="same"
            return None
        stride, padding, dilation = (pair(value) for value in values)
        kernel = (int(weight.shape[2]), int(weight.shape[3]))
        window = layer.window or (1, 1)
        size = (int(inputs.shape[2]), int(inputs.shape[3]))
        reach = [size[i] + 2 * padding[i] - dilation[i] * (kernel[i] - 1) - 1 for i in (0, 1)]
        pooled = [(reach[i] // stride[i] + 1) // window[i] for i in (0, 1)]
        return cls(
            kernel, stride, padding, dilation, window, (pooled[0], pooled[1]), int(inputs.shape[1])
        )

    @property
    def rows(self) -> int:
        return self.channels * self.kernel[0] * self.kernel[1] + 1

    @property
    def places(self) -> tuple[int, int, int]:
        return (self.window[0] * self.window[1], *self.pooled)

    @property
    def columns(self) -> int:
        positions, height, width = self.places
        return positions * height * width


def pair(value: Any) -> tuple[int, int]:
    """A number for both axes of an image, or one for each, as torch's layers take them."""
    return (value, value) if isinstance(value, int) else (int(value[0]), int(value[-1]))


def _patches(inputs: torch.Tensor, geometry: _Geometry) -> torch.Tensor:
    (kh, kw), (sh, sw), (ph, pw) = geometry.kernel, geometry.stride, geometry.padding
    (dh, dw), (wh, ww) = geometry.dilation, geometry.window
    padded = F.pad(inputs, (pw, pw, ph, ph)) if ph or pw else inputs
    n, c, y, x = padded.stride()
    seen = padded.as_strided(
        (len(padded), geometry.channels, kh, kw, wh, ww, *geometry.pooled),
        (n, c, dh * y, dw * x, sh * y, sw * x, sh * wh * y, sw * ww * x),
    )
    patches = inputs.new_empty(len(inputs), geometry.rows, geometry.columns)
    patches[:, :-1].view(seen.shape).copy_(seen)
    patches[:, -1] = 1.0
    return patches


def _by_position(values: torch.Tensor, window: tuple[int, int]) -> torch.Tensor:
    """(N, C, H, W) → (h·w, N, C, H//h, W//w)."""
    (height, width), (rows, columns) = window, values.shape[-2:]
    down, across = rows // height * height, columns // width * width
    return torch.stack(
        [values[..., i:down:height, j:across:width] for i in range(height) for j in range(width)]
    )
