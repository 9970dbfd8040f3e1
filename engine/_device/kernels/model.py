"""The graphs that crossrank-kernels runs: those of the BERT kind in int8, as crossrank's exporter writes them."""

import re
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from crossrank._artifact.manifest import Inputs

from .onnx_file import OnnxGraph, OnnxNode

# As the library names them, by the operator behind a product; MatMul is the next product.
_ACTIVATIONS = {"MatMul": "identity", "Gelu": "gelu", "FastGelu": "gelu_new", "Relu": "relu", "Tanh": "tanh"}
_OPERATORS = {"Add", "Attention", "Cast", "Concat", "CumSum", "Equal", "FastGelu", "Gather", "Gelu", "Gemm", "Greater"}
_OPERATORS |= {"If", "LayerNormalization", "MatMul", "MatMulIntegerToFloat", "Mul", "MultiHeadAttention", "Not"}
_OPERATORS |= {"QuantizeLinear", "Relu", "Reshape", "Shape", "Slice", "Softmax", "Tanh", "Transpose"}
_OPERATORS |= {"Unsqueeze"}
_MATRIX = r"(weight|(weight\.)?(int8|scales)|bias)"
_WEIGHTS = re.compile(
    rf"embeddings\.(words|positions|types)(\.int8|\.scales)?|(embeddings|layer\.\d+\.(attention|output))[._]norm\.(scale|bias)"
    rf"|layer\.\d+\.((query|key|value|output|(up|down)(\.apart)?)\.{_MATRIX}|(attention|output|up|down)\.(scale|zero_point)"
    rf"|(key|value)\.per_head(\.int8|\.scales)?)|head\.(dense|classifier)\.{_MATRIX}"
)
_HELPERS = re.compile(r"(integers|scalar|int64|axis)_.*|first_row")


class NotCovered(Exception):
    """A graph that the library does not run; the message says why."""


@dataclass(frozen=True, slots=True)
class KernelModel:
    """What the library takes.

    Attributes:
        tensors: The graph's weights by their names in it.
        epsilon: Of every norm.
        activation: Between a feed-forward's products, as the library names them.
        head_activation: The same behind the head's dense product.
        pad_id: As the library takes it.
        types: Whether it gets token types.
    """

    tensors: dict[str, NDArray[Any]]
    epsilon: float
    activation: str
    head_activation: str
    pad_id: int | None
    types: bool


def recognize(graph: OnnxGraph, inputs: Inputs) -> KernelModel:
    """What the library takes of a graph.

    Args:
        graph: As the exporter wrote it.
        inputs: The manifest's facts about the graph's inputs.

    Raises:
        NotCovered: If it computes anything else than the library does.
    """
    tensors = {name: value for name, value in graph.constants.items() if _WEIGHTS.fullmatch(name)}
    others = [name for name in graph.constants if name not in tensors and not _HELPERS.fullmatch(name)]
    others += sorted({node.op for node in graph.nodes} - _OPERATORS)
    others += sorted(set(graph.inputs) - {"input_ids", "token_type_ids"})
    if others:
        raise NotCovered(f"its graph has {', '.join(others[:3])}, which are not covered")
    norms = [node for node in graph.nodes if node.op == "LayerNormalization"]
    epsilons = {node.floats.get("epsilon", 1e-5) for node in norms}
    layers = len(_inputs_of(graph, ".up"))
    makers = {name: node for node in graph.nodes for name in node.outputs}
    if len(epsilons) != 1 or len(norms) != 2 * layers + 3 or not _norms_follow(graph, makers):
        raise NotCovered("its graph has its norms elsewhere than BERT, which is not covered")
    if any(node.op == "Attention" and any(node.inputs[3:]) for node in graph.nodes):
        raise NotCovered("its graph adds something to scores of attention, which is not covered")
    if any(node.op == "CumSum" for node in graph.nodes) != bool(inputs.position_offset):
        raise NotCovered("its graph counts positions otherwise than the manifest says")
    return KernelModel(
        tensors,
        epsilons.pop(),
        _activation(graph, "layer.0.up"),
        _activation(graph, "head.dense"),
        inputs.pad_id if inputs.position_offset else None,
        "token_type_ids" in graph.inputs and inputs.token_types,
    )


def _norms_follow(graph: OnnxGraph, makers: dict[str, OnnxNode]) -> bool:
    """Whether what enters each feed-forward is what attention gave, normalized."""
    for node in _inputs_of(graph, ".up"):
        norm = makers.get(node.inputs[0])
        scale = node.inputs[1].replace(".up.", ".attention_norm.")
        if norm is None or norm.op != "LayerNormalization" or norm.inputs[1] != scale:
            return False
    return True


def _inputs_of(graph: OnnxGraph, point: str) -> list[OnnxNode]:
    """What makes bytes of the inputs of products."""
    return [node for node in graph.nodes if node.op == "QuantizeLinear" and node.inputs[1].endswith(f"{point}.scale")]


def _activation(graph: OnnxGraph, matrix: str) -> str:
    """The activation behind a product with a matrix, "identity" where there is no such product.

    Raises:
        NotCovered: If the library has none such.
    """
    takers: dict[str, OnnxNode] = {}
    for node in graph.nodes:
        for name in node.inputs:
            takers.setdefault(name, node)
    names = [name for name in (f"{matrix}.int8", f"{matrix}.weight", f"{matrix}.weight.int8") if name in takers]
    if not names:
        return _ACTIVATIONS["MatMul"]
    node = takers[names[0]]
    while node.op in ("Cast", "Mul"):
        node = takers[node.outputs[0]]
    node = takers[node.outputs[0]]
    if node.op == "Add":
        node = takers[node.outputs[0]]
    if node.op not in _ACTIVATIONS:
        raise NotCovered(f"its graph has {node.op} behind {matrix}, which is not covered")
    return _ACTIVATIONS[node.op]
