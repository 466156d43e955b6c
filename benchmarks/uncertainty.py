"""How many of the intervals that are to hold 90 % of losses do hold them.

    python benchmarks/uncertainty.py [--data-dir DIR] [--epochs 2] [--splits 6]

By samples: the losses of all training samples at states of a path, and at points of its surface. Of
each 1,000 sets of n samples are drawn, with replacement, so that the loss over all is what they are
draws of; the interval of each set is held against it. The usual interval of a mean, with Student's
t, stands beside it; for both how many lie wholly below and wholly above the loss over all.

Off the plane: stretches of a path are held out, and a surface without them (which holds out others
to be calibrated by) gives intervals where their states are; these are held against the states' own
losses. "Not widened" are the spreads with Student's t.

LeNet-5 on MNIST where --data-dir has it, and TinyCNN by Adam on scikit-learn's digits.
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np
from scipy import stats

import losspath
from losspath.analysis import measured
from losspath.analysis.fidelity import held_out
from losspath.analysis.intervals import mean_interval
from losspath.analysis.places import OnPlane
from losspath.evaluation.execution import sampled
from losspath.evaluation.execution.sampled import (
    DEVIATION,
    PARTS,
    SKEWNESS,
    SampledEvaluation,
    SampleEngine,
    with_moments,
)
from losspath.evaluation.quantities import Evaluation, columns_of
from losspath.evaluation.recorded import along
from losspath.recording.selection import Selection
from losspath.surface.states import losses_of
from losspath.thesis.config import TrainingConfig
from losspath.thesis.datasets import load_dataset
from losspath.thesis.objectives import training_objective
from losspath.thesis.training import train

LEVEL, SETS = 0.9, 1000


def vectors_of(path, objective) -> dict[str, np.ndarray]:
    """States along a path, and corners and the middle of its averaged surface."""
    last = len(path) - 1
    chosen = {f"state {at:,}": path[at] for at in sorted({0, last // 30, last // 4, last})}
    landscape = losspath.Landscape(path, objective, "averaged")
    low, high = (of(landscape.projection.coordinates, axis=0) for of in (np.min, np.max))
    points = {"beyond the end": 1.1 * high, "middle": (low + high) / 2, "corner": [low[0], high[1]]}
    for name, point in points.items():
        (chosen[name],) = landscape.parameters([point])
    return chosen


def by_samples(path, objective, sizes) -> None:
    sampled._MOST = 10**9  # each sample by itself
    engine = SampleEngine(objective)
    print(
        f"{'vector':<16} {'loss':>8} {'skewness':>9} {'n':>6} "
        f"{'held':>6} {'below':>6} {'above':>6}   {'usual':>6} {'below':>6} {'above':>6}"
    )
    totals = {size: [] for size in sizes}
    for name, vector in vectors_of(path, objective).items():
        whole = engine.at(vector)
        each = whole.sums / whole.weights
        generator = np.random.default_rng(1)
        for size in sizes:
            sets = generator.integers(len(each), size=(SETS, size))
            found = columns_of([moments(each[some]) for some in sets])
            loss, deviation = found["loss"], found[DEVIATION]
            low, high = mean_interval(loss, deviation, found[SKEWNESS], found[PARTS], LEVEL)
            usual = stats.t.ppf((1 + LEVEL) / 2, size - 1) * deviation
            rates = [
                *shares(whole.loss, low, high),
                *shares(whole.loss, loss - usual, loss + usual),
            ]
            totals[size].append(rates)
            print(
                f"{name:<16} {whole.loss:>8.4f} {stats.skew(each):>9.1f} {size:>6,} "
                + numbers(rates)
            )
    for size, rates in totals.items():
        print(f"{'all':<16} {'':>8} {'':>9} {size:>6,} " + numbers(np.mean(rates, axis=0)))
    sampled._MOST = 1000


def moments(losses) -> Evaluation:
    mean = float(losses.mean())
    weights = np.ones(len(losses))
    return with_moments([SampledEvaluation(mean, None, {}, losses, weights)], [1.0])


def shares(true, low, high) -> list[float]:
    """The shares of intervals that hold the truth, and that are below and above it."""
    below, above = float(np.mean(high < true)), float(np.mean(low > true))
    return [1 - below - above, below, above]


def numbers(rates) -> str:
    shown = [f"{rate:>6.1%}" for rate in rates]
    return " ".join(shown[:3]) + "   " + " ".join(shown[3:])


def off_plane(path, objective, splits) -> None:
    bound = along(objective, path)
    starts = losspath.fit_plane(path).path.starts
    kept, rates, plain, widths = np.ones(len(path), bool), [], [], []
    for split in range(splits):
        kept[:] = True
        stretches = held_out(starts, len(path), np.random.default_rng(10_000 + split))
        for first, stop in stretches:
            kept[first:stop] = False
        each = max(1, 60 // len(stretches))
        chosen = np.unique(
            np.concatenate([np.linspace(a, b - 1, each).round() for a, b in stretches]).astype(int)
        )
        landscape = losspath.Landscape(
            Selection(path, np.flatnonzero(kept)), objective, "local-planes"
        )
        shown = landscape.plane.projection(Selection(path, chosen)).coordinates
        asked = measured.Asked(OnPlane(landscape, shown), LEVEL, 1, split)
        found, own = measured.off_plane(asked), losses_of(path, bound, chosen).loss
        rates.append(np.mean((found.lower <= own) & (own <= found.upper)))
        widths.append(np.median(np.sqrt(found.upper / found.lower)))
        few = stats.t.ppf((1 + LEVEL) / 2, 7) * np.sqrt(1 + 1 / 8) * found.deviation / found.loss
        plain.append(np.mean(np.abs(np.log(own / found.loss)) <= few))
        print(
            f"split {split}: {len(chosen)} states, {rates[-1]:.1%} held, middle width "
            f"×{widths[-1]:.2f}; not widened {plain[-1]:.1%}",
            flush=True,
        )
    print(
        f"all: {np.mean(rates):.1%} held, middle width ×{np.mean(widths):.2f}; "
        f"not widened {np.mean(plain):.1%}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-dir", type=Path, default=None, help="with the files of MNIST")
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--splits", type=int, default=6)
    options = parser.parse_args()
    runs = {
        "TinyCNN by Adam, digits, 20 epochs": (
            TrainingConfig("tiny-cnn", "digits", "adam", seed=3),
            20,
            (100, 300),
        )
    }
    if options.data_dir is not None:
        runs[f"LeNet-5 by SGD, MNIST, {options.epochs} epochs"] = (
            TrainingConfig("lenet5", "mnist", "sgd", lr=0.05, seed=3),
            options.epochs,
            (250, 1000, 5000),
        )
    for name, (config, epochs, sizes) in runs.items():
        dataset = load_dataset(config.data, options.data_dir)
        with tempfile.TemporaryDirectory() as directory:
            train(config, dataset, Path(directory) / "run", epochs)
            path = losspath.Trajectory(Path(directory) / "run")
            print(f"{name}: {len(path):,} states\n\nby samples, of {len(dataset.train_targets):,}")
            by_samples(path, training_objective(config, dataset, 10**9), sizes)
            print("\noff the plane, 500 samples")
            off_plane(path, training_objective(config, dataset, 500), options.splits)
            print()


if __name__ == "__main__":
    main()
