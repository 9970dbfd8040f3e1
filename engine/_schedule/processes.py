"""A model's scheduler in each process, and what the interpreter's end does with their calls."""

import atexit
import os
import time
import weakref
from collections.abc import Callable

from crossrank._machine.process import PerProcess

from .scheduler import Scheduler

# At the interpreter's end, how long to wait for batches that run, for calls to come back with their errors, and for
# these to be told.
_BATCHES_S, _CALLS_S, _WORD_S, _STEP_S = 10.0, 0.5, 0.05, 0.002


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
            _end(schedulers[os.getpid()])


def _end(scheduler: Scheduler) -> None:
    """End the calls of daemon threads, whom the interpreter does not wait for: fail them, or wait for what runs."""
    scheduler.end_at_exit()
    calls = len(scheduler.meter.open)
    _wait_while(lambda: scheduler.busy, _BATCHES_S)
    _wait_while(lambda: bool(scheduler.meter.open), _CALLS_S)
    if calls:  # their threads and event loops get a moment to say so
        time.sleep(_WORD_S)


def _wait_while(goes_on: Callable[[], bool], seconds: float) -> None:
    until = time.monotonic() + seconds
    while goes_on() and time.monotonic() < until:
        time.sleep(_STEP_S)
