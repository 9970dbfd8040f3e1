"""`AsyncCrossEncoder`: the calls of `CrossEncoder` for asyncio.

Tokenizing and the model run on threads, never on the event loop. A call that finds the engine idle is worked on by the
thread that has tokenized it; the others wait in the model's queue, where they take no thread. A call without a deadline
that clearly finds the queue full takes none either.
"""

import asyncio
from collections.abc import Callable, Collection, Iterable
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar, Unpack

import numpy as np
from numpy.typing import NDArray

from ._activation import Activation
from ._async_step import Step
from ._attributes import KnownAttributes
from ._calls import Call
from ._compatibility import PredictOptions, RankOptions
from ._cross_encoder import CrossEncoder
from ._encoded import EncodedDocument, EncodedDocuments
from ._errors import Closed, InputError, Overloaded
from ._locate import EMBEDDED_MODEL
from ._outputs import Ranking
from ._pool import Pool
from ._stats import Stats

T = TypeVar("T")
Floats = NDArray[np.float32]

# Of a model that is loaded here. Some seconds of a GPU's work, a minute of a small CPU's; 16 MB.
MAX_QUEUE_TOKENS = 1_000_000
# Beside those that may be at work as lanes, so that a large call's tokenizing keeps no small one waiting.
_TOKENIZING_THREADS = 4


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
    _driven = ("model", CrossEncoder)

    def __init__(self, model: CrossEncoder | str | Path = EMBEDDED_MODEL, **options: Any) -> None:
        if isinstance(model, CrossEncoder):
            if options:
                raise InputError(f"{', '.join(options)}: the CrossEncoder that was passed has its options already")
            self.model = model
        else:
            self.model = CrossEncoder(model, **{"max_queue_tokens": MAX_QUEUE_TOKENS} | options)
        self._closed = False
        count = self.model._scorer.runner.threads.count + _TOKENIZING_THREADS
        self._pool = Pool(count, "crossrank-async")

    async def score(self, query: str, documents: Iterable[str | EncodedDocument]) -> Floats:
        """As `CrossEncoder.score`."""
        return await self._run(self.model._calls.score(query, documents))

    async def rank(
        self,
        query: str,
        documents: Iterable[str | EncodedDocument],
        top_k: int | None = None,
        return_documents: bool = False,
        *,
        batch_size: int | None = None,
        show_progress_bar: bool | None = None,
        activation_fn: Activation | None = None,
        max_windows: int | None = None,
        window_overlap: int = 0,
        deadline_ms: float | None = None,
        **others: Unpack[RankOptions],
    ) -> Ranking:
        """As `CrossEncoder.rank`."""
        call = self.model._calls.rank(
            query,
            documents,
            top_k,
            return_documents,
            batch_size=batch_size,
            show_progress_bar=show_progress_bar,
            activation_fn=activation_fn,
            max_windows=max_windows,
            window_overlap=window_overlap,
            deadline_ms=deadline_ms,
            others=others,
        )
        return await self._run(call)

    async def predict(
        self,
        inputs: Collection[Any] | None = None,
        *,
        batch_size: int | None = None,
        show_progress_bar: bool | None = None,
        activation_fn: Activation | None = None,
        apply_softmax: bool | None = False,
        convert_to_numpy: bool = True,
        convert_to_tensor: bool = False,
        **others: Unpack[PredictOptions],
    ) -> Any:
        """As `CrossEncoder.predict`."""
        call = self.model._calls.predict(
            inputs,
            batch_size=batch_size,
            show_progress_bar=show_progress_bar,
            activation_fn=activation_fn,
            apply_softmax=apply_softmax,
            convert_to_numpy=convert_to_numpy,
            convert_to_tensor=convert_to_tensor,
            others=others,
        )
        return await self._run(call)

    def stats(self) -> Stats:
        """As `CrossEncoder.stats`; calls of threads that use the model are in it too."""
        return self.model.stats()

    async def close(self, *, finish: bool = True) -> None:
        """Close the model, as `CrossEncoder.close`, and return when no call is left."""
        self._closed = True
        await self._in_thread(partial(self.model.close, finish=finish))

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.model,)

    async def __aenter__(self) -> "AsyncCrossEncoder":
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close(finish=error is None)

    async def _run(self, call: Call[T]) -> T:
        with self.model._scheduler.desk.meter.call(len(call.pairs.documents)) as account:
            if self._closed:
                raise Closed("the model is closed: it takes no more requests; load it again")
            work = self.model._work(call, account)
            if not isinstance(call.pairs.documents, EncodedDocuments):
                work.require_room(call.pairs.documents)  # a full queue refuses here, without a thread
            try:
                while await Step(self.model._scheduler, work, call.batch_size).run(self._in_thread):
                    pass
            except (Overloaded, Closed) as error:
                work.refused(error)
            return call.finish(work.finish())

    def _in_thread(self, work: Callable[[], T]) -> "asyncio.Future[T]":
        return asyncio.wrap_future(self._pool.submit(work))
