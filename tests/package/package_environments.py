"""Empty virtual environments, what is installed into them, and what runs in them."""

import os
import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).parents[2]
NEWEST = ROOT / "constraints.txt"
OLDEST = ROOT / "constraints-oldest.txt"


def run(*command, cwd, timeout=600):
    """Runs a command that sees nothing of this tree, in two threads at most."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    return subprocess.run(
        [*map(str, command)],
        cwd=cwd,
        env={**kept, "OMP_NUM_THREADS": "1", "COLUMNS": "80", "MPLBACKEND": "agg"},
        capture_output=True,
        text=True,
        check=False,
        timeout=timeout,
    )


class Environment:
    """A virtual environment.

    Args:
        directory: where it is made.
        over: another one, whose packages it sees, and is left as it is.
    """

    def __init__(self, directory, over=None):
        venv.create(directory, symlinks=True)
        self.directory = Path(directory)
        self.bin = self.directory / "bin"
        (self.packages,) = self.directory.glob("lib/python*/site-packages")
        if over is not None:
            (self.packages / "over.pth").write_text(f"{over.packages}\n")

    def pip(self, *arguments):
        """What pip prints, of this environment."""
        done = run(
            sys.executable,
            *("-m", "pip", "--quiet", "--python", self.bin / "python"),
            *arguments,
            cwd=self.directory,
            timeout=1200,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def install(self, *requirements, constraint=NEWEST):
        self.pip("install", "--no-compile", "--constraint", constraint, *requirements)
        assert self.pip("check").strip() in ("", "No broken requirements found.")

    def python(self, *arguments, cwd, timeout=600):
        return run(self.bin / "python", *arguments, cwd=cwd, timeout=timeout)

    def losspath(self, *arguments, cwd):
        """The command line, as a user calls it."""
        return run(self.bin / "losspath", *arguments, cwd=cwd)
