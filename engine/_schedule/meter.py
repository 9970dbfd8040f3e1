"""The meter of a model: what it was asked for and what that took, for `CrossEncoder.stats` and the user's hook."""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import Literal, NamedTuple, get_args

from crossrank._errors import Closed, Overloaded
from crossrank._interrupts import raised_by_handler
from crossrank._machine.guard import Guard

logger = logging.getLogger(__name__)

Ending = Literal["done", "late", "failed", "cancelled", "rejected"]


@dataclass(frozen=True, slots=True)
class CallRecord:
    """One call as it ended. Nothing of its texts is in it.

    Attributes:
        ending: "done"; "late": it came back at its deadline, without the scores of some; "failed" with an error;
            "cancelled" by its caller; or "rejected": `Overloaded` or `Closed`.
        documents: How many it had.
        unscored: How many of them a deadline left without a score.
        truncated: How many of the others the model did not read to their end.
        tokens: Of the pairs that were to be computed; the same pair counts once.
        seconds: From the call to its end.
        tokenizing_s: Seconds of it spent on tokenizing.
    """

    ending: Ending
    documents: int
    unscored: int
    truncated: int
    tokens: int
    seconds: float
    tokenizing_s: float


@dataclass(frozen=True, slots=True)
class Stats:
    """Sums since the model was loaded, in a forked child since the fork, and what waits now.

    Attributes:
        requests: Calls that have ended, whatever way.
        documents: Documents that got their scores.
        truncated: Those of them that the model did not read to their end.
        tokens: Tokens of pairs that the model has computed.
        late: Calls that came back at their deadline, without the scores of some documents.
        failed: Calls that ended with an error.
        cancelled: Calls that their callers gave up.
        rejected: Calls that were not taken in, `Overloaded` or `Closed`.
        without_score: Documents for which the model gave NaN.
        waiting_requests: Calls, or parts of up to 4,096 documents of them, that wait or run now.
        waiting_tokens: Tokens that are in no batch yet, those expected of texts that are being tokenized among them.
        batches: Batches that have run.
        batch_fill: Of the places in them, in tokens, the share that was taken; 0 before the first one.
        tokenizing_s: Seconds of all threads spent on tokenizing.
        model_s: Seconds of all lanes spent in the model.
    """

    requests: int
    documents: int
    truncated: int
    tokens: int
    late: int
    failed: int
    cancelled: int
    rejected: int
    without_score: int
    waiting_requests: int
    waiting_tokens: int
    batches: int
    batch_fill: float
    tokenizing_s: float
    model_s: float


OnCall = Callable[[CallRecord], object]


@dataclass(slots=True)
class Account:
    """One call while it is under way."""

    documents: int
    tokens: int = 0
    tokenizing_s: float = 0.0
    without_score: int = 0
    truncated: int = 0
    unscored: int = 0


class _OfCalls(NamedTuple):
    """Sums over calls that have ended; a new one takes the place of the last, so that they are never half added."""

    endings: dict[Ending, int]
    documents: int = 0
    truncated: int = 0
    without_score: int = 0
    tokenizing_s: float = 0.0


class _OfBatches(NamedTuple):
    """Sums over batches that have run, likewise."""

    batches: int = 0
    tokens: int = 0
    capacity: int = 0
    model_s: float = 0.0


class Meter:
    """Counts what happens in one process.

    Args:
        guard: Held by who counts.
        on_call: The user's hook, or None.

    Attributes:
        open: The calls under way, of whatever thread or event loop.
    """

    def __init__(self, guard: Guard, on_call: OnCall | None = None) -> None:
        self._guard, self._on_call = guard, on_call
        self._calls, self._batches = _OfCalls(dict.fromkeys(get_args(Ending), 0)), _OfBatches()
        self._reported_s = 0.0
        self.open: set[int] = set()

    def call(self, documents: int) -> "_Metered":
        """Count a call that runs inside the ``with``, and tell the user's hook when it has ended."""
        return _Metered(self, documents)

    def batch(self, tokens: int, capacity: int, seconds: float) -> None:
        """Count a batch that has run. Under the guard."""
        before = self._batches
        self._batches = _OfBatches(
            before.batches + 1, before.tokens + tokens, before.capacity + capacity, before.model_s + seconds
        )

    def unreported_s(self) -> float:
        """Seconds in the model since the last time that this was asked; two threads at once may both be told some."""
        model_s = self._batches.model_s
        before, self._reported_s = self._reported_s, model_s
        return model_s - before

    def stats(self, waiting_requests: int, waiting_tokens: int) -> Stats:
        """The sums until now."""
        calls, batches = self._calls, self._batches
        endings = calls.endings
        return Stats(
            requests=sum(endings.values()),
            documents=calls.documents,
            truncated=calls.truncated,
            tokens=batches.tokens,
            late=endings["late"],
            failed=endings["failed"],
            cancelled=endings["cancelled"],
            rejected=endings["rejected"],
            without_score=calls.without_score,
            waiting_requests=waiting_requests,
            waiting_tokens=waiting_tokens,
            batches=batches.batches,
            batch_fill=batches.tokens / batches.capacity if batches.capacity else 0.0,
            tokenizing_s=calls.tokenizing_s,
            model_s=batches.model_s,
        )

    def end(self, record: CallRecord, without_score: int) -> None:
        """Count a call that has ended, and tell of it."""
        try:
            self._guard.hold(partial(self._count, record, without_score))
        finally:
            self._tell(record)

    def _count(self, record: CallRecord, without_score: int) -> None:
        before, taken = self._calls, record.ending in ("done", "late")
        self._calls = _OfCalls(
            before.endings | {record.ending: before.endings[record.ending] + 1},
            before.documents + taken * (record.documents - record.unscored),
            before.truncated + taken * record.truncated,
            before.without_score + without_score,
            before.tokenizing_s + record.tokenizing_s,
        )

    def _tell(self, record: CallRecord) -> None:
        logger.debug("a call ended: %s", record)
        if self._on_call is not None:
            try:
                self._on_call(record)
            except Exception as error:  # the caller has its scores
                if raised_by_handler(error):
                    raise
                logger.warning("on_call failed for a call that was %s", record.ending, exc_info=True)


class _Metered:
    """The ``with`` around a call."""

    def __init__(self, meter: Meter, documents: int) -> None:
        self._meter, self._account, self._start = meter, Account(documents), time.perf_counter()

    def __enter__(self) -> Account:
        self._meter.open.add(id(self))
        return self._account

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        seconds, account = time.perf_counter() - self._start, self._account
        ending: Ending = "late" if account.unscored else "done"
        if kind is not None:
            # What is no Exception is asyncio's, which is not imported here, or of a user who interrupts the program.
            ending = "failed" if issubclass(kind, Exception) else "cancelled"
            ending = "rejected" if issubclass(kind, Overloaded | Closed) else ending
        record = CallRecord(
            ending,
            account.documents,
            account.unscored,
            account.truncated,
            account.tokens,
            seconds,
            account.tokenizing_s,
        )
        self._meter.open.discard(id(self))
        self._meter.end(record, account.without_score)
