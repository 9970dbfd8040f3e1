"""One window of an asynchronous call: read and submitted on a thread, awaited on the loop."""

import asyncio
import contextlib
from collections.abc import Callable
from functools import partial
from typing import Any

from ._job import Job
from ._scheduler import Scheduler
from ._scoring import PairWork

InThread = Callable[[Callable[[], bool]], "asyncio.Future[bool]"]


class Step:
    """One window of a call.

    Args:
        scheduler: The model's.
        work: The call.
        max_pairs: Most pairs of a batch, or None.
    """

    def __init__(self, scheduler: Scheduler, work: PairWork, max_pairs: int | None) -> None:
        self._scheduler, self._work, self._max_pairs = scheduler, work, max_pairs
        self._loop = asyncio.get_running_loop()
        self._ended: asyncio.Future[None] = self._loop.create_future()
        self._job: Job | None = None
        self._given_up = False

    async def run(self, in_thread: InThread) -> bool:
        """Returns whether there was such a window, and time for more. Raises what it failed with."""
        try:
            begun = in_thread(partial(self._scheduler.visit, self._begin))
            if not await self._in_time(begun) or not begun.result():
                return False
            if self._job is None:
                return True
            in_time = await self._in_time(self._ended)
            if self._job.error is not None:
                raise self._job.error
            return in_time
        except BaseException:  # it was cancelled, or a signal handler has interrupted the loop here
            self._given_up = True
            if self._job is not None:
                self._scheduler.cancel(self._job)
            raise
        finally:
            self._job = None  # which knows this object: as a cycle they would keep the model's threads

    async def _in_time(self, future: "asyncio.Future[Any]") -> bool:
        """Wait for the future, or for the deadline, which ends the window as it is. Returns whether it was in time."""
        deadline = self._work.deadline
        if deadline is None:
            await future
            return True
        future.add_done_callback(_forget)
        done, _ = await asyncio.wait({future}, timeout=max(0.0, deadline.left_s()))
        if done:
            return True
        self._given_up = True
        if self._job is not None:
            self._scheduler.late(self._job)
        return False

    def _begin(self) -> bool:
        deadline = self._work.deadline
        if deadline is None:
            self._scheduler.learn()
        window = None if self._given_up else self._work.next_window()
        if window is None:
            return False
        take = self._work.take_of(window)
        if self._given_up:
            return False
        if not self._scheduler.plans:
            self._scheduler.submit(window, self._max_pairs, take)()
            return True
        self._job = job = self._scheduler.job(window, self._max_pairs, take, self._tell)
        if self._given_up:
            return False
        self._scheduler.enter(job, work=deadline is None)
        return True

    def _tell(self) -> None:
        # RuntimeError of a loop that is closed: nobody waits any more.
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._set)

    def _set(self) -> None:
        if not self._ended.done():
            self._ended.set_result(None)


def _forget(future: "asyncio.Future[Any]") -> None:
    """Let nobody miss the error of what nobody waits for."""
    if not future.cancelled():
        future.exception()
