"""The meaning of one model's logits: which activation makes scores of them, and which label is relevance."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crossrank._artifact.activation import (
    ACTIVATIONS,
    Activation,
    ActivationFunction,
    apply_activation,
    check_labels,
    resolve_activation,
    softmax,
)
from crossrank._artifact.manifest import Head
from crossrank._errors import InputError, UnsupportedModelError

logger = logging.getLogger(__name__)

Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Meaning:
    """How one model's logits become scores.

    Attributes:
        head: The model's head, with the relevant label that the caller named if one was.
        given: The activation that the caller named for the model, or None.
        activation: What turns logits into `predict`'s scores.
        of_relevance: What turns them into `score`'s and `rank`'s.
    """

    head: Head
    given: Activation | None
    activation: ActivationFunction
    of_relevance: ActivationFunction

    @property
    def name(self) -> str:
        """The activation's name, for `info`."""
        return self.head.activation if self.given is None else str(self.given)

    @property
    def origin(self) -> str:
        """Where it comes from, for `info`."""
        return self.head.activation_origin if self.given is None else "as asked"

    @property
    def function(self) -> Callable[[Any], Any]:
        """The activation as its caller knows it: what was passed, or our function where that was a name."""
        return self.given if callable(self.given) else self.activation

    @property
    def label(self) -> int:
        """The label that scores of relevance are of."""
        return self.head.relevant_label or 0

    def with_activation(self, activation: Activation) -> "Meaning":
        """The same with another activation; with the model's own, as `function` gives it, that of the model.

        Raises:
            InputError: If it is none, or a softmax over one label.
        """
        if activation is None:
            raise InputError("activation_fn=None: that is logits in sentence-transformers; assign 'identity' for them")
        own = ACTIVATIONS[self.head.activation]
        return _own_meaning(self.head) if activation is own else _asked_meaning(self.head, activation)

    def require_relevance(self, call: str, model: str) -> None:
        """Raise `InputError` if the model has several labels of which none means "relevant"."""
        if self.head.labels != 1 and self.head.relevant_label is None:
            raise InputError(
                f"{call}() needs a score per document, and {model} gives {self.head.labels} labels "
                f"of which none is known to mean relevant: pass relevant_label= to CrossEncoder (in a shell "
                f"--relevant-label), or use predict()"
            )

    def relevance(self, logits: Floats, activation: ActivationFunction) -> Floats:
        """float32 [pairs]: scores of relevance of float32 [pairs, labels]."""
        return apply_activation(activation, logits)[:, self.label]

    def chosen(self, activation: Activation | None, default: ActivationFunction) -> ActivationFunction:
        """A call's activation: the one passed, else the model's.

        Raises:
            InputError: If it is none, or a softmax over one label.
        """
        if activation is None:
            return default
        chosen = resolve_activation(activation)
        check_labels(chosen, self.head.labels)
        return chosen


def read_meaning(head: Head, given: Activation | None, model: str) -> Meaning:
    """What a model's logits mean. An activation of the checkpoint's that is not known here is warned of.

    Args:
        head: The model's head.
        given: An activation in place of the model's own, or None.
        model: The model's name, for messages.

    Raises:
        InputError: If ``given`` is no activation, or a softmax over one label.
        UnsupportedModelError: If none is given, and the model's own is one of torch's that is not known here, or
            such a softmax.
    """
    if given is not None:
        return _asked_meaning(head, given)
    meaning, known = _own_meaning(head), ", ".join(ACTIVATIONS)
    try:
        check_labels(meaning.activation, head.labels)
    except InputError as error:
        raise UnsupportedModelError(f"{model} names {head.activation} ({head.activation_origin}): {error}") from error
    if head.unknown_activation is not None:
        text = f"{model} names the activation {head.unknown_activation!r}, none of torch's that crossrank has ({known})"
        # sentence-transformers runs these, and takes the default in place of any other.
        if head.unknown_activation.startswith("torch."):
            raise UnsupportedModelError(f"{text}: pass activation_fn=, such as the torch module itself")
        logger.warning("%s: %s is in its place; pass activation_fn= for another", text, head.activation)
    return meaning


def _own_meaning(head: Head) -> Meaning:
    activation = ACTIVATIONS[head.activation]
    # With several labels, one of which means "relevant", a score is a probability unless asked otherwise.
    return Meaning(head, None, activation, activation if head.labels == 1 else softmax)


def _asked_meaning(head: Head, given: Activation) -> Meaning:
    activation = resolve_activation(given)
    check_labels(activation, head.labels)
    return Meaning(head, given, activation, activation)
