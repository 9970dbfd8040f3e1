"""A lock for threads that a signal handler's exception may throw out of any line.

Python runs signal handlers in the main thread between two instructions, and what they raise (a worker's time limit,
Ctrl-C) lands there: also between taking a lock and the ``with`` that would release it, in Python 3.14 in as plain a
``with lock:`` as there is. So here the lock itself knows who holds it, and whoever leaves by an exception asks it.
What was half done inside is for its users to mend: see `ChunkQueue.torn`.
"""

from collections.abc import Callable, Generator
from threading import RLock, get_ident
from typing import Any, Generic, TypeVar

from crossrank._errors import CrossrankError

T = TypeVar("T")


class Guard:
    """A lock whose holder may be thrown out.

    Attributes:
        lock: To be taken by ``with``, by who calls `let_go` when an exception passes; the others `hold`.
    """

    def __init__(self) -> None:
        self.lock: Any = RLock()  # since that one knows its owner; it is not taken twice

    @property
    def owned(self) -> bool:
        """Whether this thread holds it; in a signal handler, whether the thread does that the handler interrupted."""
        owned: bool = self.lock._is_owned()  # what `threading.Condition` asks of any lock
        return owned

    def hold(self, step: Callable[[], T]) -> T:
        """Do something while no other thread does.

        Raises:
            CrossrankError: In a signal handler that interrupted its own thread in here.
        """
        self.refuse_nested()
        try:
            with self.lock:
                return step()
        except BaseException:
            self.let_go()
            raise

    def let_go(self) -> None:
        """Release the lock, should this thread still hold it."""
        while self.owned:
            self.lock.release()

    def refuse_nested(self) -> None:
        """Raise `CrossrankError` if this thread holds it, which then waits for this very call."""
        if self.owned:
            raise nested_call()


class Visit(Generic[T]):
    """What a thread does somewhere, from its first step to its last.

    It runs as a generator, since of a generator the interpreter knows whether it runs: no exception, wherever it comes,
    leaves that untrue. It writes itself down when it runs, so that one that is written down and does not is over.

    Args:
        visits: Where, by thread.
        work: All of it.

    Attributes:
        holds: What ends with it.
    """

    kind = "caller"

    def __init__(self, visits: "dict[int, Visit[Any]]", work: Callable[[], T]) -> None:
        self.holds: list[Any] = []
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


def nested_call() -> CrossrankError:
    """What a call is refused with that a signal handler makes inside a call of its own thread."""
    return CrossrankError(
        "this thread is inside a call of this model already, which would wait for itself: in a signal handler only "
        "stats() may be called; let the handler set a flag, and call or close the model after that call has returned, "
        "or on another thread"
    )
