"""Trains and computes what a study lacks, each thing once, and removes paths that are done with.

Whatever is there is not done again, so that a study that was stopped anywhere goes on, and comes to
the same files.
"""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from losspath.recording import store
from losspath.thesis.config import TrainingConfig
from losspath.thesis.study.result_files import ResultFiles, load_once
from losspath.thesis.study.results import Result, Run, TrainedRun, every_step
from losspath.thesis.training import train

# Called with (seconds of work done, in all, what is under way).
Progress = Callable[[float, float, str], None]

# Seconds of training for a sample and epoch, about; for the time that is left.
_SECONDS = {"tiny-nn": 3e-5, "tiny-cnn": 1e-4, "modified-lenet": 1.6e-4, "lenet5": 1.4e-4}
_OTHER_SECONDS = 9e-4
_SAMPLES = {"digits": 1437, "mnist": 60_000}


@dataclass(frozen=True)
class Job:
    """A run with what is to be computed of it.

    Attributes:
        run: the run.
        config: its configuration, with the place of the step sizes that are its rates.
        results: with the files that they go to.
        directory: where the run is recorded.
        data_dir: where its data are.
        keep_bytes: a path larger than this is removed in the end.
    """

    run: Run
    config: TrainingConfig
    results: tuple[tuple[Result[Any], Path], ...]
    directory: Path
    data_dir: Path | None
    keep_bytes: float

    @property
    def training_weight(self) -> float:
        """About how many seconds the training takes."""
        samples = _SAMPLES.get(self.config.data, 50_000)
        return _SECONDS.get(self.config.network, _OTHER_SECONDS) * samples * self.run.epochs

    @property
    def weight(self) -> float:
        """About how many seconds all of it takes."""
        return self.training_weight + sum(result.weight for result, _ in self.results)


def do_job(job: Job, progress: Callable[[float, str], None] | None = None) -> None:
    """Trains a run, or goes on with it, and computes what is asked for.

    Args:
        job: the job.
        progress: called with (seconds of work done, what is under way).
    """
    tell = progress or (lambda done, what: None)
    dataset = load_once(job.config.data, job.data_dir)
    title = job.config.title

    def on_step(step: int, steps: int) -> None:
        tell(job.training_weight * step / max(steps, 1), f"training {title}")

    train(job.config, dataset, job.directory, job.run.epochs, on_step=on_step)
    done = job.training_weight
    trained = TrainedRun(job.run, job.directory, dataset)
    for result, file in job.results:
        tell(done, f"{file.stem} of {title}")
        file.parent.mkdir(parents=True, exist_ok=True)
        result.compute(trained, file)
        done += result.weight
    tell(done, title)
    if (job.directory / store.STATES).stat().st_size > job.keep_bytes:
        shutil.rmtree(job.directory)


@dataclass(frozen=True)
class Scheduler:
    """Makes what is missing of a study's results.

    Attributes:
        files: where results go.
        keep_bytes: paths larger than this are removed once everything is computed of them.
        progress: told how far the work is.
        executor: does jobs side by side in other processes; None for this one.
    """

    files: ResultFiles
    keep_bytes: float = float("inf")
    progress: Progress | None = None
    executor: Executor | None = None

    def make(self, wanted: Iterable[Result[Any]]) -> None:
        """Trains and computes whatever is missing.

        Args:
            wanted: results; what they need beside is made too.
        """
        everything: dict[Run, list[Result[Any]]] = {}
        for result in dict.fromkeys(wanted):
            everything.setdefault(result.run, []).append(result)
        missing = self._missing(everything)
        jobs = [self._job(run, results) for run, results in missing.items()]
        for name in dict.fromkeys(job.config.data for job in jobs):
            self.files.dataset(name)  # what cannot be read is told before anything is trained
        # What was there before counts as done.
        done = 0.0
        for run, results in everything.items():
            left = missing.get(run, [])
            there = self._job(run, [result for result in results if result not in left])
            done += there.weight - (there.training_weight if left else 0.0)
        total = done + sum(job.weight for job in jobs)
        for depth in sorted({_depth(job.run) for job in jobs}):
            wave = [job for job in jobs if _depth(job.run) == depth]
            for job in self._do(wave, done, total):
                done += job.weight
                self._tell(done, total, job.config.title)

    def _do(self, jobs: list[Job], before: float, total: float) -> Iterator[Job]:
        """Does jobs that do not depend on each other; gives them back as they are done."""
        if self.executor is None:
            for job in jobs:
                do_job(job, lambda done, what, start=before: self._tell(start + done, total, what))  # type: ignore[misc]
                before += job.weight
                yield job
            return
        # The longest first, so that no process is left alone with it in the end.
        order = sorted(jobs, key=lambda job: -job.weight)
        futures = {self.executor.submit(do_job, job): job for job in order}
        try:
            for future in as_completed(futures):
                future.result()
                yield futures[future]
        finally:
            for future in futures:
                future.cancel()

    def _missing(self, everything: dict[Run, list[Result[Any]]]) -> dict[Run, list[Result[Any]]]:
        """What is not there, by run, and what that depends on."""
        missing: dict[Run, list[Result[Any]]] = {}

        def need(result: Result[Any]) -> None:
            if result in missing.get(result.run, ()) or self.files.has(result):
                return
            if result.run.rates_from is not None:
                need(every_step(result.run.rates_from))
            missing.setdefault(result.run, []).append(result)

        for result in (each for results in everything.values() for each in results):
            need(result)
        return missing

    def _job(self, run: Run, results: list[Result[Any]]) -> Job:
        return Job(
            run=run,
            config=self.config_of(run),
            results=tuple((result, self.files.file_of(result)) for result in results),
            directory=self.files.directory / "runs" / run.name,
            data_dir=self.files.data_dirs.get(run.config.data),
            keep_bytes=self.keep_bytes,
        )

    def config_of(self, run: Run) -> TrainingConfig:
        """The configuration with the place of the step sizes that are its rates."""
        if run.rates_from is None:
            return run.config
        source = self.files.file_of(every_step(run.rates_from)).resolve()
        return dataclasses.replace(run.config, lr_schedule=f"steps:{source}")

    def _tell(self, done: float, total: float, what: str) -> None:
        if self.progress:
            self.progress(done, total, what)


def _depth(run: Run) -> int:
    return 0 if run.rates_from is None else 1 + _depth(run.rates_from)
