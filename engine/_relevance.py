"""What the logits of one model mean: which activation makes scores of them, and which label is relevance."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ._activation import Activation, ActivationFunction, apply_activation, resolve_activation, softmax
from ._errors import InputError
from ._inputs import either
from ._manifest import Head

Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Meaning:
    """How one model's logits become scores.

    Attributes:
        head: The model's head, with the relevant label that the caller named if one was.
        activation: What turns logits into `predict`'s scores.
        of_relevance: What turns them into `score`'s and `rank`'s.
        name: The activation's name, for `info`.
        origin: Where it comes from, for `info`.
    """

    head: Head
    activation: ActivationFunction
    of_relevance: ActivationFunction
    name: str
    origin: str

    def require_relevance(self, call: str, model: str) -> None:
        """Raise `InputError` if the model has several labels of which none means "relevant"."""
        if self.head.labels != 1 and self.head.relevant_label is None:
            raise InputError(
                f"{call}() needs a score per document, and {model} gives {self.head.labels} labels "
                f"of which none is known to mean relevant: pass relevant_label= to CrossEncoder (--relevant-label), "
                f"or use predict()"
            )

    def relevance(self, logits: Floats, activation: ActivationFunction) -> Floats:
        """float32 [pairs]: scores of relevance of float32 [pairs, labels]."""
        return apply_activation(activation, logits)[:, self.head.relevant_label or 0]


def read_meaning(head: Head, given: ActivationFunction | None, given_name: str) -> Meaning:
    """What a model's logits mean.

    Args:
        head: The model's head.
        given: An activation in place of the model's own, or None.
        given_name: How the caller named it.
    """
    activation = given or resolve_activation(head.activation)
    # With several labels, one of which means "relevant", a score is a probability unless asked otherwise.
    of_relevance = given or (activation if head.labels == 1 else softmax)
    name, origin = (head.activation, head.activation_origin) if given is None else (given_name, "as asked")
    return Meaning(head, activation, of_relevance, name, origin)


def choose_activation(
    given: Activation | None, alias: Activation | None, default: ActivationFunction
) -> ActivationFunction:
    """A call's activation: the one passed, under its newer or older name, else the model's.

    Raises:
        InputError: If both were passed, or it is none.
    """
    chosen = either("activation_fn", given, "activation_fct", alias)
    return default if chosen is None else resolve_activation(chosen)
