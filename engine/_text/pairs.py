"""Pairs: a query and a document as one sequence, with truncation, special tokens, segments. Pure arrays.

Query and documents are tokenized apart and joined here, so that a query is tokenized once for all
its documents. The result equals, id for id, what the Rust tokenizer gives for the pair with
``truncation="longest_first"``.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from .tokens import Int32, Tokens, gather_index


@dataclass(frozen=True, slots=True)
class PairTemplate:
    """The special tokens around a pair and the segment (token type) of each part.

    ``prefix query middle document suffix``, for BERT ``[CLS] query [SEP] document [SEP]``.

    Attributes:
        special_ids: The special tokens of prefix, middle and suffix.
        special_types: Their token types.
        query_type: The token type of the query's tokens.
        document_type: The token type of the document's tokens.
    """

    special_ids: tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]
    special_types: tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]
    query_type: int
    document_type: int

    @property
    def special_count(self) -> int:
        """Special tokens of a joined pair."""
        prefix, middle, suffix = self.special_ids
        return len(prefix) + len(middle) + len(suffix)


@dataclass(frozen=True, slots=True)
class PackedPairs:
    """Joined pairs of one batch, one after the other, without padding.

    Attributes:
        ids: int32 [tokens].
        types: int32 [tokens], token types (segments).
        lengths: int32 [pairs].
    """

    ids: Int32
    types: Int32
    lengths: Int32


def truncate_longest_first(query_lengths: Int32, document_lengths: Int32, room: int) -> tuple[Int32, Int32]:
    """Tokens that each side of a pair keeps.

    The closed form of the Rust tokenizers' ``longest_first``: if one side alone is over half of the
    room, only it is cut; if both are, the shorter keeps ``room // 2`` and the longer the rest (the
    document on a tie).

    Args:
        query_lengths: int32 [pairs].
        document_lengths: int32 [pairs].
        room: Tokens that fit beside the special tokens, at least 1.

    Returns:
        Kept query tokens and kept document tokens, int32 [pairs] each.

    >>> truncate_longest_first(np.array([4, 9], np.int32), np.array([9, 9], np.int32), 9)
    (array([4, 4], dtype=int32), array([5, 5], dtype=int32))
    """
    fits = query_lengths + document_lengths <= room
    if fits.all():
        return query_lengths, document_lengths
    shorter = np.minimum(query_lengths, document_lengths)
    half = room // 2
    kept_shorter = np.minimum(shorter, half)
    kept_longer = room - kept_shorter
    query_is_longer = query_lengths > document_lengths
    kept_query = np.where(query_is_longer, kept_longer, kept_shorter)
    kept_document = np.where(query_is_longer, kept_shorter, kept_longer)
    return (
        np.where(fits, query_lengths, kept_query).astype(np.int32),
        np.where(fits, document_lengths, kept_document).astype(np.int32),
    )


def enough_document_tokens(query_lengths: Int32, room: int) -> int:
    """How many tokens of a document can matter to any of these queries: with no more of them, every pair is the same.

    Let n be this number, larger than the room and than every query's length q, and let a document of d tokens be known
    by its first min(d, n). If d < n, nothing is missing. Else `truncate_longest_first` decides the same on n as on d:
    both are beyond the room (nothing fits), both are longer than q (which side is the longer one, and the length of the
    shorter), and it keeps at most the room, which are among the first n.

    Args:
        query_lengths: int32 [queries], in full.
        room: Tokens that fit beside the special tokens.

    >>> enough_document_tokens(np.array([4, 9], np.int32), 509)
    510
    """
    return max(room, int(query_lengths.max(initial=0))) + 1


def truncated_documents(query_lengths: Int32, document_lengths: Int32, room: int) -> NDArray[np.bool_]:
    """Whether a joined pair holds less than all of its document: bool [pairs].

    Args:
        query_lengths: int32 [pairs].
        document_lengths: int32 [pairs], up to `enough_document_tokens`, which is always more than a pair keeps.
        room: Tokens that fit beside the special tokens.
    """
    over = query_lengths + document_lengths > room
    if over.any():
        _, kept = truncate_longest_first(query_lengths, document_lengths, room)
        over &= kept < document_lengths
    return over


class PairSource:
    """Pairs that are not joined yet: their lengths now, any batch of them on demand.

    Args:
        template: The special tokens and segments.
        queries: The distinct queries.
        documents: The documents, one per pair.
        query_index: int [pairs], the query of each pair.
        max_length: Most tokens of a joined pair; must leave room beside the special tokens.
    """

    def __init__(
        self,
        template: PairTemplate,
        queries: Tokens,
        documents: Tokens,
        query_index: NDArray[np.intp],
        max_length: int,
    ) -> None:
        specials, starts, self._part_types, query, document = _parts(template)
        first_query = len(specials)
        first_document = first_query + len(queries.ids)
        # One source to gather from: prefix, middle, suffix, then all queries, then all documents.
        self._ids = np.concatenate([specials, queries.ids, documents.ids])
        kept_query, kept_document = truncate_longest_first(
            queries.lengths[query_index], documents.lengths, max_length - first_query
        )
        # [pairs, parts]: where each part starts in the source, and how many tokens of it are taken.
        self._part_starts = np.empty((len(query_index), len(starts)), np.int64)
        self._part_starts[:] = starts
        self._part_starts[:, query] = first_query + queries.offsets[query_index]
        self._part_starts[:, document] = first_document + documents.offsets[:-1]
        self._part_lengths = np.empty(self._part_starts.shape, np.int64)
        self._part_lengths.fill(1)
        self._part_lengths[:, query], self._part_lengths[:, document] = kept_query, kept_document
        self.lengths: Int32 = kept_query + kept_document + np.int32(first_query)

    def batch(self, index: NDArray[np.intp]) -> PackedPairs:
        """Join the pairs at ``index``, in that order."""
        counts = self._part_lengths[index]
        types = np.empty(counts.shape, np.int32)
        types[:] = self._part_types
        counts = counts.ravel()
        gather = gather_index(self._part_starts[index].ravel(), counts)
        return PackedPairs(ids=self._ids[gather], types=types.ravel().repeat(counts), lengths=self.lengths[index])


@lru_cache(maxsize=64)
def _parts(template: PairTemplate) -> tuple[Int32, NDArray[np.int64], Int32, int, int]:
    """The parts of a pair, of which a special token is one by itself, so that each is of one type.

    Returns:
        All special tokens, int32; of each part where it starts in them, int64, and its type, int32; and which parts are
        the query and the document.
    """
    first, second, third = template.special_types
    query, document = len(first), len(first) + 1 + len(second)
    specials = np.array(sum(template.special_ids, ()), np.int32)
    starts = np.insert(np.arange(len(specials)), [query, document - 1], 0)
    types = np.array((*first, template.query_type, *second, template.document_type, *third), np.int32)
    return specials, starts, types, query, document
