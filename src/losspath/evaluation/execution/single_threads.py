"""Threads that each compute on their own, with none of torch's threads beside them."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait

import torch


class SingleThreads:
    """Threads kept from one call to the next: kernels that torch prepares are kept by thread."""

    def __init__(self) -> None:
        self._pool: ThreadPoolExecutor | None = None
        self._count = 0

    def run(self, work: Callable[[int], None], count: int) -> None:
        """Calls work(0) … work(count−1) at once, each with one thread; one alone with all.

        Args:
            work: called with the number of the thread.
            count: how many threads.

        Raises:
            Whatever the first of them that fails raises, once all have ended.
        """
        if count == 1:
            work(0)
            return
        # Setting the number anywhere sets what later threads of torch's begin with.
        threads = torch.get_num_threads()
        try:
            if self._pool is None or self._count != count:
                self._count = count
                self._pool = ThreadPoolExecutor(
                    count, "losspath-evaluation", initializer=torch.set_num_threads, initargs=(1,)
                )
            futures = [self._pool.submit(work, number) for number in range(count)]
            wait(futures)  # none goes on behind an error of another
            for future in futures:
                future.result()
        finally:
            torch.set_num_threads(threads)
