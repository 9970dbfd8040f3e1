"""Where exported models lie, and which one a name or a folder means."""

import hashlib
import os
import re
from dataclasses import dataclass
from pathlib import Path

from crossrank._errors import InputError, MissingDependencyError, ModelError, ModelNotFoundError
from crossrank._locate import EMBEDDED_NAME
from crossrank._manifest import MANIFEST_NAME
from crossrank._model_folder import has_weights, lone_adapter_message, transformer_folder
from crossrank.models import RegisteredModel, find_model, nearest_names

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)
# What a checkpoint folder is recognized by.
_SUFFIXES = (".json", ".txt", ".model", ".safetensors", ".bin", ".onnx")


@dataclass(frozen=True, slots=True)
class CheckpointSource:
    """A checkpoint that was named but not read yet.

    Attributes:
        name: The hub id, or the folder's own name (its path is nobody else's business).
        folder: The folder, or None for a hub id.
        revision: Hub revision to take.
        registered: The registry's entry, if it has one.
        cache_key: Name of the artifact's folder in the cache; another checkpoint has another one.
    """

    name: str
    folder: Path | None
    revision: str | None
    registered: RegisteredModel | None
    cache_key: str


def describe_source(name_or_folder: str, revision: str | None) -> CheckpointSource:
    """What a name or a folder means, without touching the network.

    Raises:
        ModelNotFoundError: If it is no folder, no registered name and no hub id.
    """
    folder = Path(name_or_folder)
    if folder.is_file():
        raise ModelNotFoundError(f"{name_or_folder} is a file; pass the folder that holds it")
    if name_or_folder and folder.is_dir():
        return CheckpointSource(folder.resolve().name, folder, None, None, _folder_key(folder))
    if name_or_folder == EMBEDDED_NAME:
        raise ModelNotFoundError(
            f"{name_or_folder} is an exported artifact that comes with crossrank: CrossEncoder() and crossrank take it "
            f"as it is"
        )
    registered = find_model(name_or_folder)
    if registered is None and not _HUB_ID.fullmatch(name_or_folder):
        near = ", ".join(nearest_names(name_or_folder)) or "none"
        raise ModelNotFoundError(
            f"{name_or_folder!r} is no folder, no registered name and no hub id (owner/name). Nearest names: {near}; "
            f"export-model --list shows all"
        )
    name = registered.id if registered else name_or_folder
    revision = revision or (registered.revision if registered else None)
    key = name.replace("/", "--") + (f"@{revision.replace('/', '--')}" if revision else "")
    return CheckpointSource(name, None, revision, registered, key)


def check_folder(folder: Path, revision: str | None) -> None:
    """Refuse what is no checkpoint at first sight, before packages are imported to read it.

    Raises:
        ModelNotFoundError: If the folder is an artifact, or holds no model.
        InputError: If a revision of a folder is asked for.
    """
    if (folder / MANIFEST_NAME).exists() and not has_weights(folder):
        raise ModelNotFoundError(
            f"{folder} is an exported artifact and no checkpoint: CrossEncoder and crossrank take it as it is"
        )
    if not any((folder / name).exists() for name in ("config.json", "modules.json")):
        reason = lone_adapter_message(folder) or "it has no config.json"
        raise ModelNotFoundError(f"{folder} holds no model: {reason}")
    if revision is not None:
        raise InputError(f"revision={revision!r}: {folder} is a folder, which has no revisions")


def fingerprint(source: CheckpointSource, max_length: int | None) -> str:
    """What tells an export of this checkpoint with this length limit from any other."""
    return f"{source.cache_key}, {f'at most {max_length} tokens' if max_length is not None else 'full length'}"


def _folder_key(folder: Path) -> str:
    """Name, and a hash of place, sizes and times, so that changed files are exported anew."""
    resolved = folder.resolve()
    try:
        places = {resolved, transformer_folder(resolved)}
    except ModelError:  # which reading it will say
        places = {resolved}
    files = sorted(path for place in places for path in place.iterdir() if path.suffix in _SUFFIXES and path.is_file())
    facts = [str(resolved), *(f"{p.relative_to(resolved)} {p.stat().st_size} {p.stat().st_mtime_ns}" for p in files)]
    return f"local--{resolved.name}--{hashlib.sha256(os.fsencode(chr(10).join(facts))).hexdigest()[:16]}"


def fetch_checkpoint(
    source: CheckpointSource, *, local_files_only: bool, token: str | bool | None
) -> tuple[Path, str | None]:
    """The checkpoint's folder, downloaded if need be, and the commit it is at.

    Raises:
        ModelNotFoundError: If it cannot be had from the hub.
        MissingDependencyError: If huggingface-hub is not installed.
    """
    if source.folder is not None:
        return source.folder, None
    try:
        from ._hub import download_checkpoint
    except ImportError as error:
        raise MissingDependencyError("downloading a model needs: pip install 'crossrank[export]'") from error
    folder = download_checkpoint(source.name, source.revision, local_files_only=local_files_only, token=token)
    return folder, folder.name
