"""Token ids of many texts in one array. Pure arrays."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

Int32 = NDArray[np.int32]


def gather_index(starts: NDArray[Any], counts: NDArray[Any], out: NDArray[Any] | None = None) -> NDArray[Any]:
    """Rising numbers: from each start as many as it counts; the index of a ragged gather.

    Args:
        starts: int [parts], where each part begins in what is gathered from.
        counts: int [parts], of the same type.
        out: Where to write it, of that type, or None for a new array.

    Returns:
        Of that type, [sum of the counts].

    >>> gather_index(np.array([0, 7]), np.array([3, 2])).tolist()
    [0, 1, 2, 7, 8]
    """
    # Methods, not numpy's functions, which are Python around them: each batch comes here several times.
    ends = counts.cumsum(dtype=counts.dtype)
    index = (starts - ends + counts).repeat(counts)
    out = index if out is None else out
    np.add(index, np.arange(len(index), dtype=index.dtype), out=out)
    return out


@dataclass(frozen=True)
class Tokens:
    """Token ids of many texts in one array.

    Attributes:
        ids: int32 [tokens], the texts one after the other, without special tokens.
        offsets: int64 [texts + 1], where each text starts and the last one ends.
    """

    ids: Int32
    offsets: NDArray[np.int64]

    @cached_property
    def lengths(self) -> Int32:
        """int32 [texts], tokens of each text."""
        # np.diff is Python, and takes as long as a query.
        return (self.offsets[1:] - self.offsets[:-1]).astype(np.int32)

    def part(self, start: int, stop: int) -> "Tokens":
        """The texts from ``start`` to before ``stop``; their ids stay where they are."""
        offsets = self.offsets[start : stop + 1]
        return Tokens(self.ids[offsets[0] : offsets[-1]], offsets - offsets[0])

    def take(self, index: NDArray[np.intp]) -> "Tokens":
        """The texts at ``index``, their ids copied.

        >>> Tokens(np.array([7, 8, 9], np.int32), np.array([0, 2, 3])).take(np.array([1])).ids
        array([9], dtype=int32)
        """
        starts = self.offsets[index]
        return self.pieces(starts, self.offsets[index + 1] - starts)

    def pieces(self, starts: NDArray[np.int64], counts: NDArray[np.int64]) -> "Tokens":
        """Texts that begin anywhere in the ids, and may overlap.

        Args:
            starts: int64 [texts], where each begins in ``ids``.
            counts: int64 [texts], tokens of each.
        """
        offsets = np.zeros(len(counts) + 1, np.int64)
        np.cumsum(counts, out=offsets[1:])
        return Tokens(self.ids[gather_index(starts, counts)], offsets)
