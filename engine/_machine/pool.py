"""Threads for work of ours, started as they are needed.

They are daemons: the interpreter does not wait for them when it ends. What they hold then is ended by `Scheduler`.
"""

import os
import weakref
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from queue import SimpleQueue
from threading import Thread
from typing import Any, TypeAlias, TypeVar

from crossrank._interrupts import not_thrown_in

from .guard import Guard
from .process import PerProcess

T = TypeVar("T")


class Pool:
    """Some threads that do jobs, in the order in which these come. Threads may share it.

    A thread that has nothing to do sleeps; it ends with the pool.

    Args:
        count: Most threads.
        name: What their names begin with.
    """

    def __init__(self, count: int, name: str = "crossrank") -> None:
        self._count, self._name = count, name
        self._crews = PerProcess(_Crew)

    def submit(self, job: Callable[[], T]) -> "Future[T]":
        """Do a job when a thread is free.

        Raises:
            RuntimeError: If no thread can be had: at the interpreter's end, or beyond the system's limit.
        """
        crew = self._crews[os.getpid()]
        future: Future[T] = Future()
        crew.guard.hold(partial(crew.add, partial(_do, job, future), self._count, self._name))
        return future

    def try_submit(self, job: Callable[[], T]) -> "Future[T] | None":
        """As `submit`; None where no thread can be had."""
        try:
            return self.submit(job)
        except not_thrown_in(RuntimeError) as error:
            if error.__context__ is not None:  # thrown into the start of a thread, which then released what it had not
                raise error.__context__ from None
            return None


# What a crew's thread takes from its queue: a job, or word that the crew is gone.
_Jobs: TypeAlias = "SimpleQueue[Callable[[], None] | weakref.ref[_Crew]]"


class _Crew:
    """The threads of one process."""

    def __init__(self) -> None:
        self.guard = Guard()
        self._jobs: _Jobs = SimpleQueue()
        self._threads: list[Thread] = []
        self._idle: list[None] = []  # an entry for each that waits, as they say themselves

    def add(self, job: Callable[[], None], count: int, name: str) -> None:
        """Have a job done. Under the guard."""
        if self._idle:
            self._idle.pop()
        elif len(self._threads) < count:
            name = f"{name}_{len(self._threads)}"
            # Compiled code tells each thread of the end: what a signal handler raises in a __del__ is lost.
            end = weakref.ref(self, self._jobs.put)
            thread = Thread(target=_serve, args=(self._jobs, self._idle, end), name=name, daemon=True)
            thread.start()
            self._threads.append(thread)
        self._jobs.put(job)


def _serve(jobs: _Jobs, idle: list[None], end: "weakref.ref[_Crew]") -> None:
    while not isinstance(job := jobs.get(), weakref.ref):
        job()
        del job  # or it would be kept until the next one comes
        idle.append(None)


def _do(job: Callable[[], Any], future: "Future[Any]") -> None:
    if future.set_running_or_notify_cancel():
        try:
            result = job()
        except BaseException as error:
            future.set_exception(error)
            del future  # or the error would keep itself, by its traceback
        else:
            future.set_result(result)
