"""`export_model` and `ensure_artifact`: light to import, the exporter's packages are loaded when it works."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from crossrank._errors import MissingDependencyError
from crossrank._manifest import MANIFEST_NAME, read_manifest

from ._cache import CheckpointSource, cache_root, describe_source
from ._targets import Target, choose_targets

if TYPE_CHECKING:
    from ._export import Report


def export_model(
    name_or_folder: str | Path,
    output: str | Path | None = None,
    *,
    variants: Sequence[str] | None = None,
    precisions: Sequence[str] | None = None,
    max_length: int | None = None,
    revision: str | None = None,
    local_files_only: bool = False,
    force: bool = False,
    cache_folder: str | Path | None = None,
    token: str | bool | None = None,
    report: "Report | None" = None,
) -> Path:
    """Turn a published cross-encoder into a proven artifact folder.

    Args:
        name_or_folder: A checkpoint folder, a registered name, or a hub id.
        output: The artifact folder to write; by default one in the cache, where `CrossEncoder` finds it.
        variants: Of "cpu", "cuda" and "portable"; by default all.
        precisions: Of "fp32", "fp16" and "int8"; by default cpu fp32 and int8, cuda fp16, portable fp32.
        max_length: Most tokens of a pair, below the model's own limit.
        revision: Hub revision; by default the registry's pinned one, else the newest.
        local_files_only: Never ask the hub.
        force: Replace an artifact that is already there.
        cache_folder: The cache; by default ``$CROSSRANK_HOME``, else the user's.
        token: Hub token.
        report: Called with each stage's name and, when it ends, its seconds.

    Returns:
        The artifact folder. One that already holds the graphs asked for is returned as it is, unless ``force``.

    Raises:
        ModelNotFoundError: If there is no such model.
        ModelError: If it is damaged or unsupported, or a graph is not equal to the reference within its bound.
        InputError: If an option is not what it can be, or ``output`` may not be replaced.
        MissingDependencyError: If ``crossrank[export]`` is not installed.
    """
    targets = choose_targets(variants, precisions)
    source = describe_source(str(name_or_folder), revision)
    target = Path(output) if output is not None else cache_root(_path(cache_folder)) / source.cache_key
    return _export(
        source,
        target,
        targets,
        max_length=max_length,
        offline=local_files_only,
        force=force,
        token=token,
        report=report,
    )


def ensure_artifact(
    name_or_folder: str,
    *,
    cache_folder: Path | None,
    revision: str | None,
    local_files_only: bool,
    token: str | bool | None,
) -> Path:
    """The artifact of a name or a checkpoint folder: from the cache, else exported into it with the defaults.

    The engine calls this through the entry point group ``crossrank.artifacts``.

    Raises:
        CrossrankError: As `export_model`.
    """
    source = describe_source(name_or_folder, revision)
    target = cache_root(cache_folder) / source.cache_key
    if (target / MANIFEST_NAME).exists():
        return target
    targets = choose_targets(None, None)
    return _export(
        source, target, targets, max_length=None, offline=local_files_only, force=False, token=token, report=None
    )


def _export(
    source: CheckpointSource,
    target: Path,
    targets: list[Target],
    *,
    max_length: int | None,
    offline: bool,
    force: bool,
    token: str | bool | None,
    report: "Report | None",
) -> Path:
    try:
        from ._export import make_artifact
        from ._write import check_replaceable, locked
    except ImportError as error:
        raise MissingDependencyError(
            f"exporting {source.name} needs: pip install 'crossrank[export]' ({error})"
        ) from error
    with locked(target):
        if not force and _holds(target, targets, max_length):
            return target
        check_replaceable(target, force=force)
        make_artifact(
            source,
            target,
            targets,
            max_length=max_length,
            local_files_only=offline,
            token=token,
            report=report or (lambda name, seconds: None),
        )
    return target


def _holds(target: Path, targets: list[Target], max_length: int | None) -> bool:
    if not (target / MANIFEST_NAME).exists():
        return False
    manifest = read_manifest(target)
    present = {(variant.variant, variant.precision) for variant in manifest.variants}
    return present >= set(targets) and max_length in (None, manifest.inputs.max_length)


def _path(folder: str | Path | None) -> Path | None:
    return None if folder is None else Path(folder)
