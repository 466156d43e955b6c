"""The command ``import``. Nothing heavy is imported: help must be quick."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

EXAMPLES = (
    "Examples: losspath import 'out/checkpoint-*' --out runs/mine; losspath import "
    "'lightning_logs/version_0/checkpoints/*.ckpt' --out runs/mine --weights raw"
)


def import_checkpoints(
    checkpoints: Annotated[
        list[str],
        typer.Argument(
            metavar="CHECKPOINTS...", help="Files, folders, or patterns with *, ? and ** in them."
        ),
    ],
    out: Annotated[Path, typer.Option(metavar="RUN", help="Directory of the run to make.")],
    key: Annotated[
        str | None, typer.Option(help="Where in a checkpoint its state dict is, as model.inner.")
    ] = None,
    weights: Annotated[
        str | None,
        typer.Option(help="raw or averaged, where checkpoints hold both (SWA, EMA)."),
    ] = None,
    prefix: Annotated[
        str,
        typer.Option(help="What names begin with, as model.; it is taken off, others left out."),
    ] = "",
    parameters: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PATTERN",
            help="Take only names that match, as 'encoder.*'; may be given again.",
        ),
    ] = None,
    steps: Annotated[
        str | None,
        typer.Option(
            metavar="N,N,...",
            help="The step of each, in the order of their names, where neither these nor the "
            "checkpoints say it.",
        ),
    ] = None,
    losses: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Losses by step: a CSV file or a trainer_state.json; what Hugging Face's Trainer "
            "keeps with its checkpoints is found by itself.",
        ),
    ] = None,
    loss_column: Annotated[
        str | None, typer.Option(help="Which column of the file is the training loss.")
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            metavar="FILE.py:FUNCTION",
            help="A function that returns the network, for its names and what it trains; seldom "
            "needed.",
        ),
    ] = None,
    link: Annotated[
        bool,
        typer.Option(
            "--link", help="Refer to the checkpoints instead of copying them; they must stay."
        ),
    ] = False,
    base: Annotated[
        Path | None,
        typer.Option(
            metavar="NETWORK",
            help="Of LoRA adapters, the network that they are of, as a folder or a file; surfaces "
            "then need nothing else.",
        ),
    ] = None,
) -> None:
    """Make a run of checkpoints that any training script saved; called again, it adds new ones."""
    from losspath.cli.importing import import_run

    import_run(
        *(checkpoints, out, steps, model),
        key=key,
        weights=weights,
        prefix=prefix,
        parameters=parameters or None,
        losses=losses,
        loss_column=loss_column,
        link=link,
        base=base,
    )
