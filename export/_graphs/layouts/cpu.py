"""The layout for onnxruntime's CPU provider: pairs of one length, so neither padding nor mask.

Attention is one operator, and the last layer computes one row.
"""

from collections.abc import Sequence

import numpy as np

from crossrank.export._graphs.encoder import Attention, EncoderConfig, EncoderWeights, Layout, write_encoder
from crossrank.export._graphs.graph import Graph, Model
from crossrank.export._graphs.layers import Dense, Linear, dense, float_dense


def build_cpu(weights: EncoderWeights, config: EncoderConfig, *, token_types: bool) -> Model:
    """The graph for onnxruntime's CPU provider in float32."""
    graph = Graph(opset=23)
    write_cpu(graph, weights, config, token_types=token_types, apply=float_dense)
    return graph.model()


def write_cpu(graph: Graph, weights: EncoderWeights, config: EncoderConfig, *, token_types: bool, apply: Dense) -> None:
    """Write the CPU variant into ``graph``; all layers but the last take their products from ``apply``."""
    write_encoder(Cpu(graph, config, token_types=token_types, apply=apply), weights)


class Cpu(Layout):
    """Pairs of one length, [pairs, tokens]. Shapes: B pairs, S tokens, N heads, D head size, H hidden size.

    Between attentions the tokens of all pairs lie in one dimension, [B*S, H]: so products are a few percent faster.
    """

    def __init__(self, graph: Graph, config: EncoderConfig, *, token_types: bool, apply: Dense) -> None:
        super().__init__(graph, config, token_types=token_types)
        for name in ("input_ids", *([self.types] if self.types else [])):
            graph.input(name, np.int32, ["pairs", "tokens"])
        self._apply = apply
        self._by_pair = ""

    def enter(self, hidden: str) -> str:
        """[B, S, H] -> [B*S, H]."""
        self._by_pair = self.graph.add("Concat", self.graph.add("Shape", "input_ids"), self.graph.integers(-1), axis=0)
        return self._join(hidden)

    def _join(self, value: str) -> str:  # [B, S, H] -> [B*S, H]
        return self.graph.add("Reshape", value, self.graph.integers(-1, self.config.hidden))

    def _part(self, value: str) -> str:  # and back
        return self.graph.add("Reshape", value, self._by_pair)

    def dense(self, hidden: str, linears: Sequence[Linear], point: str) -> list[str]:
        """In float in the last layer, which is one row."""
        return (float_dense if self.narrow else self._apply)(self.graph, hidden, linears, point)

    def attention(self, hidden: str, attention: Attention) -> str:
        """[B*S, H] -> the same, or [B, H] of the first rows."""
        if not self.narrow:
            return super().attention(hidden, attention)
        bias = self.bias(attention.bias)
        return self._first_context(self._part(hidden), self.needed_rows(hidden), bias, attention)

    def project(self, hidden: str, attention: Attention) -> tuple[str, str, str]:
        """[B, S, N*D] each."""
        query, key, value = map(self._part, super().project(hidden, attention))
        return query, key, value

    def attend(self, query: str, key: str, value: str, bias: str) -> str:
        """[B, S, N*D] each -> [B*S, N*D], or [B, N*D] of the first rows."""
        if self.narrow:
            row = self.graph.integers(0)
            query, bias = (
                self.graph.add("Gather", query, row, axis=1),
                bias and self.graph.add("Gather", bias, row, axis=2),
            )
        heads = self.config.heads
        biases = [bias] if bias else []
        return self._join(
            self.graph.add("Attention", query, key, value, *biases, q_num_heads=heads, kv_num_heads=heads)
        )

    def needed_rows(self, hidden: str) -> str:
        """[B*S, H] -> the same, or [B, H] of the first rows."""
        if not self.narrow:
            return hidden
        return self.graph.add("Gather", self._part(hidden), self.graph.constant("first_row", np.array(0)), axis=1)

    def first_rows(self, hidden: str) -> str:
        """[B, H], which is all that the last layer gave."""
        return hidden

    def _first_context(self, hidden: str, row: str, bias: str, attention: Attention) -> str:
        """Attention of the [CLS] row alone, with keys and values never projected.

        q·(W_k h + b_k) = (W_kᵀ q)·h + const, and the constant drops out of the softmax; the values'
        projection moves behind the weighted sum, since Σ p = 1. Exact in real arithmetic.

        Args:
            hidden: [B, S, H].
            row: [B, H], its first row.
            bias: [1, N, S, S], of which row 0 is added to the scaled scores, or "".
            attention: Of the last layer.

        Returns:
            The context [B, H].
        """
        graph, value = self.graph, attention.value
        n, d, h = self.config.heads, self.config.head_size, self.config.hidden

        def per_head(linear: Linear, perm: tuple[int, ...]) -> str:
            weight = linear.weight.reshape(h, n, d).transpose(perm)
            return graph.weight(f"{linear.name}.per_head", weight)

        query = graph.add("Mul", dense(graph, row, attention.query), graph.scalar(d**-0.5))
        by_head = graph.add("Transpose", graph.add("Reshape", query, graph.integers(-1, n, d)), perm=[1, 0, 2])
        lifted = graph.add("MatMul", by_head, per_head(attention.key, (1, 2, 0)))  # [N, B, D] x [N, D, H]
        probes = graph.add("Transpose", lifted, perm=[1, 0, 2])  # [B, N, H]
        scores = graph.add("MatMul", probes, graph.add("Transpose", hidden, perm=[0, 2, 1]))  # [B, N, S]
        if bias:
            first = graph.constant("first_row", np.array(0))
            scores = graph.add("Add", scores, graph.add("Gather", bias, first, axis=2))
        mixed = graph.add("MatMul", graph.add("Softmax", scores, axis=-1), hidden)  # [B, N, H]
        values = graph.add("MatMul", graph.add("Transpose", mixed, perm=[1, 0, 2]), per_head(value, (1, 0, 2)))
        context = graph.add("Reshape", graph.add("Transpose", values, perm=[1, 0, 2]), graph.integers(-1, h))
        return graph.add("Add", context, graph.weight(f"{value.name}.bias", value.bias))
