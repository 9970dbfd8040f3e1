"""Lanes: threads that work through one list, each on a core of its own while it goes on.

Linux may wake a thread on the core of the thread that wakes it. Among many callers two lanes soon meet on one core, and
take turns there for milliseconds until the kernel notices that another core has nothing to do. On 2 cores, with 16
callers of TinyBERT-L-2, 1.55 of them were busy so; with a core for each lane it is 1.89, for a quarter more documents a
second.
"""

import os
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, wait
from contextlib import contextmanager, suppress
from math import inf
from pathlib import Path
from threading import Lock

from crossrank._interrupts import thrown_in

from .pool import Pool

Job = Callable[[], object]


class Lanes:
    """A pool of lanes. Several callers may use it at once: each works on its own list, and idle lanes help.

    A lane that has nothing to do sleeps; its thread ends with the pool.

    Args:
        count: Lanes, the caller's own among them.
    """

    def __init__(self, count: int) -> None:
        self.count = count
        self._pool = Pool(count - 1)

    def run(self, jobs: Iterable[Job]) -> None:
        """Do jobs, in this order as far as lanes are free, and return when all are done.

        If one raises, no further one is begun, and when those under way have ended its error is raised here; of
        several errors the caller's own, such as KeyboardInterrupt.
        """
        waiting = list(jobs)[::-1]

        def lane() -> None:
            try:
                while waiting:
                    try:
                        job = waiting.pop()
                    except IndexError:  # another lane took the last one
                        return
                    job()
            except BaseException:
                waiting.clear()
                raise

        helpers: list[Future[object]] = []
        try:
            for _ in range(min(self.count, len(waiting)) - 1):
                helpers += self.submit(lane)
            lane()
        finally:
            # Nothing is left but after an interruption. A lane that has not begun by now was not needed.
            waiting.clear()
            begun = [helper for helper in helpers if not helper.cancel()]
            wait(begun)
        for helper in begun:
            helper.result()

    def submit(self, job: Job) -> "list[Future[object]]":
        """Do a job beside the caller when a lane is free; for more than one lane only.

        Returns:
            Its future; none where no thread can be had: at the interpreter's end, or beyond the system's limit.
        """
        try:
            return [self._pool.submit(job)]
        except RuntimeError as error:
            if error.__context__ is not None:  # thrown into the start of a thread, which then released what it had not
                raise error.__context__ from None
            if thrown_in(error):
                raise
            return []


# What is done sooner has no time to meet another lane.
_LONG_S = 0.01
# Which core a thread runs on: field 39 (proc(5)), counted from behind the name, field 2, which may hold blanks.
_STAT, _CORE_FIELD = Path("/proc/thread-self/stat"), 39 - 3


class Cores:
    """The cores that lanes stay on. Only where there is just one for each, and where the system lets a thread choose.

    With fewer lanes the kernel has idle cores to move them to, and several processes would all choose the same ones.

    Args:
        lanes: Batches that run side by side.
    """

    def __init__(self, lanes: int) -> None:
        self._lanes = lanes
        self._taken: set[int] = set()
        self._lock = Lock()

    @contextmanager
    def stretch(self, clock: Callable[[], float] = time.perf_counter) -> Iterator[Callable[[], None]]:
        """A stretch of work of this thread, which must be crossrank's own.

        Args:
            clock: Time in seconds.

        Yields:
            To be called now and then: after a while it keeps the thread on its core, or on one that is free, until the
            ``with`` ends.
        """
        due = clock() + _LONG_S if self._lanes > 1 and hasattr(os, "sched_setaffinity") else inf
        core: int | None = None
        allowed: set[int] = set()

        def stay() -> None:
            nonlocal due, core, allowed
            if clock() < due:
                return
            due = inf
            with suppress(OSError):  # a sandbox may forbid it
                allowed = os.sched_getaffinity(0)
                core = self._take(allowed)
                if core is not None:
                    os.sched_setaffinity(0, {core})

        try:
            yield stay
        finally:
            if core is not None:
                with suppress(OSError):
                    if os.sched_getaffinity(0) == {core}:  # else it was told otherwise from outside
                        os.sched_setaffinity(0, allowed)
                with self._lock:
                    self._taken.discard(core)

    def _take(self, allowed: set[int]) -> int | None:
        if len(allowed) != self._lanes:
            return None
        here = _current_core()
        with self._lock:
            free = allowed - self._taken
            if not free:
                return None
            core = here if here in free else min(free)
            self._taken.add(core)
        return core


def _current_core() -> int | None:
    """The core that this thread runs on, where the system says so."""
    try:
        return int(_STAT.read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()[_CORE_FIELD])
    except (OSError, ValueError, IndexError):
        return None
