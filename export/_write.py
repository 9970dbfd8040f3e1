"""An artifact folder appears whole or not at all: written beside its place, synced, swapped in."""

import ctypes
import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock

from crossrank._errors import InputError
from crossrank._manifest import MANIFEST_NAME

_RENAME_EXCHANGE = 2
_AT_FDCWD = -100


@contextmanager
def locked(target: Path) -> Iterator[None]:
    """Hold the lock of an artifact, so that two exports of one model do not collide.

    Raises:
        InputError: If the folder above cannot be written.
    """
    lock = FileLock(target.parent / f".{target.name}.lock")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except OSError as error:
        raise InputError(
            f"{target.parent} cannot be written: {error.strerror or error}; "
            f"choose another folder: -o, cache_folder or $CROSSRANK_HOME"
        ) from error
    try:
        yield
    finally:
        lock.release()


def check_replaceable(target: Path, *, force: bool) -> None:
    """Refuse to write over what is not ours, or over an artifact unless forced.

    Raises:
        InputError: If ``target`` exists and may not be replaced.
    """
    if not target.exists() or (target.is_dir() and not any(target.iterdir())):
        return
    if not (target / MANIFEST_NAME).exists():
        raise InputError(f"{target} exists and is no crossrank artifact: choose another folder with -o")
    if not force:
        raise InputError(f"{target} holds another export: pass --force (force=True) to replace it")


@contextmanager
def new_folder(target: Path) -> Iterator[Path]:
    """An empty folder beside ``target``, removed at the end unless `swap_in` moved it.

    Call it with the lock held: what a killed export left at its place is removed.
    """
    folder = target.parent / f".{target.name}.tmp"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def swap_in(folder: Path, target: Path) -> None:
    """Sync ``folder`` to disk and put it in the place of ``target``, atomically where the system can."""
    for path in [*folder.rglob("*"), folder]:
        _sync(path)
    if target.exists() and not _exchange(folder, target):
        old = target.parent / f".{target.name}.old"
        shutil.rmtree(old, ignore_errors=True)
        target.rename(old)  # without an atomic exchange there is a moment with neither
        folder.rename(target)
        shutil.rmtree(old, ignore_errors=True)
    elif folder.exists() and not target.exists():
        folder.rename(target)
    _sync(target.parent)


def _sync(path: Path) -> None:
    if path.is_dir() and os.name == "nt":
        return  # Windows cannot open a folder
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _exchange(first: Path, second: Path) -> bool:
    """Swap two folders in one step (Linux's renameat2); False where there is no such call."""
    rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None) if os.name == "posix" else None
    if rename is None:
        return False
    paths = os.fsencode(first), os.fsencode(second)
    if rename(_AT_FDCWD, paths[0], _AT_FDCWD, paths[1], _RENAME_EXCHANGE) == 0:
        return True
    code = ctypes.get_errno()
    if code in (errno.EINVAL, errno.ENOSYS):  # a file system without it
        return False
    raise OSError(code, os.strerror(code), str(second))
