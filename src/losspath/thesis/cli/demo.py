"""The command that shows everything on data that come with a dependency."""

from __future__ import annotations

import time
from pathlib import Path

from losspath.cli import jobs, steps
from losspath.cli.console import say
from losspath.cli.pictures import Pictures
from losspath.cli.runs import FIGURES, Run
from losspath.thesis.cli.train import run_training
from losspath.thesis.config import TrainingConfig

_EPOCHS = 30
_RESOLUTION = 19


def run_demo(out: Path) -> None:
    """Trains LeNet-5 by SGD and by Adam on the digits and draws what there is to draw."""
    began = time.monotonic()
    configs = {
        "sgd": TrainingConfig(data="digits", optimizer="sgd", lr=0.05),
        "adam": TrainingConfig(data="digits", optimizer="adam", lr=0.001),
    }
    for name, config in configs.items():
        say(f"== training: {config.title}")
        run_training(config, out / name, _EPOCHS, None, "cpu")
    run = Run(out / "sgd")
    say("== surfaces by every method")
    surfaces, plane = jobs.compute_surfaces(
        run, jobs.make_methods("all", {}), _RESOLUTION, samples=1437
    )
    Pictures(run).draw_all(surfaces, plane)
    say("== interpolation between the first state and the last")
    result = jobs.compute_interpolation(run, 0, len(run.path) - 1, 13)
    jobs.draw_interpolation(run, result, None, "png")
    say("== size of the steps")
    runs = [run, Run(out / "adam")]
    steps.draw_steps(runs, [steps.compute_steps(each) for each in runs], 100, None, "png")
    say(f"== done in {time.monotonic() - began:.0f} s; the figures:")
    for file in sorted((out / "sgd" / FIGURES).iterdir()):
        say(f"  {file}")
