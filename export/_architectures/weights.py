"""The tensors of a checkpoint under one set of names, whatever family they come from."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from crossrank._errors import CheckpointError, join_problems
from crossrank.export._read.tensors import ReadTensor, read_floats

from .config import EncoderConfig

logger = logging.getLogger(__name__)

Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Linear:
    """``x @ weight + bias``: weight float32 [in, out], bias float32 [out]."""

    name: str
    weight: Floats
    bias: Floats


@dataclass(frozen=True, slots=True)
class Norm:
    """A layer normalization: scale and bias, float32 [width]."""

    name: str
    scale: Floats
    bias: Floats


@dataclass(frozen=True, slots=True)
class Layer:
    """One transformer layer.

    ``apart`` are up and down of feed-forward units computed in float where the others are quantized, None for none.
    """

    query: Linear
    key: Linear
    value: Linear
    output: Linear
    attention_norm: Norm
    up: Linear
    down: Linear
    output_norm: Norm
    apart: tuple[Linear, Linear] | None = None


@dataclass(frozen=True, slots=True)
class Embeddings:
    """Tables float32 [rows, width]; ``types`` and ``projection`` are None where the model has none."""

    words: Floats
    positions: Floats
    types: Floats | None
    norm: Norm
    projection: Linear | None


@dataclass(frozen=True, slots=True)
class Head:
    """What turns the [CLS] row into logits: dense, activation, classifier; or with dense None the classifier alone."""

    dense: Linear | None
    activation: str
    classifier: Linear


@dataclass(frozen=True, slots=True)
class EncoderWeights:
    """All the weights of one model."""

    embeddings: Embeddings
    layers: tuple[Layer, ...]
    head: Head
    # Float32 [buckets, heads], added to the attention scores by distance; None where the model has none.
    relative_bias: Floats | None


_BERT = {
    "words": "embeddings.word_embeddings",
    "positions": "embeddings.position_embeddings",
    "types": "embeddings.token_type_embeddings",
    "norm": "embeddings.LayerNorm",
    "projection": "embeddings_project",
    "query": "encoder.layer.{i}.attention.self.query",
    "key": "encoder.layer.{i}.attention.self.key",
    "value": "encoder.layer.{i}.attention.self.value",
    "output": "encoder.layer.{i}.attention.output.dense",
    "attention_norm": "encoder.layer.{i}.attention.output.LayerNorm",
    "up": "encoder.layer.{i}.intermediate.dense",
    "down": "encoder.layer.{i}.output.dense",
    "output_norm": "encoder.layer.{i}.output.LayerNorm",
    "head": "pooler.dense tanh classifier",
}
# The names of each family, less the family's own prefix. "head" is dense, activation, classifier.
_NAMES = {
    "bert": _BERT,
    "electra": _BERT | {"head": "classifier.dense gelu classifier.out_proj"},
    "roberta": _BERT | {"head": "classifier.dense tanh classifier.out_proj"},
    "distilbert": _BERT
    | {
        "query": "transformer.layer.{i}.attention.q_lin",
        "key": "transformer.layer.{i}.attention.k_lin",
        "value": "transformer.layer.{i}.attention.v_lin",
        "output": "transformer.layer.{i}.attention.out_lin",
        "attention_norm": "transformer.layer.{i}.sa_layer_norm",
        "up": "transformer.layer.{i}.ffn.lin1",
        "down": "transformer.layer.{i}.ffn.lin2",
        "output_norm": "transformer.layer.{i}.output_layer_norm",
        "head": "pre_classifier relu classifier",
    },
    "mpnet": _BERT
    | {
        "query": "encoder.layer.{i}.attention.attn.q",
        "key": "encoder.layer.{i}.attention.attn.k",
        "value": "encoder.layer.{i}.attention.attn.v",
        "output": "encoder.layer.{i}.attention.attn.o",
        "attention_norm": "encoder.layer.{i}.attention.LayerNorm",
        "relative_bias": "encoder.relative_attention_bias",
        "head": "classifier.dense tanh classifier.out_proj",
    },
}


class _Reader:
    """Reads named tensors as float32 and collects what is missing or has another shape."""

    def __init__(self, tensors: Mapping[str, ReadTensor], family: str) -> None:
        prefix = f"{family}."
        self._tensors = {name.removeprefix(prefix): read for name, read in tensors.items()}
        self.problems: list[str] = []

    def tensor(self, name: str, *shape: int) -> Floats:
        absent: Floats = np.broadcast_to(np.float32(0), shape)  # takes no memory, whatever a damaged config asks for
        if name not in self._tensors:
            self.problems.append(f"{name} is missing")
            return absent
        try:
            value = read_floats(self._tensors[name])
        except ValueError as error:
            self.problems.append(f"{name} {error}")
            return absent
        if value.shape != shape:
            self.problems.append(f"{name} has shape {list(value.shape)}; {list(shape)} expected")
            return absent
        return value

    def numbers_after(self, stem: str) -> set[int]:
        """The numbers in the names of tensors behind ``stem``, such as those of layers."""
        parts = {name.removeprefix(stem).partition(".")[0] for name in self._tensors if name.startswith(stem)}
        return {int(part) for part in parts if part.isdecimal() and len(part) < 10}

    def has(self, name: str) -> bool:
        """Whether there is any part of a linear layer of this name."""
        return f"{name}.weight" in self._tensors or f"{name}.bias" in self._tensors

    def linear(self, label: str, name: str, inputs: int, outputs: int) -> Linear:
        weight = self.tensor(f"{name}.weight", outputs, inputs)
        return Linear(label, weight.T, self.tensor(f"{name}.bias", outputs))

    def norm(self, label: str, name: str, width: int) -> Norm:
        return Norm(label, self.tensor(f"{name}.weight", width), self.tensor(f"{name}.bias", width))


def read_weights(
    tensors: Mapping[str, ReadTensor], config: EncoderConfig, *, bare_projection: bool = False
) -> EncoderWeights:
    """All the weights that a model of this config needs.

    Args:
        tensors: As `open_tensors` gives them, with or without the family's prefix.
        config: The sizes that the tensors must have.
        bare_projection: Whether the head is its last layer alone, whatever the weights hold before it.

    Raises:
        CheckpointError: Naming every tensor that is missing or has another shape or type.
    """
    names, reader = _NAMES[config.family], _Reader(tensors, config.family)
    hidden, inner = config.hidden, config.intermediate

    def table(part: str, rows: int, width: int = config.embedding) -> Floats:
        return reader.tensor(f"{names[part]}.weight", rows, width)

    def layer(i: int) -> Layer:
        def linear(part: str, inputs: int, outputs: int) -> Linear:
            return reader.linear(f"layer.{i}.{part}", names[part].format(i=i), inputs, outputs)

        def norm(part: str) -> Norm:
            return reader.norm(f"layer.{i}.{part}", names[part].format(i=i), hidden)

        return Layer(
            query=linear("query", hidden, hidden),
            key=linear("key", hidden, hidden),
            value=linear("value", hidden, hidden),
            output=linear("output", hidden, hidden),
            attention_norm=norm("attention_norm"),
            up=linear("up", hidden, inner),
            down=linear("down", inner, hidden),
            output_norm=norm("output_norm"),
        )

    held = reader.numbers_after(names["query"].partition("{i}")[0])
    lost = [str(i) for i in range(config.layers) if i not in held]
    if lost:
        what = ", ".join(lost) if len(lost) <= 10 else f"{lost[0]} to {lost[-1]}"
        reader.problems.append(
            f"of {config.layers} layers the weights hold {config.layers - len(lost)}; missing: {what}"
        )
    projected = config.embedding != hidden
    dense, activation, classifier = names["head"].split()
    # Capreolus trained ELECTRA with the output projection alone. transformers would draw the rest at random.
    bare = bare_projection or (config.family == "electra" and not reader.has(dense) and reader.has(classifier))
    if bare:
        logger.warning("the head is %s alone, without %s", classifier, dense)
    weights = EncoderWeights(
        Embeddings(
            words=table("words", config.vocabulary),
            positions=table("positions", config.positions),
            types=table("types", config.token_types) if config.token_types else None,
            norm=reader.norm("embeddings.norm", names["norm"], config.embedding),
            projection=reader.linear("embeddings.projection", names["projection"], config.embedding, hidden)
            if projected
            else None,
        ),
        tuple(layer(i) for i in range(config.layers) if i in held),
        Head(
            None if bare else reader.linear("head.dense", dense, hidden, hidden),
            activation,
            reader.linear("head.classifier", classifier, hidden, config.labels),
        ),
        table("relative_bias", config.relative_buckets, config.heads) if config.relative_buckets else None,
    )
    if reader.problems:
        raise CheckpointError(join_problems("the weights do not fit config.json", reader.problems))
    return weights
