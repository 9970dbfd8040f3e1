"""The padded graph that people run on a GPU: what onnxruntime's transformer optimizer makes of a BERT export.

Written directly: exporting and optimizing take minutes and need the tools. As there, embeddings, attention, residuals
with their norms, and bias with GELU are one operator each. The mask is better than there. Of the forms that `Attention`
takes, all GPUs from sm_53 on have a fused kernel for one alone, lengths with the offsets of queries and keys. For bare
lengths, the optimizer's form, only TensorRT's kernels are there, up to sm_89; a mask of zeros and ones is never fused.
https://github.com/microsoft/onnxruntime/blob/main/onnxruntime/python/tools/transformers/onnx_model_bert.py
https://github.com/microsoft/onnxruntime/blob/main/onnxruntime/contrib_ops/cuda/bert/attention.cc
"""

import numpy as np
from numpy.typing import NDArray
from onnx import helper

from crossrank.export._graphs.encoder import EncoderConfig, EncoderWeights, Head
from crossrank.export._graphs.graph import Graph, Model
from crossrank.export._graphs.layers import Linear, Norm, activate, dense


def build_fused(weights: EncoderWeights, config: EncoderConfig, *, dtype: type[np.float32 | np.float16]) -> Model:
    """The graph of a BERT, or of an ELECTRA whose embeddings are as wide as its layers; GELU is exact.

    Its inputs are int32: input_ids and token_type_ids [pairs, tokens], right-padded, and what `mask_lengths` gives.
    """
    tables = weights.embeddings
    assert tables.positions is not None, "BERT and ELECTRA have positions"
    assert tables.types is not None, "and token types"
    assert tables.projection is None, "the shapes that are measured have none"
    graph = Graph(dtype)
    for name in ("input_ids", "token_type_ids"):
        graph.input(name, np.int32, ["pairs", "tokens"])
    graph.input("lengths", np.int32, ["lengths"])

    def bias(linear: Linear) -> str:
        return graph.weight(f"{linear.name}.bias", linear.bias)

    def product(hidden: str, linear: Linear) -> str:
        return graph.add("MatMul", hidden, graph.weight(f"{linear.name}.weight", linear.weight))

    def scale_and_bias(norm: Norm) -> tuple[str, str]:
        return graph.weight(f"{norm.name}.scale", norm.scale), graph.weight(f"{norm.name}.bias", norm.bias)

    def skip(hidden: str, residual: str, norm: Norm | None, before: Linear) -> str:
        assert norm is not None, "BERT's layers have both"
        inputs = (hidden, residual, *scale_and_bias(norm), bias(before))
        return graph.contrib("SkipLayerNormalization", *inputs, epsilon=config.epsilon)

    embedded = [
        graph.weight(f"embeddings.{name}", table)
        for name, table in (("words", tables.words), ("positions", tables.positions), ("types", tables.types))
    ]
    graph.model().graph.node.append(  # `Graph` writes nodes of one output; the second would be a mask as bare lengths
        helper.make_node(
            "EmbedLayerNormalization",
            ["input_ids", "token_type_ids", *embedded, *scale_and_bias(tables.norm)],
            ["embedded", "no_mask"],
            name="embed",
            domain="com.microsoft",
            epsilon=config.epsilon,
        )
    )
    hidden = "embedded"
    for i, layer in enumerate(weights.layers):
        attention, forward = layer.attention, layer.feed_forward
        projections = (attention.query, attention.key, attention.value)
        joined = graph.weight(f"layer.{i}.qkv.weight", np.concatenate([part.weight for part in projections], axis=1))
        biases = graph.weight(f"layer.{i}.qkv.bias", np.concatenate([part.bias for part in projections]))
        context = graph.contrib("Attention", hidden, joined, biases, "lengths", num_heads=config.heads)
        hidden = skip(product(context, attention.output), hidden, layer.attention_norm, attention.output)
        inner = graph.contrib("BiasGelu", product(hidden, forward.up), bias(forward.up))
        hidden = skip(product(inner, forward.down), hidden, layer.output_norm, forward.down)
    row = graph.add("Gather", hidden, graph.constant("first_row", np.array(0)), axis=1)
    head = weights.head
    assert isinstance(head, Head), "both have this one"
    if head.dense is not None:
        row = activate(graph, dense(graph, row, head.dense), head.activation, contrib=True)
    graph.output(dense(graph, row, head.classifier), "logits", ["pairs", config.labels])
    return graph.model()


def mask_lengths(lengths: NDArray[np.int32], tokens: int) -> NDArray[np.int32]:
    """The mask of a padded batch: lengths, then where each pair's queries and keys begin; int32 [3 * pairs + 2].

    >>> mask_lengths(np.array([2, 3], np.int32), 3).tolist()
    [2, 3, 0, 3, 6, 0, 3, 6]
    """
    starts = np.arange(len(lengths) + 1, dtype=np.int32) * np.int32(tokens)
    return np.concatenate([lengths, starts, starts])
