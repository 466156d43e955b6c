"""What benchmarks against other packages share: environments, turns, and what disturbs them.

Peers are installed from the package index in pinned versions, each in a virtual environment of its
own, with the torch of constraints.txt. A contender whose measurement others disturbed is measured
again, whatever it gave, twice at most.
"""

import os
import shutil
import statistics
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Protocol, TypeVar

# No more than the standard library is imported here: a process's peak resident size is never below
# that of the process that started it, which has these alone.

HERE = Path(__file__).resolve().parent
TIME_LIMIT = 1800.0  # seconds a process
# Cores that others may keep busy before a measurement is done again, and how often it is.
QUIET, AGAIN = 0.1, 2


class UnavailableError(Exception):
    """Why a contender cannot be installed or run."""


class Measured(Protocol):
    """What a measurement says of itself."""

    others: float


R = TypeVar("R", bound=Measured)


@dataclass(frozen=True)
class Environments:
    """Interpreters of peers, and processes that are run by them.

    Attributes:
        directory: where virtual environments are kept; None for none.
        threads: of each process.
    """

    directory: Path | None
    threads: int

    @cached_property
    def torch(self) -> str:
        """The pinned torch: others may bring gigabytes that a processor has no use for."""
        lines = (HERE.parent / "constraints.txt").read_text().splitlines()
        return next(line for line in lines if line.startswith("torch=="))

    def python_of(self, package: str, *beside: str) -> Path:
        """The interpreter that has a package, after installing what is missing.

        Args:
            package: pinned, as "name==1.0"; empty for this interpreter.
            beside: what a program needs that the package does not bring.
        """
        if not package:
            return Path(sys.executable)
        if self.directory is None:
            raise UnavailableError("no --peers DIR to install it in")
        home = self.directory.resolve() / package.replace("==", "-")
        python, marker = home / "bin" / "python", home / ".installed"
        if not marker.exists():
            print(f"installing {package} in {home}", file=sys.stderr, flush=True)
            shutil.rmtree(home, ignore_errors=True)
            self.call([sys.executable, "-m", "venv", str(home)])
        installed = marker.read_text().split() if marker.exists() else []
        if missing := [each for each in (package, self.torch, *beside) if each not in installed]:
            self.call([str(python), "-m", "pip", "install", "--quiet", *missing])
            marker.write_text("\n".join([*installed, *missing]))
        return python

    def call(
        self,
        command: list[str],
        cwd: Path | None = None,
        variables: Mapping[str, str] | None = None,
    ) -> None:
        """Runs a process to its end.

        Raises:
            UnavailableError: it failed, with the last that it said, or took too long.
        """
        threads = {f"{name}_NUM_THREADS": str(self.threads) for name in ("OMP", "MKL")}
        environment = os.environ | threads | {"MPLBACKEND": "Agg"} | dict(variables or {})
        try:
            ended = subprocess.run(
                command,
                cwd=cwd,
                env=environment,
                capture_output=True,
                text=True,
                timeout=TIME_LIMIT,
            )
        except subprocess.TimeoutExpired:
            raise UnavailableError(f"took more than {TIME_LIMIT:.0f} s") from None
        if ended.returncode:
            lines = [line.strip() for line in ended.stderr.splitlines() if line.strip()]
            errors = [line for line in lines if line.startswith("ERROR")]
            last = (errors or lines or [f"exit status {ended.returncode}"])[-1]
            raise UnavailableError(last)


def undisturbed(measure: Callable[[], R], again: int = AGAIN) -> R:
    """Measures once, or again where others disturbed it."""
    for _ in range(1 + again):
        result = measure()
        if not result.others > QUIET:
            break
        print(f"  disturbed: {result.others:.2f} cores", file=sys.stderr, flush=True)
    return result


def interleaved(
    names: list[str], rounds: int, measure: Callable[[str], R], again: int = AGAIN
) -> tuple[dict[str, list[R]], dict[str, str]]:
    """Results of every round by contender, and the reasons of those that have none."""
    results: dict[str, list[R]] = {name: [] for name in names}
    reasons: dict[str, str] = {}
    for number in range(rounds):
        first = number % len(names)
        for name in names[first:] + names[:first]:
            if name in reasons:
                continue
            print(f"round {number + 1}: {name}", file=sys.stderr, flush=True)
            try:
                results[name].append(undisturbed(lambda name=name: measure(name), again))
            except UnavailableError as error:
                reasons[name] = str(error)
    return {name: found for name, found in results.items() if name not in reasons}, reasons


def quartiles(values: list[float]) -> str:
    """The median of some values, with their quartiles."""
    if len(values) < 2:
        return f"{values[0]:6.2f}"
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return f"{middle:6.2f} ({low:.2f}…{high:.2f})"
