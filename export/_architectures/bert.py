"""BERT, and what is BERT but for names, embeddings and head: ELECTRA, RoBERTa, XLM-RoBERTa, CamemBERT."""

import logging
from collections.abc import Mapping
from typing import Any, ClassVar

from crossrank.export._graphs.encoder import (
    Attention,
    Embeddings,
    EncoderConfig,
    EncoderWeights,
    FeedForward,
    Head,
    Layer,
)
from crossrank.export._graphs.positions import DistanceBias

from .base import Family, Tensors

logger = logging.getLogger(__name__)


class Bert(Family):
    """BERT; what is much like it derives from it and says what differs.

    Attributes:
        layers: Before the number of a layer in the names of its tensors.
        parts: Of a layer: query, key, value and output of attention, its norm, up and down of the feed-forward, its
            norm.
        head: Dense, activation, classifier.
    """

    types: ClassVar[tuple[str, ...]] = ("bert",)
    prefix = "bert."
    fields: ClassVar[Mapping[str, str]] = {
        "vocabulary": "vocab_size",
        "hidden": "hidden_size",
        "layers": "num_hidden_layers",
        "heads": "num_attention_heads",
        "intermediate": "intermediate_size",
        "positions": "max_position_embeddings",
        "token_types": "type_vocab_size",
        "activation": "hidden_act",
        "epsilon": "layer_norm_eps",
    }
    defaults: ClassVar[Mapping[str, Any]] = {"token_types": 2, "activation": "gelu", "epsilon": 1e-12}
    layers = "encoder.layer"
    parts: ClassVar[tuple[str, ...]] = (
        *("attention.self.query", "attention.self.key", "attention.self.value", "attention.output.dense"),
        *("attention.output.LayerNorm", "intermediate.dense", "output.dense", "output.LayerNorm"),
    )
    head: ClassVar[tuple[str, str, str]] = ("pooler.dense", "tanh", "classifier")

    def read_weights(self, tensors: Tensors, config: EncoderConfig, *, bare_projection: bool) -> EncoderWeights:
        """As `Family.read_weights`."""
        hidden, width, types = config.hidden, config.embedding or config.hidden, config.token_types
        held = tensors.layers(self.layers, config.layers)
        embeddings = Embeddings(
            tensors.tensor("embeddings.word_embeddings.weight", config.vocabulary, width),
            tensors.tensor("embeddings.position_embeddings.weight", config.positions, width),
            tensors.tensor("embeddings.token_type_embeddings.weight", types, width) if types else None,
            tensors.norm("embeddings.norm", "embeddings.LayerNorm", width),
            tensors.linear("embeddings.projection", "embeddings_project", width, hidden) if width != hidden else None,
        )
        bias = self.read_bias(tensors, config)
        layers = tuple(self._read_layer(tensors, config, i, bias) for i in held)
        dense, activation, classifier = self.head
        bare = bare_projection or self.has_bare_head(tensors)
        if bare:
            logger.warning("the head is %s alone, without %s", classifier, dense)
        head = Head(
            None if bare else tensors.linear("head.dense", dense, hidden, hidden),
            activation,
            tensors.linear("head.classifier", classifier, hidden, config.labels),
        )
        return EncoderWeights(embeddings, layers, head)

    def _read_layer(self, tensors: Tensors, config: EncoderConfig, i: int, bias: DistanceBias | None) -> Layer:
        hidden, inner, label = config.hidden, config.intermediate, f"layer.{i}"
        query, key, value, output, norm, up, down, last = (f"{self.layers}.{i}.{part}" for part in self.parts)
        return Layer(
            Attention(
                f"{label}.attention",
                tensors.linear(f"{label}.query", query, hidden, hidden),
                tensors.linear(f"{label}.key", key, hidden, hidden),
                tensors.linear(f"{label}.value", value, hidden, hidden),
                tensors.linear(f"{label}.output", output, hidden, hidden),
                bias,
            ),
            tensors.norm(f"{label}.attention_norm", norm, hidden),
            FeedForward(
                tensors.linear(f"{label}.up", up, hidden, inner), tensors.linear(f"{label}.down", down, inner, hidden)
            ),
            tensors.norm(f"{label}.output_norm", last, hidden),
        )

    def read_bias(self, tensors: Tensors, config: EncoderConfig) -> DistanceBias | None:
        """What the attention of every layer adds to its scores."""
        return None

    def has_bare_head(self, tensors: Tensors) -> bool:
        """Whether the weights hold a classifier without the dense layer before it."""
        return False


class Electra(Bert):
    """ELECTRA."""

    types = ("electra",)
    prefix = "electra."
    fields: ClassVar[Mapping[str, str]] = {**Bert.fields, "embedding": "embedding_size"}
    head = ("classifier.dense", "gelu", "classifier.out_proj")

    def has_bare_head(self, tensors: Tensors) -> bool:
        """As Capreolus trained it; transformers would draw the rest at random."""
        dense, _, classifier = self.head
        return not tensors.has(dense) and tensors.has(classifier)


class Roberta(Bert):
    """RoBERTa and its kin, all in its name."""

    types = ("roberta", "xlm-roberta", "camembert")
    prefix = "roberta."
    head = ("classifier.dense", "tanh", "classifier.out_proj")


FAMILIES = (Bert(), Electra(), Roberta())
