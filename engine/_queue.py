"""Which pairs run next while many requests wait: a pure state machine, without threads, clocks and tokens.

Order: `FairOrder` says whose turn it is.

Joining: a batch holds pairs of one length. Places that its own request leaves free go to other requests' pairs of that
length, unless those requests are so much larger that the small one would run at their speed.

Whoever uses it from several threads holds a lock.
"""

from itertools import count

from ._errors import Closed, Overloaded
from ._fair_order import FairOrder
from ._plan import BATCHES_PER_LANE
from ._request import Batch, Outcome, Piece, Request

# Requests of up to so many times the size of another one join it as its equals: each gains what it gives.
_LARGER = 4


class RequestQueue:
    """Requests that wait or run.

    Args:
        lanes: Batches that run side by side.
        max_tokens: Most tokens that may wait, or None. One that finds none is always taken in.
    """

    def __init__(self, lanes: int, max_tokens: int | None = None) -> None:
        self.lanes, self.max_tokens = lanes, max_tokens
        self.closed = False
        self.waiting_tokens = 0  # in no batch yet
        self.whole_tokens = 0  # of what runs, or waits for its device, beside the queue
        self.reserved_tokens = 0  # expected of what is being tokenized
        self.open: dict[int, Request] = {}  # all that have not ended
        self._open_tokens = 0
        self._by_length: dict[int, dict[int, Request]] = {}  # those with pairs of a length left
        self._numbers = count()
        self._order = FairOrder()

    def submit(self, request: Request) -> None:
        """Take a request in; one that has ended before, or has no pairs, ends here.

        Raises:
            Overloaded: If too many tokens wait.
            Closed: After `close`.
        """
        if request.outcome is not None:
            return
        self.require_room(request.tokens)
        if not request.pairs:
            request.outcome = "done"
            return
        number = self._open(request)
        self.waiting_tokens += request.tokens
        for length in request.left:
            self._by_length.setdefault(length, {})[number] = request
        self._order.add(request)

    def submit_whole(self, request: Request, *, waits: bool) -> None:
        """Take in what something else runs as a whole, until `end`.

        Args:
            request: Its pairs.
            waits: Whether it counts as waiting, as for a device that others may keep busy.

        Raises:
            Overloaded: As `submit`.
            Closed: After `close`.
        """
        self.require_room(request.tokens)
        request.whole = waits
        request.left.clear()
        self._open(request)
        self.whole_tokens += request.tokens * waits

    @property
    def tokens(self) -> int:
        """All that count against the bound."""
        return self.waiting_tokens + self.whole_tokens + self.reserved_tokens

    def require_room(self, tokens: int) -> None:
        """Raise what a request of so many tokens would be refused with."""
        if self.closed:
            raise Closed("the model is closed: it takes no more requests; load it again")
        most, waiting = self.max_tokens, self.tokens
        if most is not None and waiting and waiting + tokens > most:
            raise Overloaded(waiting, most, tokens)

    def next_batch(self, max_tokens: int) -> Batch | None:
        """The pairs to run next; None if none waits.

        Args:
            max_tokens: Budget of a batch in tokens; a pair that is longer runs alone.
        """
        request = self._order.next()
        if request is None:
            return None
        length = request.next_length()
        if self.lanes > 1:  # so that they all get their share, as `plan_even_batches` has it
            max_tokens = min(max_tokens, self._open_tokens // (self.lanes * BATCHES_PER_LANE))
        size = max(1, max_tokens // length)
        batch = Batch(length, [], size * length)
        size = min(size, request.max_pairs or size)
        self._fill(batch, request, size)
        if batch.pairs < size and length in self._by_length:
            for other in list(self._by_length[length].values()):  # a copy: it shrinks as they are served
                if batch.pairs >= size:
                    break
                limit = min(size, other.max_pairs or size)
                if other.tokens <= _LARGER * request.tokens and batch.pairs < limit:
                    self._fill(batch, other, limit - batch.pairs)
                    size = limit
        return batch

    def done(self, batch: Batch) -> list[Request]:
        """Take note that a batch has run. Returns the requests that this ended."""
        batch.settled = True
        ended = []
        for request, start, stop in batch.pieces:
            request.scored += stop - start
            if request.scored == request.pairs and self.end(request, "done"):
                ended.append(request)
        return ended

    def put_back(self, batch: Batch) -> None:
        """Have the pairs of a batch wait again, of requests that have not ended; one that is settled stays so."""
        if batch.settled:
            return
        batch.settled = True
        for request, start, stop in batch.pieces:
            if request.outcome is not None:
                continue
            request.give_back(batch.length, start, stop)
            self._by_length.setdefault(batch.length, {})[request.number] = request
            self.waiting_tokens += batch.length * (stop - start)
            self._order.add(request)

    def end(self, request: Request, outcome: Outcome, error: BaseException | None = None) -> bool:
        """End a request now. What of it is in a batch runs to that batch's end; the rest gives up its place.

        Returns:
            Whether it had not ended before.
        """
        if request.outcome is not None:
            return False
        request.outcome, request.error = outcome, error
        if self.open.pop(request.number, None) is None:
            return True
        self._open_tokens -= request.tokens
        self.whole_tokens -= request.tokens * request.whole
        self._forget_waiting(request)
        if not self.open:
            self._order.clear()
        return True

    def close(self) -> None:
        """Take no more requests in."""
        self.closed = True

    def _open(self, request: Request) -> int:
        request.number = next(self._numbers)
        self.open[request.number] = request
        self._open_tokens += request.tokens
        return request.number

    def _fill(self, batch: Batch, request: Request, most: int) -> None:
        """Move pairs of a request into a batch."""
        length, filled = batch.length, 0
        ranges = request.left[length]
        while ranges and filled < most:
            start, stop = ranges.pop()
            if stop - start > most - filled:
                ranges.append((start + most - filled, stop))
                stop = start + most - filled
            batch.pieces.append(Piece(request, start, stop))
            filled += stop - start
        batch.pairs += filled
        self.waiting_tokens -= filled * length
        self._order.served(request, filled * length)
        if not ranges:
            del request.left[length]
            self._forget_length(request, length)
            if not request.left:
                self._order.remove(request)

    def _forget_waiting(self, request: Request) -> None:
        for length, ranges in request.left.items():
            self._forget_length(request, length)
            self.waiting_tokens -= length * sum(stop - start for start, stop in ranges)
        request.left.clear()
        self._order.remove(request)

    def _forget_length(self, request: Request, length: int) -> None:
        alike = self._by_length[length]
        del alike[request.number]
        if not alike:
            del self._by_length[length]
