"""Parts of a text tokenize, one after the other, to exactly what the Rust tokenizer makes of the whole text."""

import random
import struct
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers

from crossrank._artifact.origin import EMBEDDED_MODEL
from crossrank._text.safe_cuts import Cuts, find_cuts
from tests.support.large_data import MINILM, MULTILINGUAL_BERT, XLM_ROBERTA, XQUAD, case, read_xquad
from tests.support.random_texts import CONTROLS, EMOJI, MARKS, SCRIPTS, SPACES, SPECIAL, WORDS, random_text
from tests.support.texts import SPACED, running_text
from tests.support.trained_tokenizers import train_unigram, train_wordpiece

# What could see a cut: letters of which a normalizer makes spaces or marks, or that join a neighbour, contractions.
AWKWARD = (
    "ﷺ", "ͺ", "ﱠ", "\u06001", "ี", "ำ", "가", "ᅡ", "ㄱㅏ", "ﾞ", "カﾞ", "में", "हिन्दी", "``", "'s", "'", '"', "。", "，",
    "Σ", "ΟΔΟΣ", "\u0345", "½", "Ⅷ", "x", "y2", "\n", "\n\n", "a\nb", "中", "foo bar", "fox",
)  # fmt: skip
TEXTS = [" ".join(WORDS), " ".join(SCRIPTS), "東京 の天気 は晴れです。", "the fox and the other fox"] * 3


def _wordpiece(normalizer: Any) -> Tokenizer:
    letters = sorted({letter for text in TEXTS for letter in text if letter.isprintable() and letter != " "})
    entries = dict.fromkeys(["[UNK]", "[SEP]", *letters, *(f"##{letter}" for letter in letters), "fox", "the", "quick"])
    tokenizer = Tokenizer(models.WordPiece({entry: i for i, entry in enumerate(entries)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.add_special_tokens(["[UNK]", "[SEP]"])
    return tokenizer


def _byte_level(*, prefix: bool = False) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=prefix)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=600, special_tokens=["<s>", "</s>"], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(TEXTS, trainer)
    tokenizer.add_special_tokens([AddedToken("<mask>", lstrip=True, special=True)])
    return tokenizer


def _unigram(normalizer: Any, splitter: Any) -> Tokenizer:
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizer, splitter
    trainer = trainers.UnigramTrainer(
        vocab_size=300, special_tokens=["<s>", "<unk>"], unk_token="<unk>", show_progress=False
    )
    tokenizer.train_from_iterator(TEXTS, trainer)
    tokenizer.add_special_tokens([AddedToken("<mask>", lstrip=True, special=True)])
    return tokenizer


def _with(tokenizer: Tokenizer, *added: AddedToken) -> Tokenizer:
    tokenizer.add_tokens(list(added))
    return tokenizer


def _xlm_roberta(scheme: str = "always") -> Tokenizer:
    runs = normalizers.Replace(Regex(" {2,}"), " ")
    metaspace = pre_tokenizers.Metaspace(prepend_scheme=scheme)
    return _unigram(
        normalizers.Sequence([normalizers.Nmt(), normalizers.NFKC(), runs]),
        pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), metaspace]),
    )


def _charsmap() -> normalizers.Normalizer:
    """A Precompiled that maps nothing: a trie of 256 empty units, and no strings."""
    return normalizers.Precompiled(struct.pack("<I", 1024) + bytes(1025))


def _xlm_roberta_of_transformers_4() -> Tokenizer:
    steps = [_charsmap(), normalizers.Strip(left=False), normalizers.Replace(Regex(" {2,}"), "▁")]
    return _unigram(normalizers.Sequence(steps), pre_tokenizers.Metaspace(prepend_scheme="always"))


def _deberta() -> Tokenizer:
    """Strips both ends, and looks for an added token in normalized text: before it, a space counts."""
    steps = [normalizers.Strip(), normalizers.NFKC(), normalizers.Replace(Regex(" {2,}"), "▁")]
    tokenizer = _unigram(normalizers.Sequence(steps), pre_tokenizers.Metaspace(prepend_scheme="always"))
    return _with(tokenizer, AddedToken("[UNK]", normalized=True), AddedToken("[SEP]", normalized=False))


def _albert() -> Tokenizer:
    steps = [
        normalizers.Replace("``", '"'),
        normalizers.NFKD(),
        normalizers.StripAccents(),
        normalizers.Lowercase(),
        normalizers.Replace(Regex(" {2,}"), " "),
    ]
    return _unigram(normalizers.Sequence(steps), pre_tokenizers.Metaspace(prepend_scheme="never"))


def _modernbert() -> Tokenizer:
    """Runs of spaces are tokens, and so are words."""
    tokenizer = _byte_level()
    tokenizer.normalizer = normalizers.NFC()
    return _with(tokenizer, *(AddedToken(" " * n) for n in (2, 3)), AddedToken("fox", lstrip=True))


KINDS: dict[str, Callable[[], Tokenizer]] = {
    "WordPiece uncased": lambda: _wordpiece(normalizers.BertNormalizer()),
    "WordPiece cased": lambda: _wordpiece(normalizers.BertNormalizer(lowercase=False)),
    "WordPiece, ideographs together": lambda: _wordpiece(normalizers.BertNormalizer(handle_chinese_chars=False)),
    "WordPiece without normalizer": lambda: _wordpiece(None),
    "WordPiece, words added": lambda: _with(
        _wordpiece(normalizers.BertNormalizer()), AddedToken("Fox", lstrip=True, rstrip=True), AddedToken("don't")
    ),
    "byte-level BPE": _byte_level,
    "byte-level BPE, prefix space": lambda: _byte_level(prefix=True),
    "as ModernBERT": _modernbert,
    "as XLM-R": _xlm_roberta,
    "as XLM-R, nothing before words": lambda: _xlm_roberta("never"),
    "as XLM-R of transformers 4": _xlm_roberta_of_transformers_4,
    "as DeBERTa": _deberta,
    "as ALBERT": _albert,
    "as XLM-R, trained in many languages": train_unigram,
    "as multilingual BERT, trained in many languages": lambda: train_wordpiece(lowercase=False),
    "the embedded model's": lambda: Tokenizer.from_file(str(EMBEDDED_MODEL / "tokenizer.json")),
}


@pytest.fixture(scope="module", params=[*KINDS, case(XLM_ROBERTA), case(MULTILINGUAL_BERT), case(MINILM)])
def tokenizer(request: pytest.FixtureRequest) -> Tokenizer:
    if request.param in KINDS:
        made = KINDS[request.param]()
    else:
        made = Tokenizer.from_file(str(request.param / "tokenizer.json"))
    made.no_padding()
    made.no_truncation()
    return made


def cuts_of(tokenizer: Tokenizer) -> Cuts:
    cuts = find_cuts(tokenizer)
    assert cuts is not None
    return cuts


def assert_parts_equal_whole(tokenizer: Tokenizer, texts: list[str], size: int) -> int:
    """Compare the texts' parts with the texts; gives the number of cuts."""
    cuts = cuts_of(tokenizer)
    parts = [list(cuts.parts(text, size)) for text in texts]
    assert ["".join(some) for some in parts] == texts
    assert all(len(part) >= size for some in parts for part in some[:-1])
    flat = iter(tokenizer.encode_batch_fast([part for some in parts for part in some], add_special_tokens=False))
    whole = tokenizer.encode_batch_fast(texts, add_special_tokens=False)
    for some, encoding in zip(parts, whole, strict=True):
        assert [token for _ in some for token in next(flat).ids] == encoding.ids, some
    return sum(len(some) - 1 for some in parts)


def test_parts_equal_the_whole_for_random_texts(tokenizer: Tokenizer) -> None:
    rng = random.Random(11)
    groups = (WORDS, SPECIAL, SCRIPTS, EMOJI, MARKS, CONTROLS, AWKWARD, SPACES)
    texts = [random_text(rng, 40) for _ in range(200)]
    for _ in range(600):
        pieces = [rng.choice(group) for group in rng.choices(groups, (40, 8, 20, 4, 6, 3, 25, 6), k=rng.randint(1, 40))]
        texts.append("".join(piece + rng.choice(("  ", "\n", "", "", *[" "] * 8)) for piece in pieces))
    assert sum(assert_parts_equal_whole(tokenizer, texts, size) for size in (1, 5)) > 1000


pieces = st.sampled_from([*SPECIAL, *WORDS, *SCRIPTS, *EMOJI, *MARKS, *AWKWARD, *SPACES, *[" "] * 20]) | st.text(
    max_size=4
)


@settings(max_examples=40)
@given(texts=st.lists(st.lists(pieces, max_size=20).map("".join), min_size=1, max_size=8), size=st.integers(1, 9))
def test_parts_equal_the_whole_for_texts_that_hypothesis_makes_up(
    tokenizer: Tokenizer, texts: list[str], size: int
) -> None:
    assert_parts_equal_whole(tokenizer, texts, size)


@pytest.mark.slow
def test_parts_equal_the_whole_around_every_character_of_the_basic_plane(tokenizer: Tokenizer) -> None:
    patterns = ("ab{0} {0}cd", "a{0}{0}b {0}{0}cd", "ab क{0} क{0}c", "ab1 2{0}3", "ab{0}\n{0}cd")
    letters = [chr(code) for code in range(1, 0x10000) if not 0xD800 <= code < 0xE000]
    cut = [assert_parts_equal_whole(tokenizer, [pattern.format(c) for c in letters], 1) for pattern in patterns]
    assert sum(cut) > 200_000


def own_texts() -> dict[str, str]:
    return {language: running_text(language, 100) for language in SPACED}


def published_texts() -> dict[str, str]:
    return {
        language: " ".join(context for context, _ in paragraphs[:20])
        for language, paragraphs in read_xquad().items()
        if language in SPACED
    }


@pytest.mark.parametrize("texts", [own_texts, case(XQUAD, published_texts)])
def test_running_text_is_cut_in_every_script_with_spaces(
    tokenizer: Tokenizer, texts: Callable[[], dict[str, str]]
) -> None:
    for language, text in texts().items():
        # Words that end in a vowel sign are passed over: the longest of these parts is one in Hindi.
        assert max(map(len, cuts_of(tokenizer).parts(text, 200))) < 1000, language
        assert_parts_equal_whole(tokenizer, [text], 200)


def test_a_text_without_a_place_is_one_part(tokenizer: Tokenizer) -> None:
    text = "x" * 100_000
    assert list(cuts_of(tokenizer).parts(text, 100)) == [text]
    assert list(cuts_of(tokenizer).parts("", 100)) == [""]


def test_a_text_whose_places_the_normalizer_refuses_is_one_part() -> None:
    # Of this letter NFKC makes four words: the spaces beside it could run together with its own.
    text = "ﷺﷺ " * 10_000
    assert list(cuts_of(_xlm_roberta()).parts(text, 100)) == [text]


@pytest.mark.parametrize(
    "make",
    [
        lambda: _unigram(None, pre_tokenizers.Metaspace(prepend_scheme="first")),
        lambda: _unigram(None, pre_tokenizers.Metaspace(split=False)),
        lambda: _unigram(normalizers.Prepend("▁"), pre_tokenizers.WhitespaceSplit()),
        lambda: _unigram(normalizers.Replace(Regex("[a-z] "), ""), pre_tokenizers.WhitespaceSplit()),
        lambda: _unigram(normalizers.Replace("b", " "), pre_tokenizers.WhitespaceSplit()),
        lambda: _unigram(normalizers.Replace("a b", "ab"), pre_tokenizers.WhitespaceSplit()),
        lambda: _unigram(normalizers.Sequence([normalizers.NFKC(), _charsmap()]), pre_tokenizers.WhitespaceSplit()),
        lambda: _unigram(None, pre_tokenizers.Split(Regex("x"), "removed")),
        lambda: _unigram(None, pre_tokenizers.ByteLevel(use_regex=False)),
        lambda: _unigram(normalizers.Strip(), pre_tokenizers.ByteLevel(add_prefix_space=False)),
        lambda: _with(_byte_level(), AddedToken("new york")),
        lambda: _with(_byte_level(), AddedToken(" york")),
        lambda: _with(_byte_level(), AddedToken("york", rstrip=True)),
        lambda: _with(_byte_level(), AddedToken("york", single_word=True)),
        lambda: _with(_wordpiece(normalizers.BertNormalizer()), AddedToken("york", single_word=True)),
    ],
    ids=[
        "metaspace before the first word",
        "metaspace without splitting",
        "prepend",
        "another pattern",
        "replaced by a space",
        "a space replaced",
        "clusters that were changed",
        "another splitter",
        "bytes without splitting",
        "stripped spaces that words begin with",
        "a token with a space",
        "a token that begins with a space",
        "a token that takes spaces after it",
        "a token that is a word alone",
        "the same for BERT",
    ],
)
def test_a_tokenizer_with_an_unknown_component_has_no_places(make: Callable[[], Tokenizer]) -> None:
    assert find_cuts(make()) is None
