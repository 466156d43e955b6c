"""The thesis's main job at full size, and the page that reports it (docs/results).

    python benchmarks/main_job.py --data-dir DIR [--out runs] [--report docs/results]

Runs the command line as a user would: trains LeNet-5 and Modified-LeNet on MNIST by SGD for 13
epochs with every step recorded, computes the thesis's five surfaces and the two that average
losses (19 × 19 points, 10,000 samples), the interpolation and the step sizes. Each command's wall
time and peak memory (resident size of its process, mapped pages included) are kept beside the runs
when it first computes something, and every number of the page is read from a result file.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

import losspath
from losspath.thesis.records import read_history

NETWORKS = {"lenet5": "LeNet-5", "modified-lenet": "Modified-LeNet"}
THESIS_METHODS = ("pca", "sampled", "sampled-pca", "averaged", "averaged-nd")
METHODS = (*THESIS_METHODS, "local-planes", "local-draws")
# The temperature that the thesis has, beside whose numbers these stand; it is not the default.
AS_IN_THESIS = ("--temperature", "1")
THESIS_ACCURACY = {"lenet5": "98.6 %", "modified-lenet": "97.4 %"}


def measured(measurements: Path, name: str, *arguments: object) -> dict:
    """Runs a command of losspath once; returns its wall seconds and peak MiB."""
    known = json.loads(measurements.read_text()) if measurements.exists() else {}
    if name not in known:
        command = [sys.executable, "-m", "losspath", *map(str, arguments)]
        began = time.perf_counter()
        child = subprocess.Popen(command)
        _, status, usage = os.wait4(child.pid, 0)
        if status != 0:
            raise SystemExit(f"failed: {' '.join(command)}")
        known[name] = {
            "command": " ".join(["losspath", *map(str, arguments)]),
            "seconds": time.perf_counter() - began,
            "mebibytes": usage.ru_maxrss / 1024,
        }
        measurements.write_text(json.dumps(known, indent=1))
    return known[name]


def run_network(network: str, data_dir: Path, out: Path, report: Path) -> dict:
    """All commands for one network; returns their measurements by name."""
    run = out / network
    out.mkdir(parents=True, exist_ok=True)
    measurements = out / f"{network}-measurements.json"
    options = ("--network", network, "--data", "mnist", "--data-dir", data_dir)
    rest = ("--optimizer", "sgd", "--lr", "0.01", "--epochs", "13", "--batch-size", "64")
    work = {"train": ("train", *options, *rest, "--seed", "0", "--out", run)}
    for method in METHODS:
        blends = AS_IN_THESIS if method.startswith("averaged") else ()
        work[method] = ("surface", run, "--method", method, *blends)
    figure = report / f"{network}-surfaces.png"
    work["all seven"] = ("surface", run, "--method", "all", *AS_IN_THESIS, "--figure", figure)
    figure = report / f"{network}-surface.png"
    work["by default"] = ("surface", run, "--figure", figure)
    figure = report / f"{network}-interpolation.png"
    work["interpolation"] = ("interpolate", run, "--figure", figure)
    work["steps"] = ("steps", run, "--figure", report / f"{network}-steps.png")
    return {name: measured(measurements, name, *command) for name, command in work.items()}


def surface_of(run: Path, method: str) -> losspath.Surface:
    for file in sorted((run / "results").glob(f"surface-{method}-*.npz")):
        surface = losspath.Surface.load(file)
        if surface.provenance["method"]["name"] == method:
            return surface
    raise SystemExit(f"{run} has no surface by {method}")


def results_table(out: Path, times: dict) -> list[str]:
    rows = [
        "| | " + " | ".join(NETWORKS.values()) + " | thesis |",
        "| --- | --- | --- | --- |",
    ]

    def row(name, values, thesis=""):
        rows.append(f"| {name} | " + " | ".join(values) + f" | {thesis} |")

    runs = {network: out / network for network in NETWORKS}
    paths = {network: losspath.Trajectory(run) for network, run in runs.items()}
    last = {network: read_history(run)[-1] for network, run in runs.items()}
    row("parameters", [f"{p.parameter_count:,}" for p in paths.values()], "61,706; 1,830")
    row("states", [f"{len(p):,}" for p in paths.values()], "12,195")
    row(
        "validation accuracy after 13 epochs",
        [f"{100 * r['validation_accuracy']:.2f} %" for r in last.values()],
        "; ".join(THESIS_ACCURACY.values()),
    )
    row("validation loss", [f"{r['validation_loss']:.4f}" for r in last.values()])
    first = {network: surface_of(run, "pca") for network, run in runs.items()}
    ratios = [s.explained_variance_ratio for s in first.values()]
    row(
        "variance explained by two components",
        [f"{100 * r.sum():.1f} % ({100 * r[0]:.1f} + {100 * r[1]:.1f})" for r in ratios],
        "about 95 %",
    )
    walks = [100 * s.random_walk.shares.sum() for s in first.values()]
    row("… of a random walk with its step lengths", [f"{share:.1f} %" for share in walks])
    residuals = [f"{s.provenance['plane_residual']:.0e}" for s in first.values()]
    row("residual of the axes, relative to λ₁", residuals)
    sizes = [sum(f.stat().st_size for f in run.glob("*.bin")) / 1e6 for run in runs.values()]
    row("recorded path on disk", [f"{size:,.0f} MB" for size in sizes])
    row(
        "… bytes a state, against 4P",
        [
            f"{1e6 * size / len(p) / (4 * p.parameter_count):.4f}"
            for size, p in zip(sizes, paths.values(), strict=True)
        ],
    )
    thesis = {"train": "about 10 min", "pca": "", "interpolation": "", "steps": "about 1 min"}
    for name in ("train", *METHODS, "interpolation", "steps"):
        label = {"train": "training", "pca": "surface pca, with the plane"}.get(
            name, name if name in thesis else f"surface {name}"
        )
        values = [
            f"{times[n][name]['seconds']:.0f} s, {times[n][name]['mebibytes']:.0f} MiB"
            for n in NETWORKS
        ]
        row(label + ": time, peak memory", values, thesis.get(name, ""))
    for title, methods, took in (
        (
            "the thesis's five surfaces",
            THESIS_METHODS,
            "about 30 min for one; 5,700 s by its parts",
        ),
        ("all seven", METHODS, ""),
    ):
        totals = [
            f"{sum(times[n][m]['seconds'] for m in methods):.0f} s, "
            f"{max(times[n][m]['mebibytes'] for m in methods):.0f} MiB"
            for n in NETWORKS
        ]
        row(title, totals, took)
    row(
        "their figure side by side, and the distance map",
        [
            f"{each['seconds']:.0f} s, {each['mebibytes']:.0f} MiB"
            for each in (times[n]["all seven"] for n in NETWORKS)
        ],
    )
    return rows


def losses_table(out: Path) -> list[str]:
    rows = [
        "| surface | network | least loss on the grid | loss at the last state | ground, read "
        "between grid points, against the states' own loss: median, largest | typical error near "
        "the path | bias |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for network, title in NETWORKS.items():
        for method in METHODS:
            surface = surface_of(out / network, method)
            off, near = surface.state_errors, surface.fidelity
            rows.append(
                f"| {method} | {title} | {np.nanmin(surface.loss):.4f} | "
                f"{surface.states.loss[-1]:.4f} | {np.median(off):.0%}, {off.max():.0%} off | "
                f"×{near.typical_error.value:.2f} | {near.bias.value:+.0%} |".replace(
                    "-0%", "0%"
                ).replace("+0%", "0%")
            )
    return rows


def write_page(out: Path, report: Path, data_dir: Path, times: dict) -> None:
    import torch

    lines = [
        "# The main job, at full size",
        "",
        "LeNet-5 and Modified-LeNet on MNIST, SGD with learning rate 0.01, batches of 64, "
        "13 epochs, seed 0, every step recorded; surfaces of 19 × 19 points over 10,000 training "
        "samples. Averages of states have the thesis's temperature, 1, to be held against its own; "
        "the default is `local-planes`. "
        "Made by `python benchmarks/main_job.py --data-dir DIR`, which runs the commands "
        "below; every number is read from their results.",
        "",
        *results_table(out, times),
        "",
        f"Machine: {os.cpu_count()} × {_processor()}, torch {torch.__version__}, Python "
        f"{platform.python_version()}; shared with others, so times vary by half. Times are of "
        "whole commands, start of Python and reading of the data included; memory is the process's "
        "peak resident size. The thesis's figures are for its own program and machine. What parts "
        "of the work cost is measured apart: `benchmarks/results`.",
        "",
        "## How well the ground fits the states",
        "",
        "Each surface is drawn with dots in the colour of the states' own losses. As numbers, with "
        "how far it holds for vectors near the path that it was not made of, as captions say "
        "(68 % of them are off by the typical error or less; see [trust](../trust.md)):",
        "",
        *losses_table(out),
        "",
    ]
    for network, title in NETWORKS.items():
        lines += [
            f"## {title}",
            "",
            f"![The surface of {title} by the default]({network}-surface.png)",
            "",
            f"![Seven surfaces and the distance map of {title}]({network}-surfaces.png)",
            "",
            f"![Interpolation of {title}]({network}-interpolation.png)",
            "",
            f"![Step sizes of {title}]({network}-steps.png)",
            "",
        ]
    lines += ["![Step sizes of both](both-steps.png)", "", "## Commands", "", "```"]
    for network in NETWORKS:
        lines += [entry["command"] for entry in times[network].values()]
    runs = " ".join(str(out / network) for network in NETWORKS)
    lines.append(f"losspath steps {runs} --figure {report / 'both-steps.png'}")
    text = "\n".join([*lines, "```", ""])
    for path, shown in ((out, "runs"), (report, "docs/results"), (data_dir, "DIR")):
        text = text.replace(str(path), shown)
    (report / "README.md").write_text(text)


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("runs"))
    parser.add_argument("--report", type=Path, default=Path("docs/results"))
    options = parser.parse_args()
    options.report.mkdir(parents=True, exist_ok=True)
    times = {
        network: run_network(network, options.data_dir, options.out, options.report)
        for network in NETWORKS
    }
    both = options.report / "both-steps.png"
    runs = [options.out / network for network in NETWORKS]
    command = [sys.executable, "-m", "losspath", "steps", *map(str, runs), "--figure", str(both)]
    subprocess.run(command, check=True)
    write_page(options.out, options.report, options.data_dir, times)
    print(f"report: {options.report / 'README.md'}")


if __name__ == "__main__":
    main()
