"""What waits in a queue: the pairs of one caller, and the batches that they run in. Pure state."""

from collections.abc import Sequence
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
