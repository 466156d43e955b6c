"""Real runs of real libraries: recorded, imported from what the library saved, and drawn.

    python benchmarks/real_runs.py [--data-dir DIR] [--only NAME …] [--figures DIR] [--quick]

Each run is small, and trained as such runs are. Printed of each: its parameters and steps;
milliseconds a step, and which share of that recording adds, as stretches of steps without and with
it take turns; bytes on disk; whether what the library saved, imported, is what was recorded at
those steps, bit for bit; how far the surface is off the states' own losses, as its caption says; and
seconds of the surface. DIR holds CIFAR-10: its binary archive, or a zip with a folder for each class
(`cifar10.zip`, also in `cifar10/`); without it, the digits of scikit-learn are taken. The text is
what comes with Python. One thread.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
import time
import warnings
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path

import torch

torch.set_num_threads(1)

import real_runs_images as images
import real_runs_language as language
import real_runs_processes as processes
import real_runs_small as small
from real_runs_kit import Run, imports, surface_of

COLUMNS = ("run", "parameters", "steps", "ms a step", "recording adds", "in record", "MB")
MORE = ("surface off: median, most", "surface")
WIDTHS = (25, 10, 5, 9, 14, 9, 6)


def runs(options: argparse.Namespace) -> dict[str, Callable[[Path], Run | dict[str, Run]]]:
    """Every run by its name: a function that trains in a folder."""
    quick = options.quick
    epochs, steps = (1, 60) if quick else (5, 300)

    @cache
    def data() -> images.Data:
        title, samples = images.load_images(options.data_dir)
        print(f"images: {len(samples[1]):,} of {title}", flush=True)
        return samples

    return {
        "ResNet-8": lambda folder: images.residual_network(folder, data(), epochs),
        "GPT-2": partial(language.language_model, steps=steps),
        "T5": partial(language.tied_names, steps=steps),
        "Lightning": lambda folder: images.lightning_module(folder, data(), epochs),
        "Trainer": partial(language.trainer, steps=steps // 2),
        "LoRA": partial(language.lora, steps=steps // 2),
        "PINN": partial(small.equation, steps=steps * 4),
        "GAN": partial(small.game, steps=steps * 4),
        "DDP": lambda folder: processes.two_processes(folder, data(), epochs, "ddp"),
        # FSDP2 belongs here, once a recorder takes parameters that are shared out to processes.
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data-dir", type=Path, help="a directory that holds CIFAR-10")
    parser.add_argument("--only", nargs="+", help="names of runs")
    parser.add_argument("--figures", type=Path, help="where figures are written")
    parser.add_argument("--runs", type=Path, help="where runs are kept; by default nowhere")
    parser.add_argument("--resolution", type=int, default=15)
    parser.add_argument("--quick", action="store_true", help="fewer steps, for a try")
    options = parser.parse_args()
    chosen = {name: run for name, run in runs(options).items() if name in (options.only or [name])}
    with tempfile.TemporaryDirectory() as scratch:
        for name, train in chosen.items():
            folder = (options.runs or Path(scratch)) / name
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            began = time.perf_counter()
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", FutureWarning)  # of the libraries' own calls
                made = train(folder)
            parts = made if isinstance(made, dict) else {"": made}
            for part, run in parts.items():
                figures = options.figures or folder / "figures"
                tell(f"{name} {part}".strip(), run, folder / f"imports{part}", figures, options)
            print(f"    {time.perf_counter() - began:.0f} s in all\n", flush=True)


def tell(name: str, run: Run, folder: Path, figures: Path, options: argparse.Namespace) -> None:
    """Prints everything of a run."""
    path, timing = run.path, run.timing
    size = sum(file.stat().st_size for file in path.directory.iterdir() if file.is_file())
    share = timing.added / timing.plain
    print(
        f"{name}: {path.parameter_count:,} parameters, {len(path) - 1:,} steps, "
        f"{timing.plain:.1f} ms a step\n"
        f"    recording adds {timing.added:+.2f} ms = {share:.1%}, "
        f"{timing.inside:.2f} ms of it inside record; "
        f"{size / 1e6:.1f} MB = {size / (4 * path.parameter_count * len(path)):.2f} × the numbers"
    )
    for what, (states, tensors, different) in imports(run, folder).items():
        verdict = "the same bits as recorded" if not different else f"NOT: {different[:3]}"
        print(f"    {what}, imported: {states} states of {tensors} tensors, {verdict}")
    for what, is_right in run.checks.items():
        print(f"    {what}: {'the same bits as recorded' if is_right else 'NOT as recorded'}")
    figure = figures / f"{name.lower().replace(' ', '-')}.png"
    found = surface_of(run, figure, name, options.resolution)
    middle, most = found["off"]
    print(
        f"    surface in {found['seconds']:.0f} s, {found['variance']:.0%} of the variance; off "
        f"the states' own losses by {middle:.1%} (median), {most:.0%} (most)"
    )
    for note in [*path.notes, *found["warnings"]]:
        print(f"    note: {note}")


if __name__ == "__main__":
    main()
