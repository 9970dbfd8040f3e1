"""A request of the queue with its pairs, and where its logits go."""

from collections.abc import Callable
from threading import Lock

import numpy as np
from numpy.typing import NDArray

from crossrank._device.runner import Take
from crossrank._text.pairs import PackedPairs, PairSource

from .request import Piece, Request

Floats = NDArray[np.float32]


class Job(Request):
    """A request with its pairs, and where its logits go.

    Args:
        pairs: The pairs.
        batches: Indices of the pairs of each batch, as if it were alone.
        max_pairs: Most pairs of a batch, or None.
        take: Gets the index of some pairs and their logits, float32 [pairs, labels]; from any thread.
        on_end: Told when it has ended, from any thread, under the queue's lock, perhaps twice; or None.
    """

    def __init__(
        self,
        pairs: PairSource,
        batches: list[NDArray[np.intp]],
        max_pairs: int | None,
        take: Take,
        on_end: Callable[[], object] | None = None,
    ) -> None:
        super().__init__([(int(pairs.lengths[batch[0]]), len(batch)) for batch in batches], max_pairs)
        self._index = np.concatenate(batches) if batches else np.zeros(0, np.intp)
        self._joined = pairs.batch(self._index)
        self._starts = [0, *np.cumsum(self._joined.lengths).tolist()]
        self._take, self._on_end = take, on_end
        self._latch: Lock | None = None

    def packed(self, start: int, stop: int) -> PackedPairs:
        """Some of its pairs, joined."""
        a, b = self._starts[start], self._starts[stop]
        joined = self._joined
        return PackedPairs(joined.ids[a:b], joined.types[a:b], joined.lengths[start:stop])

    def take(self, start: int, stop: int, logits: Floats) -> None:
        """Hand over the logits of some of its pairs, float32 [pairs, labels]."""
        self._take(self._index[start:stop], logits)

    def latch(self) -> Lock:
        """Held until it has ended; to be asked for once, before that, under the queue's lock."""
        latch = Lock()  # an Event of one waiter, for a tenth of the time
        latch.acquire()
        self._latch = latch
        return latch

    def tell(self) -> None:
        """Say that it has ended."""
        if self._latch is not None and self._latch.locked():
            self._latch.release()
        if self._on_end is not None:
            self._on_end()


def pack(pieces: list[Piece]) -> PackedPairs:
    """The pairs of a batch, joined."""
    parts = [request.packed(start, stop) for request, start, stop in pieces if isinstance(request, Job)]
    if len(parts) == 1:
        return parts[0]
    return PackedPairs(
        np.concatenate([part.ids for part in parts]),
        np.concatenate([part.types for part in parts]),
        np.concatenate([part.lengths for part in parts]),
    )


def hand_over(pieces: list[Piece], logits: Floats) -> None:
    """Give each job of a batch that has not ended its logits, float32 [pairs, labels]."""
    first = 0
    for request, start, stop in pieces:
        if isinstance(request, Job) and request.outcome is None:
            request.take(start, stop, logits[first : first + stop - start])
        first += stop - start
