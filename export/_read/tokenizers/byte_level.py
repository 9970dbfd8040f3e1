"""Byte-level BPE tokenizers of RoBERTa checkpoints older than tokenizer.json: vocab.json and merges.txt.

The result is the tokenizer that ``RobertaTokenizerFast.from_pretrained`` of transformers 4 makes of the same folder.
Where transformers 5 differs: it takes spaces before a mask token as tokens, unless the files say otherwise, and reads
a merges.txt without its first line's version, or without a line feed at its end, to the last merge.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors

from crossrank._artifact.special_tokens import read_special_tokens
from crossrank._artifact.tokenizer_class import ROBERTA_TOKENS
from crossrank._errors import CheckpointError, UnsupportedModelError
from crossrank._interrupts import not_thrown_in
from crossrank._json import read_json_object, read_text

from .special_tokens import add_special_tokens
from .wordpiece import conversion_command, kind_in_folder


def build_byte_level(folder: Path, settings: Mapping[str, Any]) -> Tokenizer:
    """The tokenizer of a RoBERTa checkpoint that has vocab.json and merges.txt.

    Args:
        folder: Holds both; may hold special_tokens_map.json and added_tokens.json, and a config.json, which says
            whose vocabulary this is where ``settings`` do not.
        settings: tokenizer_config.json, or empty.

    Raises:
        CheckpointError: If a file or a setting is damaged, or special tokens are missing.
        UnsupportedModelError: If they are those of another tokenizer class.
    """
    kind = kind_in_folder(folder, settings, default="roberta")
    if kind != "roberta":
        raise UnsupportedModelError(
            f"{folder}: vocab.json and merges.txt of {kind} without a tokenizer.json; read are those of roberta; "
            f"transformers may convert it:\n  {conversion_command(folder)}"
        )
    prefix_space = settings.get("add_prefix_space", False)
    if not isinstance(prefix_space, bool):
        raise CheckpointError(
            f"{folder}: tokenizer_config.json: add_prefix_space is {prefix_space!r:.60}; true or false expected"
        )
    tokens = read_special_tokens(folder, settings, ROBERTA_TOKENS)
    tokenizer = Tokenizer(_read_model(folder))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=prefix_space)
    tokenizer.decoder = decoders.ByteLevel()
    special = add_special_tokens(tokenizer, tokens, folder, "vocab.json")
    tokenizer.post_processor = processors.RobertaProcessing(
        special["sep_token"], special["cls_token"], add_prefix_space=prefix_space
    )
    return tokenizer


def _read_model(folder: Path) -> models.BPE:
    try:
        vocabulary = read_json_object(folder / "vocab.json")
        # The first line is a version, and after the last line feed nothing is expected.
        lines = read_text(folder / "merges.txt").split("\n")[1:-1]
        merges = dict.fromkeys((left, right) for left, right in map(str.split, lines))  # of equal ones the first counts
        return models.BPE(vocabulary, list(merges), continuing_subword_prefix="", end_of_word_suffix="")
    except not_thrown_in(Exception) as error:  # of the binding, for merges that the vocabulary does not hold
        raise CheckpointError(
            f"{folder}: an id for each token in vocab.json and two tokens a line in merges.txt are expected: {error}"
        ) from error
