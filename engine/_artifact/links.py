"""Links in a model's folder: they lead to another file of it, or of the hub's cache, and nowhere else."""

import os
from pathlib import Path, PurePosixPath

_MOST_STEPS = 100  # more are a circle


def leads_out(folder: Path, name: PurePosixPath) -> bool:
    """Whether links take a name out of its folder.

    The hub's library keeps the files of a repository in ``blobs``, and in ``snapshots/COMMIT`` links to them, which
    may be followed: it made them itself, since a repository cannot hold links.

    Link by link, and not by comparing resolved paths: the folder may get another name meanwhile.

    Args:
        folder: The folder.
        name: A path in it without "..".
    """
    done: list[str] = []
    todo = list(reversed(name.parts))
    for _ in range(_MOST_STEPS):
        if not todo:
            return False
        part = todo.pop()
        if part == "..":
            if not done:
                return not _is_blob(folder, todo[::-1])
            done.pop()
            continue
        path = folder.joinpath(*done, part)
        if not path.is_symlink():
            done.append(part)
            continue
        target = path.readlink()
        if target.is_absolute():
            done, target = [], Path(os.path.relpath(target.resolve(), folder.resolve()))
        todo += reversed(target.parts)
    return True


def is_snapshot(folder: Path) -> bool:
    """Whether a folder is a commit of a model in the hub's cache, which may hold a part of its files."""
    return read_snapshot(folder) is not None


def read_snapshot(folder: Path) -> tuple[str, str] | None:
    """The hub id and the commit of a model's folder in the hub's cache, None of any other folder."""
    folder = folder.resolve()
    snapshots, name = folder.parent.name, folder.parent.parent.name
    if snapshots != "snapshots" or not name.startswith("models--"):
        return None
    return name.removeprefix("models--").replace("--", "/"), folder.name


def _is_blob(folder: Path, rest: list[str]) -> bool:
    """Whether what follows a first ".." is a file of the hub's cache, seen from a snapshot."""
    return rest[:2] == ["..", "blobs"] and len(rest) == 3 and is_snapshot(folder)
