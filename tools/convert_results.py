"""Brings result files of version 0.1 over to the forms of today, in place.

    python tools/convert_results.py docs/study/results

Planes: the path's coordinates have a value of their own, and axes have labels.
Surfaces of a study: methods have no option "literal"; as the thesis drew or printed them they are
methods of their own. Files are named after methods and options, so they are renamed.
"""

from __future__ import annotations

import dataclasses
import itertools
import re
import sys
from pathlib import Path
from typing import Any

from losspath.errors import StoreError
from losspath.files import load_archive
from losspath.geometry.plane import PrincipalPlane
from losspath.geometry.projection import Projection
from losspath.methods import method_class
from losspath.surface import Surface
from losspath.thesis.study.results import surface_file

_AS_DRAWN = {
    "pca": "pca-as-drawn",
    "sampled-pca": "sampled-pca-as-drawn",
    "averaged": "averaged-as-printed",
    "averaged-nd": "averaged-nd-as-printed",
}
_STRIDES = range(1, 1001)  # of the states that a surface may be of


def convert_plane(file: Path) -> bool:
    """Whether a file was a plane of version 0.1, and is one of today now."""
    try:
        arrays, provenance = load_archive(file, "plane", 1)
    except StoreError:
        return False
    total, residual, gap = arrays["numbers"].tolist()
    path = Projection(arrays["path"], arrays["residual_norms"], total, provenance["path"])
    labels = tuple(f"PC {number + 1}" for number in range(arrays["basis"].shape[1]))
    PrincipalPlane(arrays["origin"], arrays["basis"], labels, path, residual, gap).save(file)
    return True


def convert_surface(file: Path) -> bool:
    """Whether a file was a surface by a method with the option "literal", and is one without now.

    A surface of a study is renamed, as its name has a digest of the method's options.
    """
    try:
        surface = Surface.load(file)
    except StoreError:
        return False
    method = surface.provenance["method"]
    if "literal" not in method:
        return False
    converted = today(method)
    words = {"method": converted, "description": _described(converted)}
    file_name = _renamed(file.name, surface, method, converted)
    provenance = {**surface.provenance, **words}
    dataclasses.replace(surface, provenance=provenance).save(file.with_name(file_name))
    if file_name != file.name:
        file.unlink()
    return True


def today(method: dict[str, Any]) -> dict[str, Any]:
    """A method's name and options as they are now."""
    options = {key: method[key] for key in method if key != "literal"}
    return {**options, "name": _AS_DRAWN[method["name"]]} if method["literal"] else options


def _described(method: dict[str, Any]) -> str:
    options = {key: value for key, value in method.items() if key != "name"}
    return method_class(method["name"])(**options).describe()


def _renamed(name: str, surface: Surface, old: dict[str, Any], new: dict[str, Any]) -> str:
    """The name of a study's file, which says how many states were left out; others stay."""
    if not re.fullmatch(r"surface-.+-[0-9a-f]{10}\.npz", name):
        return name
    resolution, samples = len(surface.x), surface.provenance["samples"]
    # A file is named after what was asked for; the surface says which number "auto" was.
    auto = {"temperature": "auto"} if "temperature" in old else {}
    for options, stride in itertools.product(({}, auto), _STRIDES):
        if surface_file({**old, **options}, resolution, samples, stride) == name:
            return surface_file({**new, **options}, resolution, samples, stride)
    raise SystemExit(f"{name} is named after no stride up to {_STRIDES[-1]}; it was left as it is")


def main() -> None:
    """Converts every file below the folders that are named."""
    folders = [Path(folder) for folder in sys.argv[1:]]
    for kind, convert in (("plane", convert_plane), ("surface", convert_surface)):
        files = sorted(file for folder in folders for file in folder.rglob(f"{kind}*.npz"))
        print(f"{sum(map(convert, files))} of {len(files)} {kind}s converted")


if __name__ == "__main__":
    main()
