"""Do the whole job on scikit-learn's digits: train, record, and draw every figure."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(add_completion=False)


@app.command(help=__doc__, epilog="Example: losspath demo --out /tmp/demo")
def _demo(
    out: Annotated[Path, typer.Option(metavar="DIR", help="Where everything goes.")] = Path(
        "losspath-demo"
    ),
) -> None:
    from losspath.thesis.cli.demo import run_demo

    run_demo(out)
