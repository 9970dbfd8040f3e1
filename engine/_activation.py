"""Which function turns a model's logits into scores, and that function in numpy.

The rule is sentence-transformers': the caller's argument, else what the checkpoint's configuration
names, else Sigmoid for one label and Identity for more. The names are torch's.
"""

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ._errors import InputError, UnsupportedModelError

Floats = NDArray[np.float32]
ActivationFunction: TypeAlias = Callable[[Floats], Floats]
Activation: TypeAlias = str | ActivationFunction


def identity(logits: Floats) -> Floats:
    """The logits as they are."""
    return logits


def sigmoid(logits: Floats) -> Floats:
    """1 / (1 + exp(-x)) elementwise, without overflow and exact for very small results."""
    decay = np.exp(-np.abs(logits))
    result: Floats = np.where(logits >= 0, np.float32(1), decay) / (1 + decay)
    return result


def softmax(logits: Floats) -> Floats:
    """Softmax over the last axis."""
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True, initial=-np.inf))
    result: Floats = powers / powers.sum(axis=-1, keepdims=True)
    return result


ACTIVATIONS: dict[str, ActivationFunction] = {"Identity": identity, "Sigmoid": sigmoid, "Softmax": softmax}


def _canonical_name(name: str) -> str | None:
    """``torch.nn.modules.activation.Sigmoid``, ``Sigmoid`` or ``sigmoid`` -> ``Sigmoid``."""
    last = name.rpartition(".")[2].lower()
    return next((known for known in ACTIVATIONS if known.lower() == last), None)


def default_activation(
    config: Mapping[str, Any], sentence_transformers: Mapping[str, Any], labels: int
) -> tuple[str, str]:
    """The activation that a checkpoint's configuration asks for.

    Args:
        config: ``config.json``.
        sentence_transformers: ``config_sentence_transformers.json``, or an empty mapping.
        labels: Outputs of the head.

    Returns:
        A name of `ACTIVATIONS` and where it comes from.

    Raises:
        UnsupportedModelError: If the configuration names a function that crossrank does not have.
    """
    newer = config.get("sentence_transformers")
    candidates = (
        (sentence_transformers.get("activation_fn"), "config_sentence_transformers.json activation_fn"),
        (
            newer.get("activation_fn") if isinstance(newer, Mapping) else None,
            "config.json sentence_transformers.activation_fn",
        ),
        (
            config.get("sbert_ce_default_activation_function"),
            "config.json sbert_ce_default_activation_function",
        ),
    )
    for value, origin in candidates:
        if value is None:
            continue
        name = _canonical_name(value) if isinstance(value, str) else None
        if name is None:
            raise UnsupportedModelError(f"{origin} is {value!r}; known are {', '.join(ACTIVATIONS)}")
        return name, origin
    return ("Sigmoid" if labels == 1 else "Identity"), f"default for {labels} label{'s'[: labels != 1]}"


def apply_activation(activation: ActivationFunction, logits: Floats) -> Floats:
    """``activation(logits)`` as float32.

    Raises:
        InputError: If the function gives another shape than it got.
    """
    scores = np.asarray(activation(logits), np.float32)
    if scores.shape != logits.shape:
        raise InputError(
            f"activation_fn gives shape {scores.shape} for logits of shape {logits.shape}; the same is needed"
        )
    return scores


def resolve_activation(activation: Activation) -> ActivationFunction:
    """What a caller passed as ``activation_fn``, as a function on arrays.

    Args:
        activation: A name such as "sigmoid", a function float32 [pairs, labels] -> the same shape, or
            a torch module of the same name such as ``torch.nn.Sigmoid()``, which is replaced by ours.

    Raises:
        InputError: If the name is unknown or the value is not callable.
    """
    known = ", ".join(ACTIVATIONS)
    if isinstance(activation, str):
        name = _canonical_name(activation)
        if name is None:
            raise InputError(f"activation_fn={activation!r}: a function, or one of {known}")
        return ACTIVATIONS[name]
    kind = type(activation)
    if kind.__module__.startswith("torch.nn."):
        name = _canonical_name(kind.__name__)
        if name is None:
            raise InputError(f"activation_fn={activation!r}: of torch's modules {known}; else a function on arrays")
        return ACTIVATIONS[name]
    if not callable(activation):
        raise InputError(f"activation_fn={activation!r}: a function, or one of {known}")
    return activation
