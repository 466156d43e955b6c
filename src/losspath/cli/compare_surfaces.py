"""The command that holds surfaces against each other."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import typer
from rich.table import Table

from losspath.analysis.comparison import SurfaceDifference, compare_surfaces
from losspath.analysis.evidence import HELD_OUT
from losspath.cli.console import out, say
from losspath.cli.runs import RESULTS
from losspath.errors import ArgumentError
from losspath.surface import Surface, load_h5_surface


def compare_files(
    reference: Path, others: Sequence[Path], quantity: str, check: bool
) -> dict[str, SurfaceDifference]:
    """How much surfaces in files differ from that in another, by the files' names.

    Raises:
        ArgumentError: a directory, or surfaces that cannot be compared.
        StoreError: a file is missing, or is no surface.
    """
    against = _loaded(reference)
    found = {}
    for file in dict.fromkeys(others):
        try:
            found[str(file)] = compare_surfaces(
                _loaded(file), against, quantity=quantity, check=check
            )
        except ArgumentError as cause:
            told = str(cause).replace("check=False", "--as-they-are")
            raise ArgumentError(f"{file}: {told}") from cause
    return found


def _loaded(file: Path) -> Surface:
    if file.is_dir():
        found = (file / RESULTS).glob("surface-*.npz")
        kept = [path for path in found if not path.name.startswith(f"surface-{HELD_OUT}-")]
        there = "`losspath surface` makes some"
        if kept:
            there = f"the newest is {max(kept, key=_age)}, of {len(kept)} that it has"
        raise ArgumentError(f"expected files of surfaces, got the directory {file}; {there}")
    return load_h5_surface(file) if file.suffix in (".h5", ".hdf5") else Surface.load(file)


def _age(file: Path) -> float:
    return file.stat().st_mtime


_ROWS = (
    ("structural similarity", "ssim", ".3f"),
    ("rank correlation of heights", "rank_correlation", ".3f"),
    ("difference, median", "median_error", ".2%"),
    ("difference, 95 % quantile", "high_error", ".2%"),
    ("contour lines apart, mean", "contour_error", ".2%"),
    ("contour lines apart, 95 % quantile", "high_contour_error", ".2%"),
    ("contour levels in both", "common_levels", ".0%"),
    ("local minima", "minima", "d"),
    ("local minima of the reference", "reference_minima", "d"),
    ("evaluations, times the reference's", "cost", ".3g"),
)


def print_differences(
    reference: Path, found: dict[str, SurfaceDifference], quantity: str, as_json: bool
) -> None:
    """Prints the numbers for people, or as JSON: an object by the files' names."""
    if as_json:
        typer.echo(json.dumps({name: each.to_json() for name, each in found.items()}, indent=2))
        return
    for name, difference in found.items():
        say(f"{name} against {reference}: {quantity}")
        table = Table(box=None, show_header=False, padding=(0, 1, 0, 2))
        for words, field, form in _ROWS:
            value = difference.to_json()[field]
            if field in ("median_error", "high_error") and quantity != "loss":
                form = ".3g"
            table.add_row(words, "not known" if value is None else format(value, form))
        out.print(table)
    side = "Distances of contour lines are in percent of the longer side of what both show"
    say(f"Differences are in percent of the loss. {side}." if quantity == "loss" else f"{side}.")
