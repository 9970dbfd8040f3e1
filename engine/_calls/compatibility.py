"""sentence-transformers' options beyond crossrank's own: other names of these, and what asks for nothing here.

Code that was written for sentence-transformers passes them out of habit. An option under another name works as under
ours. Of the rest, a value that asks for nothing is accepted and any other refused, with our counterpart: no option is
ignored that would have changed a result there. All of them stand in this module alone.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict, TypeVar

from crossrank._artifact.activation import Activation
from crossrank._errors import InputError
from crossrank._machine.device import Device, parse_device

T = TypeVar("T")


class ModelOptions(TypedDict, total=False):
    """What `CrossEncoder` takes beside its own options.

    Attributes:
        model_name_or_path: ``name_or_folder``.
        model_name: ``name_or_folder``.
        cache_dir: ``cache_folder``.
        default_activation_function: ``activation_fn``.
        num_labels: The number that the model has.
        backend: "torch" or "onnx".
        trust_remote_code: Anything, since no remote code is run.
        classifier_dropout: Anything, since it matters in training alone.
        model_kwargs: None, or nothing in it but None, ``trust_remote_code`` and ``low_cpu_mem_usage``.
        processor_kwargs: As ``model_kwargs``.
        tokenizer_kwargs: As ``model_kwargs``.
        config_kwargs: As ``model_kwargs``.
        automodel_args: As ``model_kwargs``.
        tokenizer_args: As ``model_kwargs``.
        config_args: As ``model_kwargs``.
        prompts: None, {} or prompts that are empty.
        default_prompt_name: None.
        model_card_data: None.
        modules: None.
        keep_in_fp32_modules: None or [].
    """

    model_name_or_path: str | Path
    model_name: str | Path
    cache_dir: str | Path | None
    default_activation_function: Activation | None
    num_labels: int | None
    backend: str
    trust_remote_code: bool
    classifier_dropout: float | None
    model_kwargs: Mapping[str, Any] | None
    processor_kwargs: Mapping[str, Any] | None
    tokenizer_kwargs: Mapping[str, Any] | None
    config_kwargs: Mapping[str, Any] | None
    automodel_args: Mapping[str, Any] | None
    tokenizer_args: Mapping[str, Any] | None
    config_args: Mapping[str, Any] | None
    prompts: Mapping[str, str] | None
    default_prompt_name: str | None
    model_card_data: object
    modules: object
    keep_in_fp32_modules: list[str] | None


class CallOptions(TypedDict, total=False):
    """What `CrossEncoder.predict` and `CrossEncoder.rank` take beside their own options.

    Attributes:
        activation_fct: ``activation_fn``.
        prompt: None or "".
        prompt_name: None.
        device: The model's own, or None.
        pool: None.
        chunk_size: Anything, since it is a pool's.
        num_workers: Anything, since it does nothing there either.
    """

    activation_fct: Activation | None
    prompt: str | None
    prompt_name: str | None
    device: object
    pool: object
    chunk_size: int | None
    num_workers: int


class PredictOptions(CallOptions, total=False):
    """What `CrossEncoder.predict` takes beside its own options.

    Attributes:
        sentences: ``inputs``.
    """

    sentences: Any


class RankOptions(CallOptions, total=False):
    """What `CrossEncoder.rank` takes beside its own options.

    Attributes:
        convert_to_numpy: Anything, since entries hold Python's floats there too.
        convert_to_tensor: As ``convert_to_numpy``.
        apply_softmax: Anything for a model with one label, as there.
    """

    convert_to_numpy: bool
    convert_to_tensor: bool
    apply_softmax: bool


@dataclass(frozen=True, slots=True)
class Own:
    """What a model is, for options that are accepted where they say the same.

    Attributes:
        device: Where it runs.
        labels: Logits per pair.
    """

    device: Device
    labels: int


@dataclass(frozen=True, slots=True)
class Rule:
    """One option.

    Attributes:
        asks_nothing: Whether a value of it may be ignored, for a model where there is one already.
        instead: What to do with any other.
    """

    asks_nothing: Callable[[Any, Own | None], bool]
    instead: str = ""


def _anything(value: Any, own: Own | None) -> bool:
    return True


def _empty(value: Any, own: Own | None) -> bool:
    return value is None or (isinstance(value, str | list | tuple | Mapping) and not value)


def _no_text(value: Any, own: Own | None) -> bool:
    return _empty(value, own) or (isinstance(value, Mapping) and not any(value.values()))


def _loads_the_same(value: Any, own: Own | None) -> bool:
    if not isinstance(value, Mapping):
        return _empty(value, own)
    return all(option is None or name in _HOW_IT_LOADS for name, option in value.items())


def _own_device(value: Any, own: Own | None) -> bool:
    try:
        return value is None or (own is not None and parse_device(value) == own.device)
    except InputError:
        return False


def _one_label(value: Any, own: Own | None) -> bool:
    return not value or own is None or own.labels == 1


_ALIAS = Rule(_anything)
NO_PROMPTS = "prompts are not put before texts here: write the prompt into the query"
_FOR_TRANSFORMERS = Rule(_loads_the_same)  # what to do is `_instead_of`'s to say
# What people pass on to transformers that changes no score and nothing else here: no remote code is run.
_HOW_IT_LOADS = frozenset({"low_cpu_mem_usage", "trust_remote_code"})

MODEL: dict[str, Rule] = {
    **dict.fromkeys(("model_name_or_path", "model_name", "cache_dir", "default_activation_function"), _ALIAS),
    **dict.fromkeys(("trust_remote_code", "classifier_dropout"), Rule(_anything)),
    "num_labels": Rule(_anything),  # known when the model is open: `check_labels_asked`
    "backend": Rule(
        lambda value, own: value in ("torch", "onnx"),
        "'torch' and 'onnx' are taken for crossrank's own graphs, which run on onnxruntime; leave it out",
    ),
    **dict.fromkeys(
        ("model_kwargs", "processor_kwargs", "tokenizer_kwargs", "config_kwargs", "automodel_args", "tokenizer_args"),
        _FOR_TRANSFORMERS,
    ),
    "config_args": _FOR_TRANSFORMERS,
    "prompts": Rule(_no_text, NO_PROMPTS),
    "default_prompt_name": Rule(_empty, NO_PROMPTS),
    "model_card_data": Rule(_empty, "nothing here writes a model card; leave it out"),
    "modules": Rule(_empty, "a model is loaded by its name or folder: save the modules with sentence-transformers"),
    "keep_in_fp32_modules": Rule(_empty, "pass precision='fp32' for all of the model"),
}
_CALL: dict[str, Rule] = {
    "activation_fct": _ALIAS,
    "prompt": Rule(_empty, NO_PROMPTS),
    "prompt_name": Rule(_empty, NO_PROMPTS),
    "device": Rule(_own_device, "a model runs where it was loaded: make one with CrossEncoder(..., device=...)"),
    "pool": Rule(_empty, "threads share one model; a process that gets a pickle of the model opens its own"),
    **dict.fromkeys(("chunk_size", "num_workers"), Rule(_anything)),
}
PREDICT: dict[str, Rule] = _CALL | {"sentences": _ALIAS}
RANK: dict[str, Rule] = _CALL | {
    **dict.fromkeys(("convert_to_numpy", "convert_to_tensor"), Rule(_anything)),
    "apply_softmax": Rule(
        _one_label, "of a model with several labels rank gives the softmax by itself; leave activation_fn and this out"
    ),
}

# What people pass on to transformers, and the option that does it here.
_INSTEAD_OF = {
    **dict.fromkeys(("torch_dtype", "dtype"), "pass precision='fp32', 'fp16' or 'int8'"),
    **dict.fromkeys(("load_in_8bit", "load_in_4bit", "quantization_config"), "pass precision='int8'"),
    **dict.fromkeys(("device_map", "provider", "providers"), "pass device='cpu', 'cuda' or 'cuda:N'"),
    **dict.fromkeys(("file_name", "subfolder"), "name the ONNX file itself as the model"),
    **dict.fromkeys(("model_max_length", "max_length", "max_seq_length"), "pass max_length="),
    **dict.fromkeys(("token", "use_auth_token"), "pass token="),
    "revision": "pass revision=",
    "local_files_only": "pass local_files_only=",
    "cache_dir": "pass cache_folder=",
    "num_labels": "pass num_labels=, which must be the model's",
    "attn_implementation": "the graphs bring their own attention; leave it out",
    "export": "a checkpoint is exported by itself; leave it out",
}


def check_options(call: str, rules: Mapping[str, Rule], given: Mapping[str, object], own: Own | None = None) -> None:
    """Refuse what asks for something.

    Args:
        call: What was called, for messages.
        rules: What it accepts.
        given: What it got.
        own: What the model is, where there is one already.

    Raises:
        TypeError: For a name that is no option at all, as Python says it.
        InputError: For a value that would be ignored.
    """
    for name, value in given.items():
        rule = rules.get(name)
        if rule is None:
            raise TypeError(f"{call}() got an unexpected keyword argument {name!r}")
        if not rule.asks_nothing(value, own):
            raise InputError(f"{name}={value!r:.80}: {rule.instead or _instead_of(value)}")


def other_name(name: str, value: T, alias: str, given: Mapping[str, object], default: object = None) -> T:
    """The value of an option that the caller may have passed under another name.

    Args:
        name: Our name.
        value: What was passed under it.
        alias: The other name.
        given: What was passed beside our own options.
        default: The value of an option that was not passed.

    Raises:
        InputError: If both were passed.
    """
    if alias not in given:
        return value
    found: Any = given[alias]
    if value is default:
        result: T = found
        return result
    if found is None:
        return value
    raise InputError(f"{alias} is another name of {name}: pass one of them")


def check_labels_asked(given: Mapping[str, object], labels: int) -> None:
    """Raise `InputError` if ``num_labels`` is passed and the model has another number."""
    asked = given.get("num_labels")
    if asked is not None and asked != labels:
        raise InputError(
            f"num_labels={asked!r:.60}: the model has {labels}; a head is not made anew here, leave it out"
        )


def _instead_of(options: Any) -> str:
    """What to do in place of options for transformers."""
    if not isinstance(options, Mapping):
        return "None or {}"
    return "; ".join(
        f"in place of {name!r} {_INSTEAD_OF.get(name, 'there is nothing here: leave it out')}" for name in options
    )
