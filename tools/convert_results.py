"""Brings result files of version 0.1 over to the forms of today, in place.

    python tools/convert_results.py docs/study/results

Planes: the path's coordinates have a value of their own, and axes have labels.
"""

from __future__ import annotations

import sys
from pathlib import Path

from losspath.errors import StoreError
from losspath.files import load_archive
from losspath.geometry.plane import PrincipalPlane
from losspath.geometry.projection import Projection


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


def main() -> None:
    """Converts every file below the folders that are named."""
    files = [file for folder in sys.argv[1:] for file in Path(folder).rglob("plane*.npz")]
    print(f"{sum(map(convert_plane, files))} of {len(files)} planes converted")


if __name__ == "__main__":
    main()
