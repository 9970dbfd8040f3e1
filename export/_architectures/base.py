"""A family of architectures: what its config.json and its tensors mean, and what it refuses."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np

from crossrank._artifact.settings import count_labels, describe_padding
from crossrank._errors import CheckpointError, join_problems
from crossrank._json import parse_dataclass
from crossrank.export._graphs.encoder import EncoderConfig, EncoderWeights
from crossrank.export._graphs.layers import Floats, Linear, Norm
from crossrank.export._read.tensors import ReadTensor, read_floats

DEFAULT_LABELS = 2  # transformers'
# transformers' names of activations, and ours of the same function: it writes some formulas in several ways, which
# differ by rounding alone (gelu_fast by 1e-12, for a constant of ten digits). gelu_10 and quick_gelu are others.
ACTIVATIONS = {
    **dict.fromkeys(("gelu", "gelu_python"), "gelu"),
    **dict.fromkeys(("gelu_new", "gelu_accurate", "gelu_fast", "gelu_python_tanh", "gelu_pytorch_tanh"), "gelu_new"),
    "relu": "relu",
    **dict.fromkeys(("silu", "swish"), "silu"),
}


class Family(ABC):
    """Model types of transformers that one file here knows.

    Attributes:
        types: transformers' model types.
        prefix: What the names of the encoder's tensors begin with where there is a head.
        config: What is read from a config.json, `EncoderConfig` or a class derived from it.
        fields: The names in config.json of its fields.
        defaults: transformers' values of those that may be left out.
    """

    types: ClassVar[tuple[str, ...]]
    prefix: ClassVar[str]
    config: ClassVar[type[EncoderConfig]] = EncoderConfig
    fields: ClassVar[Mapping[str, str]]
    defaults: ClassVar[Mapping[str, Any]] = {}

    def refused(self, config: Mapping[str, Any]) -> list[str]:
        """A sentence for each setting of a config.json with which the graphs would compute something else."""
        return []

    def read_config(self, config: Mapping[str, Any], problems: list[str]) -> EncoderConfig | None:
        """A config.json whose activation is known, or None if ``problems`` got sentences.

        Raises:
            CheckpointError: If its padding id is none.
        """
        (pad_id, offset), labels = describe_padding(config), count_labels(config)
        found: list[str] = []
        read = parse_dataclass(
            self.config,
            {
                **self.defaults,
                **{ours: config[theirs] for ours, theirs in self.fields.items() if theirs in config},
                "architecture": config["model_type"],
                "pad_id": pad_id,
                "position_offset": offset,
                "labels": DEFAULT_LABELS if labels is None else labels,
            },
            found,
        )
        problems += [f"{self.fields[name]} {rest}" for name, _, rest in (said.partition(" ") for said in found)]
        return None if read is None else replace(read, activation=ACTIVATIONS[read.activation])

    @abstractmethod
    def read_weights(self, tensors: "Tensors", config: EncoderConfig, *, bare_projection: bool) -> EncoderWeights:
        """The parts of the model.

        Args:
            tensors: Of the checkpoint.
            config: As `read_config` gives it.
            bare_projection: Whether the head is its last layer alone, whatever the weights hold before it.
        """


class Tensors:
    """A checkpoint's tensors as float32, and what is wrong with them.

    Args:
        tensors: As `open_tensors` gives them, with or without the prefix.
        prefix: What their names may begin with.
    """

    def __init__(self, tensors: Mapping[str, ReadTensor], prefix: str) -> None:
        self._tensors = {name.removeprefix(prefix): read for name, read in tensors.items()}
        self._problems: list[str] = []

    def check(self) -> None:
        """Raise `CheckpointError` for all tensors that were asked for and are missing or have another shape or type."""
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
        except ValueError as error:
            self._problems.append(f"{name} {error}")
            return absent
        if value.shape != shape:
            self._problems.append(f"{name} has shape {list(value.shape)}; {list(shape)} expected")
            return absent
        return value

    def has(self, name: str) -> bool:
        """Whether there is any part of a linear layer of this name."""
        return f"{name}.weight" in self._tensors or f"{name}.bias" in self._tensors

    def linear(self, label: str, name: str, inputs: int, outputs: int) -> Linear:
        """A linear layer, ``label`` in graphs."""
        weight = self.tensor(f"{name}.weight", outputs, inputs)
        return Linear(label, weight.T, self.tensor(f"{name}.bias", outputs))

    def norm(self, label: str, name: str, width: int) -> Norm:
        """A layer normalization, ``label`` in graphs."""
        return Norm(label, self.tensor(f"{name}.weight", width), self.tensor(f"{name}.bias", width))

    def layers(self, stem: str, count: int) -> list[int]:
        """The numbers behind ``stem.`` in the names, of ``count`` that there should be."""
        parts = {name.removeprefix(stem).split(".")[1] for name in self._tensors if name.startswith(f"{stem}.")}
        held = {int(part) for part in parts if part.isdecimal() and len(part) < 10}
        lost = [str(i) for i in range(count) if i not in held]
        if lost:
            what = ", ".join(lost) if len(lost) <= 10 else f"{lost[0]} to {lost[-1]}"
            self._problems.append(f"of {count} layers the weights hold {count - len(lost)}; missing: {what}")
        return [i for i in range(count) if i in held]
