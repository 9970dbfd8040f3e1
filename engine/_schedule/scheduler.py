"""The scheduler: the threads around the queue of chunks. Lanes take batches from it, callers wait for theirs.

A lane is a thread's right to run batches. Where one is free, a caller's own thread takes it and works until none of
its pairs is left to begin, so that a caller who is alone pays for no hand-over; a pool's threads take the others, and
go on until nothing waits. User code never runs inside a lane. A device that keeps itself busy (a GPU) gets a chunk as a
whole, which goes through the queue's books like any other: it is counted, bounded and closed.

A caller's thread may be thrown out of any line by a signal handler's exception, and no line can be trusted to give back
what another took. So all that a thread does here is a `Visit`, what it holds stands here under the visit's name, and
the interpreter itself knows whether the visit goes on. `_mend` takes from those that are over what they left: the
thread that was interrupted calls it, who waits for long does too, and should that be interrupted, whoever is next.
"""

import time
from collections.abc import Callable
from functools import partial
from threading import Lock, current_thread, get_ident, main_thread
from typing import Any, TypeVar

from crossrank._device.backend import Backend
from crossrank._errors import Closed
from crossrank._machine.cores import Cores
from crossrank._machine.guard import Guard, Visit, nested_call

from .chunk import Batch, Chunk, Outcome
from .failures import closed_at_exit, run_batch
from .helpers import Helper, Helpers, Worker
from .meter import Meter, OnCall, Stats
from .queue import ChunkQueue

T = TypeVar("T")

# How long to wait before having a look at whether those waited for are still there.
PATIENCE_S = 1.0
# As long as it takes another thread to wake up and have Python's lock; without it, that takes 5 ms beside a busy one.
_PAUSE_S = 0.00005


class Scheduler:
    """Runs the chunks of one process's callers on one model. Threads may share it.

    Args:
        backend: The graph.
        max_queue_tokens: Most tokens that may wait, or None.
        on_call: The user's hook, told of each call that has ended, or None.
        patience_s: Seconds that a caller waits before it looks whether others have left something behind.

    Attributes:
        queue: Whoever changes it holds the guard's lock.
        meter: Counts what happens here.
        bounded: Whether a full queue refuses chunks.
        visits: By thread, the calls that are here.
        workers: Who holds a lane, or is on the way to one.
        ending: Whether the interpreter ends.
        patience_s: As passed.
        cores: Those that the pools' threads stay on.
    """

    def __init__(
        self,
        backend: Backend,
        *,
        max_queue_tokens: int | None = None,
        on_call: OnCall | None = None,
        patience_s: float = PATIENCE_S,
    ) -> None:
        lanes = max(1, backend.lanes)
        self.guard = Guard()
        self.queue = ChunkQueue(lanes, max_queue_tokens)
        self.meter = Meter(self.guard, on_call)
        self.bounded = max_queue_tokens is not None
        self.visits: dict[int, Visit[Any]] = {}
        self.workers: set[Worker] = set()
        self.ending = False
        self._backend, self._lanes, self.patience_s = backend, lanes, patience_s
        self.cores = Cores(lanes)
        self._helpers = Helpers(lanes)
        self._closing: set[Lock] = set()  # held until all is drained, by who waits for that

    def stats(self) -> Stats:
        """What was done until now, and what waits. In a signal handler it may be a step ahead or behind."""
        if not self._inside:
            self._mend()
        return self.meter.stats(len(self.queue.open), self.queue.tokens)

    def visit(self, work: Callable[[], T]) -> T:
        """Do what enters chunks; whatever ends it, nothing of it is left.

        Raises:
            CrossrankError: In a signal handler that interrupted such a call of its own thread.
            Closed: While the interpreter ends, except in the main thread.
        """
        thread = get_ident()
        if thread in self.visits:
            self.refuse_nested()
            self._mend()  # the thread's last one, that an exception has kept from being cleared
        try:
            found = Visit(self.visits, work).run()
            self.visits.pop(thread, None)
            return found
        except BaseException:
            self.guard.let_go()
            self._mend()
            self.visits.pop(thread, None)
            raise

    def enter(self, chunk: Chunk, *, work: bool = True) -> None:
        """Let a chunk wait for its turn; in a `visit`.

        Args:
            chunk: The chunk.
            work: Whether this thread may work, while a lane is free, until all of the chunk is under way.

        Raises:
            Overloaded: If too much waits.
            Closed: After `close`.
        """
        visit, backend = self.visits[get_ident()], self._backend
        visit.holds.append(chunk)
        batches = backend.plan(chunk.source.lengths, chunk.max_pairs)
        if not backend.lanes and chunk.pairs:
            self._enter_whole(chunk, batches)
            return
        chunk.plan(batches, flat=backend.flat)
        own = False
        with self.guard.lock:
            if self.ending:
                self.refuse_at_exit()
            queue = self.queue
            chunk.alone = work and not queue.open and 2 * len(batches) <= self._lanes
            queue.submit(chunk)
            free = self._lanes - len(self.workers) if chunk.outcome is None else 0
            if free > 0:
                own = work
                if own:
                    self.workers.add(visit)
                for _ in range(min(free, len(batches)) - own):
                    self._hire()
        if own:
            self._work(visit, chunk)

    def wait(self, chunk: Chunk, stop_at: float | None = None) -> None:
        """Until a chunk that was entered has ended; in the same `visit`.

        Args:
            chunk: The chunk.
            stop_at: Time of `time.perf_counter` at which it ends as it is, and no further batch of it is begun. Those
                under way may still give it logits. What a GPU was given runs to its end.

        Raises:
            Exception: What it failed with.
        """
        if chunk.wait_for_device is not None:
            wait, chunk.wait_for_device = chunk.wait_for_device, None  # which knows the chunk
            wait()
        elif chunk.outcome is None:
            self._wait_long(chunk, stop_at)
        self.visits[get_ident()].holds.remove(chunk)
        if chunk.error is not None:
            raise chunk.error

    def leave(self, chunk: Chunk) -> None:
        """Let a chunk go on when the `visit` has ended; who does so sees to its end."""
        self.visits[get_ident()].holds.remove(chunk)

    def end(self, chunk: Chunk, outcome: Outcome) -> None:
        """End a chunk now, if it has not ended; its place is free between batches. What a GPU was given runs on."""

        def end() -> None:
            if not chunk.aside:
                self.queue.end(chunk, outcome)
            self._check_drained()

        self.guard.hold(end)

    def learn(self) -> None:
        """Let the backend take notice of the work that was done; now and then that takes half a second."""
        self._backend.worked(self.meter.unreported_s() / self._lanes)

    def reserve(self, tokens: int, *, of: object = None) -> bool:
        """Hold room in the queue for what this thread tokenizes next: hardly more is begun than could wait.

        It is given back by `give_back`, or when the `visit` ends.

        Args:
            tokens: How many are expected.
            of: Who may hold room already, which goes over to this thread.

        Returns:
            Whether that was so.

        Raises:
            Overloaded: As a chunk of so many tokens would be refused, unless room was held.
            Closed: After the queue was closed.
        """
        with self.guard.lock:
            queue = self.queue
            queue.settle()
            held = queue.reserved.pop(of, None)
            if held is None or queue.closed:
                queue.require_room(tokens)
            queue.reserved[self.visits[get_ident()]] = tokens if held is None else held
        return held is not None

    def give_back(self) -> None:
        """What this thread has reserved is entered, or will not be."""
        self.queue.reserved.pop(self.visits[get_ident()], None)

    def pause(self) -> None:
        """Let other threads go first for a moment, if chunks are under way; for long work in Python.

        Raises:
            Closed: As `refuse_at_exit`.
        """
        self.refuse_at_exit()
        if self.queue.open:
            time.sleep(_PAUSE_S)

    def refuse_nested(self) -> None:
        """Raise `CrossrankError` if this thread is in here already."""
        if self._inside:
            raise nested_call()

    def refuse_at_exit(self) -> None:
        """Raise `Closed` if the interpreter ends and would not wait for this thread."""
        if self.ending and current_thread() is not main_thread():
            raise closed_at_exit()

    def close(self, *, finish: bool = True) -> None:
        """Take no more chunks, and return when none is left.

        Args:
            finish: Whether waiting chunks are worked through; False fails them with `Closed`.
        """
        self.refuse_nested()
        self.queue.close()
        latch = Lock()
        latch.acquire()
        self._closing.add(latch)
        if not finish:
            error = Closed("the model was closed while this request waited")
            self.guard.hold(partial(self._fail_waiting, error))
        while not self._drained:
            latch.acquire(timeout=self.patience_s)
            self._mend()
        self._closing.discard(latch)

    def end_at_exit(self) -> None:
        """When the interpreter ends, fail what has not begun of daemon threads' calls, and let no more begin."""
        self.ending = True
        self.guard.hold(partial(self._fail_waiting, closed_at_exit()))

    @property
    def _inside(self) -> bool:
        """Whether this thread is in here already: a signal handler asks, or what it calls."""
        visit = self.visits.get(get_ident())
        return (visit is not None and not visit.over) or self.guard.owned

    @property
    def busy(self) -> bool:
        """Whether a thread is in here."""
        return bool(self.workers) or not all(visit.over for visit in list(self.visits.values()))

    @property
    def _drained(self) -> bool:
        """Whether the queue is closed, and nothing is left in it."""
        return self.queue.closed and not self.queue.open

    def _check_drained(self) -> None:
        """Wake who waits for the end, when it is time. Under the guard."""
        if self._closing and self._drained:
            for latch in list(self._closing):
                if latch.locked():
                    latch.release()

    def _fail_waiting(self, error: Closed) -> None:
        """Fail all that waits. What a device runs as a whole has begun and is let end. Under the guard."""
        for chunk in list(self.queue.open.values()):
            if not chunk.aside:
                self.queue.end(chunk, "failed", error)
        self._check_drained()

    def _enter_whole(self, chunk: Chunk, batches: list[Any]) -> None:
        with self.guard.lock:
            self.refuse_at_exit()
            if chunk.outcome is not None:
                return
            self.queue.submit_whole(chunk)
        source = chunk.source

        def join(index: Any) -> Any:  # when it is a batch's turn, while the ones before it run
            self.refuse_at_exit()
            return source.batch(index)

        start = time.perf_counter()
        wait = self._backend.submit(map(join, batches), list(map(len, batches)))

        def finish() -> None:
            for index, logits in zip(batches, wait(), strict=True):
                chunk.take(index, logits)
            seconds = time.perf_counter() - start
            with self.guard.lock:
                self.meter.batch(chunk.tokens, chunk.tokens, seconds)
                self.queue.end(chunk, "done")
                self._check_drained()

        chunk.wait_for_device = finish

    def _wait_long(self, chunk: Chunk, stop_at: float | None) -> None:
        with self.guard.lock:
            latch = chunk.latch()
        while chunk.outcome is None:
            left = self.patience_s
            if stop_at is not None:
                left = min(left, max(0.0, stop_at - time.perf_counter()))
            if latch.acquire(timeout=left):
                break
            if stop_at is not None and time.perf_counter() >= stop_at:
                self.end(chunk, "late")
                break
            self._mend()

    def _mend(self) -> None:
        """Put right what others, or this thread's last call, left behind when an exception threw them out."""

        def mend() -> None:
            self._clear()
            while self.queue.waiting_tokens and len(self.workers) < self._lanes and self._hire():
                pass

        self.guard.hold(mend)

    def _clear(self) -> None:
        """Take from all who have left what they still hold. Under the guard; what is cut short the next one does."""
        gone = {worker for worker in (*self.visits.values(), *self.workers) if worker.over}
        queue = self.queue
        left = [batch for batch in queue.running if batch.owner in gone]
        if left:
            queue.drop(left)
        queue.settle()
        for worker in gone:
            queue.reserved.pop(worker, None)
            if isinstance(worker, Visit):
                while worker.holds:
                    queue.end(worker.holds[-1], "cancelled")
                    worker.holds.pop()
        self.workers -= gone
        self._check_drained()

    def _hire(self) -> bool:
        """Give a free lane to a thread of a pool. Returns whether one could be had. Under the guard."""
        return self._helpers.send_for(self.workers, self._help)

    def _help(self, helper: Helper) -> None:
        with self.guard.lock:
            counted = helper in self.workers
        if not counted:
            return
        try:
            with self.cores.stretch() as stay:
                self._work(helper, None, stay)
        except BaseException:
            helper.over = True
            self._mend()
            raise

    def _work(self, worker: Worker, own: Chunk | None, between: Callable[[], None] | None = None) -> None:
        """Run batches on a lane: a caller's thread until all of its pairs are under way, others until none waits."""
        while True:
            with self.guard.lock:
                batch = None
                # Others' pairs are left to another thread, if one can be had.
                if own is None or own.left or (self.queue.waiting_tokens and not self._hire()):
                    batch = self.queue.next_batch(self._backend.max_tokens, worker)
                if batch is None:
                    self.workers.discard(worker)
                    return
            self._run(batch, worker)
            if between is not None:
                between()

    def _run(self, batch: Batch, worker: Worker) -> None:
        start = time.perf_counter()
        own = worker.holds if isinstance(worker, Visit) else []
        failed, foreign = run_batch(self._backend, batch.pieces, own)
        seconds = time.perf_counter() - start
        with self.guard.lock:
            for chunk, error in failed:
                self.queue.end(chunk, "failed", error)
            self.meter.batch(batch.tokens, batch.capacity, seconds)
            self.queue.done(batch)
            if self._closing:
                self._check_drained()
        if foreign is not None:
            try:
                raise foreign
            finally:
                del foreign  # or the error would keep itself, by its traceback
