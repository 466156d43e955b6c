"""How far the pictures of each method hold: five kinds of network, three optimisers, three seeds.

    python benchmarks/fidelity.py --data-dir DIR --runs DIR [--only KIND ...] [--seeds 0 1 2]

Trains what is not there in the directory of runs, measures what is not there in
benchmarks/results/fidelity, a file for each run, and prints tables of all that is there. What was
stopped goes on. Hyperparameters of methods were chosen on runs of seed 0, which tables leave out.
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from fidelity_runs import FORKS, Kind, kinds, run_of
from scipy.sparse import csr_array

import losspath
from losspath.analysis.evidence import HELD_OUT, Evidence
from losspath.analysis.fidelity import bare_surface, judge
from losspath.evaluation.recorded import along
from losspath.files import plain_json
from losspath.geometry.grid import Grid
from losspath.surface import Landscape, Surface
from losspath.surface.judging import Heights
from losspath.surface.strata import Blends, losses_of_blends

RESULTS = Path(__file__).parent / "results" / "fidelity"
LINE = 19  # places on the straight line
# Rules, and how many grid lines an axis has.
PICTURES: dict[str, tuple[losspath.methods.Method, int]] = {
    "pca": (losspath.methods.PCA(), 21),
    "averaged, τ = 1": (losspath.methods.Averaged(1.0), 21),
    "averaged": (losspath.methods.Averaged("auto"), 21),
    "averaged-nd": (losspath.methods.AveragedND("auto"), 21),
    "sampled": (losspath.methods.Sampled(), 21),
    "local-planes": (losspath.methods.LocalPlanes(), 21),
    "local-draws": (losspath.methods.LocalDraws(), 21),
    "local-planes, 41": (losspath.methods.LocalPlanes(), 41),
}
SEEDS = 3
TUNED = 0  # the seed that methods were tuned on


def trained(kind: Kind, optimizer: str, seed: int, folder: Path) -> Path:
    """The folder of a run, which is trained where it is not there whole."""
    mark = folder / "whole"
    if not mark.exists():
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        run_of(kind, optimizer, seed, folder)
        mark.touch()
    return folder


@dataclass
class Line:
    """The straight line from the start to the end, whose losses are known."""

    places: np.ndarray
    losses: np.ndarray

    @classmethod
    def of(cls, landscape: Landscape) -> Line:
        shown = landscape.projection
        alpha = np.linspace(0, 1, LINE + 2)[1:-1]
        weights = np.zeros((LINE, len(landscape.path)))
        weights[:, 0], weights[:, -1] = 1 - alpha, alpha
        blends = Blends(csr_array(weights), csr_array(weights), np.arange(LINE))
        bound = along(landscape.objective, landscape.path)
        losses = losses_of_blends(landscape.path, landscape.plane, shown, bound, blends, {})
        return cls(blends.places(shown), losses)

    def error(self, surface: Surface) -> float:
        """The mean error on it, as a part of the range of its heights."""
        heights = Heights.of(surface, self.losses)
        own, drawn = heights(self.losses), heights(surface.at(self.places))
        return float(np.abs(drawn - own).mean() / max(np.ptp(own), np.finfo(float).tiny))


def is_missing(name: str, found: dict[str, Any]) -> bool:
    """Whether a picture is not there, or is by a method of other options."""
    return name not in found or found[name]["asked"] != plain_json(PICTURES[name][0].to_json())


@dataclass
class Case:
    """A run with what surfaces of it are held against.

    Attributes:
        landscape: of the run, by whichever method.
        evidence: losses that no method has a part in, its forks' among them.
        line: from the start to the end.
    """

    landscape: Landscape
    evidence: Evidence
    line: Line

    @classmethod
    def of(cls, kind: Kind, folder: Path, control: Path) -> Case:
        """Evaluates it.

        Args:
            kind: what was trained.
            folder: the run and its forks.
            control: another run.
        """
        path = losspath.Trajectory(folder / "run")
        forks = [losspath.Trajectory(folder / f"fork-{number}") for number in range(FORKS)]
        first = Landscape(path, kind.objective(), "pca")
        evidence = Evidence.of(first, forks=forks, control=losspath.Trajectory(control / "run"))
        return cls(first, evidence, Line.of(first))

    def judged(self, method: losspath.methods.Method, lines: int) -> dict[str, Any]:
        """What there is to say of a method's surface, on a grid of so many lines an axis."""
        # No point is evaluated that nothing is read beside.
        read = [each.places for each in self.evidence.vectors if each.name != HELD_OUT]
        around = np.concatenate([*read, self.evidence.control.places, self.line.places])
        landscape = self.landscape.with_method(method)
        grid = Grid.around(landscape.projection.coordinates, lines)
        surface = bare_surface(landscape, grid, around)
        fidelity = judge(landscape, surface, self.evidence, lines, bare_surface)
        return {
            "asked": method.to_json(),
            "method": landscape.method.to_json(),
            "line": self.line.error(surface),
            **fidelity.to_json(),
        }


def measured(kind: Kind, folder: Path, control: Path, found: dict[str, Any]) -> dict[str, Any]:
    """The numbers of a run by picture.

    Args:
        kind: what was trained.
        folder: the run and its forks.
        control: another run.
        found: by picture, what is known already.
    """
    case = Case.of(kind, folder, control)
    for name, (method, lines) in PICTURES.items():
        if is_missing(name, found):
            found[name] = case.judged(method, lines)
    path, shown = case.landscape.path, case.landscape.projection
    return {
        "kind": kind.title,
        "states": len(path),
        "parameters": path.parameter_count,
        "variance": float(shown.explained_variance_ratio.sum()),
        "methods": {name: found[name] for name in PICTURES},
    }


def tables(results: dict[tuple[str, str, int], dict[str, Any]], tuned: bool) -> list[str]:
    """Lines of the tables: of each run's kind and optimiser the medians over seeds."""
    lines = []
    wanted = {key: each for key, each in results.items() if (key[2] == TUNED) == tuned}
    for kind, optimizer in dict.fromkeys((kind, optimizer) for kind, optimizer, _ in wanted):
        some = [each for key, each in wanted.items() if key[:2] == (kind, optimizer)]
        title = some[0]["kind"]
        lines += ["", f"{title}, {optimizer} ({len(some)} runs of {some[0]['states']} states)"]
        lines.append(
            f"{'':16} {'typical':>8} {'bias':>6} {'forks':>6} {'line':>6} "
            f"{'skill':>22} {'over recorded':>22} {'control':>8}"
        )
        for name in PICTURES:
            rows = [each["methods"][name] for each in some]
            floor = np.median([row["floor"] for row in rows])
            lines.append(
                f"{name:16} {'×' + format(_median(rows, 'typical_error'), '.3f'):>8} "
                f"{_median(rows, 'bias'):>+6.0%} {_forks(rows):>+6.0%} "
                f"{np.median([row['line'] for row in rows]):>6.1%} "
                f"{_skill(rows, 'skill'):>22} {_skill(rows, 'skill_over_recorded'):>22}"
                f" {_control(rows):>8}"
            )
        lines.append(f"losses of balls at one place spread by ×{floor:.3f}")
    return lines


def _median(rows: list[dict[str, Any]], name: str) -> float:
    return float(np.median([row[name][0] for row in rows]))


def _forks(rows: list[dict[str, Any]]) -> float:
    return float(np.median([row["strata"]["forks"]["bias"][0] for row in rows]))


def _skill(rows: list[dict[str, Any]], name: str) -> str:
    """The median, and the least low end and the greatest high end of the intervals."""
    low = min(row[name][1] if row[name][1] is not None else math.nan for row in rows)
    high = max(row[name][2] if row[name][2] is not None else math.nan for row in rows)
    return f"{_median(rows, name):+.2f} ({low:+.2f}…{high:+.2f})"


def _control(rows: list[dict[str, Any]]) -> str:
    """The median skill on the states of another run, where any are within the picture."""
    known = [
        row["control"][0] for row in rows if row.get("control") and row["control"][0] is not None
    ]
    return f"{np.median(known):+.2f}" if known else "none"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-dir", type=Path, required=True, help="has MNIST and CIFAR-10")
    parser.add_argument("--runs", type=Path, required=True, help="where runs are kept")
    parser.add_argument("--only", nargs="+", help="kinds of run")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--train", action="store_true", help="only train")
    options = parser.parse_args()
    torch.set_num_threads(1)
    known = kinds(options.data_dir)
    RESULTS.mkdir(parents=True, exist_ok=True)
    for seed in options.seeds:
        for name in options.only or known:
            for optimizer in known[name].rates:
                file = RESULTS / f"{name}-{optimizer}-{seed}.json"
                known_already = json.loads(file.read_text())["methods"] if file.exists() else {}
                if not any(is_missing(picture, known_already) for picture in PICTURES):
                    continue
                next_seed = (seed + 1) % SEEDS
                own, other = (options.runs / f"{name}-{optimizer}-s{s}" for s in (seed, next_seed))
                trained(known[name], optimizer, seed, own)
                trained(known[name], optimizer, next_seed, other)
                if options.train:
                    continue
                begun = time.perf_counter()
                found = measured(known[name], own, other, known_already)
                file.write_text(json.dumps(plain_json(found), indent=1, ensure_ascii=False) + "\n")
                print(f"{file.stem}: {time.perf_counter() - begun:.0f} s", flush=True)
    results = {}
    for name, kind in known.items():
        for optimizer in kind.rates:
            for file in sorted(RESULTS.glob(f"{name}-{optimizer}-[0-9].json")):
                found = json.loads(file.read_text())
                if not any(is_missing(picture, found["methods"]) for picture in PICTURES):
                    results[name, optimizer, int(file.stem[-1])] = found
    print("\n".join(tables(results, tuned=False)))
    print("\nOf the runs that methods were tuned on:")
    print("\n".join(tables(results, tuned=True)))


if __name__ == "__main__":
    main()
