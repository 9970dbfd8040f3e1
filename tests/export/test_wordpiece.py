"""Tokenizers built from vocab.txt equal transformers' BertTokenizerFast on the same folder, in ids and token types.

The reference is the transformers of the test environment (5.x). By hand the same was compared with transformers 4.57,
which the module follows where the two differ: tokens with spaces at their ends, special tokens of added_tokens.json.
Equality is exact: ids and token types are integers.
"""

import json
import random
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer
from transformers import BertTokenizerFast, MPNetTokenizer

from crossrank import CheckpointError, UnsupportedModelError
from crossrank._text.tokenizer import PairTokenizer
from crossrank.export._read.tokenizers.wordpiece import build_wordpiece, missing_tokenizer_message
from tests.support.large_data import MULTILINGUAL_BERT, XQUAD, case, read_xquad
from tests.support.random_texts import EMOJI, MARKS, SCRIPTS, SPACES, SPECIAL, WORDS, random_text
from tests.support.texts import SENTENCES, running_text
from tests.support.tiny_models import BERT_TOKENS
from tests.support.trained_tokenizers import train_wordpiece
from tests.support.tricky_texts import TEXTS

NAMES = tuple(BERT_TOKENS.values())
LETTERS = sorted(
    {letter for text in (*WORDS, *SCRIPTS, *EMOJI, "e\u0301éàöÀ") for letter in text if letter.isprintable()}
)
VOCABULARY = list(
    dict.fromkeys(
        [
            *NAMES,
            *LETTERS,
            *(f"##{letter}" for letter in LETTERS),
            *(text[: 2 + i % 4] for i, text in enumerate((*WORDS, *SCRIPTS))),
            *(text.lower() for text in WORDS),
        ]
    )
)
SETTINGS: dict[str, dict[str, Any]] = {
    "none": {},
    "cased": {"do_lower_case": False},
    "cased without accents": {"do_lower_case": False, "strip_accents": True},
    "uncased with accents": {"do_lower_case": True, "strip_accents": False},
    "ideographs together": {"tokenize_chinese_chars": False},
    "for the slow tokenizer": {"do_basic_tokenize": False, "never_split": ["fox"], "do_lower_case": False},
}


def write_folder(
    folder: Path,
    vocabulary: Sequence[str] = VOCABULARY,
    settings: dict[str, Any] | None = None,
    **files: dict[str, Any],
) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.txt").write_text("".join(f"{token}\n" for token in vocabulary), encoding="utf-8", newline="")
    if settings is not None:
        files["tokenizer_config"] = settings
    for name, content in files.items():
        (folder / f"{name}.json").write_text(json.dumps(content), encoding="utf-8")
    return folder


def assert_equal(ours: Tokenizer, theirs: Any, texts: Sequence[str]) -> None:
    """The pairs of each text with the next, and their order reversed, in ids and token types."""
    pairs = list(zip(texts, [*texts[1:], texts[0]], strict=True))
    expected = theirs([a for a, _ in pairs], [b for _, b in pairs], return_token_type_ids=True)
    for i, (pair, encoding) in enumerate(zip(pairs, ours.encode_batch(pairs), strict=True)):
        assert encoding.ids == expected["input_ids"][i], pair
        assert encoding.type_ids == expected["token_type_ids"][i], pair


@pytest.fixture(scope="module", params=SETTINGS)
def both(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Tokenizer, Any]:
    settings = SETTINGS[request.param]
    folder = write_folder(tmp_path_factory.mktemp("wordpiece"), settings=settings)
    return build_wordpiece(folder, settings), BertTokenizerFast.from_pretrained(folder)


def test_named_and_random_texts_equal_transformers(both: tuple[Tokenizer, Any]) -> None:
    rng = random.Random(7)
    assert_equal(*both, [*TEXTS, *(random_text(rng, 30) for _ in range(400))])


pieces = st.sampled_from([*SPECIAL, *WORDS, *SCRIPTS, *EMOJI, *MARKS, *SPACES]) | st.text(max_size=10)


@given(texts=st.lists(st.lists(pieces, max_size=12).map("".join), min_size=1, max_size=10))
def test_texts_that_hypothesis_makes_up_equal_transformers(both: tuple[Tokenizer, Any], texts: list[str]) -> None:
    assert_equal(*both, texts)


def test_a_saved_tokenizer_is_the_same(both: tuple[Tokenizer, Any], tmp_path: Path) -> None:
    both[0].save(str(tmp_path / "tokenizer.json"))
    assert_equal(Tokenizer.from_file(str(tmp_path / "tokenizer.json")), both[1], TEXTS)


@pytest.mark.parametrize(
    "files",
    [
        {"settings": dict(BERT_TOKENS)},
        {"settings": {}, "special_tokens_map": dict(BERT_TOKENS)},
        {
            "settings": {
                "mask_token": {
                    "__type": "AddedToken",
                    "content": "[MASK]",
                    "lstrip": True,
                    "normalized": True,
                    "rstrip": False,
                    "single_word": False,
                }
            }
        },
        {
            "special_tokens_map": {
                "sep_token": {
                    "content": "[SEP]",
                    "lstrip": False,
                    "normalized": False,
                    "rstrip": True,
                    "single_word": True,
                }
            }
        },
        {"settings": {"additional_special_tokens": ["fox", "<new>"]}},
        {"added_tokens": {"<new>": len(VOCABULARY), "NEW": len(VOCABULARY) + 1}},
        {
            "settings": {
                **BERT_TOKENS,
                "added_tokens_decoder": {
                    str(VOCABULARY.index("[MASK]")): {"content": "[MASK]", "lstrip": True, "special": True},
                    str(len(VOCABULARY)): {"content": "<new>", "normalized": True, "special": False},
                    str(len(VOCABULARY) + 1): {"content": "Foo", "normalized": False, "special": True},
                },
            },
            "special_tokens_map": {"sep_token": "fox"},  # void beside added_tokens_decoder
            "added_tokens": {"nothing": 3},
        },
    ],
    ids=["config", "map", "object in config", "object in map", "additional", "added_tokens.json", "decoder"],
)
def test_special_and_added_tokens_equal_transformers(tmp_path: Path, files: dict[str, Any]) -> None:
    folder = write_folder(tmp_path, **files)
    ours, theirs = build_wordpiece(folder, files.get("settings", {})), BertTokenizerFast.from_pretrained(folder)
    assert ours.get_vocab_size() == len(theirs)
    assert_equal(ours, theirs, TEXTS)


def test_special_tokens_may_have_other_names(tmp_path: Path) -> None:
    names = {name: f"<{name[:3]}>" for name in BERT_TOKENS}
    renamed = [*names.values(), *VOCABULARY[len(names) :]]
    texts = [*TEXTS, "a <sep> b <SEP> <mas><cls>"]
    for i, files in enumerate(({"settings": names}, {"special_tokens_map": names})):
        folder = write_folder(tmp_path / str(i), renamed, **files)
        ours = build_wordpiece(folder, files.get("settings", {}))
        assert_equal(ours, BertTokenizerFast.from_pretrained(folder), texts)


@pytest.mark.parametrize("name", ["a:b", "$A", "$", "x y", "é"])
def test_a_special_token_may_have_any_name(tmp_path: Path, name: str) -> None:
    settings = BERT_TOKENS | {"sep_token": name}
    folder = write_folder(tmp_path, [name if token == "[SEP]" else token for token in VOCABULARY], settings=settings)
    encoding = build_wordpiece(folder, settings).encode("fox", "a")
    assert encoding.tokens == ["[CLS]", "fox", name, "a", name]
    assert encoding.type_ids == [0, 0, 0, 1, 1]


@pytest.mark.parametrize("name", ["BertTokenizer", "BertTokenizerFast", "DistilBertTokenizer", "ElectraTokenizer"])
def test_classes_that_read_vocab_txt_alike(tmp_path: Path, name: str) -> None:
    folder = write_folder(tmp_path, settings={"tokenizer_class": name})
    assert_equal(build_wordpiece(folder, {"tokenizer_class": name}), BertTokenizerFast.from_pretrained(folder), TEXTS)


def test_mpnet_has_two_separators_and_a_mask_that_takes_the_space_before_it(tmp_path: Path) -> None:
    names = ["<s>", "<pad>", "</s>", "[UNK]", "<mask>"]
    folder = write_folder(tmp_path, [*names, *VOCABULARY[5:]], config={"model_type": "mpnet"})
    ours, theirs = build_wordpiece(folder, {}), MPNetTokenizer.from_pretrained(folder)
    for text, ids in zip(TEXTS, theirs(["a fox"] * len(TEXTS), list(TEXTS))["input_ids"], strict=True):
        assert ours.encode("a fox", text).ids == ids
    assert ours.encode("a", "b").tokens == ["<s>", "a", "</s>", "</s>", "b", "</s>"]


@pytest.mark.parametrize("name", ["PhobertTokenizer", "BertJapaneseTokenizer", "FunnelTokenizer"])
def test_another_class_is_refused_by_name(tmp_path: Path, name: str) -> None:
    kind = name.removesuffix("Tokenizer").lower()
    with pytest.raises(UnsupportedModelError, match=f"vocab.txt of {kind} without a tokenizer.json; read are .*bert"):
        build_wordpiece(write_folder(tmp_path, config={"tokenizer_class": name}), {})
    with pytest.raises(UnsupportedModelError, match=kind):
        build_wordpiece(write_folder(tmp_path), {"tokenizer_class": name})


@pytest.mark.parametrize("line", ["\n", "\r\n"], ids=["LF", "CRLF"])
@pytest.mark.parametrize("last", [True, False], ids=["line end at the end", "none"])
def test_line_ends_do_not_matter(tmp_path: Path, line: str, last: bool) -> None:
    write_folder(tmp_path)
    (tmp_path / "vocab.txt").write_bytes((line.join(VOCABULARY) + (line if last else "")).encode())
    ours = build_wordpiece(tmp_path, {})
    assert ours.get_vocab() == {token: i for i, token in enumerate(VOCABULARY)}
    assert_equal(ours, BertTokenizerFast.from_pretrained(tmp_path), TEXTS)


@pytest.mark.filterwarnings("ignore")
def test_of_equal_lines_the_last_counts_and_every_line_has_an_id(tmp_path: Path) -> None:
    lines = [*VOCABULARY, "fox", "", "[MASK]", "Berlin", "fox"]
    folder = write_folder(tmp_path / "folder", lines)
    ours, theirs = build_wordpiece(folder, {}), BertTokenizerFast.from_pretrained(folder)
    assert ours.token_to_id("fox") == len(lines) - 1
    assert ours.token_to_id("[MASK]") == len(lines) - 3
    assert PairTokenizer(ours).vocabulary_size == len(lines)
    assert_equal(ours, theirs, TEXTS)
    PairTokenizer(ours).save(tmp_path / "tokenizer.json")  # ids that no token has stay empty
    assert PairTokenizer(tmp_path / "tokenizer.json").vocabulary_size == len(lines)


def test_an_added_token_that_equal_lines_move_is_refused(tmp_path: Path) -> None:
    # transformers counts from the number of different lines, and would give it the id of another line.
    lines = [*VOCABULARY, "fox"]
    folder = write_folder(tmp_path, lines, added_tokens={"<new>": len(lines)})
    with pytest.raises(CheckpointError, match=f"'<new>' is to have id {len(lines)}, and gets {len(VOCABULARY)}"):
        build_wordpiece(folder, {})


def test_all_special_tokens_that_are_missing_are_named(tmp_path: Path) -> None:
    folder = write_folder(tmp_path, [token for token in VOCABULARY if token not in ("[SEP]", "[MASK]")])
    with pytest.raises(
        CheckpointError, match=r"vocab\.txt does not hold \[SEP\] \(sep_token\), \[MASK\] \(mask_token\)"
    ):
        build_wordpiece(folder, {})
    (tmp_path / "vocab.txt").write_text("", encoding="utf-8")
    with pytest.raises(CheckpointError, match=r"\[UNK\], \[SEP\], \[PAD\], \[CLS\], \[MASK\] are expected"):
        build_wordpiece(folder, {})


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("\ufeff".encode() + "\n".join(VOCABULARY).encode(), "byte order mark"),
        ("\n".join(VOCABULARY).encode("utf-16"), "UTF-8 is expected"),
        (b"\n".join([*(name.encode() for name in NAMES), b"caf\xe9"]), "UTF-8 is expected: .*0xe9"),
    ],
    ids=["mark", "UTF-16", "Latin-1"],
)
def test_a_vocabulary_in_another_encoding_is_refused(tmp_path: Path, content: bytes, complaint: str) -> None:
    (tmp_path / "vocab.txt").write_bytes(content)
    with pytest.raises(CheckpointError, match=rf"vocab\.txt: .*{complaint}"):
        build_wordpiece(tmp_path, {})


@pytest.mark.parametrize(
    ("settings", "files", "complaints"),
    [
        ({"do_lower_case": "yes", "strip_accents": 1}, {}, ["do_lower_case is 'yes'", "strip_accents is 1"]),
        ({"tokenize_chinese_chars": None}, {}, ["tokenize_chinese_chars is None; true or false"]),
        ({"sep_token": None, "cls_token": {"text": "x"}}, {}, ["sep_token is None", "cls_token is {'text': 'x'}"]),
        ({"additional_special_tokens": ["a", 7]}, {}, ["7 is among the special tokens"]),
        ({"added_tokens_decoder": {"x": "<new>"}}, {}, ["'<new>' is an added token with id 'x'"]),
        ({"added_tokens_decoder": ["<new>"]}, {}, ["added token with id None"]),
        ({}, {"added_tokens": {"<new>": 5}}, ["'<new>' is to have id 5, and gets"]),
        ({}, {"added_tokens": {"<new>": -1}}, ["'<new>' is an added token with id -1"]),
    ],
)
def test_damaged_settings_are_named(
    tmp_path: Path, settings: dict[str, Any], files: dict[str, Any], complaints: list[str]
) -> None:
    with pytest.raises(CheckpointError) as caught:
        build_wordpiece(write_folder(tmp_path, **files), settings)
    assert all(complaint in str(caught.value) for complaint in complaints)


@pytest.mark.parametrize("name", ["special_tokens_map.json", "added_tokens.json", "config.json"])
def test_files_that_are_no_json_are_named(tmp_path: Path, name: str) -> None:
    write_folder(tmp_path)
    (tmp_path / name).write_text("[", encoding="utf-8")
    with pytest.raises(CheckpointError, match=name):
        build_wordpiece(tmp_path, {})


def own_texts() -> list[str]:
    return [text for language, some in SENTENCES.items() for text in (*some, running_text(language, 30))]


def published_texts() -> list[str]:
    """Every 8th paragraph, and its questions, in seven languages."""
    return [
        text
        for paragraphs in read_xquad().values()
        for context, questions in paragraphs[::8]
        for text in (context, *questions)
    ]


running_texts = pytest.mark.parametrize("texts", [own_texts, case(XQUAD, published_texts)])


@running_texts
def test_a_trained_models_vocabulary_gives_its_tokenizer(
    trained_checkpoint: Path, tmp_path: Path, texts: Callable[[], list[str]]
) -> None:
    for name in ("vocab.txt", "tokenizer_config.json", "special_tokens_map.json"):
        shutil.copy(trained_checkpoint / name, tmp_path)
    settings = json.loads((tmp_path / "tokenizer_config.json").read_text("utf-8"))
    theirs = BertTokenizerFast.from_pretrained(trained_checkpoint)
    assert_equal(build_wordpiece(tmp_path, settings), theirs, [*TEXTS, *texts()])


@pytest.mark.parametrize("vocabulary", ["trained", case(MULTILINGUAL_BERT)])
@pytest.mark.parametrize("settings", [{"do_lower_case": False}, {}], ids=["cased", "uncased"])
@running_texts
def test_a_multilingual_vocabulary_equals_transformers_in_many_languages(
    tmp_path: Path, settings: dict[str, Any], vocabulary: Any, texts: Callable[[], list[str]]
) -> None:
    if vocabulary == "trained":
        ids = train_wordpiece(lowercase=False).get_vocab()
        write_folder(tmp_path, sorted(ids, key=ids.__getitem__), settings)
    else:
        write_folder(tmp_path, settings=settings)
        shutil.copy(vocabulary / "vocab.txt", tmp_path)
    theirs = BertTokenizerFast.from_pretrained(tmp_path)
    assert_equal(build_wordpiece(tmp_path, settings), theirs, [*TEXTS, *texts()])


@pytest.mark.parametrize("name", ["sentencepiece.bpe.model", "spm.model", "spiece.model"])
def test_a_sentencepiece_folder_is_told_how_to_convert(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "it's here"
    folder.mkdir()
    (folder / name).touch()
    message = missing_tokenizer_message(folder)
    assert f"{name} is for sentencepiece" in message
    assert "pip install 'transformers<5' sentencepiece protobuf" in message
    assert message.endswith(f"""'{tmp_path}/it'"'"'s here'""")


def test_a_folder_without_any_tokenizer_is_told_what_is_looked_for(tmp_path: Path) -> None:
    assert "neither tokenizer.json, vocab.txt, vocab.json" in missing_tokenizer_message(tmp_path)
