"""How a call with a deadline goes on: in steps of documents, each expected to take half of the time that is left.

So what was scored is the beginning of the list, up to the last step's documents. The rate is the call's own, with its
tokenizing and its waiting for others, so that it holds on a busy machine too. What a step takes beyond the deadline is
cut off between batches by the scheduler.
"""

import math
import time
from collections.abc import Callable

from ._costs import Costs
from ._errors import InputError

# Tokens of a pair that is short, and of a usual one.
_SHORT, _USUAL = 16, 128
# Of the time, for the first step: costs are known of an idle machine, and nothing of the documents.
_FIRST = 0.25
_LEAST_PER_LANE = 2
# A step is tokenized as a whole, which nothing stops.
_MOST = 1024
_TICK_S = 1e-9  # a coarse clock may not have moved


class Deadline:
    """When a call is to be answered, and how much it may do until then. Time runs from here on.

    Args:
        deadline_ms: Milliseconds from now.
        clock: Seconds from any start; what runs beside this must read the same one.

    Attributes:
        stop_at: The clock's time at which no further batch begins.
        reason: Why not all documents are scored, if they are not.

    Raises:
        InputError: If it is no positive number.
    """

    def __init__(self, deadline_ms: float, clock: Callable[[], float] = time.perf_counter) -> None:
        number = isinstance(deadline_ms, int | float) and not isinstance(deadline_ms, bool)
        if not number or not math.isfinite(deadline_ms) or deadline_ms <= 0:
            raise InputError(f"deadline_ms={deadline_ms!r}: milliseconds, a finite number above 0, or None for none")
        self._clock, self._start = clock, clock()
        self.stop_at = self._start + deadline_ms / 1000
        self.reason = f"the deadline of {deadline_ms:g} ms came first"
        self._ms = deadline_ms
        self._before = (0, self._start)  # documents read, and when that was

    def left_s(self) -> float:
        """Seconds that are left, negative ones when it has passed."""
        return self.stop_at - self._clock()

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
                    f"deadline_ms={self._ms:g}: {max(left, 0) * 1000:.3g} ms were left, and one short document takes "
                    f"{costs.seconds(1, _SHORT) * 1000:.3g} ms"
                )
                return 0
            if left <= 0:
                self.reason = f"deadline_ms={self._ms:g}: {-left * 1000:.3g} ms too late before a document was read"
                return 0
            count = 0 if costs is None else _FIRST * left * lanes / costs.seconds(1, _USUAL)
        self._before = (read, now)
        return min(max(int(count), _LEAST_PER_LANE * lanes), _MOST)
