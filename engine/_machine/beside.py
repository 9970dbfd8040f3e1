"""Work on a thread of its own, beside what its caller does meanwhile."""

from collections.abc import Callable
from concurrent.futures import Future
from threading import Thread
from typing import TypeVar

from crossrank._interrupts import not_thrown_in

T = TypeVar("T")


def beside(work: Callable[[], T]) -> Callable[[], T]:
    """Begin some work that is mostly compiled code, in which other threads go on.

    The interpreter waits for it when it ends: it would take a daemon from under that code. Where no thread can be had,
    the work is done when its result is asked for.

    Returns:
        What waits for the work, and gives its result or raises what it raised.

    >>> beside(lambda: 1 + 1)()
    2
    """
    future: Future[T] = Future()

    def run() -> None:
        try:
            future.set_result(work())
        except BaseException as error:  # a panic of Rust's too
            future.set_exception(error)

    try:
        Thread(target=run, name="crossrank-beside", daemon=False).start()
    except not_thrown_in(RuntimeError):
        return work
    return future.result
