"""The queue of chunks that wait or run, and the size of each batch cut from it: a pure state machine without threads.

Order: `FairOrder` says whose turn it is.

Size: a lane's share of what waits, up to the backend's budget, so that batches become smaller towards the end and lanes
end together; `Backend.plan` only orders a chunk's pairs before.

Joining: a batch holds pairs of one kind, which is one length unless the backend takes any. Places that its own chunk
leaves free go to other chunks' pairs of that kind, unless those chunks are so much larger that the small one would run
at their speed.

Whoever uses it from several threads holds a lock. An exception that a signal handler raises may cut any of its steps
short. Then `torn` stays set, and the next one begins by `rebuild`: all but a few facts, each of which one assignment
changes, follow from these (what is open, which pairs are done, which batches run).

Chunks of about one size, of up to twice the tokens, are served one after the other as they came: were they to share,
they would all end late. Sizes share by start-time fair queueing (Goyal, Vin and Cheng, IEEE/ACM Transactions on
Networking 1997), where each waiting chunk adds a weight of one over the square root of its tokens to its size. So 10
documents pass 1,000 with ten times their speed, and yet no stream of small chunks that is not growing starves a large
one: each size gets its share of what runs while it waits.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import count

from crossrank._errors import Closed, Overloaded

from .chunk import ANY_LENGTH, Batch, Chunk, Outcome, Piece

# Chunks of up to so many times the size of another one join it as its equals: each gains what it gives.
_LARGER = 4
# A lane's batch has a bit more than its share of what waits, this part of its share of what is open: or the last ones
# would be of one pair each. With 10 documents on two lanes that are four batches; equal parts that leave a lane as
# little to wait for would be nine.
_SPARE = 8


class ChunkQueue:
    """Chunks that wait or run.

    Args:
        lanes: Batches that run side by side.
        max_tokens: Most tokens that may wait, or None. One that finds none is always taken in.

    Attributes:
        open: By number, all chunks that have not ended.
        running: The batches that run.
        reserved: Tokens expected of what is being tokenized or waits for that, by whom.
        waiting_tokens: Tokens in no batch yet.
        whole_tokens: Of what its device runs as a whole.
        closed: Whether it takes no more chunks.
        torn: Whether a step was begun and not ended.
    """

    def __init__(self, lanes: int, max_tokens: int | None = None) -> None:
        self.lanes, self.max_tokens = lanes, max_tokens
        self.closed = self.torn = False
        self.waiting_tokens = self.whole_tokens = 0
        self.reserved: dict[object, int] = {}
        self.open: dict[int, Chunk] = {}
        self.running: set[Batch] = set()
        self._open_tokens = 0
        self._by_kind: dict[int, dict[int, Chunk]] = {}  # those with pairs of a kind left
        self._numbers = count()
        self._order = FairOrder()

    def submit(self, chunk: Chunk) -> None:
        """Take a chunk in; one that has ended before, or has no pairs, ends here.

        Raises:
            Overloaded: If too many tokens wait.
            Closed: After `close`.
        """
        self.settle()
        if chunk.outcome is None:
            self._require_room_of(chunk)
            if chunk.pairs:
                self._take_in(chunk)
                return
            chunk.outcome = "done"
        chunk.tell()

    def submit_whole(self, chunk: Chunk) -> None:
        """Take in what its device runs as a whole, until `end`; it counts as waiting.

        Raises:
            Overloaded: As `submit`.
            Closed: After `close`.
        """
        self.settle()
        self._require_room_of(chunk)
        chunk.aside = True
        self._take_in(chunk)

    @property
    def tokens(self) -> int:
        """All that count against the bound."""
        return self.waiting_tokens + self.whole_tokens + sum(list(self.reserved.values()))

    def require_room(self, tokens: int) -> None:
        """Raise what a chunk of so many tokens would be refused with."""
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
        if self.torn:
            self.rebuild()
        chunk = self._order.next()
        if chunk is None:
            return None
        self.torn = True
        kind = next(iter(chunk.left))
        if self.lanes > 1:
            share = self.waiting_tokens // self.lanes + self._open_tokens // (_SPARE * self.lanes)
            max_tokens = min(max_tokens, share)
        if kind != ANY_LENGTH:
            max_tokens = max(1, max_tokens // kind) * kind
        batch = Batch(kind, [], max_tokens, owner)
        most = chunk.max_pairs or max(1, max_tokens)
        self._fill(batch, chunk, most)
        if batch.tokens < max_tokens and kind in self._by_kind:
            for other in list(self._by_kind[kind].values()):  # a copy: it shrinks as they are served
                limit = min(most, other.max_pairs or most)
                if other.tokens <= _LARGER * chunk.tokens and batch.pairs < limit:
                    if not self._fill(batch, other, limit):
                        break  # a search for one that is small enough costs more than it fills
                    most = limit
                if batch.tokens >= max_tokens or batch.pairs >= most:
                    break
        batch.capacity = max(batch.capacity, batch.tokens)  # of a pair that is longer than that
        self.running.add(batch)
        self.torn = False
        return batch

    def done(self, batch: Batch) -> None:
        """Take note that a batch has run; a chunk of which it was the last ends."""
        if self.torn:
            self.rebuild()
        self.torn = True
        for chunk, start, stop in batch.pieces:
            chunk.done.append((start, stop))
            chunk.ran += stop - start
            if chunk.ran == chunk.pairs and chunk.outcome is None:
                self._end(chunk, "done", None)
        self.running.discard(batch)
        self.torn = False

    def drop(self, batches: Iterable[Batch]) -> None:
        """Have the pairs of batches that will not run to their end wait again, unless their chunks have ended."""
        self.torn = True
        self.running.difference_update(batches)
        self.rebuild()

    def end(self, chunk: Chunk, outcome: Outcome, error: BaseException | None = None) -> bool:
        """End a chunk now. What of it is in a batch runs to that batch's end; the rest gives up its place.

        Returns:
            Whether it had not ended before.
        """
        if chunk.outcome is not None:
            return False
        self.settle()
        self.torn = True
        self._end(chunk, outcome, error)
        self.torn = False
        return True

    def close(self) -> None:
        """Take no more chunks in."""
        self.closed = True

    def settle(self) -> None:
        """Put right what a step that was cut short has left."""
        if self.torn:
            self.rebuild()

    def rebuild(self) -> None:
        """Begin the books anew with what is open, done and running."""
        self.torn = True
        running: dict[Chunk, list[tuple[int, int]]] = {}
        for batch in self.running:
            for chunk, start, stop in batch.pieces:
                running.setdefault(chunk, []).append((start, stop))
        self.waiting_tokens = self.whole_tokens = self._open_tokens = 0
        self._by_kind, self._order = {}, FairOrder()
        for number, chunk in sorted(self.open.items()):
            if not chunk.aside:
                chunk.restore(running.get(chunk, ()))
            if chunk.outcome is None and chunk.ran == chunk.pairs and not chunk.aside:
                chunk.error, chunk.outcome = None, "done"
            if chunk.outcome is None:
                self._enter(chunk, chunk.waiting_tokens())
            else:
                chunk.tell()
                del self.open[number]
        self.torn = False

    def _require_room_of(self, chunk: Chunk) -> None:
        if self.closed or not chunk.let_in:
            self.require_room(chunk.tokens)

    def _take_in(self, chunk: Chunk) -> None:
        self.torn = True
        chunk.number = next(self._numbers)
        self.open[chunk.number] = chunk
        if chunk.aside:
            chunk.left.clear()
        self._enter(chunk, 0 if chunk.aside else chunk.tokens)
        self.torn = False

    def _enter(self, chunk: Chunk, waiting_tokens: int) -> None:
        """Write an open chunk into the books."""
        self._open_tokens += chunk.tokens
        self.waiting_tokens += waiting_tokens
        self.whole_tokens += chunk.tokens * chunk.aside
        for kind in chunk.left:
            self._by_kind.setdefault(kind, {})[chunk.number] = chunk
        if chunk.left:
            self._order.add(chunk)

    def _end(self, chunk: Chunk, outcome: Outcome, error: BaseException | None) -> None:
        chunk.error = error
        chunk.outcome = outcome  # from here on it has ended, and while it is open its caller may not know
        chunk.tell()
        if self.open.pop(chunk.number, None) is None:
            return
        self._open_tokens -= chunk.tokens
        self.whole_tokens -= chunk.tokens * chunk.aside
        self.waiting_tokens -= chunk.waiting_tokens()
        for kind in chunk.left:
            self._forget_kind(chunk, kind)
        chunk.left.clear()
        self._order.remove(chunk)
        if not self.open:
            self._order.clear()

    def _fill(self, batch: Batch, chunk: Chunk, most: int) -> bool:
        """Move pairs of a chunk into a batch, so that it has so many at most. Returns whether one found room."""
        kind, before = batch.kind, batch.tokens
        ranges = chunk.left[kind]
        while ranges and batch.pairs < most:
            start, stop = ranges.pop()
            end = min(chunk.fitting(start, stop, batch.capacity - batch.tokens), start + most - batch.pairs)
            if not batch.pairs:
                end = max(end, start + 1)
            if end > start:
                batch.pieces.append(Piece(chunk, start, end))
                batch.pairs += end - start
                batch.tokens += chunk.tokens_of(start, end)
            if end < stop:
                ranges.append((end, stop))
                break
        filled = batch.tokens - before
        self.waiting_tokens -= filled
        self._order.served(chunk, filled)
        if not ranges:
            del chunk.left[kind]
            self._forget_kind(chunk, kind)
            if not chunk.left:
                self._order.remove(chunk)
        return filled > 0

    def _forget_kind(self, chunk: Chunk, kind: int) -> None:
        alike = self._by_kind[kind]
        del alike[chunk.number]
        if not alike:
            del self._by_kind[kind]


@dataclass(slots=True)
class _Size:
    """Chunks of about one size.

    Attributes:
        waiting: By number, the oldest first.
        weight: Of all of them.
        turn: The virtual time at which the next one is to be served.
    """

    waiting: dict[int, Chunk] = field(default_factory=dict)
    weight: float = 0.0
    turn: float = 0.0


class FairOrder:
    """Chunks that have pairs in no batch yet."""

    def __init__(self) -> None:
        self._sizes: dict[int, _Size] = {}  # by bits of the number of tokens
        self._clock = 0.0  # virtual time: the turn that was served last

    def add(self, chunk: Chunk) -> None:
        """Let a chunk wait, behind all that do."""
        size = self._sizes.setdefault(chunk.tokens.bit_length(), _Size())
        if not size.waiting:
            size.turn, size.weight = max(size.turn, self._clock), 0.0  # rounding does not add up
        size.waiting[chunk.number] = chunk
        size.weight += chunk.weight

    def remove(self, chunk: Chunk) -> None:
        """A chunk waits no more, if it did."""
        size = self._sizes.get(chunk.tokens.bit_length())
        if size is not None and size.waiting.pop(chunk.number, None) is not None:
            size.weight -= chunk.weight

    def next(self) -> Chunk | None:
        """The one whose turn it is; None if none waits."""
        first: _Size | None = None
        for size in self._sizes.values():
            if size.waiting and (first is None or size.turn < first.turn):
                first = size
        if first is None:
            return None
        self._clock = first.turn
        return next(iter(first.waiting.values()))

    def served(self, chunk: Chunk, tokens: int) -> None:
        """Take note that so many tokens of a chunk that waits are in a batch."""
        size = self._sizes[chunk.tokens.bit_length()]
        size.turn += tokens / size.weight

    def clear(self) -> None:
        """Begin anew, when nothing is left."""
        self._sizes.clear()
        self._clock = 0.0
