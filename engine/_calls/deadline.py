"""The deadline of a call: it goes on in steps of documents, each expected to take half of the time that is left.

So what was scored is the beginning of the list, up to the last step's documents. The rate is the call's own, with its
tokenizing and its waiting for others, so that it holds on a busy machine too. What a step takes beyond the deadline is
cut off between batches by the scheduler.
"""

import math
import time
from collections.abc import Callable, Iterable, Iterator, Sized
from numbers import Real
from typing import TypeVar

from crossrank._device.costs import Costs
from crossrank._errors import InputError

T = TypeVar("T")

# Tokens of a pair that is short, and of a usual one.
_SHORT, _USUAL = 16, 128
# Of the time, for the first step: costs are known of an idle machine, and nothing of the documents.
_FIRST = 0.25
_LEAST_PER_LANE = 2
# A step is tokenized as a whole, which little stops.
_MOST = 1024
_TICK_S = 1e-9  # a coarse clock may not have moved
_LONGEST_MS = 1_000_000_000  # eleven days
_MOST_LATE_S = 0.02  # longer is not the machine: an iterator of documents that blocks, a text of megabytes
_FADE = 0.98  # of a lateness, from one call that was late to the next
_MOST_RESERVE = 0.2  # of a deadline
# What no device does: read a token sooner, score more documents, run so many times as fast as was measured.
_LEAST_TOKEN_S, _READ_PER_MS, _FASTER = 2e-8, 100, 4


class TimeUp(Exception):
    """Raised where a deadline passes in the middle of something; never to a caller."""


class Lateness:
    """How long calls whose time was up took to answer, of late: the next ones stop so much sooner.

    That is what a thread waits to be woken beside busy ones, and what it takes to sort.
    """

    def __init__(self) -> None:
        self._seconds = 0.0

    def learn(self, seconds: float) -> None:
        """Take notice of how long one took; no single one teaches much."""
        self._seconds = max(min(seconds, _MOST_LATE_S), self._seconds * _FADE)

    def reserve_s(self, deadline_s: float) -> float:
        """Seconds of a deadline to keep for it."""
        return min(self._seconds, _MOST_RESERVE * deadline_s)


class Deadline:
    """When a call is to be answered, and how much it may do until then. Time runs from here on.

    Args:
        deadline_ms: Milliseconds from now.
        lateness: Of the model's calls, or None to keep nothing in reserve.
        clock: Seconds from any start; what runs beside this must read the same one.

    Attributes:
        stop_at: The clock's time at which no further batch begins, and the answer is made.
        reason: Why not all documents are scored, if they are not.
        unread: Why not all documents were read, or None.

    Raises:
        InputError: If it is no positive number.
    """

    def __init__(
        self, deadline_ms: float, lateness: Lateness | None = None, clock: Callable[[], float] = time.perf_counter
    ) -> None:
        number = isinstance(deadline_ms, Real) and not isinstance(deadline_ms, bool)  # numpy's are such numbers too
        if not number or not 0 < deadline_ms <= _LONGEST_MS:
            raise InputError(
                f"deadline_ms={deadline_ms!r:.60}: milliseconds, a number above 0 and up to {_LONGEST_MS:,}, or None "
                f"for none"
            )
        deadline_ms = float(deadline_ms)
        self._clock, self._start, self._lateness = clock, clock(), lateness
        seconds = deadline_ms / 1000
        self.stop_at = self._start + seconds - (lateness.reserve_s(seconds) if lateness else 0.0)
        self.reason = f"the deadline of {deadline_ms:g} ms came first"
        self.unread: str | None = None
        self._ms = deadline_ms
        self._before = (0, self._start)  # documents read, and when that was

    def left_s(self) -> float:
        """Seconds that are left until `stop_at`, negative ones when it has passed."""
        return self.stop_at - self._clock()

    def read(self, documents: Iterable[T]) -> Iterator[T]:
        """Documents that come one by one, until half of the time has passed, or more are there than could be scored.

        What has a length has an end, so that its number is no matter.
        """
        middle = self._start + self._ms / 2000
        most = math.inf if isinstance(documents, Sized) else self._ms * _READ_PER_MS
        for count, document in enumerate(documents):
            if count >= most or self._clock() >= middle:
                self.unread = f"deadline_ms={self._ms:g}: of the documents {count} were read in time, and no more"
                return
            yield document

    def most_pairs(self, length: int, lanes: int, costs: Costs | None) -> int:
        """How many pairs could be scored until then at the very most: far more than will be.

        Args:
            length: Tokens of each.
            lanes: Batches that run side by side.
            costs: What batches take on one lane, or None while that is unknown.
        """
        seconds = length * _LEAST_TOKEN_S
        if costs is not None:
            seconds = max(seconds, (costs.seconds(1, length) - costs.fixed_s) / _FASTER)
        return 1 + int(max(0.0, self.left_s()) * lanes / seconds)

    def answered(self) -> None:
        """Take notice of how long the answer took, if time was up."""
        late = -self.left_s()
        if late > 0 and self._lateness is not None:
            self._lateness.learn(late)

    def next_documents(self, read: int, lanes: int, costs: Costs | None) -> int:
        """How many documents to read next; 0 to end here.

        Args:
            read: Documents until now, all of which were scored.
            lanes: Batches that run side by side.
            costs: What batches take on one lane, or None while that is unknown.
        """
        now = self._clock()
        left = self.stop_at - now
        if read:
            before, then = self._before
            rate = min(read / max(now - self._start, _TICK_S), (read - before) / max(now - then, _TICK_S))
            count = left * rate
            if count < lanes:  # what begins now on each lane ends too late
                return 0
            count /= 2
        else:
            if costs is not None and costs.seconds(1, _SHORT) > left:
                self.reason = (
                    f"deadline_ms={self._ms:g}: {max(left, 0) * 1000:.3g} ms were left for it, and one short document "
                    f"takes {costs.seconds(1, _SHORT) * 1000:.3g} ms"
                )
                return 0
            if left <= 0:
                self.reason = f"deadline_ms={self._ms:g}: no time was left for documents before one was read"
                return 0
            count = 0 if costs is None else _FIRST * left * lanes / costs.seconds(1, _USUAL)
        self._before = (read, now)
        return min(max(int(count), _LEAST_PER_LANE * lanes), _MOST)
