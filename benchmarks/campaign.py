"""Kills, interrupts and damage by the thousand: nothing false is read, nothing true is lost.

    python benchmarks/campaign.py [--share 1.0] [--seed 0] [--only NAME ...]

A whole campaign is 1,000 SIGKILLs and 1,000 SIGINTs or SIGTERMs at random moments while states are
recorded, while `losspath train` trains on scikit-learn's digits, and while `losspath surface` draws
with its checkpoint; and 10,000 stores and result files that are cut, flipped or lost. A share of
it takes that part of each. *False* counts what was read and is not what was written; *lost* what
was written and durable (or, for a signal that can be answered, recorded) and is not there any more,
also not after `losspath repair`. Each run that was stopped goes on to its end and must equal one
that was not. The exit status says whether both columns are zero.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import random
import sys
import tempfile
import time
import warnings
from pathlib import Path

import torch
from campaign_damage import campaign_of_results, campaign_of_stores
from campaign_ground import Tally
from campaign_kills import campaign_of_drawing, campaign_of_recording, campaign_of_training

from losspath.errors import LosspathWarning

PARTS = {
    "recording": campaign_of_recording,
    "training": campaign_of_training,
    "drawing": campaign_of_drawing,
    "stores": campaign_of_stores,
    "results": campaign_of_results,
}


def run_campaign(share: float, seed: int, only: list[str]) -> list[Tally]:
    """Runs parts of the campaign and prints what came of each."""
    import sklearn.datasets  # noqa: F401

    import losspath.cli.app
    import losspath.cli.jobs
    import losspath.figures  # noqa: F401

    torch.set_num_threads(1)
    warnings.simplefilter("ignore", LosspathWarning)
    print(f"{'':38} {'tried':>7} {'false':>7} {'lost':>7} {'seconds':>9}", flush=True)
    tallies = []
    with tempfile.TemporaryDirectory() as directory:
        for name in only:
            begun = time.monotonic()
            with contextlib.redirect_stdout(io.StringIO()):
                tally = PARTS[name](share, random.Random(f"{seed} {name}"), Path(directory))
            seconds = time.monotonic() - begun
            print(
                f"{tally.name:38} {tally.tried:7,} {tally.false:7,} {tally.lost:7,} {seconds:9.0f}",
                flush=True,
            )
            for problem in tally.problems[:10]:
                print(f"  {problem}", flush=True)
            tallies.append(tally)
    return tallies


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--share", type=float, default=1.0, help="of the whole campaign")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS))
    options = parser.parse_args()
    tallies = run_campaign(options.share, options.seed, options.only)
    sys.exit(any(tally.false or tally.lost for tally in tallies))


if __name__ == "__main__":
    main()
