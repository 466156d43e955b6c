"""Processes on this machine that evaluate points side by side."""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Callable
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from typing import Any

import torch

from losspath.errors import ArgumentError


class LocalProcesses(Executor):
    """Worker processes on this machine, each with its share of threads.

    A process that dies costs the points that it was at: they are computed again by a new one. They
    end with the process that started them, however that ends. As with every pool of processes, a
    script that uses it keeps its own work under ``if __name__ == "__main__":``.

    Args:
        count: how many processes.
        threads: torch's threads in each; by default an even share of the processor's cores.

    Raises:
        ArgumentError: fewer than one process or thread.

    Example:
        >>> with LocalProcesses(2) as processes:  # doctest: +SKIP
        ...     surface = compute_surface(path, objective, executor=processes)
    """

    def __init__(self, count: int, threads: int | None = None) -> None:
        if count < 1:
            raise ArgumentError(f"expected at least one process, got {count}")
        if threads is not None and threads < 1:
            raise ArgumentError(f"expected at least one thread a process, got {threads}")
        self.count = count
        self.threads = threads or max(1, (os.cpu_count() or 1) // count)
        self._pool: ProcessPoolExecutor | None = None

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Hands work to a process, as every executor does."""
        if self._pool is None:
            # Not forked: a fork copies locks that torch's threads may hold.
            self._pool = ProcessPoolExecutor(
                self.count,
                mp_context=multiprocessing.get_context("spawn"),
                initializer=_begin,
                initargs=(self.threads,),
            )
        return self._pool.submit(fn, *args, **kwargs)

    def restart(self) -> None:
        """Replaces the processes by new ones, as after one has died."""
        self.shutdown(wait=False, cancel_futures=True)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Ends the processes."""
        pool, self._pool = self._pool, None
        if pool is not None:
            pool.shutdown(wait=wait, cancel_futures=cancel_futures)


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
