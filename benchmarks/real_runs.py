"""Real runs of real libraries: recorded, imported from what the library saved, and drawn.

    python benchmarks/real_runs.py [--data-dir DIR] [--only NAME …] [--figures DIR] [--quick]

Each run is small, and trained as such runs are. Printed of each: its parameters and steps;
milliseconds of processor time a step, and what recording adds to that, as stretches of steps
without and with it take turns; bytes on disk; whether what the library saved, imported, is what was
recorded at those steps, bit for bit; how far the surface is off the states' own losses and those of
vectors near the path, as its caption says; and seconds of the surface. DIR holds CIFAR-10: its
binary archive, or a zip with a folder for each class (`cifar10*.zip`, or any in `cifar10/`);
without it, the digits of scikit-learn are taken. The text is what comes with Python. One thread in
each process.
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

import real_runs_images as images
import real_runs_language as language
import real_runs_processes as processes
import real_runs_small as small
import torch
from real_runs_kit import Run, imports, surface_of

HEAD = f"{'run':<20}{'parameters':>11}{'steps':>6}{'ms/step':>9}{'adds':>7}{'record':>8}{'MB':>7}"
HEAD += f"{'imported = recorded':>21}{'off: median':>12}{'most':>6}"
HEAD += f"{'near: error':>13}{'bias':>6}{'skill':>7}{'surface':>9}"


def runs(options: argparse.Namespace) -> dict[str, Callable[[Path], Run | dict[str, Run]]]:
    """Every run by its name: a function that trains in a folder."""
    epochs, steps = (1, 60) if options.quick else (4, 300)

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
        "FSDP2": lambda folder: processes.two_processes(folder, data(), epochs, "fsdp2"),
        "FSDP2, every 10th": lambda folder: processes.two_processes(
            folder, data(), epochs, "fsdp2", kept=10
        ),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data-dir", type=Path, help="a directory that holds CIFAR-10")
    parser.add_argument("--only", nargs="+", help="names of runs")
    parser.add_argument("--figures", type=Path, help="where figures are written")
    parser.add_argument("--runs", type=Path, help="where runs are kept; by default nowhere")
    parser.add_argument("--resolution", type=int, default=11)
    parser.add_argument("--quick", action="store_true", help="fewer steps, for a try")
    options = parser.parse_args()
    torch.set_num_threads(1)
    known = runs(options)
    if unknown := set(options.only or []) - known.keys():
        parser.error(f"no run is called {', '.join(unknown)}; there are {', '.join(known)}")
    table = [HEAD]
    with tempfile.TemporaryDirectory() as scratch:
        for name in options.only or known:
            folder = (options.runs or Path(scratch)) / name
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            began = time.perf_counter()
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", FutureWarning)  # of the libraries' own calls
                made = known[name](folder)
            parts = made if isinstance(made, dict) else {"": made}
            for part, run in parts.items():
                figures = options.figures or folder / "figures"
                table.append(
                    tell(f"{name} {part}".strip(), run, folder / f"imports{part}", figures, options)
                )
            print(f"    {time.perf_counter() - began:.0f} s in all", flush=True)
    print("", *table, "", WORDS, sep="\n")


WORDS = """\
ms/step: processor time without recording. adds: by what share recording makes that longer, its own
thread included. record: ms by the clock a step inside the recorder while the run was made. off: the
surface against the states' own losses. near: against the losses of vectors near the path that it
was not made of; the factor that 68 % of them are off by at most, the mean, and how much less the
error is than that of the states' losses alone (1: no error, 0: as large, below: larger). surface:
by the clock."""


def tell(name: str, run: Run, folder: Path, figures: Path, options: argparse.Namespace) -> str:
    """Prints what there is to say of a run, and returns its line of the table."""
    path, timing = run.path, run.timing
    numbers = path.dtype.itemsize * path.parameter_count * len(path)
    size = sum(file.stat().st_size for file in path.directory.iterdir() if file.is_file())
    print(
        f"{name}: recording adds {timing.added:+.2f} ms a step to {timing.plain:.1f}; "
        f"{size / numbers:.3f} × its numbers on disk"
    )
    right = True
    for what, (states, tensors, different) in imports(run, folder).items():
        right &= not different
        verdict = f"NOT as recorded: {different[:3]}" if different else "bit for bit as recorded"
        print(f"    {what}, imported: {states} states of {tensors} tensors, {verdict}")
    for what, is_right in run.checks.items():
        right &= is_right
        print(f"    {what}: {'bit for bit' if is_right else 'NOT'} as recorded")
    found = surface_of(
        run, figures / f"{name.lower().replace(' ', '-')}.png", name, options.resolution
    )
    for note in [*path.notes, *found["warnings"]]:
        print(f"    note: {note}")
    (middle, most), near = found["off"], found["fidelity"]
    return (
        f"{name:<20}{path.parameter_count:>11,}{path.steps[-1]:>6,}{timing.plain:>9.1f}"
        f"{timing.added / timing.plain:>7.1%}{timing.inside:>8.2f}{size / 1e6:>7.1f}"
        f"{'yes' if right else 'NO':>21}{middle:>12.1%}{most:>6.0%}"
        f"{f'×{near.typical_error.value:.2f}':>13}{near.bias.value:>+6.0%}{near.skill.value:>+7.2f}"
        f"{found['seconds']:>7.0f} s"
    )


if __name__ == "__main__":
    main()
