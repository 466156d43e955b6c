"""Runs every benchmark and keeps what each prints in benchmarks/results.

    python benchmarks/all.py [--data-dir DIR] [--only NAME ...]

With a directory of MNIST (and of CIFAR-10, for real-runs), what needs real data is measured too.
Nothing else should run meanwhile: contenders take turns, so that ratios stand, but seconds do not.
"""

import argparse
import os
import platform
import shlex
import subprocess
import sys
from pathlib import Path

import torch

HERE = Path(__file__).parent

BENCHMARKS = {
    "recording": ["recording.py", "--seconds", "60"],
    "stores": ["stores.py"],
    "plane": ["plane.py"],
    "evaluation": ["evaluation.py"],
    "batches": ["batches.py"],
    "interpolation": ["interpolation.py"],
    "scaling": ["scaling.py"],
    "streaming": ["streaming.py"],
    "compare": ["compare.py", "--rounds", "2", "--peers", "benchmarks/.peers"],
    "headlines": ["headlines.py", "--peers", "benchmarks/.peers"],
    "training": ["training.py"],
    "uncertainty": ["uncertainty.py"],
    "budget": ["budget.py"],
    "real-runs": ["real_runs.py"],
    "support": ["support.py"],
}
NEEDS_DATA = {"training", "budget"}
TAKES_DATA = {"compare", "headlines", "interpolation", "training", "real-runs"}
TAKES_DATA |= {"budget", "support", "uncertainty"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-dir", help="a directory that holds MNIST and CIFAR-10")
    parser.add_argument("--only", nargs="+", choices=BENCHMARKS, default=list(BENCHMARKS))
    options = parser.parse_args()
    for name in options.only:
        if name in NEEDS_DATA and not options.data_dir:
            print(f"{name}: left out, as it needs --data-dir")
            continue
        script, *arguments = BENCHMARKS[name]
        shown = ["python", f"benchmarks/{script}", *arguments]
        actual = [sys.executable, str(HERE / script), *arguments]
        if name in TAKES_DATA and options.data_dir:
            shown += ["--data-dir", "DIR"]
            actual += ["--data-dir", options.data_dir]
        head = f"$ {shlex.join(shown)}\n{machine()}\n\n"
        print(head, end="", flush=True)
        run(actual, HERE / "results" / f"{name}.txt", head)


def run(command: list[str], file: Path, head: str) -> None:
    """Runs a benchmark, showing what it prints, and keeps it once it has ended well."""
    printed = head
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=HERE.parent) as child:
        assert child.stdout is not None
        for line in child.stdout:
            print(line, end="", flush=True)
            printed += line
    if child.returncode != 0:
        raise SystemExit(f"failed: {shlex.join(command)}")
    file.write_text(printed)


def machine() -> str:
    """What was measured on, in a line."""
    name = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [line for line in cpuinfo.read_text().splitlines() if line.startswith("model name")]
        name = names[0].partition(":")[2].strip() if names else name
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    return (
        f"{os.cpu_count()} cores of {name}, {gpu}, torch {torch.__version__}, "
        f"Python {platform.python_version()}"
    )


if __name__ == "__main__":
    main()
