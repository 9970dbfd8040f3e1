"""Graphs of one checkpoint, built and run apart from an artifact, and texts of any length."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from crossrank._device.open import load_graph
from crossrank._machine.device import Device
from crossrank.export._architectures.checkpoint import Checkpoint
from crossrank.export._graphs.graph import Model, save_model
from crossrank.export._graphs.layouts.cpu import build_cpu
from crossrank.export._graphs.layouts.cuda import build_cuda
from crossrank.export._graphs.layouts.portable import build_portable
from tests.support.scorers import scorer_of
from tests.support.tiny_models import PAIRS

Floats = NDArray[np.float32]

# Float32 rounding, on logits whose standard deviation is 1 or more.
TOLERANCE = 2e-5
# The CUDA graph by its twin.
VARIANTS = ("cpu", "portable", "cuda")
# Around the lengths at which a block, a window, a tile or a bucket ends.
LENGTHS = (60, 64, 65, 66, 128, 129, 300, 512)
_LONG = " ".join(text for pair in PAIRS[:12] for text in pair)


def texts(tokens: int) -> list[tuple[str, str]]:
    """Pairs that are cut to so many tokens: a short query with a long document, the reverse, and both long."""
    times = 2 + tokens // 200
    return [
        *(("knife", _LONG * times), (_LONG * times, "sea")),
        *((_LONG * times, _LONG[300:] * times), (_LONG[60:] * times, _LONG[20:] * times)),
    ]


def build(checkpoint: Checkpoint, variant: str) -> Model:
    """The float32 graph of a variant."""
    weights, config, types = checkpoint.weights, checkpoint.config, checkpoint.inputs.token_types
    if variant == "cpu":
        return build_cpu(weights, config, token_types=types)
    if variant == "portable":
        return build_portable(weights, config, token_types=types)
    return build_cuda(weights, config, token_types=types, dtype=np.float32, twin=True)


def graph_scores(
    checkpoint: Checkpoint,
    variant: str,
    path: Path,
    pairs: Sequence[tuple[str, str]] = PAIRS,
    lengths: Sequence[int] = (48,),
) -> list[Floats]:
    """Logits of pairs, float32 [pairs, labels], each cut to one of the lengths after the other."""
    save_model(build(checkpoint, variant), path)
    backend = load_graph(path, checkpoint.inputs, Device("cpu"), 1)
    queries, documents = zip(*pairs, strict=True)
    return [
        scorer_of(checkpoint.tokenizer, backend, length, checkpoint.config.labels).logits(
            queries, documents, np.arange(len(pairs))
        )
        for length in lengths
    ]


def distance(ours: Floats, theirs: Floats) -> float:
    """The largest difference of two sets of logits."""
    assert ours.shape == theirs.shape
    assert np.isfinite(ours).all()
    return float(np.abs(ours.astype(np.float64) - theirs).max())
