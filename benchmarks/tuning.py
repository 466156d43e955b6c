"""Options of methods that average losses, one by one around their defaults, on runs of one seed.

    python benchmarks/tuning.py --data-dir DIR --runs DIR [--only KIND ...] [--optimizers NAME ...]
        [--print]

The runs are those of `fidelity.py` of the seed that methods are tuned on, which its tables leave
out; they are trained where they are not there. Numbers are as there, over a quarter of the samples,
which surfaces and what they are held against share. What is measured stays in
benchmarks/results/tuning, a file for each run; what was stopped goes on.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from fidelity import SEEDS, TUNED, Case, trained
from fidelity_runs import kinds

from losspath.files import plain_json
from losspath.geometry.projection import Projection
from losspath.methods import Averaged, LocalDraws, LocalPlanes, Method

RESULTS = Path(__file__).parent / "results" / "tuning"
LINES = 21  # grid lines of an axis
PART = 4  # of the samples one in so many
# By method: its default, and what else each option is tried as.
PLANES: dict[str, tuple[Any, ...]] = {
    "states": (50, 200),
    "line": (0,),
    "chords": (0, 50, 200),
    "neighbours": (1, 2, 8),
    "power": (1.0, 2.0, 3.0),
    "reach": (0.0, 0.04, 0.16),
    "mean": ("loss",),
}
DRAWS: dict[str, tuple[Any, ...]] = {"draws": (4, 16), "mean": ("loss",)}
BANDWIDTHS = (0.05, 0.25, 1.0)  # of the temperature that `Averaged` has by "auto"


def variants(shown: Projection) -> Iterator[tuple[str, Method]]:
    """Each method as it is by default, and with one option changed.

    Args:
        shown: the path in its plane, whose scale bandwidths follow.
    """
    for method, options in ((LocalPlanes(), PLANES), (LocalDraws(), DRAWS)):
        yield method.name, method
        for option, values in options.items():
            for value in values:
                yield f"{method.name}, {option} {value}", replace(method, **{option: value})
    temperature = Averaged("auto").resolve(shown).temperature
    for part in BANDWIDTHS:
        name = f"{LocalDraws.name}, bandwidth {part} τ"
        yield name, LocalDraws(bandwidth=part * float(temperature))


def kept(judged: dict[str, Any]) -> dict[str, Any]:
    """What tables are made of: one number for each."""
    numbers = {name: judged[name][0] for name in ("typical_error", "bias", "skill")}
    return {
        "asked": judged["asked"],
        **numbers,
        "over_recorded": judged["skill_over_recorded"][0],
        "held_out": judged["strata"]["held-out"]["typical_error"][0],
        "line": judged["line"],
    }


def tables(results: dict[str, dict[str, Any]]) -> list[str]:
    """Lines of a table: each variant over all runs, and in how many its typical error is lower."""
    runs = list(results)
    names = list(results[runs[0]])
    lines = [
        f"{len(runs)} runs: {', '.join(runs)}",
        "",
        f"{'':32} {'typical error':>13} {'held-out':>8} {'|bias|':>7} {'line':>6} "
        f"{'over recorded':>13} {'skill':>6} {'vectors':>7} {'better':>9}",
    ]
    for name in names:
        rows, usual = ([results[run][each] for run in runs] for each in (name, name.split(",")[0]))
        better = sum(
            row["typical_error"] < other["typical_error"]
            for row, other in zip(rows, usual, strict=True)
        )
        asked = rows[0]["asked"]
        lines.append(
            f"{name:32} {_factor(rows, 'typical_error'):>13} {_factor(rows, 'held_out'):>8} "
            f"{np.mean([abs(row['bias']) for row in rows]):>7.1%} "
            f"{_median(rows, 'line'):>6.1%} {_median(rows, 'over_recorded'):>+13.2f} "
            f"{_median(rows, 'skill'):>+6.2f} {asked.get('neighbours', asked.get('draws')):>7} "
            f"{f'{better} of {len(runs)}' if ',' in name else '':>9}"
        )
    return lines


def _median(rows: list[dict[str, Any]], name: str) -> float:
    return float(np.median([row[name] for row in rows]))


def _factor(rows: list[dict[str, Any]], name: str) -> str:
    """The geometric mean of a factor."""
    return "×" + format(math.exp(np.mean([math.log(row[name]) for row in rows])), ".3f")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-dir", type=Path, required=True, help="has MNIST and CIFAR-10")
    parser.add_argument("--runs", type=Path, required=True, help="where runs are kept")
    parser.add_argument("--only", nargs="+", help="kinds of run")
    parser.add_argument("--optimizers", nargs="+", help="of runs; by default all")
    parser.add_argument("--print", action="store_true", help="what is there, and measure nothing")
    options = parser.parse_args()
    torch.set_num_threads(1)
    known = kinds(options.data_dir)
    RESULTS.mkdir(parents=True, exist_ok=True)
    for name in () if options.print else options.only or known:
        kind = replace(known[name], samples=known[name].samples // PART)
        for optimizer in kind.rates:
            if optimizer not in (options.optimizers or kind.rates):
                continue
            file = RESULTS / f"{name}-{optimizer}.json"
            found = json.loads(file.read_text()) if file.exists() else {}
            own, other = (
                trained(known[name], optimizer, seed, options.runs / f"{name}-{optimizer}-s{seed}")
                for seed in (TUNED, (TUNED + 1) % SEEDS)
            )
            case = Case.of(kind, own, other)
            for variant, method in variants(case.landscape.projection):
                if variant not in found or found[variant]["asked"] != plain_json(method.to_json()):
                    found[variant] = plain_json(kept(case.judged(method, LINES)))
                    file.write_text(json.dumps(found, indent=1) + "\n")
            print(f"{file.stem}: done", flush=True)
    files = [RESULTS / f"{name}-{each}.json" for name in known for each in known[name].rates]
    results = {file.stem: json.loads(file.read_text()) for file in files if file.exists()}
    most = max(map(len, results.values()), default=0)
    if not most:
        parser.error(f"nothing was measured yet in {RESULTS}")
    print(*tables({run: each for run, each in results.items() if len(each) == most}), sep="\n")


if __name__ == "__main__":
    main()
