"""A smaller vocabulary: the words and word pieces that English text uses, as a tokenizer of its own.

A third of BERT's vocabulary is unused, of other scripts, or rare. A word without an entry of its own is spelled by its
pieces, so nothing becomes unknown that was not unknown before.
"""

import json
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
    """The ids to keep, rising: special tokens, single characters, then the most frequent ones.

    Args:
        tokenizer: A WordPiece tokenizer.
        counts: From `count_tokens`.
        size: How many ids to keep.
    """
    special = {token.content for token in tokenizer.get_added_tokens_decoder().values()}
    vocabulary: dict[str, int] = tokenizer.get_vocab()

    def importance(token: str) -> tuple[bool, int, int]:
        spells = token in special or (token.isascii() and len(token.removeprefix("##")) == 1)
        return not spells, -counts[vocabulary[token]], vocabulary[token]

    return sorted(vocabulary[token] for token in sorted(vocabulary, key=importance)[:size])


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
    for token in tokenizer["added_tokens"]:
        token["id"] = renumbered[token["id"]]
    for token in tokenizer["post_processor"]["special_tokens"].values():
        token["ids"] = [renumbered[i] for i in token["ids"]]
    target.write_text(json.dumps(tokenizer, ensure_ascii=False, separators=(",", ":")), encoding="utf-8")
