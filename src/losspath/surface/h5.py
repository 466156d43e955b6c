"""Surfaces that Li et al.'s script left in HDF5 files."""

from __future__ import annotations

import re
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from losspath.arguments import checked, file, optional, text
from losspath.errors import ArgumentError, StoreError
from losspath.extras import extra
from losspath.files import digest_of
from losspath.surface.surface import StateLosses, Surface

Floats = npt.NDArray[np.float64]

# What a point holds that the script has not come to.
_TO_COME = -1.0


@checked(path=file, projection=optional(file), directions=optional(file), data=text)
def load_h5_surface(
    path: str | PathLike[str],
    *,
    projection: str | PathLike[str] | None = None,
    directions: str | PathLike[str] | None = None,
    data: str = "train",
) -> Surface:
    """Loads a surface that the script of Li et al. computed (``plot_surface.py``) [1].

    Coordinates are in units of its directions, whose length its normalisation makes that of the
    weights. Points that it has not come to, which it marks by −1, are told as not evaluated. The
    file has the values of a grid of x by y points in the order of its rows of equal y, under a
    shape of (x, y): where the two numbers differ, what reads the array as it is shaped mixes them
    up.

    Args:
        path: its surface file, with ``xcoordinates``, ``ycoordinates``, ``train_loss`` and so on.
        projection: its file of the projected path, as of ``plot_trajectory.py``; without it the
            path is the one state that the surface is around, at the origin.
        directions: its file of principal directions, for the share of variance on the axes.
        data: which values: "train" or "test".

    Returns:
        The surface, with accuracies as shares. The states' own losses are not known, but for the
        one at the origin where the grid has it.

    Raises:
        MissingExtraError: h5py is not installed (``pip install 'losspath[h5]'``).
        StoreError: a file is missing or cannot be read.
        ArgumentError: it is the file of a line, or has no such values.

    References:
        [1] H. Li, Z. Xu, G. Taylor, C. Studer and T. Goldstein, "Visualizing the loss landscape of
        neural nets", NeurIPS 2018.
    """
    found = _read(Path(path))
    missing = [name for name in ("xcoordinates", f"{data}_loss") if name not in found]
    if missing:
        raise ArgumentError(
            f"expected {' and '.join(missing)} in {path}, as a surface of plot_surface.py has "
            f"them, got {', '.join(sorted(found)) or 'nothing'}"
        )
    if "ycoordinates" not in found:
        raise ArgumentError(
            f"expected a surface, got the line of {found['xcoordinates'].size} points in {path}, "
            "which was computed without --y; plot its arrays as they are"
        )
    x, y = found["xcoordinates"].astype(float), found["ycoordinates"].astype(float)
    loss, evaluated = _on_grid(found[f"{data}_loss"], x, y, f"{data}_loss")
    accuracy = None
    if f"{data}_acc" in found:
        accuracy = _on_grid(found[f"{data}_acc"], x, y, f"{data}_acc")[0] / 100  # from per cent
    coordinates = np.zeros((1, 2))
    if projection is not None:
        shown = _read(Path(projection))
        if not {"proj_xcoord", "proj_ycoord"} <= shown.keys():
            raise ArgumentError(
                f"expected proj_xcoord and proj_ycoord in {projection}, as plot_trajectory.py "
                f"writes them, got {', '.join(sorted(shown)) or 'nothing'}"
            )
        coordinates = np.stack([shown["proj_xcoord"], shown["proj_ycoord"]], axis=1).astype(float)
    ratio = np.full(2, np.nan)
    if directions is not None:
        ratio = _read(Path(directions)).get("explained_variance_ratio_", ratio)[:2].astype(float)
    last = len(coordinates) - 1
    index = np.unique([0, last])
    own = np.full(len(index), np.nan)
    at_origin = np.flatnonzero(x == 0), np.flatnonzero(y == 0)
    if all(map(len, at_origin)) and not coordinates[last].any():
        own[-1] = loss[at_origin[1][0], at_origin[0][0]]
    names = ("PC 1", "PC 2") if np.isfinite(ratio).all() else ("direction x", "direction y")
    return Surface(
        x=x,
        y=y,
        loss=loss,
        accuracy=accuracy,
        evaluated=evaluated,
        path=coordinates,
        explained_variance_ratio=ratio,
        states=StateLosses(index, own),
        provenance={
            "description": f"Li et al., {data}",
            "run": _name(Path(path)),
            "axes": list(names),
            "source": Path(path).name,
            "key": digest_of(x, y, loss, coordinates),
        },
    )


def _on_grid(
    values: npt.NDArray[Any], x: Floats, y: Floats, name: str
) -> tuple[Floats, npt.NDArray[np.bool_]]:
    """Values (m, n) at (x[j], y[i]), NaN where there are none yet, and where there are some."""
    if values.size != len(x) * len(y):
        raise ArgumentError(
            f"expected {len(x)} × {len(y)} values of {name}, got an array {values.shape}"
        )
    # Its loop takes the n-th point of a grid with rows of equal y to be the n-th of its array.
    grid = values.reshape(len(y), len(x)).astype(float)
    evaluated = grid != _TO_COME
    return np.where(evaluated, grid, np.nan), evaluated


def _read(path: Path) -> dict[str, npt.NDArray[Any]]:
    with extra("h5"):
        import h5py
    if not path.is_file():
        raise StoreError(f"expected an HDF5 file, found no file {path}")
    try:
        with h5py.File(path, "r") as content:
            return {
                name: np.asarray(content[name])
                for name in content
                if isinstance(content[name], h5py.Dataset) and content[name].dtype.kind in "fiu"
            }
    except OSError as cause:
        raise StoreError(f"expected an HDF5 file, got {path}, which is none: {cause}") from cause


def _name(path: Path) -> str:
    """The model's part of a name that has all settings in it."""
    return re.split(r"_(?:weights|states)_|_\[", path.name.removesuffix(".h5"))[0] or path.stem
