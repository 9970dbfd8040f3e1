"""An encoder with a classification head: its sizes, its parts, each of which writes itself, and the loop over them.

What is computed is said here, and how by a layout. A family that computes something else derives parts of its own.
"""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from .layers import Floats, Linear, Norm, activate, dense

if TYPE_CHECKING:
    from .layouts.base import Layout


@dataclass(frozen=True, slots=True)
class EncoderConfig:
    """Sizes and settings.

    Attributes:
        architecture: transformers' model_type.
        positions: Positions that tokens can have, from 0 on.
        position_offset: Position of the first token, ``pad_id + 1`` for RoBERTa's kind.
        activation: gelu, gelu_new, relu or silu.
        token_types: Rows of the token type table, 0 without one.
        embedding: Width of the embeddings where they are projected to ``hidden``.
    """

    architecture: str
    vocabulary: int
    hidden: int
    layers: int
    heads: int
    intermediate: int
    positions: int
    position_offset: int
    pad_id: int
    epsilon: float
    activation: str
    labels: int
    token_types: int = 0
    embedding: int | None = None

    @property
    def head_size(self) -> int:
        """Width of one attention head."""
        return self.hidden // self.heads


@dataclass(frozen=True, slots=True)
class Embeddings:
    """Tables float32 [rows, width]; ``positions``, ``types`` and ``projection`` are None where the model has none."""

    words: Floats
    positions: Floats | None
    types: Floats | None
    norm: Norm
    projection: Linear | None = None

    def write(self, layout: "Layout") -> str:
        """What the first layer gets, [pairs, tokens, hidden] or packed [tokens, hidden]."""
        graph, types = layout.graph, layout.types
        hidden = graph.lookup("embeddings.words", self.words, "input_ids")
        added = []
        if self.positions is not None:
            table = self.positions
            if self.types is not None and types is None:  # all of them 0
                table = table + self.types[0]
            added.append(layout.position_rows("embeddings.positions", table))
        if self.types is not None and types is not None:
            added.append(graph.add("Gather", graph.weight("embeddings.types", self.types), types))
        for rows in reversed(added):
            hidden = graph.add("Add", hidden, rows)
        hidden = layout.normalize(hidden, self.norm)
        return hidden if self.projection is None else dense(graph, hidden, self.projection)


class DistanceBias(Protocol):
    """What is added to scaled attention scores by the distance of two tokens."""

    @property
    def name(self) -> str:
        """Of its constant in a graph; a model's biases of one name are one."""
        ...

    def by_distance(self, distances: NDArray[np.int64]) -> Floats:
        """Float32 [..., heads], or [..., 1] for all heads, of distances [...]: key's position minus query's."""
        ...


@dataclass(frozen=True, slots=True)
class Attention:
    """Attention of several heads; ``name`` is that of its input, for quantization."""

    name: str
    query: Linear
    key: Linear
    value: Linear
    output: Linear
    bias: DistanceBias | None = None

    def write(self, layout: "Layout", hidden: str) -> str:
        """The context of the rows that are needed, before ``output``."""
        return layout.attention(hidden, self)


@dataclass(frozen=True, slots=True)
class FeedForward:
    """Up, the model's activation, down.

    ``apart`` are up and down of units computed in float where the others are quantized, None for none.
    """

    up: Linear
    down: Linear
    apart: tuple[Linear, Linear] | None = None

    def write(self, layout: "Layout", hidden: str, residual: str) -> str:
        """``residual`` and what comes of ``hidden``."""
        (inner,) = layout.dense(hidden, (self.up,), self.up.name)
        (outer,) = layout.dense(layout.activate(inner), (self.down,), self.down.name)
        if self.apart is not None:
            up, down = self.apart
            some = layout.activate(dense(layout.graph, hidden, up))
            # One product adds them to the residual, which is as fast as no units apart at all.
            weight = layout.graph.weight(f"{down.name}.weight", down.weight)
            residual = layout.graph.add("Gemm", some, weight, residual)
        return layout.graph.add("Add", outer, residual)

    def set_apart(self, units: NDArray[np.intp]) -> "FeedForward":
        """The same with some units apart; as it is in a family where none can be."""
        up, down = self.up, self.down
        return replace(
            self,
            up=replace(up, weight=np.delete(up.weight, units, axis=1), bias=np.delete(up.bias, units)),
            down=replace(down, weight=np.delete(down.weight, units, axis=0)),
            apart=(
                Linear(f"{up.name}.apart", up.weight[:, units], up.bias[units]),
                Linear(f"{down.name}.apart", down.weight[units], np.zeros_like(down.bias)),
            ),
        )


@dataclass(frozen=True, slots=True)
class Layer:
    """One transformer layer, its norms behind attention and feed-forward."""

    attention: Attention
    attention_norm: Norm
    feed_forward: FeedForward
    output_norm: Norm

    def write(self, layout: "Layout", hidden: str) -> str:
        """What the next layer gets, of the rows that are needed."""
        context = self.attention.write(layout, hidden)
        rows = layout.needed_rows(hidden)
        (attended,) = layout.dense(context, (self.attention.output,), self.attention.output.name)
        rows = layout.normalize(layout.graph.add("Add", attended, rows), self.attention_norm)
        return layout.normalize(self.feed_forward.write(layout, rows, rows), self.output_norm)


@dataclass(frozen=True, slots=True)
class Head:
    """What turns the [CLS] row into logits: dense, activation, classifier; or with dense None the classifier alone."""

    dense: Linear | None
    activation: str
    classifier: Linear

    @property
    def pools(self) -> bool:
        """Whether it reads more than the first row of each pair."""
        return False

    def write(self, layout: "Layout", hidden: str) -> str:
        """Logits [pairs, labels] of what the last layer gave."""
        graph, row = layout.graph, layout.first_rows(hidden)
        if self.dense is not None:
            row = activate(graph, dense(graph, row, self.dense), self.activation, contrib=layout.contrib)
        return dense(graph, row, self.classifier)


@dataclass(frozen=True, slots=True)
class EncoderWeights:
    """All the parts of one model."""

    embeddings: Embeddings
    layers: tuple[Layer, ...]
    head: Head


def write_encoder(layout: "Layout", weights: EncoderWeights) -> None:
    """Write a model into a layout's graph, whose output is ``logits`` [pairs, labels]."""
    hidden = layout.enter(weights.embeddings.write(layout))
    for layer in weights.layers:
        layout.narrow = layer is weights.layers[-1] and not weights.head.pools
        hidden = layer.write(layout, hidden)
    layout.graph.output(weights.head.write(layout, hidden), "logits", ["pairs", layout.config.labels])
