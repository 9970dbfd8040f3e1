"""The layout for onnxruntime's CUDA provider: packed tokens without padding, fused attention.

Of the last layer the [CLS] rows alone go on behind attention.
"""

from dataclasses import replace

import numpy as np
from onnx import TensorProto, helper

from crossrank.export._graphs.encoder import (
    Attention,
    DistanceBias,
    EncoderConfig,
    EncoderWeights,
    Rotary,
    write_encoder,
)
from crossrank.export._graphs.fused import fuse
from crossrank.export._graphs.graph import FloatType, Graph, Model
from crossrank.export._graphs.layers import Floats, Linear

from .base import Layout
from .distances import Rows, gathered, longest


def build_cuda(
    weights: EncoderWeights,
    config: EncoderConfig,
    *,
    token_types: bool,
    dtype: FloatType = np.float16,
    twin: bool = False,
    fused: bool = True,
) -> Model:
    """The graph for onnxruntime's CUDA provider.

    Args:
        weights: The model.
        config: Its sizes.
        token_types: Whether there is an input for them.
        dtype: Type of weights and activations.
        twin: Whether it is the graph's CPU-runnable twin instead, which differs in attention alone.
        fused: Whether in fused operators, or plain: each value of it, and `fuse` is for later.
    """
    layout = (CudaTwin if twin else Cuda)(Graph(dtype), config, token_types=token_types)
    layers = (replace(layer, attention=pad_head_size(layer.attention, config)) for layer in weights.layers)
    write_encoder(layout, replace(weights, layers=tuple(layers)))
    model = layout.graph.model()
    if fused:
        fuse(model)
    return model


class Cuda(Layout):
    """All tokens in one dimension. Shapes in comments: B pairs, S longest, T tokens, N heads, D head size."""

    def __init__(self, graph: Graph, config: EncoderConfig, *, token_types: bool) -> None:
        super().__init__(graph, config, token_types=token_types)
        for name in ("input_ids", "position_ids", *([self.types] if self.types else [])):
            graph.input(name, np.int32, ["tokens"])
        graph.input("token_offset", np.int32, ["pairs", "longest"])
        graph.input("cumulative_sequence_length", np.int32, ["pairs_and_one"])
        self._starts = self._part("cumulative_sequence_length", 0, -1)  # [B]

    def _part(self, value: str, start: int, end: int | str, axis: int = 0) -> str:
        bounds = (bound if isinstance(bound, str) else self.graph.integers(bound) for bound in (start, end, axis))
        return self.graph.add("Slice", value, *bounds)

    def needed_rows(self, hidden: str) -> str:  # [T, width] -> the same or [B, width]
        return self.graph.add("Gather", hidden, self._starts) if self.narrow else hidden

    def position_rows(self, name: str, table: Floats) -> str:
        return self.graph.add("Gather", self.graph.weight(name, table), "position_ids")

    def distance_bias(self, bias: DistanceBias) -> str:
        """A corner of the largest one there can be.

        Its positions are no values that are computed: onnxruntime would put what computes them on the CPU, and copy
        them in every run, which neither a session without the CPU nor a CUDA graph allows.
        """
        rows = np.arange(longest(self))
        table = bias.by_distance(rows - rows[:, None])  # [S, S, N]
        corner = self.graph.weight(bias.name, np.ascontiguousarray(table.transpose(2, 0, 1)[None]))
        length = self.graph.add("Shape", "token_offset", start=1, end=2)
        return self._part(self._part(corner, 0, length, axis=2), 0, length, axis=3)

    def by_pair(self, projected: str) -> str:  # [T, width] -> [B, S, width], other pairs' tokens behind a pair's own
        graph = self.graph
        row = graph.add("Cast", self._row(), to=TensorProto.INT32)  # [S]
        index = graph.add("Add", graph.add("Unsqueeze", self._starts, graph.integers(1)), row)
        ends = self._part("cumulative_sequence_length", 1, 1_000_000)
        last = graph.add("Sub", self._part(ends, -1, 1_000_000), graph.constant("one", np.array([1], np.int32)))
        return graph.add("Gather", projected, graph.add("Min", index, last))

    def _row(self) -> str:
        """The places 0 to S - 1, float32 [S], in which they are exact."""
        places = self.graph.constant("places", np.arange(longest(self), dtype=np.float32))
        return self._part(places, 0, self.graph.add("Shape", "token_offset", start=1, end=2))

    def _cut(self, value: str) -> str:
        """What is below 0 becomes 0, what is above 1 becomes 1; float32."""
        bounds = (self.graph.constant(f"float_{i}", np.array(i, np.float32)) for i in (0, 1))
        return self.graph.add("Clip", value, *bounds)

    @property
    def head_width(self) -> int:
        return -(-self.config.head_size // 8) * 8

    def _products(self, tokens: str, table: Floats, rows: Rows, name: str, keys: bool) -> str:
        graph = self.graph
        length = graph.add("Shape", "token_offset", start=1, end=2)
        zero = graph.add("Mul", self._starts, graph.constant("zero", np.array([0], np.int32)))
        zeros = graph.add("Unsqueeze", zero, graph.integers(1, 2, 3))
        return gathered(self, tokens, table, rows, name, keys=keys, length=length, zeros=zeros)

    def places(self) -> str:
        """Each token's place in [B*S], int32 [T]: the first that ``token_offset`` holds, behind them those of none."""
        flat = self.graph.add("Reshape", "token_offset", self.graph.integers(-1))
        return self._part(flat, 0, self.graph.add("Shape", "input_ids", start=0, end=1))

    def lengths(self) -> str:
        """Tokens of each pair, int32 [B]."""
        return self.graph.add("Sub", self._part("cumulative_sequence_length", 1, 1_000_000), self._starts)

    def mean_rows(self, hidden: str) -> str:
        graph = self.graph
        ends = graph.add("Unsqueeze", graph.add("Cast", self.lengths(), to=TensorProto.FLOAT), graph.integers(1))
        own = self._cut(graph.add("Sub", ends, self._row()))  # [B, S], 1 or 0
        rows = graph.add("Cast", self.by_pair(hidden), to=TensorProto.FLOAT)  # thousands of them leave float16
        rows = graph.add("Mul", rows, graph.add("Unsqueeze", own, graph.integers(2)))
        total = graph.add("ReduceSum", rows, graph.integers(1), keepdims=0)
        mean = graph.add("Div", total, ends)
        return graph.add("Cast", mean, to=helper.np_dtype_to_tensor_dtype(graph.dtype))

    def rotate(self, projected: str, rotary: Rotary) -> str:
        """By one operator, each token a batch of its own with its position: [T, N*D] -> [T, N*D]."""
        graph = self.graph
        tables = zip(("cos", "sin"), rotary.tables(self.config.positions), strict=True)
        names = [graph.weight(f"{rotary.name}.{name}", table) for name, table in tables]
        positions = graph.add("Unsqueeze", graph.add("Cast", "position_ids", to=7), graph.integers(0))  # [1, T]
        row = graph.add("Unsqueeze", projected, graph.integers(0))  # [1, T, N*D]
        turned = graph.contrib("RotaryEmbedding", row, positions, *names, is_packed_batching=1)
        return graph.add("Squeeze", turned, graph.integers(0))

    # [T, N*D] each
    def attend(self, query: str, key: str, value: str, bias: str = "", *, window: int | None = None) -> str:
        if window is not None:
            unseen = self._unseen(window)
            bias = self.graph.add("Add", bias, unseen) if bias else unseen
        return self.needed_rows(self.fused(query, key, value, bias))

    def _unseen(self, window: int) -> str:
        """What is added to scores of what is farther away, [1, 1, S, S]: by values on the GPU, as `distance_bias` says.

        Computed in float32, in which places are exact.
        """
        graph = self.graph
        row = self._row()
        apart = graph.add("Abs", graph.add("Sub", row, graph.add("Unsqueeze", row, graph.integers(1))))
        reach = graph.constant(f"window_{window}", np.array(-window, np.float32))
        far = self._cut(graph.add("Add", apart, reach))
        added = graph.add("Mul", far, graph.constant("unseen", np.array(-1e4, np.float32)))
        typed = graph.add("Cast", added, to=helper.np_dtype_to_tensor_dtype(graph.dtype))
        return graph.add("Unsqueeze", typed, graph.integers(0, 1))

    def fused(self, query: str, key: str, value: str, bias: str) -> str:
        """Onnxruntime's attention over packed tokens, CUDA only: [T, N*D] each -> [T, N*D].

        One operator for every GPU, since it is one kernel on all of them with float16 and heads of a multiple of 8,
        q, k and v apart or joined (`fuse` joins them, and one kernel more adds their biases and parts them): from sm_80
        on by FlashAttention's kernels for sequences of any lengths; elsewhere, and with a bias, by CUTLASS's
        memory-efficient ones (from sm_53 on; with a bias where the longest pair counts in multiples of 8). Both read
        the lengths on the device and sum in float32. The choice is in ComputeInternal of
        https://github.com/microsoft/onnxruntime/blob/v1.24.4/onnxruntime/contrib_ops/cuda/bert/packed_multihead_attention.cc
        with flash::is_supported (flash_attention/flash_api.cc beside it), has_memory_efficient_attention
        (cutlass_fmha/memory_efficient_attention.h) and the engine's ``sdpa_kernel``, which leaves TensorRT's kernels
        out; ORT_ENABLE_ATTENTION_KERNEL_DEBUG_INFO=1 prints it.
        """
        return self.graph.contrib(
            "PackedMultiHeadAttention",
            *(query, key, value, "", "token_offset", "cumulative_sequence_length", bias),
            num_heads=self.config.heads,
            scale=self.config.head_size**-0.5,
        )


class CudaTwin(Cuda):
    """The same, but for an attention in operators that a CPU runs: unpack, attend, pack."""

    def fused(self, query: str, key: str, value: str, bias: str) -> str:
        graph = self.graph
        context = graph.contrib(
            "MultiHeadAttention",
            *(self.by_pair(query), self.by_pair(key), self.by_pair(value), "", self.lengths(), bias),
            num_heads=self.config.heads,
            scale=self.config.head_size**-0.5,
        )
        width = graph.add("Shape", query, start=1, end=2)
        merged = graph.add("Reshape", context, graph.add("Concat", graph.integers(-1), width, axis=0))
        return graph.add("Gather", merged, self.places())


def pad_head_size(attention: Attention, config: EncoderConfig) -> Attention:
    """Zero columns that bring each head to a multiple of 8, as CUDA's fused kernels need it.

    Exact with the scale of the true head size: zeros add nothing to the scores or to the output. Where halves of a head
    are turned together, each half gets its share of them.
    """
    n, d = config.heads, config.head_size
    padded = -(-d // 8) * 8
    if padded == d:
        return attention
    rotary = attention.rotary
    halves = 1 if rotary is None else 2
    more = (0, (padded - d) // halves)
    if rotary is not None:
        rotary = replace(rotary, frequencies=np.pad(rotary.frequencies, more))

    def columns(linear: Linear) -> Linear:
        weight = np.pad(linear.weight.reshape(-1, n * halves, d // halves), ((0, 0), (0, 0), more))
        bias = np.pad(linear.bias.reshape(n * halves, d // halves), ((0, 0), more))
        return replace(linear, weight=weight.reshape(len(weight), -1), bias=bias.ravel())

    rows = np.pad(attention.output.weight.reshape(n * halves, d // halves, -1), ((0, 0), more, (0, 0)))
    return replace(
        attention,
        rotary=rotary,
        query=columns(attention.query),
        key=columns(attention.key),
        value=columns(attention.value),
        output=replace(attention.output, weight=rows.reshape(n * padded, -1)),
    )
