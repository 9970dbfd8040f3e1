"""Pairs of a call that are the same to the model, found by their tokens, so that each is computed once."""

from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray

from .tokens import Tokens, gather_index

# Where a document is sampled, in eighths of it, and what its length, its query and its samples are multiplied by: odd
# numbers of 64 bits, so that sums of different ones are mostly different. numpy.random would take 5 ms to import.
_EIGHTHS = np.arange(9)
_FACTORS = np.frombuffer(b"".join(blake2b(bytes([i]), digest_size=8).digest() for i in range(11)), np.int64) | 1
# Of fewer documents a digest of each is as quick.
_LEAST_SAMPLED = 32
# Tokens that are compared at a time: 40 bytes each, for a while.
_COMPARED = 1 << 20


class DistinctPairs:
    """Remembers the pairs of one call.

    Of a document whose ids stay where they are, nine are looked at; one that is like an earlier one in these is then
    compared with it. Of others a digest of all ids is kept, 16 bytes.

    Args:
        documents: Those of the whole call, one per pair in the order in which they are asked for, if they stay as long
            as this; else None.
        query_index: int [pairs], the query of each pair of the whole call; looked at if ``documents`` stay.
    """

    def __init__(self, documents: Tokens | None = None, query_index: NDArray[np.intp] | None = None) -> None:
        few = documents is None or len(documents.offsets) <= _LEAST_SAMPLED
        self._documents, self._query_index = None if few else documents, query_index
        self._rows: dict[int | tuple[int, bytes], int] = {}
        self._count = 0

    def find(
        self, documents: Tokens, query_index: NDArray[np.intp], enough: int
    ) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        """The pairs that were not seen before, and the place of each pair's like.

        Args:
            documents: One per pair.
            query_index: int [pairs], the query of each pair.
            enough: Tokens of a document beyond so many do not matter; the same number for all of the call.

        Returns:
            int [new], the new pairs; and int [pairs], counted over the whole call: the first pair that is the same.

        >>> documents = Tokens(np.array([7, 8, 7, 9, 7, 8], np.int32), np.array([0, 2, 4, 6]))
        >>> DistinctPairs().find(documents, np.zeros(3, np.intp), 512)
        (array([0, 1]), array([0, 1, 0]))
        """
        first, known, pairs = self._count, len(self._rows), len(query_index)
        self._count += pairs
        keys = (_digests if self._documents is None else _samples)(documents, query_index, enough)
        # In compiled code: a loop here would take half of the host's time for encoded documents.
        like = np.fromiter(map(self._rows.setdefault, keys, range(first, self._count)), np.intp, pairs)
        if len(self._rows) == known + pairs:  # as in most calls
            return np.arange(pairs), like
        own = np.arange(first, self._count)
        repeated = np.flatnonzero(like != own)
        if self._documents is not None:
            self._part(documents, query_index, repeated, like, enough)
        return np.flatnonzero(like == own), like

    def _part(
        self,
        documents: Tokens,
        query_index: NDArray[np.intp],
        repeated: NDArray[np.intp],
        like: NDArray[np.intp],
        enough: int,
    ) -> None:
        """Part pairs from an earlier one that they only resemble; ``like`` gets what they are the same as."""
        assert self._documents is not None, "samples are of these"
        first = self._count - len(like)
        step = max(1, _COMPARED // enough)
        parts = np.split(repeated, range(step, len(repeated), step))
        same = [self._equal(self._documents, first + part, like[part], enough) for part in parts]
        others = repeated[~np.concatenate(same)]
        if len(others):
            keys = _digests(documents.take(others), query_index[others], enough)
            like[others] = list(map(self._rows.setdefault, keys, (first + others).tolist()))

    def _equal(
        self, documents: Tokens, rows: NDArray[np.intp], others: NDArray[np.intp], enough: int
    ) -> NDArray[np.bool_]:
        """Whether pairs are the same as others, both counted over the call: bool [rows]."""
        assert self._query_index is not None, "it comes with the documents"
        starts = [documents.offsets[some] for some in (rows, others)]
        counts, theirs = (
            np.minimum(documents.offsets[some + 1] - start, enough)
            for some, start in zip((rows, others), starts, strict=True)
        )
        same: NDArray[np.bool_] = (counts == theirs) & (self._query_index[rows] == self._query_index[others])
        counts = counts[same]
        index = [gather_index(start[same], counts) for start in starts]
        # Of each, the tokens that differ, counted from the first pair on.
        differing = np.zeros(len(index[0]) + 1, np.int64)
        np.cumsum(documents.ids[index[0]] != documents.ids[index[1]], out=differing[1:])
        ends = np.cumsum(counts)
        same[same] = differing[ends] == differing[ends - counts]
        return same


def _digests(documents: Tokens, query_index: NDArray[np.intp], enough: int) -> list[tuple[int, bytes]]:
    """Of each pair its query and a digest of its document's ids."""
    ids, size = np.ascontiguousarray(documents.ids).view(np.uint8).data, documents.ids.itemsize
    starts = documents.offsets[:-1]
    ends = np.minimum(documents.offsets[1:], starts + enough)
    places = zip((starts * size).tolist(), (ends * size).tolist(), strict=True)
    digests = [blake2b(ids[start:end], digest_size=16).digest() for start, end in places]
    return list(zip(query_index.tolist(), digests, strict=True))


def _samples(documents: Tokens, query_index: NDArray[np.intp], enough: int) -> list[int]:
    """Of each pair a number that is the same for the same pairs, and mostly another one for others."""
    starts = documents.offsets[:-1]
    counts = np.minimum(documents.offsets[1:] - starts, enough)
    places = (counts - 1)[:, None] * _EIGHTHS >> 3
    places += starts[:, None]
    if counts.all():
        sampled = documents.ids[places].astype(np.int64)
    else:  # where nothing of a document lies, something of another one may
        sampled = np.zeros(places.shape, np.int64)
        sampled[counts > 0] = documents.ids[places[counts > 0]]
    keys: list[int] = (sampled @ _FACTORS[2:] + counts * _FACTORS[0] + query_index * _FACTORS[1]).tolist()
    return keys
