"""The place of an artifact: its lock, the folder in the making beside it, and what a killed export left there."""

import os
import shutil
import stat
from pathlib import Path

from ._errors import InputError
from ._file_lock import FileLock

# Nobody else's name: it is removed unseen.
_WORK_SUFFIX = ".crossrank-tmp"


def lock_of(target: Path) -> FileLock:
    """The lock of who writes an artifact."""
    return FileLock(lock_file(target))


def lock_file(target: Path) -> Path:
    """The file of that lock, hidden and empty."""
    return target.parent / f".{target.name}.lock"


def work_area(target: Path) -> Path:
    """The folder, beside an artifact, of what is in the making and on its way out."""
    return target.parent / f".{target.name}{_WORK_SUFFIX}"


def target_of(path: Path) -> Path | None:
    """The artifact that a lock's file or a work area belongs to, None if the path is neither."""
    for suffix in (".lock", _WORK_SUFFIX):
        if path.name.startswith(".") and path.name.endswith(suffix) and len(path.name) > 1 + len(suffix):
            return path.with_name(path.name[1 : -len(suffix)])
    return None


def moved_aside(target: Path) -> Path:
    """Where the older artifact is between two renames, on a system that cannot exchange folders."""
    return work_area(target) / "old"


def check_work_area(target: Path) -> None:
    """Refuse a link, or a folder that somebody else made, in the place of the one that we fill and remove.

    Raises:
        InputError: If there is one.
    """
    area = work_area(target)
    try:
        status, parent = os.lstat(area), os.stat(area.parent)
    except FileNotFoundError:
        return
    if not stat.S_ISDIR(status.st_mode):
        kind = "a link" if stat.S_ISLNK(status.st_mode) else "no folder"
        raise InputError(f"{area} is {kind}, where an export's own folder belongs: remove it")
    anybody = parent.st_mode & stat.S_IWOTH
    if os.name == "posix" and anybody and status.st_uid != os.geteuid():
        raise InputError(
            f"{area} belongs to another user (uid {status.st_uid}), in a folder where anybody may write: have it "
            f"removed, or choose another folder: -o, cache_folder or $CROSSRANK_HOME"
        )


def put_right(target: Path) -> None:
    """Remove what an export left beside ``target``, once the older artifact is back in its place.

    Call with the lock held, after `check_work_area`.
    """
    if moved_aside(target).exists() and not target.exists():
        moved_aside(target).rename(target)
    shutil.rmtree(work_area(target), ignore_errors=True)
