"""The activations: functions that turn a model's logits into scores, in numpy or as the caller brings them.

The rule is sentence-transformers': the caller's argument, else what the checkpoint's configuration
names, else Sigmoid for one label and Identity for more. The names are torch's.
"""

import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from crossrank._errors import InputError
from crossrank._interrupts import not_thrown_in

Floats = NDArray[np.float32]
ActivationFunction: TypeAlias = Callable[[Floats], Floats]
# A torch module or function gives a tensor for a tensor.
Activation: TypeAlias = str | Callable[[Any], Any]

# torch's modules without one of ours whose result never falls where a logit rises, whatever they were made with.
_RISING = frozenset({"Hardsigmoid", "Hardtanh", "ReLU6", "Softsign"})
# Attributes of torch's modules, and of all of them together with `_global` before.
_HOOKS = ("_forward_pre_hooks", "_forward_hooks")


def identity(logits: Floats) -> Floats:
    """The logits as they are."""
    return logits


# The others compute in float64 and round once, so that a score never falls where its logit rises.


def sigmoid(logits: Floats) -> Floats:
    """1 / (1 + exp(-x)) elementwise, without overflow and exact for very small results."""
    decay = np.exp(-np.abs(logits), dtype=np.float64)
    result: Floats = (np.where(logits >= 0, 1.0, decay) / (1 + decay)).astype(np.float32)
    return result


def tanh(logits: Floats) -> Floats:
    """The hyperbolic tangent elementwise."""
    result: Floats = np.tanh(logits, dtype=np.float64).astype(np.float32)
    return result


def relu(logits: Floats) -> Floats:
    """max(0, x) elementwise."""
    return np.maximum(logits, np.float32(0))


def log_sigmoid(logits: Floats) -> Floats:
    """log(sigmoid(x)) elementwise, exact also where the sigmoid is 0 or 1."""
    result: Floats = -np.logaddexp(0, -logits, dtype=np.float64).astype(np.float32)
    return result


def softmax(logits: Floats) -> Floats:
    """Softmax over the last axis."""
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True, initial=-np.inf), dtype=np.float64)
    result: Floats = (powers / powers.sum(axis=-1, keepdims=True)).astype(np.float32)
    return result


def log_softmax(logits: Floats) -> Floats:
    """log(softmax(x)) over the last axis, exact also where the softmax is 0 or 1."""
    result: Floats = (logits - _log_sum_exp(logits)[..., None]).astype(np.float32)
    return result


ACTIVATIONS: dict[str, ActivationFunction] = {
    "Identity": identity,
    "Sigmoid": sigmoid,
    "Softmax": softmax,
    "Tanh": tanh,
    "ReLU": relu,
    "LogSigmoid": log_sigmoid,
    "LogSoftmax": log_softmax,
}
_KNOWN = ", ".join(ACTIVATIONS)
# The path of a module's class, by its own file or not.
_TORCHS = re.compile(r"torch\.nn\.(?:modules\.(?:\w+\.)?)?(\w+)", re.ASCII)
_OF_EACH_LOGIT = (identity, sigmoid, tanh, relu, log_sigmoid)
_OVER_LABELS = (softmax, log_softmax)
# Functions by the names that torch and scipy give them.
_FUNCTIONS = {
    "sigmoid": sigmoid,
    "special_expit": sigmoid,
    "expit": sigmoid,
    "tanh": tanh,
    "relu": relu,
    "log_sigmoid": log_sigmoid,
}


@dataclass(frozen=True, slots=True)
class TorchActivation:
    """A torch module or function as a function on arrays: it gets a tensor of its own.

    Attributes:
        function: What was passed.
        rising: Whether its result never falls where a logit rises.
    """

    function: Callable[[Any], Any]
    rising: bool = False

    def __call__(self, logits: Floats) -> Any:
        torch = sys.modules["torch"]
        with torch.inference_mode():
            result = self.function(torch.tensor(logits))
        return result.detach().cpu().float().numpy() if isinstance(result, torch.Tensor) else result


def name_in_torch(path: object) -> str | None:
    """``torch.nn.modules.activation.Sigmoid`` -> ``Sigmoid``; None of what is no path of a module of torch."""
    found = _TORCHS.fullmatch(path) if isinstance(path, str) else None
    return found[1] if found else None


def default_activation(
    config: Mapping[str, Any], sentence_transformers: Mapping[str, Any], labels: int
) -> tuple[str, str, str | None]:
    """The activation that a checkpoint's configuration asks for.

    Args:
        config: ``config.json``.
        sentence_transformers: ``config_sentence_transformers.json``, or an empty mapping.
        labels: Outputs of the head.

    Returns:
        A name of `ACTIVATIONS`, where it comes from, and None; or, where the configuration names what is none of
        them, the default, that it is one, and what is named.
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
    origin = f"default for {labels} label{'s'[: labels != 1]}"
    unknown = None
    for value, place in candidates:
        if value is None:
            continue
        name = name_in_torch(value)
        if name in ACTIVATIONS:  # sentence-transformers takes the default in place of what is not torch's
            return name, place, None
        unknown = f"{value}"[:80]
        origin += f", since {place} is {unknown!r}"
        break
    return ("Sigmoid" if labels == 1 else "Identity"), origin, unknown


def apply_activation(activation: ActivationFunction, logits: Floats) -> Floats:
    """``activation(logits)`` as float32 [pairs, labels].

    A plain function gets an array. One that cannot use it gets a tensor where the caller's program has torch: so
    ``lambda x: x.sigmoid()`` works as in sentence-transformers.

    Raises:
        InputError: If the function gives another shape than it got.
    """
    try:
        result = activation(logits.copy())  # a function that works in place may fail half-way, and is asked again
    except not_thrown_in(TypeError, AttributeError):
        if sys.modules.get("torch") is None or isinstance(activation, TorchActivation):
            raise
        result = TorchActivation(activation)(logits)
    scores = np.asarray(result, np.float32)
    if scores.shape == logits.shape[:1] and logits.shape[1] == 1:
        scores = scores[:, None]
    if scores.shape != logits.shape:
        raise InputError(
            f"activation_fn gives shape {scores.shape} for logits of shape {logits.shape}; the same is needed"
        )
    return scores


def order_key(activation: ActivationFunction, logits: Floats, label: int) -> NDArray[np.floating[Any]] | None:
    """What pairs are to be compared by, since a float32 score may be 1.0 for many logits.

    Args:
        activation: Makes the scores.
        logits: float32 [pairs, labels].
        label: Whose scores are compared.

    Returns:
        [pairs], rising with the score of the label; None where nothing but the score is known to do so.

    >>> order_key(sigmoid, np.array([[20], [30]], np.float32), 0)
    array([20., 30.], dtype=float32)
    >>> order_key(softmax, np.array([[0, 20], [0, 30]], np.float32), 1)
    array([20., 30.])
    """
    if activation in _OF_EACH_LOGIT or (isinstance(activation, TorchActivation) and activation.rising):
        return logits[:, label]
    if activation in _OVER_LABELS:
        return logits[:, label] - _log_sum_exp(np.delete(logits, label, axis=1))
    return None


def is_ours(activation: ActivationFunction) -> bool:
    """Whether it is one of `ACTIVATIONS`, which keep scores apart as well as float32 can."""
    return activation in _OF_EACH_LOGIT or activation in _OVER_LABELS


def check_labels(activation: ActivationFunction, labels: int) -> None:
    """Raise `InputError` for a softmax over one label, which makes every score 1."""
    if labels == 1 and activation in _OVER_LABELS:
        raise InputError(
            "activation_fn: a softmax over the labels makes every score of a model with one label the same: pass "
            "'sigmoid' for probabilities, or 'identity' for logits"
        )


def resolve_activation(activation: Activation) -> ActivationFunction:
    """What a caller passed as ``activation_fn``, as a function on arrays.

    Args:
        activation: A name such as "sigmoid"; a function float32 [pairs, labels] -> the same shape; or a torch
            module or function, which gets a tensor of that shape. One that we have too is replaced by ours, unless it
            has a hook or another ``forward`` now.

    Raises:
        InputError: If the name is unknown or the value is not callable.
    """
    if isinstance(activation, str):
        last = activation.rpartition(".")[2].lower()
        name = next((known for known in ACTIVATIONS if known.lower() == last), None)
        if name is None:
            raise InputError(f"activation_fn={activation!r}: a function, or one of {_KNOWN}")
        return ACTIVATIONS[name]
    if isinstance(activation, type):
        raise InputError(f"activation_fn={activation!r}: this is a class; pass what it makes: {activation.__name__}()")
    if not callable(activation):
        raise InputError(f"activation_fn={activation!r:.80}: a function, or one of {_KNOWN}")
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(activation, torch.nn.Module):
        return _of_module(activation)
    module = str(getattr(activation, "__module__", ""))
    of_torch = module == "torch" or module.startswith("torch.")
    if of_torch or isinstance(activation, np.ufunc):
        name = str(getattr(activation, "__name__", ""))
        if module == "torch.nn.functional" and name in ("softmax", "log_softmax"):  # as there, over the labels
            return softmax if name == "softmax" else log_softmax
        if name in _FUNCTIONS:
            return _FUNCTIONS[name]
    return TorchActivation(activation) if of_torch else activation


def _of_module(module: Any) -> ActivationFunction:
    """Of a torch module our own function, where we have the same."""
    ours = ACTIVATIONS.get(type(module).__name__) if _is_torchs_own(module) else None
    if ours is None or (ours in _OVER_LABELS and module.dim not in (None, -1, 1)):
        return TorchActivation(module, rising=_is_rising(module))
    return ours


def _is_rising(module: Any) -> bool:
    if not _is_torchs_own(module):
        return False
    name = type(module).__name__
    if name == "Sequential":
        return all(map(_is_rising, module))
    return name in _RISING or ACTIVATIONS.get(name) in _OF_EACH_LOGIT


def _is_torchs_own(module: Any) -> bool:
    """Whether a module computes what torch's class of that name does: nobody hooked or patched it."""
    kind, home = type(module), "torch.nn.modules."
    every = sys.modules["torch.nn.modules.module"]
    hooks = [vars(every).get(f"_global{name}") or getattr(module, name, None) for name in _HOOKS]
    patched = "forward" in vars(module) or not str(getattr(kind.forward, "__module__", "")).startswith(home)
    return kind.__module__.startswith(home) and not patched and not any(hooks)


def _log_sum_exp(logits: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    """float64, over the last axis; -inf over nothing."""
    result: NDArray[np.float64] = np.logaddexp.reduce(logits.astype(np.float64), axis=-1, initial=-np.inf)
    return result
