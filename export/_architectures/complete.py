"""Facts that an old config.json leaves out and the weights know: the architecture, the number of labels."""

import logging
from collections.abc import Mapping
from typing import Any

from crossrank._artifact.settings import count_labels
from crossrank._errors import CheckpointError
from crossrank.export._read.tensors import ReadTensor, read_floats

from .base import DEFAULT_LABELS
from .registry import architectures

logger = logging.getLogger(__name__)


# The last layer of a classification head, in the spellings of all families.
_HEADS = ("classifier.out_proj.weight", "classifier.weight")


def complete_config(config: Mapping[str, Any], tensors: Mapping[str, ReadTensor]) -> dict[str, Any]:
    """A config.json with ``model_type`` and ``num_labels``, taken from the weights where it does not say them.

    What was filled in is logged as a warning. transformers gives a checkpoint without ``num_labels`` two
    labels; its weights know better. So they do where ``num_labels`` says one number and the names in ``id2label``, left
    over from another model, another one.

    Args:
        config: As it was read.
        tensors: The checkpoint's tensors by name.

    Raises:
        CheckpointError: If the head is no matrix of numbers.
    """
    completed = dict(config)
    if completed.get("model_type") is None:
        families = {name.partition(".")[0] for name in tensors} & set(architectures())
        if len(families) == 1:
            completed["model_type"] = families.pop()
            logger.warning(
                "config.json has no model_type: the weights are named as those of %r", completed["model_type"]
            )
    head = next((name for name in _HEADS if name in tensors), None)
    counted, stated = count_labels(completed), completed.get("num_labels")
    if head is None or (counted is not None and stated in (None, counted)):
        return completed
    try:
        (labels, _) = read_floats(tensors[head]).shape
    except ValueError as error:
        raise CheckpointError(f"{head}: no matrix of numbers: {error}") from error
    if counted is None and labels != DEFAULT_LABELS:  # those transformers leaves out
        completed["num_labels"] = labels
        logger.warning("config.json has neither id2label nor num_labels: the head has %d outputs", labels)
    elif counted is not None and labels == stated != counted:
        for name in ("id2label", "label2id"):
            completed.pop(name, None)
        logger.warning(
            "config.json has num_labels %d and id2label of %d: the head has %d outputs", stated, counted, labels
        )
    return completed
