"""Operations on whole arrays, against NumPy."""

from __future__ import annotations

import warnings

import numpy as np
import numpy.typing as npt
import pytest
import torch

from losspath.thesis import arrays
from losspath.thesis.arrays import channel_statistics, fixed_permutation, unit_images


def random_bytes(*shape: int) -> npt.NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def test_unit_images_scales_without_resizing() -> None:
    pixels = random_bytes(5, 3, 32, 32)
    assert torch.equal(unit_images(pixels), torch.from_numpy(pixels) / 255.0)


def test_unit_images_in_chunks_equals_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = random_bytes(7, 2, 40, 20)
    whole = unit_images(pixels)
    monkeypatch.setattr(arrays, "_CHUNK", 3)
    torch.testing.assert_close(unit_images(pixels), whole)
    assert whole.shape == (7, 2, 32, 32)
    assert whole.dtype == torch.float32


def test_unit_images_keeps_a_constant_image_and_takes_read_only_arrays() -> None:
    pixels = np.frombuffer(b"\x80" * 2 * 28 * 28, dtype=np.uint8).reshape(2, 1, 28, 28)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        images = unit_images(pixels)
    torch.testing.assert_close(images, torch.full((2, 1, 32, 32), 128 / 255))


def test_channel_statistics_are_numpys() -> None:
    pixels = random_bytes(2500, 3, 4, 4)
    pixels[:, 2] = 9
    mean, std = channel_statistics(pixels)
    expected = pixels.astype(np.float64) / 255.0
    np.testing.assert_allclose(mean, expected.mean(axis=(0, 2, 3)), rtol=1e-12)
    np.testing.assert_allclose(std[:2], expected.std(axis=(0, 2, 3))[:2], rtol=1e-12)
    assert std[2] == 1.0


def test_fixed_permutation_never_changes() -> None:
    # Recorded samples would silently become other samples if this did.
    assert fixed_permutation(8, 1).tolist() == [2, 4, 7, 5, 0, 6, 3, 1]
    assert not np.array_equal(fixed_permutation(100, 1), fixed_permutation(100, 2))
