"""A smaller vocabulary: the words and word pieces that English text uses, as a tokenizer of its own.

A third of BERT's vocabulary is unused, of other scripts, or rare. A word without an entry of its own is spelled by its
pieces, of which the letters of Latin and Greek, digits, punctuation and symbols are always kept: what is written with
them becomes no more unknown than before. A word with a letter of another script does.
"""

import json
import unicodedata
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer


def count_tokens(tokenizer: Tokenizer, texts: Iterable[str]) -> Counter[int]:
    """How often each id of the tokenizer occurs in texts."""
    counts: Counter[int] = Counter()
    for encoding in tokenizer.encode_batch(list(texts), add_special_tokens=False):
        counts.update(encoding.ids)
    return counts


def choose_tokens(tokenizer: Tokenizer, counts: Counter[int], size: int) -> list[int]:
    """The ids to keep, rising: special tokens, characters that English text may hold, then the most frequent ones.

    Args:
        tokenizer: A WordPiece tokenizer.
        counts: From `count_tokens`.
        size: How many ids to keep.
    """
    special = {token.content for token in tokenizer.get_added_tokens_decoder().values()}
    vocabulary: dict[str, int] = tokenizer.get_vocab()

    def importance(token: str) -> tuple[bool, int, int]:
        return not (token in special or spells(token)), -counts[vocabulary[token]], vocabulary[token]

    return sorted(vocabulary[token] for token in sorted(vocabulary, key=importance)[:size])


def spells(token: str) -> bool:
    """Whether a token is one character, or its form inside a word, of Latin or Greek or of no script."""
    character = token.removeprefix("##")
    if len(character) != 1:
        return False
    if not character.isalpha():  # digits, punctuation, symbols
        return True
    return unicodedata.name(character, "").startswith(("LATIN ", "GREEK ", "MICRO SIGN"))


def prune_tokenizer(source: Path, target: Path, kept: list[int]) -> None:
    """Write a tokenizer.json with these ids only, numbered anew in their order.

    Args:
        source: A tokenizer.json of a WordPiece model.
        target: Where to write.
        kept: Ids to keep, rising.
    """
    tokenizer: dict[str, Any] = json.loads(source.read_text(encoding="utf-8"))
    renumbered = {old: new for new, old in enumerate(kept)}
    vocabulary = tokenizer["model"]["vocab"]
    tokenizer["model"]["vocab"] = {token: renumbered[i] for token, i in vocabulary.items() if i in renumbered}
    tokenizer["padding"] = None  # the teacher's may be to a fixed length
    for token in tokenizer["added_tokens"]:
        token["id"] = renumbered[token["id"]]
    for token in tokenizer["post_processor"]["special_tokens"].values():
        token["ids"] = [renumbered[i] for i in token["ids"]]
    target.write_text(json.dumps(tokenizer, ensure_ascii=False, separators=(",", ":")), encoding="utf-8")
