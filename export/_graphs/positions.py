"""Positions in a graph of padded pairs: of a token in its pair, and of two tokens to each other."""

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from .graph import Graph


class DistanceBias(Protocol):
    """What a family adds to its scaled attention scores by the distance of two tokens."""

    @property
    def name(self) -> str:
        """Of its constant in a graph; a model's biases of one name are one."""
        ...

    def by_distance(self, distances: NDArray[np.int64]) -> NDArray[np.float32]:
        """Float32 [..., heads], or [..., 1] for all heads, of distances [...]: key's position minus query's."""
        ...


def position_rows(graph: Graph, name: str, table: NDArray[np.float32], *, pad_id: int, offset: int) -> str:
    """Rows of a table by each token's position, [tokens, width] or [pairs, tokens, width].

    Args:
        graph: Has the input ``input_ids``, [pairs, tokens].
        name: The table's, in the graph.
        table: Float32 [positions, width].
        pad_id: Of the model.
        offset: Position of the first token; 0, or ``pad_id + 1``, which leaves out tokens that spell the padding.
    """
    constant = graph.weight(name, table)
    if not offset:
        length = graph.add("Shape", "input_ids", start=1, end=2)
        return graph.add("Slice", constant, graph.integers(0), length, graph.integers(0))
    # As in transformers' create_position_ids_from_input_ids.
    ids = graph.add("Cast", "input_ids", to=7)
    counted = graph.add("Cast", graph.add("Not", graph.add("Equal", ids, graph.integers(pad_id))), to=7)
    running = graph.add("Mul", graph.add("CumSum", counted, graph.constant("axis_1", np.array(1))), counted)
    return graph.add("Gather", constant, graph.add("Add", running, graph.integers(pad_id)))


def distance_bias(graph: Graph, bias: DistanceBias, reach: int) -> str:
    """A bias between all tokens of a pair, [1, heads, tokens, tokens].

    Args:
        graph: Has the input ``input_ids``, [pairs, tokens].
        bias: A family's.
        reach: The largest distance.
    """
    table = bias.by_distance(np.arange(-reach, reach + 1))  # [distances, heads]
    by_distance = graph.weight(bias.name, np.ascontiguousarray(table.T[None]))
    zero, one = (graph.constant(f"int64_{i}", np.array(i)) for i in (0, 1))
    length = graph.add("Squeeze", graph.add("Shape", "input_ids", start=1, end=2))
    keys = graph.add("Range", zero, length, one)
    queries = graph.add("Unsqueeze", keys, graph.integers(1))
    rows = graph.add("Add", graph.add("Sub", keys, queries), graph.integers(reach))  # [tokens, tokens]
    return graph.add("Gather", by_distance, rows, axis=2)
