"""An encoder with a classification head: its sizes, its parts, each of which writes itself, and the loop over them.

What is computed is said here, and how by a layout. A family that computes something else derives parts of its own.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Literal, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from .layers import Floats, Linear, Norm, activate, dense, float_dense

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
        elif self.types is not None and types is None:
            added.append(graph.weight("embeddings.first_type", self.types[0]))
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
class Rotary:
    """Rotary positions: each number of a head's first half and the same of its second are a point, which is turned.

    Attributes:
        name: Of its tables in a graph; a model's of one name are one.
        frequencies: float32 [head size / 2], the angle of each point at position 1.
        scale: What all turned numbers are multiplied with.
    """

    name: str
    frequencies: Floats
    scale: float = 1.0

    def tables(self, positions: int) -> tuple[Floats, Floats]:
        """Cosines and sines by position, float32 [positions, head size / 2], of angles in float32 as in transformers.

        >>> [table[1].tolist() for table in Rotary("r", np.zeros(1, np.float32)).tables(2)]
        [[1.0], [0.0]]
        """
        angles = (np.arange(positions, dtype=np.float32)[:, None] * self.frequencies).astype(np.float64)
        return (np.cos(angles) * self.scale).astype(np.float32), (np.sin(angles) * self.scale).astype(np.float32)


@dataclass(frozen=True, slots=True)
class Attention:
    """Attention of several heads; ``name`` is that of its input, for quantization.

    ``rotary`` turns queries and keys; with ``window`` a token sees those that are so many places away, and no farther.
    """

    name: str
    query: Linear
    key: Linear
    value: Linear
    output: Linear
    bias: DistanceBias | None = None
    rotary: Rotary | None = None
    window: int | None = None

    def write(self, layout: "Layout", hidden: str) -> str:
        """The context of the rows that are needed, before ``output``."""
        return layout.attention(hidden, self)

    def added(self, layout: "Layout", query: str, key: str) -> str:
        """What is added to the scaled scores of queries and keys as projected, in the form of `Layout.attend`."""
        return layout.bias(self.bias)

    def added_to_first(self, layout: "Layout", tokens: str, query: str) -> str:
        """The same for the first row of each pair, [1 or pairs, heads, tokens], "" for nothing.

        Args:
            layout: Where to write.
            tokens: What attention gets, [pairs, tokens, hidden].
            query: The first rows' queries, scaled, [pairs, heads * head size].
        """
        bias = layout.bias(self.bias)
        return bias and layout.graph.add("Gather", bias, layout.graph.constant("first_row", np.array(0)), axis=2)


@dataclass(frozen=True, slots=True)
class FeedForward:
    """Up, the model's activation, down.

    ``apart`` are units computed in float where the others are quantized, None for none.
    """

    up: Linear
    down: Linear
    apart: "FeedForward | None" = None

    def write(self, layout: "Layout", hidden: str, residual: str) -> str:
        """``residual`` and what comes of ``hidden``."""
        (outer,) = layout.dense(self.units(layout, hidden, layout.dense), (self.down,), self.down.name)
        if self.apart is not None:
            some = self.apart.units(layout, hidden, partial(float_dense, layout.graph))
            # One product adds them to the residual, which is as fast as no units apart at all.
            weight = layout.graph.weight(f"{self.apart.down.name}.weight", self.apart.down.weight)
            residual = layout.graph.add("Gemm", some, weight, residual)
        return layout.graph.add("Add", outer, residual)

    def units(self, layout: "Layout", hidden: str, apply: "Apply") -> str:
        """What goes into ``down``, of products that ``apply`` writes."""
        (inner,) = apply(hidden, (self.up,), self.up.name)
        return layout.activate(inner)

    def set_apart(self, units: NDArray[np.intp]) -> "FeedForward":
        """The same with some units apart; as it is in a family where none can be."""
        up, down = self.up, self.down
        some = FeedForward(_columns(up, units), Linear(f"{down.name}.apart", down.weight[units], _zeros(down.bias)))
        rest = replace(down, weight=np.delete(down.weight, units, axis=0))
        return replace(self, up=_without_columns(up, units), down=rest, apart=some)


# As `Layout.dense`.
Apply: TypeAlias = Callable[[str, Sequence[Linear], str], list[str]]


def _columns(linear: Linear, units: NDArray[np.intp]) -> Linear:
    return Linear(f"{linear.name}.apart", linear.weight[:, units], linear.bias[units])


def _without_columns(linear: Linear, units: NDArray[np.intp]) -> Linear:
    return replace(linear, weight=np.delete(linear.weight, units, axis=1), bias=np.delete(linear.bias, units))


def _zeros(bias: Floats) -> Floats:
    return np.zeros_like(bias)


@dataclass(frozen=True, slots=True, kw_only=True)
class GatedFeedForward(FeedForward):
    """Up, the model's activation, times gate, down."""

    gate: Linear

    def units(self, layout: "Layout", hidden: str, apply: "Apply") -> str:
        """As `FeedForward.units`."""
        inner, gate = apply(hidden, (self.up, self.gate), self.up.name)
        return layout.graph.add("Mul", layout.activate(inner), gate)

    def set_apart(self, units: NDArray[np.intp]) -> FeedForward:
        """As `FeedForward.set_apart`."""
        plain = FeedForward.set_apart(self, units)
        assert isinstance(plain, GatedFeedForward)
        assert plain.apart is not None
        some = GatedFeedForward(plain.apart.up, plain.apart.down, gate=_columns(self.gate, units))
        return replace(plain, gate=_without_columns(self.gate, units), apart=some)


@dataclass(frozen=True, slots=True)
class Layer:
    """One transformer layer, its norms behind attention and feed-forward.

    A norm that is None leaves what it gets as it is.
    """

    attention: Attention
    attention_norm: Norm | None
    feed_forward: FeedForward
    output_norm: Norm | None

    def write(self, layout: "Layout", hidden: str) -> str:
        """What the next layer gets, of the rows that are needed."""
        context = self.attention.write(layout, hidden)
        rows = layout.needed_rows(hidden)
        (attended,) = layout.dense(context, (self.attention.output,), self.attention.output.name)
        rows = layout.normalize(layout.graph.add("Add", attended, rows), self.attention_norm)
        return layout.normalize(self.feed_forward.write(layout, rows, rows), self.output_norm)


@dataclass(frozen=True, slots=True)
class PreNormLayer(Layer):
    """One transformer layer, its norms before attention and feed-forward, ``output_norm`` the latter."""

    def write(self, layout: "Layout", hidden: str) -> str:
        """As `Layer.write`."""
        context = self.attention.write(layout, layout.normalize(hidden, self.attention_norm))
        rows = layout.needed_rows(hidden)
        (attended,) = layout.dense(context, (self.attention.output,), self.attention.output.name)
        rows = layout.graph.add("Add", attended, rows)
        return self.feed_forward.write(layout, layout.normalize(rows, self.output_norm), rows)


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
class Step:
    """Of a head: a dense layer, its activation and, with ``residual``, what it got.

    ``residual`` is "same" for what it got as it is, or a dense layer of it.
    """

    linear: Linear
    activation: str = "identity"
    residual: Linear | Literal["same"] | None = None

    def write(self, layout: "Layout", row: str) -> str:
        """What comes of a row."""
        graph = layout.graph
        found = activate(graph, dense(graph, row, self.linear), self.activation, contrib=layout.contrib)
        if self.residual is None:
            return found
        return graph.add("Add", found, row if self.residual == "same" else dense(graph, row, self.residual))


@dataclass(frozen=True, slots=True)
class StepsHead:
    """A head that takes the first row, or the mean of all rows, through steps one after the other.

    Attributes:
        pooling: "cls" or "mean".
        steps: The last one gives the logits.
    """

    pooling: Literal["cls", "mean"]
    steps: tuple[Step | Norm, ...]

    @property
    def pools(self) -> bool:
        """As `Head.pools`."""
        return self.pooling == "mean"

    def write(self, layout: "Layout", hidden: str) -> str:
        """As `Head.write`."""
        row = layout.mean_rows(hidden) if self.pools else layout.first_rows(hidden)
        for step in self.steps:
            row = layout.normalize(row, step) if isinstance(step, Norm) else step.write(layout, row)
        return row


@dataclass(frozen=True, slots=True)
class Body:
    """A model but for its head; ``norm`` is behind its last layer, None where there is none."""

    embeddings: Embeddings
    layers: tuple[Layer, ...]
    norm: Norm | None = None


@dataclass(frozen=True, slots=True)
class EncoderWeights:
    """All the parts of one model, those of a `Body` and a head."""

    embeddings: Embeddings
    layers: tuple[Layer, ...]
    head: Head | StepsHead
    norm: Norm | None = None


def write_encoder(layout: "Layout", weights: EncoderWeights) -> None:
    """Write a model into a layout's graph, whose output is ``logits`` [pairs, labels]."""
    hidden = layout.enter(weights.embeddings.write(layout))
    for layer in weights.layers:
        layout.narrow = layer is weights.layers[-1] and not weights.head.pools
        hidden = layer.write(layout, hidden)
    hidden = layout.normalize(hidden, weights.norm)
    layout.graph.output(weights.head.write(layout, hidden), "logits", ["pairs", layout.config.labels])
