"""Which pairs run next while many requests wait: a pure state machine, without threads, clocks and tokens.

Order: fair queueing by virtual time (Parekh and Gallager, IEEE/ACM Transactions on Networking 1993), where a request's
weight is one over the square root of its tokens. So 10 documents pass 1,000 with ten times their speed, and yet no
stream of small requests starves a large one: each gets its weight's share of what runs while it waits.

Joining: a batch holds pairs of one length. Places that its own request leaves free go to other requests' pairs of that
length, unless those requests are so much larger that the small one would run at their speed.

Whoever uses it from several threads holds a lock.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from heapq import heappop, heappush, heapreplace
from itertools import count
from typing import Literal, NamedTuple

from ._errors import Closed, Overloaded
from ._plan import BATCHES_PER_LANE

# Requests of up to so many times the size of another one join it as its equals: each gains what it gives.
_LARGER = 4

Outcome = Literal["done", "failed", "cancelled", "late"]


class Request:
    """Pairs of one caller. They are counted in the order of the plan.

    Args:
        plan: Length and number of pairs of each of its batches, in the order in which it would run them if it were
            alone.
        max_pairs: Most pairs of a batch that holds some of these, or None.

    Attributes:
        pairs: How many.
        tokens: Of all of them.
        left: Of each length the ranges of pairs that are in no batch yet, the next one last.
        outcome: How it ended, or None.
        error: Why it did not end well.
    """

    def __init__(self, plan: Sequence[tuple[int, int]], max_pairs: int | None = None) -> None:
        self.max_pairs, self.pairs, self.tokens, self.scored = max_pairs, 0, 0, 0
        self.left: dict[int, list[tuple[int, int]]] = {}
        for length, pairs in plan:
            self.left.setdefault(length, []).append((self.pairs, self.pairs + pairs))
            self.pairs += pairs
            self.tokens += length * pairs
        for ranges in self.left.values():
            ranges.reverse()
        self._next = [length for length, _ in plan][::-1]
        self.weight = self.tokens**-0.5 if self.tokens else 0.0
        self.turn = 0.0  # the virtual time at which it is to be served
        self.number = -1  # in the queue
        self.whole = False  # it counts as waiting, beside the queue
        self.outcome: Outcome | None = None
        self.error: BaseException | None = None

    def next_length(self) -> int:
        """Of its next batch; only while something is left."""
        while self._next[-1] not in self.left:
            self._next.pop()
        return self._next[-1]

    def give_back(self, length: int, start: int, stop: int) -> None:
        """Have pairs that were taken be left again."""
        self.left.setdefault(length, []).append((start, stop))
        self._next.append(length)


class Piece(NamedTuple):
    """Pairs of one request in a batch, from ``start`` to before ``stop``."""

    request: Request
    start: int
    stop: int


@dataclass(slots=True, eq=False)
class Batch:
    """Pairs of one length that run together.

    Attributes:
        length: Tokens of each.
        pieces: Whose they are.
        capacity: Tokens that there was room for.
        pairs: How many.
        settled: Whether it was done or given back.
    """

    length: int
    pieces: list[Piece]
    capacity: int
    pairs: int = 0
    settled: bool = False

    @property
    def tokens(self) -> int:
        """Tokens of all its pairs."""
        return self.length * self.pairs


class RequestQueue:
    """Requests that wait or run.

    Args:
        lanes: Batches that run side by side.
        max_tokens: Most tokens that may wait, or None. A request that finds nothing waiting is always taken in.
    """

    def __init__(self, lanes: int, max_tokens: int | None = None) -> None:
        self.lanes, self.max_tokens = lanes, max_tokens
        self.closed = False
        self.waiting_tokens = 0  # in no batch yet
        self.whole_tokens = 0  # of what runs, or waits for its device, beside the queue
        self.reserved_tokens = 0  # expected of what is being tokenized
        self.open: dict[int, Request] = {}  # all that have not ended
        self._open_tokens, self._open_weight = 0, 0.0
        self._by_length: dict[int, dict[int, Request]] = {}  # those with pairs of a length left
        self._numbers = count()
        self._turns: list[tuple[float, int]] = []  # a heap; what has ended or moved on is mended when it comes up
        self._clock = 0.0  # virtual time: the tokens per weight that each who waits should have had

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
        request.turn = self._clock
        self.waiting_tokens += request.tokens
        for length in request.left:
            self._by_length.setdefault(length, {})[number] = request
        heappush(self._turns, (request.turn, number))

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

    def require_room(self, tokens: int) -> None:
        """Raise what a request of so many tokens would be refused with."""
        if self.closed:
            raise Closed("the model is closed: it takes no more requests; load it again")
        most, waiting = self.max_tokens, self.waiting_tokens + self.whole_tokens + self.reserved_tokens
        if most is not None and waiting and waiting + tokens > most:
            raise Overloaded(waiting, most, tokens)

    def next_batch(self, max_tokens: int) -> Batch | None:
        """The pairs to run next; None if none waits.

        Args:
            max_tokens: Budget of a batch in tokens; a pair that is longer runs alone.
        """
        request = self._next_by_turn()
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
        self._clock += batch.tokens / self._open_weight
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
            heappush(self._turns, (request.turn, request.number))

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
        self._open_weight -= request.weight
        self.whole_tokens -= request.tokens * request.whole
        self._forget_waiting(request)
        if not self.open:  # rounding does not add up
            self._clock = self._open_weight = 0.0
            self._turns.clear()
        return True

    def close(self) -> None:
        """Take no more requests in."""
        self.closed = True

    def _open(self, request: Request) -> int:
        request.number = next(self._numbers)
        self.open[request.number] = request
        self._open_tokens += request.tokens
        self._open_weight += request.weight
        return request.number

    def _next_by_turn(self) -> Request | None:
        while self._turns:
            turn, number = self._turns[0]
            request = self.open.get(number)
            if request is None or not request.left:
                heappop(self._turns)
            elif request.turn != turn:
                heapreplace(self._turns, (request.turn, number))
            else:
                return request
        return None

    def _fill(self, batch: Batch, request: Request, most: int) -> None:
        """Move pairs of a request into a batch, and its turn on."""
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
        request.turn += filled * length / request.weight
        if not ranges:
            del request.left[length]
            self._forget_length(request, length)

    def _forget_waiting(self, request: Request) -> None:
        for length, ranges in request.left.items():
            self._forget_length(request, length)
            self.waiting_tokens -= length * sum(stop - start for start, stop in ranges)
        request.left.clear()

    def _forget_length(self, request: Request, length: int) -> None:
        alike = self._by_length[length]
        del alike[request.number]
        if not alike:
            del self._by_length[length]
