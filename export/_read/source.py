"""The checkpoint that a name or a folder means, and the place of its export in the cache."""

import hashlib
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from crossrank._artifact.foreign import is_foreign
from crossrank._artifact.held import Stamp
from crossrank._artifact.locate import check_revision, folder_record, place_of
from crossrank._artifact.manifest import MANIFEST_NAME
from crossrank._artifact.origin import EMBEDDED_NAME
from crossrank._artifact.settings import has_weights, lone_adapter_message
from crossrank._errors import CheckpointError, InputError, MissingDependencyError, ModelNotFoundError
from crossrank._json import has_entry
from crossrank._machine.device import Device
from crossrank.models import RegisteredModel, find_model, nearest_names

from .content import hash_files, read_known, stamp_files, write_known
from .kinds import refuse_other_kinds

_DOWNLOADING = "downloading a model needs: pip install 'crossrank[export]'"
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)
# What a model without weights may be, which needs no export.
IS_ARTIFACT, HOLDS_GRAPHS = "is an exported artifact and no checkpoint", "holds ONNX files without weights to export"
# Of a folder's own name in that of its artifact; file systems take 255 bytes.
_NAME_BYTES = 120


@dataclass(frozen=True, slots=True)
class CheckpointSource:
    """A checkpoint that was named but not read yet.

    Attributes:
        name: The hub id, or the folder's own name (its path is nobody else's business).
        folder: The folder, or None for a hub id.
        revision: Hub revision to take.
        registered: The registry's entry, if it has one.
        cache_key: Name of the artifact's folder in the cache; another checkpoint, or the same folder with other
            content, has another one.
        stamps: Of a folder's files, when it was named.
    """

    name: str
    folder: Path | None
    revision: str | None
    registered: RegisteredModel | None
    cache_key: str
    stamps: Mapping[str, Stamp] = field(default_factory=dict)


def describe_source(name_or_folder: str, revision: str | None, cache: Path | None = None) -> CheckpointSource:
    """What a name or a folder means, without touching the network.

    Args:
        name_or_folder: What was named.
        revision: Hub revision that was asked for.
        cache: The cache, where hashes of a folder's files are kept; None reads the files.

    Raises:
        ModelNotFoundError: If it is no folder, no registered name and no hub id.
        InputError: If the revision is no text, or one of a folder is asked for.
    """
    if revision is not None and not isinstance(revision, str):
        raise InputError(f"revision={revision!r:.60}: a branch, tag or commit of the hub, or None")
    folder = Path(name_or_folder)
    if folder.is_file():
        raise ModelNotFoundError(f"{name_or_folder} is a file; pass the folder that holds it")
    if name_or_folder and folder.is_dir():
        check_revision(folder, revision)
        key, stamps = _folder_key(folder.resolve(), cache)
        return CheckpointSource(folder.resolve().name, folder, None, None, key, stamps)
    if name_or_folder == EMBEDDED_NAME:
        raise ModelNotFoundError(
            f"{name_or_folder} is an exported artifact that comes with crossrank: CrossEncoder() and crossrank take it "
            f"as it is"
        )
    registered = find_model(name_or_folder)
    if registered is None and _is_path(name_or_folder):
        raise ModelNotFoundError(f"{name_or_folder}: no such folder{_where(folder)}")
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


def _is_path(name: str) -> bool:
    """Whether a name can only mean a folder."""
    return name.startswith((".", "~", "/")) or "\\" in name or name.count("/") > 1 or Path(name).is_absolute()


def _where(folder: Path) -> str:
    """What helps to find a folder that is not there."""
    if folder.parts[:1] and folder.parts[0].startswith("~"):
        return f"; the ~ of a home folder is not expanded here: {os.path.expanduser(folder)}"
    if folder.is_absolute():
        near = next((parent for parent in folder.parents if parent.is_dir()), None)
        return f"; there is only {near}" if near is not None and near != folder.parent else ""
    return f" in {Path.cwd()}"


def check_folder(folder: Path) -> None:
    """Refuse what is no checkpoint at first sight, before packages are imported to read it.

    Raises:
        ModelNotFoundError: If the folder is an artifact or holds graphs alone, or no model.
        ModelError: If its modules.json is damaged, or it is of another kind of model.
    """
    if has_entry(folder / MANIFEST_NAME) and not has_weights(folder):
        raise ModelNotFoundError(f"{folder} {IS_ARTIFACT}: CrossEncoder and crossrank take it as it is")
    if any(map(has_weights, (folder, *folder.glob("0_*")))):  # graphs alone are run, whatever they compute
        refuse_other_kinds(folder)
    if not any(has_entry(folder / name) for name in ("config.json", "modules.json")):
        reason = lone_adapter_message(folder) or "it has no config.json"
        raise ModelNotFoundError(f"{folder} holds no model: {reason}")
    if is_foreign(folder):
        raise ModelNotFoundError(f"{folder} {HOLDS_GRAPHS}: CrossEncoder and crossrank take it as it is")


def fingerprint(source: CheckpointSource, max_length: int | None) -> str:
    """What tells an export of this checkpoint with this length limit from any other."""
    return f"{source.cache_key}, {f'at most {max_length} tokens' if max_length is not None else 'full length'}"


def check_unchanged(source: CheckpointSource) -> None:
    """Refuse a folder whose files changed since it was named: its artifact would have the name of the old ones.

    Raises:
        CheckpointError: If one did.
    """
    if source.folder is None:
        return
    found = stamp_files(source.folder.resolve())
    changed = sorted(name for name in found.keys() | source.stamps.keys() if found.get(name) != source.stamps.get(name))
    if changed:
        raise CheckpointError(
            f"{source.folder}: {', '.join(changed)} changed while the folder was exported; export it again when it is "
            f"written"
        )


def _folder_key(folder: Path, cache: Path | None) -> tuple[str, Mapping[str, Stamp]]:
    """Name, and hashes of place and content: changed files are exported anew, files that were only touched are not."""
    stamps = stamp_files(folder)
    record = None if cache is None else folder_record(cache, folder)
    known = {} if record is None else read_known(record)
    hashes = hash_files(folder, stamps, known)
    facts = "\n".join(f"{name} {digest}" for name, digest in hashes.items())
    name = folder.name.encode(errors="replace")[:_NAME_BYTES].decode(errors="ignore")
    content = hashlib.sha256(os.fsencode(facts)).hexdigest()[:16]
    key = f"local--{name}--{place_of(folder)}-{content}"
    if record is not None and known != {name: (stamps[name], hashes[name]) for name in stamps}:
        write_known(record, folder, key, stamps, hashes)
    return key, stamps


def find_graphs(
    source: CheckpointSource,
    devices: Sequence[Device],
    precision: str,
    *,
    local_files_only: bool,
    token: str | bool | None,
) -> Path | None:
    """The folder of a model of the hub that needs no export, None of any other; see `hub_graphs.find_graphs`.

    Raises:
        MissingDependencyError: If huggingface-hub is not installed.
    """
    try:
        from .hub_graphs import find_graphs
    except ImportError as error:
        raise MissingDependencyError(_DOWNLOADING) from error
    return find_graphs(source.name, source.revision, devices, precision, local_files_only=local_files_only, token=token)


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
        from .hub import download_checkpoint
    except ImportError as error:
        raise MissingDependencyError(_DOWNLOADING) from error
    folder = download_checkpoint(source.name, source.revision, local_files_only=local_files_only, token=token)
    return folder, folder.name
