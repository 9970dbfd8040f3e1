"""Joined pairs equal the fast tokenizers' id for id, and what `PairTokenizer` says of files and texts.

Two references: transformers' fast tokenizer called with lists (its call with two plain strings drops the
separator of an empty document) and the Rust tokenizer with truncation enabled. Equality is exact: ids and
token types are integers.
"""

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from crossrank import CheckpointError, InputError
from crossrank._text.pairs import PairSource, PairTemplate, enough_document_tokens
from crossrank._text.tokenizer import PairTokenizer
from tests.support.large_data import MINILM, MULTILINGUAL_BERT, XLM_ROBERTA, case
from tests.support.random_texts import EMOJI, MARKS, SCRIPTS, SPACES, SPECIAL, WORDS, random_text
from tests.support.trained_tokenizers import train_byte_level_bpe, train_unigram, train_wordpiece

Pairs = Sequence[tuple[str, str]]
Joined = list[tuple[list[int], list[int]]]

# Pairs of each kind of tokenizer in the seeded run.
FUZZ_PAIRS = 10_000
# The references build an encoding for every pair of pieces that truncation cuts off: two texts of 5,000 tokens
# at a max_length of 4 take them 25 million, and all of the memory.
LEAST_FOR_LONG = 128
TRAINED = {
    "WordPiece multilingual": lambda: train_wordpiece(lowercase=False),
    "BPE": train_byte_level_bpe,
    "Unigram": train_unigram,
}
KINDS = [
    "WordPiece of the embedded model",
    *TRAINED,
    case(MINILM),
    case(MULTILINGUAL_BERT),
    case(XLM_ROBERTA),
]


@dataclass(frozen=True)
class Kind:
    """A tokenizer three times: ours, transformers' and the Rust one."""

    ours: PairTokenizer
    transformers: Any
    rust: Tokenizer

    @property
    def least(self) -> int:
        """The smallest max_length that leaves room for a token."""
        return self.ours.template.special_count + 1


def _byte_level_bpe(path: Path) -> None:
    train_byte_level_bpe().save(str(path))


@pytest.fixture(scope="module", params=KINDS)
def kind(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Kind:
    if request.param in TRAINED:
        path = tmp_path_factory.mktemp("trained") / "tokenizer.json"
        TRAINED[request.param]().save(str(path))
    else:
        embedded = isinstance(request.param, str)
        folder: Path = request.getfixturevalue("embedded_checkpoint") if embedded else request.param
        path = folder / "tokenizer.json"
    if (path.parent / "config.json").exists():
        theirs = AutoTokenizer.from_pretrained(path.parent)  # built by transformers from all of the folder's files
    else:
        theirs = PreTrainedTokenizerFast(tokenizer_file=str(path))
    rust = Tokenizer.from_file(str(path))
    rust.no_padding()
    ours = PairTokenizer(path)
    assert ours.kind == type(rust.model).__name__
    return Kind(ours, theirs, rust)


def join(tokenizer: PairTokenizer, pairs: Pairs, max_length: int) -> Joined:
    """Ids and types of each pair, the engine's way: each distinct query tokenized once."""
    queries = list(dict.fromkeys(query for query, _ in pairs))
    index = {query: i for i, query in enumerate(queries)}
    query_tokens = tokenizer.encode(queries, "query")
    enough = enough_document_tokens(query_tokens.lengths, max_length - tokenizer.template.special_count)
    source = PairSource(
        tokenizer.template,
        query_tokens,
        tokenizer.encode([document for _, document in pairs], "document", enough=enough),
        np.array([index[query] for query, _ in pairs], np.intp),
        max_length,
    )
    batch = source.batch(np.arange(len(pairs)))
    ends = np.cumsum(batch.lengths)[:-1]
    return [
        (ids.tolist(), types.tolist())
        for ids, types in zip(np.split(batch.ids, ends), np.split(batch.types, ends), strict=True)
    ]


def join_by_transformers(tokenizer: Any, pairs: Pairs, max_length: int) -> Joined:
    encoded = tokenizer(
        [query for query, _ in pairs],
        [document for _, document in pairs],
        truncation="longest_first",
        max_length=max_length,
        return_token_type_ids=True,
        return_attention_mask=False,
    )
    return list(zip(encoded["input_ids"], encoded["token_type_ids"], strict=True))


def join_by_rust(tokenizer: Tokenizer, pairs: Pairs, max_length: int) -> Joined:
    tokenizer.enable_truncation(max_length, strategy="longest_first")
    return [(encoding.ids, encoding.type_ids) for encoding in tokenizer.encode_batch(list(pairs))]


def assert_equal(pairs: Pairs, max_length: int, ours: Joined, theirs: Joined) -> None:
    assert len(ours) == len(theirs) == len(pairs)
    for pair, left, right in zip(pairs, ours, theirs, strict=True):
        assert left == right, f"{pair!r} at max_length {max_length}"


def test_joined_pairs_equal_both_references_for_10000_random_pairs(kind: Kind) -> None:
    rng = random.Random(20240607)
    queries, short, documents, long = (
        [random_text(rng, pieces) for _ in range(count)]
        for pieces, count in ((5, 400), (10, 2000), (30, 1000), (800, 20))
    )
    lengths = [*range(kind.least, kind.least + 24), 32, 47, 48, 64, 127, 128, 256, 511, 512]
    per_length = -(-FUZZ_PAIRS // len(lengths))
    for max_length in lengths:
        pairs = [(rng.choice(queries), rng.choice(short if max_length < 32 else documents)) for _ in range(per_length)]
        if max_length >= LEAST_FOR_LONG:
            pairs[:15] = [(rng.choice(queries), rng.choice(long)) for _ in range(15)]
            pairs[15:20] = [(rng.choice(long), rng.choice(long)) for _ in range(5)]
        if rng.random() < 0.5:  # a query is mostly the shorter side; not always
            pairs = [(document, query) for query, document in pairs]
        ours = join(kind.ours, pairs, max_length)
        assert_equal(pairs, max_length, ours, join_by_transformers(kind.transformers, pairs, max_length))
        assert_equal(pairs, max_length, ours, join_by_rust(kind.rust, pairs, max_length))


def test_every_truncation_case_equals_both_references(kind: Kind) -> None:
    # All pairs of lengths around every room: nothing cut, one side over half the room, both, a tie, odd and even.
    pairs = [("a " * query, "the " * document) for query in range(9) for document in range(9)]
    for max_length in range(kind.least, kind.least + 18):
        ours = join(kind.ours, pairs, max_length)
        assert_equal(pairs, max_length, ours, join_by_transformers(kind.transformers, pairs, max_length))
        assert_equal(pairs, max_length, ours, join_by_rust(kind.rust, pairs, max_length))


# No text is longer than some hundred tokens: see LEAST_FOR_LONG.
pieces = st.sampled_from([*SPECIAL, *WORDS, *SCRIPTS, *EMOJI, *MARKS, *SPACES]) | st.text(max_size=10)
texts = st.lists(pieces, max_size=12).map("".join)


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(texts, texts), min_size=1, max_size=30), st.integers(0, 60))
def test_joined_pairs_equal_transformers_for_texts_that_hypothesis_makes_up(
    kind: Kind, pairs: list[tuple[str, str]], room: int
) -> None:
    max_length = kind.least + room
    expected = join_by_transformers(kind.transformers, pairs, max_length)
    assert_equal(pairs, max_length, join(kind.ours, pairs, max_length), expected)


@pytest.mark.parametrize(
    "pair",
    [
        ("", ""),
        ("query", ""),
        ("", "document"),
        (" ", "\n\t"),
        ("what is [SEP] for", "[CLS] starts, [PAD] fills, [MASK] hides, [UNK] is unknown"),
        ("what is </s> for", "<s> starts, <pad> fills, <mask> hides, <unk> is unknown"),
        ("[SEP]", "</s>"),
        ("word " * 2000, "document " * 2000),
        ("x" * 3000, "日" * 3000),
        ("👩‍👩‍👧‍👦", "e\u0301\u0301\u0301 🇩🇪🇫🇷"),
    ],
    ids=lambda pair: ascii(pair)[:40],
)
def test_named_edge_cases_equal_transformers(kind: Kind, pair: tuple[str, str]) -> None:
    for max_length in (kind.least, kind.least + 1, LEAST_FOR_LONG, 512):
        if max_length < LEAST_FOR_LONG and len(pair[0]) > 1000:
            continue
        expected = join_by_transformers(kind.transformers, [pair], max_length)
        assert_equal([pair], max_length, join(kind.ours, [pair], max_length), expected)


def _long_text(rng: random.Random, characters: int) -> str:
    """Random pieces; some of them, now and then with nothing between, over and over."""
    text = ""
    while len(text) < characters:
        text += random_text(rng, 200) + rng.choice((" ", "", "\n", "日本語" * 500, "x" * 3000, " " * 2000, "." * 2000))
    return text


def test_long_texts_join_as_both_references_join_them(kind: Kind) -> None:
    # Longer than what goes to the tokenizer at once: one side, the other, both.
    rng = random.Random(5)
    lengths = [(50, 30_000), (30_000, 50), (4_097, 4_095), (4_200, 6_000), (6_000, 4_200)]
    pairs = [(_long_text(rng, query), _long_text(rng, document)) for query, document in lengths]
    pairs += [("word " * 1000, "word " * (1000 + i)) for i in (-1, 0, 1)]  # which is the longer shows at the end
    for max_length in (511, 512):  # an odd and an even room
        ours = join(kind.ours, pairs, max_length)
        assert_equal(pairs, max_length, ours, join_by_rust(kind.rust, pairs, max_length))
        assert_equal(pairs, max_length, ours, [join(kind.ours, [pair], max_length)[0] for pair in pairs])
    assert_equal(pairs[::3], 512, ours[::3], join_by_transformers(kind.transformers, pairs[::3], 512))


@settings(max_examples=15)
@given(
    some=st.lists(pieces, max_size=12).map("".join).filter(len),
    others=st.lists(pieces, max_size=12).map("".join),
    times=st.integers(1, 4),
    enough=st.integers(0, 3000),
)
def test_ids_of_long_texts_are_the_rust_tokenizers(kind: Kind, some: str, others: str, times: int, enough: int) -> None:
    text = some * (times * 4000 // len(some)) + others * 20
    kind.rust.no_truncation()
    expected = kind.rust.encode(text, add_special_tokens=False).ids
    assert kind.ours.encode([text], "query").ids.tolist() == expected
    tokens = kind.ours.encode(["", text, "a"], "document", enough=enough)
    known = tokens.ids[tokens.offsets[1] : tokens.offsets[2]].tolist()
    assert len(known) >= min(enough, len(expected))
    assert known == expected[: len(known)]


def test_a_text_without_a_place_to_cut_gives_all_its_ids(kind: Kind) -> None:
    kind.rust.no_truncation()
    text = "unbelievable" * 1000
    expected = kind.rust.encode(text, add_special_tokens=False).ids
    assert kind.ours.encode([text], "document", enough=10).ids.tolist()[:10] == expected[:10]
    assert kind.ours.encode([text], "document").ids.tolist() == expected


def test_a_lone_surrogate_is_refused_in_what_is_not_tokenized_too(kind: Kind) -> None:
    with pytest.raises(InputError, match="document 7 holds a lone surrogate: 'word word"):
        kind.ours.encode(["fine", "word " * 100_000 + "\udcff"], "document", first=6, enough=10)


# The ids of [CLS] and [SEP].
BERTS = {"crossrank-mini-en": (2, 3), "ms-marco-MiniLM-L12-v2": (101, 102)}


def test_text_that_spells_a_special_token_becomes_it(trained_checkpoint: Path) -> None:
    tokenizer = PairTokenizer(trained_checkpoint / "tokenizer.json")
    _, sep = BERTS[trained_checkpoint.name]
    assert tokenizer.encode(["[SEP] [PAD]"], "query").ids.tolist() == [sep, 0]


def test_template_of_bert_puts_the_document_and_its_separator_in_segment_1(trained_checkpoint: Path) -> None:
    cls, sep = BERTS[trained_checkpoint.name]
    assert PairTokenizer(trained_checkpoint / "tokenizer.json").template == PairTemplate(
        special_ids=((cls,), (sep,), (sep,)), special_types=((0,), (0,), (1,)), query_type=0, document_type=1
    )


def test_template_of_roberta_has_two_separators_and_one_segment(tmp_path: Path) -> None:
    _byte_level_bpe(tmp_path / "tokenizer.json")
    assert PairTokenizer(tmp_path / "tokenizer.json").template == PairTemplate(
        special_ids=((0,), (2, 2), (2,)), special_types=((0,), (0, 0), (0,)), query_type=0, document_type=0
    )


def test_padding_and_truncation_of_the_file_are_ignored(tmp_path: Path) -> None:
    _byte_level_bpe(tmp_path / "plain.json")
    tokenizer = Tokenizer.from_file(str(tmp_path / "plain.json"))
    tokenizer.enable_padding(length=64, pad_id=1, pad_token="<pad>")
    tokenizer.enable_truncation(5)
    tokenizer.save(str(tmp_path / "baked.json"))
    assert json.loads((tmp_path / "baked.json").read_text("utf-8"))["padding"]["strategy"] == {"Fixed": 64}
    pairs = [("the quick brown fox", "of ranking passages"), ("", "")]
    plain, baked = (PairTokenizer(tmp_path / name) for name in ("plain.json", "baked.json"))
    assert join(baked, pairs, 512) == join(plain, pairs, 512)


def test_texts_beyond_one_call_keep_their_place(tmp_path: Path) -> None:
    # More than the 512 texts that go to the tokenizer at once; every 7th is empty.
    _byte_level_bpe(tmp_path / "tokenizer.json")
    tokenizer = PairTokenizer(tmp_path / "tokenizer.json")
    many = ["" if i % 7 == 0 else f"{'fox ' * (i % 5)}number {i}" for i in range(1300)]
    tokens = tokenizer.encode(many, "document")
    assert tokens.lengths.sum() == len(tokens.ids)
    for i in (0, 1, 511, 512, 513, 1023, 1024, 1295, 1299):
        alone = tokenizer.encode([many[i]], "document").ids
        assert tokens.ids[tokens.offsets[i] : tokens.offsets[i + 1]].tolist() == alone.tolist()


def test_no_texts_give_no_tokens(tmp_path: Path) -> None:
    _byte_level_bpe(tmp_path / "tokenizer.json")
    tokens = PairTokenizer(tmp_path / "tokenizer.json").encode([], "document")
    assert (tokens.ids.tolist(), tokens.offsets.tolist()) == ([], [0])
    assert tokens.ids.dtype == np.int32


def test_a_text_that_is_no_string_is_named_with_the_callers_index(tmp_path: Path) -> None:
    _byte_level_bpe(tmp_path / "tokenizer.json")
    tokenizer = PairTokenizer(tmp_path / "tokenizer.json")
    wrong: list[Any] = ["fine", None]
    with pytest.raises(InputError, match="document 4097 is NoneType, not str: None"):
        tokenizer.encode(wrong, "document", first=4096)


@pytest.mark.parametrize("content", ["", "{}", "no json", '{"version": "1.0", "model": {"type": "Nothing"}}'])
def test_a_file_that_is_no_tokenizer_is_refused_with_its_path(tmp_path: Path, content: str) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(CheckpointError, match=r"tokenizer\.json: not a tokenizer\.json that tokenizers can read"):
        PairTokenizer(path)


def test_an_absent_file_is_refused_with_its_path(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"absent\.json"):
        PairTokenizer(tmp_path / "absent.json")


def test_a_template_with_the_document_first_is_refused(tmp_path: Path) -> None:
    tokenizer = Tokenizer(models.WordLevel({"[CLS]": 0, "[SEP]": 1, "a": 2, "b": 3, "c": 4}, unk_token="a"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $B [SEP] $A:1 [SEP]:1", special_tokens=[("[CLS]", 0), ("[SEP]", 1)]
    )
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(CheckpointError, match="joins a pair in no known way"):
        PairTokenizer(tmp_path / "tokenizer.json")
