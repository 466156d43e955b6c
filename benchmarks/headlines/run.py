"""Runs one program in this process, and measures it.

    python run.py SCENE PROGRAM THREADS [traced]

The clock covers the program but its imports and the reading of its data, which are done before,
and a first pass through the network. Writes result.json into the scene's directory. "traced" notes
in trace.npy at which parameters the model is called.
"""

import ast
import contextlib
import json
import os
import runpy
import sys
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE)]

from measuring import Meanwhile, peak_mebibytes  # noqa: E402


def execute(scene: Path, program: Path, *, is_traced: bool = False) -> float:
    """The seconds that a program takes, after its imports.

    Args:
        scene: the directory of what it is given, where it leaves its numbers.
        program: the file.
        is_traced: whether to note at which parameters it calls the model, in trace.npy.
    """
    given = {"HEADLINES_SCENE": str(scene), "HEADLINES_PROGRAM": program.stem}
    os.environ |= given | {"HEADLINES_TRACE": "yes" if is_traced else ""}
    sys.modules.pop("shared", None)  # of a program before, which may have trained its model
    load(program)
    began = time.perf_counter()
    runpy.run_path(str(program), run_name="__main__")
    return time.perf_counter() - began


def load(program: Path) -> None:
    """Does a program's imports, loads what these load on first use, and warms up."""
    import torch

    names: dict[str, Any] = {}
    for statement in ast.parse(program.read_text()).body:
        if isinstance(statement, ast.Import | ast.ImportFrom):
            exec(compile(ast.Module([statement], []), str(program), "exec"), names)
    if "losspath" in names:  # which loads its names when they are used
        for name in names["losspath"].__all__:
            getattr(names["losspath"], name)
    from shared import inputs, model

    with torch.no_grad():
        model(inputs[:1000])


def main(scene: str, program: str, threads: str, traced: str = "") -> None:
    import torch

    torch.set_num_threads(int(threads))
    torch.manual_seed(0)
    meanwhile = Meanwhile()
    with contextlib.redirect_stdout(sys.stderr):
        seconds = execute(Path(scene), HERE / f"{program}.py", is_traced=bool(traced))
    result = {
        "seconds": seconds,
        "mebibytes": peak_mebibytes(),
        "others": meanwhile.others(),
    }
    (Path(scene) / "result.json").write_text(json.dumps(result))


if __name__ == "__main__":
    main(*sys.argv[1:])
