"""The workers that the command line asks to evaluate points."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Executor
from contextlib import contextmanager

from losspath.errors import ArgumentError, WorkerError
from losspath.extras import extra

_ANSWER_SECONDS = 10


@contextmanager
def open_workers(processes: int | None, scheduler: str | None) -> Iterator[Executor | None]:
    """Processes on this machine, or the workers of a Dask scheduler; None where neither is asked.

    Args:
        processes: how many processes.
        scheduler: address of a scheduler, such as "tcp://host:8786".

    Raises:
        ArgumentError: both were asked for.
        MissingExtraError: Dask is not installed.
        WorkerError: no scheduler answers, or it has no workers.
    """
    if processes is not None and scheduler is not None:
        raise ArgumentError("expected --processes or --scheduler, got both")
    if processes is not None and processes < 1:
        raise ArgumentError(f"expected --processes of at least 1, got {processes}")
    if processes is not None:
        from losspath.evaluation.execution.processes import LocalProcesses

        with LocalProcesses(processes) as local:
            yield local
    elif scheduler is not None:
        with _client(scheduler) as executor:
            yield executor
    else:
        yield None


@contextmanager
def _client(address: str) -> Iterator[Executor]:
    with extra("dask"):
        from distributed import Client
    try:
        client = Client(  # type: ignore[no-untyped-call]
            address, timeout=_ANSWER_SECONDS, set_as_default=False
        )
    except (OSError, ValueError) as error:
        raise WorkerError(f"no scheduler answers at {address}: {error}") from error
    with client:
        if not client.scheduler_info()["workers"]:
            raise WorkerError(
                f"the scheduler at {address} has no workers; begin some: dask worker {address}"
            )
        executor: Executor = client.get_executor()  # type: ignore[no-untyped-call]
        yield executor
