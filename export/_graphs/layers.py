"""The parts that all graph variants share: embeddings, dense layers, activations, norms, the head."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from crossrank.export._architectures.config import EncoderConfig
from crossrank.export._architectures.weights import Embeddings, Head, Layer, Linear, Norm

from .graph import Graph


class Dense(Protocol):
    """How matrix products are written: in float, in int8, or watched for calibration."""

    def __call__(self, graph: Graph, hidden: str, linears: Sequence[Linear], point: str) -> list[str]:
        """Apply each of ``linears`` to ``hidden``; ``point`` names the input for quantization."""
        ...


def dense(graph: Graph, hidden: str, linear: Linear) -> str:
    """``hidden @ weight + bias``."""
    product = graph.add("MatMul", hidden, graph.weight(f"{linear.name}.weight", linear.weight))
    return graph.add("Add", product, graph.weight(f"{linear.name}.bias", linear.bias))


def float_dense(graph: Graph, hidden: str, linears: Sequence[Linear], point: str) -> list[str]:
    """`Dense` in the graph's own float type."""
    return [dense(graph, hidden, linear) for linear in linears]


def activate(graph: Graph, hidden: str, name: str, *, contrib: bool) -> str:
    """One of `ACTIVATIONS`, or tanh.

    Args:
        graph: Where to write.
        hidden: The input.
        name: gelu, gelu_new, relu, silu or tanh.
        contrib: Whether onnxruntime's own operators may be used.
    """
    if name in ("relu", "tanh"):
        return graph.add("Relu" if name == "relu" else "Tanh", hidden)
    if name == "silu":
        return graph.add("Mul", hidden, graph.add("Sigmoid", hidden))
    if contrib:
        return graph.contrib("Gelu" if name == "gelu" else "FastGelu", hidden)
    if name == "gelu":  # x / 2 * (1 + erf(x / sqrt(2)))
        inner = graph.add("Erf", graph.add("Div", hidden, graph.scalar(2**0.5)))
    else:  # gelu_new: x / 2 * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 * x^3)))
        cubic = graph.add("Mul", graph.add("Mul", hidden, hidden), graph.add("Mul", hidden, graph.scalar(0.044715)))
        scaled = graph.add("Mul", graph.add("Add", hidden, cubic), graph.scalar((2 / 3.141592653589793) ** 0.5))
        inner = graph.add("Tanh", scaled)
    half = graph.add("Mul", hidden, graph.scalar(0.5))
    return graph.add("Mul", half, graph.add("Add", inner, graph.scalar(1.0)))


def normalize(graph: Graph, hidden: str, norm: Norm, epsilon: float) -> str:
    """LayerNormalization over the last axis; its statistics are float32 in every variant."""
    scale = graph.weight(f"{norm.name}.scale", norm.scale)
    bias = graph.weight(f"{norm.name}.bias", norm.bias)
    return graph.add("LayerNormalization", hidden, scale, bias, axis=-1, epsilon=epsilon)


def add_and_norm(graph: Graph, hidden: str, residual: str, norm: Norm, epsilon: float) -> str:
    """The residual connection and the norm behind it."""
    return normalize(graph, graph.add("Add", hidden, residual), norm, epsilon)


def feed_forward(
    graph: Graph, hidden: str, layer: Layer, config: EncoderConfig, apply: Dense, point: str, *, contrib: bool
) -> str:
    """The feed-forward half of a layer, with its residual and norm."""
    (inner,) = apply(graph, hidden, (layer.up,), f"{point}.up")
    active = activate(graph, inner, config.activation, contrib=contrib)
    (outer,) = apply(graph, active, (layer.down,), f"{point}.down")
    residual = hidden
    if layer.apart is not None:
        up, down = layer.apart
        some = activate(graph, dense(graph, hidden, up), config.activation, contrib=contrib)
        # One product adds them to the residual, which is as fast as no units apart at all.
        residual = graph.add("Gemm", some, graph.weight(f"{down.name}.weight", down.weight), hidden)
    return add_and_norm(graph, outer, residual, layer.output_norm, config.epsilon)


def embed(graph: Graph, weights: Embeddings, config: EncoderConfig, *, types: str | None, positions: str | None) -> str:
    """Embeddings of ``input_ids``.

    Args:
        graph: Has the input ``input_ids``, [pairs, tokens] or packed [tokens].
        weights: The tables.
        config: The model's settings.
        types: The token type ids, or None where the tokenizer gives none (then all are 0).
        positions: The position ids, or None to derive them from a padded ``input_ids``.
    """
    hidden = graph.lookup("embeddings.words", weights.words, "input_ids")
    table = weights.positions
    if weights.types is not None and types is None:
        table = table + weights.types[0]
    table_name = graph.weight("embeddings.positions", table)
    if positions is None and config.position_offset:
        positions = _roberta_positions(graph, config.pad_id)
    if positions is None:
        length = graph.add("Shape", "input_ids", start=1, end=2)
        rows = graph.add("Slice", table_name, graph.integers(0), length, graph.integers(0))
    else:
        rows = graph.add("Gather", table_name, positions)
    if weights.types is not None and types is not None:
        hidden = graph.add("Add", hidden, graph.add("Gather", graph.weight("embeddings.types", weights.types), types))
    hidden = normalize(graph, graph.add("Add", hidden, rows), weights.norm, config.epsilon)
    return hidden if weights.projection is None else dense(graph, hidden, weights.projection)


def _roberta_positions(graph: Graph, pad_id: int) -> str:
    # A token that spells the padding is not counted, as in transformers' create_position_ids_from_input_ids.
    ids = graph.add("Cast", "input_ids", to=7)
    counted = graph.add("Cast", graph.add("Not", graph.add("Equal", ids, graph.integers(pad_id))), to=7)
    running = graph.add("Mul", graph.add("CumSum", counted, graph.constant("axis_1", np.array(1))), counted)
    return graph.add("Add", running, graph.integers(pad_id))


def head_logits(graph: Graph, row: str, head: Head, *, contrib: bool) -> None:
    """The classification head on the [CLS] rows [pairs, hidden]; declares the output ``logits``."""
    if head.dense is not None:
        row = activate(graph, dense(graph, row, head.dense), head.activation, contrib=contrib)
    logits = dense(graph, row, head.classifier)
    graph.output(logits, "logits", ["pairs", len(head.classifier.bias)])
