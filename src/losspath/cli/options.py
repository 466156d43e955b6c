"""Options that commands share. Nothing heavy is imported: help must be quick."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

DEFAULT_METHOD = "local-planes"
"""`losspath.methods.DEFAULT`, which importing would take a second."""


class Extension(StrEnum):
    """Formats of figures."""

    PNG = "png"
    PDF = "pdf"
    SVG = "svg"


class Alignment(StrEnum):
    """What runs are aligned by."""

    STEP = "step"
    EPOCH = "epoch"


RunArgument = Annotated[Path, typer.Argument(metavar="RUN", help="Directory of a recorded run.")]
DataDir = Annotated[
    Path | None,
    typer.Option(help="Where the data set's files are, or are downloaded to.", metavar="DIR"),
]
DataPlace = Annotated[
    Path | None,
    typer.Option(
        "--data-dir",
        "--data",
        help="Where the data set's files are. Of imported checkpoints of transformers: a file of "
        "text, or a .csv or .jsonl file of texts and labels.",
        metavar="PLACE",
    ),
]
OutDir = Annotated[
    Path | None,
    typer.Option(
        "--out", help="Where results and figures go; by default under RUN.", metavar="DIR"
    ),
]
Figure = Annotated[
    Path | None,
    typer.Option(help="Where the figure goes; .png, .pdf or .svg.", metavar="FILE"),
]
Format = Annotated[Extension, typer.Option("--format", help="Format of figures without --figure.")]
ObjectiveSource = Annotated[
    str | None,
    typer.Option(
        "--objective",
        metavar="FILE.py:FUNCTION",
        help="For a run that your own loop recorded: a function that returns its "
        "losspath.Objective.",
    ),
]
Samples = Annotated[
    int | None,
    typer.Option(help="Training samples that the loss is over (10,000 by default)."),
]
States = Annotated[
    str | None,
    typer.Option(metavar="START:STOP[:STEP]", help="Take only these states of the path."),
]
