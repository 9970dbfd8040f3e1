"""Pairs of a call that are the same to the model, found by their tokens, so that each is computed once."""

from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray

from .tokens import Tokens


class DistinctPairs:
    """Remembers the pairs of one call, 16 bytes of each."""

    def __init__(self) -> None:
        self._rows: dict[tuple[int, bytes], int] = {}
        self._count = 0

    def find(
        self, documents: Tokens, query_index: NDArray[np.intp], enough: int
    ) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        """The pairs that were not seen before, and the place of each pair's like.

        Args:
            documents: One per pair.
            query_index: int [pairs], the query of each pair.
            enough: Tokens of a document beyond so many do not matter.

        Returns:
            int [new], the new pairs; and int [pairs], counted over the whole call: the first pair that is the same.

        >>> documents = Tokens(np.array([7, 8, 7, 9, 7, 8], np.int32), np.array([0, 2, 4, 6]))
        >>> DistinctPairs().find(documents, np.zeros(3, np.intp), 512)
        (array([0, 1]), array([0, 1, 0]))
        """
        first, ids = self._count, np.ascontiguousarray(documents.ids).view(np.uint8).data
        size = documents.ids.itemsize
        offsets = (documents.offsets * size).tolist()
        like, new = [], []
        for i, query in enumerate(query_index.tolist()):
            start = offsets[i]
            document = ids[start : min(offsets[i + 1], start + enough * size)]
            row = self._rows.setdefault((query, blake2b(document, digest_size=16).digest()), first + i)
            like.append(row)
            if row == first + i:
                new.append(i)
        self._count += len(like)
        return np.array(new, np.intp), np.array(like, np.intp)
