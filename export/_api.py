"""`export_model` and `ensure_artifact`: light to import, the exporter's packages are loaded when it works."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from crossrank._cache_root import cache_root
from crossrank._errors import InputError, MissingDependencyError
from crossrank._manifest import MANIFEST_NAME, Manifest, read_manifest
from crossrank._open import open_model
from crossrank._threads import available_threads

from ._cache import CheckpointSource, check_folder, describe_source, fingerprint
from ._report import Report, stage, terminal_report
from ._targets import Target, choose_targets
from ._tensorrt import TENSORRT, build_engines, require_tensorrt, tensorrt_target


def export_model(
    name_or_folder: str | Path,
    output: str | Path | None = None,
    *,
    exporter: Literal["auto", "native", "optimum"] = "auto",
    variants: Sequence[str] | None = None,
    precisions: Sequence[str] | None = None,
    max_length: int | None = None,
    revision: str | None = None,
    local_files_only: bool = False,
    force: bool = False,
    cache_folder: str | Path | None = None,
    token: str | bool | None = None,
    tensorrt: bool = False,
    report: Report | None = None,
) -> Path:
    """Turn a published cross-encoder into a proven artifact folder.

    Args:
        name_or_folder: A checkpoint folder, a registered name, or a hub id.
        output: The artifact folder to write; by default one in the cache, where `CrossEncoder` finds it.
        exporter: "native", "optimum" for architectures that it does not know (needs ``crossrank[optimum]`` and makes
            portable fp32 only), or "auto" for the native one where it knows the architecture.
        variants: Of "cpu", "cuda" and "portable"; by default all.
        precisions: Of "fp32", "fp16" and "int8"; by default cpu fp32 and int8, cuda fp16, portable fp32.
        max_length: Most tokens of a pair, below the model's own limit.
        revision: Hub revision; by default the registry's pinned one, else the newest.
        local_files_only: Never ask the hub.
        force: Replace an artifact that is already there.
        cache_folder: The cache; by default ``$CROSSRANK_HOME``, else the user's.
        token: Hub token.
        tensorrt: Make what TensorRT runs (portable fp16; with optimum portable fp32) too, build its engines for this
            machine's GPU, and prove them: ``device="tensorrt"`` then starts without building. That takes minutes.
        report: Called with each stage's name and, when it ends, its seconds.

    Returns:
        The artifact folder. One that already holds the graphs asked for is returned as it is, unless ``force``.

    Raises:
        ModelNotFoundError: If there is no such model.
        ModelError: If it is damaged or unsupported, or a graph is not equal to the reference within its bound.
        InputError: If an option is not what it can be, or ``output`` may not be replaced.
        MissingDependencyError: If ``crossrank[export]``, or the exporter that was asked for, is not installed.
        DeviceError: If engines are to be built and TensorRT cannot run here.
    """
    if tensorrt:
        require_tensorrt()
    choose_targets(variants, precisions, exporter)  # what can be refused is refused before anything is read
    source = describe_source(str(name_or_folder), revision)
    if source.folder is not None:
        check_folder(source.folder, revision)
    in_cache = output is None
    target = _cached(source, cache_folder) if output is None else Path(os.path.realpath(output))
    try:
        from ._export import make_artifact
        from ._write import check_replaceable, locked
    except ImportError as error:
        raise MissingDependencyError(
            f"exporting {source.name} needs: pip install 'crossrank[export]' ({error})"
        ) from error
    with locked(target, report):
        present = None if force else _present(target, fingerprint(source, max_length), exporter)
        keep = set() if present is None else _targets_of(present)
        wanted = set() if present is None else _wanted(variants, precisions, present.exporter, exporter)
        if present is not None and tensorrt:
            wanted.add(tensorrt_target(present.exporter))
        if present is None or not keep >= wanted:
            # The cache is ours to complete: what it holds of this model is made again with what is asked for.
            check_replaceable(target, force=force or (in_cache and present is not None), in_cache=in_cache)
            make_artifact(
                source,
                target,
                exporter=exporter,
                variants=variants,
                precisions=precisions,
                keep=keep if in_cache else (),
                max_length=max_length,
                local_files_only=local_files_only,
                token=token,
                report=report,
                tensorrt=tensorrt,
            )
        if tensorrt:
            with stage(report, "load on TensorRT"):
                model = open_model(target, TENSORRT, "auto", available_threads())
            build_engines(model, report)
    return target


def ensure_artifact(
    name_or_folder: str,
    *,
    cache_folder: Path | None,
    revision: str | None,
    local_files_only: bool,
    token: str | bool | None,
) -> Path:
    """The artifact of a name or a checkpoint folder: from the cache, else exported into it with the defaults.

    The engine calls this through the entry point group ``crossrank.artifacts``. An export shows its stages
    on a terminal.

    Raises:
        CrossrankError: As `export_model`.
    """
    cached = _cached(describe_source(name_or_folder, revision), cache_folder)
    if (cached / MANIFEST_NAME).exists():
        return cached
    return export_model(
        name_or_folder,
        revision=revision,
        local_files_only=local_files_only,
        cache_folder=cache_folder,
        token=token,
        report=terminal_report(),
    )


def _cached(source: CheckpointSource, cache_folder: str | Path | None) -> Path:
    return cache_root(None if cache_folder is None else Path(cache_folder)) / source.cache_key


def _present(target: Path, wanted: str, exporter: str) -> Manifest | None:
    """The manifest of an artifact that is already there, if it is of the same checkpoint and the exporter asked for."""
    if not (target / MANIFEST_NAME).exists():
        return None
    manifest = read_manifest(target)
    return manifest if manifest.source.fingerprint == wanted and exporter in ("auto", manifest.exporter) else None


def _wanted(variants: Sequence[str] | None, precisions: Sequence[str] | None, present: str, asked: str) -> set[Target]:
    """The graphs asked for, of the exporter of the artifact that is there if it can make them."""
    try:
        return set(choose_targets(variants, precisions, present))
    except InputError:
        if asked != "auto":
            raise
        return set(choose_targets(variants, precisions))


def _targets_of(manifest: Manifest) -> set[Target]:
    return {(variant.variant, variant.precision) for variant in manifest.variants}
