"""Plans of batches: pairs of one length, or of similar ones and padded, cut by a budget of tokens. Pure functions."""

from bisect import bisect_right
from operator import itemgetter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crossrank._errors import InputError
from crossrank._numbers import whole_number

# Measured on a CPU with MiniLM-L12: 1024 padded tokens a batch is best (2048 loses a few percent, 8192 15-30%), and
# ending a batch where lengths fall gains 3% on web passages and a third on texts of very different lengths.
PADDED_MAX_TOKENS = 1024
_MIN_FILL = 0.85
_SMALL_TOKENS = 256
# Of batches of one length, until it is measured: within a few percent of the best for every model that was tried.
EVEN_MAX_TOKENS = 512
# A lane that is done early waits for the others' last batches: with so many for each it waits little.
BATCHES_PER_LANE = 4


def plan_even_batches(
    lengths: NDArray[np.int32], *, max_tokens: int, max_pairs: int | None = None, lanes: int = 1
) -> list[NDArray[np.intp]]:
    """Cut pairs into batches of one length each, so that nothing is padded and no mask is needed.

    On a CPU one long pair keeps a thread as busy as a batch does, so that batches of one cost little, and padding or
    a mask would cost more.

    Args:
        lengths: int32 [pairs], tokens of each joined pair, each at least 1.
        max_tokens: Budget of a batch in tokens; a pair that is longer runs alone.
        max_pairs: Most pairs of a batch, or None.
        lanes: Batches that run side by side; they all get their share.

    Returns:
        Index arrays, the ones with most tokens first; every index of ``lengths`` is in exactly one.

    Raises:
        InputError: If a limit is below 1.

    >>> [batch.tolist() for batch in plan_even_batches(np.array([3, 9, 3, 8, 3], np.int32), max_tokens=8)]
    [[1], [3], [0, 2], [4]]
    """
    check_limits(max_tokens, max_pairs)
    if lanes > 1:
        max_tokens = min(max_tokens, int(lengths.sum()) // (lanes * BATCHES_PER_LANE))
    order = np.argsort(lengths, kind="stable")
    ascending = lengths[order].tolist()  # on few pairs a loop over integers is several times as fast as numpy
    batches: list[tuple[int, int, int]] = []  # tokens, and the range in the order
    start = 0
    while start < len(ascending):
        length = ascending[start]
        stop = bisect_right(ascending, length, start)
        size = min(max(1, max_tokens // length), max_pairs or stop)
        for first in range(start, stop, size):
            batches.append((min(size, stop - first) * length, first, min(first + size, stop)))
        start = stop
    batches.sort(key=itemgetter(0), reverse=True)
    return [order[start:stop] for _, start, stop in batches]


def plan_flat_batches(
    lengths: NDArray[np.int32], *, max_tokens: int, max_pairs: int | None = None, lanes: int = 1
) -> list[NDArray[np.intp]]:
    """Cut pairs into batches of any lengths, for what pads nothing.

    Args:
        lengths: int32 [pairs], tokens of each joined pair, each at least 1.
        max_tokens: Budget of a batch in tokens; a pair that is longer runs alone.
        max_pairs: Most pairs of a batch, or None.
        lanes: Batches that run side by side; they all get their share.

    Returns:
        Index arrays, the longest pairs first; every index of ``lengths`` is in exactly one.

    Raises:
        InputError: If a limit is below 1.

    >>> [batch.tolist() for batch in plan_flat_batches(np.array([3, 9, 3, 8, 3], np.int32), max_tokens=11)]
    [[1], [3, 0], [2, 4]]
    """
    check_limits(max_tokens, max_pairs)
    if lanes > 1:
        max_tokens = min(max_tokens, int(lengths.sum()) // (lanes * BATCHES_PER_LANE))
    order = np.argsort(-lengths, kind="stable")
    ends = lengths[order].cumsum(dtype=np.int64).tolist()
    batches, start, before = [], 0, 0
    while start < len(ends):
        stop = max(start + 1, bisect_right(ends, before + max_tokens, start))
        stop = min(stop, start + max_pairs) if max_pairs else stop
        batches.append(order[start:stop])
        start, before = stop, ends[stop - 1]
    return batches


def plan_batches(
    lengths: NDArray[np.int32], *, max_tokens: int = PADDED_MAX_TOKENS, max_pairs: int | None = None
) -> list[NDArray[np.intp]]:
    """Cut pairs into batches that waste little on padding.

    Pairs are sorted by length, longest first, so that a batch's padding is small and the largest
    allocation comes first. A batch costs its number of pairs times its longest pair, which stays
    within ``max_tokens`` unless one pair alone is longer; pairs much shorter than its longest wait for the next.

    Args:
        lengths: int32 [pairs], tokens of each joined pair, each at least 1.
        max_tokens: Budget of a batch in tokens, padding included.
        max_pairs: Most pairs of a batch, or None.

    Returns:
        Index arrays; every index of ``lengths`` is in exactly one. Equal lengths keep their order.

    Raises:
        InputError: If a limit is below 1.

    >>> [batch.tolist() for batch in plan_batches(np.array([3, 9, 3, 8], np.int32), max_tokens=18)]
    [[1, 3], [0, 2]]
    """
    check_limits(max_tokens, max_pairs)
    order = np.argsort(-lengths.astype(np.int64), kind="stable")
    descending = lengths[order].astype(np.int64)
    batches = []
    start = 0
    while start < len(order):
        longest = int(descending[start])
        size = max(1, max_tokens // longest)
        # Where lengths fall steeply a batch ends early, unless it is so small that its fixed cost would weigh more.
        alike = int(np.searchsorted(-descending[start:], -longest * _MIN_FILL, side="right"))
        size = min(size, max(alike, _SMALL_TOKENS // longest), max_pairs or size)
        batches.append(order[start : start + size])
        start += size
    return batches


def check_limits(max_tokens: int, max_pairs: int | None) -> None:
    if max_tokens < 1:
        raise InputError(f"max_tokens={max_tokens}: at least 1")
    if max_pairs is not None:
        check_batch_size(max_pairs)


def check_batch_size(batch_size: Any) -> int | None:
    """Most pairs of a batch as an int, or None.

    Raises:
        InputError: If it is no such number.
    """
    if batch_size is None:
        return None
    return whole_number("batch_size", batch_size, 1, "an integer of at least 1, or None for the planner's own batches")
