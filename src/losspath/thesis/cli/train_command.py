"""Train a reference network and record its path; or go on with a run that was stopped."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from losspath.cli.options import DataDir
from losspath.thesis.cli.options import Device, Optimizer, RateForm

app = typer.Typer(add_completion=False)


@app.command(
    help=__doc__,
    epilog="Example: losspath train --network lenet5 --data mnist --epochs 13 --out runs/lenet5",
)
def _train(
    network: Annotated[
        str, typer.Option(help="lenet5, modified-lenet, tiny-cnn, tiny-nn or vgg.")
    ] = "lenet5",
    data: Annotated[
        str, typer.Option(help="digits, mnist, cifar10, cifar100 or images:DIR (folder or zip).")
    ] = "digits",
    data_dir: DataDir = None,
    optimizer: Annotated[Optimizer, typer.Option(help="The optimiser.")] = Optimizer.SGD,
    lr: Annotated[float, typer.Option(help="Learning rate.")] = 0.01,
    lr_schedule: Annotated[
        str,
        typer.Option(
            metavar="SCHEDULE",
            help="constant; step-decay:EPOCHS:FACTOR; or steps:RUN, the step sizes of another run "
            "(or of a saved results/steps-*.npz).",
        ),
    ] = "constant",
    lr_form: Annotated[
        RateForm,
        typer.Option(help="Of steps:RUN: as they are, scaled to the mean --lr, shuffled, or mean."),
    ] = RateForm.RAW,
    lr_smooth: Annotated[
        int, typer.Option(help="Of steps:RUN: first a moving average over so many steps.")
    ] = 1,
    momentum: Annotated[float, typer.Option(help="Momentum of SGD.")] = 0.0,
    weight_decay: Annotated[float, typer.Option(help="L2 penalty.")] = 0.0,
    dropout: Annotated[
        float, typer.Option(help="Dropout before the first fully connected layer.")
    ] = 0.0,
    epochs: Annotated[int, typer.Option(help="Epochs in all; may grow later.")] = 13,
    batch_size: Annotated[int, typer.Option(help="Samples a step.")] = 64,
    seed: Annotated[int, typer.Option(help="Of parameters, sample order and dropout.")] = 0,
    record_every: Annotated[int, typer.Option(help="Record a state every so many steps.")] = 1,
    device: Annotated[Device, typer.Option(help="auto: the GPU where there is one.")] = Device.AUTO,
    out: Annotated[
        Path | None,
        typer.Option(metavar="RUN", help="The run's directory; by default runs/PARAMETERS."),
    ] = None,
) -> None:
    from losspath.thesis.cli.train import run_training
    from losspath.thesis.config import TrainingConfig

    if data.startswith("images:"):  # later commands may run elsewhere
        data = f"images:{Path(data.removeprefix('images:')).expanduser().resolve()}"
    kind, _, source = lr_schedule.partition(":")
    if kind == "steps" and source:
        lr_schedule = f"steps:{Path(source).expanduser().resolve()}"
    config = TrainingConfig(
        network=network,
        data=data,
        optimizer=optimizer.value,
        lr=lr,
        lr_schedule=lr_schedule,
        lr_form=lr_form.value,
        lr_smooth=lr_smooth,
        momentum=momentum,
        weight_decay=weight_decay,
        dropout=dropout,
        batch_size=batch_size,
        seed=seed,
        record_every=record_every,
    )
    directory = out or Path("runs") / config.directory_name
    run_training(config, directory, epochs, data_dir, device.value)
