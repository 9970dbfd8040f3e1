"""The desk of one process, which its threads share: a model's queue, its counts, and who holds its lanes.

No line can be trusted to give back what another took: an exception that a signal handler raises may come before it. So
what a call holds stands here under its name, as a `Visit`, and the interpreter itself knows whether that goes on.
`clear` takes from those that do not what they left: the thread that was interrupted calls it, and, should that be
interrupted too, whoever is next.
"""

import os
import time
from collections.abc import Callable, Generator
from functools import partial
from threading import Lock, current_thread, get_ident, main_thread
from typing import Any, Generic, Literal, TypeAlias, TypeVar

from crossrank._errors import Closed
from crossrank._machine.guard import Guard, nested_call
from crossrank._machine.lanes import Cores

from .meter import Meter, OnCall
from .queue import RequestQueue
from .request import Request

T = TypeVar("T")

# As long as it takes another thread to wake up and have Python's lock; without it, that takes 5 ms beside a busy one.
_PAUSE_S = 0.00005


class Visit(Generic[T]):
    """What a caller's thread does here, from its first step to its last.

    It runs as a generator, since of a generator the interpreter knows whether it runs: no exception, wherever it comes,
    leaves that untrue. It writes itself down when it runs, so that one that is written down and does not is over.

    Args:
        visits: Where.
        work: All of it.

    Attributes:
        requests: Those that end with it.
    """

    kind = "caller"

    def __init__(self, visits: "dict[int, Visit[Any]]", work: Callable[[], T]) -> None:
        self.requests: list[Request] = []
        self._steps: Any = self._do(visits, work)
        self._found: T

    @property
    def over(self) -> bool:
        """Whether it has ended, whatever way."""
        running: bool = self._steps.gi_running
        return not running

    def run(self) -> T:
        """Do it."""
        next(self._steps, None)
        return self._found

    def _do(self, visits: "dict[int, Visit[Any]]", work: Callable[[], T]) -> Generator[None, None, None]:
        visits[get_ident()] = self
        self._found = work()
        return
        yield  # never: one that waits here would be ended by the garbage collector, which loses exceptions


class Helper:
    """A thread of ours that was sent for to hold a lane.

    Args:
        kind: Of the runner's pool, or the one that stands in for a caller's thread.

    Attributes:
        over: Whether it has left.
    """

    def __init__(self, kind: Literal["helper", "spare"]) -> None:
        self.kind, self.over = kind, False


Worker: TypeAlias = Visit[Any] | Helper  # who may hold a lane


class Desk:
    """One process's queue. Whoever changes it holds its guard.

    Args:
        lanes: Batches that run side by side.
        max_queue_tokens: Most tokens that may wait, or None.
        on_call: The user's hook, told of each call that has ended, or None.

    Attributes:
        queue: See `books`.
        visits: By thread, the calls that are here.
        workers: Who holds a lane, or is on the way to one.
        cores: Those that the pools' threads stay on.
        ending: Whether the interpreter ends.
        closing: Held until all is `drained`, by who waits for that.
    """

    def __init__(self, lanes: int, max_queue_tokens: int | None, on_call: OnCall | None) -> None:
        self.guard = Guard()
        self.queue = RequestQueue(lanes, max_queue_tokens)
        self.meter = Meter(self.guard, on_call)
        self.visits: dict[int, Visit[Any]] = {}
        self.workers: set[Worker] = set()
        self.cores = Cores(lanes)
        self.ending = False
        self.closing: set[Lock] = set()

    def books(self) -> RequestQueue:
        """The queue, put right if a step of it was cut short. Under the guard."""
        if self.queue.torn:
            self.queue.rebuild()
        return self.queue

    def here(self) -> Visit[Any]:
        """The visit that this thread is in."""
        return self.visits[get_ident()]

    @property
    def inside(self) -> bool:
        """Whether this thread is in here already: a signal handler asks, or what it calls."""
        visit = self.visits.get(get_ident())
        return (visit is not None and not visit.over) or self.guard.owned

    @property
    def busy(self) -> bool:
        """Whether a thread is in here."""
        return bool(self.workers) or not all(visit.over for visit in list(self.visits.values()))

    def refuse_nested(self) -> None:
        """Raise `CrossrankError` if this thread is in here already."""
        if self.inside:
            raise nested_call()

    def refuse_at_exit(self) -> None:
        """Raise `Closed` if the interpreter ends and would not wait for this thread."""
        if self.ending and current_thread() is not main_thread():
            raise closed_at_exit()

    def clear(self) -> None:
        """Take from all who have left what they still hold. Under the guard; what is cut short the next one does."""
        gone = {worker for worker in (*self.visits.values(), *self.workers) if worker.over}
        left = [batch for batch in self.queue.running if batch.owner in gone]
        if left:
            self.queue.drop(left)
        queue = self.books()
        for worker in gone:
            queue.reserved.pop(worker, None)
            if isinstance(worker, Visit):
                while worker.requests:
                    queue.end(worker.requests[-1], "cancelled")
                    worker.requests.pop()
        self.workers -= gone
        self.check_drained()

    def require_room(self, tokens: int) -> None:
        """Raise what a request of so many tokens would be refused with, as `reserve` does."""
        self.queue.require_room(tokens)

    def reserve(self, tokens: int) -> Callable[[], object]:
        """Hold room in the queue for what is tokenized next: hardly more is begun than could wait.

        Args:
            tokens: How many are expected.

        Returns:
            Gives it back; the end of the visit that this thread is in does too.

        Raises:
            Overloaded: As a request of so many tokens would be refused.
            Closed: After the queue was closed.
        """
        owner = self.visits.get(get_ident()) or object()
        with self.guard.lock:
            queue = self.books()
            queue.require_room(tokens)
            queue.reserved[owner] = tokens
        return partial(queue.reserved.pop, owner, None)

    def pause(self) -> None:
        """Let other threads go first for a moment, if requests are under way; for long work in Python.

        Raises:
            Closed: As `refuse_at_exit`.
        """
        self.refuse_at_exit()
        if self.queue.open:
            time.sleep(_PAUSE_S)

    @property
    def drained(self) -> bool:
        """Whether the queue is closed, and nothing is left in it."""
        return self.queue.closed and not self.queue.open

    def check_drained(self) -> None:
        """Wake who waits for the end, when it is time. Under the guard."""
        if self.closing and self.drained:
            for latch in list(self.closing):
                if latch.locked():
                    latch.release()


def closed_at_exit() -> Closed:
    """What a call fails with that the interpreter would not wait for when it ends."""
    return Closed(
        "the program is ending, and does not wait for its daemon threads: join them, or close the model, before the "
        "main thread ends"
    )


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
        desk.queue.close()
        return desk
