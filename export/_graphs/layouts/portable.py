"""The layout for any runtime: standard operators, padded pairs with a mask, in the names that others know."""

import numpy as np
from onnx import TensorProto, helper

from crossrank.export._graphs.encoder import EncoderConfig, EncoderWeights, write_encoder
from crossrank.export._graphs.graph import FloatType, Graph, Model

from .base import Layout


def build_portable(
    weights: EncoderWeights, config: EncoderConfig, *, token_types: bool, dtype: FloatType = np.float32
) -> Model:
    """The graph for any runtime."""
    layout = Portable(Graph(dtype), config, token_types=token_types)
    write_encoder(layout, weights)
    return layout.graph.model()


class Portable(Layout):
    """All rows are computed to the end. Shapes in comments: B pairs, S longest, N heads, D head size."""

    contrib = False

    def __init__(self, graph: Graph, config: EncoderConfig, *, token_types: bool) -> None:
        super().__init__(graph, config, token_types=token_types)
        for name in ("input_ids", "attention_mask", *([self.types] if self.types else [])):
            graph.input(name, np.int64, ["batch_size", "sequence_length"])
        self._valid = self.valid()

    def valid(self) -> str:
        """Bool [B, 1, 1, S] from ``attention_mask``."""
        graph = self.graph
        return graph.add("Unsqueeze", graph.add("Cast", "attention_mask", to=9), graph.integers(1, 2))

    def _seen(self, window: int | None) -> str:
        """What each token sees: bool [B, 1, 1, S], or with a window [B, 1, S, S]."""
        if window is None:
            return self._valid
        graph = self.graph
        reach = graph.constant(f"int64_{window}", np.array(window))
        near = graph.add("LessOrEqual", graph.add("Abs", self.distances()), reach)
        return graph.add("And", self._valid, near)

    # [B, S, N*D] each
    def attend(self, query: str, key: str, value: str, bias: str = "", *, window: int | None = None) -> str:
        graph, config = self.graph, self.config
        split = graph.integers(0, 0, config.heads, config.head_size)

        def heads(projected: str, perm: list[int]) -> str:
            return graph.add("Transpose", graph.add("Reshape", projected, split), perm=perm)

        scaled = graph.add("Mul", heads(query, [0, 2, 1, 3]), graph.scalar(config.head_size**-0.5))
        scores = graph.add("MatMul", scaled, heads(key, [0, 2, 3, 1]))  # [B, N, S, S]
        if bias:
            scores = graph.add("Add", scores, bias)
        lowest = graph.constant("lowest", np.array(-65504 if graph.dtype == np.float16 else -3.4e38, graph.dtype))
        shares = graph.add("Softmax", graph.add("Where", self._seen(window), scores, lowest), axis=-1)
        context = graph.add("MatMul", shares, heads(value, [0, 2, 1, 3]))
        merged = graph.add("Transpose", context, perm=[0, 2, 1, 3])  # [B, S, N, D]
        return graph.add("Reshape", merged, graph.integers(0, 0, config.hidden))

    def mean_rows(self, hidden: str) -> str:
        graph, axis = self.graph, self.graph.integers(1)
        mask = graph.add("Cast", "attention_mask", to=TensorProto.FLOAT)
        valid = graph.add("Unsqueeze", mask, graph.integers(2))  # [B, S, 1]
        rows = graph.add("Mul", graph.add("Cast", hidden, to=TensorProto.FLOAT), valid)  # thousands leave float16
        total = graph.add("ReduceSum", rows, axis, keepdims=0)
        mean = graph.add("Div", total, graph.add("ReduceSum", valid, axis, keepdims=0))
        return graph.add("Cast", mean, to=helper.np_dtype_to_tensor_dtype(graph.dtype))

    def first_rows(self, hidden: str) -> str:
        return self.graph.add("Gather", hidden, self.graph.constant("first_row", np.array(0)), axis=1)
