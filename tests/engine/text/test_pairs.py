"""Truncation against the Rust tokenizer at every small length, and joining against plain Python."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from crossrank._text.pairs import PackedPairs, PairSource, PairTemplate, enough_document_tokens, truncate_longest_first
from crossrank._text.tokens import Tokens

LONGEST = 13  # every combination of two lengths up to this one, and every room that can matter to them


@pytest.fixture(scope="module")
def word_tokenizer() -> Tokenizer:
    """One token for each word, and BERT's three special tokens around a pair."""
    tokenizer = Tokenizer(models.WordLevel({"[CLS]": 0, "[SEP]": 1, "q": 2, "d": 3}, unk_token="q"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 0), ("[SEP]", 1)],
    )
    return tokenizer


@pytest.mark.parametrize("room", range(1, 2 * LONGEST + 2))
def test_truncation_is_the_rust_tokenizers_for_all_small_lengths(word_tokenizer: Tokenizer, room: int) -> None:
    lengths = list(itertools.product(range(LONGEST + 1), repeat=2))
    word_tokenizer.enable_truncation(room + 3, strategy="longest_first")
    encodings = word_tokenizer.encode_batch([("q " * query, "d " * document) for query, document in lengths])
    expected = [(encoding.ids.count(2), encoding.ids.count(3)) for encoding in encodings]
    query_lengths, document_lengths = np.array(lengths, np.int32).T
    kept = truncate_longest_first(query_lengths, document_lengths, room)
    assert list(zip(kept[0].tolist(), kept[1].tolist(), strict=True)) == expected


@settings(deadline=None)  # the machine may be busy
@given(st.integers(0, 100_000), st.integers(0, 100_000), st.integers(1, 600))
def test_truncation_fills_the_room_and_never_lengthens(query: int, document: int, room: int) -> None:
    kept_query, kept_document = (
        int(kept[0])
        for kept in truncate_longest_first(np.array([query], np.int32), np.array([document], np.int32), room)
    )
    assert 0 <= kept_query <= query
    assert 0 <= kept_document <= document
    assert kept_query + kept_document == min(query + document, room)


def test_truncation_leaves_its_input_alone() -> None:
    query, document = np.array([9, 1], np.int32), np.array([9, 30], np.int32)
    kept = truncate_longest_first(query, document, 8)
    assert [side.dtype for side in kept] == [np.int32, np.int32]
    assert (query.tolist(), document.tolist()) == ([9, 1], [9, 30])


def _assert_enough(queries: list[int], document: int, room: int) -> None:
    """Each query's pair with a document keeps the same of both if the document is known only as far as is enough."""
    query_lengths = np.array(queries, np.int32)
    enough = enough_document_tokens(query_lengths, room)
    whole, known = (
        truncate_longest_first(query_lengths, np.full(len(queries), length, np.int32), room)
        for length in (document, min(document, enough))
    )
    assert [side.tolist() for side in known] == [side.tolist() for side in whole]
    assert (known[1] <= enough).all()


def test_enough_of_a_document_changes_no_pair_of_small_lengths() -> None:
    for query, document, room in itertools.product(range(LONGEST), range(3 * LONGEST), range(1, LONGEST)):
        _assert_enough([query], document, room)


@given(st.lists(st.integers(0, 3000), max_size=5), st.integers(0, 10_000), st.integers(1, 600))
def test_enough_of_a_document_changes_no_pair(queries: list[int], document: int, room: int) -> None:
    _assert_enough(queries, document, room)


def test_enough_is_little_more_than_the_room_where_no_query_fills_it() -> None:
    assert enough_document_tokens(np.array([3, 9], np.int32), 509) == 510
    assert enough_document_tokens(np.array([], np.int32), 509) == 510
    # An odd token goes to the longer side: the document's length counts until it is longer than the query.
    assert enough_document_tokens(np.array([3, 900], np.int32), 509) == 901


def _tokens(texts: list[list[int]]) -> Tokens:
    flat = [token for text in texts for token in text]
    return Tokens(np.array(flat, np.int32), np.cumsum([0, *map(len, texts)], dtype=np.int64))


def _join(
    template: PairTemplate, query: list[int], document: list[int], max_length: int
) -> tuple[list[int], list[int]]:
    """The definition, one pair at a time."""
    room = max_length - template.special_count
    kept = truncate_longest_first(np.array([len(query)], np.int32), np.array([len(document)], np.int32), room)
    query, document = query[: int(kept[0][0])], document[: int(kept[1][0])]
    prefix, middle, suffix = map(list, template.special_ids)
    prefix_types, middle_types, suffix_types = map(list, template.special_types)
    types = [
        *prefix_types,
        *[template.query_type] * len(query),
        *middle_types,
        *[template.document_type] * len(document),
        *suffix_types,
    ]
    return [*prefix, *query, *middle, *document, *suffix], types


token_ids = st.integers(0, 300_000)
texts_of_tokens = st.lists(st.lists(token_ids, max_size=12), min_size=1, max_size=6)


@st.composite
def templates(draw: st.DrawFn) -> PairTemplate:
    ids = [tuple(draw(st.lists(token_ids, max_size=2))) for _ in range(3)]
    types = [tuple(draw(st.integers(0, 1)) for _ in part) for part in ids]
    return PairTemplate(
        (ids[0], ids[1], ids[2]),
        (types[0], types[1], types[2]),
        draw(st.integers(0, 1)),
        draw(st.integers(0, 1)),
    )


@settings(deadline=None)
@given(st.data(), templates(), texts_of_tokens, texts_of_tokens, st.integers(1, 30))
def test_a_batch_equals_joining_in_plain_python(
    data: st.DataObject, template: PairTemplate, queries: list[list[int]], documents: list[list[int]], room: int
) -> None:
    query_index = data.draw(
        st.lists(st.integers(0, len(queries) - 1), min_size=len(documents), max_size=len(documents))
    )
    max_length = template.special_count + room
    source = PairSource(template, _tokens(queries), _tokens(documents), np.array(query_index, np.intp), max_length)
    joined = [
        _join(template, queries[query], document, max_length)
        for query, document in zip(query_index, documents, strict=True)
    ]
    assert source.lengths.tolist() == [len(ids) for ids, _ in joined]
    # Any order, some pairs twice, others not at all.
    chosen = data.draw(st.lists(st.integers(0, len(documents) - 1), max_size=8))
    batch = source.batch(np.array(chosen, np.intp))
    assert batch.ids.tolist() == [token for i in chosen for token in joined[i][0]]
    assert batch.types.tolist() == [token for i in chosen for token in joined[i][1]]
    assert batch.lengths.tolist() == [len(joined[i][0]) for i in chosen]


def test_a_batch_is_int32() -> None:
    template = PairTemplate(((1,), (2,), (2,)), ((0,), (0,), (1,)), 0, 1)
    source = PairSource(template, _tokens([[7, 8]]), _tokens([[9], []]), np.zeros(2, np.intp), 16)
    batch: PackedPairs = source.batch(np.arange(2))
    assert [array.dtype for array in (batch.ids, batch.types, batch.lengths)] == [np.int32] * 3
    assert batch.ids.tolist() == [1, 7, 8, 2, 9, 2, 1, 7, 8, 2, 2]  # an empty document keeps its separator
    assert batch.types.tolist() == [0, 0, 0, 0, 1, 1, 0, 0, 0, 0, 1]
