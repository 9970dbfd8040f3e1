"""Attention as each variant wants it. Shapes in comments: B pairs, S longest, T tokens, N heads, D head size."""

from dataclasses import replace

import numpy as np

from crossrank.export._architectures.config import EncoderConfig
from crossrank.export._architectures.weights import EncoderWeights, Layer, Linear

from .graph import Graph
from .layers import dense
from .positions import distance_buckets


def valid_from_mask(graph: Graph) -> str:
    """Bool [B, 1, 1, S] from ``attention_mask``."""
    return graph.add("Unsqueeze", graph.add("Cast", "attention_mask", to=9), graph.integers(1, 2))


def plain_attention(
    graph: Graph, query: str, key: str, value: str, valid: str, bias: str, config: EncoderConfig
) -> str:
    """Attention in standard operators: [B, S, N*D] each -> [B, S, N*D]; ``bias`` [1, N, S, S] or ""."""
    split = graph.integers(0, 0, config.heads, config.head_size)

    def heads(projected: str, perm: list[int]) -> str:
        return graph.add("Transpose", graph.add("Reshape", projected, split), perm=perm)

    scaled = graph.add("Mul", heads(query, [0, 2, 1, 3]), graph.scalar(config.head_size**-0.5))
    scores = graph.add("MatMul", scaled, heads(key, [0, 2, 3, 1]))  # [B, N, S, S]
    if bias:
        scores = graph.add("Add", scores, bias)
    lowest = graph.constant("lowest", np.array(-65504 if graph.dtype == np.float16 else -3.4e38, graph.dtype))
    shares = graph.add("Softmax", graph.add("Where", valid, scores, lowest), axis=-1)
    context = graph.add("MatMul", shares, heads(value, [0, 2, 1, 3]))
    merged = graph.add("Transpose", context, perm=[0, 2, 1, 3])  # [B, S, N, D]
    return graph.add("Reshape", merged, graph.integers(0, 0, config.hidden))


def even_attention(graph: Graph, query: str, key: str, value: str, bias: str, config: EncoderConfig) -> str:
    """Attention without padding, as one operator: [B, S, N*D] each -> [B, S, N*D]; ``bias`` [1, N, S, S] or ""."""
    biases = [bias] if bias else []
    return graph.add("Attention", query, key, value, *biases, q_num_heads=config.heads, kv_num_heads=config.heads)


def cls_attention(graph: Graph, hidden: str, row: str, bias: str, layer: Layer, config: EncoderConfig) -> str:
    """Attention of the [CLS] row alone, with keys and values never projected.

    q·(W_k h + b_k) = (W_kᵀ q)·h + const, and the constant drops out of the softmax; the values'
    projection moves behind the weighted sum, since Σ p = 1. Exact in real arithmetic.

    Args:
        graph: Where to write.
        hidden: [B, S, H].
        row: [B, H], its first row.
        bias: [1, N, S, S], of which row 0 is added to the scaled scores, or "".
        layer: The last layer.
        config: The model's sizes.

    Returns:
        The context [B, H], before the output projection.
    """
    n, d, h = config.heads, config.head_size, config.hidden

    def per_head(linear: Linear, perm: tuple[int, ...]) -> str:
        weight = linear.weight.reshape(h, n, d).transpose(perm)
        return graph.weight(f"{linear.name}.per_head", weight)

    query = graph.add("Mul", dense(graph, row, layer.query), graph.scalar(d**-0.5))
    by_head = graph.add("Transpose", graph.add("Reshape", query, graph.integers(-1, n, d)), perm=[1, 0, 2])
    lifted = graph.add("MatMul", by_head, per_head(layer.key, (1, 2, 0)))  # [N, B, D] x [N, D, H]
    probes = graph.add("Transpose", lifted, perm=[1, 0, 2])  # [B, N, H]
    scores = graph.add("MatMul", probes, graph.add("Transpose", hidden, perm=[0, 2, 1]))  # [B, N, S]
    if bias:
        scores = graph.add("Add", scores, graph.add("Gather", bias, graph.constant("first_row", np.array(0)), axis=2))
    mixed = graph.add("MatMul", graph.add("Softmax", scores, axis=-1), hidden)  # [B, N, H]
    values = graph.add("MatMul", graph.add("Transpose", mixed, perm=[1, 0, 2]), per_head(layer.value, (1, 0, 2)))
    context = graph.add("Reshape", graph.add("Transpose", values, perm=[1, 0, 2]), graph.integers(-1, h))
    return graph.add("Add", context, graph.weight(f"{layer.value.name}.bias", layer.value.bias))


def pad_head_size(layer: Layer, config: EncoderConfig) -> Layer:
    """Zero columns that bring each head to a multiple of 8, as CUDA's fused kernels need it.

    Exact with the scale of the true head size: zeros add nothing to the scores or to the output.
    """
    n, d = config.heads, config.head_size
    padded = -(-d // 8) * 8
    if padded == d:
        return layer

    def columns(linear: Linear) -> Linear:
        weight = np.pad(linear.weight.reshape(-1, n, d), ((0, 0), (0, 0), (0, padded - d)))
        bias = np.pad(linear.bias.reshape(n, d), ((0, 0), (0, padded - d)))
        return replace(linear, weight=weight.reshape(len(weight), -1), bias=bias.ravel())

    rows = np.pad(layer.output.weight.reshape(n, d, -1), ((0, 0), (0, padded - d), (0, 0)))
    return replace(
        layer,
        query=columns(layer.query),
        key=columns(layer.key),
        value=columns(layer.value),
        output=replace(layer.output, weight=rows.reshape(n * padded, -1)),
    )


def packed_bias(graph: Graph, weights: EncoderWeights, config: EncoderConfig) -> str:
    """`relative_bias` of a packed graph, [1, N, S, S] or "": a corner of the largest one there can be.

    Its positions are no values that are computed: onnxruntime would put what computes them on the CPU, and copy them
    in every run, which neither a session without the CPU nor a CUDA graph allows.
    """
    if weights.relative_bias is None:
        return ""
    rows = np.arange(-(-config.positions // 8) * 8)  # the longest pair is rounded up to a multiple of 8
    table = weights.relative_bias[distance_buckets(rows - rows[:, None])]  # [S, S, N]
    bias = graph.weight("relative_bias", np.ascontiguousarray(table.transpose(2, 0, 1)[None]))
    longest = graph.add("Shape", "token_offset", start=1, end=2)
    for axis in (2, 3):
        bias = graph.add("Slice", bias, graph.integers(0), longest, graph.integers(axis))
    return bias


def packed_attention(graph: Graph, query: str, key: str, value: str, bias: str, config: EncoderConfig) -> str:
    """Onnxruntime's attention over packed tokens, CUDA only: [T, N*D] each -> [T, N*D]; ``bias`` [1, N, S, S] or "".

    One operator for every GPU, since it is fused on all of them with float16, q, k and v apart and heads of a multiple
    of 8: from sm_80 on by FlashAttention's kernels for sequences of any lengths; elsewhere, and with a bias, by
    CUTLASS's memory-efficient ones (from sm_53 on; with a bias where the longest pair counts in multiples of 8). Both
    read the lengths on the device and sum in float32. The choice is in ComputeInternal of
    https://github.com/microsoft/onnxruntime/blob/v1.24.4/onnxruntime/contrib_ops/cuda/bert/packed_multihead_attention.cc
    with flash::is_supported (flash_attention/flash_api.cc beside it), has_memory_efficient_attention
    (cutlass_fmha/memory_efficient_attention.h) and the engine's ``sdpa_kernel``, which leaves TensorRT's kernels out;
    ORT_ENABLE_ATTENTION_KERNEL_DEBUG_INFO=1 prints it.
    """
    return graph.contrib(
        "PackedMultiHeadAttention",
        *(query, key, value, "", "token_offset", "cumulative_sequence_length", bias),
        num_heads=config.heads,
        scale=config.head_size**-0.5,
    )


def packed_attention_twin(graph: Graph, query: str, key: str, value: str, bias: str, config: EncoderConfig) -> str:
    """What `packed_attention` computes, in operators that a CPU runs: unpack, attend, pack."""
    tokens = graph.add("Shape", "input_ids", start=0, end=1)
    flat = graph.add("Reshape", "token_offset", graph.integers(-1))
    rows = graph.add("Slice", flat, graph.integers(0), tokens, graph.integers(0))  # [T]
    targets = graph.add("Unsqueeze", graph.add("Cast", rows, to=7), graph.integers(1))  # [T, 1]
    batch = graph.add("Shape", "token_offset")  # B, S
    last, first = graph.integers(1_000_000), graph.integers(0)
    ends = graph.add("Slice", "cumulative_sequence_length", graph.integers(1), last, first)
    starts = graph.add("Slice", "cumulative_sequence_length", graph.integers(0), graph.integers(-1), first)
    lengths = graph.add("Sub", ends, starts)  # [B]

    def unpack(packed: str) -> str:
        width = graph.add("Shape", packed, start=1, end=2)
        space = graph.add("Concat", graph.add("Shape", flat), width, axis=0)
        zeros = graph.add("Expand", graph.scalar(0.0), space)  # [B*S, N*D]
        padded = graph.add("ScatterND", zeros, targets, packed)
        return graph.add("Reshape", padded, graph.add("Concat", batch, width, axis=0))

    context = graph.contrib(
        "MultiHeadAttention",
        *(unpack(query), unpack(key), unpack(value), "", lengths, bias),
        num_heads=config.heads,
        scale=config.head_size**-0.5,
    )
    width = graph.add("Shape", query, start=1, end=2)
    merged = graph.add("Reshape", context, graph.add("Concat", graph.integers(-1), width, axis=0))
    return graph.add("Gather", merged, rows)
