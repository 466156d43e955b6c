"""Where the results of a study are kept, and of which data."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from losspath.analysis.runs import RunCurves
from losspath.errors import DamagedError, RunError
from losspath.files import move_aside, read_document, write_document
from losspath.thesis.datasets import Dataset, load_dataset
from losspath.thesis.study.results import Result, Run, history, steps

T = TypeVar("T")

load_once = functools.lru_cache(maxsize=2)(load_dataset)


@dataclass(frozen=True)
class ResultFiles:
    """The result files of a study.

    Attributes:
        directory: of the study.
        data_dirs: where data sets are, by name; for those that can be downloaded it may be missing.
    """

    directory: Path
    data_dirs: Mapping[str, Path | None]

    def file_of(self, result: Result[Any]) -> Path:
        """Where a result is, or will be."""
        return self.directory / "results" / result.run.name / result.file_name

    @functools.cached_property
    def _loaded(self) -> dict[Result[Any], Any]:
        return {}

    def load(self, result: Result[T]) -> T:
        """A result that is there; read once, as many figures and measurements are of the same."""
        if result not in self._loaded:
            self._loaded[result] = result.load(self.file_of(result))
        found: T = self._loaded[result]
        return found

    def curves(self, runs: Iterable[Run]) -> list[RunCurves]:
        """What runs are compared by."""
        return [
            RunCurves(self.load(steps(run)), self.load(history(run)), run.config.seed)
            for run in runs
        ]

    def has(self, result: Result[Any]) -> bool:
        """Whether a result is there; one that is surely damaged makes way, renamed aside.

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

    def dataset(self, name: str) -> Dataset:
        """A data set, loaded once.

        Raises:
            RunError: results in this directory are of other data of the same name.
        """
        found = load_once(name, self.data_dirs.get(name))
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
