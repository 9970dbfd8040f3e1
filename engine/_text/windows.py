"""Windows of documents that are longer than a pair has room for; they share the query. Pure arrays."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crossrank._errors import InputError
from crossrank._numbers import whole_number

from .tokens import Int32, Tokens


@dataclass(frozen=True, slots=True)
class Windows:
    """How documents are cut: from their start, each window as long as fits beside the query.

    Attributes:
        most: Windows of a document; what they do not reach is not read.
        overlap: Tokens that a window shares with the one before it.
    """

    most: int
    overlap: int = 0

    def size(self, query_tokens: int, room: int) -> int:
        """Tokens of a window.

        A query may take half of the room. Up to there truncation leaves it whole, so that the first window is what
        the model reads without windows.

        Args:
            query_tokens: Of the query, in full.
            room: Tokens that fit beside the special tokens.

        Raises:
            InputError: If the query is longer, or the windows would not get on.
        """
        if query_tokens > room // 2:
            raise InputError(
                f"max_windows={self.most} with a query of {query_tokens} tokens, over half of the {room} that a pair "
                f"has for both texts: shorten the query, or leave max_windows out"
            )
        size = room - query_tokens
        if self.overlap >= size:
            raise InputError(
                f"window_overlap={self.overlap}: beside this query a window has {size} tokens, and the overlap must be "
                f"smaller"
            )
        return size

    def reach(self, size: int) -> int:
        """Tokens of a document that windows of this size reach.

        >>> Windows(3, overlap=2).reach(10)
        26
        """
        return size + (self.most - 1) * (size - self.overlap)

    def counts(self, lengths: Int32, size: int) -> NDArray[np.intp]:
        """How many windows documents have, int [documents].

        Args:
            lengths: int32 [documents].
            size: Tokens of a window.

        >>> Windows(3, overlap=1).counts(np.array([0, 3, 4, 100], np.int32), 3)
        array([1, 1, 2, 3])
        """
        counts: NDArray[np.intp] = 1 + np.maximum(0, -(-(lengths.astype(np.intp) - size) // (size - self.overlap)))
        counts = np.minimum(counts, min(self.most, int(counts.max(initial=1))))
        return counts

    def cut(self, documents: Tokens, size: int) -> tuple[Tokens, NDArray[np.intp]]:
        """The windows of all documents, and how many each has, at least one.

        >>> windows, counts = Windows(2, overlap=1).cut(Tokens(np.arange(6, dtype=np.int32), np.array([0, 5, 6])), 3)
        >>> windows.ids, windows.offsets, counts
        (array([0, 1, 2, 2, 3, 4, 5], dtype=int32), array([0, 3, 6, 7]), array([2, 1]))
        """
        step, lengths = size - self.overlap, documents.lengths.astype(np.intp)
        counts = self.counts(documents.lengths, size)
        first = np.cumsum(counts) - counts
        starts = step * (np.arange(counts.sum()) - np.repeat(first, counts))  # within the document
        sizes = np.minimum(size, np.repeat(lengths, counts) - starts)
        return documents.pieces(np.repeat(documents.offsets[:-1], counts) + starts, sizes), counts


def read_windows(max_windows: int | None, window_overlap: int) -> Windows | None:
    """What a caller asks for; None for no windows.

    Raises:
        InputError: If the options are none that can be used.
    """
    overlap = whole_number("window_overlap", window_overlap, 0, "tokens that neighbouring windows share, 0 or more")
    if max_windows is None:
        if overlap:
            raise InputError(f"window_overlap={overlap} without windows: pass max_windows= too")
        return None
    allowed = "how many windows of a long document to score, 1 or more, or None to cut it"
    return Windows(whole_number("max_windows", max_windows, 1, allowed), overlap)


def best_windows(scores: NDArray[np.floating[Any]], counts: NDArray[np.intp]) -> NDArray[np.intp]:
    """The first window of each document that has its highest score, counted over all; NaN counts as the highest.

    Args:
        scores: [windows], those of a document one after the other.
        counts: int [documents], windows of each, at least 1.

    >>> best_windows(np.array([1, 3, 3, 2]), np.array([3, 1]))
    array([1, 3])
    """
    starts = np.cumsum(counts) - counts
    best = np.maximum.reduceat(scores, starts) if len(starts) else scores
    wins = np.flatnonzero((scores == np.repeat(best, counts)) | np.isnan(scores))
    _, first = np.unique(np.repeat(np.arange(len(counts)), counts)[wins], return_index=True)
    return wins[first]
