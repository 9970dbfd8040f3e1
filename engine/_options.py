"""Options as callers pass them, but for numbers: folders, switches and hooks."""

import inspect
import os
from pathlib import Path
from typing import Any

from ._errors import InputError


def folder_path(name: str, value: Any) -> Path:
    """The path of a folder that a caller names; an empty one would mean the current folder.

    Args:
        name: The option's, for the message.
        value: Text, or what else is a path.

    Raises:
        InputError: If it is no path, or an empty text.

    >>> folder_path("cache_folder", "models").name
    'models'
    """
    path = os.fspath(value) if isinstance(value, str | os.PathLike) else None
    if not isinstance(path, str) or not path:
        raise InputError(f"{name}={value!r:.60}: the path of a folder is needed")
    return Path(path)


def switch(name: str, value: Any) -> bool | None:
    """True, False or None of what a caller passes for one of these.

    Raises:
        InputError: If it is neither true nor false, as an array of several.

    >>> switch("return_documents", 1)
    True
    """
    if value is None or value is True or value is False:
        return value
    try:
        return bool(value)
    except Exception as error:  # whatever its class raises
        raise InputError(f"{name}={value!r:.60}: True or False is needed") from error


def check_hook(name: str, value: Any) -> None:
    """Raise `InputError` unless a value is None or can be called; what must be awaited would never run."""
    if value is None or (callable(value) and not inspect.iscoroutinefunction(value)):
        return
    kind = "it is a coroutine's, which nobody would await" if callable(value) else "it cannot be called"
    raise InputError(f"{name}={value!r:.60}: {kind}; a plain function is needed, or None")
