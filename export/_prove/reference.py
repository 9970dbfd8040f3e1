"""The reference that a graph is held against: transformers where installed, else a plain forward pass in numpy.

Neither shares code with the graph builder or with the engine, but for reading tensors from files: joining of pairs and
padding are written here once more, and a forward pass from config.json and transformers' modelling code (`passes`).
The texts' ids are those of the artifact's tokenizer.json, which is held against transformers' tokenizer on its own
(`compare_tokenizer`): one and the same checkpoint has two tokenizers in transformers 4 and 5.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import metadata, util
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Encoding, Tokenizer

from crossrank._artifact.settings import ADAPTER_CONFIG, ModelFolder
from crossrank._errors import CheckpointError
from crossrank._interrupts import not_thrown_in
from crossrank._json import has_entry
from crossrank.export._read.adapter import load_adapted, open_weights

from .chain import chain_logits
from .passes.registry import passes
from .transformers_tokenizer import compare_tokenizer

Floats = NDArray[np.float32]
Pairs = Sequence[tuple[str, str]]

# Tokens of a batch, its padding included.
_BATCH_LENGTH = 512
# Fields of a config.json that say how to run or train, not what the model computes; some stop transformers here.
_NOT_OF_THE_MODEL = frozenset({
    *("return_dict", "use_return_dict", "torchscript", "output_attentions", "output_hidden_states", "use_cache"),
    *("attn_implementation", "_attn_implementation", "_attn_implementation_internal", "experts_implementation"),
    *("chunk_size_feed_forward", "gradient_checkpointing", "problem_type", "dtype", "torch_dtype", "auto_map"),
})  # fmt: skip


def reference_logits(
    source: ModelFolder,
    tokenizer: Path,
    pairs: Pairs,
    *,
    max_length: int,
    token_types: bool,
    bare_projection: bool,
) -> tuple[str, Floats]:
    """Logits of the best reference that is installed.

    Args:
        source: A checkpoint and its settings, with what its config.json leaves out.
        tokenizer: The artifact's tokenizer.json.
        pairs: Query and document.
        max_length: Most tokens of a pair.
        token_types: Whether the tokenizer's segments reach the model.
        bare_projection: Whether the head is its last layer alone, as no model of transformers has it.

    Returns:
        The reference's name, and float32 [pairs, labels].

    Raises:
        CheckpointError: If transformers is there and fails, or its tokenizer gives other ids for no known reason.
    """
    # An adapter goes into a sequence classifier, which a transformer before modules is not.
    lone = bare_projection or bool(source.modules and has_entry(source.folder / ADAPTER_CONFIG))
    if not lone and util.find_spec("transformers") and util.find_spec("torch") and _in_transformers(source):
        try:
            logits = transformers_logits(source, tokenizer, pairs, max_length=max_length, token_types=token_types)
        except CheckpointError:
            raise
        except not_thrown_in(Exception) as error:  # what transformers and torch raise has no common base
            raise CheckpointError(
                f"{source.folder}: transformers cannot score with it: {type(error).__name__}: {error!s:.300}"
            ) from error
        return f"transformers {metadata.version('transformers')}", logits
    return "numpy", numpy_logits(
        source.folder,
        source.config,
        tokenizer,
        pairs,
        max_length=max_length,
        token_types=token_types,
        bare_projection=bare_projection,
        root=source.root if source.modules else None,
    )


def _in_transformers(source: ModelFolder) -> bool:
    """Whether the installed transformers knows the architecture, and the checkpoint's form of it."""
    from transformers import CONFIG_MAPPING

    known: bool = source.config["model_type"] in CONFIG_MAPPING
    forward = passes()[source.config["model_type"]]
    return known and forward.in_transformers(source.config, open_weights(source.folder).keys())


def model_settings(config: dict[str, Any]) -> dict[str, Any]:
    """A config.json for transformers: plain operators in float32, without what changes nothing that they compute."""
    kept = {name: value for name, value in config.items() if name not in _NOT_OF_THE_MODEL}
    if kept.get("pad_token_id", 0) is None:  # null is the architecture's own, without which RoBERTa counts no positions
        del kept["pad_token_id"]
    return kept | {"attn_implementation": "eager", "dtype": "float32"}


@dataclass(frozen=True, slots=True)
class _Batch:
    """Padded inputs, int64 [pairs, tokens] each."""

    ids: NDArray[np.int64]
    types: NDArray[np.int64]
    mask: NDArray[np.int64]


def _join(tokenizer: Path, pairs: Pairs, max_length: int) -> list[Encoding]:
    joiner = Tokenizer.from_file(str(tokenizer))
    joiner.no_padding()
    joiner.enable_truncation(max_length, strategy="longest_first")
    encodings: list[Encoding] = joiner.encode_batch(list(pairs))
    return encodings


def _in_batches(
    encodings: Sequence[Encoding], pad_id: int | None, token_types: bool, score: Callable[[_Batch], Floats]
) -> Floats:
    """Score batches of similar length, one pair at a time if nothing can fill them; logits in the order given."""
    lengths = [len(encoding.ids) for encoding in encodings]
    order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    batches: list[list[int]] = []
    for i in order:
        if not batches or pad_id is None or (len(batches[-1]) + 1) * lengths[batches[-1][0]] > _BATCH_LENGTH:
            batches.append([])
        batches[-1].append(i)

    def pad(batch: list[int]) -> _Batch:
        ids = np.full((len(batch), lengths[batch[0]]), pad_id or 0)
        types, mask = np.zeros_like(ids), np.zeros_like(ids)
        for row, i in enumerate(batch):
            ids[row, : lengths[i]], mask[row, : lengths[i]] = encodings[i].ids, 1
            if token_types:
                types[row, : lengths[i]] = encodings[i].type_ids
        return _Batch(ids, types, mask)

    results = np.concatenate([score(pad(batch)) for batch in batches])
    logits = np.empty_like(results)
    logits[order] = results
    return logits


def transformers_logits(
    source: ModelFolder, tokenizer: Path, pairs: Pairs, *, max_length: int, token_types: bool
) -> Floats:
    """Logits of transformers' own model, whose tokenizer is compared too; float32 [pairs, labels].

    Args:
        source: A checkpoint and its settings, with what its config.json leaves out.
        tokenizer: The artifact's tokenizer.json.
        pairs: Query and document.
        max_length: Most tokens of a pair.
        token_types: Whether the tokenizer's segments reach the model.

    Raises:
        CheckpointError: As `compare_tokenizer`.
    """
    import torch
    from transformers import AutoConfig, AutoModel, AutoModelForSequenceClassification
    from transformers.utils import logging

    encodings = _join(tokenizer, pairs, max_length)
    config = model_settings(source.config)
    bars = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()  # the exporter reports its own stages, and nothing when piped
    try:
        known = type(AutoConfig.for_model(config["model_type"])).from_dict(config)
        compare_tokenizer(source, known, tokenizer, pairs, encodings, max_length=max_length, token_types=token_types)
        if has_entry(source.folder / ADAPTER_CONFIG):
            model = load_adapted(source.folder, known)
        else:
            model = (AutoModel if source.modules else AutoModelForSequenceClassification).from_pretrained(
                source.folder,
                config=known,
                local_files_only=True,
                trust_remote_code=False,  # without it transformers may ask on standard input
            )
    finally:
        if bars:
            logging.enable_progress_bar()
    model.float().eval()

    def score(batch: _Batch) -> Floats:
        inputs = {"input_ids": batch.ids, "attention_mask": batch.mask}
        if token_types:
            inputs["token_type_ids"] = batch.types
        with torch.inference_mode():
            tensors = {name: torch.from_numpy(value) for name, value in inputs.items()}
            given = model(**tensors, return_dict=True)
        if source.modules:
            return chain_logits(source.root, given.last_hidden_state.numpy(), batch.mask)
        logits: Floats = given.logits.numpy()
        return logits

    return _in_batches(encodings, model.config.pad_token_id, token_types, score)


def numpy_logits(
    folder: Path,
    config: dict[str, Any],
    tokenizer: Path,
    pairs: Pairs,
    *,
    max_length: int,
    token_types: bool,
    bare_projection: bool = False,
    root: Path | None = None,
) -> Floats:
    """Logits of a forward pass in numpy, float32 [pairs, labels].

    Args:
        folder: A checkpoint folder.
        config: Its config.json, with what that leaves out.
        tokenizer: A tokenizer.json.
        pairs: Query and document.
        max_length: Most tokens of a pair.
        token_types: Whether the tokenizer's segments reach the model.
        bare_projection: Whether the head is its last layer alone.
        root: Where a modules.json names what is behind the transformer, None where it has a head.
    """
    model = passes()[config["model_type"]](config, folder, bare_projection=bare_projection)
    encodings = _join(tokenizer, pairs, max_length)

    def score(batch: _Batch) -> Floats:
        if root is None:
            return model.logits(batch.ids, batch.types, batch.mask)
        return chain_logits(root, model.hidden(batch.ids, batch.types, batch.mask), batch.mask)

    return _in_batches(encodings, model.pad_id, token_types, score)
