"""The cache of exported models: what lies in it, and what of it nobody loads any more."""

import os
import re
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from crossrank._errors import ArtifactError, InputError
from crossrank._json import read_json_object
from crossrank._printable import printable_line

from .locate import place_of
from .manifest import FORMAT, MANIFEST_NAME, read_manifest
from .place import (
    check_work_area,
    is_locked,
    lock_file,
    moved_aside,
    put_right,
    target_of,
    try_lock,
    work_area,
)

# The artifact of a folder: its name, what stands for its path, and its content; and as it was before content counted.
_OF_FOLDER = re.compile(r"local--.*--(?P<place>[0-9a-f]{8})-[0-9a-f]{16}", re.DOTALL)
_OF_FOLDER_BEFORE = re.compile(r"local--.*--[0-9a-f]{16}", re.DOTALL)
# A file in the making that is older is nobody's any more.
_ABANDONED_S = 60.0


@dataclass(frozen=True, slots=True)
class CachedArtifact:
    """An artifact in the cache.

    Attributes:
        name: Its folder's name.
        source: The hub id or the checkpoint folder's name that it was made of, "" where it is damaged.
        revision: The hub's commit.
        folder: The checkpoint folder, where that is known.
        graphs: Such as "cpu fp32".
        size_bytes: All of its files.
        written: When it was written, in ISO 8601.
        age_s: How long ago that is.
        exporting: Whether an export is at work on it.
        damaged: Whether its manifest or a file is not what it should be.
        useless: Why nothing loads it any more, None where something may.
    """

    name: str
    source: str
    revision: str | None
    folder: str | None
    graphs: tuple[str, ...]
    size_bytes: int
    written: str
    age_s: float
    exporting: bool
    damaged: bool
    useless: str | None


@dataclass(frozen=True, slots=True)
class Removal:
    """What was removed from the cache, or would be.

    Attributes:
        name: The folder's or the file's name.
        reason: Why.
        size_bytes: What it freed.
        problem: Why it is still there, None if it is not.
    """

    name: str
    reason: str
    size_bytes: int
    problem: str | None = None


def list_cache(root: Path) -> list[CachedArtifact]:
    """The artifacts of a cache, the newest first. Nothing is changed, and no file is made.

    Args:
        root: From `cache_root`.
    """
    records = _folder_records(root)
    found = [_describe(path, records) for path in _entries(root) if _is_artifact(path)]
    return sorted((artifact for artifact in found if artifact is not None), key=lambda artifact: artifact.age_s)


def remove_from_cache(root: Path, names: Sequence[str], *, dry_run: bool = False) -> list[Removal]:
    """Remove artifacts.

    Args:
        root: From `cache_root`.
        names: Each a name that `list_cache` gives, a hub id with or without its owner, or the path of a checkpoint
            folder; all artifacts of it are meant.
        dry_run: Only say what would be removed.

    Raises:
        InputError: If there is none of a name; then nothing is removed.
    """
    artifacts, chosen = list_cache(root), dict[str, CachedArtifact]()
    for name in names:
        meant = [artifact for artifact in artifacts if _is_called(artifact, name)]
        if not meant:
            have = ", ".join(sorted({_names(artifact)[0] for artifact in artifacts})) or "nothing"
            text = f"{name}: the cache {root} has no artifact of it; it has {have} (crossrank cache list)"
            raise InputError(printable_line(text))
        chosen |= {artifact.name: artifact for artifact in meant}
    return [
        _removal(name, "as asked", artifact.size_bytes, dry_run, partial(_remove_artifact, root / name))
        for name, artifact in chosen.items()
    ]


def prune_cache(root: Path, *, dry_run: bool = False) -> list[Removal]:
    """Remove what nothing loads any more, and what killed exports left.

    That is: artifacts of checkpoint folders that are gone, or whose content changed since; artifacts of older formats;
    temporary folders and locks that no process holds. An artifact that a killed export had moved aside is put back.

    Args:
        root: From `cache_root`.
        dry_run: Only say what would be removed.
    """
    removals = []
    for target in _targets(root):
        area = work_area(target)
        if os.path.lexists(area) and not is_locked(target):
            reason = "left by an export that was killed"
            if moved_aside(target).exists() and not target.exists():
                reason += f"; {target.name}, which it had moved aside, is put back"
            removals.append(
                _removal(area.name, reason, _size(area), dry_run, _locked(target, partial(put_right, target)))
            )
    for artifact in list_cache(root):
        if artifact.useless is not None:
            act = partial(_remove_artifact, root / artifact.name)
            removals.append(_removal(artifact.name, artifact.useless, artifact.size_bytes, dry_run, act))
    for target in _targets(root):
        file = lock_file(target)
        nothing = not target.exists() and not os.path.lexists(work_area(target))
        if nothing and file.is_file() and not is_locked(target):
            removals.append(_removal(file.name, "a lock of no artifact", 0, dry_run, _locked(target, lambda: None)))
    _prune_records(root, dry_run=dry_run)
    return removals


def _entries(root: Path) -> list[Path]:
    try:
        return sorted(root.iterdir())
    except FileNotFoundError:
        return []


def _targets(root: Path) -> list[Path]:
    """The places of artifacts that have a lock's file or a work area beside them."""
    return sorted({target for path in _entries(root) if (target := target_of(path)) is not None})


def _is_artifact(path: Path) -> bool:
    return not path.name.startswith(".") and (path / MANIFEST_NAME).is_file()


def _folder_records(root: Path) -> dict[str, tuple[str, str]]:
    """The path of each checkpoint folder, and the name of its artifact, by what stands for the path in names."""
    records = {}
    for path in _entries(root / "folders"):
        try:
            data = read_json_object(path)
            folder, key = data["folder"], data["key"]
        except (OSError, ValueError, KeyError):
            continue
        if isinstance(folder, str) and isinstance(key, str) and place_of(Path(folder)) == path.stem:
            records[path.stem] = folder, key
    return records


def _describe(path: Path, records: dict[str, tuple[str, str]]) -> CachedArtifact | None:
    """What is known of an artifact; None if it was removed meanwhile."""
    try:
        written = (path / MANIFEST_NAME).stat().st_mtime
    except FileNotFoundError:
        return None
    match = _OF_FOLDER.fullmatch(path.name)
    folder, key = records.get(match["place"], (None, None)) if match else (None, None)
    artifact = CachedArtifact(
        name=path.name,
        source="",
        revision=None,
        folder=folder,
        graphs=(),
        size_bytes=_size(path),
        written=datetime.fromtimestamp(written, UTC).isoformat(timespec="seconds"),
        age_s=time.time() - written,
        exporting=is_locked(path),
        damaged=False,
        useless=_useless(path, folder, key),
    )
    try:
        manifest = read_manifest(path)
    except ArtifactError:
        return replace(artifact, damaged=True) if (path / MANIFEST_NAME).exists() else None
    graphs = tuple(variant.name for variant in manifest.variants)
    return replace(artifact, source=manifest.source.name, revision=manifest.source.revision, graphs=graphs)


def _is_called(artifact: CachedArtifact, name: str) -> bool:
    return bool(name) and (name in _names(artifact) or artifact.folder == os.path.realpath(name))


def _names(artifact: CachedArtifact) -> list[str]:
    """What somebody may call an artifact, the clearest first. Folders of one name are many, so that is none of them."""
    if _OF_FOLDER.fullmatch(artifact.name) or _OF_FOLDER_BEFORE.fullmatch(artifact.name):
        return [artifact.folder or artifact.name, artifact.name]
    return [name for name in (artifact.source, artifact.name, artifact.source.rpartition("/")[2]) if name]


def _useless(path: Path, folder: str | None, key: str | None) -> str | None:
    if _OF_FOLDER_BEFORE.fullmatch(path.name):
        return "of an older version, which did not look at a folder's content"
    if folder is not None and not Path(folder).is_dir():
        return f"the folder {folder} is gone"
    if folder is not None and key != path.name:
        return f"the content of {folder} changed"
    try:
        found = read_json_object(path / MANIFEST_NAME).get("format")
    except (OSError, ValueError):
        return None
    return f"of the older format {found}" if isinstance(found, int) and found < FORMAT else None


def _size(path: Path) -> int:
    """The bytes of a folder's files, each once."""
    sizes = {}
    for file in _files(path):
        try:
            status = file.lstat()
        except OSError:  # gone meanwhile
            continue
        sizes[status.st_dev, status.st_ino] = status.st_size
    return sum(sizes.values())


def _files(path: Path) -> Iterator[Path]:
    for folder, _, names in os.walk(path):
        yield from (Path(folder, name) for name in names)


def _removal(name: str, reason: str, size_bytes: int, dry_run: bool, act: Callable[[], str | None]) -> Removal:
    """Remove something, unless that is only to be said; what fails is said too."""
    problem = None
    if not dry_run:
        try:
            problem = act()
        except (OSError, InputError) as error:
            problem = str(error)
    return Removal(name, reason, size_bytes, problem)


def _locked(target: Path, act: Callable[[], object]) -> Callable[[], str | None]:
    """What does something with an artifact's lock held, and the lock's file gone after it; says why it did not."""

    def run() -> str | None:
        lock = try_lock(target)
        if lock is None:
            return "it is being exported"
        try:
            check_work_area(target)
            act()
            if not target.exists():
                lock_file(target).unlink(missing_ok=True)
        finally:
            lock.release()
        return None

    return run


def _remove_artifact(target: Path) -> str | None:
    def remove() -> None:
        put_right(target)
        if target.is_symlink():
            target.unlink()
            return
        # Gone in one step for whoever loads it; what a kill leaves of it, the next export or prune removes.
        work_area(target).mkdir(mode=0o700)
        target.rename(work_area(target) / "removed")
        shutil.rmtree(work_area(target))

    return _locked(target, remove)()


def _prune_records(root: Path, *, dry_run: bool) -> None:
    """Forget folders that are gone and have no artifact left; there is nothing in it for anybody to read about."""
    places = {match["place"] for path in _entries(root) if (match := _OF_FOLDER.fullmatch(path.name))}
    records = _folder_records(root)
    for path in _entries(root / "folders"):
        folder, _ = records.get(path.stem, ("", ""))
        gone = folder and path.stem not in places and not Path(folder).is_dir()
        if (gone or _is_abandoned(path)) and not dry_run:
            path.unlink(missing_ok=True)


def _is_abandoned(path: Path) -> bool:
    try:
        return path.name.startswith(".") and time.time() - path.lstat().st_mtime > _ABANDONED_S
    except FileNotFoundError:  # it has got its own name meanwhile
        return False
