"""The cores that lanes, the threads that run batches side by side, stay on while they work.

Linux may wake a thread on the core of the thread that wakes it. Among many callers two lanes soon meet on one core, and
take turns there for milliseconds until the kernel notices that another core has nothing to do. On 2 cores, with 16
callers of TinyBERT-L-2, 1.55 of them were busy so; with a core for each lane it is 1.89, for a quarter more documents a
second.
"""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from math import inf
from pathlib import Path
from threading import Lock

from crossrank._interrupts import not_thrown_in

# Which core a thread runs on: field 39 (proc(5)), counted from behind the name, field 2, which may hold blanks.
_STAT, _CORE_FIELD = Path("/proc/thread-self/stat"), 39 - 3


class Cores:
    """The cores that lanes stay on. Only where there is just one for each, and where the system lets a thread choose.

    With fewer lanes the kernel has idle cores to move them to, and several processes would all choose the same ones.

    Args:
        lanes: Batches that run side by side.
        long_s: Seconds of work from which on a lane stays; what is done sooner has no time to meet another one.
        here: Says which core a thread runs on, or None where that is not known.
    """

    def __init__(self, lanes: int, *, long_s: float = 0.01, here: Callable[[], int | None] | None = None) -> None:
        self.long_s = long_s
        self._lanes, self._here = lanes, here or current_core
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
        due = clock() + self.long_s if self._lanes > 1 and hasattr(os, "sched_setaffinity") else inf
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
        here = self._here()
        with self._lock:
            free = allowed - self._taken
            if not free:
                return None
            core = here if here in free else min(free)
            self._taken.add(core)
        return core


def current_core() -> int | None:
    """The core that this thread runs on, where the system says so."""
    try:
        return int(_STAT.read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()[_CORE_FIELD])
    except not_thrown_in(OSError, ValueError, IndexError):
        return None
