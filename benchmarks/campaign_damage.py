"""Stores, results and checkpoints that are cut, flipped or lost."""

from __future__ import annotations

import contextlib
import pkgutil
import random
import shutil
from collections.abc import Iterator
from pathlib import Path

from campaign_ground import (
    SURFACE,
    TRAIN,
    LostError,
    Tally,
    Truth,
    advance,
    network,
    whole,
)

from losspath import Recorder
from losspath.errors import StoreError
from losspath.files import load_archive, read_document
from losspath.recording.repair import repair_trajectory


def damage(file: Path, raw: bytes, moments: random.Random) -> tuple[str, bytes]:
    """Cuts a file, flips a bit of it, or loses it."""
    how = moments.choice(("flip", "flip", "cut", "lose"))
    if how == "lose" or not raw:
        file.unlink()
        return "lost", b""
    place = moments.randrange(len(raw))
    if how == "cut":
        changed = raw[:place]
    else:
        changed = raw[:place] + bytes([raw[place] ^ 1 << moments.randrange(8)]) + raw[place + 1 :]
    file.write_bytes(changed)
    return f"{how} at byte {place} of {len(raw)}", changed


def stores(place: Path) -> Iterator[tuple[Path, int]]:
    """Runs as recorders leave them: closed, with gaps between rows, cut off, gone on with."""
    for every, last in ((1, 12), (3, 14), (7, 15)):
        run = place / f"store{every}"
        for stop in (last // 2, last):
            model = network()
            for step in range(last // 2 if stop == last else 0):
                advance(model, step)
            with Recorder(run, model, every=every, existing="resume") as recorder:
                for number in range(recorder.steps, stop):
                    advance(model, number)
                    recorder.record((number + 1) / 8)
                recorder.flush()
                shutil.copytree(run, place / f"cut{every}", dirs_exist_ok=True)
        yield run, every
        yield place / f"cut{every}", every


def campaign_of_stores(share: float, moments: random.Random, place: Path) -> Tally:
    tally, truth = Tally("damaged stores"), Truth(20)
    sources = [(run, every, truth.check(run)) for run, every in stores(place)]
    copy = place / "copy"
    for _ in range(max(10, round(7000 * share))):
        run, every, steps = moments.choice(sources)
        shutil.copytree(run, copy)
        name = moments.choice(sorted(file.name for file in copy.iterdir()))
        raw = (copy / name).read_bytes()
        how, changed = damage(copy / name, raw, moments)
        with tally.judged(f"{run.name}/{name} {how}"):
            with contextlib.suppress(StoreError):
                truth.check(copy)
            repair_trajectory(copy)
            found: list[int] = []
            with contextlib.suppress(StoreError):
                found = truth.check(copy)
            missing = set(steps) - set(found) - harmed(name, raw, changed, steps, every)
            if missing:
                raise LostError(f"states {sorted(missing)}")
            kept = [file.read_bytes() for file in copy.rglob(name)]
            if changed and not any(each.startswith(changed) for each in kept):
                raise LostError("the damaged bytes themselves")
            if repair_trajectory(copy):
                raise LostError("a repair that has to be repaired")
        shutil.rmtree(copy)
    return tally


def harmed(name: str, raw: bytes, changed: bytes, steps: list[int], every: int) -> set[int]:
    """The states whose own bytes are not whole."""
    newest = steps[-1] if steps[-1] % every else None
    if name == "newest.bin":
        return set() if newest is None else {newest}
    if name != "states.bin":
        return set()
    rows = [step for step in steps if step != newest]
    size = len(raw) // len(rows)
    places = [slice(number * size, (number + 1) * size) for number in range(len(rows))]
    return {step for step, place in zip(rows, places, strict=True) if raw[place] != changed[place]}


def campaign_of_results(share: float, moments: random.Random, place: Path) -> Tally:
    from losspath.results import KINDS, damage_of

    tally, run = Tally("damaged results and checkpoints"), place / "whole"
    if not run.exists():
        whole(place, *TRAIN, "--out", run)
    for arguments in (("surface", *SURFACE), ("interpolate", "--points", "3"), ("steps",)):
        whole(place, arguments[0], run, *arguments[1:])
    whole(place, "dynamics", run, "--states", "3", "--samples", "50")
    write_checkpoints_of_results(run / "results")
    files = sorted(each for each in (run / "results").iterdir() if each.suffix != ".lock")
    files += [run / "history.json", *run.glob("checkpoint-*.safetensors")]

    def content(file: Path) -> object:
        if file.suffix == ".npz":
            kind = pkgutil.resolve_name(KINDS[file.name.partition("-")[0]].type)
            arrays, provenance = load_archive(file, *kind.archive)
            return {n: (a.dtype, a.shape, a.tobytes()) for n, a in arrays.items()}, provenance
        if file.suffix == ".json":
            return read_document(file)
        if file.suffix == ".points":
            from losspath.evaluation.execution.journal import sound_part

            part = sound_part(file)
            return file.read_bytes() if part is None else part
        from losspath.thesis.checkpoints import is_intact

        if not is_intact(file):
            raise StoreError("damaged")
        return file.read_bytes()

    truth = {file: content(file) for file in files}
    for _ in range(max(10, round(3000 * share))):
        file = moments.choice(files)
        raw = file.read_bytes()
        how, changed = damage(file, raw, moments)
        with tally.judged(f"{file.name} {how}"):
            found = None
            with contextlib.suppress(StoreError):
                found = content(file)
            if file.suffix == ".points":
                assert found is None or points_of(found) <= points_of(truth[file]), "false points"
            else:
                assert found is None or found == truth[file], "what is read is false"
            damage_of(file)
            if changed and file.read_bytes() != changed:
                raise LostError("the damaged bytes themselves")
        file.write_bytes(raw)
    return tally


def points_of(raw: object) -> set[bytes]:
    """The whole lines of a journal."""
    assert isinstance(raw, bytes)
    return set(raw[: raw.rfind(b"\n") + 1].splitlines())


def write_checkpoints_of_results(results: Path) -> None:
    """Journals as a computation that was stopped leaves them."""
    from losspath.evaluation.execution.journal import Journal
    from losspath.evaluation.quantities import Evaluation

    with Journal(results / "surface-0.points", "0") as journal:
        for number in range(40):
            journal.add(number, Evaluation(number / 7, None))
