"""`AsyncCrossEncoder`: the calls of `CrossEncoder` for asyncio.

Tokenizing and the model run on threads, never on the event loop. A call that finds the engine idle is worked on by the
thread that has tokenized it; the others wait in the model's queue, where they take no thread. A call without a deadline
that clearly finds the queue full takes none either.
"""

import asyncio
import contextlib
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Concatenate, ParamSpec, TypeVar

from ._artifact.origin import EMBEDDED_MODEL
from ._attributes import KnownAttributes, load_again
from ._calls.call import Call, Calls, present
from ._calls.deadline import Deadline
from ._cross_encoder import CrossEncoder
from ._errors import Closed, InputError, Overloaded
from ._machine.pool import Pool
from ._schedule.chunk import Chunk
from ._schedule.meter import Stats
from ._text.encoded import EncodedDocuments

P = ParamSpec("P")
T = TypeVar("T")

# Of a model that is loaded here. Some seconds of a GPU's work, a minute of a small CPU's; 16 MB.
MAX_QUEUE_TOKENS = 1_000_000
# Beside those that may be at work as lanes, so that a large call's tokenizing keeps no small one waiting.
_TOKENIZING_THREADS = 4


def _awaited(
    method: Callable[Concatenate[Calls, P], Call[T]],
) -> Callable[[Callable[..., None]], Callable[Concatenate["AsyncCrossEncoder", P], Coroutine[Any, Any, T]]]:
    """Put in a name's place a method of `Calls` whose result is awaited."""

    async def run(self: "AsyncCrossEncoder", /, *args: P.args, **options: P.kwargs) -> T:
        return await self._run(method(self.model._calls, *args, **options))

    present(run, method, "AsyncCrossEncoder")
    return lambda name: run


class AsyncCrossEncoder(KnownAttributes):
    """A cross-encoder for asyncio: `score`, `rank` and `predict` as in `CrossEncoder`, to be awaited.

    A task that is cancelled frees its place between batches. A pickle holds the model's; a copy drives the same model.

    Args:
        model: A `CrossEncoder`, which threads may go on using; or what it loads, by name or folder.
        options: Of `CrossEncoder`, where it is loaded here; ``max_queue_tokens`` is then 1,000,000 unless given.

    Attributes:
        model: The `CrossEncoder`.

    Raises:
        InputError: If options come with a `CrossEncoder`, which has its own.
        CrossrankError: If the model cannot be loaded, as `CrossEncoder` raises it.

    >>> async with AsyncCrossEncoder("ms-marco-MiniLM-L6-v2") as model:  # doctest: +SKIP
    ...     hits = await model.rank(query, documents, top_k=10)
    """

    model: CrossEncoder
    _assigned = frozenset({"model"})
    _made = frozenset({"model", "_closed", "_pool"})
    _driven = ("model", CrossEncoder)

    def __init__(self, model: CrossEncoder | str | Path = EMBEDDED_MODEL, **options: Any) -> None:
        if isinstance(model, CrossEncoder):
            if options:
                raise InputError(f"{', '.join(options)}: the CrossEncoder that was passed has its options already")
            self.model = model
        else:
            self.model = CrossEncoder(model, **{"max_queue_tokens": MAX_QUEUE_TOKENS} | options)
        self._closed = False
        count = self.model._model.threads.count + _TOKENIZING_THREADS
        self._pool = Pool(count, "crossrank-async")

    @_awaited(Calls.score)
    def score() -> None:
        """As `Calls.score`."""

    @_awaited(Calls.rank)
    def rank() -> None:
        """As `Calls.rank`."""

    @_awaited(Calls.predict)
    def predict() -> None:
        """As `Calls.predict`."""

    def stats(self) -> Stats:
        """As `CrossEncoder.stats`; calls of threads that use the model are in it too."""
        return self.model.stats()

    async def close(self, *, finish: bool = True) -> None:
        """Close the model, as `CrossEncoder.close`, and return when no call is left."""
        self._closed = True
        await self._in_thread(partial(self.model.close, finish=finish))

    def __reduce__(self) -> tuple[Any, ...]:
        return load_again, (type(self), AsyncCrossEncoder, (self.model,), {}), self.__getstate__()

    async def __aenter__(self) -> "AsyncCrossEncoder":
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close(finish=error is None)

    async def _run(self, call: Call[T]) -> T:
        model, steps = self.model, _Steps(call.deadline)
        scheduler = model._scorer.scheduler
        with scheduler.meter.call(len(call.pairs.documents)) as account:
            if self._closed:
                raise Closed("the model is closed: it takes no more requests; load it again")
            run = model._begin(call, account, steps.tell)
            try:
                if not isinstance(call.pairs.documents, EncodedDocuments):
                    run.take_place(call.pairs.documents)  # a full queue refuses here, without a thread
                while not run.read:
                    chunk = await steps.next(self._pool.submit(run.step))
                    if chunk is None:
                        break
                    if chunk.error is not None:
                        raise chunk.error
            except _Late:
                run.give_up("late")
            except (Overloaded, Closed) as error:
                run.refused(error)
            except BaseException:  # it was cancelled, or a signal handler has interrupted the loop here
                run.give_up("cancelled")
                raise
            finally:
                run.give_back()
            return call.finish(run.found())

    def _in_thread(self, work: Callable[[], T]) -> "asyncio.Future[T]":
        return asyncio.wrap_future(self._pool.submit(work))


class _Late(Exception):
    """The deadline has passed."""


class _Steps:
    """The steps of a call, each of which a thread takes; a task waits until the chunk that it reads has been computed.

    Whichever comes last, the thread's return or the chunk's end, wakes the task: the event loop is asked once.

    Args:
        deadline: When to wait no more, or None.
    """

    def __init__(self, deadline: Deadline | None) -> None:
        self._loop, self._deadline = asyncio.get_running_loop(), deadline
        self._step: Future[Chunk | None] | None = None
        self._woken: asyncio.Future[None] | None = None
        self._late = False

    async def next(self, step: "Future[Chunk | None]") -> Chunk | None:
        """What a step has read, when that has ended.

        Raises:
            _Late: If the deadline came first.
            Exception: What the step failed with.
        """
        self._step = step
        step.add_done_callback(self.tell)
        timer = None
        try:
            if self._deadline is not None:
                timer = self._loop.call_later(max(0.0, self._deadline.left_s()), self._time_is_up)
            while not self._ended:
                self._woken = self._loop.create_future()
                await self._woken
                if self._late and not self._ended:
                    raise _Late
            return step.result()
        finally:
            if timer is not None:
                timer.cancel()

    def tell(self, step: object = None) -> None:
        """A step or a chunk has ended; from any thread."""
        if self._ended:
            with contextlib.suppress(RuntimeError):  # of a loop that is closed: nobody waits any more
                self._loop.call_soon_threadsafe(self._wake)

    @property
    def _ended(self) -> bool:
        step = self._step
        if step is None or not step.done():
            return False
        return step.exception() is not None or (chunk := step.result()) is None or chunk.outcome is not None

    def _time_is_up(self) -> None:
        self._late = True
        self._wake()

    def _wake(self) -> None:
        if self._woken is not None and not self._woken.done():
            self._woken.set_result(None)
