"""The queue of requests: a pure state machine, without threads, clocks and tokenizers.

Order: `FairOrder` says whose turn it is.

Joining: a batch holds pairs of one length. Places that its own request leaves free go to other requests' pairs of that
length, unless those requests are so much larger that the small one would run at their speed.

Whoever uses it from several threads holds a lock. An exception that a signal handler raises may cut any of its steps
short. Then `torn` stays set, and whoever comes next has it `rebuild`: all but a few facts, each of which one assignment
changes, follow from these (what is open, which pairs are done, which batches run).

Requests of about one size, of up to twice the tokens, are served one after the other as they came: were they to share,
they would all end late. Sizes share by start-time fair queueing (Goyal, Vin and Cheng, IEEE/ACM Transactions on
Networking 1997), where each waiting request adds a weight of one over the square root of its tokens to its size. So 10
documents pass 1,000 with ten times their speed, and yet no stream of small requests that is not growing starves a large
one: each size gets its share of what runs while it waits.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import count
from operator import attrgetter

from crossrank._device.batches import BATCHES_PER_LANE
from crossrank._errors import Closed, Overloaded

from .request import Batch, Outcome, Piece, Request

# Requests of up to so many times the size of another one join it as its equals: each gains what it gives.
_LARGER = 4


class RequestQueue:
    """Requests that wait or run.

    Args:
        lanes: Batches that run side by side.
        max_tokens: Most tokens that may wait, or None. One that finds none is always taken in.

    Attributes:
        open: By number, all requests that have not ended.
        running: The batches that run.
        reserved: Tokens expected of what is being tokenized, by who does that.
        waiting_tokens: Tokens in no batch yet.
        whole_tokens: Of what runs, or waits for its device, beside the queue.
        closed: Whether it takes no more requests.
        torn: Whether a step was begun and not ended.
    """

    def __init__(self, lanes: int, max_tokens: int | None = None) -> None:
        self.lanes, self.max_tokens = lanes, max_tokens
        self.closed = self.torn = False
        self.waiting_tokens = self.whole_tokens = 0
        self.reserved: dict[object, int] = {}
        self.open: dict[int, Request] = {}
        self.running: set[Batch] = set()
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
        if request.outcome is None:
            self.require_room(request.tokens)
            if request.pairs:
                self._take_in(request)
                return
            request.outcome = "done"
        request.tell()

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
        request.aside, request.waits = True, waits
        self._take_in(request)

    @property
    def tokens(self) -> int:
        """All that count against the bound."""
        return self.waiting_tokens + self.whole_tokens + sum(list(self.reserved.values()))

    def require_room(self, tokens: int) -> None:
        """Raise what a request of so many tokens would be refused with."""
        if self.closed:
            raise Closed("the model is closed: it takes no more requests; load it again")
        most, waiting = self.max_tokens, self.tokens
        if most is not None and waiting and waiting + tokens > most:
            raise Overloaded(waiting, most, tokens)

    def next_batch(self, max_tokens: int, owner: object = None) -> Batch | None:
        """The pairs to run next; None if none waits.

        Args:
            max_tokens: Budget of a batch in tokens; a pair that is longer runs alone.
            owner: Who runs them.
        """
        request = self._order.next()
        if request is None:
            return None
        self.torn = True
        length = request.next_length()
        if self.lanes > 1:  # so that they all get their share, as `plan_even_batches` has it
            max_tokens = min(max_tokens, self._open_tokens // (self.lanes * BATCHES_PER_LANE))
        size = max(1, max_tokens // length)
        batch = Batch(length, [], size * length, owner)
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
        self.running.add(batch)
        self.torn = False
        return batch

    def done(self, batch: Batch) -> None:
        """Take note that a batch has run; a request of which it was the last ends."""
        self.torn = True
        for request, start, stop in batch.pieces:
            request.done.append((start, stop))
            request.scored += stop - start
            if request.scored == request.pairs and request.outcome is None:
                self._end(request, "done", None)
        self.running.discard(batch)
        self.torn = False

    def drop(self, batches: Iterable[Batch]) -> None:
        """Have the pairs of batches that will not run to their end wait again, unless their requests have ended."""
        self.torn = True
        self.running.difference_update(batches)
        self.rebuild()

    def end(self, request: Request, outcome: Outcome, error: BaseException | None = None) -> bool:
        """End a request now. What of it is in a batch runs to that batch's end; the rest gives up its place.

        Returns:
            Whether it had not ended before.
        """
        if request.outcome is not None:
            return False
        self.torn = True
        self._end(request, outcome, error)
        self.torn = False
        return True

    def close(self) -> None:
        """Take no more requests in."""
        self.closed = True

    def rebuild(self) -> None:
        """Begin the books anew with what is open, done and running; after a step that was cut short."""
        self.torn = True
        running: dict[Request, list[tuple[int, int]]] = {}
        for batch in self.running:
            for request, start, stop in batch.pieces:
                running.setdefault(request, []).append((start, stop))
        self.waiting_tokens = self.whole_tokens = self._open_tokens = 0
        self._by_length, self._order = {}, FairOrder()
        for number, request in sorted(self.open.items()):
            if not request.aside:
                request.restore(running.get(request, ()))
            if request.outcome is None and request.scored == request.pairs and not request.aside:
                request.error, request.outcome = None, "done"
            if request.outcome is None:
                ranges = [(length, start, stop) for length, some in request.left.items() for start, stop in some]
                self._enter(request, sum(length * (stop - start) for length, start, stop in ranges))
            else:
                request.tell()
                del self.open[number]
        self.torn = False

    def _take_in(self, request: Request) -> None:
        self.torn = True
        request.number = next(self._numbers)
        self.open[request.number] = request
        if request.aside:
            request.left.clear()
        self._enter(request, 0 if request.aside else request.tokens)
        self.torn = False

    def _enter(self, request: Request, waiting_tokens: int) -> None:
        """Write an open request into the books."""
        self._open_tokens += request.tokens
        self.waiting_tokens += waiting_tokens
        self.whole_tokens += request.tokens * request.waits
        for length in request.left:
            self._by_length.setdefault(length, {})[request.number] = request
        if request.left:
            self._order.add(request)

    def _end(self, request: Request, outcome: Outcome, error: BaseException | None) -> None:
        request.error = error
        request.outcome = outcome  # from here on it has ended, and while it is open its caller may not know
        request.tell()
        if self.open.pop(request.number, None) is None:
            return
        self._open_tokens -= request.tokens
        self.whole_tokens -= request.tokens * request.waits
        for length, ranges in request.left.items():
            self._forget_length(request, length)
            self.waiting_tokens -= length * sum(stop - start for start, stop in ranges)
        request.left.clear()
        self._order.remove(request)
        if not self.open:
            self._order.clear()

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

    def _forget_length(self, request: Request, length: int) -> None:
        alike = self._by_length[length]
        del alike[request.number]
        if not alike:
            del self._by_length[length]


@dataclass(slots=True)
class _Size:
    """Requests of about one size.

    Attributes:
        waiting: By number, the oldest first.
        weight: Of all of them.
        turn: The virtual time at which the next one is to be served.
    """

    waiting: dict[int, Request] = field(default_factory=dict)
    weight: float = 0.0
    turn: float = 0.0


class FairOrder:
    """Requests that have pairs in no batch yet."""

    def __init__(self) -> None:
        self._sizes: dict[int, _Size] = {}  # by bits of the number of tokens
        self._clock = 0.0  # virtual time: the turn that was served last

    def add(self, request: Request) -> None:
        """Let a request wait, behind all that do."""
        size = self._sizes.setdefault(request.tokens.bit_length(), _Size())
        if not size.waiting:
            size.turn, size.weight = max(size.turn, self._clock), 0.0  # rounding does not add up
        size.waiting[request.number] = request
        size.weight += request.weight

    def remove(self, request: Request) -> None:
        """A request waits no more, if it did."""
        size = self._sizes.get(request.tokens.bit_length())
        if size is not None and size.waiting.pop(request.number, None) is not None:
            size.weight -= request.weight

    def next(self) -> Request | None:
        """The one whose turn it is; None if none waits."""
        waiting = [size for size in self._sizes.values() if size.waiting]
        if not waiting:
            return None
        size = min(waiting, key=attrgetter("turn"))
        self._clock = size.turn
        return next(iter(size.waiting.values()))

    def served(self, request: Request, tokens: int) -> None:
        """Take note that so many tokens of a request that waits are in a batch."""
        size = self._sizes[request.tokens.bit_length()]
        size.turn += tokens / size.weight

    def clear(self) -> None:
        """Begin anew, when nothing is left."""
        self._sizes.clear()
        self._clock = 0.0
