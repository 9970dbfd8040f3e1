"""The building blocks of a layer: dense products, activations, norms."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from .graph import Graph

Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Linear:
    """``x @ weight + bias``: weight float32 [in, out], bias float32 [out], of zeros where there is none."""

    name: str
    weight: Floats
    bias: Floats


@dataclass(frozen=True, slots=True)
class Norm:
    """A layer normalization: scale and bias, float32 [width]; its epsilon, None for the model's."""

    name: str
    scale: Floats
    bias: Floats
    epsilon: float | None = None


# How products are written, in float, in int8, or watched for calibration: given a graph, an input, what to apply to it
# and the input's name for quantization, gives what comes of each.
Dense: TypeAlias = Callable[[Graph, str, Sequence[Linear], str], list[str]]


def dense(graph: Graph, hidden: str, linear: Linear) -> str:
    """``hidden @ weight + bias``."""
    product = graph.add("MatMul", hidden, graph.weight(f"{linear.name}.weight", linear.weight))
    if not linear.bias.any():
        return product
    return graph.add("Add", product, graph.weight(f"{linear.name}.bias", linear.bias))


def float_dense(graph: Graph, hidden: str, linears: Sequence[Linear], point: str) -> list[str]:
    """`Dense` in the graph's own float type."""
    return [dense(graph, hidden, linear) for linear in linears]


# With their defaults, which are torch's.
_OPERATORS = {"relu": "Relu", "tanh": "Tanh", "sigmoid": "Sigmoid", "elu": "Elu", "leaky_relu": "LeakyRelu"}


def activate(graph: Graph, hidden: str, name: str, *, contrib: bool) -> str:
    """One of the values of `ACTIVATIONS`, or of a head alone.

    Args:
        graph: Where to write.
        hidden: The input.
        name: gelu, gelu_new, relu or silu; of a head also identity, tanh, sigmoid, elu or leaky_relu.
        contrib: Whether onnxruntime's own operators may be used.
    """
    if name == "identity":
        return hidden
    if name in _OPERATORS:
        return graph.add(_OPERATORS[name], hidden)
    if name == "silu":
        return graph.add("Mul", hidden, graph.add("Sigmoid", hidden))
    if contrib:
        return graph.contrib("Gelu" if name == "gelu" else "FastGelu", hidden)
    if name == "gelu":  # x / 2 * (1 + erf(x / sqrt(2)))
        inner = graph.add("Erf", graph.add("Div", hidden, graph.scalar(2**0.5)))
    else:  # gelu_new: x / 2 * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 * x^3)))
        cubic = graph.add("Mul", graph.add("Mul", hidden, hidden), graph.add("Mul", hidden, graph.scalar(0.044715)))
        scaled = graph.add("Mul", graph.add("Add", hidden, cubic), graph.scalar((2 / 3.141592653589793) ** 0.5))
        inner = graph.add("Tanh", scaled)
    half = graph.add("Mul", hidden, graph.scalar(0.5))
    return graph.add("Mul", half, graph.add("Add", inner, graph.scalar(1.0)))


def normalize(graph: Graph, hidden: str, norm: Norm, epsilon: float) -> str:
    """LayerNormalization over the last axis; its statistics are float32 in every variant."""
    scale = graph.weight(f"{norm.name}.scale", norm.scale)
    bias = graph.weight(f"{norm.name}.bias", norm.bias)
    return graph.add("LayerNormalization", hidden, scale, bias, axis=-1, epsilon=epsilon)
