"""A chunk, documents of one call on their way from token ids to logits, and the batches that its pairs run in."""

from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from threading import Lock
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from crossrank._progress import Progress
from crossrank._text.pairs import PackedPairs, PairSource

Floats = NDArray[np.float32]
Ints = NDArray[np.intp]
Outcome = Literal["done", "failed", "cancelled", "late"]


class Chunk:
    """Documents of one call that were read together, up to 4,096 of them.

    Once its batches are planned, pairs are counted in the order in which they would run if it were alone.

    Args:
        source: Its pairs, each once.
        like: int [all pairs], the first pair of the call that is the same to the model, counted over the call.
        rows: int [pairs], the place of each of the source's among all of the chunk.
        labels: Logits per pair.
        cut: bool [documents], of which the model does not see all tokens.
        windows: int [documents], pairs of each; None for one each.
        max_pairs: Most pairs of a batch that holds some of these, or None.
        progress: Told how many documents are done, or None.

    Attributes:
        logits: float32 [all pairs, labels], where `scored` is set; they may come while it is read.
        scored: bool [all pairs].
        pairs: How many there are to run.
        tokens: Of these.
        weight: See `FairOrder`.
        number: In the queue.
        order: int [pairs], the source's pairs as they are counted.
        left: Of each kind, the next one first, the ranges of pairs that are in no batch yet, the next one last. A kind
            is a length, whose pairs run together, or `ANY_LENGTH`.
        done: Ranges of pairs that have run, in the order in which they did.
        ran: How many pairs that are.
        alone: Whether a batch of it may have the whole machine: it has few, and nobody else had any when it came.
        let_in: Whether room was held for it before it was tokenized: it is not refused any more.
        aside: Whether its device runs it as a whole, beside the queue.
        outcome: How it ended, or None.
        error: Why it did not end well.
        on_end: Told when it has ended, from any thread, under the queue's lock, perhaps twice; or None.
        wait_for_device: Waits for what runs as a whole, and takes its logits; or None.
    """

    def __init__(
        self,
        source: PairSource,
        like: Ints,
        rows: Ints,
        labels: int,
        cut: NDArray[np.bool_],
        windows: Ints | None = None,
        *,
        max_pairs: int | None = None,
        progress: Progress | None = None,
    ) -> None:
        self.like, self.cut, self.windows, self.max_pairs = like, cut, windows, max_pairs
        self.logits = np.empty((len(like), labels), np.float32)
        self.scored = np.zeros(len(like), np.bool_)
        self._source: PairSource | None = source
        self._rows, self._progress = rows, progress
        self.pairs, self.tokens, self._lengths = len(rows), int(source.lengths.sum()), source.lengths
        self.weight = self.tokens**-0.5 if self.tokens else 0.0
        self.number = -1
        self.left: dict[int, list[tuple[int, int]]] = {}
        self._plan: list[tuple[int, int]] = []
        self.done: list[tuple[int, int]] = []
        self.ran = 0
        self.alone = self.aside = self.let_in = False
        self.outcome: Outcome | None = None
        self.error: BaseException | None = None
        self.on_end: Callable[[], object] | None = None
        self.wait_for_device: Callable[[], None] | None = None
        self._latch: Lock | None = None

    @property
    def source(self) -> PairSource:
        """Its pairs, until all have run."""
        assert self._source is not None, "what has run is not joined again"
        return self._source

    def plan(self, batches: Sequence[Ints], *, flat: bool = False) -> None:
        """Say how its pairs would run if it were alone, and join them in that order.

        Args:
            batches: Indices of the pairs of each batch, all of one length unless ``flat``.
            flat: Whether pairs of any lengths may run together.
        """
        source = self.source
        self.order = np.concatenate(batches) if batches else np.zeros(0, np.intp)
        joined = self._joined = source.batch(self.order)
        self._starts: list[int] = [0, *np.cumsum(joined.lengths).tolist()]
        first, lengths = 0, joined.lengths
        for batch in batches:
            kind, stop = ANY_LENGTH if flat else int(lengths[first]), first + len(batch)
            self._plan.append((kind, len(batch)))
            self.left.setdefault(kind, []).append((first, stop))
            first = stop
        for ranges in self.left.values():
            ranges.reverse()

    def tokens_of(self, start: int, stop: int) -> int:
        """Tokens of some of its pairs."""
        return self._starts[stop] - self._starts[start]

    def waiting_tokens(self) -> int:
        """Tokens of its pairs that are in no batch yet."""
        return sum(self.tokens_of(start, stop) for ranges in self.left.values() for start, stop in ranges)

    def fitting(self, start: int, stop: int, tokens: int) -> int:
        """Where pairs from ``start`` on end that have no more than so many tokens together; ``stop`` at most."""
        return bisect_right(self._starts, self._starts[start] + tokens, start + 1, stop + 1) - 1

    def packed(self, start: int, stop: int) -> PackedPairs:
        """Some of its pairs, joined."""
        joined, a, b = self._joined, self._starts[start], self._starts[stop]
        return PackedPairs(joined.ids[a:b], joined.types[a:b], joined.lengths[start:stop])

    def take(self, index: Ints, logits: Floats) -> None:
        """Take logits of some pairs of the source, float32 [pairs, labels]."""
        rows = self._rows[index]
        self.logits[rows] = logits
        self.scored[rows] = True
        if self._progress is not None:
            self._progress.advance(self._documents_of(rows))

    def scored_tokens(self) -> int:
        """Tokens of the pairs that were computed."""
        return int(self._lengths[self.scored[self._rows]].sum())

    def note_repeated(self) -> None:
        """Tell of the documents whose pairs were all seen before: there is nothing to run for them."""
        if self._progress is not None:
            self._progress.advance(len(self.cut) - self._documents_of(self._rows))

    def latch(self) -> Lock:
        """Held until it has ended; to be asked for once, before that, under the queue's lock."""
        latch = Lock()  # an Event of one waiter, for a tenth of the time
        latch.acquire()
        self._latch = latch
        return latch

    def tell(self) -> None:
        """Say that it has ended; called before the queue forgets it, once more if that was interrupted."""
        if self.outcome == "done":  # otherwise batches may be under way
            self._source = None
            self._joined = _NO_PAIRS
        if self._latch is not None and self._latch.locked():
            self._latch.release()
        if self.on_end is not None:
            self.on_end()

    def restore(self, running: Iterable[tuple[int, int]]) -> None:
        """Have all pairs be left, but for those that are done, and those in batches that run.

        Args:
            running: Ranges of the latter.
        """
        gone = bytearray(self.pairs)
        for start, stop in (*self.done, *running):
            gone[start:stop] = b"\1" * (stop - start)
        left: dict[int, list[tuple[int, int]]] = {}
        first = 0
        for kind, pairs in self._plan:
            last = first + pairs
            while (start := gone.find(0, first, last)) >= 0:
                first = gone.find(1, start, last)
                first = last if first < 0 else first
                left.setdefault(kind, []).append((start, first))
            first = last
        for ranges in left.values():
            ranges.reverse()
        self.left = left
        self.ran = sum(stop - start for start, stop in self.done)

    def _documents_of(self, rows: Ints) -> int:
        """How many documents have their first pair there."""
        if self.windows is None:
            return len(rows)
        return int(np.isin(rows, np.cumsum(self.windows) - self.windows).sum())


# The kind of pairs that run beside those of any other length.
ANY_LENGTH = 0
_NO_PAIRS = PackedPairs(np.zeros(0, np.int32), np.zeros(0, np.int32), np.zeros(0, np.int32))


class Piece(NamedTuple):
    """Pairs of one chunk in a batch, from ``start`` to before ``stop``."""

    chunk: Chunk
    start: int
    stop: int


@dataclass(slots=True, eq=False)
class Batch:
    """Pairs that run together.

    Attributes:
        kind: Of `Chunk.left`.
        pieces: Whose they are.
        capacity: Tokens that there was room for.
        owner: Who runs it.
        pairs: How many.
        tokens: Of all its pairs.
    """

    kind: int
    pieces: list[Piece]
    capacity: int
    owner: object = None
    pairs: int = 0
    tokens: int = 0


def pack(pieces: Sequence[Piece]) -> PackedPairs:
    """The pairs of a batch, joined."""
    if len(pieces) == 1:
        chunk, start, stop = pieces[0]
        return chunk.packed(start, stop)
    parts = [chunk.packed(start, stop) for chunk, start, stop in pieces]
    return PackedPairs(
        np.concatenate([part.ids for part in parts]),
        np.concatenate([part.types for part in parts]),
        np.concatenate([part.lengths for part in parts]),
    )
