"""The graphs that crossrank-kernels runs: those of the BERT kind in int8, as crossrank's exporter writes them."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from crossrank._artifact.manifest import Inputs

from .onnx_file import OnnxGraph, OnnxNode

# As the library names them, by the operator.
_ACTIVATIONS = {"Gelu": "gelu", "FastGelu": "gelu_new", "Relu": "relu", "Tanh": "tanh"}
_PRODUCTS = ("Gemm", "MatMul", "MatMulIntegerToFloat")
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
_LAYER = re.compile(r"layer\.\d+\.attention_norm\.scale")
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
        NotCovered: If it computes anything else than the library does, or is damaged.
    """
    try:
        return _recognize(graph, inputs)
    except LookupError as error:  # of a node that has fewer inputs or outputs than its operator
        raise NotCovered(f"its graph is damaged: {error!r}") from error


def _recognize(graph: OnnxGraph, inputs: Inputs) -> KernelModel:
    tensors = {name: value for name, value in graph.constants.items() if _WEIGHTS.fullmatch(name)}
    others = [name for name in graph.constants if name not in tensors and not _HELPERS.fullmatch(name)]
    others += sorted({node.op for node in graph.nodes} - _OPERATORS)
    others += sorted(set(graph.inputs) - {"input_ids", "token_type_ids"})
    if others:
        raise NotCovered(f"its graph has {', '.join(others[:3])}, which are not covered")
    norms = [node for node in graph.nodes if node.op == "LayerNormalization"]
    epsilons = {node.floats.get("epsilon", 1e-5) for node in norms}
    depth = sum(_LAYER.fullmatch(name) is not None for name in tensors)
    if any(node.op == "Attention" and any(node.inputs[3:]) for node in graph.nodes):
        raise NotCovered("its graph adds something to scores of attention, which is not covered")
    takers: dict[str, list[OnnxNode]] = {}
    for node in graph.nodes:
        for name in set(node.inputs):
            takers.setdefault(name, []).append(node)
    if len(epsilons) != 1 or len(norms) != 2 * depth + 1 or not _norms_follow(graph, takers, depth):
        raise NotCovered("its graph has its norms elsewhere than BERT, which is not covered")
    activations = {_activated(takers, f"layer.{i}.up")[0] for i in range(depth)}
    if len(activations) != 1:
        raise NotCovered(f"its layers have the activations {', '.join(sorted(activations))}, which is not covered")
    return KernelModel(
        tensors,
        epsilons.pop(),
        activations.pop(),
        _head_activation(graph, takers),
        _pad_id(graph, takers, inputs),
        "token_type_ids" in graph.inputs and inputs.token_types,
    )


def _pad_id(graph: OnnxGraph, takers: Mapping[str, list[OnnxNode]], inputs: Inputs) -> int | None:
    """The padding id that positions count from, None where they count from 0.

    Raises:
        NotCovered: If the graph counts otherwise than the manifest says.
    """
    compared = {name for node in graph.nodes if node.op == "Equal" for name in node.inputs if name in graph.constants}
    counted = any(node.op == "CumSum" for node in graph.nodes)
    if not counted and not compared and not inputs.position_offset:
        return None
    pads = [graph.constants[name].tolist() for name in compared]
    added = all(any(node.op == "Add" for node in takers[name]) for name in compared)  # to what is counted
    if counted and added and pads == [[inputs.pad_id]] and inputs.position_offset == inputs.pad_id + 1:
        return inputs.pad_id
    raise NotCovered("its graph counts positions otherwise than the manifest says")


def _head_activation(graph: OnnxGraph, takers: Mapping[str, list[OnnxNode]]) -> str:
    """The activation behind the head's dense product, "identity" where there is none of either.

    Raises:
        NotCovered: If the head is any other than that product, its activation, the classifier's product and no more.
    """
    classifier = _product(takers, "head.classifier")
    if classifier is None:
        raise NotCovered("its graph has no head.classifier, which is not covered")
    last = _only(takers, _biased(takers, classifier, "head.classifier"))
    if last.op != "Cast" or list(last.outputs) != list(graph.outputs):
        raise NotCovered(f"its graph has more than head.classifier before its output, {last.op}, which is not covered")
    if _product(takers, "head.dense") is None:
        return "identity"
    activation, value = _activated(takers, "head.dense")
    if _only(takers, value) is not classifier:
        raise NotCovered("its graph has more between head.dense and head.classifier, which is not covered")
    return activation


def _norms_follow(graph: OnnxGraph, takers: Mapping[str, list[OnnxNode]], depth: int) -> bool:
    """Whether what enters each feed-forward, as bytes or not, is what attention gave, normalized."""
    makers = {name: node for node in graph.nodes for name in node.outputs}
    for layer in range(depth):
        product = _product(takers, f"layer.{layer}.up")
        norm = None if product is None else makers.get(product.inputs[0])
        if norm is not None and norm.op == "QuantizeLinear":
            norm = makers.get(norm.inputs[0])
        if norm is None or norm.op != "LayerNormalization" or norm.inputs[1] != f"layer.{layer}.attention_norm.scale":
            return False
    return True


def _product(takers: Mapping[str, list[OnnxNode]], matrix: str) -> OnnxNode | None:
    """The product with a matrix, None where there is none."""
    for name in (f"{matrix}.int8", f"{matrix}.weight", f"{matrix}.weight.int8"):
        if name in takers:
            node = _only(takers, name)
            if name.endswith(".weight.int8"):  # Cast, and Mul by its scales
                node = _only(takers, _only(takers, node.outputs[0]).outputs[0])
            if node.op not in _PRODUCTS:
                raise NotCovered(f"its graph takes {name} by {node.op}, which is not covered")
            return node
    return None


def _biased(takers: Mapping[str, list[OnnxNode]], product: OnnxNode, matrix: str) -> str:
    """What comes of a product when the matrix's own bias is added, where it has one."""
    value = product.outputs[0]
    followers = takers.get(value, [])
    biased = len(followers) == 1 and followers[0].op == "Add" and f"{matrix}.bias" in followers[0].inputs
    return followers[0].outputs[0] if biased else value


def _activated(takers: Mapping[str, list[OnnxNode]], matrix: str) -> tuple[str, str]:
    """The activation behind a product with a matrix, and what comes of it.

    Raises:
        NotCovered: If the library has none such.
    """
    product = _product(takers, matrix)
    if product is None:
        raise NotCovered(f"its graph has no {matrix}, which is not covered")
    value = _biased(takers, product, matrix)
    node = _only(takers, value)
    if node.op in _PRODUCTS:
        return "identity", value
    if node.op not in _ACTIVATIONS:
        raise NotCovered(f"its graph has {node.op} behind {matrix}, which is not covered")
    return _ACTIVATIONS[node.op], node.outputs[0]


def _only(takers: Mapping[str, list[OnnxNode]], value: str) -> OnnxNode:
    """The node that takes a value, which no other does."""
    found = takers.get(value, [])
    if len(found) != 1:
        raise NotCovered(f"its graph takes {value} {len(found)} times in place of once, which is not covered")
    return found[0]
