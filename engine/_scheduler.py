"""The threads around the queue of requests: lanes take batches from it, callers wait for theirs.

A lane is a thread's right to run batches. Where one is free, a caller's own thread takes it and works until none of
its pairs is left to begin, so that a caller who is alone pays for no hand-over; a pool's threads take the others, and
go on until nothing waits. User code never runs inside a lane.

A device whose session plans by itself (a GPU), and a call that the runner gives all threads to (a single document on
an idle CPU), goes through the queue's books as a whole: it is counted, bounded and closed like any other.
"""

import time
from collections.abc import Callable
from functools import partial

from ._desk import Desk, Desks
from ._errors import Closed
from ._job import Job, hand_over, pack
from ._lanes import Lanes
from ._pairs import PairSource
from ._plan import plan_even_batches
from ._request import Batch, Outcome, Request
from ._runner import Runner, Take
from ._stats import OnCall, Stats


class Scheduler:
    """Runs the requests of many callers on one model. Threads may share it; a forked child begins anew.

    Args:
        runner: The graph.
        max_queue_tokens: Most tokens that may wait, or None.
        on_call: The user's hook, told of each call that has ended, or None.
    """

    def __init__(self, runner: Runner, *, max_queue_tokens: int | None = None, on_call: OnCall | None = None) -> None:
        self._runner, self._lanes = runner, runner.lanes
        self._count = 1 if self._lanes is None else self._lanes.count
        self._stand_in = Lanes(2)  # one thread besides the caller's
        self._desks = Desks(self._count, max_queue_tokens, on_call)

    @property
    def plans(self) -> bool:
        """Whether requests are cut into batches here, and not by the device's session."""
        return self._lanes is not None

    @property
    def bounded(self) -> bool:
        """Whether a full queue refuses requests."""
        return self.desk.queue.max_tokens is not None

    @property
    def desk(self) -> Desk:
        """What this process's callers share."""
        return self._desks.here()

    def stats(self) -> Stats:
        """What was done until now, and what waits."""
        desk = self.desk
        with desk.lock:
            requests, tokens = len(desk.queue.open), desk.queue.tokens
        return desk.meter.stats(requests, tokens)

    def submit(
        self, pairs: PairSource, max_pairs: int | None, take: Take, stop_at: float | None = None
    ) -> Callable[[], None]:
        """As `Runner.submit`, beside other callers.

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
        alone = stop_at is None and 2 * len(pairs.lengths) <= self._count and not desk.queue.open
        if self._lanes is None or alone:
            return self._submit_whole(desk, pairs, max_pairs, take)
        job = self.job(pairs, max_pairs, take)
        try:
            self.enter(job, work=stop_at is None)  # who must be back in time leaves the work to other threads
            self._wait(desk, job, stop_at)
        except BaseException as error:
            self.cancel(job, error)
            raise
        return lambda: None

    def job(
        self, pairs: PairSource, max_pairs: int | None, take: Take, on_end: Callable[[], object] | None = None
    ) -> Job:
        """Pairs as a request that `enter` takes."""
        max_tokens, _ = self._runner.max_tokens
        batches = plan_even_batches(pairs.lengths, max_tokens=max_tokens, max_pairs=max_pairs, lanes=self._count)
        return Job(pairs, batches, max_pairs, take, on_end)

    def enter(self, job: Job, *, work: bool = True) -> None:
        """Let a request wait for its turn.

        Args:
            job: The request.
            work: Whether this thread may work, while a lane is free, until all of the request is under way.

        Raises:
            Overloaded: If too much waits.
            Closed: After `close`.
        """
        desk = self.desk
        with desk.lock:
            desk.queue.submit(job)
            if job.outcome is not None:
                own = False
            else:
                own = work and desk.held < self._count
                desk.held += own
                for _ in range(min(self._count - desk.held, sum(map(len, job.left.values())) - own)):
                    self._hire(desk)
        if job.outcome is not None:
            job.tell()
        if own:
            self._work(desk, job)

    def cancel(self, job: Job, error: BaseException | None = None) -> None:
        """End a request now, if it has not ended; its place is free between batches."""
        self._end(job, "cancelled", error)

    def late(self, job: Job) -> bool:
        """End a request as it is, because its time is up. Returns whether it had not ended."""
        return self._end(job, "late", None)

    def _end(self, job: Job, outcome: Outcome, error: BaseException | None) -> bool:
        desk = self.desk
        with desk.lock:
            ended = desk.queue.end(job, outcome, error)
            desk.check_drained()
        if ended:
            job.tell()
        return ended

    def learn(self) -> None:
        """Let the runner take notice of the work that was done; now and then that takes half a second."""
        self._runner.worked(self.desk.meter.unreported_s() / self._count)

    def close(self, *, finish: bool = True) -> None:
        """Take no more requests, and return when none is left.

        Args:
            finish: Whether waiting requests are worked through; False fails them with `Closed`.
        """
        desk = self._desks.close()
        failed: list[Request] = []
        with desk.lock:
            if not finish:
                # What runs as a whole has begun and is let end.
                failed = [request for request in list(desk.queue.open.values()) if isinstance(request, Job)]
                for request in failed:
                    desk.queue.end(request, "failed", Closed("the model was closed while this request waited"))
            desk.check_drained()
        self._tell(failed)
        desk.drained.wait()

    def _submit_whole(self, desk: Desk, pairs: PairSource, max_pairs: int | None, take: Take) -> Callable[[], None]:
        tokens = int(pairs.lengths.sum())
        request = Request([(tokens, 1)] if tokens else [], max_pairs)
        lane = int(self._lanes is not None)
        with desk.lock:
            desk.queue.submit_whole(request, waits=not lane)
            desk.held += lane
        start = time.perf_counter()

        def end() -> None:
            desk.meter.batch(tokens, tokens, time.perf_counter() - start)
            with desk.lock:
                desk.queue.end(request, "done")
                desk.held -= lane
                if lane and desk.queue.waiting_tokens and desk.held < self._count:
                    self._hire(desk)
                desk.check_drained()

        try:
            wait = self._runner.submit(pairs, max_pairs, take)
        except BaseException:
            end()
            raise

        def finish() -> None:
            try:
                wait()
            finally:
                end()

        if lane:
            finish()
            return lambda: None
        return finish

    def _wait(self, desk: Desk, job: Job, stop_at: float | None) -> None:
        """Until a request has ended, or its time is up. Raises what it failed with."""
        with desk.lock:
            latch = job.latch() if job.outcome is None else None
        if latch is not None:
            left = -1 if stop_at is None else max(0.0, stop_at - time.perf_counter())
            if not latch.acquire(timeout=left):
                self.late(job)
        if job.error is not None:
            raise job.error
        if stop_at is None:  # learning takes longer than most deadlines leave
            self.learn()

    def _hire(self, desk: Desk) -> bool:
        """Give a free lane to a thread of a pool. Returns whether one could be had. Under the lock."""
        if self._lanes is not None and desk.helpers < self._count - 1:
            pool, spare = self._lanes, False
        elif not desk.spare:
            pool, spare = self._stand_in, True
        else:
            return False
        hired: list[bool] = []
        if not pool.submit(partial(self._help, desk, spare, hired)):
            return False
        hired.append(True)
        desk.held += 1
        desk.helpers += not spare
        desk.spare = desk.spare or spare
        return True

    def _help(self, desk: Desk, spare: bool, hired: list[bool]) -> None:
        with desk.lock:
            counted = bool(hired)  # a pool that could not start a thread refuses, and yet keeps the work for later
        if counted:
            with desk.cores.stretch() as stay:
                self._work(desk, None, spare, stay)

    def _work(
        self, desk: Desk, own: Job | None, spare: bool = False, between: Callable[[], None] = lambda: None
    ) -> None:
        """Run batches on a lane: a caller's thread until all of its pairs are under way, others until none waits."""
        batch: Batch | None = None
        leaving = False
        try:
            while True:
                with desk.lock:
                    if own is not None and not own.left:
                        # Others' pairs are left to another thread, if one can be had.
                        desk.held -= 1
                        leaving = not desk.queue.waiting_tokens or self._hire(desk)
                        desk.held += 1
                    batch = None if leaving else desk.queue.next_batch(self._runner.max_tokens[0])
                    if batch is None:
                        leaving = True
                        desk.leave(helper=own is None, spare=spare)
                        return
                self._run(desk, batch)
                between()
        finally:
            if not leaving:  # interrupted
                with desk.lock:
                    if batch is not None:
                        desk.queue.put_back(batch)
                    desk.leave(helper=own is None, spare=spare)
                    if desk.queue.waiting_tokens:
                        self._hire(desk)

    def _run(self, desk: Desk, batch: Batch) -> None:
        failed: list[tuple[Request, Exception]] = []
        start = time.perf_counter()
        pieces = batch.pieces
        try:
            logits = self._runner.session.run(pack(pieces))
        except Exception as error:
            if all(piece.request is pieces[0].request for piece in pieces):
                failed.append((pieces[0].request, error))
            else:  # which of them it was shows when each runs by itself
                for piece in pieces:
                    try:
                        hand_over([piece], self._runner.session.run(pack([piece])), failed)
                    except Exception as its_own:
                        failed.append((piece.request, its_own))
        else:
            hand_over(pieces, logits, failed)
        desk.meter.batch(batch.tokens, batch.capacity, time.perf_counter() - start)
        with desk.lock:
            ended = [request for request, error in failed if desk.queue.end(request, "failed", error)]
            ended += desk.queue.done(batch)
            desk.check_drained()
        self._tell(ended)

    def _tell(self, ended: list[Request]) -> None:
        for request in ended:
            if isinstance(request, Job):
                request.tell()
