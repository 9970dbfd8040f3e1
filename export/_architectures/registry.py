"""The registry of architectures: what the files of this folder know, by transformers' model_type."""

import pkgutil
from collections.abc import Mapping
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

from crossrank._errors import CheckpointError, UnsupportedModelError, join_problems
from crossrank.export._graphs.encoder import EncoderConfig

from .base import ACTIVATIONS, Family

# Far above any published encoder; a config beyond it is damaged, and would be followed for hours.
_LARGEST = {"layers": 1000, "labels": 10_000}
_OPTIMUM = 'or export_model(exporter="optimum") (in a shell --exporter optimum), which traces others'


@cache
def architectures() -> dict[str, Family]:
    """Families by model type: the ``FAMILIES`` of each module beside this one."""
    names = sorted(module.name for module in pkgutil.iter_modules([str(Path(__file__).parent)]))
    found = [getattr(import_module(f"{__package__}.{name}"), "FAMILIES", ()) for name in names]
    return {kind: family for families in found for family in families for kind in family.types}


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
    positions = config.get("position_embedding_type") or "absolute"
    if positions != "absolute":
        problems.append(f"position_embedding_type is {positions!r}; supported is absolute, {_OPTIMUM}")
    problems += family.refused(config) if family else []
    problems += [f"{name} is set" for name in ("is_decoder", "add_cross_attention") if config.get(name)]
    problems += [f"{name} is not empty" for name in ("pruned_heads", "quantization_config") if config.get(name)]
    if problems or family is None:
        raise UnsupportedModelError(join_problems("config.json", problems))
    return family
