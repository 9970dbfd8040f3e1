"""transformers' own tokenizer of a checkpoint, held against the artifact's.

They must give the same ids, but for what is known to differ: transformers 5 takes parts of a tokenizer.json from its
class in place of the file (huggingface/transformers#45701), and gives fewer classes token types (#48128). Of files that
4 wrote, 4's reading is the one that the model learned with, and the other way round.
"""

import json
import logging
from collections.abc import Collection, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from tokenizers import Encoding, Tokenizer

from crossrank._artifact.settings import ModelFolder
from crossrank._artifact.tokenizer_class import default_prefix_space, normalizer_settings, written_by_5
from crossrank._errors import CheckpointError
from crossrank._interrupts import not_thrown_in
from crossrank._json import read_json_object
from crossrank.export._read.tokenizers.wordpiece import conversion_command

logger = logging.getLogger(__name__)


def compare_tokenizer(
    source: ModelFolder,
    config: Any,
    tokenizer: Path,
    pairs: Sequence[tuple[str, str]],
    encodings: Sequence[Encoding],
    *,
    max_length: int,
    token_types: bool,
) -> None:
    """Hold transformers' tokenizer against the artifact's, where transformers can read it.

    A difference that is known between transformers 4 and 5, where the installed one is not the one that wrote the
    files, is logged as a warning.

    Args:
        source: A checkpoint and its settings.
        config: Its configuration in transformers.
        tokenizer: The artifact's tokenizer.json.
        pairs: Query and document.
        encodings: The pairs as the artifact's tokenizer joins them.
        max_length: Most tokens of a pair.
        token_types: Whether the tokenizer's segments reach the model.

    Raises:
        CheckpointError: For any other difference.
    """
    from transformers import AutoTokenizer

    version = metadata.version("transformers")
    try:
        theirs = AutoTokenizer.from_pretrained(
            source.folder, config=config, local_files_only=True, trust_remote_code=False
        )
        queries, documents = (list(texts) for texts in zip(*pairs, strict=True))
        batch = theirs(queries, documents, truncation="longest_first", max_length=max_length, padding=False)
    except not_thrown_in(Exception) as error:  # what transformers and tokenizers raise has no common base
        logger.warning(
            "%s: transformers %s cannot read its tokenizer, which is not held against it therefore: %s: %.200s",
            *(source.root, version, type(error).__name__, error),
        )
        return
    other = [i for i, encoding in enumerate(encodings) if list(batch["input_ids"][i]) != encoding.ids]
    what = "ids"
    if not other and (token_types or getattr(config, "type_vocab_size", 0) > 1):
        segments = batch.get("token_type_ids") or [[0] * len(encoding.ids) for encoding in encodings]
        ours = [encoding.type_ids if token_types else [0] * len(encoding.ids) for encoding in encodings]
        other = [i for i, types in enumerate(ours) if list(segments[i]) != types]
        what = "token types"
    if not other:
        return
    wrote = 5 if written_by_5(source.tokenizer) else 4
    if what == "token types":
        changed = [f"other token types for {type(theirs).__name__}"]
    else:
        changed = _changed_parts(source, theirs, tokenizer)
    text = (
        f"{source.root}: transformers {version} gives other {what} for {len(other)} of {len(pairs)} pairs, "
        f"first for {pairs[other[0]]!r:.100}"
    )
    if int(version.partition(".")[0]) == wrote or not changed:
        raise CheckpointError(
            f"{text}: its tokenizer's files contradict each other. Write them anew, with the transformers that the "
            f"model was trained with: {conversion_command(source.folder)}"
        )
    logger.warning(
        "%s, since it has %s. Transformers %d wrote the tokenizer's files, and its reading is kept; if the model was "
        "trained with %s, save its tokenizer again with that: AutoTokenizer.from_pretrained(A).save_pretrained(B)",
        *(text, " and ".join(changed), wrote, version),
    )


def _changed_parts(source: ModelFolder, theirs: Any, tokenizer: Path) -> list[str]:
    """What transformers has in place of parts of tokenizer.json, whatever the settings say."""
    if not hasattr(theirs, "backend_tokenizer"):
        return ["a tokenizer in Python"]
    obeyed = {part for _, part, _ in normalizer_settings(source.tokenizer, source.config)}
    if default_prefix_space(source.tokenizer, source.config) is not None:
        obeyed.add("add_prefix_space")
    ours, other = read_json_object(tokenizer), json.loads(theirs.backend_tokenizer.to_str())
    changed = [
        f"the {part} {_show(other[part])} in place of {_show(ours[part])}"
        for part in ("normalizer", "pre_tokenizer", "model")
        if _reduced(ours[part], obeyed) != _reduced(other[part], obeyed)
    ]
    # One template can be written in several ways.
    empty = [Tokenizer.from_str(json.dumps(content)).encode("", "").tokens for content in (ours, other)]
    return changed if empty[0] == empty[1] else [*changed, f"the template {empty[1]} in place of {empty[0]}"]


def _reduced(part: Any, obeyed: Collection[str] = ()) -> Any:
    """A part of a tokenizer.json less defaults, what decides on no id, and what the settings decide on."""
    if isinstance(part, dict):
        untold = {"vocab", "merges", "trim_offsets", *obeyed}
        return {key: _reduced(value, obeyed) for key, value in part.items() if value and key not in untold}
    return [_reduced(item, obeyed) for item in part] if isinstance(part, list) else part


def _show(part: Any) -> str:
    return f"{json.dumps(_reduced(part), ensure_ascii=False):.150}"
