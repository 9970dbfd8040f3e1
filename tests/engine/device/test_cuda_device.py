"""On a real GPU: the packed graph gives the reference's scores, plain and from captured CUDA graphs. Else skipped."""

import ctypes
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from crossrank import CrossEncoder
from crossrank._device.cuda.session import PackedSession
from crossrank.export import export_model
from tests.support.tiny_models import PAIRS, make_checkpoint, transformers_logits


def _has_gpu() -> bool:
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return False
    return "CUDAExecutionProvider" in onnxruntime.get_available_providers() and driver.cuInit(0) == 0


pytestmark = pytest.mark.skipif(not _has_gpu(), reason="no GPU, or no onnxruntime-gpu")


@pytest.mark.parametrize("architecture", ["bert", "roberta", "mpnet"])  # plain, other positions, a bias in attention
def test_a_gpu_gives_the_references_scores_plain_and_captured(tmp_path: Path, architecture: str) -> None:
    """0.03: the bound of float16, 0.02, times the standard deviation of the logits."""
    checkpoint = make_checkpoint(tmp_path / "checkpoint", architecture)
    artifact = export_model(checkpoint, tmp_path / "artifact", variants=["cuda"])
    reference = transformers_logits(checkpoint, PAIRS)[:, 0]
    model = CrossEncoder(artifact, device="cuda", activation_fn="identity")
    assert model.info().provider == "CUDAExecutionProvider"
    assert np.abs(model.predict(PAIRS) - reference).max() <= 0.03
    model.warm_up()
    session = model._scorer.backend
    assert isinstance(session, PackedSession)
    assert session.buckets  # else a warning says why nothing was captured
    for pairs in (1, 3, len(PAIRS), 1):
        assert np.abs(model.predict(PAIRS[:pairs]) - reference[:pairs]).max() <= 0.03
    many = model.predict(list(PAIRS) * 400)  # several batches, beyond all buckets
    assert np.abs(many.reshape(400, -1) - reference).max() <= 0.03
