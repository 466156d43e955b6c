"""The pages of a study: Markdown for a repository, and the same as HTML for a browser."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from losspath.extras import extra
from losspath.files import write_atomically
from losspath.thesis.networks import TITLES
from losspath.thesis.study.judgments import MARKS, VERDICTS, Judgment
from losspath.thesis.study.plan import OPTIMIZERS, Plan
from losspath.thesis.study.sections import Section
from losspath.thesis.study.table import Table

with extra("thesis"):
    from markdown_it import MarkdownIt

MEASUREMENTS = "measurements.csv"

Judgments = Mapping[Section, Sequence[Judgment]]

_CAUTION = {
    "quick": " This scale is too small to judge any claim of the thesis: it shows that the study "
    "runs."
}

_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem }
img { max-width: 100%; height: auto }
table { border-collapse: collapse; font-size: 0.9rem }
th, td { border-bottom: 1px solid #ccc; padding: 0.35rem 0.6rem; text-align: left;
  vertical-align: top }
"""


def write_pages(directory: Path, table: Table, judgments: Judgments) -> list[Path]:
    """Writes README.md and index.html; returns where.

    Args:
        directory: of the study; its figures are in figures/.
        table: its measurements.
        judgments: part by part.
    """
    text = markdown(table, judgments)
    page = MarkdownIt("commonmark").enable("table").render(text)
    html = (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        f"<title>{_title(table.plan)}</title><style>{_STYLE}</style></head>\n"
        f"<body>\n{page}</body></html>\n"
    )
    files = {directory / "README.md": text, directory / "index.html": html}
    for file, content in files.items():
        write_atomically(file, lambda out, content=content: out.write(content.encode()))  # type: ignore[misc]
    return list(files)


def markdown(table: Table, judgments: Judgments) -> str:
    """The page as Markdown.

    Args:
        table: the study's measurements.
        judgments: part by part.
    """
    every = [each for several in judgments.values() for each in several]
    return "\n".join([*_head(table.plan, every), *_parts(table, judgments)]) + "\n"


def _title(plan: Plan) -> str:
    return f"The thesis's study, {plan.scale.name} scale"


def _head(plan: Plan, judgments: Sequence[Judgment]) -> list[str]:
    scale = plan.scale
    count = len(scale.seeds)
    seeds = f"{count} seeds"
    slow = [TITLES[name] for name in scale.slow if name in scale.networks]
    if slow:
        seeds += f" (one for {', '.join(slow)})"
    rates = ", ".join(f"{scale.rates[name]:g} for {title}" for name, title in OPTIMIZERS.items())
    lines = [
        f"# {_title(plan)}",
        "",
        f"What S. Kuchta found in *Advanced Visualization of Neural Network Training* ({_YEAR}), "
        "made again and put to the test.",
        "",
        f"Data: {', '.join(scale.data)}. {scale.epochs} epochs in batches of 64, learning rate "
        f"{rates}, {seeds}. Surfaces of {scale.resolution} × {scale.resolution} points over "
        f"{scale.samples:,} training samples." + (_JPEG if "JPEG" in str(scale.data) else ""),
        "",
        "Every number here is read from the study's result files by the command that wrote this "
        f"page; ± is the standard deviation over seeds. [{MEASUREMENTS}]({MEASUREMENTS}) has all "
        "measurements, a row for each number of each run.",
    ]
    if not judgments:
        return [*lines, "", "The parts that were made hold no claims; without --only there are."]
    lines += [
        "",
        "## What holds of the claims",
        "",
        _summary(judgments),
        "",
        "✓ was found as claimed with every seed, ✗ with none, – could not be told: seeds disagree, "
        "or the scale is too small. A claim holds if all of it was found, in part if some of it "
        "was, and does not hold if none was and something was told. Of what differs by "
        f"chance alone, {count} values are all above {count} others in one comparison of "
        f"{math.comb(2 * count, count)}, and each above its own in one of {2**count}."
        + _CAUTION.get(scale.name, ""),
        "",
        *_WORDS,
        "",
        "| subject | the thesis says | measured | verdict | figure |",
        "| --- | --- | --- | --- | --- |",
    ]
    lines += [_row(judgment) for judgment in judgments]
    return lines


_YEAR = 2023
_JPEG = (
    " CIFAR-10 (JPEG) is a copy of CIFAR-10 whose images were kept as JPEG, and so differ a little."
)
_WORDS = (
    '- *As drawn* are surfaces as the thesis\'s program draws them ("as drawn" in figures), '
    "*repaired* the same methods without its defects.",
    "- *The ground* is a surface's loss below a point of the plane; it is *off the states' own "
    "losses* by the median of the relative differences below the path.",
    "- *The line* is the straight line between the first state and the last: a surface is *off the "
    "line* by the most that it differs from the line's exact losses, as a share of their range, "
    "and *climbs* on it by the most that it rises there.",
    "- *Roughness* is the mean |Laplacian| of a surface, as a share of its range.",
    "- *The bump* is the highest of a hundred means of the step sizes in the first quarter of a "
    "run, over the lowest before it or what follows, whichever is less (1: none); *behind the "
    "bump* steps change by the line through the logarithms of the means.",
    "- *Side above* and *below* say on which side of the path sampled-pca blends: in the program "
    "that is the arbitrary sign of a principal direction.",
)


def _parts(table: Table, judgments: Judgments) -> list[str]:
    lines = []
    for section in judgments:
        lines += ["", f"## {section.title}", ""]
        for picture in section.pictures_of(table.plan):
            lines += [
                f"![{picture.caption}](figures/{picture.name}.png)",
                "",
                *([] if picture.captioned else [picture.caption, ""]),
            ]
        for note in section.notes:
            lines += [note(table), ""]
    return lines


def _summary(judgments: Sequence[Judgment]) -> str:
    counts = Counter(verdict for each in judgments for verdict in each.verdicts.values())
    told = ", ".join(f"{verdict}: {counts[verdict]}" for verdict in VERDICTS if counts[verdict])
    return (
        f"{len(judgments)} claims, {counts.total()} verdicts, as claims about surfaces are judged "
        f"as drawn and repaired. {told[:1].upper()}{told[1:]}."
    )


def _marks(judgment: Judgment, variant: str) -> str:
    """How much of a claim was found, not found, and not told."""
    found = Counter(check.found for check in judgment.of(variant))
    return ", ".join(f"{found[key]} {mark}" for key, mark in MARKS.items() if found[key])


def _row(judgment: Judgment) -> str:
    link = f"[{judgment.figure}](figures/{judgment.figure}.png)" if judgment.figure else ""
    measured = "<br>".join(judgment.measured)
    verdict = "<br>".join(
        f"{name and name + ': '}**{verdict}** ({_marks(judgment, name)})"
        for name, verdict in judgment.verdicts.items()
    )
    cells = (judgment.subject, judgment.claim, measured, verdict, link)
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
