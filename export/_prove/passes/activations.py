"""The activations of transformers' ACT2FN in numpy."""

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]


def erf(x: Floats) -> Floats:
    """The error function to 5e-7 in float32 (Abramowitz and Stegun 1964, formula 7.1.26); numpy has none."""
    z = np.abs(x)
    t = 1 / (1 + np.float32(0.3275911) * z)
    series = t * np.float32(1.061405429) - np.float32(1.453152027)
    for coefficient in (1.421413741, -0.284496736, 0.254829592):
        series = series * t + np.float32(coefficient)
    result: Floats = np.copysign(1 - series * t * np.exp(-z * z), x)
    return result


def _gelu(x: Floats) -> Floats:
    return x * np.float32(0.5) * (1 + erf(x * np.float32(math.sqrt(0.5))))


def _tanh_gelu(x: Floats) -> Floats:
    found: Floats = 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x * x * x)))
    return found


def _silu(x: Floats) -> Floats:
    found: Floats = x / (1 + np.exp(-x))
    return found


# By the names of transformers' ACT2FN.
_ACTIVATIONS: dict[str, Callable[[Floats], Floats]] = {
    **dict.fromkeys(("gelu", "gelu_python"), _gelu),
    **dict.fromkeys(("gelu_new", "gelu_accurate", "gelu_python_tanh", "gelu_pytorch_tanh"), _tanh_gelu),
    "gelu_fast": lambda x: 0.5 * x * (1 + np.tanh(x * 0.7978845608 * (1 + 0.044715 * x * x))),
    "relu": lambda x: np.maximum(x, 0),
    **dict.fromkeys(("silu", "swish"), _silu),
    "tanh": np.tanh,
}
# Elements per step of an elementwise function, so that its temporaries stay in the cache.
_STEP = 1 << 15


def activate(name: str, x: Floats) -> Floats:
    """A function of transformers' ACT2FN, in place."""
    flat = x.reshape(-1)
    for start in range(0, len(flat), _STEP):
        flat[start : start + _STEP] = _ACTIVATIONS[name](flat[start : start + _STEP])
    return x
