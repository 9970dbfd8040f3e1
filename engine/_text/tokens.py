"""Token ids of many texts in one array. Pure arrays."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Int32 = NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class Tokens:
    """Token ids of many texts in one array.

    Attributes:
        ids: int32 [tokens], the texts one after the other, without special tokens.
        offsets: int64 [texts + 1], where each text starts and the last one ends.
    """

    ids: Int32
    offsets: NDArray[np.int64]

    @property
    def lengths(self) -> Int32:
        """int32 [texts], tokens of each text."""
        return np.diff(self.offsets).astype(np.int32)

    def part(self, start: int, stop: int) -> "Tokens":
        """The texts from ``start`` to before ``stop``; their ids stay where they are."""
        offsets = self.offsets[start : stop + 1]
        return Tokens(self.ids[offsets[0] : offsets[-1]], offsets - offsets[0])
