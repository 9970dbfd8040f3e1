"""The threads around the queue of requests: lanes take batches from it, callers wait for theirs.

A lane is a thread's right to run batches. Where one is free, a caller's own thread takes it and works until none of
its pairs is left to begin, so that a caller who is alone pays for no hand-over; a pool's threads take the others, and
go on until nothing waits. User code never runs inside a lane.

A device whose session plans by itself (a GPU), and a call that the runner gives all threads to (a single document on
an idle CPU), goes through the queue's books as a whole: it is counted, bounded and closed like any other.

A caller's thread may be thrown out of any line by a signal handler's exception. All it does is a `Visit`; when that has
ended by an exception, or a waiting caller has waited for long, `_mend` puts right what was left behind.
"""

import atexit
import time
import weakref
from collections.abc import Callable
from functools import partial
from threading import Lock, get_ident
from typing import Any, TypeVar

from crossrank._device.batches import plan_even_batches
from crossrank._device.runner import Runner, Take
from crossrank._errors import Closed, CrossrankError
from crossrank._interrupts import raised_by_handler
from crossrank._machine.lanes import Lanes
from crossrank._text.pairs import PairSource

from .desk import Desk, Desks, Helper, Visit, Worker, closed_at_exit
from .job import Job, hand_over, pack
from .meter import OnCall, Stats
from .request import Batch, Outcome, Piece, Request

T = TypeVar("T")

# How long to wait before having a look at whether those waited for are still there.
_PATIENCE_S = 1.0
# At the interpreter's end, how long to wait for batches that run.
_EXIT_S, _EXIT_STEP_S = 10.0, 0.002


class Scheduler:
    """Runs the requests of many callers on one model. Threads may share it; a forked child begins anew.

    Args:
        runner: The graph.
        max_queue_tokens: Most tokens that may wait, or None.
        on_call: The user's hook, told of each call that has ended, or None.

    Attributes:
        bounded: Whether a full queue refuses requests.
    """

    def __init__(self, runner: Runner, *, max_queue_tokens: int | None = None, on_call: OnCall | None = None) -> None:
        self._runner, self._lanes = runner, runner.lanes
        self._count = 1 if self._lanes is None else self._lanes.count
        self._stand_in = Lanes(2)  # one thread besides the caller's
        self._desks = Desks(self._count, max_queue_tokens, on_call)
        self.bounded = max_queue_tokens is not None
        for key in [key for key, reference in list(_alive.items()) if reference() is None]:
            _alive.pop(key, None)
        _alive[id(self)] = weakref.ref(self)

    @property
    def plans(self) -> bool:
        """Whether requests are cut into batches here, and not by the device's session."""
        return self._lanes is not None

    @property
    def desk(self) -> Desk:
        """What this process's callers share."""
        return self._desks.here()

    def stats(self) -> Stats:
        """What was done until now, and what waits. In a signal handler it may be a step ahead or behind."""
        desk = self.desk
        if not desk.inside:
            self._mend(desk)
        return desk.meter.stats(len(desk.queue.open), desk.queue.tokens)

    def visit(self, work: Callable[[], T]) -> T:
        """Do what submits requests; whatever ends it, nothing of it is left.

        Raises:
            CrossrankError: In a signal handler that interrupted such a call of its own thread.
            Closed: While the interpreter ends, except in the main thread.
        """
        desk, thread = self.desk, get_ident()
        if thread in desk.visits:
            desk.refuse_nested()
            self._mend(desk)  # the thread's last one, that an exception has kept from being cleared
        try:
            found = Visit(desk.visits, work).run()
            desk.visits.pop(thread, None)
            return found
        except BaseException:
            desk.guard.let_go()
            self._mend(desk)
            desk.visits.pop(thread, None)
            raise

    def submit(
        self, pairs: PairSource, max_pairs: int | None, take: Take, stop_at: float | None = None
    ) -> Callable[[], None]:
        """As `Runner.submit`, beside other callers; in a `visit`.

        Args:
            pairs: The pairs.
            max_pairs: Most pairs of a batch, or None.
            take: Gets the index of some pairs and their logits, float32 [pairs, labels]; from any thread.
            stop_at: Time of `time.perf_counter` at which the request ends as it is: this returns, and no further batch
                of it is begun. ``take`` may still be called for those under way. What a GPU was given runs to its end.

        Raises:
            Overloaded: If too much waits.
            Closed: After `close`.
        """
        desk = self.desk
        visit = desk.here()
        if self._lanes is None:
            return self._submit_whole(desk, visit, pairs, max_pairs, take)
        if stop_at is None and 2 * len(pairs.lengths) <= self._count and not desk.queue.open:
            self._submit_whole(desk, visit, pairs, max_pairs, take)()
            return lambda: None
        job = self.job(pairs, max_pairs, take)
        visit.requests.append(job)
        self.enter(job, work=stop_at is None)  # who must be back in time leaves the work to other threads
        self._wait(desk, job, stop_at)
        visit.requests.remove(job)
        return lambda: None

    def job(
        self, pairs: PairSource, max_pairs: int | None, take: Take, on_end: Callable[[], object] | None = None
    ) -> Job:
        """Pairs as a request that `enter` takes."""
        max_tokens, _ = self._runner.max_tokens
        batches = plan_even_batches(pairs.lengths, max_tokens=max_tokens, max_pairs=max_pairs, lanes=self._count)
        return Job(pairs, batches, max_pairs, take, on_end)

    def enter(self, job: Job, *, work: bool = True) -> None:
        """Let a request wait for its turn; in a `visit`.

        Args:
            job: The request.
            work: Whether this thread may work, while a lane is free, until all of the request is under way.

        Raises:
            Overloaded: If too much waits.
            Closed: After `close`.
        """
        desk = self.desk
        visit = desk.here()
        with desk.guard.lock:
            desk.refuse_at_exit()
            desk.books().submit(job)
            free = self._count - len(desk.workers) if job.outcome is None else 0
            own = work and free > 0
            if own:
                desk.workers.add(visit)
            if free > own:
                for _ in range(min(free, sum(map(len, job.left.values()))) - own):
                    self._hire(desk)
        if own:
            self._work(desk, visit, job)

    def cancel(self, job: Job) -> None:
        """End a request now, if it has not ended; its place is free between batches."""
        self._end(job, "cancelled")

    def late(self, job: Job) -> None:
        """End a request as it is, because its time is up, if it has not ended."""
        self._end(job, "late")

    def _end(self, job: Job, outcome: Outcome) -> None:
        desk = self.desk

        def end() -> None:
            desk.books().end(job, outcome)
            desk.check_drained()

        desk.guard.hold(end)

    def learn(self) -> None:
        """Let the runner take notice of the work that was done; now and then that takes half a second."""
        self._runner.worked(self.desk.meter.unreported_s() / self._count)

    def close(self, *, finish: bool = True) -> None:
        """Take no more requests, and return when none is left.

        Args:
            finish: Whether waiting requests are worked through; False fails them with `Closed`.

        Raises:
            CrossrankError: In a signal handler that interrupted a call of its own thread.
        """
        self.desk.refuse_nested()
        desk = self._desks.close()
        latch = Lock()
        latch.acquire()
        desk.closing.add(latch)
        if not finish:
            error = Closed("the model was closed while this request waited")
            desk.guard.hold(partial(self._fail, desk, error))
        while not desk.drained:
            latch.acquire(timeout=_PATIENCE_S)
            self._mend(desk)
        desk.closing.discard(latch)

    def _fail(self, desk: Desk, error: Closed) -> None:
        """Fail all that waits. What runs as a whole has begun and is let end. Under the guard."""
        queue = desk.books()
        for request in list(queue.open.values()):
            if not request.aside:
                queue.end(request, "failed", error)
        desk.check_drained()

    def end_at_exit(self) -> None:
        """When the interpreter ends, of daemon threads' calls: fail what has not begun, and wait for what has."""
        desk = self.desk
        desk.ending = True
        desk.guard.hold(partial(self._fail, desk, closed_at_exit()))
        until = time.monotonic() + _EXIT_S
        while desk.busy and time.monotonic() < until:
            time.sleep(_EXIT_STEP_S)

    def _submit_whole(
        self, desk: Desk, visit: Visit[Any], pairs: PairSource, max_pairs: int | None, take: Take
    ) -> Callable[[], None]:
        tokens = int(pairs.lengths.sum())
        request = Request([(tokens, 1)] if tokens else [], max_pairs)
        visit.requests.append(request)
        with desk.guard.lock:
            desk.refuse_at_exit()
            queue = desk.books()
            alone = not queue.open
            queue.submit_whole(request, waits=self._lanes is None)
            if self._lanes is not None:
                desk.workers.add(visit)
        start = time.perf_counter()
        wait = self._runner.submit(pairs, max_pairs, take, alone=alone, between=desk.refuse_at_exit)

        def finish() -> None:
            wait()
            seconds = time.perf_counter() - start
            with desk.guard.lock:
                queue = desk.books()
                desk.meter.batch(tokens, tokens, seconds)
                queue.end(request, "done")
                desk.workers.discard(visit)
                if queue.waiting_tokens and len(desk.workers) < self._count:
                    self._hire(desk)
                desk.check_drained()
            visit.requests.remove(request)

        return finish

    def _wait(self, desk: Desk, job: Job, stop_at: float | None) -> None:
        """Until a request has ended, or its time is up. Raises what it failed with."""
        if job.outcome is None:
            self._wait_long(desk, job, stop_at)
        if job.error is not None:
            raise job.error
        if stop_at is None:  # learning takes longer than most deadlines leave
            self.learn()

    def _wait_long(self, desk: Desk, job: Job, stop_at: float | None) -> None:
        with desk.guard.lock:
            latch = job.latch()
        while job.outcome is None:
            left = _PATIENCE_S if stop_at is None else min(_PATIENCE_S, max(0.0, stop_at - time.perf_counter()))
            if latch.acquire(timeout=left):
                break
            if stop_at is not None and time.perf_counter() >= stop_at:
                self.late(job)
                break
            self._mend(desk)

    def _mend(self, desk: Desk) -> None:
        """Put right what others, or this thread's last call, left behind when an exception threw them out."""

        def mend() -> None:
            desk.clear()
            while desk.queue.waiting_tokens and len(desk.workers) < self._count and self._hire(desk):
                pass

        desk.guard.hold(mend)

    def _hire(self, desk: Desk) -> bool:
        """Give a free lane to a thread of a pool. Returns whether one could be had. Under the guard."""
        kinds = [worker.kind for worker in desk.workers]
        if self._lanes is not None and kinds.count("helper") < self._count - 1:
            pool, helper = self._lanes, Helper("helper")
        elif "spare" not in kinds:
            pool, helper = self._stand_in, Helper("spare")
        else:
            return False
        if not pool.submit(partial(self._help, desk, helper)):
            return False
        desk.workers.add(helper)  # or, where something came between, it finds that nobody counts on it
        return True

    def _help(self, desk: Desk, helper: Helper) -> None:
        with desk.guard.lock:
            counted = helper in desk.workers
        if not counted:
            return
        try:
            with desk.cores.stretch() as stay:
                self._work(desk, helper, None, stay)
        except BaseException:
            helper.over = True
            self._mend(desk)
            raise

    def _work(self, desk: Desk, worker: Worker, own: Job | None, between: Callable[[], None] = lambda: None) -> None:
        """Run batches on a lane: a caller's thread until all of its pairs are under way, others until none waits."""
        while True:
            with desk.guard.lock:
                queue = desk.books()
                batch = None
                # Others' pairs are left to another thread, if one can be had.
                if own is None or own.left or (queue.waiting_tokens and not self._hire(desk)):
                    batch = queue.next_batch(self._runner.max_tokens[0], worker)
                if batch is None:
                    desk.workers.discard(worker)
                    return
            self._run(desk, batch, worker)
            between()

    def _run(self, desk: Desk, batch: Batch, worker: Worker) -> None:
        failed: list[tuple[Request, Exception]] = []
        foreign: Exception | None = None
        start = time.perf_counter()
        try:
            self._serve(batch.pieces)
        except Exception as error:
            own = worker.requests if isinstance(worker, Visit) else []
            if own and all(piece.request in own for piece in batch.pieces):
                raise
            failed = self._run_apart(batch.pieces, error, thrown=bool(own))
            # A signal handler's, which is this thread's affair. What is ours was too much for all of them together.
            ours = not own or (isinstance(error, CrossrankError) and not raised_by_handler(error))
            foreign = None if failed or ours else error
        seconds = time.perf_counter() - start
        with desk.guard.lock:
            queue = desk.books()
            for request, its_own in failed:
                queue.end(request, "failed", its_own)
            queue.done(batch)
            desk.meter.batch(batch.tokens, batch.capacity, seconds)
            desk.check_drained()
        if foreign is not None:
            raise foreign

    def _serve(self, pieces: list[Piece]) -> None:
        hand_over(pieces, self._runner.session.run(pack(pieces)))

    def _run_apart(self, pieces: list[Piece], error: Exception, *, thrown: bool) -> list[tuple[Request, Exception]]:
        """Whose failure the exception of a batch was shows when each of its requests runs by itself.

        Args:
            pieces: The batch.
            error: What it failed with.
            thrown: Whether a signal handler may have raised it, and may raise another one.

        Returns:
            Those that fail.
        """
        if not thrown and all(piece.request is pieces[0].request for piece in pieces):
            return [(pieces[0].request, error)]
        failed: list[tuple[Request, Exception]] = []
        kind = type(error) if thrown else Exception
        for piece in pieces:
            try:
                self._serve([piece])
            except kind as its_own:
                failed.append((piece.request, its_own))
        return failed


# No WeakSet: that is cleaned by Python's code, in whatever thread, and loses what a signal handler raises there.
_alive: "dict[int, weakref.ref[Scheduler]]" = {}


@atexit.register
def _end_all() -> None:
    for reference in list(_alive.values()):
        scheduler = reference()
        if scheduler is not None:
            scheduler.end_at_exit()
