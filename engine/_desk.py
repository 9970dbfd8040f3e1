"""What the threads of one process share of a model: its queue, its counts, and who holds its lanes."""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Event, Lock

from ._cores import Cores
from ._queue import RequestQueue
from ._stats import Meter, OnCall

# As long as it takes another thread to wake up and have Python's lock; without it, that takes 5 ms beside a busy one.
_PAUSE_S = 0.00005


class Desk:
    """One process's queue. Whoever changes it holds its lock.

    Args:
        lanes: Batches that run side by side.
        max_queue_tokens: Most tokens that may wait, or None.
        on_call: The user's hook, told of each call that has ended, or None.

    Attributes:
        held: Lanes that are at work or on their way.
        helpers: Of those, threads of the runner's pool.
        spare: Whether one of them is the thread that stands in for a caller's.
        cores: Those that the pools' threads stay on.
        drained: Set when the queue is closed and nothing is open.
    """

    def __init__(self, lanes: int, max_queue_tokens: int | None, on_call: OnCall | None) -> None:
        self.lock = Lock()
        self.queue = RequestQueue(lanes, max_queue_tokens)
        self.meter = Meter(on_call)
        self.held = self.helpers = 0
        self.spare = False
        self.cores = Cores(lanes)
        self.drained = Event()

    def require_room(self, tokens: int) -> None:
        """Raise what a request of so many tokens would be refused with, as `reserve` does."""
        with self.lock:
            self.queue.require_room(tokens)

    @contextmanager
    def reserve(self, tokens: int) -> Iterator[None]:
        """Hold room in the queue for what is tokenized inside the ``with``: hardly more is begun than could wait.

        Args:
            tokens: How many are expected.

        Raises:
            Overloaded: As a request of so many tokens would be refused.
            Closed: After the queue was closed.
        """
        held = 0
        try:
            with self.lock:
                self.queue.require_room(tokens)
                self.queue.reserved_tokens += tokens
                held = tokens
            yield
        finally:
            with self.lock:
                self.queue.reserved_tokens -= held

    def pause(self) -> None:
        """Let other threads go first for a moment, if requests are under way; for long work in Python."""
        if self.queue.open:
            time.sleep(_PAUSE_S)

    def leave(self, *, helper: bool, spare: bool) -> None:
        """Give a lane up, of one of the pool's threads, of the thread that stands in, or of a caller's."""
        self.held -= 1
        if spare:
            self.spare = False
        elif helper:
            self.helpers -= 1

    def check_drained(self) -> None:
        """Set ``drained`` when it is time."""
        if self.queue.closed and not self.queue.open:
            self.drained.set()


class Desks:
    """The desk of each process: a fork leaves the parent's to the parent.

    Args:
        lanes: As of `Desk`, with all that follows.
        max_queue_tokens: Most tokens that may wait, or None.
        on_call: The user's hook, or None.
    """

    def __init__(self, lanes: int, max_queue_tokens: int | None, on_call: OnCall | None) -> None:
        self._arguments = lanes, max_queue_tokens, on_call
        self._by_process: dict[int, Desk] = {}
        self._closed = False

    def here(self) -> Desk:
        """This process's desk."""
        process = os.getpid()
        desk = self._by_process.get(process)
        if desk is None:
            desk = Desk(*self._arguments)
            if self._closed:
                desk.queue.close()
            desk = self._by_process.setdefault(process, desk)
        return desk

    def close(self) -> Desk:
        """Have no desk take requests any more. Returns this process's."""
        self._closed = True
        desk = self.here()
        with desk.lock:
            desk.queue.close()
        return desk
