"""MPNet's relative position bias: a learned number per head and distance, added to all scaled attention scores."""

import numpy as np
from numpy.typing import NDArray

from crossrank.export._architectures.config import EncoderConfig
from crossrank.export._architectures.weights import EncoderWeights

from .graph import Graph

# The distances at which a new bucket begins: one bucket each up to 8, then two for every doubling, up to 128.
_STARTS = (1, 2, 3, 4, 5, 6, 7, 8, 12, 16, 23, 32, 46, 64, 91)


def distance_buckets(distances: NDArray[np.int64]) -> NDArray[np.int64]:
    """The row of the bias table for each distance, key's position minus query's.

    >>> distance_buckets(np.array([0, -1, 1, -11, -12, 90, 91, 500])).tolist()
    [0, 1, 17, 8, 9, 30, 31, 31]
    """
    return np.searchsorted(_STARTS, np.abs(distances), side="right") + (distances > 0) * (len(_STARTS) + 1)


def relative_bias(graph: Graph, weights: EncoderWeights, config: EncoderConfig, padded: str) -> str:
    """What every layer adds to its scaled scores, [1, heads, longest, longest], or "" for a model without.

    Args:
        graph: Where to write.
        weights: The model.
        config: Its sizes.
        padded: An input of the graph with shape [pairs, longest].
    """
    if weights.relative_bias is None:
        return ""
    reach = config.positions
    table = weights.relative_bias[distance_buckets(np.arange(-reach, reach + 1))]  # [distances, heads]
    by_distance = graph.weight("relative_bias", np.ascontiguousarray(table.T[None]))
    zero, one = (graph.constant(f"int64_{i}", np.array(i)) for i in (0, 1))
    longest = graph.add("Squeeze", graph.add("Shape", padded, start=1, end=2))
    keys = graph.add("Range", zero, longest, one)
    queries = graph.add("Unsqueeze", keys, graph.integers(1))
    rows = graph.add("Add", graph.add("Sub", keys, queries), graph.integers(reach))  # [longest, longest]
    return graph.add("Gather", by_distance, rows, axis=2)
