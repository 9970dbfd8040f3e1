"""Where exported models, and what is measured of them, are kept."""

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
