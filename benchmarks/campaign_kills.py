"""Kills and signals at random moments while states are recorded, trained and drawn."""

from __future__ import annotations

import contextlib
import itertools
import random
import shutil
import signal
from pathlib import Path

import numpy as np
import torch
from campaign_ground import (
    SURFACE,
    TRAIN,
    Counter,
    LostError,
    Tally,
    Truth,
    advance,
    command,
    in_child,
    network,
    stopped,
    whole,
)

import losspath
from losspath import Recorder, Trajectory
from losspath.errors import StoreError
from losspath.files import only_writer
from losspath.recording import recorder as recorder_module

STEPS = 300
IN_PIECES = 32  # bytes of a buffer, fewer than a row has


def signals(share: float, part: float) -> list[int]:
    """The signals of a part of the campaign, in turns."""
    count = max(2, round(1000 * share * part))
    others = itertools.cycle((signal.SIGINT, signal.SIGTERM))
    return [each for _ in range(count) for each in (signal.SIGKILL, next(others))]


def go_on(run: Path, every: int, counter: Counter) -> None:
    """Goes on from what is durable up to the last step; notes the steps whose `record` returned."""
    torch.set_num_threads(1)
    model, step = network(), None
    with contextlib.suppress(StoreError):
        path = Trajectory(run)
        step = int(path.steps[-1])
        path.load_into(model, len(path) - 1, buffers=True)
    recorder = Recorder(run, model, every=every, existing="resume", step=step)
    try:
        for number in range(recorder.steps, STEPS):
            advance(model, number)
            recorder.record((number + 1) / 8)
            counter.value = number + 1
    finally:
        while True:
            with contextlib.suppress(KeyboardInterrupt):  # a second one, too
                recorder.close()
                break


def campaign_of_recording(share: float, moments: random.Random, place: Path) -> Tally:
    tally, truth, counter = Tally("kills and signals while recording"), Truth(STEPS), Counter()
    run, every, durable = place / "run0", 1, 0
    for number in signals(share, 0.7):
        recorder_module._COMMIT_SECONDS = moments.choice((0.0, 0.003, 1.5))
        recorder_module._BUFFER_BYTES = moments.choice((IN_PIECES, 300, 16 << 20))
        counter.value = 0
        pid = in_child(lambda run=run, every=every: go_on(run, every, counter))
        found: list[int] = []
        with tally.judged(f"signal {number}, every={every}"):
            code = stopped(pid, moments.expovariate(1 / 0.06), number)
            if code == 1:
                raise LostError("recording did not go on")
            recorded = 0 if number == signal.SIGKILL else counter.value
            with only_writer(run / ".lock", "to it"):
                pass
            with contextlib.suppress(StoreError):
                found = truth.check(run)
            wanted = set(range(0, max(recorded, durable) + 1, every))
            if max(recorded, durable) and not wanted <= set(found):
                raise LostError(f"states {sorted(wanted - set(found))[:5]}")
            # Of rows in pieces the newest state is kept about once a second.
            if every > 1 and recorder_module._BUFFER_BYTES == IN_PIECES:
                recorded = 0
            if max(recorded, durable) > max(found, default=0):
                raise LostError(f"the newest state, {max(recorded, durable)}")
        durable = max(found, default=0)
        if durable == STEPS:
            shutil.rmtree(run)
            run, every, durable = place / f"run{tally.tried}", moments.choice((1, 3, 7)), 0
    return tally


def campaign_of_training(share: float, moments: random.Random, place: Path) -> Tally:
    tally, run = Tally("kills and signals while training"), place / "killed"
    whole(place, *TRAIN, "--out", place / "whole")
    truth = Trajectory(place / "whole")
    rows, losses = truth[:], truth.all_losses
    for number in signals(share, 0.15):
        pid = in_child(lambda: command(*TRAIN, "--out", run), quiet=True)
        with tally.judged(f"signal {number}"):
            code = stopped(pid, moments.uniform(0.05, 1.5), number)
            if code == 1 and number == signal.SIGKILL:
                raise LostError("training did not go on")
            with contextlib.suppress(StoreError):
                path = Trajectory(run)
                assert np.array_equal(path[:], rows[: len(path)]), "a state is false"
                known = path.all_losses
                assert np.array_equal(known, losses[: len(known)]), "a loss is false"
        if code == 0:
            with tally.judged("the end"):
                if Trajectory(run).digest != truth.digest:
                    raise LostError("a training that was killed comes to another run")
            shutil.rmtree(run)
    return tally


def campaign_of_drawing(share: float, moments: random.Random, place: Path) -> Tally:
    tally, run = Tally("kills and signals while drawing"), place / "whole"
    if not run.exists():
        whole(place, *TRAIN, "--out", run)
    whole(place, "surface", run, *SURFACE, "--out", place / "drawn")
    (file,) = (place / "drawn" / "results").glob("surface-*.npz")
    truth, points = losspath.Surface.load(file), 0
    for number in signals(share, 0.15):
        pid = in_child(lambda: command("surface", run, *SURFACE), quiet=True)
        with tally.judged(f"signal {number}"):
            stopped(pid, moments.uniform(0.3, 2.0), number)
            journals = list((run / "results").glob("*.points"))
            now = sum(journal.read_bytes().count(b"\n") for journal in journals)
            made = list((run / "results").glob("surface-*.npz"))
            if now < points and not made:
                raise LostError(f"{points - now} points that were evaluated")
            points = now
            for result in made:
                surface = losspath.Surface.load(result)
                assert np.array_equal(surface.loss, truth.loss), "a height is false"
                result.unlink()
                points = 0
    return tally
