"""Several threads that work through one list; what is worked on is left to others."""

import os
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Lock
from typing import TypeVar

Item = TypeVar("Item")


class Lanes:
    """A pool of lanes. Several callers may use it at once: each works on its own list, and idle lanes help.

    Args:
        count: Lanes, the caller's own among them.
    """

    def __init__(self, count: int) -> None:
        self.count = count
        # Threads do not survive a fork, so each process has its own.
        self._by_process: dict[int, ThreadPoolExecutor] = {}

    def run(self, items: Iterable[Item], work: Callable[[Item], None]) -> None:
        """Do ``work`` on each item, in this order as far as lanes are free, and return when all are done.

        If it raises, lanes stop at their next item, and the first error is raised here.
        """
        waiting = list(items)[::-1]
        helpers = min(self.count, len(waiting)) - 1
        errors: list[BaseException] = []
        lock = Lock()

        def lane() -> None:
            while True:
                with lock:
                    if errors or not waiting:
                        return
                    item = waiting.pop()
                try:
                    work(item)
                except BaseException as error:  # KeyboardInterrupt too: the other lanes must hear of it
                    errors.append(error)

        futures = [self.submit(lane) for _ in range(helpers)]
        lane()
        for future in futures:
            if not future.cancel():  # what has not begun by now was not needed
                future.result()
        if errors:
            raise errors[0]

    def submit(self, work: Callable[[], None]) -> "Future[None]":
        """Do ``work`` beside the caller, when a lane is free; for more than one lane only."""
        process = os.getpid()
        pool = self._by_process.get(process)
        if pool is None:
            pool = ThreadPoolExecutor(self.count - 1, thread_name_prefix="crossrank")
            pool = self._by_process.setdefault(process, pool)
        return pool.submit(work)
