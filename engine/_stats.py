"""What a model was asked for and what that took: counted here, read by `CrossEncoder.stats` and by the user's hook."""

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Lock
from typing import Literal, get_args

from ._errors import Closed, Overloaded

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
        waiting_requests: Calls, or parts of 4,096 documents of them, that wait or run now.
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


class Meter:
    """Counts what happens in one process.

    Args:
        on_call: The user's hook, or None.
    """

    def __init__(self, on_call: OnCall | None = None) -> None:
        self._on_call, self._lock = on_call, Lock()
        self._endings: dict[Ending, int] = dict.fromkeys(get_args(Ending), 0)
        self._documents = self._truncated = self._tokens = self._without_score = self._batches = self._capacity = 0
        self._tokenizing_s = self._model_s = self._reported_s = 0.0

    @contextmanager
    def call(self, documents: int) -> Iterator[Account]:
        """Count a call that runs inside the ``with``, and tell the user's hook when it has ended."""
        account, start = Account(documents), time.perf_counter()
        ending: Ending = "failed"
        try:
            yield account
            ending = "late" if account.unscored else "done"
        except (Overloaded, Closed):
            ending = "rejected"
            raise
        except Exception:
            raise
        except BaseException:  # of asyncio, which is not imported here; or of a user who interrupts the program
            ending = "cancelled"
            raise
        finally:
            seconds = time.perf_counter() - start
            record = CallRecord(
                ending,
                documents,
                account.unscored,
                account.truncated,
                account.tokens,
                seconds,
                account.tokenizing_s,
            )
            self._end(record, account.without_score)

    def batch(self, tokens: int, capacity: int, seconds: float) -> None:
        """Count a batch that has run."""
        with self._lock:
            self._batches += 1
            self._tokens += tokens
            self._capacity += capacity
            self._model_s += seconds

    def unreported_s(self) -> float:
        """Seconds in the model since the last time that this was asked."""
        with self._lock:
            seconds = self._model_s - self._reported_s
            self._reported_s = self._model_s
            return seconds

    def stats(self, waiting_requests: int, waiting_tokens: int) -> Stats:
        """The sums until now."""
        with self._lock:
            endings = self._endings
            return Stats(
                requests=sum(endings.values()),
                documents=self._documents,
                truncated=self._truncated,
                tokens=self._tokens,
                late=endings["late"],
                failed=endings["failed"],
                cancelled=endings["cancelled"],
                rejected=endings["rejected"],
                without_score=self._without_score,
                waiting_requests=waiting_requests,
                waiting_tokens=waiting_tokens,
                batches=self._batches,
                batch_fill=self._tokens / self._capacity if self._capacity else 0.0,
                tokenizing_s=self._tokenizing_s,
                model_s=self._model_s,
            )

    def _end(self, record: CallRecord, without_score: int) -> None:
        with self._lock:
            self._endings[record.ending] += 1
            if record.ending in ("done", "late"):
                self._documents += record.documents - record.unscored
                self._truncated += record.truncated
            self._tokenizing_s += record.tokenizing_s
            self._without_score += without_score
        logger.debug("a call ended: %s", record)
        if self._on_call is not None:
            try:
                self._on_call(record)
            except Exception:  # the caller has its scores
                logger.warning("on_call failed for a call that was %s", record.ending, exc_info=True)
