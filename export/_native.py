"""The native exporter: graphs written directly from config and weights, without torch."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray

from crossrank._pairs import PairSource
from crossrank.models import RegisteredModel

from ._blueprint import Blueprint
from ._build import build_cpu, build_cuda, build_portable
from ._checkpoint import Checkpoint, read_checkpoint
from ._graph import save_model
from ._int8 import build_int8, calibrate
from ._reference import reference_logits
from ._targets import Target
from ._texts import load_pairs

# Ranges settle within a few thousand tokens: on a real MiniLM the whole pairs give no smaller error than their starts.
_CALIBRATION_LENGTH = 32


def read_native(folder: Path, registered: RegisteredModel | None, *, max_length: int | None) -> Blueprint:
    """Read a checkpoint of an architecture that the builder knows.

    Args:
        folder: The checkpoint.
        registered: What the registry knows of it.
        max_length: Most tokens of a pair, or None for all that model and tokenizer allow.

    Raises:
        ModelError: As `read_checkpoint`.
    """
    checkpoint = read_checkpoint(
        folder,
        max_length=max_length,
        relevant_label=registered.relevant_label if registered else None,
        bare_projection=bool(registered and registered.bare_projection),
    )
    return Blueprint(
        "native",
        checkpoint.source,
        checkpoint.tokenizer,
        checkpoint.head,
        checkpoint.inputs,
        build=partial(_build, checkpoint),
        build_twin=partial(_build_twin, checkpoint),
        reference=partial(_reference, checkpoint),
    )


def _reference(
    checkpoint: Checkpoint, pairs: Sequence[tuple[str, str]], tokenizer: Path
) -> tuple[str, NDArray[np.float32]]:
    return reference_logits(
        checkpoint.source,
        tokenizer,
        pairs,
        max_length=checkpoint.inputs.max_length,
        token_types=checkpoint.inputs.token_types,
        bare_projection=checkpoint.weights.head.dense is None,
    )


def _build(checkpoint: Checkpoint, target: Target, path: Path) -> None:
    save_model(_graph(checkpoint, target, path.parent), path)


def _build_twin(checkpoint: Checkpoint, target: Target, path: Path) -> bool:
    if target[0] != "cuda":
        return False
    types = checkpoint.inputs.token_types
    save_model(build_cuda(checkpoint.weights, checkpoint.config, token_types=types, twin=True), path)
    return True


def _graph(checkpoint: Checkpoint, target: Target, work: Path) -> onnx.ModelProto:
    weights, config, types = checkpoint.weights, checkpoint.config, checkpoint.inputs.token_types
    match target:
        case ("portable", precision):
            dtype = np.float16 if precision == "fp16" else np.float32
            return build_portable(weights, config, token_types=types, dtype=dtype)
        case ("cuda", _):
            return build_cuda(weights, config, token_types=types)
        case ("cpu", "int8"):
            extremes = calibrate(weights, config, checkpoint.inputs, _calibration_pairs(checkpoint), work)
            return build_int8(weights, config, extremes, token_types=types)
        case _:
            return build_cpu(weights, config, token_types=types)


def _calibration_pairs(checkpoint: Checkpoint) -> PairSource:
    pairs = load_pairs("calibration", checkpoint.tokenizer)
    room = min(_CALIBRATION_LENGTH, checkpoint.inputs.max_length)
    tokenizer = checkpoint.tokenizer
    queries = tokenizer.encode([query for query, _ in pairs], "query")
    documents = tokenizer.encode([document for _, document in pairs], "document")
    return PairSource(tokenizer.template, queries, documents, np.arange(len(pairs)), room)
