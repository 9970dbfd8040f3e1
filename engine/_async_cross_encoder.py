"""`AsyncCrossEncoder`: the calls of `CrossEncoder` for asyncio.

Tokenizing and the model run on threads, never on the event loop. A call that finds the engine idle is worked on by the
thread that has tokenized it; the others wait in the model's queue, where they take no thread. A call without a deadline
that clearly finds the queue full takes none either.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Coroutine
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Concatenate, ParamSpec, TypeVar

from ._artifact.origin import EMBEDDED_MODEL
from ._attributes import KnownAttributes, load_again
from ._calls.call import Call, Calls, present
from ._calls.deadline import Deadline
from ._calls.run import Run
from ._cross_encoder import CrossEncoder
from ._errors import Closed, InputError, Overloaded
from ._machine.pool import Pool
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
        model, loop, ended = self.model, asyncio.get_running_loop(), asyncio.Event()

        def tell() -> None:
            with contextlib.suppress(RuntimeError):  # of a loop that is closed: nobody waits any more
                loop.call_soon_threadsafe(ended.set)

        scheduler = model._scorer.scheduler
        with scheduler.meter.call(len(call.pairs.documents)) as account:
            if self._closed:
                raise Closed("the model is closed: it takes no more requests; load it again")
            run = model._begin(call, account, tell)
            if not isinstance(call.pairs.documents, EncodedDocuments):
                run.require_room(call.pairs.documents)  # a full queue refuses here, without a thread
            try:
                await self._drive(run, call.deadline, ended)
            except (Overloaded, Closed) as error:
                run.refused(error)
            except BaseException:  # it was cancelled, or a signal handler has interrupted the loop here
                run.give_up("cancelled")
                raise
            return call.finish(run.found())

    async def _drive(self, run: Run, deadline: Deadline | None, ended: asyncio.Event) -> None:
        """Have a call's chunks computed, one after the other, or as many as its deadline lets it."""
        while True:
            step = self._in_thread(run.step)
            if not await _in_time(step, deadline):
                break
            chunk = step.result()
            if chunk is None:
                return
            while chunk.outcome is None and await _in_time(ended.wait(), deadline):
                ended.clear()
            if chunk.error is not None:
                raise chunk.error
            if chunk.outcome is None:
                break
        run.give_up("late")

    def _in_thread(self, work: Callable[[], T]) -> "asyncio.Future[T]":
        return asyncio.wrap_future(self._pool.submit(work))


async def _in_time(awaited: "Awaitable[Any]", deadline: Deadline | None) -> bool:
    """Wait for something, or for the deadline. Returns whether it was in time."""
    if deadline is None:
        await awaited
        return True
    future = asyncio.ensure_future(awaited)
    future.add_done_callback(_forget)
    done, _ = await asyncio.wait({future}, timeout=max(0.0, deadline.left_s()))
    if not done and asyncio.iscoroutine(awaited):
        future.cancel()  # of a thread's work nobody waits, and that ends by itself
    return bool(done)


def _forget(future: "asyncio.Future[Any]") -> None:
    """Let nobody miss the error of what nobody waits for."""
    if not future.cancelled():
        future.exception()
