"""Several threads that work through one list; what is worked on is left to others."""

from collections.abc import Callable, Iterable
from concurrent.futures import Future, wait

from ._pool import Pool

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
            return []
