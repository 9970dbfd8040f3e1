"""Made-up texts: the same everywhere, and as long and as varied as real ones."""

import hashlib
import re
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from tokenizers import Tokenizer

from crossrank._text.sample_texts import sample_texts
from tests.support import large_data

PASSAGES = 4300
# Figures of as many real passages: BM25's 100 for each of TREC Deep Learning 2019's 43 queries. The last test compares
# them with the texts, which are no part of the repository.
SHARES = (5, 10, 25, 50, 75, 90, 95, 99)  # percentiles
REAL_WORDS, REAL_WORDS_MEAN = (32, 36, 44, 55, 80, 99, 110, 134), 62.64
TOKEN_SHARES = (5, 25, 50, 75, 95, 99)
REAL_TOKENS = {
    "crossrank-mini-en": ((43, 60, 76, 109, 153, 185), 86.04),
    "ms-marco-MiniLM-L12-v2": ((42, 59, 75, 108, 152, 183), 85.24),
}
# Different words of so many passages, on average; of the real ones each hundred belongs to a query.
REAL_DISTINCT_WORDS = {100: 1179.8, 1000: 6720.2, PASSAGES: 17141}


@pytest.fixture(scope="module")
def passages() -> list[str]:
    return sample_texts(PASSAGES, kind="document", seed=7)


def _words(texts: list[str]) -> np.ndarray:
    """int64 [texts]: words of each."""
    return np.array([len(text.split()) for text in texts])


def _tokens(folder: Path, texts: list[str]) -> np.ndarray:
    """int64 [texts]: WordPiece tokens of each."""
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return np.array([len(encoding.ids) for encoding in tokenizer.encode_batch(texts, add_special_tokens=False)])


def _distinct_words(texts: list[str], count: int) -> float:
    """Different words of ``count`` texts, on average."""
    words = [set(re.findall(r"[^\W_]+", text.lower())) for text in texts]
    groups = range(0, len(texts) - count + 1, count)
    return float(np.mean([len(set[str]().union(*words[i : i + count])) for i in groups]))


@pytest.mark.parametrize(
    ("kind", "digest"),
    [
        ("document", "ffcb541832d42e1911fc8ed2a89750852b4861563cbbefb227fcdbb88f1c3ade"),
        ("query", "12909679c1252490a7f98647fe2dd4813e766b6853d2242225d36dd104f487cd"),
    ],
)
def test_a_seed_gives_the_same_texts_on_every_machine_and_version(
    kind: Literal["query", "document"], digest: str
) -> None:
    """Speeds of two machines are those of one workload. A change of the texts changes the digest, on purpose."""
    texts = sample_texts(1000, kind=kind, seed=7)
    assert hashlib.sha256("\n".join(texts).encode()).hexdigest() == digest


@pytest.mark.parametrize("kind", ["query", "document"])
def test_a_longer_list_begins_with_the_shorter_one(kind: Literal["query", "document"]) -> None:
    texts = sample_texts(250, kind=kind, seed=3)
    for count in (0, 1, 100, 101, 249):
        assert sample_texts(count, kind=kind, seed=3) == texts[:count]


def test_other_seeds_give_other_passages(passages: list[str]) -> None:
    assert not set(passages) & set(sample_texts(PASSAGES, kind="document", seed=8))
    assert len(set(passages)) == PASSAGES


def test_texts_are_lines_without_spaces_around_them(passages: list[str]) -> None:
    for text in passages + sample_texts(1000, kind="query", seed=7):
        assert text
        assert text == " ".join(text.split())


def test_lengths_are_those_of_real_passages(passages: list[str]) -> None:
    """Within 8% at every quantile; the largest difference found was 5%."""
    words = _words(passages)
    np.testing.assert_allclose(np.percentile(words, SHARES), REAL_WORDS, rtol=0.08)
    np.testing.assert_allclose(words.mean(), REAL_WORDS_MEAN, rtol=0.03)


def test_tokens_are_as_many_as_those_of_real_passages(passages: list[str], trained_checkpoint: Path) -> None:
    """The mean within 5% (3% found) and the quantiles within 10%: what the time of a model depends on."""
    tokens = _tokens(trained_checkpoint, passages)
    quantiles, mean = REAL_TOKENS[trained_checkpoint.name]
    np.testing.assert_allclose(tokens.mean(), mean, rtol=0.05)
    np.testing.assert_allclose(np.percentile(tokens, TOKEN_SHARES), quantiles, rtol=0.1)


def test_new_words_come_as_often_as_in_real_passages(passages: list[str]) -> None:
    """Within 25% (+19%, +4%, -15% found): what a tokenizer's memory of words gains, in one call of 100 and in many."""
    for count, real in REAL_DISTINCT_WORDS.items():
        np.testing.assert_allclose(_distinct_words(passages, count), real, rtol=0.25)


def test_some_texts_hold_letters_beyond_ascii(passages: list[str]) -> None:
    assert 0.1 < np.mean([not text.isascii() for text in passages]) < 0.25


def test_queries_are_short_and_without_punctuation(trained_checkpoint: Path) -> None:
    queries = sample_texts(1000, kind="query", seed=7)
    words = [len(query.split()) for query in queries]
    assert min(words) >= 2
    assert max(words) <= 11
    assert 5 <= np.mean(words) <= 6
    assert 6.5 <= _tokens(trained_checkpoint, queries).mean() <= 8  # 7.0 of the real ones
    assert all(word.isalnum() for query in queries for word in query.split())


@pytest.mark.data(large_data.TREC_DL19)
def test_the_real_passages_have_the_figures_above(trained_checkpoint: Path) -> None:
    texts = [passage for _, passages in large_data.read_run() for passage in passages]
    assert len(texts) == PASSAGES
    words, tokens = _words(texts), _tokens(trained_checkpoint, texts)
    assert tuple(np.percentile(words, SHARES)) == REAL_WORDS
    assert round(words.mean(), 2) == REAL_WORDS_MEAN
    quantiles = tuple(np.percentile(tokens, TOKEN_SHARES).round())
    assert (quantiles, round(tokens.mean(), 2)) == REAL_TOKENS[trained_checkpoint.name]
    assert {count: round(_distinct_words(texts, count), 1) for count in REAL_DISTINCT_WORDS} == REAL_DISTINCT_WORDS
