"""A model's scheduler in each process, and what the interpreter's end does with their calls."""

import atexit
import os
import weakref
from collections.abc import Callable

from crossrank._machine.process import PerProcess

from .scheduler import Scheduler


class Schedulers(PerProcess[Scheduler]):
    """A model's scheduler in each process: a fork leaves the parent's to the parent.

    Args:
        make: Makes one.
    """

    def __init__(self, make: Callable[[], Scheduler]) -> None:
        super().__init__(make)
        self._closed = False
        for key in [key for key, reference in list(_alive.items()) if reference() is None]:
            _alive.pop(key, None)
        _alive[id(self)] = weakref.ref(self)

    def __missing__(self, process: int) -> Scheduler:
        made = super().__missing__(process)
        if self._closed:
            made.queue.close()
        return made

    def close(self, *, finish: bool) -> None:
        """As `Scheduler.close`, here and in each process that is forked from now on."""
        self._closed = True
        self[os.getpid()].close(finish=finish)


# No WeakSet: that is cleaned by Python's code, in whatever thread, and loses what a signal handler raises there.
_alive: "dict[int, weakref.ref[Schedulers]]" = {}


@atexit.register
def _end_all() -> None:
    for reference in list(_alive.values()):
        schedulers = reference()
        if schedulers is not None and os.getpid() in schedulers:
            schedulers[os.getpid()].end_at_exit()
