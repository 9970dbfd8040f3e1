"""The files of an artifact that describe the model to other tools, and its tokenizer."""

import json
from pathlib import Path

from crossrank._artifact.settings import ModelFolder
from crossrank._errors import CheckpointError
from crossrank._interrupts import not_thrown_in
from crossrank._json import has_entry, read_file, read_json
from crossrank._text.tokenizer import PairTokenizer

# Copied as they are, where they exist: transformers and sentence-transformers read them beside config.json.
_BESIDE_CONFIG = (
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "sentence_bert_config.json",
)
# The same for what lies where the whole model does.
_AT_THE_ROOT = ("config_sentence_transformers.json", "modules.json")
# All that this module may write into an artifact.
SETTINGS_FILES = ("config.json", "tokenizer.json", *_BESIDE_CONFIG, *_AT_THE_ROOT)


def write_tokenizer(source: ModelFolder, tokenizer: PairTokenizer, folder: Path) -> None:
    """Write tokenizer.json into an artifact: the checkpoint's own file if it says all, else what was made of it."""
    own = source.folder / "tokenizer.json"
    if has_entry(own) and not tokenizer.changes:
        _copy(own, folder)
    else:
        tokenizer.save(folder / own.name)


def write_settings(source: ModelFolder, folder: Path) -> None:
    """Write config.json and what stands beside it into an artifact.

    Args:
        source: The checkpoint's folder, its config completed.
        folder: The artifact. A model that lay in a subfolder lies in the artifact's own folder.
    """
    own = source.folder / "config.json"
    if read_json(own) == source.config:
        _copy(own, folder)
    else:
        _write_json(folder / own.name, source.config)
    # Modules behind the transformer are in the graphs: the artifact is one model, with a head as others have it.
    left_out = ("modules.json", "sentence_bert_config.json") if source.modules else ()
    for name in _BESIDE_CONFIG:
        if name not in left_out and has_entry(source.folder / name):
            _copy(source.folder / name, folder)
    for name in _AT_THE_ROOT:
        if name not in left_out and has_entry(source.root / name):
            _copy(source.root / name, folder)
    if (folder / "modules.json").exists() and source.folder != source.root:
        modules = read_json(folder / "modules.json")
        _write_json(folder / "modules.json", [module | {"path": ""} for module in modules])


def _copy(path: Path, folder: Path) -> None:
    try:
        content = read_file(path)
    except not_thrown_in(OSError, ValueError) as error:
        raise CheckpointError(f"{path}: {error}") from error
    (folder / path.name).write_bytes(content)


def _write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
