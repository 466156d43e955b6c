"""A run of the checkpoints that a training script saved."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any, Literal

import torch

from losspath.arguments import (
    MODEL,
    checked,
    described,
    file,
    flag,
    function,
    indices,
    one_of,
    optional,
    text,
    texts,
)
from losspath.errors import ArgumentError
from losspath.files import only_writer
from losspath.importing.files import Pattern, find, in_order, steps_in_names
from losspath.importing.formats import keep_model_files
from losspath.importing.going_on import ANEW, begun_in, check_goes_on, check_log_goes_on
from losspath.importing.links import write_links
from losspath.importing.logs import Log, check_one_history, read_log
from losspath.importing.look import Look, Reading, look_at
from losspath.importing.shell import Shell
from losspath.importing.state_dicts import WEIGHTS, Choice, Tensors, Weights
from losspath.importing.survey import Survey, survey
from losspath.recording import store
from losspath.recording.recorder import Recorder
from losspath.recording.trajectory import Trajectory

Existing = Literal["error", "resume", "overwrite"]
Progress = Callable[[int, int], None]


def _places(name: str, value: Any) -> Any:
    several = [value] if isinstance(value, (str, PathLike)) else value
    if not isinstance(several, Sequence):
        raise ArgumentError(f"expected {name} as files or patterns, got {described(value)}")
    return [file(name, each) for each in several]


def _texts(name: str, value: Any) -> Any:
    return texts(name, [value] if isinstance(value, str) else value)


@checked(
    checkpoints=_places,
    out=file,
    model=optional(MODEL),
    key=optional(text),
    weights=optional(one_of(WEIGHTS)),
    prefix=text,
    parameters=optional(_texts),
    steps=optional(indices),
    losses=optional(file),
    loss_column=optional(text),
    existing=one_of(("error", "resume", "overwrite")),
    allow_complex=flag,
    link=flag,
    base=optional(file),
    progress=optional(function),
)
def import_checkpoints(
    checkpoints: Pattern | Sequence[Pattern],
    out: str | PathLike[str],
    *,
    model: torch.nn.Module | None = None,
    key: str | None = None,
    weights: Weights | None = None,
    prefix: str = "",
    parameters: str | Sequence[str] | None = None,
    steps: Sequence[int] | None = None,
    losses: str | PathLike[str] | None = None,
    loss_column: str | None = None,
    existing: Existing = "error",
    allow_complex: bool = False,
    link: bool = False,
    base: str | PathLike[str] | None = None,
    progress: Progress | None = None,
) -> Trajectory:
    """Makes a run of checkpoints, as if it had been recorded at their steps.

    Read are state dicts of torch, at the top of a file or nested under a key, ``.safetensors``, in
    one file or in several with their index, Lightning's ``.ckpt``, folders of Hugging Face's
    ``save_pretrained`` and `Trainer`, PEFT adapters, and folders of torch.distributed.checkpoint.
    No code of a file is run. The numbers are copied, as trainers remove their old checkpoints.

    The path has the floating-point tensors. Running statistics of normalisation layers and whole
    numbers are kept beside it, as buffers are; and what is the same in all checkpoints, as frozen
    parameters are, where that is more than half of the numbers. Half precisions widen to float32
    exactly; where any tensor has double precision, states have it too.

    Args:
        checkpoints: files, folders or patterns with ``*``, ``?`` and ``**``.
        out: the run's directory; made if it does not exist.
        model: the network, for what a checkpoint does not say: the path then has the parameters
            that require a gradient, in the model's order, by the model's names. Not needed for
            step sizes, planes and maps of distance, and seldom for surfaces, which find parameters
            by name.
        key: where in a checkpoint its state dict is, with dots between nested keys; needed where
            there are several.
        weights: "raw" or "averaged" where a checkpoint holds an average beside the weights that
            training went on from.
        prefix: what names begin with, such as ``"model."``; others are left out, and it is taken
            off, so that names are those of the network inside.
        parameters: patterns of names, as ``"encoder.*"``; other tensors are left out.
        steps: the step of each checkpoint, in the order of their names with numbers in them as
            numbers. By default what the checkpoints say (``global_step`` and the like), or else the
            number in their names.
        losses: a CSV file with columns for step and loss, or a ``trainer_state.json``. By default
            the history that Hugging Face's `Trainer` keeps with its checkpoints, if there is one.
        loss_column: of the training loss. By default ``loss``, ``train_loss``, ``train_loss_step``
            or the like; other columns of numbers become named values.
        existing: what to do when the directory exists and is not empty: "error" refuses; "resume"
            adds the checkpoints after its last state; "overwrite" begins anew.
        allow_complex: take complex tensors as pairs (real, imaginary).
        link: refer to the checkpoints instead of copying their numbers. They must stay where they
            are, or be moved with the run; each is checked whenever it is read. Buffers and what is
            frozen in them are copied all the same. New ones are added as the run was begun.
        base: of checkpoints of LoRA adapters, the network that they are of: a folder of
            ``save_pretrained``, or a file with its state dict. It is kept once beside the path, as
            frozen, or with `link` referred to, so that surfaces need nothing else. Without it the
            run has the adapter alone.
        progress: called with (checkpoints done, in all).

    Returns:
        The run.

    Raises:
        ArgumentError: there are no checkpoints, their steps are not known or not distinct, they
            are of two trainings by their logs, or one holds several state dicts and it was not said
            which.
        ModelError: checkpoints are not of one network, or not of the base; what differs is named.
        UnsupportedError: a checkpoint holds more than tensors and plain values.
        DamagedError: a checkpoint cannot be read.
        ExistsError: the directory is not empty and `existing` is "error".

    Example:
        >>> path = import_checkpoints("out/checkpoint-*", "runs/mine")  # doctest: +SKIP
    """
    out = Path(out)
    begun = begun_in(out) if existing == "resume" else None
    if begun is not None and link and not begun.is_linked:
        raise ArgumentError(
            f"{begun.directory} has copies of its checkpoints, so that none can be linked; leave "
            f"link (--link) out, or {ANEW}"
        )
    reading = Reading(Choice(key, weights, prefix), parameters)
    looks, changes = look_at(
        in_order(find(checkpoints)), reading, compares=model is None and begun is None
    )
    seen = _dated(looks, steps, has_losses=losses is not None)
    check_one_history(look.place for _, look in seen)
    names = None if begun is None else _names_of(begun)
    network = None if base is None else Path(base).expanduser().absolute()
    is_linked = link if begun is None else begun.is_linked
    found = survey([look for _, look in seen], changes, reading, model, names, network, is_linked)
    dated = [(step, look.place) for step, look in seen]
    log = read_log(None if losses is None else Path(losses), loss_column, [p for _, p in dated])
    tell = progress or (lambda done, total: None)
    job = _Job(out, found, log, existing, allow_complex, is_linked, network, tell)
    if begun is None:
        path = _begin(job, dated)
    else:
        check_goes_on(begun, found, dated, has_model=model is not None)
        if losses is None:
            check_log_goes_on(begun, log, dated[-1][1])
        path = _add(job, begun, dated)
    folders = [place for place in (network, dated[-1][1]) if place is not None]
    keep_model_files(folders, out, is_new=begun is None)
    return path


@dataclass(frozen=True)
class _Job:
    """What is imported, and how."""

    out: Path
    found: Survey
    log: Log
    existing: Existing
    allow_complex: bool
    is_linked: bool
    base: Path | None
    tell: Progress

    def read(self, place: Path) -> Tensors:
        """What is recorded of a checkpoint: of a base that is referred to, nothing."""
        return self.found.reading.read(place) if self.is_linked else self.found.read(place)

    def write_links(self, places: Mapping[int, Path]) -> None:
        """Notes where checkpoints are."""
        write_links(self.out, places, self.found.reading, self.base)


def _names_of(begun: Trajectory) -> set[str]:
    return {*begun.side_kinds, *(entry.name for entry in begun.layout.parameters)}


def _dated(
    looks: Sequence[Look], steps: Sequence[int] | None, has_losses: bool
) -> list[tuple[int, Look]]:
    """Checkpoints with their steps, by these."""
    if steps is None:
        steps = _steps_of(looks, has_losses)
    elif len(steps) != len(looks):
        raise ArgumentError(
            f"expected a step for each of {len(looks)} checkpoints, got {len(steps)}"
        )
    dated: dict[int, Look] = {}
    for step, look in zip(steps, looks, strict=True):
        place = look.place
        if step < 0:
            raise ArgumentError(f"expected steps ≥ 0, got {step} for {place}")
        if step in dated:
            raise ArgumentError(
                f"expected one checkpoint of each step, got {dated[step].place} and {place}, "
                f"both of step {step}; give a pattern that leaves one of them out, or steps=[…] "
                "(--steps)"
            )
        dated[step] = look
    return sorted(dated.items(), key=lambda each: each[0])


def _steps_of(looks: Sequence[Look], has_losses: bool) -> list[int]:
    """What checkpoints say of their steps, or else their names."""
    places = [look.place for look in looks]
    without = [look.place for look in looks if look.step is None]
    if without and len(without) < len(places):
        raise ArgumentError(
            f"expected all checkpoints to say of which step they are, as some do, but {without[0]} "
            "does not; pass steps=[…] (--steps), one for each in the order of their names"
        )
    found = [look.step for look in looks if look.step is not None]
    if without:
        found, are_epochs = steps_in_names(places)
        if are_epochs and has_losses:
            raise ArgumentError(
                f"{places[0].name} and the others are numbered by epochs, and losses by steps; "
                "pass steps=[…] (--steps), one for each in the order of their names"
            )
    order = sorted(range(len(places)), key=found.__getitem__)
    epochs = [looks[index].epoch for index in order]
    known = [epoch for epoch in epochs if epoch is not None]
    if len(known) == len(epochs) and known != sorted(known):
        raise ArgumentError(
            f"checkpoints' steps and epochs contradict each other, as where steps begin anew in "
            f"each epoch: step {found[order[0]]} is of epoch {known[0]} in {places[order[0]]}; "
            "pass steps=[…] (--steps), one for each in the order of their names"
        )
    return found


def _after(begun: Trajectory, dated: list[tuple[int, Path]]) -> list[tuple[int, Path]]:
    """The checkpoints that a run that is there has not yet."""
    recorded = set(begun.steps.tolist())
    last = max(recorded)
    between = [(step, place) for step, place in dated if step < last and step not in recorded]
    if between:
        step, place = between[0]
        raise ArgumentError(
            f"{place} is of step {step}, and {begun.directory} has steps before and after it; a "
            f"run can only be added to at its end: {ANEW}"
        )
    return [(step, place) for step, place in dated if step > last]


def _begin(job: _Job, dated: list[tuple[int, Path]]) -> Trajectory:
    """Makes a run of checkpoints."""
    found, shell = job.found, job.found.shell()
    (first, place), *rest = dated
    shell.hold(job.read(place))
    with Recorder(
        job.out,
        shell,
        existing=job.existing,
        step=first,
        dtype=found.dtype,  # type: ignore[arg-type]
        metadata={"imported": found.notes},
        allow_complex=job.allow_complex,
        _may_begin=True,
        _is_linked=job.is_linked,
        _prefix=found.wrapper,
    ) as recorder:
        if job.is_linked:
            job.write_links(dict(dated))
        job.tell(1, len(dated))
        _record(job, recorder, shell, first, rest, len(dated))
    return Trajectory(job.out)


def _add(job: _Job, begun: Trajectory, dated: list[tuple[int, Path]]) -> Trajectory:
    """Adds those checkpoints to a run that it has not yet; links go to where they are now."""
    todo, places, last = _after(begun, dated), dict(dated), int(begun.steps[-1])
    if job.is_linked:
        with only_writer(job.out / store.LOCK, f"to {job.out}"):
            job.write_links(places)
    if not todo:
        return begun
    shell = Shell.of_run(begun, job.found.dtypes)
    if last in places:
        shell.hold(job.read(places[last]))
    else:
        shell.hold_last(begun)
    with Recorder(
        job.out,
        shell,
        existing="resume",
        step=last,
        dtype=begun.dtype.name,  # type: ignore[arg-type]
        metadata=begun.metadata,
        allow_complex=job.allow_complex,
        _made_again=True,
        _is_linked=job.is_linked,
    ) as recorder:
        _record(job, recorder, shell, last, todo, len(todo))
    return Trajectory(job.out)


def _record(
    job: _Job,
    recorder: Recorder,
    shell: Shell,
    before: int,
    todo: list[tuple[int, Path]],
    total: int,
) -> None:
    log = job.log
    for number, (step, place) in enumerate(todo, total - len(todo) + 1):
        shell.hold(job.read(place))
        for logged in log.between(before, step):
            recorder._note(log.losses.get(logged), logged, log.values.get(logged, {}))
        loss = log.loss_at(step)
        recorder.record(loss, step, **log.values.get(step, {}))
        before = step
        job.tell(number, total)
