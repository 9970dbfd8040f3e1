"""The tokenizer of a folder with a tokenizer.json: that file, and what the settings beside it make of it.

The two may contradict each other. The rule, whether transformers is installed or not: the tokenizer is what the
transformers that wrote the files makes of them, since the model learned from that (`written_by_5`). So tokenizer.json
holds, but for what the tokenizer's class takes from tokenizer_config.json: ``do_lower_case``, ``strip_accents`` and
``tokenize_chinese_chars`` of a BertNormalizer, ``add_prefix_space`` of a byte-level tokenizer, special and added tokens
that tokenizer.json lacks or has other flags for.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer, normalizers, pre_tokenizers

from crossrank._errors import CheckpointError, UnsupportedModelError, join_problems
from crossrank._text.tokenizer import PairTokenizer

from .settings import ModelFolder
from .special_tokens import read_special_tokens, require_ids
from .tokenizer_class import (
    default_prefix_space,
    normalizer_settings,
    tokenizer_kind,
    tokens_of_class,
    written_by_5,
)

logger = logging.getLogger(__name__)


def open_tokenizer(model: ModelFolder) -> PairTokenizer:
    """The tokenizer of a folder with a tokenizer.json. What its settings change in that is logged as a warning.

    Raises:
        CheckpointError: If the file or a setting is damaged.
        UnsupportedModelError: As `obey_settings`.
    """

    def adapt(tokenizer: Tokenizer) -> list[str]:
        return obey_settings(tokenizer, model.folder, model.tokenizer, model.config)

    tokenizer = PairTokenizer(model.folder / "tokenizer.json", adapt=adapt)
    if tokenizer.changes:
        logger.warning(
            "%s: what tokenizer.json lacks is taken from the settings beside it, as transformers does: %s",
            model.root,
            "; ".join(tokenizer.changes),
        )
    return tokenizer


def limit_ids(tokenizer: PairTokenizer, rows: int, plain_texts: Callable[[], Sequence[str]]) -> int | None:
    """Have a tokenizer refuse texts with ids beyond the model's table of embeddings, if it gives such ids.

    transformers takes a tokenizer with more entries than the table has rows, and fails on a text that holds one: some
    models are published with tokens that nobody trained. One that needs them for plain texts is another model's.

    Args:
        tokenizer: Is changed.
        rows: Of the table.
        plain_texts: Gives texts to tell by, asked only if there are such ids.

    Returns:
        As in `Inputs`.

    Raises:
        CheckpointError: If plain texts or the special tokens of a pair hold such ids.
    """
    size = tokenizer.vocabulary_size
    if size <= rows:
        return None
    special = np.concatenate(tokenizer.template.special_ids)
    used = np.unique([*special, *tokenizer.encode(plain_texts(), "text").ids])
    beyond = [int(i) for i in used if i >= rows and (i in special or not tokenizer.is_added(i))]
    if beyond:
        raise CheckpointError(
            f"the tokenizer has {size} tokens, the model {rows}, and plain texts hold tokens that it lacks, the first "
            f"of id {beyond[0]}: take the tokenizer of this very model"
        )
    tokenizer.limit_ids(rows)
    logger.warning("the tokenizer has %d tokens, the model %d: texts that hold one beyond are refused", size, rows)
    return rows


def obey_settings(
    tokenizer: Tokenizer, folder: Path, settings: Mapping[str, Any], config: Mapping[str, Any]
) -> list[str]:
    """Change a tokenizer that was read from a tokenizer.json as the settings beside it want it.

    Args:
        tokenizer: Is changed.
        folder: May hold special_tokens_map.json and added_tokens.json.
        settings: tokenizer_config.json, or empty.
        config: config.json.

    Returns:
        What was changed, a phrase each; empty where the files agree.

    Raises:
        CheckpointError: If a setting is damaged, all at once.
        UnsupportedModelError: If text that spells special tokens is to be split like any other.
    """
    if settings.get("split_special_tokens"):
        raise UnsupportedModelError(
            f"{folder}: tokenizer_config.json: split_special_tokens is set; only false, special tokens that a text "
            f"spells are taken as such"
        )
    problems: list[str] = []
    changes = [
        *_obey_normalizer(tokenizer, settings, config, problems),
        *_obey_prefix_space(tokenizer, settings, config, problems),
    ]
    if problems:
        raise CheckpointError(join_problems(f"{folder}: tokenizer_config.json", problems))
    return [*changes, *_obey_tokens(tokenizer, folder, settings, config)]


def _obey_normalizer(
    tokenizer: Tokenizer, settings: Mapping[str, Any], config: Mapping[str, Any], problems: list[str]
) -> list[str]:
    normalizer = tokenizer.normalizer
    wanted = {}
    for name, part, default in normalizer_settings(settings, config):
        value = settings.get(name, default)
        if not isinstance(value, bool) and (value is not None or default is not None):
            problems.append(f"{name} is {value!r:.60}; true or false expected")
        wanted[part] = (name, value)
    if problems or not wanted:
        return []
    if normalizer is None:  # transformers 4 does not load it, 5 takes the class's own
        normalizer = tokenizer.normalizer = normalizers.BertNormalizer()
    if not isinstance(normalizer, normalizers.BertNormalizer):
        return []
    changes = []
    for part, (name, value) in wanted.items():
        if (found := getattr(normalizer, part)) != value:
            setattr(normalizer, part, value)
            changes.append(f"{part} is {found} in tokenizer.json and {value} by {name} of tokenizer_config.json")
    return changes


def _obey_prefix_space(
    tokenizer: Tokenizer, settings: Mapping[str, Any], config: Mapping[str, Any], problems: list[str]
) -> list[str]:
    splitter, default = tokenizer.pre_tokenizer, default_prefix_space(settings, config)
    if not isinstance(splitter, pre_tokenizers.ByteLevel) or (default is None and written_by_5(settings)):
        return []
    value = settings.get("add_prefix_space", default)
    if value is not None and not isinstance(value, bool):
        problems.append(f"add_prefix_space is {value!r:.60}; true or false expected")
    elif value not in (None, found := splitter.add_prefix_space):
        splitter.add_prefix_space = value
        return [f"add_prefix_space is {found} in tokenizer.json and {value} by tokenizer_config.json"]
    return []


def _obey_tokens(
    tokenizer: Tokenizer, folder: Path, settings: Mapping[str, Any], config: Mapping[str, Any]
) -> list[str]:
    stated = read_special_tokens(folder, settings, tokens_of_class(tokenizer_kind(settings, config), settings))
    known = {token.content: token for token in tokenizer.get_added_tokens_decoder().values()}
    new = []
    for token in stated.added:
        found = known.get(token.content)
        # Flags of a token that both know are taken from added_tokens_decoder alone.
        if found is None or ("added_tokens_decoder" in settings and token.content in stated.ids and found != token):
            new.append(token)
    unknown = {token.content for token in new if tokenizer.token_to_id(token.content) is None}
    tokenizer.add_tokens(new)
    ids = {token: stated.ids[token] for token in stated.ids if token in unknown}
    require_ids(tokenizer, ids, folder, "tokenizer.json")
    return [f"{token.content!r:.60} is an added token by its class or tokenizer_config.json" for token in new]
