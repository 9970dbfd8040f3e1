"""Where exported models, and what is measured of them, are kept."""

import hashlib
import os
from pathlib import Path

from ._errors import InputError


def cache_root(cache_folder: Path | None) -> Path:
    """The folder of what is kept: the argument, ``$CROSSRANK_HOME``, or ``crossrank`` in the user's cache.

    Raises:
        InputError: If the user has no home folder, as in some containers, and nothing else is said.
    """
    if cache_folder is not None:
        return cache_folder
    if home := os.environ.get("CROSSRANK_HOME"):
        return Path(home)
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "crossrank"
    except RuntimeError as error:
        raise InputError(
            "this user has no home folder to keep models in: set CROSSRANK_HOME or pass cache_folder"
        ) from error


def place_of(folder: Path) -> str:
    """What stands for a checkpoint folder's path in the names of its artifacts."""
    return hashlib.sha256(os.fsencode(folder)).hexdigest()[:8]


def folder_record(root: Path, folder: Path) -> Path:
    """The file in a cache that says of a checkpoint folder where it is, and which artifact is its own now."""
    return root / "folders" / f"{place_of(folder)}.json"
