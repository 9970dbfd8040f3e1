"""An artifact in the making: its lock, the folder beside its place, and what a killed export left there."""

import errno
import os
import shutil
import stat
from pathlib import Path
from typing import TYPE_CHECKING

from crossrank._errors import InputError
from crossrank._interrupts import not_thrown_in

if TYPE_CHECKING:
    from filelock import BaseFileLock

# How messages name the folder to be written.
OUTPUT = "with output= (in a shell -o)"
# What a file system without locks gives: ENOSYS of Lustre, ENOLCK of NFS without its lock daemon.
_WITHOUT_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP)
# How a lock's file is opened: not through a link, and without waiting at a pipe.
_NO_LINKS = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
# Nobody else's name: it is removed unseen.
_WORK_SUFFIX = ".crossrank-tmp"


def wait_for_lock(target: Path) -> "BaseFileLock":
    """Take the lock of who writes an artifact, once nobody else holds it. It falls with its process.

    Returns:
        What gives the lock back by `release`.

    Raises:
        InputError: As `try_lock`.
        OSError: As `try_lock`.
    """
    lock = _take_lock(target, wait=True)
    assert lock is not None, "it was waited for"
    return lock


def try_lock(target: Path) -> "BaseFileLock | None":
    """As `wait_for_lock`, but None if another one holds the lock.

    Raises:
        InputError: If the lock's file is a link or no file, which may be put there to lead a write elsewhere; or if the
            file system has no locks.
        OSError: If the file cannot be made or opened.
    """
    return _take_lock(target, wait=False)


def _take_lock(target: Path, *, wait: bool) -> "BaseFileLock | None":
    from filelock import FileLock, Timeout

    path = lock_file(target)
    if path.is_symlink() or (path.exists() and not path.is_file()):
        kind = "a link" if path.is_symlink() else "no file"
        raise InputError(f"{path} is {kind}, where a lock's own file belongs: remove it")
    # A soft lock would outlive a process that is killed.
    lock = FileLock(path, blocking=wait, fallback_to_soft=False)
    try:
        # Made here, since the lock waits where the system makes no such file, as in /proc.
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | _NO_LINKS, 0o666))
        lock.acquire()
    except Timeout:
        return None
    except not_thrown_in(OSError) as error:
        if error.errno in _WITHOUT_LOCKS:
            raise InputError(
                f"{target} cannot be written: the file system of {target.parent} has no locks ({error.strerror}), and "
                f"two exports could meet there; choose another folder {OUTPUT}, cache_folder or $CROSSRANK_HOME"
            ) from error
        error.filename = error.filename or str(path)
        raise
    return lock


def is_locked(target: Path) -> bool:
    """Whether an artifact's lock is seen to be held. No file is made or changed, and reading it suffices."""
    try:
        descriptor = os.open(lock_file(target), os.O_RDONLY | _NO_LINKS)
    except not_thrown_in(OSError):
        return False
    from filelock import lock_descriptor, unlock_descriptor

    try:
        if not lock_descriptor(descriptor, blocking=False):
            return True
        unlock_descriptor(descriptor)  # closing it is not enough where a forked child has it open too
    except not_thrown_in(OSError):  # a file system without locks, where nothing is exported
        pass
    finally:
        os.close(descriptor)
    return False


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
            f"removed, or choose another folder {OUTPUT}, cache_folder or $CROSSRANK_HOME"
        )


def put_right(target: Path) -> None:
    """Remove what an export left beside ``target``, once the older artifact is back in its place.

    Call with the lock held, after `check_work_area`.
    """
    if moved_aside(target).exists() and not target.exists():
        moved_aside(target).rename(target)
    shutil.rmtree(work_area(target), ignore_errors=True)
