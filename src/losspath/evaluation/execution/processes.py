"""Processes on this machine that evaluate points side by side."""

from __future__ import annotations

import multiprocessing
import os
import re
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from contextlib import contextmanager, nullcontext
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from typing import Any

import torch

from losspath.arguments import checked, count, optional
from losspath.errors import WorkerError
from losspath.threads import available_cores


class LocalProcesses(Executor):
    """Worker processes on this machine, each with its share of threads.

    A process that dies costs the points that it was at: they are computed again by a new one. They
    end with the process that started them, however that ends. As with every pool of processes, a
    script that uses it keeps its own work under ``if __name__ == "__main__":``. In a notebook, with
    ``python -c`` and from standard input, the model and the loss must come from a module.

    Args:
        count: how many processes.
        threads: torch's threads in each; by default an even share of the cores that
            this process may use.

    Raises:
        ArgumentError: fewer than one process or thread.

    Example:
        >>> with LocalProcesses(2) as processes:  # doctest: +SKIP
        ...     surface = compute_surface(path, objective, executor=processes)
    """

    @checked(count=count(1), threads=optional(count(1)))
    def __init__(self, count: int, threads: int | None = None) -> None:
        self.count = count
        self.threads = threads or max(1, available_cores() // count)
        self._pool: ProcessPoolExecutor | None = None

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Hands work to a process, as every executor does.

        Raises:
            WorkerError: other processes would not find what the work is made of.
        """
        if getattr(multiprocessing.current_process(), "_inheriting", False):
            raise WorkerError(
                "expected processes to be begun by the program itself, but this is one of them, "
                "which runs the script anew: keep what the script does under "
                'if __name__ == "__main__":'
            )
        if is_lost := _is_main_lost():
            _check_findable((fn, args, kwargs))
        if self._pool is None:
            # Not forked: a fork copies locks that torch's threads may hold.
            self._pool = ProcessPoolExecutor(
                self.count,
                mp_context=multiprocessing.get_context("spawn"),
                initializer=_begin,
                initargs=(self.threads,),
            )
        with _without_main() if is_lost else nullcontext():
            return self._pool.submit(fn, *args, **kwargs)

    def restart(self) -> None:
        """Replaces the processes by new ones, as after one has died."""
        self.shutdown(wait=False, cancel_futures=True)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Ends the processes."""
        pool, self._pool = self._pool, None
        if pool is not None:
            pool.shutdown(wait=wait, cancel_futures=cancel_futures)


def _is_main_lost() -> bool:
    """Whether other processes cannot run the main program's file, as there is none."""
    main = sys.modules.get("__main__")
    if getattr(main, "__spec__", None) is not None:
        return False
    file = getattr(main, "__file__", None)
    return file is None or not Path(file).exists()


def _check_findable(work: object) -> None:
    """Raises `WorkerError` where some work is made of what the main program defines itself."""
    try:
        sent = bytes(ForkingPickler.dumps(work))
    except Exception:
        return  # whoever sends it tells why that cannot be done
    found = _DEFINED.search(sent)
    if found is not None:
        name = found[1].decode("utf8", "replace")
        raise WorkerError(
            f"expected the model, the data and the loss from modules, but {name} is defined in the "
            "main program, which other processes cannot read (a notebook, python -c, standard "
            "input); put it into a file and import it from there"
        )


# How a pickle names what is defined in the main program.
_DEFINED = re.compile(rb"__main__\x94?\x8c.([\w.<>]+)", re.DOTALL)


@contextmanager
def _without_main() -> Iterator[None]:
    """Keeps new processes from running a file that is not there, such as "<stdin>"."""
    main = sys.modules["__main__"]
    file = main.__dict__.pop("__file__", None)
    try:
        yield
    finally:
        if file is not None:
            main.__file__ = file


def _begin(threads: int) -> None:
    torch.set_num_threads(threads)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """Ends this process at once when the one that started it is gone, even killed.

    Without it a worker would go on with its task to the end, and hold the files that a new start of
    the same work needs.
    """
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
