"""A process of its own for each engine, driven one call at a time.

Thread pools in one process fight for its cores; here the engine that is not called sleeps. The time of
a call is taken inside the process, so what travels through the pipe is not in it.
"""

import os
import time
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Any, Self

from ._engines import Engine, Floats, Opener

_PAUSE_S = 0.02  # idle threads spin for some milliseconds after a call before they sleep


class WorkerError(RuntimeError):
    """An engine could not be opened, failed, or its process ended."""


@dataclass(frozen=True, slots=True)
class Call:
    """What one call gave: float32 [documents], and how long it took."""

    scores: Floats
    seconds: float


class Worker:
    """An engine in its own process; a context manager, which ends the process.

    Args:
        opener: Opens the engine there; it must be picklable.
        threads: Threads that its libraries may use.

    Raises:
        WorkerError: If the engine cannot be opened.
    """

    def __init__(self, opener: Opener, *, threads: int) -> None:
        context = get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, opener, threads), daemon=True)
        self._process.start()
        theirs.close()
        self.facts: dict[str, str]
        self.versions: dict[str, str]
        self.facts, self.versions = self._receive()

    def score(self, query: str, documents: tuple[str, ...]) -> Call:
        """Make one call, when the threads of the worker before have gone to sleep.

        Raises:
            WorkerError: If it fails.
        """
        time.sleep(_PAUSE_S)
        self._pipe.send((query, documents))
        return Call(*self._receive())

    def _receive(self) -> tuple[Any, Any]:
        try:
            reply = self._pipe.recv()
        except EOFError:
            self._process.join()
            raise WorkerError(f"the engine's process ended with exit code {self._process.exitcode}") from None
        if isinstance(reply, WorkerError):
            raise reply
        first, second = reply
        return first, second

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._pipe.close()  # the process sees the end of its input
        self._process.join(timeout=10)
        self._process.kill()


def _serve(pipe: Connection, opener: Opener, threads: int) -> None:
    # Before the libraries start their pools: the tokenizers' is Rayon's, torch's is OpenMP's.
    os.environ |= dict.fromkeys(("RAYON_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"), str(threads))
    try:
        engine: Engine = opener()
        pipe.send((engine.facts, engine.versions))
        while True:
            query, documents = pipe.recv()
            start = time.perf_counter()
            scores = engine.score(query, documents)
            pipe.send((scores, time.perf_counter() - start))
    except (EOFError, KeyboardInterrupt):
        return
    except Exception as error:
        pipe.send(WorkerError(f"{type(error).__name__}: {error}"))
