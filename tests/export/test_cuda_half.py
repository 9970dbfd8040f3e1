"""float16 where it holds: a feed-forward that overflows it stays in float32, and nothing else does."""

from functools import partial
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto

from crossrank import UnsupportedModelError
from crossrank._artifact.manifest import read_manifest
from crossrank.export import export_model
from crossrank.export._architectures.checkpoint import read_checkpoint
from crossrank.export._graphs.fused import fuse
from crossrank.export._graphs.graph import save_model
from crossrank.export._graphs.half import LARGEST, _value_types, keep_in_float32, widen
from crossrank.export._graphs.layouts.cuda import build_cuda
from crossrank.export._graphs.layouts.portable import build_portable
from tests.support.checkpoint_files import scale_tensors
from tests.support.tiny_models import make_checkpoint

_DOWN = "bert.encoder.layer.0.output.dense"


def overflowing_checkpoint(folder: Path, factor: float) -> Path:
    """A model whose first layer leaves float16, and whose layer norm brings it back."""
    return scale_tensors(make_checkpoint(folder, "bert"), _DOWN, factor)


def kept_nodes(graph: onnx.ModelProto) -> list[str]:
    """Operators that read a float32 weight."""
    wide = {tensor.name for tensor in graph.graph.initializer if tensor.data_type == TensorProto.FLOAT}
    return [node.op_type for node in graph.graph.node if wide.intersection(node.input)]


def test_a_feed_forward_beyond_float16_is_exported_in_float32_and_holds_its_bound(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A CPU would not notice: it runs float16 in float32. The proof is against transformers in float32."""
    checkpoint = overflowing_checkpoint(tmp_path / "checkpoint", 2e4)
    artifact = export_model(checkpoint, tmp_path / "artifact", variants=["cuda"])
    graph = onnx.load(artifact / "onnx/model_cuda_fp16.onnx")
    assert kept_nodes(graph) == ["MatMul", "SkipLayerNormalization"]  # down; its bias, the sum and the norm behind
    onnx.checker.check_model(onnx.shape_inference.infer_shapes(graph), full_check=False)
    (variant,) = read_manifest(artifact).variants
    assert variant.parity is not None
    assert variant.problems() == []
    assert any("nodes stay in float32, float16 would overflow" in message for message in caplog.messages)


def test_ordinary_models_stay_in_float16(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    checkpoint = make_checkpoint(tmp_path / "checkpoint", "mpnet")
    artifact = export_model(checkpoint, tmp_path / "artifact", variants=["cuda"])
    assert kept_nodes(onnx.load(artifact / "onnx/model_cuda_fp16.onnx")) == []
    assert not any("float32" in message for message in caplog.messages)


@pytest.mark.parametrize("peak", [LARGEST * 1.01, np.nan, np.inf])
@pytest.mark.parametrize("what", ["q", "head"])
def test_whatever_is_large_is_neither_made_nor_taken_in_float16(tmp_path: Path, what: str, peak: float) -> None:
    """Attention's queries, whose operator then runs in float32, and the head's; both graphs still run or type-check.

    Nothing is fused across a type: the other layer's queries, keys and values are joined, this one's are not.
    """
    read = read_checkpoint(make_checkpoint(tmp_path, "bert"), max_length=None, relevant_label=None)
    types = read.inputs.token_types
    build = partial(build_cuda, read.weights, read.config, token_types=types, fused=False)
    graph, twin, exact = build(), build(twin=True), build(twin=True, dtype=np.float32)
    adds = [node.output[0] for node in twin.graph.node if node.op_type == "Add"]
    biases = {"q": "layer.0.query.bias", "head": "head.classifier.bias"}
    (large,) = [node.output[0] for node in twin.graph.node if biases[what] in node.input]
    assert large in adds

    def measure(path: Path, names: list[str]) -> dict[str, float]:
        assert path.exists()
        return {name: peak if name.endswith(f":{large}") else 1.0 for name in names}

    kept = keep_in_float32(graph, twin, exact, tmp_path / "watched.onnx", measure)
    ops = {name.rpartition("_")[0] for name in kept}
    assert ops == ({"Add", "PackedMultiHeadAttention"} if what == "q" else {"Add"})
    (node,) = [node for node in graph.graph.node if f"{biases[what]}.float32" in node.input]
    casts = {cast.output[0]: cast.attribute[0].i for cast in graph.graph.node if cast.op_type == "Cast"}
    assert [casts.get(name) for name in node.input if name in casts] == [TensorProto.FLOAT]
    assert not list(tmp_path.glob("watched.onnx*"))
    for each in (graph, twin):
        fuse(each)
        joined = [tensor.name for tensor in each.graph.initializer if tensor.name.endswith("query.weight.joined")]
        assert joined == [f"layer.{i}.query.weight.joined" for i in ([1] if what == "q" else [0, 1])]
    onnx.checker.check_model(onnx.shape_inference.infer_shapes(graph.whole()), full_check=False)
    save_model(twin, tmp_path / "twin.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "twin.onnx", providers=["CPUExecutionProvider"])
    assert [output.name for output in session.get_outputs()] == ["logits"]


def test_weights_that_are_no_numbers_in_float16_are_named(tmp_path: Path) -> None:
    checkpoint = overflowing_checkpoint(tmp_path / "checkpoint", 1e9)
    with pytest.raises(UnsupportedModelError, match=r"weights that are no numbers in float16: layer\.0\.down\.weight"):
        export_model(checkpoint, tmp_path / "artifact", variants=["cuda"])


def test_widening_nothing_changes_nothing(tmp_path: Path) -> None:
    read = read_checkpoint(make_checkpoint(tmp_path, "bert"), max_length=None, relevant_label=None)
    model = build_cuda(read.weights, read.config, token_types=True)
    before = model.whole().SerializeToString()
    assert widen(model, set()) == []
    assert model.whole().SerializeToString() == before


@pytest.mark.parametrize("variant", ["cuda", "portable"])
def test_means_of_rows_are_summed_in_float32(tmp_path: Path, variant: str) -> None:
    """8,192 rows of 8 are beyond float16, and texts of a proof are far shorter."""
    read = read_checkpoint(make_checkpoint(tmp_path, "modernbert", classifier_pooling="mean"))
    build = build_cuda if variant == "cuda" else build_portable
    model = build(read.weights, read.config, token_types=False, dtype=np.float16)
    types = _value_types(model.proto)
    sums = [node for node in model.graph.node if node.op_type == "ReduceSum"]
    assert sums
    assert {types[node.input[0]] for node in sums} == {TensorProto.FLOAT}
    assert types[model.graph.output[0].name] == TensorProto.FLOAT


def test_what_is_summed_in_float32_is_not_said_to_stay_there(tmp_path: Path) -> None:
    read = read_checkpoint(make_checkpoint(tmp_path, "modernbert", classifier_pooling="mean"))
    build = partial(build_cuda, read.weights, read.config, token_types=False, fused=False)

    def measure(_: Path, names: list[str]) -> dict[str, float]:
        return {name: 1e5 if ":ReduceSum" in name else 1.0 for name in names}

    graph, twin, exact = build(), build(twin=True), build(twin=True, dtype=np.float32)
    assert keep_in_float32(graph, twin, exact, tmp_path / "watched.onnx", measure) == []
