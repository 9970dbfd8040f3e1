"""WordPiece tokenizers of checkpoints older than tokenizer.json: vocab.txt, and what stands beside it.

The result is the tokenizer that ``BertTokenizerFast.from_pretrained`` of transformers 4 makes of the same folder,
with which such checkpoints were trained and published. Where transformers 5 differs: it cuts spaces off the ends of
vocabulary lines and takes no added token of added_tokens.json as special. Token types beside RoBERTa's special tokens
are those of 5, all 0: the model reads none. ``do_basic_tokenize`` and ``never_split`` are read by the slow tokenizers
only.
"""

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from crossrank._artifact.special_tokens import read_special_tokens
from crossrank._artifact.tokenizer_class import WORDPIECE_TOKENS, tokenizer_kind
from crossrank._errors import CheckpointError, UnsupportedModelError, join_problems
from crossrank._interrupts import not_thrown_in
from crossrank._json import has_entry, read_json_object, read_text

from .special_tokens import add_special_tokens


def build_wordpiece(folder: Path, settings: Mapping[str, Any]) -> Tokenizer:
    """The tokenizer of a checkpoint that has a vocab.txt.

    Args:
        folder: Holds vocab.txt; may hold special_tokens_map.json and added_tokens.json, and a config.json, which says
            whose vocab.txt this is where ``settings`` do not.
        settings: tokenizer_config.json, or empty.

    Raises:
        CheckpointError: If vocab.txt or a setting is damaged, or special tokens are missing.
        UnsupportedModelError: If vocab.txt is that of another tokenizer class.
    """
    kind = kind_in_folder(folder, settings, default="bert")
    if kind not in WORDPIECE_TOKENS:  # other classes read a vocab.txt in ways of their own
        raise UnsupportedModelError(
            f"{folder}: vocab.txt of {kind} without a tokenizer.json; read are those of {', '.join(WORDPIECE_TOKENS)}; "
            f"transformers may convert it:\n  {conversion_command(folder)}"
        )
    defaults = WORDPIECE_TOKENS[kind]
    vocabulary = _read_vocabulary(folder / "vocab.txt")
    tokens = read_special_tokens(folder, settings, defaults)
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token=tokens.named["unk_token"]))
    tokenizer.normalizer = _normalizer(folder, settings)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece(prefix="##")
    special = add_special_tokens(tokenizer, tokens, folder, "vocab.txt")
    # Sentences of <s> and </s> have two separators between query and document.
    processing = processors.RobertaProcessing if "bos_token" in defaults.tokens else processors.BertProcessing
    tokenizer.post_processor = processing(special["sep_token"], special["cls_token"])
    return tokenizer


def missing_tokenizer_message(folder: Path) -> str:
    """What to say of a folder without tokenizer.json, vocab.txt, or vocab.json with merges.txt."""
    found = sorted(path.name for path in folder.glob("*.model"))
    if found:
        # transformers 5 leaves out parts of what sentencepiece does before it splits (DeBERTa), or fails (ALBERT).
        return (
            f"no tokenizer.json; {', '.join(found)} is for sentencepiece, which transformers 4 converts:\n"
            f"  pip install 'transformers<5' sentencepiece protobuf\n  {conversion_command(folder)}"
        )
    return (
        "no tokenizer: neither tokenizer.json, vocab.txt, vocab.json with merges.txt nor a sentencepiece "
        "*.model; take it from the model that this one was fine-tuned from"
    )


def conversion_command(folder: Path) -> str:
    """The command with which transformers writes a tokenizer.json beside an older tokenizer."""
    code = (
        "import sys; from transformers import AutoTokenizer; "
        "AutoTokenizer.from_pretrained(sys.argv[1]).save_pretrained(sys.argv[1])"
    )
    return f"python -c {shlex.quote(code)} {shlex.quote(str(folder))}"


def kind_in_folder(folder: Path, settings: Mapping[str, Any], *, default: str) -> str:
    """The `tokenizer_kind` of a folder that may hold a config.json; ``default`` where nothing says it."""
    path = folder / "config.json"
    try:
        config = read_json_object(path) if has_entry(path) else {}
    except not_thrown_in(OSError, ValueError) as error:
        raise CheckpointError(f"{path}: {error}") from error
    return tokenizer_kind(settings, config) or default


def _read_vocabulary(path: Path) -> dict[str, int]:
    """One token a line, its number is the id; of equal lines the last counts, and the others' ids stay empty."""
    try:
        text = read_text(path)
    except not_thrown_in(OSError, ValueError) as error:
        raise CheckpointError(f"{path}: one token a line in UTF-8 is expected: {error}") from error
    if text.startswith("\ufeff"):
        raise CheckpointError(
            f"{path}: begins with a byte order mark, which would belong to its first token; remove it"
        )
    return {token: i for i, token in enumerate(text.removesuffix("\n").split("\n"))}


def _normalizer(folder: Path, settings: Mapping[str, Any]) -> normalizers.Normalizer:
    values = {
        "do_lower_case": settings.get("do_lower_case", True),
        "tokenize_chinese_chars": settings.get("tokenize_chinese_chars", True),
        "strip_accents": settings.get("strip_accents"),  # None: as do_lower_case
    }
    problems = [
        f"tokenizer_config.json: {name} is {value!r:.60}; true or false expected"
        for name, value in values.items()
        if not isinstance(value, bool) and (value is not None or name != "strip_accents")
    ]
    if problems:
        raise CheckpointError(join_problems(str(folder), problems))
    return normalizers.BertNormalizer(
        clean_text=True,
        handle_chinese_chars=values["tokenize_chinese_chars"],
        strip_accents=values["strip_accents"],
        lowercase=values["do_lower_case"],
    )
