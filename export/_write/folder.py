"""An artifact's folder, which appears whole or not at all: written beside its place, synced, swapped in."""

import ctypes
import errno
import logging
import os
import shutil
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from crossrank._artifact.manifest import MANIFEST_NAME, PROOF_NAME
from crossrank._artifact.place import (
    OUTPUT,
    check_work_area,
    lock_file,
    moved_aside,
    put_right,
    try_lock,
    wait_for_lock,
    work_area,
)
from crossrank._errors import InputError
from crossrank._interrupts import not_thrown_in
from crossrank._json import has_entry, read_json_object
from crossrank.export._report import Report, stage

from .settings import SETTINGS_FILES

logger = logging.getLogger(__name__)

_RENAME_EXCHANGE = 2
_AT_FDCWD = -100
# Everything at the top of an artifact folder.
ENGINES = "tensorrt"  # a folder of TensorRT's engines, which are made again
_OURS = {MANIFEST_NAME, PROOF_NAME, "onnx", ENGINES, *SETTINGS_FILES}
# Errors that only writing gives. Python gives them without a path when they come from write() or fsync().
_ONLY_OF_WRITING = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS}


@contextmanager
def locked(target: Path, report: Report | None = None, *, check: bool = False) -> Iterator[None]:
    """Hold the place of an artifact: one export at a time, and what a killed one left is put right first.

    The system drops the lock of a process that ends, however it ends. The lock's file, hidden and empty, stays.

    Args:
        target: The artifact folder.
        report: Told when another export must be waited for.
        check: Refuse what `check_replaceable` refuses, a place without an artifact, before a lock's file is made.

    Raises:
        InputError: If ``target`` or what is beside it cannot be written, here or inside the block; if its file
            system has no locks; or if a link or another user's folder is where ours belongs.
    """
    try:
        if check and not has_entry(target / MANIFEST_NAME):
            check_replaceable(target, force=False)
        target.parent.mkdir(parents=True, exist_ok=True)
        lock = try_lock(target)
        if lock is None:
            logger.info("waiting for another export of %s", target)
            with stage(report, "wait for another export"):
                lock = wait_for_lock(target)
        try:
            check_work_area(target)
            put_right(target)
            yield
        finally:
            lock.release()
    except not_thrown_in(OSError) as error:
        if not _is_of_writing(error, target):
            raise
        raise InputError(_unwritable(target, error)) from error


def check_replaceable(target: Path, *, force: bool, in_cache: bool = False) -> None:
    """Refuse to write over what is not ours, or over an artifact unless forced.

    Args:
        target: Where an artifact is to be written.
        force: Whether an artifact may be replaced.
        in_cache: Whether the place is crossrank's own; one without a manifest is then a damaged artifact.

    Raises:
        InputError: If ``target`` exists and may not be replaced.
    """
    if os.path.ismount(target):
        raise InputError(f"{target} is a mount point, which cannot be replaced: choose a folder inside it {OUTPUT}")
    if os.path.exists(target) and target.samefile("."):
        raise InputError(
            f"{target} is the current folder, which cannot be replaced: choose a folder inside it {OUTPUT}"
        )
    if not os.path.exists(target) or (target.is_dir() and not any(target.iterdir())):
        return
    damaged = not (target / MANIFEST_NAME).exists()
    if damaged and not in_cache:
        raise InputError(f"{target} exists and is no crossrank artifact: choose another folder {OUTPUT}")
    if others := _others(target):
        raise InputError(
            f"{target} holds what is no part of an artifact and would be lost: {', '.join(others)}; "
            f"move it away or choose another folder {OUTPUT}"
        )
    if not force and not damaged:
        raise InputError(
            f"{target} holds another export, of another checkpoint, length or set of graphs: pass force=True (in "
            f"a shell --force) to replace it"
        )


def _others(target: Path) -> list[str]:
    """The files of an artifact folder that no export wrote there."""
    try:
        ours = {MANIFEST_NAME, *read_json_object(target / MANIFEST_NAME)["files"]}
    except not_thrown_in(OSError, ValueError, KeyError, TypeError):  # damaged; what may be ours passes for ours
        return sorted(path.name for path in target.iterdir() if path.name not in _OURS)
    found = {path.relative_to(target).as_posix() for path in target.rglob("*") if not path.is_dir()}
    return sorted(name for name in found - ours if not name.startswith(f"{ENGINES}/"))


@contextmanager
def new_folder(target: Path) -> Iterator[Path]:
    """An empty folder on the file system of ``target``, removed at the end unless `swap_in` moved it.

    Call it with the lock held.
    """
    area = work_area(target)
    folder = area / "new"
    check_work_area(target)
    try:
        area.mkdir(mode=0o700, parents=True)  # nobody else changes what is in the making
        folder.mkdir()
        yield folder
    finally:
        put_right(target)


def link_files(source: Path, folder: Path, names: Iterable[str]) -> None:
    """Put files of an artifact into another folder of its file system, linked where that can be, else copied."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        _link(source / name, folder / name)


def link_engines(source: Path, folder: Path) -> None:
    """The same for TensorRT's engines, which stay good for the graphs that they were built from.

    A process may be writing some: what is not whole is built again.
    """
    if (source / ENGINES).is_dir():
        with suppress(shutil.Error, OSError):
            shutil.copytree(source / ENGINES, folder / ENGINES, symlinks=True, copy_function=_link)


def _link(source: str | Path, target: str | Path) -> None:
    try:
        os.link(source, target)
    except not_thrown_in(OSError):  # a file system without hard links
        shutil.copy2(source, target)


def swap_in(folder: Path, target: Path) -> None:
    """Sync what `new_folder` gave to disk and put it in the place of ``target``, in one step where the system can.

    Who may read the folder may read its files: onnx writes those of external data for their user alone.
    """
    allowed = folder.stat().st_mode & 0o666  # by the process's umask, as a file that it opens
    for path in [*folder.rglob("*"), folder]:
        mode = path.stat().st_mode
        if mode | allowed != mode:
            path.chmod(stat.S_IMODE(mode) | allowed)
        _sync(path)
    if not target.exists():
        folder.rename(target)
    elif not _exchange(folder, target):
        swap_in_two_steps(folder, target)
    _sync(target.parent)


def swap_in_two_steps(folder: Path, target: Path) -> None:
    """Between the steps nothing is at ``target``; should it end there, `locked` puts the older one back."""
    target.rename(moved_aside(target))
    folder.rename(target)


def _is_of_writing(error: OSError, target: Path) -> bool:
    """Whether an error is about ``target`` or what we keep beside it, and not about the checkpoint that is read."""
    paths = [Path(str(path)) for path in (error.filename, error.filename2) if path is not None]
    if not paths:
        return error.errno in _ONLY_OF_WRITING
    lock, places = str(lock_file(target)), (target, work_area(target))
    return any(
        path in target.parents or str(path).startswith(lock) or any(path.is_relative_to(place) for place in places)
        for path in paths
    )


def _unwritable(target: Path, error: OSError) -> str:
    remedy, detail = f"choose another folder {OUTPUT}, cache_folder or $CROSSRANK_HOME", ""
    if error.errno == errno.ENOSPC:
        place = next(path for path in target.parents if path.exists())
        free_mb = shutil.disk_usage(place).free / 1e6  # what was half written is gone by now
        remedy, detail = f"make room or {remedy}", f", it needs more than the {free_mb:.1f} MB that are free"
    elif error.filename is not None:
        detail = f" ({error.filename})"
    return f"{target} cannot be written: {error.strerror or error}{detail}; {remedy}"


def _sync(path: Path) -> None:
    windows = os.name == "nt"
    if path.is_dir() and windows:
        return  # Windows cannot open a folder
    descriptor = os.open(path, os.O_RDWR if windows else os.O_RDONLY)  # there a sync wants the right to write
    try:
        os.fsync(descriptor)
    except not_thrown_in(OSError) as error:  # a disk that fails says so here
        error.filename = str(path)
        raise
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
