"""A folder in Hugging Face's layout: what it says of its model, whatever holds the weights."""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from crossrank._errors import CheckpointError, ModelNotFoundError, UnsupportedModelError, join_problems
from crossrank._interrupts import not_thrown_in
from crossrank._json import has_entry, read_json, read_json_object
from crossrank._text.tokenizer import PairTokenizer

from .activation import default_activation
from .manifest import Head, Inputs
from .tokenizer_class import COUNT_FROM_PADDING

# The files that hold weights, alone or listed by an index, in the order in which they are taken.
SAFETENSORS, PYTORCH = WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin")
ADAPTER_CONFIG = "adapter_config.json"
# What may be behind a Pooling in a head of modules. A Dropout does nothing but in training.
HEAD_MODULES = ("Dense", "LayerNorm", "Dropout")
_OF_SENTENCE_TRANSFORMERS = "sentence_transformers."


@dataclass(frozen=True, slots=True)
class Module:
    """What a text runs through behind the transformer: its class's name, and its folder within the model's."""

    kind: str
    path: str


@dataclass(frozen=True, slots=True)
class ModelFolder:
    """The settings of a model.

    Attributes:
        root: The folder that was named.
        folder: Where config.json, the tokenizer and the weights lie: the root, or below it where its
            modules.json says so.
        config: config.json.
        tokenizer: tokenizer_config.json, or empty.
        sentence_transformers: config_sentence_transformers.json, or empty.
        transformer: sentence_bert_config.json, or empty.
        modules: Those behind the transformer, whose own head they take the place of; empty for one with a head.
    """

    root: Path
    folder: Path
    config: dict[str, Any]
    tokenizer: dict[str, Any]
    sentence_transformers: dict[str, Any]
    transformer: dict[str, Any]
    modules: tuple[Module, ...] = ()


def read_model_folder(folder: Path) -> ModelFolder:
    """Read the settings of a model and refuse by name what a cross-encoder here cannot honour.

    Args:
        folder: Holds config.json, or a modules.json that says where it is.

    Raises:
        ModelNotFoundError: If there is neither.
        CheckpointError: For files that are damaged, all at once.
        UnsupportedModelError: For another kind of model or a setting that would change scores, all at once.
    """
    inner, modules = _read_modules(folder)
    if not has_entry(inner / "config.json"):
        reason = lone_adapter_message(inner) or f"it has no {(inner / 'config.json').relative_to(folder)}"
        raise ModelNotFoundError(f"{folder} holds no model: {reason}")
    damaged: list[str] = []

    def read(path: Path) -> dict[str, Any]:
        try:
            return read_json_object(path) if has_entry(path) else {}
        except not_thrown_in(OSError, ValueError) as error:
            damaged.append(f"{path.name}: {error}")
            return {}

    result = ModelFolder(
        folder,
        inner,
        read(inner / "config.json"),
        read(inner / "tokenizer_config.json"),
        read(folder / "config_sentence_transformers.json"),
        read(inner / "sentence_bert_config.json"),
        modules,
    )
    if damaged:
        raise CheckpointError(join_problems(str(inner), damaged))
    refused = _refused_settings(result, has_modules=(folder / "modules.json").exists())
    if refused:
        raise UnsupportedModelError(join_problems(str(folder), refused))
    return result


def has_weights(folder: Path, kinds: Sequence[str] = WEIGHT_FILES) -> bool:
    """Whether a folder holds weights, in any of these forms of `WEIGHT_FILES`."""
    return any(has_entry(folder / name) for name in weight_names(kinds))


def weight_names(kinds: Sequence[str] = WEIGHT_FILES) -> list[str]:
    """The files by which weights are known: one of each form, and the index of its shards."""
    return [f"{kind}{end}" for kind in kinds for end in ("", ".index.json")]


def lone_adapter_message(folder: Path) -> str | None:
    """What to say of a folder with a PEFT adapter and without the weights that it belongs to; None for any other."""
    if not has_entry(folder / ADAPTER_CONFIG) or has_weights(folder):
        return None
    try:
        base = read_json_object(folder / ADAPTER_CONFIG).get("base_model_name_or_path")
    except not_thrown_in(OSError, ValueError):
        base = None
    return (
        f"{ADAPTER_CONFIG} says that its weights are an adapter, without those of the base model "
        f"{str(base or 'that was trained')!r:.200}. {merge_advice(folder)}"
    )


def merge_advice(folder: Path) -> str:
    """How PEFT merges an adapter into its base model, a sentence."""
    code = (
        "import sys; from peft import AutoPeftModelForSequenceClassification as Model; "
        "Model.from_pretrained(sys.argv[1]).merge_and_unload().save_pretrained(sys.argv[2])"
    )
    return (
        f"Merge it, into a folder that gets the tokenizer's files too: pip install peft; "
        f"python -c {shlex.quote(code)} {shlex.quote(str(folder))} MERGED"
    )


def transformer_folder(folder: Path) -> Path:
    """Where a model's transformer lies: where its modules.json says, else in ``folder`` itself.

    Raises:
        CheckpointError: If modules.json is damaged.
        UnsupportedModelError: If it is of another kind of model.
    """
    return _read_modules(folder)[0]


def module_folders(folder: Path) -> list[Path]:
    """The folders of a model's transformer and of the modules behind it; raises as `transformer_folder`."""
    inner, modules = _read_modules(folder)
    return [inner, *(folder / module.path for module in modules)]


def _read_modules(folder: Path) -> tuple[Path, tuple[Module, ...]]:
    """Where the transformer lies, and the modules behind it.

    sentence-transformers lists in modules.json what a text runs through. A cross-encoder as it is meant here is one
    transformer with a classification head, or with a head of modules that pool its tokens and end in a dense layer.
    """
    path = folder / "modules.json"
    if not has_entry(path):
        return folder, ()
    try:
        modules = read_json(path)
        if not isinstance(modules, list):
            raise TypeError(f"this is {type(modules).__name__}")
        paths = [str(module["type"]) for module in modules]
        types = [name.rpartition(".")[2] for name in paths]
        places = [PurePosixPath(module["path"]) for module in modules]
    except not_thrown_in(OSError, ValueError, TypeError, KeyError) as error:
        raise CheckpointError(f"{path}: a list of modules with type and path is expected: {error!s:.200}") from error
    for place in map(str, places):
        if PurePosixPath(place).is_absolute() or ".." in place.split("/") or "\\" in place or len(place) > 200:
            raise CheckpointError(f"{path}: {place!r:.80} is no folder inside this one")
    behind = tuple(Module(kind, str(place)) for kind, place in list(zip(types, places, strict=True))[1:])
    foreign = [name for name in paths if not name.startswith(_OF_SENTENCE_TRANSFORMERS)]
    unknown = [kind for kind in dict.fromkeys(types[2:]) if kind not in HEAD_MODULES]
    pooled = types[:2] == ["Transformer", "Pooling"] and "Dense" in types
    if types == ["Transformer"] or (pooled and not foreign and not unknown):
        return folder / places[0], behind
    if "LogitScore" in types:
        kind = "a causal language model scored by the logit of a token (LogitScore)"
    elif foreign and len(types) > 1:
        kind = f"a chain with modules of other code ({', '.join(foreign)})"
    elif pooled:
        kind = f"a reranker of pooled token embeddings with {', '.join(unknown)}"
    elif "Pooling" in types:
        kind = "an embedding model (Pooling), which encodes queries and documents apart"
    else:
        kind = f"a chain of {', '.join(types) or 'no modules'}"
    raise UnsupportedModelError(
        f"{path}: this is {kind}; supported is one Transformer, with a sequence classification head or before Pooling "
        f"and {', '.join(HEAD_MODULES)} that end in a Dense of scores"
    )


def _refused_settings(model: ModelFolder, *, has_modules: bool) -> list[str]:
    refused = []
    task = model.transformer.get("transformer_task", "feature-extraction")
    fitting = "feature-extraction" if model.modules else "sequence-classification"
    if has_modules and task != fitting:
        behind = "before a Pooling" if model.modules else "without modules behind it"
        refused.append(f"sentence_bert_config.json: transformer_task is {task!r}; only {fitting!r} {behind}")
    given = model.transformer.get("module_output_name") or "token_embeddings"
    if model.modules and given != "token_embeddings":
        refused.append(f"sentence_bert_config.json: module_output_name is {given!r:.60}; only 'token_embeddings'")
    if model.transformer.get("do_lower_case"):
        refused.append("sentence_bert_config.json: do_lower_case is set; set it in the tokenizer instead")
    side = model.tokenizer.get("truncation_side", "right")
    if side != "right":
        refused.append(f"tokenizer_config.json: truncation_side {side!r}; only right")
    prompt, prompts = (model.sentence_transformers.get(name) for name in ("default_prompt_name", "prompts"))
    if prompt and not (isinstance(prompt, str) and isinstance(prompts, Mapping) and prompts.get(prompt) == ""):
        refused.append(f"config_sentence_transformers.json: default_prompt_name is {prompt!r}; no prompts only")
    processing = model.transformer.get("processing_kwargs")
    if processing:
        refused.append(f"sentence_bert_config.json: processing_kwargs is {processing!r:.100}; only none")
    modalities = model.transformer.get("modality_config")
    template = _find_chat_template(model)
    if template and (not isinstance(modalities, Mapping) or "message" in modalities):
        refused.append(
            f"{template}: a chat template, which sentence-transformers writes each pair into; only plain pairs. If the "
            f"model was trained without it, remove it"
        )
    return refused


def _find_chat_template(model: ModelFolder) -> str | None:
    if model.tokenizer.get("chat_template"):
        return "tokenizer_config.json: chat_template is set"
    names = ("chat_template.jinja", "chat_template.json", "additional_chat_templates")
    return next((name for name in names if has_entry(model.folder / name)), None)


def count_labels(config: Mapping[str, Any]) -> int | None:
    """The labels that a config.json speaks of, or None if it does not; what is no count gives 0."""
    names = config.get("id2label")
    if names is not None:
        return len(names) if isinstance(names, Mapping) else 0
    labels = config.get("num_labels")
    return labels if labels is None or (isinstance(labels, int) and not isinstance(labels, bool)) else 0


def describe_head(model: ModelFolder, labels: int, relevant_label: int | None) -> Head:
    """The head of a model with so many labels, of which ``relevant_label`` means "relevant" if it is known."""
    activation, origin, unknown = default_activation(model.config, model.sentence_transformers, labels)
    known = relevant_label is not None and relevant_label < labels
    return Head(labels, relevant_label if known else None, activation, origin, unknown)


def describe_padding(config: Mapping[str, Any]) -> tuple[int, int]:
    """The id that fills a batch, and the position of the first token, as transformers has them for a config.json.

    Raises:
        CheckpointError: If ``model_type`` is no name, or ``pad_token_id`` no id.
    """
    kind = config.get("model_type")
    if kind is not None and not isinstance(kind, str):
        raise CheckpointError(f"config.json: model_type is {kind!r:.60}; a name is expected")
    from_padding = kind in COUNT_FROM_PADDING
    pad_id = config.get("pad_token_id")
    if pad_id is None:
        pad_id = int(from_padding)  # the default there; elsewhere a mask hides whatever fills a batch
    if isinstance(pad_id, bool) or not isinstance(pad_id, int) or not 0 <= pad_id < 2**31:
        raise CheckpointError(f"config.json: pad_token_id is {pad_id!r:.60}; an id, 0 or more, is expected")
    return pad_id, pad_id + 1 if from_padding else 0


def describe_inputs(
    model: ModelFolder,
    tokenizer: PairTokenizer,
    *,
    token_types: bool,
    max_length: int | None = None,
    embeddings: int | None = None,
) -> Inputs:
    """What a graph of this model wants to know of its inputs.

    Args:
        model: The model's settings.
        tokenizer: Its tokenizer.
        token_types: Whether the tokenizer's segments reach the model.
        max_length: Most tokens of a pair as the caller asks, or None for all that model and tokenizer allow.
        embeddings: As in `Inputs`.

    Raises:
        InputError: If ``max_length`` leaves no room for text.
        CheckpointError: If the model's own limit leaves none, or its padding id is none.
        UnsupportedModelError: If the tokenizer truncates on the left.
    """
    if "truncation_side" not in model.tokenizer and tokenizer.truncation_side != "right":
        raise UnsupportedModelError(f"tokenizer.json: truncation direction {tokenizer.truncation_side!r}; only right")
    pad_id, offset = describe_padding(model.config)
    # As in sentence-transformers, a length beside modules.json takes the place of the tokenizer's.
    beside_modules = (model.root / "modules.json").exists()
    own = model.transformer.get("max_seq_length") if beside_modules else None
    # The older name counts where the other is not there, as in transformers.
    name = "max_len" if "model_max_length" not in model.tokenizer else "model_max_length"
    limits = [
        (_whole(model.config.get("max_position_embeddings"), less=offset), "the model's positions"),
        (None if max_length is None else tokenizer.check_max_length(max_length), "as asked at export"),
        (_whole(own), "sentence_bert_config.json max_seq_length")
        if own is not None
        else (_whole(model.tokenizer.get(name)), f"tokenizer_config.json {name}"),
    ]
    known = [(limit, origin) for limit, origin in limits if limit is not None]
    length, origin = min(known or [(512, "default where nothing says it")], key=lambda limit: limit[0])
    if length <= tokenizer.template.special_count:
        raise CheckpointError(
            f"{model.folder}: {origin} leaves {length} tokens for a pair, fewer than its special tokens need"
        )
    return Inputs(length, origin, pad_id, offset, token_types, embeddings)


def _whole(value: Any, *, less: int = 0) -> int | None:
    """A limit as JSON has it as an int; None if it is no number, or one such as 1e30 that stands for none."""
    if isinstance(value, bool) or not isinstance(value, int | float) or value != value or value >= 1e9:
        return None
    return int(max(-1, value)) - less
