"""A family of architectures: what its config.json and its tensors mean, and what it refuses."""

import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np

from crossrank._artifact.settings import count_labels, describe_padding
from crossrank._errors import CheckpointError, join_problems
from crossrank._interrupts import not_thrown_in
from crossrank._json import parse_dataclass
from crossrank.export._graphs.encoder import (
    Attention,
    Body,
    DistanceBias,
    Embeddings,
    EncoderConfig,
    FeedForward,
    Head,
    Layer,
    Rotary,
    StepsHead,
)
from crossrank.export._graphs.layers import Floats, Linear, Norm
from crossrank.export._read.tensors import ReadTensor, read_floats

logger = logging.getLogger(__name__)

DEFAULT_LABELS = 2  # transformers'
# transformers' names of activations, and ours of the same function: it writes some formulas in several ways, which
# differ by rounding alone (gelu_fast by 1e-12, for a constant of ten digits). gelu_10 and quick_gelu are others.
ACTIVATIONS = {
    **dict.fromkeys(("gelu", "gelu_python"), "gelu"),
    **dict.fromkeys(("gelu_new", "gelu_accurate", "gelu_fast", "gelu_python_tanh", "gelu_pytorch_tanh"), "gelu_new"),
    "relu": "relu",
    **dict.fromkeys(("silu", "swish"), "silu"),
}


def rotary(base: float, size: int, *, factor: float = 1.0) -> Rotary:
    """Rotary positions, in float32 wherever transformers and GTE's authors compute in it.

    Args:
        base: Of the frequencies.
        size: Of a head.
        factor: By how much positions are stretched (NTK-aware).
    """
    exponents = np.arange(0, size, 2, dtype=np.float32) / np.float32(size)
    powers = ((base * factor) ** exponents.astype(np.float64)).astype(np.float32)
    return Rotary(f"rotary.{base!r}", np.float32(1) / powers / np.float32(factor ** (2 / size)))


def refuse_others(config: Mapping[str, Any], supported: Mapping[str, Any]) -> list[str]:
    """A sentence for each of these fields of a config.json that has another value; null is as good as none."""
    return [
        f"{name} is {config[name]!r:.60}; supported is {value}"
        for name, value in supported.items()
        if config.get(name) not in (None, value)
    ]


def size_of_heads(config: Mapping[str, Any]) -> int | None:
    """The size that the heads of a config.json have where it says no other; None of a damaged one."""
    hidden, heads = config.get("hidden_size"), config.get("num_attention_heads")
    return hidden // heads if isinstance(hidden, int) and isinstance(heads, int) and heads > 0 else None


def check_rotary(config: EncoderConfig, problems: list[str]) -> None:
    """Add a sentence for heads that rotary positions cannot turn."""
    if config.heads > 0 and config.hidden // config.heads % 2:
        problems.append(f"the head size {config.hidden // config.heads} is odd; rotary positions turn pairs")


class Tensors:
    """A checkpoint's tensors as float32, and what is wrong with them.

    Args:
        tensors: As `open_tensors` gives them, with or without the prefix.
        prefixes: Of which their names may begin with one.
    """

    def __init__(self, tensors: Mapping[str, ReadTensor], *prefixes: str) -> None:
        def bare(name: str) -> str:
            return next((name.removeprefix(prefix) for prefix in prefixes if name.startswith(prefix)), name)

        self._tensors = {bare(name): read for name, read in tensors.items()}
        self._problems: list[str] = []

    def check(self) -> None:
        """Raise `CheckpointError` for all that was asked for and is missing, or has another shape or type."""
        if self._problems:
            raise CheckpointError(join_problems("the weights do not fit config.json", self._problems))

    def tensor(self, name: str, *shape: int) -> Floats:
        """The tensor of this name and shape."""
        absent: Floats = np.broadcast_to(np.float32(0), shape)  # takes no memory, whatever a damaged config asks for
        if name not in self._tensors:
            self._problems.append(f"{name} is missing")
            return absent
        try:
            value = read_floats(self._tensors[name])
        except not_thrown_in(ValueError) as error:
            self._problems.append(f"{name} {error}")
            return absent
        if value.shape != shape:
            self._problems.append(f"{name} has shape {list(value.shape)}; {list(shape)} expected")
            return absent
        return value

    def has(self, name: str) -> bool:
        """Whether there is any part of a linear layer of this name."""
        return f"{name}.weight" in self._tensors or f"{name}.bias" in self._tensors

    def linear(self, label: str, name: str, inputs: int, outputs: int, *, bias: bool = True) -> Linear:
        """A linear layer, ``label`` in graphs."""
        weight = self.tensor(f"{name}.weight", outputs, inputs)
        return Linear(label, weight.T, self._bias(name, outputs, bias))

    def linears(
        self, labels: Sequence[str], names: Sequence[str], inputs: int, outputs: int, *, bias: bool = True
    ) -> tuple[Linear, ...]:
        """Linear layers of ``outputs`` each, by their labels in graphs; under a single name they are one tensor."""
        if len(names) > 1:
            pairs = zip(labels, names, strict=True)
            return tuple(self.linear(label, name, inputs, outputs, bias=bias) for label, name in pairs)
        (name,), count = names, len(labels)
        weights = np.split(self.tensor(f"{name}.weight", count * outputs, inputs), count)
        biases = np.split(self._bias(name, count * outputs, bias), count)
        return tuple(Linear(label, w.T, b) for label, w, b in zip(labels, weights, biases, strict=True))

    def norm(self, label: str, name: str, width: int, *, bias: bool = True) -> Norm:
        """A layer normalization, ``label`` in graphs."""
        return Norm(label, self.tensor(f"{name}.weight", width), self._bias(name, width, bias))

    def _bias(self, name: str, outputs: int, there: bool) -> Floats:
        return self.tensor(f"{name}.bias", outputs) if there else np.zeros(outputs, np.float32)

    def numbers(self, stem: str, count: int) -> list[int]:
        """The layers that there are of ``count``, by the numbers behind ``stem`` in the names."""
        parts = {name.removeprefix(stem).partition(".")[0] for name in self._tensors if name.startswith(stem)}
        held = {int(part) for part in parts if part.isdecimal() and len(part) < 10}
        lost = [str(i) for i in range(count) if i not in held]
        if lost:
            what = ", ".join(lost) if len(lost) <= 10 else f"{lost[0]} to {lost[-1]}"
            self._problems.append(f"of {count} layers the weights hold {count - len(lost)}; missing: {what}")
        return [i for i in range(count) if i in held]


class Family:
    """Model types of transformers that one file here knows. What a family does not say is as in BERT.

    Attributes:
        types: transformers' model types.
        prefix: What the names of the encoder's tensors begin with where there is a head.
        other_prefixes: What else they may begin with.
        position_types: What position_embedding_type may say.
        config: What is read of a config.json: `EncoderConfig`, or a class derived from it.
        fields: Its fields by their names in config.json.
        defaults: transformers' values of those that may be missing there.
        layers: What the names of a layer's tensors begin with, before its number.
        parts: Of a layer: query, key and value of its attention, in one or each, and its output, the norm behind, up
            and down of its feed-forward, the norm behind.
        first_norm: That of the embeddings.
        head: Dense layer, activation, classifier.
    """

    types: ClassVar[tuple[str, ...]]
    prefix: ClassVar[str]
    other_prefixes: ClassVar[tuple[str, ...]] = ()
    position_types: ClassVar[tuple[str, ...]] = ("absolute",)
    config: ClassVar[type[EncoderConfig]] = EncoderConfig
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
    layers: ClassVar[str] = "encoder.layer."
    parts: ClassVar[tuple[str, ...]] = (
        *("attention.self.query", "attention.self.key", "attention.self.value", "attention.output.dense"),
        *("attention.output.LayerNorm", "intermediate.dense", "output.dense", "output.LayerNorm"),
    )
    first_norm: ClassVar[str] = "embeddings.LayerNorm"
    head: ClassVar[tuple[str, str, str]] = ("pooler.dense", "tanh", "classifier")

    def refused(self, config: Mapping[str, Any]) -> list[str]:
        """A sentence for each setting of a config.json with which a graph would compute something else."""
        return []

    def read_config(self, config: Mapping[str, Any], problems: list[str]) -> EncoderConfig | None:
        """A config.json whose activation is known, or None if ``problems`` got sentences.

        Raises:
            CheckpointError: If its padding id is none.
        """
        (pad_id, offset), labels = describe_padding(config), count_labels(config)
        values = {
            **self.defaults,
            **{ours: config[theirs] for ours, theirs in self.fields.items() if theirs in config},
            **{"architecture": config["model_type"], "pad_id": pad_id, "position_offset": offset},
            "labels": DEFAULT_LABELS if labels is None else labels,
        }
        found: list[str] = []
        read = parse_dataclass(self.config, values, found)
        for said in found:
            name = re.match(r"\w+", said)[0]  # type: ignore[index]  # each begins with a field's name
            problems.append(self.fields[name] + said.removeprefix(name))
        return None if read is None else replace(read, activation=ACTIVATIONS[read.activation])

    def read_body(self, tensors: Tensors, config: EncoderConfig) -> Body:
        """The parts of a model of this config but for its head.

        Args:
            tensors: Of the checkpoint; gets to know what is wrong with them.
            config: From `read_config`.
        """
        hidden, width, types = config.hidden, config.embedding or config.hidden, config.token_types
        held = tensors.numbers(self.layers, config.layers)
        embeddings = Embeddings(
            tensors.tensor("embeddings.word_embeddings.weight", config.vocabulary, width),
            tensors.tensor("embeddings.position_embeddings.weight", config.positions, width),
            tensors.tensor("embeddings.token_type_embeddings.weight", types, width) if types else None,
            tensors.norm("embeddings.norm", self.first_norm, width),
            tensors.linear("embeddings.projection", "embeddings_project", width, hidden) if width != hidden else None,
        )
        bias = self.read_bias(tensors, config)
        return Body(embeddings, tuple(self._read_layer(tensors, config, i, bias) for i in held))

    def read_head(self, tensors: Tensors, config: EncoderConfig, *, bare_projection: bool) -> Head | StepsHead:
        """The head of a model of this config.

        Args:
            tensors: As `read_body`.
            config: From `read_config`.
            bare_projection: Whether the head is its last layer alone, whatever the weights hold before it.
        """
        dense, activation, classifier = self.head
        bare = bare_projection or self.has_bare_head(tensors)
        if bare:
            logger.warning("the head is %s alone, without %s", classifier, dense)
        return Head(
            None if bare else tensors.linear("head.dense", dense, config.hidden, config.hidden),
            activation,
            tensors.linear("head.classifier", classifier, config.hidden, config.labels),
        )

    def read_bias(self, tensors: Tensors, config: EncoderConfig) -> DistanceBias | None:
        """What the attention of every layer adds to its scores."""
        return None

    def has_bare_head(self, tensors: Tensors) -> bool:
        """Whether the weights lack what is before the classifier, which transformers would draw at random."""
        return False

    def _read_layer(self, tensors: Tensors, config: EncoderConfig, i: int, bias: DistanceBias | None) -> Layer:
        hidden, inner, label = config.hidden, config.intermediate, f"layer.{i}"
        *projections, output, attention_norm, up, down, output_norm = (
            f"{self.layers}{i}.{part}" for part in self.parts
        )
        labels = [f"{label}.{name}" for name in ("query", "key", "value")]
        query, key, value = tensors.linears(labels, projections, hidden, hidden)
        return Layer(
            Attention(
                *(f"{label}.attention", query, key, value),
                tensors.linear(f"{label}.output", output, hidden, hidden),
                bias,
            ),
            tensors.norm(f"{label}.attention_norm", attention_norm, hidden),
            FeedForward(
                tensors.linear(f"{label}.up", up, hidden, inner), tensors.linear(f"{label}.down", down, inner, hidden)
            ),
            tensors.norm(f"{label}.output_norm", output_norm, hidden),
        )
