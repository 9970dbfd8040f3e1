"""Graphs of one checkpoint, built and run apart from an artifact, texts of any length, and what all graphs hold."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from crossrank import CrossEncoder
from crossrank._artifact.manifest import read_manifest
from crossrank._device.open import load_graph
from crossrank._machine.device import Device
from crossrank.export import export_model
from crossrank.export._architectures.checkpoint import Checkpoint, read_checkpoint
from crossrank.export._graphs.graph import Model, save_model
from crossrank.export._graphs.layouts.cpu import build_cpu
from crossrank.export._graphs.layouts.cuda import build_cuda
from crossrank.export._graphs.layouts.portable import build_portable
from crossrank.export._prove.reference import numpy_logits
from tests.support.scorers import scorer_of
from tests.support.tiny_models import PAIRS, config_of, make_checkpoint, transformers_logits

Floats = NDArray[np.float32]

# Float32 rounding, on logits whose standard deviation is 1 or more.
TOLERANCE = 2e-5
# The CUDA graph by its twin.
VARIANTS = ("cpu", "portable", "cuda")
# Around the lengths at which a block, a window, a tile or a bucket ends.
LENGTHS = (60, 64, 65, 66, 128, 129, 300, 512)
_LONG = " ".join(text for pair in PAIRS[:12] for text in pair)


@dataclass(frozen=True)
class Case:
    folder: Path
    checkpoint: Checkpoint
    theirs: Floats  # transformers' logits of `PAIRS`


MakeCase = Callable[..., Case]


def case_maker(architecture: str, tmp_path_factory: pytest.TempPathFactory) -> MakeCase:
    """Makes tiny checkpoints of an architecture, each once."""

    @cache
    def make(max_length: int = 48, **overrides: Any) -> Case:
        folder = tmp_path_factory.mktemp(architecture)
        make_checkpoint(folder, architecture, max_length=max_length, **overrides)
        return Case(folder, read_checkpoint(folder), transformers_logits(folder, PAIRS))

    return make


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


def assert_equals_transformers(folder: Path, path: Path) -> None:
    """Each graph of a checkpoint, written to ``path``, and the forward pass in numpy."""
    checkpoint, theirs = read_checkpoint(folder), transformers_logits(folder, PAIRS)
    assert theirs.std(axis=0).min() >= 1
    for variant in VARIANTS:
        (ours,) = graph_scores(checkpoint, variant, path)
        assert distance(ours, theirs) <= TOLERANCE, variant
    inputs = checkpoint.inputs
    limits: dict[str, Any] = {"max_length": inputs.max_length, "token_types": inputs.token_types}
    ours = numpy_logits(folder, config_of(folder), folder / "tokenizer.json", PAIRS, **limits)
    assert distance(ours, theirs) <= TOLERANCE


def assert_equals_transformers_at(lengths: Sequence[int], case: Case, variant: str, path: Path) -> None:
    """The graph of a variant, written to ``path``, for texts that are cut to each of the lengths."""
    pairs = texts(max(lengths))
    found = graph_scores(case.checkpoint, variant, path, pairs, lengths)
    for length, ours in zip(lengths, found, strict=True):
        assert distance(ours, transformers_logits(case.folder, pairs, max_length=length)) <= TOLERANCE, length


def assert_default_export_is_whole_and_int8_scores_alone_as_in_a_batch(checkpoint: Path, artifact: Path) -> None:
    """The export fails or leaves a variant out where a bound does not hold; ``artifact`` is a folder to be."""
    folder = export_model(checkpoint, artifact)
    variants = read_manifest(folder).variants
    assert [variant.name for variant in variants] == ["cpu fp32", "cpu int8", "cuda fp16", "portable fp32"]
    model = CrossEncoder(folder, precision="int8", device="cpu", activation_fn="identity")
    together = model.predict(list(PAIRS))
    alone = np.array([model.predict([pair])[0] for pair in PAIRS])
    np.testing.assert_allclose(alone, together, atol=1e-5, rtol=0)
