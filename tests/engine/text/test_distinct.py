"""Equal pairs of a call are found, whether their documents stay in memory or not."""

import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from crossrank._text.distinct import DistinctPairs
from crossrank._text.tokens import Tokens

MANY = 40  # documents of which samples are taken

Ints = NDArray[np.intp]


def tokens_of(rows: list[list[int]]) -> Tokens:
    ids = np.array([token for row in rows for token in row], np.int32)
    return Tokens(ids, np.cumsum([0, *map(len, rows)], dtype=np.int64))


def find_all(documents: Tokens, queries: Ints, enough: int, step: int, *, stay: bool) -> tuple[Ints, Ints]:
    """New pairs and likes of a call, counted over it, found in chunks."""
    pairs = DistinctPairs(documents, queries) if stay else DistinctPairs()
    new, like = [], []
    for start in range(0, len(queries), step):
        part = documents.part(start, start + step)
        some, places = pairs.find(part, queries[start : start + step], enough)
        new.append(some + start)
        like.append(places)
    return np.concatenate(new), np.concatenate(like)


@pytest.mark.parametrize("stay", [False, True])
@given(
    rows=st.lists(st.lists(st.integers(0, 2), max_size=14), min_size=MANY, max_size=2 * MANY),
    queries=st.integers(1, 3),
    enough=st.sampled_from([1, 3, 13, 512]),
    step=st.sampled_from([1, 7, 1000]),
)
def test_the_first_pair_that_is_the_same_is_found(
    stay: bool, rows: list[list[int]], queries: int, enough: int, step: int
) -> None:
    """Few tokens, so that many documents differ where no sample of them is taken."""
    index = np.arange(len(rows)) % queries
    seen: dict[tuple[int, tuple[int, ...]], int] = {}
    expected = [seen.setdefault((i % queries, tuple(row[:enough])), i) for i, row in enumerate(rows)]
    new, like = find_all(tokens_of(rows), index, enough, step, stay=stay)
    assert like.tolist() == expected
    assert new.tolist() == sorted(set(expected))


def test_documents_that_differ_between_their_samples_alone_are_two() -> None:
    rows = [[5] * 100 for _ in range(MANY)]
    rows[3][1] = rows[9][1] = 6
    rows[7][2] = 6
    _, like = find_all(tokens_of(rows), np.zeros(MANY, np.intp), 512, 16, stay=True)
    assert like.tolist() == [{3: 3, 9: 3, 7: 7}.get(i, 0) for i in range(MANY)]


def test_equal_documents_of_other_queries_are_other_pairs_whatever_their_samples_say(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("crossrank._text.distinct._samples", lambda documents, queries, enough: [0] * len(queries))
    _, like = find_all(tokens_of([[5]] * MANY), np.arange(MANY) // 20, 512, 1000, stay=True)
    assert like.tolist() == [0] * 20 + [20] * 20


def test_long_documents_that_are_the_same_are_compared_in_bounded_memory() -> None:
    documents = Tokens(np.tile(np.arange(8000, dtype=np.int32), 512), np.arange(513) * 8000)
    queries = np.zeros(512, np.intp)
    tracemalloc.start()
    try:
        _, like = DistinctPairs(documents, queries).find(documents, queries, 8191)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert not like.any()
    assert peak < 60e6
