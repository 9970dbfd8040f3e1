"""Attention within a window on the CPU: whatever is farther costs nothing, but for a mask in texts of middling length.

Shapes in comments: B pairs, S tokens of each, H hidden size, w window, n blocks of c tokens, of which each sees
e = c + 2w.
"""

from typing import TYPE_CHECKING

import numpy as np
from onnx import TensorProto

if TYPE_CHECKING:
    from .cpu import Cpu

_LEAST_BLOCK = 32
# What is added to scores of what is not seen: far below any, and finite.
_UNSEEN = -1e9


class Window:
    """A window in a graph: what is of the pairs' length alone, written once for all layers.

    A block of as many tokens as the window is wide to one side sees three times as many, so that blocks are worth their
    copies from twice that on: at 384 tokens with a window of 64, where both were measured equally fast.

    Args:
        layout: Where to write.
        width: How far a token sees to either side.
    """

    def __init__(self, layout: "Cpu", width: int) -> None:
        self._layout, self._graph, self._width = layout, layout.graph, width
        self._block = max(width, _LEAST_BLOCK)
        self._seen = self._block + 2 * width
        positions = layout.config.positions
        self._most = min(positions, 2 * self._seen)  # tokens that are masked, and not cut into blocks
        self._all_near = positions <= width + 1
        if not self._all_near:
            self._mask = self._write_mask()
        if self._most < positions:
            self._plan = self._graph.either(layout.longer_than(self._most), self._write_plan, self._no_plan)

    def attend(self, query: str, key: str, value: str) -> str:
        """Attention in which tokens see what is near, [B*S, H] of three [B, S, H]."""
        attend, most = self._layout.attend_all, self._most

        def all_near() -> list[tuple[str, int]]:
            return [(attend(query, key, value), TensorProto.FLOAT)]

        def masked() -> list[tuple[str, int]]:
            return [(attend(query, key, value, self._mask), TensorProto.FLOAT)]

        def in_blocks() -> list[tuple[str, int]]:
            return [(self._attend_in_blocks(query, key, value), TensorProto.FLOAT)]

        def some_far() -> list[tuple[str, int]]:
            if most == self._layout.config.positions:
                return masked()
            return [(self._graph.either(self._layout.longer_than(most), in_blocks, masked)[0], TensorProto.FLOAT)]

        if self._all_near:
            return attend(query, key, value)
        return self._graph.either(self._layout.longer_than(self._width + 1), some_far, all_near)[0]

    def _attend_in_blocks(self, query: str, key: str, value: str) -> str:
        graph = self._graph
        of_queries, of_keys, mask, by_pair, places = self._plan

        def cut(tokens: str, rows: str, length: int) -> str:  # [B, S, H] -> [B*n, length, H]
            taken = graph.add("Gather", tokens, rows, axis=1)
            return graph.add("Reshape", taken, graph.integers(-1, length, self._layout.config.hidden))

        keys, values = (cut(tokens, of_keys, self._seen) for tokens in (key, value))
        context = self._layout.attend_all(cut(query, of_queries, self._block), keys, values, mask)
        kept = graph.add("Gather", graph.add("Reshape", context, by_pair), places, axis=1)
        return graph.add("Reshape", kept, graph.integers(-1, self._layout.config.hidden))

    def _write_mask(self) -> str:
        """Float32 [1, 1, S, S], for at most so many tokens."""
        graph, places = self._graph, np.arange(self._most)
        far = np.abs(places - places[:, None]) > self._width
        largest = graph.constant(f"window.{self._width}", np.where(far, np.float32(_UNSEEN), np.float32(0))[None, None])
        length = graph.add("Shape", "input_ids", start=1, end=2)
        ends, axes = graph.add("Concat", length, length, axis=0), graph.integers(2, 3)
        return graph.add("Slice", largest, graph.integers(0, 0), ends, axes)

    def _write_plan(self) -> list[tuple[str, int]]:
        """Rows of queries [n, c] and of keys [n, e], mask [B*n, 1, c, e], the blocks' shape, places of tokens."""
        graph, c, e, w = self._graph, self._block, self._seen, self._width

        def scalar(value: int) -> str:
            return graph.constant(f"int64_{value}", np.array(value))

        def counted(length: int) -> str:
            return graph.constant(f"places_{length}", np.arange(length))

        pairs, length = (graph.add("Shape", "input_ids", start=i, end=i + 1) for i in (0, 1))
        blocks = graph.add("Div", graph.add("Add", length, graph.integers(c - 1)), graph.integers(c))

        def until(count: str) -> str:
            return graph.add("Range", scalar(0), graph.add("Squeeze", count), scalar(1))

        # The last block overlaps the one before it, and at both ends keys reach farther inwards: none is padding.
        first = graph.add("Mul", until(blocks), graph.integers(c))
        starts = graph.add("Min", first, graph.add("Sub", length, graph.integers(c)))
        before = graph.add("Sub", starts, graph.integers(w))
        inside = graph.add("Min", before, graph.add("Sub", length, graph.integers(e)))
        from_key = graph.add("Max", inside, graph.integers(0))
        of_queries, of_keys = (
            graph.add("Add", graph.add("Unsqueeze", begin, graph.integers(1)), counted(size))
            for begin, size in ((starts, c), (from_key, e))
        )
        apart = graph.add(
            "Sub",
            graph.add("Unsqueeze", of_queries, graph.integers(2)),
            graph.add("Unsqueeze", of_keys, graph.integers(1)),
        )
        near = graph.add("LessOrEqual", graph.add("Abs", apart), scalar(w))
        added = graph.add("Where", near, graph.scalar(0.0), graph.scalar(_UNSEEN))  # [n, c, e]
        every = graph.add("Concat", pairs, blocks, graph.integers(c, e), axis=0)
        mask = graph.add("Reshape", graph.add("Expand", added, every), graph.integers(-1, 1, c, e))
        by_pair = graph.add("Concat", pairs, graph.integers(-1, self._layout.config.hidden), axis=0)
        tokens = until(length)
        of_token = graph.add("Div", tokens, graph.integers(c))
        within = graph.add("Sub", tokens, graph.add("Gather", starts, of_token))
        places = graph.add("Add", graph.add("Mul", of_token, graph.integers(c)), within)
        whole = TensorProto.INT64
        kinds = (whole, whole, TensorProto.FLOAT, whole, whole)
        return list(zip((of_queries, of_keys, mask, by_pair, places), kinds, strict=True))

    def _no_plan(self) -> list[tuple[str, int]]:
        """The same of no tokens."""
        graph = self._graph
        whole = TensorProto.INT64
        row, none = (graph.add("Identity", value) for value in (graph.integers(0), graph.scalar(0.0)))
        return [(row, whole), (row, whole), (none, TensorProto.FLOAT), (row, whole), (row, whole)]
