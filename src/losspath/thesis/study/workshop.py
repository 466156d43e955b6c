"""Does what a study needs, each thing once: trains, computes, and forgets paths that are done with.

Whatever is there is not done again, so that a study that was stopped anywhere goes on, and comes to
the same files.
"""

from __future__ import annotations

import dataclasses
import functools
import shutil
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Executor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from losspath.errors import DamagedError, RunError
from losspath.files import move_aside, read_document, write_document
from losspath.recording import store
from losspath.thesis.config import TrainingConfig
from losspath.thesis.datasets import Dataset, load_dataset
from losspath.thesis.study.runs import EveryStep, Ground, Result, Run
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
    results: tuple[tuple[Result, Path], ...]
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
    dataset = _dataset(job.config.data, job.data_dir)
    title = job.config.title

    def on_step(step: int, steps: int) -> None:
        tell(job.training_weight * step / max(steps, 1), f"training {title}")

    train(job.config, dataset, job.directory, job.run.epochs, on_step=on_step)
    done = job.training_weight
    ground = Ground(job.run, job.directory, dataset)
    for result, file in job.results:
        tell(done, f"{file.stem} of {title}")
        file.parent.mkdir(parents=True, exist_ok=True)
        result.compute(ground, file)
        done += result.weight
    tell(done, title)
    if (job.directory / store.STATES).stat().st_size > job.keep_bytes:
        shutil.rmtree(job.directory)


@functools.lru_cache(maxsize=2)
def _dataset(name: str, directory: Path | None) -> Dataset:
    return load_dataset(name, directory)


@dataclass
class Workshop:
    """Where a study's runs and results are, and how to make what is missing.

    Attributes:
        directory: of the study.
        data_dirs: where data sets are, by name; for those that can be downloaded it may be missing.
        keep_bytes: paths larger than this are removed once everything is computed of them.
        progress: told how far the work is.
        executor: does jobs side by side in other processes; None for this one.
    """

    directory: Path
    data_dirs: Mapping[str, Path | None]
    keep_bytes: float = float("inf")
    progress: Progress | None = None
    executor: Executor | None = None

    def file_of(self, result: Result) -> Path:
        """Where a result is, or will be."""
        return self.directory / "results" / result.run.name / result.file_name

    def load(self, result: Result) -> Any:
        """A result that `make` has made."""
        return result.load(self.file_of(result))

    def dataset(self, name: str) -> Dataset:
        """A data set, loaded once.

        Raises:
            RunError: results in this directory are of other data of the same name.
        """
        found = _dataset(name, self.data_dirs.get(name))
        file = self.directory / "results" / "data.json"
        known = read_document(file)["data"] if file.exists() else {}
        key = Path(name).name
        if key not in known:
            write_document(file, {"data": {**known, key: found.digest}})
        elif known[key] != found.digest:
            raise RunError(
                f"{self.directory} holds results of other data named {name!r} than these; look at "
                "--data-dir, or choose another directory (--out)"
            )
        return found

    def make(self, wanted: Iterable[Result]) -> None:
        """Trains and computes whatever is missing.

        Args:
            wanted: results; what they need beside is made too.
        """
        everything = _by_run(wanted)
        missing = self._missing(everything)
        jobs = [self._job(run, results) for run, results in missing.items()]
        for name in dict.fromkeys(job.config.data for job in jobs):
            self.dataset(name)  # what cannot be read is told before anything is trained
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

    def _do(self, jobs: list[Job], before: float, total: float) -> Iterable[Job]:
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

    def _missing(self, everything: Mapping[Run, Iterable[Result]]) -> dict[Run, list[Result]]:
        """What is not there, by run, and what that depends on."""
        missing: dict[Run, list[Result]] = {}

        def need(result: Result) -> None:
            if result in missing.get(result.run, ()) or self.has(result):
                return
            if result.run.rates_from is not None:
                need(EveryStep(result.run.rates_from))
            missing.setdefault(result.run, []).append(result)

        for results in everything.values():
            for result in results:
                need(result)
        return missing

    def has(self, result: Result) -> bool:
        """Whether a result was made; one that is surely damaged makes way, renamed aside.

        Raises:
            StoreError: it is there and cannot be read now, or by this version.
        """
        file = self.file_of(result)
        if not file.exists():
            return False
        try:
            result.load(file)
        except DamagedError:
            move_aside(file, self.directory)
            return False
        return True

    def _job(self, run: Run, results: list[Result]) -> Job:
        return Job(
            run=run,
            config=self.config_of(run),
            results=tuple((result, self.file_of(result)) for result in results),
            directory=self.directory / "runs" / run.name,
            data_dir=self.data_dirs.get(run.config.data),
            keep_bytes=self.keep_bytes,
        )

    def config_of(self, run: Run) -> TrainingConfig:
        """The configuration with the place of the step sizes that are its rates."""
        if run.rates_from is None:
            return run.config
        source = self.file_of(EveryStep(run.rates_from)).resolve()
        return dataclasses.replace(run.config, lr_schedule=f"steps:{source}")

    def _tell(self, done: float, total: float, what: str) -> None:
        if self.progress:
            self.progress(done, total, what)


def _by_run(wanted: Iterable[Result]) -> dict[Run, list[Result]]:
    """Each result once, with the others of its run."""
    found: dict[Run, dict[Result, None]] = {}
    for result in wanted:
        found.setdefault(result.run, {})[result] = None
    return {run: list(results) for run, results in found.items()}


def _depth(run: Run) -> int:
    return 0 if run.rates_from is None else 1 + _depth(run.rates_from)
