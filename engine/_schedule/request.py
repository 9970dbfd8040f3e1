"""Requests that wait in a queue, the pairs of one caller each, and the batches that they run in. Pure state."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

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
        done: Ranges of pairs that have run, in the order in which they did.
        scored: How many pairs that are.
        aside: Whether something else runs it as a whole, beside the queue.
        waits: Whether it counts as waiting then.
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
        self._plan, self._turn = plan, 0  # of the plan's batches those before this one are begun
        self.weight = self.tokens**-0.5 if self.tokens else 0.0
        self.number = -1  # in the queue
        self.aside = self.waits = False
        self.done: list[tuple[int, int]] = []
        self.outcome: Outcome | None = None
        self.error: BaseException | None = None

    def next_length(self) -> int:
        """Of its next batch; only while something is left."""
        while self._plan[self._turn][0] not in self.left:
            self._turn += 1
        return self._plan[self._turn][0]

    def tell(self) -> None:
        """Called when it has ended, before the queue forgets it; once more if that was interrupted."""

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
        for length, pairs in self._plan:
            last = first + pairs
            while (start := gone.find(0, first, last)) >= 0:
                first = gone.find(1, start, last)
                first = last if first < 0 else first
                left.setdefault(length, []).append((start, first))
            first = last
        for ranges in left.values():
            ranges.reverse()
        self.left, self._turn = left, 0
        self.scored = sum(stop - start for start, stop in self.done)


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
        owner: Who runs it.
        pairs: How many.
    """

    length: int
    pieces: list[Piece]
    capacity: int
    owner: object = None
    pairs: int = 0

    @property
    def tokens(self) -> int:
        """Tokens of all its pairs."""
        return self.length * self.pairs
