"""The optimum exporter: PyTorch's tracing, for the architectures that the native builder does not know.

`optimum.exporters.onnx` writes the graph and transformers is what it is proven against. Both live in
an environment of their own (extra ``optimum``), since they want an older transformers; what is written
here runs anywhere. Code that comes with a checkpoint is never run.
"""

import logging
import shutil
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import replace
from functools import partial
from importlib import metadata
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crossrank._artifact.manifest import Inputs
from crossrank._artifact.settings import ADAPTER_CONFIG, ModelFolder, describe_head, describe_inputs, read_model_folder
from crossrank._artifact.tokenizer_class import gives_token_types
from crossrank._artifact.tokenizer_settings import limit_ids
from crossrank._errors import (
    CheckpointError,
    MissingDependencyError,
    ModelError,
    UnsupportedModelError,
    attempt,
    join_problems,
)
from crossrank._json import has_entry
from crossrank.export._architectures.checkpoint import plain_texts, read_tokenizer
from crossrank.export._architectures.config import complete_config
from crossrank.export._blueprint import Blueprint
from crossrank.export._prove.reference import model_settings, transformers_logits
from crossrank.export._read.adapter import load_adapted, open_weights
from crossrank.export._targets import Target
from crossrank.models import RegisteredModel

INSTALL_OPTIMUM = (
    "pip install 'crossrank[cpu,export,optimum]' in an environment of its own, since it needs an older transformers; "
    "an artifact that is exported there runs anywhere"
)
_TASK = "text-classification"
# What `_quiet` changes belongs to the whole process: one thread at a time.
_QUIET = threading.RLock()


def optimum_version() -> str | None:
    """The version of the optimum exporter that is installed, or None."""
    try:
        return metadata.version("optimum-onnx")
    except metadata.PackageNotFoundError:
        return None


def read_optimum(folder: Path, registered: RegisteredModel | None, *, max_length: int | None) -> Blueprint:
    """Read a checkpoint for a graph that PyTorch traces.

    Args:
        folder: The checkpoint.
        registered: What the registry knows of it.
        max_length: Most tokens of a pair, or None for all that model and tokenizer allow.

    Raises:
        MissingDependencyError: If the optimum exporter is not installed.
        ModelNotFoundError: If there is no config.json.
        CheckpointError: For files that are missing, damaged or do not fit each other, all at once.
        UnsupportedModelError: For an architecture or setting that optimum does not know either.
    """
    if optimum_version() is None:
        raise MissingDependencyError(f"the optimum exporter is not installed: {INSTALL_OPTIMUM}")
    if registered is not None and registered.bare_projection:
        raise UnsupportedModelError(
            f"{registered.id} has a head that no class of transformers has, its last layer alone: take "
            'exporter="native" (in a shell --exporter native)'
        )
    source = read_model_folder(folder)
    if source.modules:
        behind = ", ".join(module.kind for module in source.modules)
        raise UnsupportedModelError(f"{folder}: optimum does not trace the modules behind the transformer ({behind})")
    problems: list[str] = []
    tokenizer = attempt(lambda: read_tokenizer(source), problems)
    tensors = attempt(lambda: open_weights(source.folder, say=True), problems)
    completed = attempt(lambda: complete_config(source.config, tensors or {}), problems)
    if problems or tokenizer is None or completed is None:
        raise CheckpointError(join_problems(str(folder), problems))
    config, names = _describe(completed)
    vocabulary = getattr(config, "vocab_size", tokenizer.vocabulary_size)
    embeddings = attempt(lambda: limit_ids(tokenizer, vocabulary, plain_texts), problems)
    if problems:
        raise CheckpointError(join_problems(str(folder), problems))
    # Whatever config.json leaves to transformers' defaults is said from here on.
    defaults = {name: getattr(config, name, None) for name in ("max_position_embeddings", "pad_token_id")}
    inputs = describe_inputs(
        replace(source, config=completed | defaults),
        tokenizer,
        token_types="token_type_ids" in names and gives_token_types(source.tokenizer, completed),
        max_length=max_length,
        embeddings=embeddings,
    )
    relevant = registered.relevant_label if registered else None
    described = replace(source, config=completed)
    return Blueprint(
        "optimum",
        described,
        tokenizer,
        describe_head(described, config.num_labels, relevant),
        inputs,
        build=partial(_build, described, config),
        reference=partial(_reference, described, inputs),
    )


def _describe(config: dict[str, Any]) -> tuple[Any, list[str]]:
    """A config.json as transformers' own object, and the inputs that its graph will have."""
    architecture, version = config.get("model_type"), optimum_version()
    try:
        with _quiet():
            from optimum.exporters.onnx import model_configs  # noqa: F401  (registers the architectures)
            from optimum.exporters.tasks import TasksManager
            from transformers import AutoConfig
    except ImportError as error:
        raise MissingDependencyError(
            f"optimum-onnx {version} cannot be imported ({error}): {INSTALL_OPTIMUM}"
        ) from error
    refusal = f"model_type is {architecture!r}, which optimum-onnx {version} does not export with a classification head"
    with _translated(UnsupportedModelError, refusal):
        known = type(AutoConfig.for_model(architecture)).from_dict(model_settings(config))
        constructor = TasksManager.get_exporter_config_constructor(
            "onnx", model_type=architecture, task=_TASK, library_name="transformers"
        )
        return known, list(constructor(known).inputs)


def _build(source: ModelFolder, config: Any, target: Target, path: Path) -> None:
    """Trace the model; weights beyond 2 GB go to ``NAME.onnx_data`` beside the graph."""
    from optimum.exporters.onnx import onnx_export_from_model

    model = _load(source.folder, config)
    work = path.parent / "optimum"  # it also writes settings, of which the artifact has its own
    refusal = f"optimum-onnx {optimum_version()} cannot export {source.root}, a {config.model_type}"
    with _translated(UnsupportedModelError, refusal, passing=OSError):  # such as a full disk
        onnx_export_from_model(model, work, task=_TASK, do_validation=False)
    for file in work.glob("model.onnx*"):
        file.rename(path.with_name(file.name))
    shutil.rmtree(work)


def _load(folder: Path, config: Any) -> Any:
    """The model in transformers, all of its weights from the checkpoint, in float32."""
    from transformers import AutoModelForSequenceClassification

    if has_entry(folder / ADAPTER_CONFIG):
        return load_adapted(folder, config).float().eval()
    with _translated(CheckpointError, f"{folder}: transformers cannot load it"):
        model, report = AutoModelForSequenceClassification.from_pretrained(
            folder,
            config=config,
            attn_implementation="eager",  # plain operators, which every architecture has
            local_files_only=True,
            trust_remote_code=False,
            output_loading_info=True,
        )
    if absent := sorted(report["missing_keys"]):
        raise CheckpointError(
            f"{folder}: the weights lack {', '.join(absent[:5])}{' and more' if len(absent) > 5 else ''}, which "
            "transformers would draw at random: a model with a trained head for sequence classification is needed"
        )
    return model.float().eval()


def _reference(
    source: ModelFolder, inputs: Inputs, pairs: Sequence[tuple[str, str]], tokenizer: Path
) -> tuple[str, NDArray[np.float32]]:
    failed = f"{source.folder}: transformers cannot score with it"
    with _translated(CheckpointError, failed, passing=CheckpointError):
        logits = transformers_logits(
            source, tokenizer, pairs, max_length=inputs.max_length, token_types=inputs.token_types
        )
    return f"transformers {metadata.version('transformers')}", logits


@contextmanager
def _translated(kind: type[ModelError], what: str, passing: type[Exception] = MemoryError) -> Iterator[None]:
    """Run transformers, torch or optimum quietly; what they raise, which has no common kind, becomes ours.

    Args:
        kind: Our error.
        what: Begins its message.
        passing: What is raised as it is, beside `MemoryError`.
    """
    try:
        with _quiet():
            yield
    except (MemoryError, passing):
        raise
    except Exception as error:
        raise kind(f"{what}: {type(error).__name__}: {error!s:.500}") from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep what these packages print, warn and log off the terminal: standard output is for results."""
    with _QUIET:
        disabled = logging.root.manager.disable
        logging.disable(logging.WARNING)
        try:
            with redirect_stdout(StringIO()), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                yield
        finally:
            logging.disable(disabled)
