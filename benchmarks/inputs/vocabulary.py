"""The tokenizers of drawn checkpoints: BERT's own vocabularies where the test data has them, else one made up."""

import json
import string
import tomllib
from importlib import resources
from pathlib import Path

from tokenizers import normalizers

from crossrank.export._read.tokenizers.wordpiece import build_wordpiece

_SPECIAL_TOKENS = {
    "pad_token": "[PAD]",
    "unk_token": "[UNK]",
    "cls_token": "[CLS]",
    "sep_token": "[SEP]",
    "mask_token": "[MASK]",
}
# In the test data.
_ENGLISH_SIZE = 30_522
_ENGLISH = Path("models", "ms-marco-MiniLM-L12-v2", "vocab.txt")
_MULTILINGUAL = Path("tokenizers", "bert-base-multilingual-cased", "vocab.txt")
_CHARACTERS = string.ascii_lowercase + string.digits + string.punctuation + "“”’–°•"
_NUMBERS = 2100  # counts and years


def find_vocabulary(size: int, test_data: Path) -> Path | None:
    """The published vocabulary for so many entries, or None where the test data does not have it."""
    path = test_data / (_ENGLISH if size == _ENGLISH_SIZE else _MULTILINGUAL)
    return path if path.is_file() else None


def write_tokenizer(folder: Path, size: int, published: Path | None) -> None:
    """A lower-casing BERT's vocab.txt, tokenizer.json, tokenizer_config.json and special_tokens_map.json.

    Args:
        folder: Gets them.
        size: Entries of the vocabulary; those that nothing is left for are ``[unusedN]``.
        published: A vocabulary, of which the first entries are taken; None to make one up.
    """
    entries = published.read_text(encoding="utf-8").split("\n")[:size] if published else _make_up_vocabulary()
    entries += [f"[unused{i}]" for i in range(size - len(entries))]
    (folder / "vocab.txt").write_text("".join(f"{entry}\n" for entry in entries), encoding="utf-8")
    settings = {"tokenizer_class": "BertTokenizer", "do_lower_case": True, "model_max_length": 512, **_SPECIAL_TOKENS}
    for name, content in (("tokenizer_config.json", settings), ("special_tokens_map.json", _SPECIAL_TOKENS)):
        (folder / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    build_wordpiece(folder, settings).save(str(folder / "tokenizer.json"))


def _make_up_vocabulary() -> list[str]:
    """WordPieces that made-up texts have about as many of as of BERT's, within a few percent.

    Characters, numbers, and the words and endings that `crossrank._text.sample_texts` makes its texts of, each of them
    at the beginning of a word and, with ``##``, within one. Other texts have half as many tokens again as with BERT's,
    which knows thousands of words more.
    """
    lists = tomllib.loads((resources.files("crossrank._text") / "sample_words.toml").read_text(encoding="utf-8"))
    words = normalizers.BertNormalizer(lowercase=True).normalize_str(" ".join(lists.values())).split()
    pieces = [*_CHARACTERS, *words]
    numbers = map(str, range(_NUMBERS))
    return list(dict.fromkeys([*_SPECIAL_TOKENS.values(), *pieces, *numbers, *(f"##{piece}" for piece in pieces)]))
