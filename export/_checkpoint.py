"""A checkpoint folder: config, tokenizer and weights, checked together."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from crossrank._activation import default_activation
from crossrank._errors import CheckpointError, UnsupportedModelError
from crossrank._fields import read_json_object
from crossrank._manifest import Head, Inputs
from crossrank._scoring import check_max_length
from crossrank._tokenize import PairTokenizer

from ._config import EncoderConfig, read_config
from ._tensors import open_tensors
from ._weights import EncoderWeights, read_weights

# What is copied into an artifact, where it exists: sentence-transformers and transformers read it there.
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "vocab.txt",
    "config_sentence_transformers.json",
    "modules.json",
    "sentence_bert_config.json",
)
# Tokenizer classes whose transformers wrapper gives no token_type_ids unless the configuration asks for them.
_WITHOUT_TYPES = ("Roberta", "XLMRoberta", "Camembert", "DistilBert")


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What a folder holds, ready to build graphs of."""

    folder: Path
    config: EncoderConfig
    tokenizer: PairTokenizer
    weights: EncoderWeights
    head: Head
    inputs: Inputs


def read_checkpoint(folder: Path, *, max_length: int | None, relevant_label: int | None) -> Checkpoint:
    """Read a checkpoint folder.

    Args:
        folder: Holds config.json, tokenizer.json and safetensors.
        max_length: Most tokens of a pair, or None for all that model and tokenizer allow.
        relevant_label: For a known relevance model with several labels, the one that means "relevant".

    Raises:
        CheckpointError: For files that are missing, damaged or do not fit each other.
        UnsupportedModelError: For an architecture or setting that the native builder does not know.
    """
    raw = _read_json(folder / "config.json")
    config = read_config(raw)
    settings = _read_json(folder / "tokenizer_config.json", optional=True)
    if settings.get("truncation_side", "right") != "right":
        raise UnsupportedModelError(
            f"tokenizer_config.json: truncation_side {settings['truncation_side']!r}; only right"
        )
    if not (folder / "tokenizer.json").exists():
        raise CheckpointError(
            f"{folder}: no tokenizer.json; transformers writes one: "
            f"AutoTokenizer.from_pretrained(FOLDER).save_pretrained(FOLDER)"
        )
    tokenizer = PairTokenizer(folder / "tokenizer.json")
    if tokenizer.vocabulary_size > config.vocabulary:
        raise CheckpointError(
            f"{folder}: tokenizer.json has {tokenizer.vocabulary_size} tokens, the model {config.vocabulary}"
        )
    limits = [(config.positions - config.position_offset, "the model's positions")]
    stated = settings.get("model_max_length")
    if isinstance(stated, int | float) and not isinstance(stated, bool):
        limits.append((int(min(stated, 2**31)), "tokenizer_config.json model_max_length"))
    if max_length is not None:
        limits.append((check_max_length(max_length, tokenizer), "as asked at export"))
    length, origin = min(limits, key=lambda limit: limit[0])
    if length <= tokenizer.template.special_count:
        raise CheckpointError(
            f"{folder}: {origin} leaves {length} tokens for a pair, fewer than its special tokens need"
        )
    sentence_transformers = _read_json(folder / "config_sentence_transformers.json", optional=True)
    if sentence_transformers.get("default_prompt_name"):
        name = sentence_transformers["default_prompt_name"]
        raise UnsupportedModelError(
            f"config_sentence_transformers.json: default_prompt_name is {name!r}; no prompts only"
        )
    activation, activation_origin = default_activation(raw, sentence_transformers, config.labels)
    if relevant_label is not None and relevant_label >= config.labels:
        relevant_label = None
    return Checkpoint(
        folder,
        config,
        tokenizer,
        read_weights(open_tensors(folder), config),
        Head(config.labels, relevant_label, activation, activation_origin),
        Inputs(length, origin, config.pad_id, config.position_offset, _gives_token_types(settings, config)),
    )


def _gives_token_types(settings: dict[str, Any], config: EncoderConfig) -> bool:
    if config.token_types < 2:
        return False
    names = settings.get("model_input_names")
    if isinstance(names, list):
        return "token_type_ids" in names
    kind = str(settings.get("tokenizer_class") or "").removesuffix("Fast").removesuffix("Tokenizer")
    return kind not in _WITHOUT_TYPES


def _read_json(path: Path, *, optional: bool = False) -> dict[str, Any]:
    if optional and not path.exists():
        return {}
    try:
        return read_json_object(path)
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: {error}") from error
