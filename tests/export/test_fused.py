"""Fused operators: they say what the plain graph says, and nothing that one kernel does is left to several."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from crossrank._artifact.manifest import read_manifest
from crossrank.export import export_model
from crossrank.export._architectures.checkpoint import read_checkpoint
from crossrank.export._graphs.fused import fuse
from crossrank.export._graphs.graph import Model
from crossrank.export._graphs.layouts.cuda import build_cuda
from tests.support.tiny_models import ARCHITECTURES, make_checkpoint


def packed_inputs(lengths: list[int], offset: int, *, types: bool) -> dict[str, NDArray[np.int32]]:
    """Random pairs of these lengths, one for each row of what the twin unpacks to."""
    rng, count, longest = np.random.default_rng(0), sum(lengths), -(-max(lengths) // 8) * 8
    places = np.concatenate([i * longest + np.arange(length) for i, length in enumerate(lengths)])
    inputs = {
        "input_ids": rng.integers(7, 30, count),
        "token_type_ids": rng.integers(0, 2, count),
        "position_ids": np.concatenate([np.arange(length) for length in lengths]) + offset,
        "token_offset": np.append(places, np.setdiff1d(np.arange(len(lengths) * longest), places)),
        "cumulative_sequence_length": np.cumsum([0, *lengths]),
    }
    inputs["token_offset"] = inputs["token_offset"].reshape(len(lengths), longest)
    return {name: value.astype(np.int32) for name, value in inputs.items() if types or name != "token_type_ids"}


def run(model: Model | onnx.ModelProto, feed: dict[str, NDArray[Any]]) -> list[NDArray[Any]]:
    whole = model.whole() if isinstance(model, Model) else model
    onnx.checker.check_model(whole)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL  # as they are written
    session = onnxruntime.InferenceSession(whole.SerializeToString(), options, providers=["CPUExecutionProvider"])
    outputs: list[NDArray[Any]] = session.run(None, feed)
    return outputs


@pytest.mark.parametrize("activation", ["gelu", "gelu_new", "relu"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_fused_twin_gives_the_plain_ones_logits(tmp_path: Path, architecture: str, activation: str) -> None:
    """In float32, where only the order of sums differs. transformers' logits it gives by the parity tests."""
    names = {"distilbert": "activation", "modernbert": "hidden_activation"}
    field: dict[str, Any] = {names.get(architecture, "hidden_act"): activation}
    read = read_checkpoint(make_checkpoint(tmp_path, architecture, **field), max_length=None, relevant_label=None)
    types = read.inputs.token_types
    feed = packed_inputs([9, 3, 17, 1], read.inputs.position_offset, types=types)
    plain, fused = (
        build_cuda(read.weights, read.config, token_types=types, twin=True, dtype=np.float32, fused=fused)
        for fused in (False, True)
    )
    ops = Counter(node.op_type for node in fused.graph.node)
    # Of ModernBERT the first layer has one norm, embeddings and head each have one that is of no sum; of DeBERTa and
    # GTE the embeddings have, whose tokens have no positions there.
    alone = {"modernbert": 2, "deberta-v2": 1, "gte": 1}.get(architecture, 0)
    assert ops["SkipLayerNormalization"] == (0 if alone else 1) + 2 * read.config.layers
    assert ops["LayerNormalization"] == alone
    np.testing.assert_allclose(run(fused, feed)[0], run(plain, feed)[0], rtol=0, atol=2e-5)


@pytest.mark.parametrize("heads", [2, 4])  # of 16, and of 8
@pytest.mark.parametrize("architecture", ["bert", "mpnet"])
def test_a_layer_is_four_products_and_what_is_between_them_one_operator(
    tmp_path: Path, architecture: str, heads: int
) -> None:
    checkpoint = make_checkpoint(tmp_path, architecture, num_attention_heads=heads)
    read = read_checkpoint(checkpoint, max_length=None, relevant_label=None)
    graph = build_cuda(read.weights, read.config, token_types=read.inputs.token_types).whole().graph
    ops = [node.op_type for node in graph.node]
    first = ops.index("SkipLayerNormalization") + 1
    attention = [*(["Shape", "Slice", "Slice"] if architecture == "mpnet" else []), "PackedMultiHeadAttention"]
    between = ["MatMul", "SkipLayerNormalization", "MatMul", "BiasGelu", "MatMul", "SkipLayerNormalization"]
    assert ops[first : first + 9 + len(attention) - 1] == ["MatMul", "Reshape", *attention, *between]
    # What is joined is what it is made of, in the order that the operator documents: [hidden, heads, 3, size].
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    packed = [node for node in graph.node if node.op_type == "PackedMultiHeadAttention"]
    for node, layer in zip(packed, read.weights.layers, strict=True):
        parts = (layer.attention.query, layer.attention.key, layer.attention.value)
        weight, size = constants[f"{parts[0].name}.weight.joined"], read.config.head_size
        cut = weight.reshape(len(weight), heads, 3, size)
        for i, part in enumerate(parts):
            np.testing.assert_array_equal(cut[:, :, i].reshape(part.weight.shape), part.weight.astype(np.float16))
        assert list(node.input[1:3]) == ["", ""]
        biases = np.concatenate([part.bias for part in parts]).astype(np.float16)
        np.testing.assert_array_equal(constants[node.input[3]], biases)
        assert bool(node.input[6]) == (architecture == "mpnet")


@pytest.mark.parametrize("absent", [{"key"}, {"query", "value"}, {"query", "key", "value"}])
def test_what_has_no_bias_joins_what_has_one(tmp_path: Path, absent: set[str]) -> None:
    checkpoint = make_checkpoint(tmp_path, "bert")
    read = read_checkpoint(checkpoint, max_length=None, relevant_label=None)
    plain = build_cuda(read.weights, read.config, token_types=True, fused=False)
    for made in list(plain.graph.node):  # as layouts write a product without one
        if made.op_type == "Add" and any(made.input[1] == f"layer.0.{name}.bias" for name in absent):
            product = next(node for node in plain.graph.node if node.output[0] == made.input[0])
            product.output[0] = made.output[0]
            plain.graph.node.remove(made)
    fuse(plain)
    constants = {tensor.name: plain.value(tensor) for tensor in plain.graph.initializer}
    packed = next(node for node in plain.graph.node if node.op_type == "PackedMultiHeadAttention")
    assert list(packed.input[1:3]) == ["", ""]
    layer = read.weights.layers[0].attention
    parts = {"query": layer.query.bias, "key": layer.key.bias, "value": layer.value.bias}
    if len(absent) == 3:
        assert packed.input[3] == ""
        return
    expected = np.concatenate([np.zeros_like(bias) if name in absent else bias for name, bias in parts.items()])
    np.testing.assert_array_equal(constants[packed.input[3]], expected.astype(np.float16))


def test_an_exported_graph_is_fused_and_holds_each_weight_once(tmp_path: Path) -> None:
    checkpoint = make_checkpoint(tmp_path / "checkpoint", "bert")
    artifact = export_model(checkpoint, tmp_path / "artifact", variants=["cuda"])
    graph = onnx.load(artifact / "onnx/model_cuda_fp16.onnx").graph
    assert {"SkipLayerNormalization", "BiasGelu"} <= {node.op_type for node in graph.node}
    names = [tensor.name for tensor in graph.initializer]
    assert "layer.0.query.weight.joined" in names
    assert {name for node in graph.node for name in node.input} >= set(names)
    assert len(set(names)) == len(names)
    (variant,) = read_manifest(artifact).variants
    assert variant.problems() == []


def hand_written(nodes: list[onnx.NodeProto], outputs: list[str]) -> tuple[onnx.ModelProto, Model]:
    """A graph of x and y, [4, 8], with constants "row", "scale" and "offset" [8]: plain, and fused."""
    rng = np.random.default_rng(1)
    constants = [numpy_helper.from_array(rng.normal(0, 1, 8).astype(np.float32), n) for n in ("row", "scale", "offset")]
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [4, 8]) for name in ("x", "y", *outputs)]
    graph = helper.make_graph(nodes, "crossrank", values[:2], values[2:], constants)
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    plain, fused = (helper.make_model(graph, opset_imports=opsets, ir_version=8) for _ in range(2))
    model = Model(fused, {})
    fuse(model)
    return plain, model


def node(op: str, inputs: str, output: str, **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(op, inputs.split(), [output], name=output, **attributes)


NORM = {"axis": -1, "epsilon": 1e-5}
SUM = [node("Add", "x row", "biased_1"), node("Add", "biased_1 y", "sum_2")]
CASES: dict[str, tuple[list[onnx.NodeProto], list[str], list[str]]] = {
    "the sum goes on behind its norm": (
        [
            *SUM,
            node("Mul", "sum_2 y", "taken_3"),
            node("LayerNormalization", "sum_2 scale offset", "norm_4", **NORM),
            node("Add", "taken_3 norm_4", "out_5"),
        ],
        ["out_5"],
        ["SkipLayerNormalization", "Mul", "Add"],
    ),
    "two norms of one sum": (
        [
            *SUM,
            node("LayerNormalization", "sum_2 scale", "norm_3", **NORM),
            node("LayerNormalization", "sum_2 scale offset", "norm_4", **NORM),
            node("Add", "norm_3 norm_4", "out_5"),
        ],
        ["out_5"],
        ["SkipLayerNormalization", "LayerNormalization", "Add"],
    ),
    "what has its bias is used elsewhere": (
        [
            *SUM,
            node("LayerNormalization", "sum_2 scale offset", "norm_3", **NORM),
            node("Mul", "norm_3 biased_1", "out_4"),
        ],
        ["out_4"],
        ["Add", "SkipLayerNormalization", "Mul"],
    ),
    "no sum but a bias": (
        [node("Add", "x row", "sum_1"), node("LayerNormalization", "sum_1 scale offset", "out_2", **NORM)],
        ["out_2"],
        ["Add", "LayerNormalization"],
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_what_is_used_elsewhere_stays(case: str) -> None:
    nodes, outputs, expected = CASES[case]
    plain, fused = hand_written(nodes, outputs)
    assert [node.op_type for node in fused.graph.node] == expected
    rng = np.random.default_rng(2)
    feed = {name: rng.normal(0, 1, (4, 8)).astype(np.float32) for name in ("x", "y")}
    np.testing.assert_allclose(run(fused, feed)[0], run(plain, feed)[0], rtol=0, atol=1e-5)


@pytest.mark.parametrize("pooling", ["cls", "mean"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_no_number_of_a_packed_graph_comes_of_a_shape(tmp_path: Path, architecture: str, pooling: str) -> None:
    """Onnxruntime would compute it on the CPU, which a session for a GPU alone has not, and no CUDA graph captures.

    A shape may say where a slice ends, and what another value is reshaped or expanded to.
    """
    if pooling == "mean" and architecture != "modernbert":
        pytest.skip("no head of transformers")
    options: dict[str, Any] = {"classifier_pooling": pooling} if architecture == "modernbert" else {}
    read = read_checkpoint(make_checkpoint(tmp_path, architecture, **options))
    graph = build_cuda(read.weights, read.config, token_types=read.inputs.token_types).whole().graph
    shapes = {name for node in graph.node if node.op_type == "Shape" for name in node.output}
    takers = {(node.op_type, i) for node in graph.node for i, name in enumerate(node.input) if name in shapes}
    assert takers <= {("Slice", 1), ("Slice", 2), ("Reshape", 1), ("Expand", 1)}
