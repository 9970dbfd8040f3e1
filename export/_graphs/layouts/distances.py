"""Products of tokens with a row for each distance, brought to where the tokens of those distances meet."""

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from onnx import helper

from crossrank.export._graphs.layers import Floats

if TYPE_CHECKING:
    from .base import Layout

# The row of a table for each distance, query's position minus key's.
Rows = Callable[[NDArray[np.int64]], NDArray[np.int64]]


def skewed(layout: "Layout", tokens: str, table: Floats, rows: Rows, name: str, *, keys: bool) -> str:
    """Products of queries or keys with the row of their distance to each other token.

    Those of all distances stand beside each other, and token i's begin one place before those of i - 1: rows that are
    one place shorter put them below each other, without a gather.

    Args:
        layout: Where to write.
        tokens: [B, N, S, D].
        table: Float32 [1, N, rows, D].
        rows: As `Rows`.
        name: Of the table in the graph.
        keys: Whether these are keys.

    Returns:
        [B, N, S, S], by query and key.
    """
    graph, sign = layout.graph, 1 if keys else -1
    length, one = graph.add("Shape", tokens, start=2, end=3), graph.integers(1)
    reach = longest(layout)
    middle, less = graph.integers(reach), graph.add("Sub", length, one)
    # By the other token's position minus this one's: 1 - S to S, which is one more than there are.
    numbers = graph.constant(f"distances.{sign}", rows(sign * np.arange(-reach, reach + 1)))
    first, last = graph.add("Sub", middle, less), graph.add("Add", middle, graph.add("Add", length, one))
    needed = graph.add("Slice", numbers, first, last, graph.integers(0))
    found = graph.add("Gather", graph.weight(name, table), needed, axis=2)  # [1, N, 2S, D]
    if layout.contrib:
        products = graph.contrib("FusedMatMul", tokens, found, transB=1)
    else:
        products = graph.add("MatMul", tokens, graph.add("Transpose", found, perm=[0, 1, 3, 2]))
    flat = graph.add("Reshape", products, graph.integers(0, 0, -1))  # [B, N, S * 2S]
    shorter = graph.add("Add", length, less)
    end = graph.add("Add", less, graph.add("Mul", length, shorter))
    shifted = graph.add("Slice", flat, less, end, graph.integers(2))
    rows_below = graph.add("Reshape", shifted, graph.add("Concat", graph.integers(0, 0, -1), shorter, axis=0))
    found = graph.add("Slice", rows_below, graph.integers(0), length, graph.integers(3))
    return graph.add("Transpose", found, perm=[0, 1, 3, 2]) if keys else found


def gathered(
    layout: "Layout", tokens: str, table: Floats, rows: Rows, name: str, *, keys: bool, length: str, zeros: str
) -> str:
    """The same for a GPU, on which no number may come of a shape: onnxruntime would compute it on the CPU.

    Rows lie by distance, a positive one beside its negative, so that those of a length are the first.

    Args:
        layout: As for `skewed`.
        tokens: As for `skewed`.
        table: As for `skewed`.
        rows: As for `skewed`.
        name: As for `skewed`.
        keys: As for `skewed`.
        length: A shape of one number, S.
        zeros: Int32 [B, 1, 1, 1].
    """
    graph, most, heads = layout.graph, longest(layout), layout.config.heads
    apart = np.arange(most)
    both = np.stack([rows(apart), rows(-apart)], axis=1).ravel()
    pairs = table[:, :, both].reshape(heads, most, 2, -1)
    cut = graph.add("Slice", graph.weight(name, pairs), graph.integers(0), length, graph.integers(1))  # [N, S, 2, D]
    one = graph.add("Reshape", cut, graph.integers(1, heads, -1, pairs.shape[-1]))  # [1, N, 2S, D]
    # A table for each pair: products that broadcast take pointers from memory that a captured graph does not keep.
    kind = helper.np_dtype_to_tensor_dtype(graph.dtype)
    found = graph.add("Add", one, graph.add("Cast", zeros, to=kind))  # [B, N, 2S, D]
    distances = apart[:, None] - apart  # query's position minus key's
    places = (2 * np.abs(distances) + (distances < 0)).astype(np.int32)[None, None]
    index = graph.constant("distances.places", places)
    for axis in (2, 3):
        index = graph.add("Slice", index, graph.integers(0), length, graph.integers(axis))
    whole = graph.add("Add", zeros, graph.constant("heads.zeros", np.zeros((1, heads, 1, 1), np.int32)))
    index = graph.add("Add", index, whole)  # [B, N, S, S]
    if keys:
        products = graph.contrib("FusedMatMul", found, tokens, transB=1)  # [B, N, 2S, S]
        return graph.add("GatherElements", products, index, axis=2)
    products = graph.contrib("FusedMatMul", tokens, found, transB=1)  # [B, N, S, 2S]
    return graph.add("GatherElements", products, index, axis=3)


def longest(layout: "Layout") -> int:
    """The most tokens of a pair in a graph, whose longest may be rounded up to a multiple of 8."""
    return -(-layout.config.positions // 8) * 8
