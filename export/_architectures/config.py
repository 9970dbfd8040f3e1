"""config.json: what an old one leaves out and the weights know, and the common form of what it says."""

import logging
from collections.abc import Mapping
from typing import Any

from crossrank._artifact.settings import count_labels
from crossrank._errors import CheckpointError, UnsupportedModelError, join_problems
from crossrank._interrupts import not_thrown_in
from crossrank.export._graphs.encoder import EncoderConfig
from crossrank.export._read.tensors import ReadTensor, read_floats

from .base import ACTIVATIONS, DEFAULT_LABELS, Family
from .registry import architectures

logger = logging.getLogger(__name__)

# Far above any published encoder; a config beyond it is damaged, and would be followed for hours.
_LARGEST = {"layers": 1000, "labels": 10_000}
_OPTIMUM = 'or export_model(exporter="optimum") (in a shell --exporter optimum), which traces others'
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
    if completed.get("model_type") is None and (named := _name_architecture(completed, tensors)):
        completed["model_type"] = named
        logger.warning("config.json has no model_type: the weights are named as those of %r", named)
    head = next((name for name in _HEADS if name in tensors), None)
    counted, stated = count_labels(completed), completed.get("num_labels")
    if head is None or (counted is not None and stated in (None, counted)):
        return completed
    try:
        (labels, _) = read_floats(tensors[head]).shape
    except not_thrown_in(ValueError) as error:
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


def _name_architecture(config: Mapping[str, Any], tensors: Mapping[str, ReadTensor]) -> str | None:
    """The one architecture that the weights' names speak of; of several, that of the class in config.json."""
    parts = {f"{name.partition('.')[0]}." for name in tensors}
    kinds = [kind for kind, family in architectures().items() if {family.prefix, *family.other_prefixes} & parts]
    stated = config.get("architectures")
    classes = {str(name).partition("For")[0].lower() for name in (stated if isinstance(stated, list) else ())}
    named = [kind for kind in kinds if kind.replace("-", "") in classes] or [k for k in kinds if f"{k}." in parts]
    return named[0] if len(named) == 1 else None


def read_config(config: Mapping[str, Any]) -> EncoderConfig:
    """Bring a config.json into one form.

    Raises:
        UnsupportedModelError: For what the native builder does not know, by name.
        CheckpointError: For missing, mistyped or contradicting fields, all at once.
    """
    problems: list[str] = []
    result = _supported_family(config).read_config(config, problems)
    if result is None:
        raise CheckpointError(join_problems("config.json", problems))
    counts = ("vocabulary", "embedding", "hidden", "layers", "heads", "intermediate", "positions", "labels")
    for name in counts:
        value, largest = getattr(result, name), _LARGEST.get(name, 10**7)
        if value is not None and not 1 <= value <= largest:
            problems.append(f"{name} is {value}; 1 to {largest} expected")
    if not 0 <= result.token_types <= 10**4:
        problems.append(f"type_vocab_size is {result.token_types}; 0 to {10**4} expected")
    if not 0 < result.epsilon < 1:
        problems.append(f"layer_norm_eps is {result.epsilon}; between 0 and 1 expected")
    if not problems and result.hidden % result.heads:
        problems.append(f"the hidden size {result.hidden} is no multiple of the {result.heads} heads")
    if result.pad_id >= max(1, result.vocabulary):
        problems.append(f"pad_token_id is {result.pad_id}; the vocabulary has {result.vocabulary}")
    if problems:
        raise CheckpointError(join_problems("config.json", problems))
    return result


def _supported_family(config: Mapping[str, Any]) -> Family:
    problems = []
    architecture = config.get("model_type")
    family = architectures().get(architecture) if isinstance(architecture, str) else None
    if family is None:
        problems.append(f"model_type is {architecture!r}; supported are {', '.join(architectures())}")
    activation = config.get(family.fields["activation"] if family else "hidden_act", "gelu")
    if not isinstance(activation, str) or activation not in ACTIVATIONS:
        problems.append(f"the activation is {activation!r:.60}; supported are {', '.join(ACTIVATIONS)}, {_OPTIMUM}")
    positions, known = config.get("position_embedding_type"), family.position_types if family else ("absolute",)
    if positions is not None and positions not in known:
        problems.append(f"position_embedding_type is {positions!r:.60}; supported is {', '.join(known)}, {_OPTIMUM}")
    problems += family.refused(config) if family else []
    problems += [f"{name} is set" for name in ("is_decoder", "add_cross_attention") if config.get(name)]
    problems += [f"{name} is not empty" for name in ("pruned_heads", "quantization_config") if config.get(name)]
    if problems or family is None:
        raise UnsupportedModelError(join_problems("config.json", problems))
    return family
