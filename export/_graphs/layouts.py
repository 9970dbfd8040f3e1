"""The graph of each variant, written from config and weights.

portable  standard operators; input_ids, attention_mask and token_type_ids -> logits
cpu       pairs of one length, so neither padding nor mask; attention as one operator, the last layer on one row
cuda      packed tokens without padding, fused attention, [CLS] rows alone after the last attention
"""

import numpy as np

from crossrank.export._architectures.config import EncoderConfig
from crossrank.export._architectures.weights import EncoderWeights

from .attention import (
    cls_attention,
    even_attention,
    packed_attention,
    packed_attention_twin,
    packed_bias,
    pad_head_size,
    plain_attention,
    valid_from_mask,
)
from .graph import Graph, Model
from .layers import Dense, add_and_norm, embed, feed_forward, float_dense, head_logits
from .positions import relative_bias

FloatType = type[np.float32 | np.float16]


def build_portable(
    weights: EncoderWeights, config: EncoderConfig, *, token_types: bool, dtype: FloatType = np.float32
) -> Model:
    """A graph for any runtime: the names and operators that others know."""
    graph = Graph(dtype)
    for name in ("input_ids", "attention_mask", *(["token_type_ids"] if token_types else [])):
        graph.input(name, np.int64, ["batch_size", "sequence_length"])
    valid = valid_from_mask(graph)
    bias = relative_bias(graph, weights, config, "input_ids")
    types = "token_type_ids" if token_types else None
    hidden = embed(graph, weights.embeddings, config, types=types, positions=None)
    for layer in weights.layers:
        query, key, value = float_dense(graph, hidden, (layer.query, layer.key, layer.value), "")
        context = plain_attention(graph, query, key, value, valid, bias, config)
        (attended,) = float_dense(graph, context, (layer.output,), "")
        hidden = add_and_norm(graph, attended, hidden, layer.attention_norm, config.epsilon)
        hidden = feed_forward(graph, hidden, layer, config, float_dense, "", contrib=False)
    row = graph.add("Gather", hidden, graph.constant("first_row", np.array(0)), axis=1)
    head_logits(graph, row, weights.head, contrib=False)
    return graph.model()


def write_cpu(graph: Graph, weights: EncoderWeights, config: EncoderConfig, *, token_types: bool, apply: Dense) -> None:
    """Write the CPU variant into ``graph``; all layers but the last take their products from ``apply``."""
    for name in ("input_ids", *(["token_type_ids"] if token_types else [])):
        graph.input(name, np.int32, ["pairs", "tokens"])
    bias = relative_bias(graph, weights, config, "input_ids")
    types = "token_type_ids" if token_types else None
    hidden = embed(graph, weights.embeddings, config, types=types, positions=None)
    as_pairs = graph.add("Concat", graph.add("Shape", "input_ids"), graph.integers(-1), axis=0)

    def split(value: str) -> str:  # [B*S, H] -> [B, S, H]
        return graph.add("Reshape", value, as_pairs)

    def merge(value: str) -> str:  # and back: on two dimensions the products are a few percent faster
        return graph.add("Reshape", value, graph.integers(-1, config.hidden))

    hidden = merge(hidden)
    *layers, last = weights.layers
    for i, layer in enumerate(layers):
        projections = (layer.query, layer.key, layer.value)
        query, key, value = map(split, apply(graph, hidden, projections, f"layer.{i}.attention"))
        context = even_attention(graph, query, key, value, bias, config)
        (attended,) = apply(graph, merge(context), (layer.output,), f"layer.{i}.output")
        hidden = add_and_norm(graph, attended, hidden, layer.attention_norm, config.epsilon)
        hidden = feed_forward(graph, hidden, layer, config, apply, f"layer.{i}", contrib=True)
    hidden = split(hidden)
    row = graph.add("Gather", hidden, graph.constant("first_row", np.array(0)), axis=1)  # [B, H]
    context = cls_attention(graph, hidden, row, bias, last, config)
    (attended,) = float_dense(graph, context, (last.output,), "")
    row = add_and_norm(graph, attended, row, last.attention_norm, config.epsilon)
    row = feed_forward(graph, row, last, config, float_dense, "", contrib=True)
    head_logits(graph, row, weights.head, contrib=True)


def build_cpu(weights: EncoderWeights, config: EncoderConfig, *, token_types: bool) -> Model:
    """The graph for onnxruntime's CPU provider in float32."""
    graph = Graph(opset=23)
    write_cpu(graph, weights, config, token_types=token_types, apply=float_dense)
    return graph.model()


def build_cuda(
    weights: EncoderWeights,
    config: EncoderConfig,
    *,
    token_types: bool,
    dtype: FloatType = np.float16,
    twin: bool = False,
) -> Model:
    """The graph for onnxruntime's CUDA provider, or its CPU-runnable twin, which differs in attention alone."""
    graph = Graph(dtype)
    for name in ("input_ids", "position_ids", *(["token_type_ids"] if token_types else [])):
        graph.input(name, np.int32, ["tokens"])
    graph.input("token_offset", np.int32, ["pairs", "longest"])
    graph.input("cumulative_sequence_length", np.int32, ["pairs_and_one"])
    attention = packed_attention_twin if twin else packed_attention
    bias = packed_bias(graph, weights, config)
    first_rows = graph.add(
        "Slice", "cumulative_sequence_length", graph.integers(0), graph.integers(-1), graph.integers(0)
    )
    types = "token_type_ids" if token_types else None
    hidden = embed(graph, weights.embeddings, config, types=types, positions="position_ids")
    for i, plain in enumerate(weights.layers):
        layer = pad_head_size(plain, config)
        query, key, value = float_dense(graph, hidden, (layer.query, layer.key, layer.value), "")
        context = attention(graph, query, key, value, bias, config)
        if i == len(weights.layers) - 1:
            context, hidden = (graph.add("Gather", value, first_rows) for value in (context, hidden))
        (attended,) = float_dense(graph, context, (layer.output,), "")
        hidden = add_and_norm(graph, attended, hidden, layer.attention_norm, config.epsilon)
        hidden = feed_forward(graph, hidden, layer, config, float_dense, "", contrib=True)
    head_logits(graph, hidden, weights.head, contrib=True)
    return graph.model()
