"""An encoder with a classification head: its parts, each of which writes itself, and the loop over them.

Two axes cross here. What is computed is the encoder's: its parts are dataclasses of tensors, and a family that
computes something else derives parts of its own from them. How it is computed is the layout's: inputs, mask, packing,
precision, and the rows that the last layer computes.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from .graph import Graph
from .layers import Floats, Linear, Norm, activate, dense, float_dense, normalize
from .positions import DistanceBias, distance_bias, position_rows


@dataclass(frozen=True, slots=True)
class EncoderConfig:
    """Sizes and settings of an encoder with a classification head.

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
    """Tables float32 [rows, width]; ``positions``, ``types`` and ``projection`` are None where the model has none.

    Types are the positions' companions: a family with types alone adds its own to the words where the tokenizer gives
    none.
    """

    words: Floats
    positions: Floats | None
    types: Floats | None
    norm: Norm
    projection: Linear | None

    def write(self, layout: "Layout") -> str:
        """What the first layer gets."""
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


@dataclass(frozen=True, slots=True)
class Attention:
    """Attention of several heads, each as wide as the others.

    Attributes:
        name: Of its input, for quantization.
        query, key, value: The projections.
        output: What follows it.
        bias: What is added to the scaled scores by distance, or None.
    """

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

    ``apart`` are up and down of units that are computed in float where the others are quantized, None for none.
    """

    up: Linear
    down: Linear
    apart: tuple[Linear, Linear] | None = None

    def write(self, layout: "Layout", hidden: str, residual: str) -> str:
        """``residual`` and what the units make of ``hidden``."""
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
        """The same with some units apart."""
        up, down = self.up, self.down
        apart = (
            Linear(f"{up.name}.apart", up.weight[:, units], up.bias[units]),
            Linear(f"{down.name}.apart", down.weight[units], np.zeros_like(down.bias)),
        )
        return replace(
            self,
            up=replace(up, weight=np.delete(up.weight, units, axis=1), bias=np.delete(up.bias, units)),
            down=replace(down, weight=np.delete(down.weight, units, axis=0)),
            apart=apart,
        )


@dataclass(frozen=True, slots=True)
class Layer:
    """A transformer layer whose norms follow attention and feed-forward."""

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

    def write(self, layout: "Layout", hidden: str) -> str:
        """Logits [pairs, labels] of what the last layer gives."""
        return self.logits(layout.graph, layout.first_rows(hidden), contrib=layout.contrib)

    def logits(self, graph: Graph, row: str, *, contrib: bool) -> str:
        """Logits [pairs, labels] of the [CLS] rows [pairs, hidden]."""
        if self.dense is not None:
            row = activate(graph, dense(graph, row, self.dense), self.activation, contrib=contrib)
        return dense(graph, row, self.classifier)


@dataclass(frozen=True, slots=True)
class EncoderWeights:
    """All the parts of one model."""

    embeddings: Embeddings
    layers: tuple[Layer, ...]
    head: Head


class Layout(ABC):
    """How a graph takes its pairs: inputs, mask, packing, precision, and the rows that its last layer computes.

    A layout's constructor declares the inputs. What is said here of positions is of padded pairs.

    Args:
        graph: Empty; its type is the precision.
        config: The encoder's sizes.
        token_types: Whether there is an input for them.

    Attributes:
        graph: Where all is written.
        config: As given.
        types: The input of the token types, or None where the tokenizer gives none: then all are 0.
        narrow: Whether of what is written now the first row of each pair suffices.
        contrib: Whether onnxruntime's own operators may be used.
    """

    contrib: ClassVar[bool] = True

    def __init__(self, graph: Graph, config: EncoderConfig, *, token_types: bool) -> None:
        self.graph, self.config = graph, config
        self.types = "token_type_ids" if token_types else None
        self.narrow = False
        self._biases: dict[str, str] = {}

    def enter(self, hidden: str) -> str:
        """The embeddings, in the shape that layers take."""
        return hidden

    def position_rows(self, name: str, table: Floats) -> str:
        """Rows of a table float32 [positions, width] by each token's position, for what `project` or `enter` gives."""
        return position_rows(self.graph, name, table, pad_id=self.config.pad_id, offset=self.config.position_offset)

    def dense(self, hidden: str, linears: Sequence[Linear], point: str) -> list[str]:
        """Each of ``linears`` applied to ``hidden``; ``point`` names the input for quantization."""
        return float_dense(self.graph, hidden, linears, point)

    def activate(self, hidden: str) -> str:
        """The model's activation."""
        return activate(self.graph, hidden, self.config.activation, contrib=self.contrib)

    def normalize(self, hidden: str, norm: Norm) -> str:
        """LayerNormalization with the model's epsilon."""
        return normalize(self.graph, hidden, norm, self.config.epsilon)

    def attention(self, hidden: str, attention: Attention) -> str:
        """The context of the rows that are needed, queries and keys being the projections as they are."""
        return self.attend(*self.project(hidden, attention), self.bias(attention.bias))

    def project(self, hidden: str, attention: Attention) -> tuple[str, str, str]:
        """Queries, keys and values of all tokens, as `attend` takes them: hidden size along the last axis."""
        linears = (attention.query, attention.key, attention.value)
        query, key, value = self.dense(hidden, linears, attention.name)
        return query, key, value

    @abstractmethod
    def attend(self, query: str, key: str, value: str, bias: str) -> str:
        """The context of the rows that are needed.

        Args:
            query: As `project` gives them.
            key: Likewise.
            value: Likewise.
            bias: Added to the scaled scores: [1 or pairs, 1 or heads, longest, longest], or "" for none.
        """

    def bias(self, bias: DistanceBias | None) -> str:
        """A bias by distance for `attend`."""
        if bias is None:
            return ""
        if bias.name not in self._biases:
            self._biases[bias.name] = self.distance_bias(bias)
        return self._biases[bias.name]

    def distance_bias(self, bias: DistanceBias) -> str:
        """Write a bias by distance, [1, 1 or heads, longest, longest]."""
        return distance_bias(self.graph, bias, self.config.positions)

    def needed_rows(self, hidden: str) -> str:
        """The rows of what `enter` or a layer gave that are needed."""
        return hidden

    @abstractmethod
    def first_rows(self, hidden: str) -> str:
        """The first row of each pair, [pairs, hidden], of what the last layer gave."""


def write_encoder(layout: Layout, weights: EncoderWeights) -> None:
    """Write a model into a layout's graph, whose output is ``logits`` [pairs, labels]."""
    hidden = layout.enter(weights.embeddings.write(layout))
    for layer in weights.layers:
        layout.narrow = layer is weights.layers[-1]
        hidden = layer.write(layout, hidden)
    layout.graph.output(weights.head.write(layout, hidden), "logits", ["pairs", layout.config.labels])
