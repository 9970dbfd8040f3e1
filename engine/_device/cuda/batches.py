"""Batches of a packed graph, and the few shapes that small ones are brought to. Pure functions.

Nothing is padded. A CUDA graph is captured for one shape, ahead, and so small batches are brought to one of a few. A
shape is brought to a larger one by pairs whose results are dropped: the tokens that lack are theirs, behind all
others, so that the pairs in front keep their places, lengths and positions. Attention sees one pair at a time, and
all else one token at a time: their results do not change. None of these pairs is empty, since not every attention
kernel was seen to take sequences of no token.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from crossrank._device.batches import check_limits
from crossrank._text.pairs import PackedPairs

# The longest pair counts in steps of this: onnxruntime's memory-efficient attention takes a bias for such
# lengths alone, and all else only reads it as a bound.
# https://github.com/microsoft/onnxruntime/blob/v1.24.4/onnxruntime/contrib_ops/cuda/bert/packed_multihead_attention.cc
_STEP = 8
# A batch's ``token_offset`` has pairs times longest entries, so pairs of very different lengths are parted.
_MOST_GRID_PER_TOKEN = 2


class PackedShape(NamedTuple):
    """What the inputs of a packed graph are sized by: of a batch, or of a bucket that takes batches up to it.

    Attributes:
        tokens: Tokens in all.
        pairs: Pairs.
        longest: At least the tokens of the longest pair, a multiple of 8.
    """

    tokens: int
    pairs: int
    longest: int


def round_up(longest: int) -> int:
    """The next multiple of 8."""
    return -(-longest // _STEP) * _STEP


def shape_of(lengths: NDArray[np.int32]) -> PackedShape:
    """The shape of a batch of pairs, at least one.

    >>> shape_of(np.array([3, 9], np.int32))
    PackedShape(tokens=12, pairs=2, longest=16)
    """
    return PackedShape(int(lengths.sum()), len(lengths), round_up(int(lengths.max())))


def plan_packed_batches(
    lengths: NDArray[np.int32], *, max_tokens: int, max_pairs: int | None = None
) -> list[NDArray[np.intp]]:
    """Cut pairs into batches of about ``max_tokens``.

    Sorted by length, longest first: that keeps ``token_offset`` small and brings what needs most memory first.

    Args:
        lengths: int32 [pairs], tokens of each joined pair, each at least 1.
        max_tokens: Budget of a batch in tokens; a pair that is longer runs alone.
        max_pairs: Most pairs of a batch, or None.

    Returns:
        Index arrays; every index of ``lengths`` is in exactly one. Equal lengths keep their order.

    Raises:
        InputError: If a limit is below 1.

    >>> [batch.tolist() for batch in plan_packed_batches(np.array([3, 9, 3, 8], np.int32), max_tokens=14)]
    [[1], [3, 0, 2]]
    """
    check_limits(max_tokens, max_pairs)
    order = np.argsort(-lengths.astype(np.int64), kind="stable")
    ends = np.cumsum(lengths[order], dtype=np.int64)
    batches = []
    start, before = 0, 0
    while start < len(order):
        fitting = int(np.searchsorted(ends, before + max_tokens, side="right")) - start
        grid = _MOST_GRID_PER_TOKEN * max_tokens // round_up(int(lengths[order[start]]))
        stop = start + max(1, min(fitting, grid, max_pairs or fitting))
        batches.append(order[start:stop])
        start, before = stop, int(ends[min(stop, len(order)) - 1])
    return batches


def most_pairs(max_tokens: int) -> int:
    """The most pairs that a batch of `plan_packed_batches` can have.

    >>> most_pairs(32768)
    8192
    """
    return max(1, _MOST_GRID_PER_TOKEN * max_tokens // _STEP)


def make_buckets(token_steps: Sequence[int], longest: int) -> list[PackedShape]:
    """The shapes that small batches are brought to.

    Two of each number of tokens: one for many short pairs, one for few long ones. So a batch rarely needs one of many
    more tokens than its own, and ``token_offset``, which travels with each call, stays below 8 entries for each.

    Args:
        token_steps: Their tokens, rising.
        longest: Most tokens of a pair.

    Returns:
        By rising tokens.
    """
    limit = round_up(longest)
    kinds = {(min(128, limit), 16), (min(512, limit), 64)}
    return [
        PackedShape(tokens, tokens // share, length)
        for tokens in token_steps
        for length, share in sorted(kinds)
        if tokens >= 2 * share and length * (tokens // share) >= tokens
    ]


def choose_bucket(shape: PackedShape, buckets: Sequence[PackedShape]) -> PackedShape | None:
    """The first bucket that a batch can be brought to, or None.

    >>> choose_bucket(PackedShape(20, 2, 16), [PackedShape(24, 2, 16), PackedShape(32, 4, 16)])
    PackedShape(tokens=32, pairs=4, longest=16)
    """
    for bucket in buckets:
        tokens, pairs = bucket.tokens - shape.tokens, bucket.pairs - shape.pairs
        if bucket.longest >= shape.longest and 0 <= pairs <= tokens <= pairs * bucket.longest:
            return bucket
    return None


def fill_up(batch: PackedPairs, shape: PackedShape, pad_id: int) -> PackedPairs:
    """A batch with pairs behind it that bring it to a shape which `choose_bucket` chose for it.

    Args:
        batch: The batch.
        shape: Where to bring it.
        pad_id: The id of the tokens that are added.

    >>> fill_up(PackedPairs(*np.ones((3, 2), np.int32)), PackedShape(7, 4, 8), 0).lengths
    array([1, 1, 3, 2], dtype=int32)
    """
    tokens, pairs = shape.tokens - len(batch.ids), shape.pairs - len(batch.lengths)
    if not tokens:
        return batch
    share, more = divmod(tokens, pairs)
    lengths = np.full(pairs, share, np.int32)
    lengths[:more] += 1
    return PackedPairs(
        ids=np.concatenate([batch.ids, np.full(tokens, pad_id, np.int32)]),
        types=np.concatenate([batch.types, np.zeros(tokens, np.int32)]),
        lengths=np.concatenate([batch.lengths, lengths]),
    )


def sample_of(shape: PackedShape) -> PackedPairs:
    """Pairs of no meaning that have a shape but for its longest: to touch it before a request does."""
    lengths = np.full(shape.pairs, shape.tokens // shape.pairs, np.int32)
    lengths[: shape.tokens % shape.pairs] += 1
    nothing = np.zeros(shape.tokens, np.int32)
    return PackedPairs(nothing, nothing, lengths)
