"""A PEFT LoRA adapter beside the weights of its base model, merged into them.

The product of two small matrices is added to each weight that the adapter changes; what was trained in full, a head
above all, takes the base model's place. Names and formulas are those of peft's LoraLayer, DoraLinearVariant and
DoraEmbeddingVariant (peft 0.21). ``fan_in_fan_out`` is not looked at: peft drops it, but for GPT-2's Conv1D.
"""

import logging
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from crossrank._artifact.settings import ADAPTER_CONFIG, merge_advice
from crossrank._errors import CheckpointError, UnsupportedModelError, join_problems
from crossrank._interrupts import not_thrown_in
from crossrank._json import has_entry, read_json_object

from .tensors import ReadTensor, open_tensor_file, open_tensors, read_floats

logger = logging.getLogger(__name__)

Floats: TypeAlias = NDArray[np.float32]
# The tensors that change one module, by the names of peft's layer.
Parts: TypeAlias = dict[str, ReadTensor]

_FILES = ("adapter_model.safetensors", "adapter_model.bin")
# What an adapter_config.json may set: what is read here, and what says where and how was trained, which the tensors
# show. Whatever else is set may be another formula.
_KNOWN = frozenset({
    *("alpha_pattern", "auto_mapping", "base_model_name_or_path", "bias", "eva_config", "exclude_modules"),
    *("fan_in_fan_out", "inference_mode", "init_lora_weights", "layers_pattern", "layers_to_transform", "lora_alpha"),
    *("lora_bias", "lora_dropout", "megatron_core", "modules_to_save", "peft_type", "peft_version"),
    *("qalora_group_size", "r", "rank_pattern", "revision", "runtime_config", "target_modules", "task_type"),
    *("use_dora", "use_rslora"),
})  # fmt: skip
# Other initializations change the base model's weights too, and the adapter does not say into what.
_STARTS = (None, True, False, "gaussian", "orthogonal", "eva")
_PART = re.compile(
    r"(?P<module>.+?)(?:\.base_layer)?\.(?P<part>lora_(?:A|B|embedding_A|embedding_B|magnitude_vector))"
    r"(?:\.default)?(?:\.(?P<kind>weight|bias))?"
)
_LARGEST = float(np.finfo(np.float32).max)
# Keys of alpha_pattern are regular expressions. Of a stranger's no part may repeat, which could take for ever.
_PATTERN = re.compile(r"[\w.^$|()\[\]\\-]{1,200}")


def open_weights(folder: Path, *, say: bool = False) -> dict[str, ReadTensor]:
    """The tensors of a folder as `open_tensors` gives them; of one with a LoRA adapter, the adapter merged in.

    Args:
        folder: As for `open_tensors`.
        say: Log what is merged, as a warning.

    Raises:
        CheckpointError: As `open_tensors`; or if the adapter does not fit the weights, or is in them already.
        UnsupportedModelError: For an adapter of another kind, or with an option that is not merged here.
        MissingDependencyError: As `open_tensors`.
    """
    tensors = open_tensors(folder)
    return _merge(folder, tensors, say) if has_entry(folder / ADAPTER_CONFIG) else tensors


def load_adapted(folder: Path, config: Any) -> Any:
    """Transformers' model of a folder with an adapter; left to itself it would do without, or ask peft and the hub.

    Args:
        folder: The checkpoint.
        config: Its configuration in transformers.

    Raises:
        CheckpointError: As `open_weights`, or if a weight is missing.
    """
    import torch
    from transformers import AutoModelForSequenceClassification

    model = AutoModelForSequenceClassification.from_config(config)
    own = model.state_dict().keys()
    prefix = f"{model.base_model_prefix}."
    state = {
        name if name in own else prefix + name: torch.from_numpy(np.ascontiguousarray(read_floats(read)))
        for name, read in open_weights(folder).items()
    }
    if missing := model.load_state_dict(state, strict=False).missing_keys:
        raise CheckpointError(f"{folder}: the weights lack {', '.join(missing[:5])}")
    return model


@dataclass(frozen=True, slots=True)
class _Options:
    """What decides how much of a product is added."""

    alpha: float
    alphas: tuple[tuple[re.Pattern[str], float], ...]
    by_root: bool  # rsLoRA
    magnitudes: bool  # DoRA

    def scaling(self, module: str, rank: int) -> float:
        """What the product of two matrices is multiplied with."""
        alpha = next((alpha for pattern, alpha in self.alphas if pattern.match(module)), self.alpha)
        return alpha / (math.sqrt(rank) if self.by_root else rank)


def _read_options(folder: Path) -> _Options:
    try:
        config = read_json_object(folder / ADAPTER_CONFIG)
    except not_thrown_in(OSError, ValueError) as error:
        raise CheckpointError(f"{ADAPTER_CONFIG}: {error}") from error
    refused = []
    if (kind := config.get("peft_type")) != "LORA":
        refused.append(f"peft_type is {kind!r:.60}; merged is LORA")
    elif (start := config.get("init_lora_weights")) not in _STARTS:
        refused.append(f"init_lora_weights is {start!r:.60}, which changes the base model's weights")
    else:
        refused = [f"{name} is set" for name, value in config.items() if value and name not in _KNOWN]
    if refused:
        raise UnsupportedModelError(f"{join_problems(ADAPTER_CONFIG, refused)}\n{merge_advice(folder)}")
    alphas = config.get("alpha_pattern") or {}
    if not isinstance(alphas, dict):
        raise CheckpointError(f"{ADAPTER_CONFIG}: alpha_pattern is {alphas!r:.60}; numbers by modules are expected")
    alphas = {"lora_alpha": config.get("lora_alpha", 8), **alphas}
    problems = [
        f"{name!r:.60} is {alpha!r:.60}; a number of float32 is expected"
        for name, alpha in alphas.items()
        if isinstance(alpha, bool) or not isinstance(alpha, int | float) or not abs(alpha) <= _LARGEST
    ]
    patterns = []
    for key in list(alphas)[1:]:
        try:
            if not _PATTERN.fullmatch(key):
                raise ValueError("a module's name, or a pattern without repetitions, is expected")
            patterns.append((re.compile(rf"(.*\.)?({key})$"), alphas[key]))
        except not_thrown_in(re.error, ValueError) as error:
            problems.append(f"alpha_pattern {key!r:.60}: {error}")
    if problems:
        raise CheckpointError(join_problems(ADAPTER_CONFIG, problems))
    return _Options(alphas["lora_alpha"], tuple(patterns), bool(config.get("use_rslora")), bool(config.get("use_dora")))


def _merge(folder: Path, tensors: dict[str, ReadTensor], say: bool) -> dict[str, ReadTensor]:
    options = _read_options(folder)
    path = next((folder / name for name in _FILES if has_entry(folder / name)), None)
    if path is None:
        raise CheckpointError(f"{ADAPTER_CONFIG} is there without {' or '.join(_FILES)}: download it, or remove both")
    changes, whole = _sort(open_tensor_file(path))
    merged = tensors | {_find(name, tensors) or name: read for name, read in whole.items()}
    problems: list[str] = []
    for module, parts in changes.items():
        weight, bias = (_find(f"{module}.{kind}", merged) for kind in ("weight", "bias"))
        matrices = next((pair for pair in _PAIRS if set(pair) <= parts.keys()), None)
        if weight is None:
            problems.append(f"it changes {module}.weight, which the weights lack")
        elif matrices is None:
            problems.append(f"of {module} it holds {', '.join(parts)}; {' and '.join(_PAIRS[0])} are expected")
        elif options.magnitudes and "lora_magnitude_vector" not in parts:
            problems.append(f"of {module} it lacks lora_magnitude_vector, which use_dora wants")
        else:
            merged[weight] = partial(_changed_weight, merged[weight], parts, matrices, partial(options.scaling, module))
        if "lora_B.bias" in parts and bias is None:
            problems.append(f"it changes {module}.bias, which the weights lack")
        elif "lora_B.bias" in parts and bias is not None:
            merged[bias] = partial(_changed_bias, merged[bias], parts, partial(options.scaling, module))
    if problems:
        raise CheckpointError(join_problems(f"{path.name} does not fit the weights beside it", problems))
    _require_unmerged(tensors, merged, [name for name in whole if name.endswith(".weight")])
    if say:
        logger.warning(
            "%s: the LoRA adapter is merged into the weights beside it: %d of them are changed, %d replaced",
            *(folder, len(changes), len(whole)),
        )
    return merged


_PAIRS = (("lora_A", "lora_B"), ("lora_embedding_A", "lora_embedding_B"))


def _sort(tensors: Mapping[str, ReadTensor]) -> tuple[dict[str, Parts], dict[str, ReadTensor]]:
    """An adapter's tensors: what changes modules, by the modules' names; and what takes the place of others."""
    changes: dict[str, Parts] = {}
    whole: dict[str, ReadTensor] = {}
    for name, read in tensors.items():
        own = name.removeprefix("base_model.model.")
        if found := _PART.fullmatch(own):
            part = f"{found['part']}.bias" if found["kind"] == "bias" else found["part"]
            changes.setdefault(found["module"], {})[part] = read
        else:
            whole[re.sub(r"\.(base_layer|modules_to_save(\.default)?)\.", ".", own)] = read
    return changes, whole


def _find(name: str, tensors: Mapping[str, Any]) -> str | None:
    """The name of a tensor in the weights, which may stand there without the model's own before it."""
    return next((known for known in (name, name.partition(".")[2]) if known in tensors), None)


def _changed_weight(read: ReadTensor, parts: Parts, matrices: tuple[str, str], scaling: Any) -> Floats:
    weight, a, b = read_floats(read), *(read_floats(parts[name]) for name in matrices)
    embeds = matrices == _PAIRS[1]
    shape = weight.shape[::-1] if embeds else weight.shape
    if a.ndim != 2 or b.ndim != 2 or not len(a) or len(a) != b.shape[1] or (len(b), a.shape[1]) != shape:
        raise ValueError(
            f"the adapter's matrices are {list(a.shape)} and {list(b.shape)}, which do not change {list(weight.shape)}"
        )
    product = (b @ a) * np.float32(scaling(len(a)))
    changed: Floats = weight + (product.T if embeds else product)
    if "lora_magnitude_vector" in parts:
        # The length of each output's weights is what was trained: a row, of embeddings a column.
        axis = 0 if embeds else 1
        lengths = np.linalg.norm(changed, axis=axis, keepdims=True)
        changed *= read_floats(parts["lora_magnitude_vector"]).reshape(lengths.shape) / lengths
    return changed


def _changed_bias(read: ReadTensor, parts: Parts, scaling: Any) -> Floats:
    rank = len(read_floats(parts["lora_A"]))
    changed: Floats = read_floats(read) + read_floats(parts["lora_B.bias"]) * np.float32(scaling(rank))
    return changed


def _require_unmerged(tensors: Mapping[str, ReadTensor], merged: Mapping[str, ReadTensor], replaced: list[str]) -> None:
    """Refuse weights that hold what the adapter trained in full: it is merged into them already."""
    both = [name for name in (_find(name, tensors) for name in replaced) if name is not None]

    def is_same(name: str) -> bool:
        try:
            own = tensors[name]()
            return np.array_equal(own, merged[name]().astype(own.dtype))
        except not_thrown_in(Exception):  # a type that numpy does not have; `read_floats` says so
            return False

    if both and all(map(is_same, both)):
        raise CheckpointError(
            f"the weights hold {', '.join(both[:3])} of the adapter beside them, so it is merged into them already: "
            f"remove {ADAPTER_CONFIG} and the adapter's file, or put the base model's own weights there"
        )
