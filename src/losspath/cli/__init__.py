"""The command line: parse, one public call, write."""

from __future__ import annotations

import sys
import traceback
import warnings
from collections.abc import Sequence

from losspath.errors import LosspathError, LosspathWarning

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command line and exits: 0 done, 1 an error, 2 wrong usage, 130 stopped.

    Every error is one line on standard error; ``--debug`` anywhere adds the traceback.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in given
    sys.exit(_run([argument for argument in given if argument != "--debug"], debug))


def _run(arguments: list[str], debug: bool) -> int:
    from losspath.cli.app import app

    warnings.showwarning = _show_warning
    warnings.simplefilter("always", LosspathWarning)
    try:
        code = app(args=arguments, prog_name="losspath", standalone_mode=False)
        if code == 130:  # how the parser passes an interrupt on
            raise KeyboardInterrupt
        return code if isinstance(code, int) else 0
    except KeyboardInterrupt:
        _say("stopped; the same command goes on from here")
        return 130
    except BrokenPipeError:
        return 1
    except Exception as error:
        if debug:
            traceback.print_exc()
        return _report(error)


def _report(error: Exception) -> int:
    """Prints one line for an error and returns the exit status."""
    usage = getattr(error, "format_message", None)
    if usage is not None:  # the parser's own errors
        if not usage():  # no command: the help has been printed
            return 2
        context = getattr(error, "ctx", None)
        path = context.command_path if context is not None else "losspath"
        _say(f"error: {usage()} (see {path} --help)")
        return 2
    if type(error).__name__ == "Abort":
        _say("stopped; the same command goes on from here")
        return 130
    if isinstance(error, LosspathError):
        _say(f"error: {error}")
    elif isinstance(error, MemoryError):
        _say("error: there is not enough memory; use fewer --samples or a smaller network")
    elif isinstance(error, OSError):
        where = f"{error.filename}: " if error.filename else ""
        _say(f"error: {where}{error.strerror or error}")
    else:
        _say(
            f"error: unexpected {type(error).__name__}: {error} (this is a defect of losspath; "
            "run again with --debug for the traceback)"
        )
    return 1


def _say(message: str) -> None:
    print(f"losspath: {' '.join(message.split())}", file=sys.stderr)  # noqa: T201


_shown: set[str] = set()  # several surfaces of one run say it once


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: object = None,
    line: str | None = None,
) -> None:
    if issubclass(category, LosspathWarning) and str(message) not in _shown:
        _shown.add(str(message))
        _say(f"note: {message}")
