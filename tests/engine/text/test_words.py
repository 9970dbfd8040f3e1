"""Remembered words give the ids of the Rust tokenizer, id for id; the memory stays within its bound.

The reference is always a plain ``encode_batch_fast`` of the whole text. A tokenizer of ours lives as long as the
module: what one text leaves in its memory is what the next one finds there.
"""

import random
import string
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers, processors

from crossrank import CheckpointError, InputError
from crossrank._artifact.origin import EMBEDDED_MODEL
from crossrank._text.safe_cuts import find_words
from crossrank._text.sample_texts import sample_texts
from crossrank._text.tokenizer import PairTokenizer
from crossrank._text.word_memory import WordMemory
from tests.support.large_data import (
    MINILM,
    MULTILINGUAL_BERT,
    SCIFACT,
    TREC_DL19,
    XLM_ROBERTA,
    XQUAD,
    case,
    read_abstracts,
    read_run,
    read_xquad,
)
from tests.support.random_texts import CONTROLS, EMOJI, MARKS, SCRIPTS, SPACES, SPECIAL, WORDS, random_text
from tests.support.texts import SENTENCES, ranked_passages, running_text
from tests.support.trained_tokenizers import train_unigram, train_wordpiece

# What could show a difference between Python's words and the tokenizer's: ASCII's controls, white space of other
# definitions, letters whose lower case is longer, lies in ASCII or depends on the place, ligatures, marks that hang on
# what is before them, signs that decompose to ASCII punctuation, and added tokens in and beside all of them.
NASTY = (
    *map(chr, range(128)), "\x85", "\u00a0", "\u1680", "\u2028", "\u200b", "\u200d", "\u00ad", "\ufeff", "\ufffd",
    "\u0301", "\u0338", "\u0345", "\u0327", "İ", "I\u0307", "Σ", "ς", "ΟΔΟΣ", "\u212a", "\u212b", "ſ", "ß", "ẞ", "ﬁ",
    "≠", "≮", "\u037e", "\u1fef", "\u0387", "é", "e\u0301", "Å", "ñ", "й", "ё", "가", "ㅎ", "\u1112\u1161", "が",
    "か\u3099", "は\uff9f", "中", "\u4e2d\u0301", "\uf900", "\U00020000", "。", "，", "…", "’", "“", "—", "،", "।",
    "क\u093c", "ำ", "٣", "½", "²", "𝔘", "🙂", "👩\u200d👧", "_", "[SEP]", "[MASK]", "[sep]", "[Sep]", "[SEP", "SEP]",
    "##", "##a", "foo", "FOO", "Fóo", "bar", "new york", "New  York", "<q>", "<Q>", "@", "x" * 30, "Ab" * 60, "é" * 30,
    "日" * 30, "foobar" * 12, "\r\n", "\n\n", "  ", " ", " ", " ", "the",
)  # fmt: skip


def wordpiece(normalizer: Any = None, *added: AddedToken, longest: int = 100) -> Tokenizer:
    """BERT's kind, of the letters in this file's texts; half of the capitals and some marks are unknown to it."""
    letters = sorted({letter for text in (*WORDS, *SCRIPTS, *NASTY) for letter in text if letter.isprintable()} - {" "})
    known = [letter for letter in letters if letter not in string.ascii_uppercase[::2] + "~…½"]
    words = ["the", "th", "quick", "fox", "##ing", "foo", "##bar", "ber", "##lin", "sep", "##mask"]
    entries = dict.fromkeys(["[UNK]", "[SEP]", "[MASK]", *known, *(f"##{letter}" for letter in known), *words])
    vocabulary = {entry: i for i, entry in enumerate(entries)}
    model = models.WordPiece(vocabulary, unk_token="[UNK]", max_input_chars_per_word=longest)
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.add_special_tokens(["[UNK]", "[SEP]", AddedToken("[MASK]", lstrip=True, special=True)])
    tokenizer.add_tokens(list(added))
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 1), ("[SEP]", 1))
    return tokenizer


def bert(**options: bool) -> Any:
    return normalizers.BertNormalizer(**options)


REMEMBERED: dict[str, Callable[[], Tokenizer]] = {
    "uncased": lambda: wordpiece(bert()),
    "cased": lambda: wordpiece(bert(lowercase=False)),
    "cased, accents stripped": lambda: wordpiece(bert(lowercase=False, strip_accents=True)),
    "uncased, accents kept": lambda: wordpiece(bert(strip_accents=False)),
    "uncased, nothing cleaned": lambda: wordpiece(bert(clean_text=False)),
    "cased, ideographs together": lambda: wordpiece(bert(lowercase=False, handle_chinese_chars=False)),
    "no normalizer": lambda: wordpiece(),
    "words of 10 letters at most": lambda: wordpiece(bert(), longest=10),
    "letters added": lambda: wordpiece(bert(), AddedToken("foo", normalized=False), AddedToken("Bar", normalized=True)),
    "letters added, no normalizer": lambda: wordpiece(None, AddedToken("foo", lstrip=True), AddedToken("é")),
    "marks added": lambda: wordpiece(bert(), AddedToken("<Q>", rstrip=True), AddedToken("@", lstrip=True, rstrip=True)),
    "decomposed marks added": lambda: wordpiece(bert(), AddedToken("≠"), AddedToken("’", normalized=False)),
}  # fmt: skip
PLAIN: dict[str, Callable[[], Tokenizer]] = {
    "a single word added": lambda: wordpiece(bert(), AddedToken("foo", single_word=True)),
    "a space added": lambda: wordpiece(bert(), AddedToken("New York", normalized=True)),
    "an ideograph added": lambda: wordpiece(bert(), AddedToken("日本")),  # which the normalizer puts spaces around
}
TRAINED: dict[str, Callable[[], Tokenizer]] = {
    "the embedded model's": lambda: Tokenizer.from_file(str(EMBEDDED_MODEL / "tokenizer.json")),
    "trained in many languages": lambda: train_wordpiece(lowercase=False),
}
PUBLISHED = [case(MINILM), case(MULTILINGUAL_BERT)]


def load(which: Any) -> Tokenizer:
    if isinstance(which, str):
        return (REMEMBERED | PLAIN | TRAINED)[which]()
    return Tokenizer.from_file(str(which / "tokenizer.json"))


class Both:
    """Our tokenizer and the Rust one."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.rust = Tokenizer.from_str(tokenizer.to_str())
        self.rust.no_padding()
        self.rust.no_truncation()
        self.ours = PairTokenizer(tokenizer)

    def assert_equal(self, texts: Sequence[str]) -> None:
        tokens = self.ours.encode(texts, "document")
        rows = self.rust.encode_batch_fast(list(texts), add_special_tokens=False)
        assert len(tokens.offsets) == len(rows) + 1
        for i, (text, row) in enumerate(zip(texts, rows, strict=True)):
            assert tokens.ids[tokens.offsets[i] : tokens.offsets[i + 1]].tolist() == row.ids, ascii(text)


@pytest.fixture(scope="module", params=[*REMEMBERED, *PLAIN, *TRAINED, *PUBLISHED])
def both(request: pytest.FixtureRequest) -> Both:
    return Both(load(request.param))


pieces = st.sampled_from([*NASTY, *SPECIAL, *WORDS, *SCRIPTS, *EMOJI, *MARKS, *SPACES]) | st.text(max_size=3)
texts = st.lists(pieces, max_size=15).map("".join) | st.text(alphabet=st.characters(max_codepoint=127), max_size=40)


@settings(max_examples=60)
@given(st.lists(texts, min_size=1, max_size=20))
def test_ids_are_the_rust_tokenizers_for_texts_that_hypothesis_makes_up(both: Both, texts: list[str]) -> None:
    both.assert_equal(texts)


def test_ids_are_the_rust_tokenizers_for_random_texts(both: Both) -> None:
    rng = random.Random(3)
    both.assert_equal([random_text(rng, 40) for _ in range(1000)])
    groups = (NASTY, WORDS, SPECIAL, SCRIPTS, EMOJI, MARKS, CONTROLS, SPACES)
    for _ in range(5):
        some = [rng.choices(groups, (30, 20, 8, 10, 4, 6, 3, 6), k=rng.randint(1, 40)) for _ in range(300)]
        both.assert_equal(["".join(rng.choice(group) + rng.choice(("", " ")) for group in text) for text in some])


@pytest.mark.parametrize(
    "both", ["uncased", "cased", "no normalizer", "the embedded model's", case(MINILM)], indirect=True
)
@pytest.mark.parametrize(
    "codes", [range(0x2100), pytest.param(range(0x2100, 0x20100), marks=pytest.mark.slow)], ids=["some", "others"]
)
def test_ids_are_the_rust_tokenizers_beside_every_character(both: Both, codes: range) -> None:
    letters = [chr(code) for code in codes if not 0xD800 <= code < 0xE000]
    for pattern in ("fox{0}é {0}the,{0}{0} ", "中{0}.{0}[SEP{0}] {0}"):
        both.assert_equal([pattern.format(letter) for letter in letters])


def own_texts() -> list[str]:
    running = [running_text(language, 20, seed) for language in SENTENCES for seed in range(20)]
    return sample_texts(1500, kind="document", seed=1) + ranked_passages(60) + running


def published_passages() -> list[str]:
    return [passage for _, passages in read_run() for passage in passages][:1500]


def published_paragraphs() -> list[str]:
    return [context for paragraphs in read_xquad().values() for context, _ in paragraphs]


@pytest.mark.parametrize(
    "texts",
    [
        own_texts,
        case(TREC_DL19, published_passages),
        case(SCIFACT, lambda: read_abstracts()[:500]),
        case(XQUAD, published_paragraphs),
    ],
)
@pytest.mark.parametrize("both", [*TRAINED, *PUBLISHED], indirect=True)
def test_ids_are_the_rust_tokenizers_for_running_texts(both: Both, texts: Callable[[], list[str]]) -> None:
    both.assert_equal(texts())


def memory_of(tokenizer: PairTokenizer) -> WordMemory:
    assert tokenizer._memory is not None
    return tokenizer._memory


@pytest.mark.parametrize("name", REMEMBERED)
def test_berts_tokenizers_have_a_memory(name: str) -> None:
    memory_of(PairTokenizer(REMEMBERED[name]()))


def no_berts() -> list[Tokenizer]:
    # Of the last one's added token the normalizer leaves nothing; the Rust tokenizer finds that everywhere, and panics.
    others = [*(make() for make in PLAIN.values()), wordpiece(bert(), AddedToken("\u0301"))]
    for change in ("normalizer", "splitter", "model"):
        tokenizer = wordpiece(bert())
        if change == "normalizer":
            tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), bert()])
        elif change == "splitter":
            tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
                [pre_tokenizers.BertPreTokenizer(), pre_tokenizers.Digits()]
            )
        else:
            tokenizer.model = models.BPE({"[UNK]": 0, "a": 1}, [], dropout=0.5, unk_token="[UNK]")
        others.append(tokenizer)
    return others


def test_a_tokenizer_of_which_a_component_is_unknown_has_none() -> None:
    assert [find_words(tokenizer) for tokenizer in no_berts()] == [None] * (len(PLAIN) + 4)


@pytest.mark.parametrize("folder", ["trained", case(XLM_ROBERTA)])
def test_a_tokenizer_as_xlm_roberta_has_it_has_none(folder: Any) -> None:
    tokenizer = train_unigram() if folder == "trained" else Tokenizer.from_file(str(folder / "tokenizer.json"))
    assert find_words(tokenizer) is None


@pytest.mark.parametrize(
    "normalizer", [None, bert(), bert(lowercase=False), bert(clean_text=False, strip_accents=False)]
)
def test_every_letter_stays_in_a_word_and_every_mark_is_one_alone(normalizer: Any) -> None:
    # By the tokenizer's own components: what `_text.safe_cuts` lists is what they do.
    tokenizer = wordpiece(normalizer)
    words = find_words(tokenizer)
    assert words is not None
    splitter = tokenizer.pre_tokenizer
    assert splitter is not None
    letters = marks = 0
    for letter in (chr(code) for code in range(0x10000) if not 0xD800 <= code < 0xE000):
        normalized = normalizer.normalize_str(letter) if normalizer else letter
        if (folded := words.fold(letter)) is not None:
            letters += 1
            assert folded == normalized
            assert splitter.pre_tokenize_str(f"x{folded}x") == [(f"x{folded}x", (0, 2 + len(folded)))], ascii(letter)
        elif words.pattern.findall(f"x{letter}x") == ["x", letter, "x"]:
            marks += 1
            split = splitter.pre_tokenize_str(normalizer.normalize_str(f"x{letter}x") if normalizer else f"x{letter}x")
            assert [word for word, _ in split] == ["x", letter, "x"], ascii(letter)
    assert letters > 10_000
    assert marks > (27_000 if normalizer else 60)


def test_a_generation_that_is_full_becomes_the_older_one_and_words_in_use_stay() -> None:
    both = Both(wordpiece(bert()))
    memory = memory_of(both.ours)
    assert len(memory._young) == 0
    both.assert_equal(["fox the"])
    size = 16_384
    for start in range(0, 3 * size, 1024):
        before = memory._young
        both.assert_equal([" ".join(str(number) for number in range(start, start + 1024)), "fox"])
        young, older = memory._young, memory._young.older
        assert len(young) < size
        assert young is before or (older is before and len(older) == size and not before.older)
        assert "fox" in young or "fox" in older  # asked for each time
    assert len(memory._young.older) == size
    assert "the" not in {*memory._young, *memory._young.older}
    both.assert_equal(["fox the", "0 1 16383 16384 16385 40000"])


def size_bytes(memory: WordMemory) -> int:
    generations = (memory._young, memory._young.older)
    return sum(sys.getsizeof(g) + sum(sys.getsizeof(k) + sys.getsizeof(v) for k, v in g.items()) for g in generations)


@pytest.mark.parametrize(
    ("alphabet", "longest"),
    [(string.ascii_letters, 12), (string.ascii_letters, 24), ("𐐀𐐁𐐂𐐃𐐄𐐅𐐆", 24)],
    ids=["usual", "long", "wide"],
)
def test_the_memory_stays_below_its_bound_whatever_the_words(alphabet: str, longest: int) -> None:
    rng = random.Random(1)
    tokenizer = PairTokenizer(wordpiece(bert(lowercase=False)))
    memory, largest = memory_of(tokenizer), 0
    for i in range(120):
        words = ["".join(rng.choices(alphabet, k=rng.randint(longest // 2, longest))) for _ in range(500)]
        tokenizer.encode([" ".join(words)], "document")
        if i % 8 == 0:
            largest = max(largest, size_bytes(memory))
    assert 3e6 < largest < (6e6 if longest == 12 else 12e6)


@pytest.mark.slow
def test_200000_documents_of_random_words_leave_no_more_than_the_bound() -> None:
    rng = random.Random(1)
    tokenizer = PairTokenizer(wordpiece(bert()))
    words = ["".join(rng.choices(string.ascii_lowercase, k=rng.randint(2, 12))) for _ in range(300_000)]
    for _ in range(2000):
        tokenizer.encode([" ".join(rng.choices(words, k=10)) for _ in range(100)], "document")
    assert size_bytes(memory_of(tokenizer)) < 6e6


def test_long_words_and_those_of_many_ids_are_not_remembered() -> None:
    tokenizer = PairTokenizer(wordpiece(bert()))
    tokenizer.encode(["a" * 24, "b" * 25, "가" * 12, "fox " * 10, "[SEP]" * 5], "document")
    young = memory_of(tokenizer)._young
    assert [word in young for word in ("a" * 24, "b" * 25, "가" * 12, "[SEP]" * 5)] == [True, False, True, False]
    assert all(len(ids) <= 96 for ids in young.values())


def test_threads_that_share_a_memory_get_the_same_ids() -> None:
    both = Both(wordpiece(bert()))
    rng = random.Random(2)
    some = [
        [f"{random_text(rng, 20)} {rng.randint(0, 10**6)} {rng.randint(0, 10**6)}" for _ in range(100)]
        for _ in range(120)
    ]
    expected = [[row.ids for row in both.rust.encode_batch_fast(batch, add_special_tokens=False)] for batch in some]

    def encode(index: int) -> bool:
        ids: list[int] = both.ours.encode(some[index], "document").ids.tolist()
        return ids == [token for row in expected[index] for token in row]

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        with ThreadPoolExecutor(8) as threads:
            assert all(threads.map(encode, [*range(120)] * 2))
    finally:
        sys.setswitchinterval(interval)
    memory = memory_of(both.ours)
    assert len(memory._young.older) == pytest.approx(16_384, abs=8)


def test_strings_of_a_subclass_are_tokenized_as_strings() -> None:
    class Text(str):
        __slots__ = ()

    both = Both(wordpiece(bert()))
    both.assert_equal([Text("The quick, quick fox"), Text("fox"), Text("")])
    assert all(type(piece) is str for piece in memory_of(both.ours)._young)


@pytest.mark.parametrize("text", ["\udcff", "the fox\ud800", "fox the,\udfff,the", "é\udc80é"])
def test_a_lone_surrogate_is_refused_and_not_remembered(text: str) -> None:
    tokenizer = PairTokenizer(wordpiece(bert()))
    for _ in range(2):
        with pytest.raises(InputError, match="document 8 holds a lone surrogate"):
            tokenizer.encode(["the fox", text], "document", first=7)
    assert not any("\ud800" <= letter <= "\udfff" for piece in memory_of(tokenizer)._young for letter in piece)


def test_a_post_processor_that_gives_a_text_twice_is_refused() -> None:
    tokenizer = wordpiece()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[SEP] $A $A", pair="[SEP] $A [SEP] $B", special_tokens=[("[SEP]", 1)]
    )
    with pytest.raises(CheckpointError, match="gives the words of a text again"):
        PairTokenizer(tokenizer)


def test_long_work_pauses_for_other_threads() -> None:
    tokenizer = PairTokenizer(wordpiece(bert()))
    documents, pauses = [f"the fox {i}" for i in range(100)], list[int]()
    tokens = tokenizer.encode(documents, "document", pause=lambda: pauses.append(1))
    assert tokens.ids.tolist() == tokenizer.encode(documents, "document").ids.tolist()
    assert len(pauses) == 3
