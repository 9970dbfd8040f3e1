"""The helpers: threads of ours that hold lanes beside callers', or in their place."""

from collections.abc import Callable
from functools import partial
from typing import Any, Literal, TypeAlias

from crossrank._machine.guard import Visit
from crossrank._machine.pool import Pool


class Helper:
    """A thread of ours that was sent for to hold a lane.

    Args:
        kind: One of the lanes' threads, or the one that stands in for a caller's.

    Attributes:
        over: Whether it has left.
    """

    def __init__(self, kind: Literal["helper", "spare"]) -> None:
        self.kind, self.over = kind, False


Worker: TypeAlias = Visit[Any] | Helper  # who may hold a lane


class Helpers:
    """The threads that can be sent for: for each lane but one, and one that stands in for a caller's.

    Args:
        lanes: Batches that run side by side.
    """

    def __init__(self, lanes: int) -> None:
        self._lanes = lanes
        self._pool, self._stand_in = Pool(lanes - 1), Pool(1)

    def send_for(self, workers: set[Worker], work: Callable[[Helper], object]) -> bool:
        """Have one more thread of a pool among those who hold lanes, to do its work.

        Returns:
            Whether one could be had.
        """
        kinds = [worker.kind for worker in workers]
        if kinds.count("helper") < self._lanes - 1:
            pool, helper = self._pool, Helper("helper")
        elif "spare" not in kinds:
            pool, helper = self._stand_in, Helper("spare")
        else:
            return False
        if pool.try_submit(partial(work, helper)) is None:
            return False
        workers.add(helper)  # or, where something came between, it finds that nobody counts on it
        return True
