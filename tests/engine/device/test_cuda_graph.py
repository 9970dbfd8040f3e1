"""The packed graph on a GPU, or on an emulation of CUDA: logits by architecture and head size, kernels and copies."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from crossrank._calls.run import Scorer
from crossrank._device.cuda.session import PackedSession, PackedSettings
from crossrank._machine.device import Device
from crossrank.export import export_model
from crossrank.export._architectures.checkpoint import read_checkpoint
from tests.support import rig
from tests.support.checkpoint_files import scale_tensors
from tests.support.launches import batch_of, count_launches, open_exported, open_packed
from tests.support.scorers import scorer_of
from tests.support.tiny_models import MAX_LENGTH, PAIRS, make_checkpoint, transformers_logits

pytestmark = pytest.mark.gpu

# The bound of float16, 0.02, times the standard deviation of the logits.
TOLERANCE = 0.03
QUERIES, DOCUMENTS = zip(*PAIRS, strict=True)
# Buckets for a few pairs and for all of them.
SETTINGS = PackedSettings(max_tokens=2048, bucket_tokens=(128, 2048))


@pytest.mark.usefixtures("emulated_norms")
@pytest.mark.parametrize("head_size", [26, 32, 64])
@pytest.mark.parametrize("architecture", ["bert", "electra", "roberta", "mpnet"])
def test_plain_and_captured_runs_give_the_references_logits(
    tmp_path: Path, architecture: str, head_size: int, record_property: Callable[[str, object], None]
) -> None:
    sizes = {"num_attention_heads": 2, "hidden_size": 2 * head_size}
    folder = make_checkpoint(tmp_path / "checkpoint", architecture, **sizes)
    artifact = export_model(folder, tmp_path / "artifact", variants=["cuda"])
    reference, checkpoint = transformers_logits(folder, PAIRS), read_checkpoint(folder)
    graph = artifact / "onnx" / "model_cuda_fp16.onnx"
    session = PackedSession(graph, checkpoint.inputs, Device("cuda"), settings=SETTINGS)
    scorer = scorer_of(checkpoint.tokenizer, session, MAX_LENGTH, 1)
    plain = np.abs(score(scorer, len(PAIRS)) - reference).max()
    session.warm_up()
    assert session.buckets
    captured = max(np.abs(score(scorer, pairs) - reference[:pairs]).max() for pairs in (1, 3, len(PAIRS)))
    record_property("case", f"{architecture} {head_size}")
    record_property("error", float(max(plain, captured)))
    assert plain <= TOLERANCE
    assert captured <= TOLERANCE


def score(scorer: Scorer, pairs: int) -> NDArray[np.float32]:
    return scorer.logits(QUERIES[:pairs], DOCUMENTS[:pairs], np.arange(pairs))


def kinds(launches: Counter[str]) -> Counter[str]:
    """Launches by what they do."""
    names = {
        "Gemm": "product",
        "flash_fwd_kernel": "flash attention",
        "AttentionKernel": "memory-efficient attention",
        "TransposeQKV": "part q, k, v",
        "SkipLayerNorm": "norm",
        "cuApplyLayerNorm": "norm",
        "BiasGelu": "activation",
    }
    found = Counter[str]()
    for name, count in launches.items():
        found[next((kind for part, kind in names.items() if part in name), "other")] += count
    return found


@pytest.mark.emulation
@pytest.mark.parametrize("architecture", ["bert", "mpnet"])
def test_a_layer_is_nine_launches_by_the_fastest_attention_that_its_gpu_has(tmp_path: Path, architecture: str) -> None:
    """In strict mode. The last layer is as many: only rows are fewer."""
    counts = []
    for layers in (2, 4):
        session = open_packed(tmp_path / str(layers), architecture, num_hidden_layers=layers)
        counts.append(kinds(count_launches(session, batch_of(4096))))
    more = counts[1] - counts[0]
    flash = rig.ARCHITECTURE >= 80 and architecture == "bert"  # which takes no bias
    attention = "flash attention" if flash else "memory-efficient attention"
    assert more == {"product": 8, "part q, k, v": 2, attention: 2, "norm": 4, "activation": 2}


@pytest.mark.emulation
@pytest.mark.parametrize("architecture", ["bert", "mpnet", "modernbert", "gte"])
def test_a_batch_is_one_copy_in_and_one_out_and_its_graph_is_captured(tmp_path: Path, architecture: str) -> None:
    """Not what it scores: an emulation lacks kernels of the last two."""
    session = open_packed(tmp_path, architecture)  # which fails if a node is left to the CPU
    for captured in (False, True):
        if captured:
            session.warm_up()
        session.run(batch_of(2048))
        with rig.trace() as lines:
            session.run(batch_of(2048))
        copies = [way for line in lines for way in ("H2D", "D2H") if "cudaMemcpy" in line and f" {way} " in line]
        assert copies == ["H2D", "D2H"], captured
        assert any("cudaGraphLaunch" in line for line in lines) == captured


@pytest.mark.emulation
def test_products_take_no_pointers_from_the_host(tmp_path: Path) -> None:
    """Those of DeBERTa's distances did: a captured graph would have read them where they no longer are."""
    session = open_packed(tmp_path, "deberta-v2")
    session.run(batch_of(2048))
    with rig.trace() as lines:
        session.run(batch_of(2048))
    assert sum("cudaMemcpy" in line and " H2D " in line for line in lines) == 1  # the batch
    assert any("GemmStridedBatchedEx" in line for line in lines)


@pytest.mark.emulation
def test_norms_are_summed_in_float32(tmp_path: Path) -> None:
    """Up to 1.26 by LayerNormalization's kernel, in whose name the second type is that of its sums."""
    names = [name for name in count_launches(open_packed(tmp_path), batch_of(4096)) if "LayerNorm" in name]
    assert len(names) == 1
    in_strict_mode = "cuApplyLayerNorm<__half, float, __half, false>" in names[0]
    assert in_strict_mode or rig.onnxruntime_version() >= (1, 27)


def test_what_stays_in_float32_is_on_the_gpu_too(tmp_path: Path) -> None:
    """A feed-forward that overflows float16, and its norm. Not run: an emulation may have no such kernels."""
    folder = make_checkpoint(tmp_path / "checkpoint", "bert")
    checkpoint = scale_tensors(folder, "bert.encoder.layer.0.output.dense", 2e4)
    session = open_exported(checkpoint, tmp_path / "artifact")  # which fails if a node is left to the CPU
    assert session.provider == "CUDAExecutionProvider"
