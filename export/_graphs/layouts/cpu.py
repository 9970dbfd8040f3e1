"""The layout for onnxruntime's CPU provider: pairs of one length, so neither padding nor mask.

Attention is one operator, and the last layer computes one row. Where tokens see a window alone, pairs that fit into it
take no notice; in short ones what is farther is masked, and long ones are cut into blocks that see their neighbours.
"""

from collections.abc import Sequence

import numpy as np
from onnx import TensorProto

from crossrank.export._graphs.encoder import Attention, EncoderConfig, EncoderWeights, Rotary, write_encoder
from crossrank.export._graphs.graph import Graph, Model
from crossrank.export._graphs.layers import Dense, Linear, dense, float_dense

from .base import Layout
from .windows import Window

# From so many tokens on onnxruntime's MultiHeadAttention is as fast as Attention, and holds no [tokens, tokens].
_LONG = 1024


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
        self._windows: dict[int, Window] = {}

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

    def rotate(self, projected: str, rotary: Rotary) -> str:
        graph = self.graph
        tables = zip(("cos", "sin"), rotary.tables(self.config.positions), strict=True)
        names = [graph.constant(f"{rotary.name}.{name}", table) for name, table in tables]
        return graph.contrib("RotaryEmbedding", projected, graph.integers(0), *names)

    def attention(self, hidden: str, attention: Attention) -> str:
        return self._of_first_rows(hidden, attention) if self.narrow else super().attention(hidden, attention)

    def project(self, hidden: str, attention: Attention) -> list[str]:
        return [self._split(value) for value in super().project(hidden, attention)]

    # [B, S, H] each -> [B*S, H] or [B, H]
    def attend(self, query: str, key: str, value: str, bias: str = "", *, window: int | None = None) -> str:
        graph = self.graph
        if self.narrow:
            query = graph.add("Unsqueeze", self._first(query, axis=1), graph.integers(1))
            key, value = self._before(key, window), self._before(value, window)
            bias = bias and graph.add(
                "Unsqueeze", self._before(self._first(bias, axis=2), window, 2), graph.integers(2)
            )
        elif window is not None:
            assert not bias, "no family has both"
            return self._window(window).attend(query, key, value)
        elif not bias and self.config.positions > _LONG:
            return self._attend_long(query, key, value)
        return self.attend_all(query, key, value, bias)

    def attend_all(self, query: str, key: str, value: str, bias: str = "") -> str:
        """Attention of queries [.., Q, H], keys and values [.., K, H], rows in one dimension.

        They are merged here and so in branches: of Attention as the output of one onnxruntime says in each run that its
        shape is not what it expected.
        """
        biases, heads = [bias] if bias else [], self.config.heads
        context = self.graph.add("Attention", query, key, value, *biases, q_num_heads=heads, kv_num_heads=heads)
        return self._merge(context)

    def _attend_long(self, query: str, key: str, value: str) -> str:
        def flash() -> list[tuple[str, int]]:
            context = self.graph.contrib("MultiHeadAttention", query, key, value, num_heads=self.config.heads)
            return [(self._merge(context), TensorProto.FLOAT)]

        def plain() -> list[tuple[str, int]]:
            return [(self.attend_all(query, key, value), TensorProto.FLOAT)]

        return self.graph.either(self.longer_than(_LONG), flash, plain)[0]

    def _window(self, width: int) -> Window:
        if width not in self._windows:
            self._windows[width] = Window(self, width)
        return self._windows[width]

    def longer_than(self, tokens: int) -> str:
        """Whether the pairs have more tokens, bool [1]."""
        length = self.graph.add("Shape", "input_ids", start=1, end=2)
        return self.graph.add("Greater", length, self.graph.integers(tokens))

    def _before(self, value: str, window: int | None, axis: int = 1) -> str:
        """Of tokens along an axis, those that the first one sees."""
        if window is None:
            return value
        bounds = (self.graph.integers(bound) for bound in (0, window + 1, axis))
        return self.graph.add("Slice", value, *bounds)

    def _of_first_rows(self, hidden: str, attention: Attention) -> str:
        """Attention of the [CLS] row alone, [B*S, H] -> [B, H], with values and, unless turned, keys never projected.

        q·(W_k h + b_k) = (W_kᵀ q)·h + const, and the constant drops out of the softmax; the values'
        projection moves behind the weighted sum, since Σ p = 1. Exact in real arithmetic.
        """
        graph, value = self.graph, attention.value
        n, d, h = self.config.heads, self.config.head_size, self.config.hidden
        tokens, row = self._before(self._split(hidden), attention.window), self.needed_rows(hidden)  # [B, S, H], [B, H]

        def per_head(linear: Linear, perm: tuple[int, ...]) -> str:
            return graph.weight(f"{linear.name}.per_head", linear.weight.reshape(h, n, d).transpose(perm))

        query = graph.add("Mul", dense(graph, row, attention.query), graph.scalar(d**-0.5))
        if attention.rotary is None:
            by_head = graph.add("Transpose", graph.add("Reshape", query, graph.integers(-1, n, d)), perm=[1, 0, 2])
            lifted = graph.add("MatMul", by_head, per_head(attention.key, (1, 2, 0)))  # [N, B, D] x [N, D, H]
            probes = graph.add("Transpose", lifted, perm=[1, 0, 2])  # [B, N, H]
            scores = graph.add("MatMul", probes, graph.add("Transpose", tokens, perm=[0, 2, 1]))  # [B, N, S]
        else:  # keys are turned by their places; the first row's query is at 0, where nothing is turned but scaled
            keys = self.rotate(dense(graph, tokens, attention.key), attention.rotary)
            split = graph.add("Reshape", keys, graph.integers(0, 0, n, d))
            scale = attention.rotary.scale
            query = query if scale == 1 else graph.add("Mul", query, graph.scalar(scale))
            single = graph.add("Reshape", query, graph.integers(-1, n, 1, d))
            products = graph.add("MatMul", single, graph.add("Transpose", split, perm=[0, 2, 3, 1]))  # [B, N, 1, S]
            scores = graph.add("Squeeze", products, graph.integers(2))
        if added := attention.added_to_first(self, tokens, query):
            scores = graph.add("Add", scores, self._before(added, attention.window, 2))
        mixed = graph.add("MatMul", graph.add("Softmax", scores, axis=-1), tokens)  # [B, N, H]
        values = graph.add("MatMul", graph.add("Transpose", mixed, perm=[1, 0, 2]), per_head(value, (1, 0, 2)))
        context = graph.add("Reshape", graph.add("Transpose", values, perm=[1, 0, 2]), graph.integers(-1, h))
        return graph.add("Add", context, graph.weight(f"{value.name}.bias", value.bias))
