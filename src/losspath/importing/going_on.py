"""Whether checkpoints go on with a run that was imported before."""

from __future__ import annotations

from pathlib import Path

import torch

from losspath.errors import ArgumentError, ModelError
from losspath.importing.shell import FROZEN
from losspath.importing.survey import Survey
from losspath.recording.trajectory import Trajectory

_SHOWN = 3
_ANEW = 'import into another directory, or begin the run anew (existing="overwrite")'


def check_goes_on(
    begun: Trajectory, found: Survey, dated: list[tuple[int, Path]], has_model: bool
) -> None:
    """Refuses checkpoints that are not of the training that a run is of.

    Args:
        begun: the run.
        found: what the checkpoints have in common.
        dated: the checkpoints by their steps, those that the run has among them.
        has_model: whether the network was given, which says what is frozen.

    Raises:
        ArgumentError: they were chosen otherwise than those of the run, or have other numbers at
            steps that the run has.
        ModelError: they are of another network.
    """
    _check_choice(begun, found)
    _check_names(begun, found, dated[0][1])
    if not has_model:
        _check_frozen(begun, found, dated[-1][1])
    places = {int(step): index for index, step in enumerate(begun.steps)}
    for step, place in dated:
        if step in places:
            _check_numbers(begun, found, places[step], place)


def _check_choice(begun: Trajectory, found: Survey) -> None:
    then = begun.metadata.get("imported", {})
    for name in ("key", "weights", "prefix", "parameters"):
        if then.get(name) != found.notes.get(name):
            raise ArgumentError(
                f"{begun.directory} was imported with {name}={then.get(name)!r}, and now it is "
                f"{found.notes.get(name)!r}; pass the same, or {_ANEW}"
            )


def _check_names(begun: Trajectory, found: Survey, place: Path) -> None:
    rows = {entry.name: entry for entry in begun.layout.parameters}
    names = {*rows, *begun.side_kinds}
    missing, extra = sorted(names - {*found.kinds}), sorted({*found.kinds} - names)
    reshaped = [
        name
        for name, entry in rows.items()
        if name in found.shapes
        and entry.shape[: len(found.shapes[name])] != tuple(found.shapes[name])
    ]
    for what, some in (("lacks", missing), ("has besides", extra), ("has reshaped", reshaped)):
        if some:
            raise ModelError(
                f"{place} is not of the network of {begun.directory}: it {what} "
                f"{', '.join(some[:_SHOWN])}; {_ANEW}"
            )
    for name, entry in rows.items():
        then, now = getattr(torch, entry.dtype), found.dtypes.get(name)
        if now is not None and torch.promote_types(then, now) != then:
            raise ArgumentError(
                f"{name} is {entry.dtype} in {begun.directory} and {now} in the checkpoints, which "
                f"it does not hold exactly; {_ANEW}"
            )


def _check_frozen(begun: Trajectory, found: Survey, newest: Path) -> None:
    """What never changed was taken for frozen; it must not have begun to be trained."""
    still = [name for name, kind in begun.side_kinds.items() if kind == FROZEN]
    if not still:
        return
    sides, tensors = begun.sides(len(begun) - 1), found.read(newest)
    moved = [name for name in still if not torch.equal(sides[name], tensors[name])]
    if moved:
        raise ArgumentError(
            f"{moved[0]} was the same in all checkpoints of {begun.directory}, and so was kept as "
            f"frozen, but is another in {newest}; {_ANEW}"
        )


def _check_numbers(begun: Trajectory, found: Survey, index: int, place: Path) -> None:
    row, tensors = begun[index], found.read(place)
    for entry in begun.layout.parameters:
        tensor = tensors[entry.name].detach()
        tensor = torch.view_as_real(tensor) if tensor.is_complex() else tensor
        numbers = tensor.to(torch.from_numpy(row).dtype).reshape(-1).numpy()
        if numbers.tobytes() != row[entry.place].tobytes():
            raise ArgumentError(
                f"{begun.directory} has other numbers at step {begun.steps[index]} than {place}, "
                f"which is of another training ({entry.name} differs); {_ANEW}"
            )
