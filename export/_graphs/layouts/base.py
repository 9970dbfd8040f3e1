"""A layout: how a graph takes its pairs. What is not said by one of them is that of padded pairs, [pairs, tokens]."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from crossrank.export._graphs.encoder import Attention, DistanceBias, EncoderConfig, Rotary
from crossrank.export._graphs.graph import Graph
from crossrank.export._graphs.layers import Floats, Linear, Norm, activate, float_dense, normalize

from .distances import Rows, skewed


class Layout(ABC):
    """Inputs, mask, packing, precision, and the rows that the last layer computes.

    Args:
        graph: Empty; gets the inputs.
        config: The encoder's sizes.
        token_types: Whether there is an input for them.

    Attributes:
        graph: Where all is written. Its type is the precision.
        config: As given.
        types: The input of the token types, or None where the tokenizer gives none: then all are 0.
        narrow: Whether of what is written the first row of each pair suffices from here on.
        contrib: Whether onnxruntime's own operators may be used.
    """

    contrib: ClassVar[bool] = True

    def __init__(self, graph: Graph, config: EncoderConfig, *, token_types: bool) -> None:
        self.graph, self.config = graph, config
        self.types = "token_type_ids" if token_types else None
        self.narrow = False
        self._biases: dict[str, str] = {}

    def enter(self, hidden: str) -> str:
        """The embeddings, in the shape that the layers take and give."""
        return hidden

    def dense(self, hidden: str, linears: Sequence[Linear], point: str) -> list[str]:
        """Each of ``linears`` applied to ``hidden``; ``point`` names the input for quantization."""
        return float_dense(self.graph, hidden, linears, point)

    def activate(self, hidden: str) -> str:
        """The model's activation."""
        return activate(self.graph, hidden, self.config.activation, contrib=self.contrib)

    def normalize(self, hidden: str, norm: Norm | None) -> str:
        """LayerNormalization; ``hidden`` as it is where there is none."""
        if norm is None:
            return hidden
        return normalize(self.graph, hidden, norm, self.config.epsilon if norm.epsilon is None else norm.epsilon)

    def attention(self, hidden: str, attention: Attention) -> str:
        """The context of the rows that are needed, with queries and keys as projected, or turned."""
        query, key, value = self.project(hidden, attention)
        added = attention.added(self, query, key)
        if attention.rotary is not None:
            query, key = self.rotate(query, attention.rotary), self.rotate(key, attention.rotary)
        return self.attend(query, key, value, added, window=attention.window)

    def project(self, hidden: str, attention: Attention) -> list[str]:
        """Queries, keys and values of all tokens, [pairs, tokens, hidden] or packed."""
        return self.dense(hidden, (attention.query, attention.key, attention.value), attention.name)

    def by_pair(self, projected: str) -> str:
        """What `project` gives as [pairs, longest, width]; behind a pair's tokens may come anything finite."""
        return projected

    def rotate(self, projected: str, rotary: Rotary) -> str:
        """Queries or keys as `project` gives them, turned by their positions."""
        graph, half = self.graph, len(rotary.frequencies)
        cos, sin = self._rotary_rows(rotary)
        parts = graph.add("Reshape", projected, graph.integers(0, 0, -1, 2 * half))  # [pairs, tokens, heads, head size]
        last = graph.integers(3)
        first = graph.add("Slice", parts, graph.integers(0), graph.integers(half), last)
        second = graph.add("Slice", parts, graph.integers(half), graph.integers(2 * half), last)
        turned = [
            graph.add("Sub", graph.add("Mul", first, cos), graph.add("Mul", second, sin)),
            graph.add("Add", graph.add("Mul", second, cos), graph.add("Mul", first, sin)),
        ]
        merged = graph.integers(0, 0, self.config.hidden)
        return graph.add("Reshape", graph.add("Concat", *turned, axis=3), merged)

    def _rotary_rows(self, rotary: Rotary) -> list[str]:
        """Cosines and sines of all tokens, [tokens, 1, head size / 2]."""
        tables = zip(("cos", "sin"), rotary.tables(self.config.positions), strict=True)
        rows = [self.position_rows(f"{rotary.name}.{name}", table) for name, table in tables]
        return [self.graph.add("Unsqueeze", row, self.graph.integers(1)) for row in rows]

    @abstractmethod
    def attend(self, query: str, key: str, value: str, bias: str = "", *, window: int | None = None) -> str:
        """The context of the rows that are needed, by queries, keys and values of all tokens as `project` gives them.

        Args:
            query: The queries.
            key: The keys.
            value: The values.
            bias: Added to the scaled scores: [1 or pairs, 1 or heads, longest, longest], "" for none.
            window: How far a token sees, None for all.
        """

    def needed_rows(self, hidden: str) -> str:
        """Of the rows of what `enter` or a layer gave, those that are needed."""
        return hidden

    def first_rows(self, hidden: str) -> str:
        """The first row of each pair, [pairs, hidden], of what the last layer gave."""
        return hidden

    @abstractmethod
    def mean_rows(self, hidden: str) -> str:
        """The mean of each pair's rows, [pairs, hidden], of what the last layer gave."""

    def position_rows(self, name: str, table: Floats) -> str:
        """Rows of a table float32 [positions, width] by position, to go with embeddings or what `project` gives."""
        graph, constant = self.graph, self.graph.weight(name, table)
        if not self.config.position_offset:
            length = graph.add("Shape", "input_ids", start=1, end=2)
            return graph.add("Slice", constant, graph.integers(0), length, graph.integers(0))
        # A token that spells the padding is not counted, as in transformers' create_position_ids_from_input_ids.
        pad_id = graph.integers(self.config.pad_id)
        ids = graph.add("Cast", "input_ids", to=7)
        counted = graph.add("Cast", graph.add("Not", graph.add("Equal", ids, pad_id)), to=7)
        running = graph.add("Mul", graph.add("CumSum", counted, graph.constant("axis_1", np.array(1))), counted)
        return graph.add("Gather", constant, graph.add("Add", running, pad_id))

    @property
    def head_width(self) -> int:
        """Numbers of a head in what `project` gives."""
        return self.config.head_size

    def by_distance(self, projected: str, table: Floats, rows: Rows, name: str, *, keys: bool) -> str:
        """Products of queries or keys with a row for their distance to each other token.

        Args:
            projected: As `project` gives them.
            table: Float32 [rows, heads * head size].
            rows: The row of each distance, query's position minus key's.
            name: Of the table in the graph.
            keys: Whether these are keys.

        Returns:
            [pairs, heads, longest, longest], by query and key.
        """
        graph, heads, width = self.graph, self.config.heads, self.head_width
        by_head = np.zeros((1, heads, len(table), width), np.float32)
        by_head[..., : self.config.head_size] = table.reshape(1, len(table), heads, -1).transpose(0, 2, 1, 3)
        parts = graph.add("Reshape", self.by_pair(projected), graph.integers(0, 0, heads, width))
        tokens = graph.add("Transpose", parts, perm=[0, 2, 1, 3])
        return self._products(tokens, by_head, rows, name, keys)

    def _products(self, tokens: str, table: Floats, rows: Rows, name: str, keys: bool) -> str:
        return skewed(self, tokens, table, rows, name, keys=keys)

    def bias(self, bias: DistanceBias | None) -> str:
        """A bias by distance, for `attend`."""
        if bias is None:
            return ""
        if bias.name not in self._biases:
            self._biases[bias.name] = self.distance_bias(bias)
        return self._biases[bias.name]

    def distance_bias(self, bias: DistanceBias) -> str:
        """Write one, [1, 1 or heads, longest, longest]."""
        graph, reach = self.graph, self.config.positions
        table = bias.by_distance(np.arange(-reach, reach + 1))  # [distances, heads]
        by_distance = graph.weight(bias.name, np.ascontiguousarray(table.T[None]))
        rows = graph.add("Add", self.distances(), graph.integers(reach))
        return graph.add("Gather", by_distance, rows, axis=2)

    def distances(self) -> str:
        """Key's position minus query's, int64 [longest, longest]."""
        graph = self.graph
        zero, one = (graph.constant(f"int64_{i}", np.array(i)) for i in (0, 1))
        longest = graph.add("Squeeze", graph.add("Shape", "input_ids", start=1, end=2))
        keys = graph.add("Range", zero, longest, one)
        return graph.add("Sub", keys, graph.add("Unsqueeze", keys, graph.integers(1)))
