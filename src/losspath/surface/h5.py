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
# Directions whose cosine is nearer to one are one direction, to single precision.
_PARALLEL = 1e-6


@checked(path=file, projection=optional(file), directions=optional(file), data=text)
def load_h5_surface(
    path: str | PathLike[str],
    *,
    projection: str | PathLike[str] | None = None,
    directions: str | PathLike[str] | None = None,
    data: str = "train",
) -> Surface:
    """Loads a surface that the script of Li et al. computed (``plot_surface.py``) [1].

    Its coordinates are multiples of the script's directions: of length one where
    ``plot_trajectory.py`` made them, as long as the weights where they are random ones. Points that
    it has not come to, which it marks by −1, are told as not evaluated. The file has the values of
    a grid of x by y points in the order of its rows of equal y, under a shape of (x, y): where the
    two numbers differ, what reads the array as it is shaped mixes them up.

    Args:
        path: its surface file, with ``xcoordinates``, ``ycoordinates``, ``train_loss`` and so on.
        projection: its file of the projected path, as of ``plot_trajectory.py``; without it the
            path is the one state that the surface is around, at the origin.
        directions: its file of directions, which the projection needs: what it has of a state is
            lengths along them, and what the surface has is multiples of them. Principal ones have
            the share of variance on the axes.
        data: which values: "train" or "test".

    Returns:
        The surface, with accuracies as shares. The states' own losses are not known.

    Raises:
        MissingExtraError: h5py is not installed (``pip install 'losspath[h5]'``).
        StoreError: a file is missing or cannot be read.
        ArgumentError: it is the file of a line, or has no such values, or there is a projection
            without two directions.

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
    coordinates, ratio = np.zeros((1, 2)), np.full(2, np.nan)
    if directions is not None:
        ratio = _read(Path(directions)).get("explained_variance_ratio_", ratio)[:2].astype(float)
    if projection is not None:
        coordinates = _path(Path(projection), None if directions is None else Path(directions))
    index = np.unique([0, len(coordinates) - 1])
    names = ("PC 1", "PC 2") if np.isfinite(ratio).all() else ("direction x", "direction y")
    return Surface(
        x=x,
        y=y,
        loss=loss,
        accuracy=accuracy,
        evaluated=evaluated,
        path=coordinates,
        explained_variance_ratio=ratio,
        states=StateLosses(index, np.full(len(index), np.nan)),
        provenance={
            "description": f"Li et al., {data}",
            "run": _name(Path(path)),
            "axes": list(names),
            "source": Path(path).name,
            "key": digest_of(x, y, loss, coordinates),
            "notes": ["the states' own losses are not known"],
        },
    )


def _path(projection: Path, directions: Path | None) -> Floats:
    """(T, 2) coordinates of the projected states in multiples of the directions.

    The script projects a state's way d from the last one onto each direction by itself:
    c_k = d · u_k / ‖u_k‖. The multiples g that come nearest to d solve (u_j · u_k) g = d · u_k.
    """
    shown = _read(projection)
    if not {"proj_xcoord", "proj_ycoord"} <= shown.keys():
        raise ArgumentError(
            f"expected proj_xcoord and proj_ycoord in {projection}, as plot_trajectory.py "
            f"writes them, got {', '.join(sorted(shown)) or 'nothing'}"
        )
    if directions is None:
        raise ArgumentError(
            f"expected directions too, as the path in {projection} is in lengths along them, got "
            "none; give the file that plot_trajectory.py and plot_surface.py had (--dir_file)"
        )
    found = _read(directions)
    parts = [name for name in found if name.startswith("xdirection/")]
    products = np.zeros((2, 2))
    for name in parts:
        other = found.get(name.replace("x", "y", 1))
        if other is not None and found[name].shape == other.shape != ():
            pair = np.stack([found[name].ravel(), other.ravel()]).astype(float)
            products += pair @ pair.T
    lengths = np.sqrt(np.diag(products))
    if not np.prod(lengths) or abs(products[0, 1]) > (1 - _PARALLEL) * np.prod(lengths):
        raise ArgumentError(
            f"expected two directions that are not parallel in {directions}, as xdirection and "
            f"ydirection, got {', '.join(sorted({n.partition('/')[0] for n in found}))}"
        )
    along = np.stack([shown["proj_xcoord"], shown["proj_ycoord"]]).astype(float)
    coordinates: Floats = np.linalg.solve(products, along * lengths[:, None]).T
    return coordinates


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
    """Its arrays of numbers by their names, those in groups as "group/name"."""
    with extra("h5"):
        import h5py
    if not path.is_file():
        raise StoreError(f"expected an HDF5 file, found no file {path}")
    found: dict[str, npt.NDArray[Any]] = {}

    def keep(name: str, item: object) -> None:
        if isinstance(item, h5py.Dataset) and item.dtype.kind in "fiu":
            found[name] = np.asarray(item)

    try:
        with h5py.File(path, "r") as content:
            content.visititems(keep)
    except OSError as cause:
        raise StoreError(f"expected an HDF5 file, got {path}, which is none: {cause}") from cause
    return found


def _name(path: Path) -> str:
    """The model's part of a name that has all settings in it."""
    return re.split(r"_(?:weights|states)_|_\[", path.name.removesuffix(".h5"))[0] or path.stem
