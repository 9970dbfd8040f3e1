"""A checkpoint folder: config, tokenizer and weights, checked together."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from crossrank._artifact.manifest import Head, Inputs
from crossrank._artifact.settings import ModelFolder, describe_head, describe_inputs, read_model_folder
from crossrank._artifact.tokenizer_class import gives_token_types
from crossrank._artifact.tokenizer_settings import limit_ids, open_tokenizer
from crossrank._errors import CheckpointError, attempt, join_problems
from crossrank._json import has_entry
from crossrank._text.tokenizer import PairTokenizer
from crossrank.export._graphs.encoder import EncoderConfig, EncoderWeights, StepsHead
from crossrank.export._read.adapter import open_weights
from crossrank.export._read.tensors import ReadTensor
from crossrank.export._read.texts import load_pairs
from crossrank.export._read.tokenizers.byte_level import build_byte_level
from crossrank.export._read.tokenizers.sentencepiece import FILES, build_sentencepiece
from crossrank.export._read.tokenizers.wordpiece import build_wordpiece, missing_tokenizer_message

from .base import Tensors
from .chain import read_chain
from .config import complete_config, read_config
from .registry import architectures


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What a folder holds, ready to build graphs of.

    Attributes:
        source: The folder and its settings, with what its config.json left out.
        config: The encoder's sizes.
        tokenizer: The tokenizer.
        weights: The tensors.
        head: What the logits mean.
        inputs: What the graphs expect.
    """

    source: ModelFolder
    config: EncoderConfig
    tokenizer: PairTokenizer
    weights: EncoderWeights
    head: Head
    inputs: Inputs


def read_checkpoint(
    folder: Path, *, max_length: int | None = None, relevant_label: int | None = None, bare_projection: bool = False
) -> Checkpoint:
    """Read a checkpoint folder.

    Args:
        folder: Holds config.json, a tokenizer and weights, or a modules.json that says where they are.
        max_length: Most tokens of a pair, or None for all that model and tokenizer allow.
        relevant_label: For a known relevance model with several labels, the one that means "relevant".
        bare_projection: As `Family.read_head`.

    Raises:
        ModelNotFoundError: If there is no config.json.
        CheckpointError: For files that are missing, damaged or do not fit each other, all at once.
        UnsupportedModelError: For an architecture or setting that the native builder does not know.
        MissingDependencyError: If the weights are PyTorch files and torch is not installed.
    """
    source = read_model_folder(folder)
    problems: list[str] = []
    tokenizer = attempt(lambda: read_tokenizer(source), problems)
    tensors = attempt(lambda: open_weights(source.folder, say=True), problems)
    completed = attempt(lambda: complete_config(source.config, tensors or {}), problems)
    config = None if completed is None else attempt(lambda: read_config(completed), problems)
    head = None
    if source.modules and config is not None:
        head = attempt(lambda: read_chain(source, config.hidden), problems)
    weights = None
    if tensors is not None and config is not None and (head is not None or not source.modules):
        weights = attempt(lambda: _read_weights(tensors, config, bare_projection, head and head[0]), problems)
    embeddings = None
    if tokenizer is not None and config is not None:
        embeddings = attempt(lambda: limit_ids(tokenizer, config.vocabulary, plain_texts), problems)
    if problems or tokenizer is None or completed is None or config is None or weights is None:
        raise CheckpointError(join_problems(str(folder), problems))
    labels, written = config.labels, completed
    if head is not None:
        labels, written = head[1], _as_one_model(completed, source, head[1])
    described = replace(source, config=written | {"max_position_embeddings": config.positions})
    types = config.token_types > 1 and gives_token_types(source.tokenizer, source.config)
    return Checkpoint(
        replace(source, config=written),
        replace(config, labels=labels),
        tokenizer,
        weights,
        describe_head(source, labels, relevant_label),
        describe_inputs(described, tokenizer, token_types=types, max_length=max_length, embeddings=embeddings),
    )


def _as_one_model(config: Mapping[str, Any], source: ModelFolder, labels: int) -> dict[str, Any]:
    """The config.json of a transformer and the head behind it, as of a sequence classifier, which its graph is."""
    one = {name: value for name, value in config.items() if name not in ("id2label", "label2id", "architectures")}
    activation = source.sentence_transformers.get("activation_fn")
    named = {"sentence_transformers": {"activation_fn": activation}} if activation is not None else {}
    return one | {"num_labels": labels} | named


def _read_weights(
    tensors: Mapping[str, ReadTensor], config: EncoderConfig, bare_projection: bool, chain: StepsHead | None
) -> EncoderWeights:
    family = architectures()[config.architecture]
    named = Tensors(tensors, family.prefix, *family.other_prefixes)
    body = family.read_body(named, config)
    head = chain or family.read_head(named, config, bare_projection=bare_projection)
    named.check()
    return EncoderWeights(body.embeddings, body.layers, head, body.norm)


def plain_texts() -> list[str]:
    """What a graph is proven and calibrated with, queries and documents alike."""
    return [text for name in ("proof", "calibration") for pair in load_pairs(name) for text in pair]


def read_tokenizer(source: ModelFolder) -> PairTokenizer:
    """The tokenizer of a folder: of its tokenizer.json and settings, else one built of an older form of vocabulary.

    Raises:
        CheckpointError: If there is neither, or it is damaged.
    """
    if has_entry(source.folder / "tokenizer.json"):
        return open_tokenizer(source)
    if has_entry(source.folder / "vocab.txt"):
        return PairTokenizer(build_wordpiece(source.folder, source.tokenizer))
    if has_entry(source.folder / "vocab.json") and has_entry(source.folder / "merges.txt"):
        return PairTokenizer(build_byte_level(source.folder, source.tokenizer))
    if any(has_entry(source.folder / name) for name in FILES):
        return PairTokenizer(build_sentencepiece(source.folder, source.tokenizer))
    raise CheckpointError(missing_tokenizer_message(source.folder))
