"""The layout for onnxruntime's CPU provider: pairs of one length, so neither padding nor mask.

Attention is one operator, and the last layer computes one row.
"""

from collections.abc import Sequence

import numpy as np

from crossrank.export._graphs.encoder import Attention, EncoderConfig, EncoderWeights, write_encoder
from crossrank.export._graphs.graph import Graph, Model
from crossrank.export._graphs.layers import Dense, Linear, dense, float_dense

from .base import Layout


def build_cpu(weights: EncoderWeights, config: EncoderConfig, *, token_types: bool) -> Model:
    """The graph for onnxruntime's CPU provider in float32."""
    graph = Graph(opset=23)
    write_cpu(graph, weights, config, token_types=token_types, apply=float_dense)
    return graph.model()


def write_cpu(graph: Graph, weights: EncoderWeights, config: EncoderConfig, *, token_types: bool, apply: Dense) -> None:
    """Write the CPU variant into ``graph``; all layers but the last take their products from ``apply``."""
    write_encoder(Cpu(graph, config, token_types=token_types, apply=apply), weights)


class Cpu(Layout):
    """The tokens of all pairs in one dimension but for attention: on two dimensions products are a few percent faster.

    Shapes in comments: B pairs, S tokens of each, N heads, D head size, H = N*D.
    """

    def __init__(self, graph: Graph, config: EncoderConfig, *, token_types: bool, apply: Dense) -> None:
        super().__init__(graph, config, token_types=token_types)
        for name in ("input_ids", *([self.types] if self.types else [])):
            graph.input(name, np.int32, ["pairs", "tokens"])
        self._apply, self._as_pairs = apply, ""

    def enter(self, hidden: str) -> str:
        graph = self.graph
        self._as_pairs = graph.add("Concat", graph.add("Shape", "input_ids"), graph.integers(-1), axis=0)
        return self._merge(hidden)

    def _merge(self, value: str) -> str:  # [B, S, H] -> [B*S, H]
        return self.graph.add("Reshape", value, self.graph.integers(-1, self.config.hidden))

    def _split(self, value: str) -> str:  # and back
        return self.graph.add("Reshape", value, self._as_pairs)

    def _first(self, value: str, axis: int) -> str:
        return self.graph.add("Gather", value, self.graph.constant("first_row", np.array(0)), axis=axis)

    def dense(self, hidden: str, linears: Sequence[Linear], point: str) -> list[str]:
        return (float_dense if self.narrow else self._apply)(self.graph, hidden, linears, point)

    def needed_rows(self, hidden: str) -> str:  # [B*S, H] -> the same or [B, H]
        return self._first(self._split(hidden), axis=1) if self.narrow else hidden

    def mean_rows(self, hidden: str) -> str:
        return self.graph.add("ReduceMean", self._split(hidden), self.graph.integers(1), keepdims=0)

    def attention(self, hidden: str, attention: Attention) -> str:
        return self._of_first_rows(hidden, attention) if self.narrow else super().attention(hidden, attention)

    def project(self, hidden: str, attention: Attention) -> list[str]:
        return [self._split(value) for value in super().project(hidden, attention)]

    def attend(self, query: str, key: str, value: str, bias: str = "") -> str:  # [B, S, H] each -> [B*S, H] or [B, H]
        graph, heads = self.graph, self.config.heads
        if self.narrow:
            query = graph.add("Unsqueeze", self._first(query, axis=1), graph.integers(1))
            bias = bias and graph.add("Unsqueeze", self._first(bias, axis=2), graph.integers(2))
        biases = [bias] if bias else []
        return self._merge(graph.add("Attention", query, key, value, *biases, q_num_heads=heads, kv_num_heads=heads))

    def _of_first_rows(self, hidden: str, attention: Attention) -> str:
        """Attention of the [CLS] row alone, [B*S, H] -> [B, H], with keys and values never projected.

        q·(W_k h + b_k) = (W_kᵀ q)·h + const, and the constant drops out of the softmax; the values'
        projection moves behind the weighted sum, since Σ p = 1. Exact in real arithmetic.
        """
        graph, value, bias = self.graph, attention.value, self.bias(attention.bias)
        n, d, h = self.config.heads, self.config.head_size, self.config.hidden
        tokens, row = self._split(hidden), self.needed_rows(hidden)  # [B, S, H], [B, H]

        def per_head(linear: Linear, perm: tuple[int, ...]) -> str:
            return graph.weight(f"{linear.name}.per_head", linear.weight.reshape(h, n, d).transpose(perm))

        query = graph.add("Mul", dense(graph, row, attention.query), graph.scalar(d**-0.5))
        by_head = graph.add("Transpose", graph.add("Reshape", query, graph.integers(-1, n, d)), perm=[1, 0, 2])
        lifted = graph.add("MatMul", by_head, per_head(attention.key, (1, 2, 0)))  # [N, B, D] x [N, D, H]
        probes = graph.add("Transpose", lifted, perm=[1, 0, 2])  # [B, N, H]
        scores = graph.add("MatMul", probes, graph.add("Transpose", tokens, perm=[0, 2, 1]))  # [B, N, S]
        if bias:
            scores = graph.add("Add", scores, self._first(bias, axis=2))
        mixed = graph.add("MatMul", graph.add("Softmax", scores, axis=-1), tokens)  # [B, N, H]
        values = graph.add("MatMul", graph.add("Transpose", mixed, perm=[1, 0, 2]), per_head(value, (1, 0, 2)))
        context = graph.add("Reshape", graph.add("Transpose", values, perm=[1, 0, 2]), graph.integers(-1, h))
        return graph.add("Add", context, graph.weight(f"{value.name}.bias", value.bias))
