"""Operations on whole arrays of images, shared by the data sets.

Everything is done once, when a data set is loaded, and in chunks, so that the memory needed is
little more than that of the result.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F

SIDE = 32
"""Height and width in pixels of every image after loading, the size the networks expect."""

_CHUNK = 1024


def fixed_permutation(count: int, seed: int) -> npt.NDArray[np.int64]:
    """Returns the permutation of ``range(count)`` that belongs to `seed`, always the same.

    It is the order that sorts the first `count` raw 64-bit words of NumPy's PCG64 started with
    `seed`. The raw words are used because NumPy promises them to be the same in every version,
    which it does not for `numpy.random.Generator.permutation`.

    Args:
        count: how many numbers to permute.
        seed: which permutation.

    Returns:
        The permutation, of shape (count,).
    """
    words = np.random.PCG64(seed).random_raw(count)
    return np.argsort(words, kind="stable").astype(np.int64, copy=False)


def unit_images(pixels: npt.NDArray[np.generic], white: float = 255.0) -> torch.Tensor:
    """Scales pixels to [0, 1] and resizes them, bilinear with antialiasing, to 32×32.

    Args:
        pixels: images of shape (N, C, H, W), black at 0.
        white: the value of a white pixel.

    Returns:
        A float32 tensor of shape (N, C, 32, 32).
    """
    count, channels, height, width = pixels.shape
    # torch takes only writable arrays without a warning; none is written to here.
    source = torch.from_numpy(np.require(pixels, requirements="W"))
    result = torch.empty((count, channels, SIDE, SIDE), dtype=torch.float32)
    for start in range(0, count, _CHUNK):
        chunk = source[start : start + _CHUNK]
        if (height, width) != (SIDE, SIDE):
            chunk = F.interpolate(
                chunk.to(torch.float32, memory_format=torch.contiguous_format),
                (SIDE, SIDE),
                mode="bilinear",
                align_corners=False,
                antialias=True,
            )
        result[start : start + _CHUNK] = chunk
    return result.div_(white)


def normalise_(images: torch.Tensor, mean: Sequence[float], std: Sequence[float]) -> torch.Tensor:
    """Subtracts a mean and divides by a standard deviation per channel, in place.

    Args:
        images: a tensor of shape (N, C, H, W).
        mean: one number a channel.
        std: one number a channel, none of them 0.

    Returns:
        `images` itself.
    """
    shape = (1, -1, 1, 1)
    shift = torch.tensor(mean, dtype=images.dtype).view(shape)
    scale = torch.tensor(std, dtype=images.dtype).view(shape)
    return images.sub_(shift).div_(scale)


def channel_statistics(
    pixels: npt.NDArray[np.uint8],
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Returns the mean and the standard deviation of each channel, with white as 1.

    They are computed in float64 from exact counts of the 256 pixel values. The standard deviation
    is that of the population; for a channel of one constant value, where it is 0, 1 is returned
    instead, so that normalising turns that channel into zeros.

    Args:
        pixels: images of shape (N, C, H, W), at least one.

    Returns:
        Means and standard deviations, one number a channel each.
    """
    means: list[float] = []
    stds: list[float] = []
    values = np.arange(256, dtype=np.float64) / 255.0
    for channel in range(pixels.shape[1]):
        counts = np.zeros(256, dtype=np.int64)
        for start in range(0, len(pixels), _CHUNK):
            counts += np.bincount(pixels[start : start + _CHUNK, channel].ravel(), minlength=256)
        weights = counts / counts.sum()
        mean = float(weights @ values)
        constant = int(np.count_nonzero(counts)) == 1
        means.append(mean)
        stds.append(1.0 if constant else float(np.sqrt(weights @ (values - mean) ** 2)))
    return tuple(means), tuple(stds)
