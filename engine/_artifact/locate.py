"""The place of a model, found by what a caller names it, and the cache of exported ones.

An artifact folder, a folder that holds ONNX files but no weights, and an ONNX file are used as they are.
So is the embedded model, an artifact that is part of the package. Anything else, a checkpoint folder or a
hub name, goes to whatever package offers to make artifacts (entry point group ``crossrank.artifacts``;
crossrank's own exporter registers there), so that the engine itself knows no exporter.
"""

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

from crossrank._errors import InputError, MissingDependencyError, ModelNotFoundError
from crossrank._interrupts import not_thrown_in
from crossrank._json import has_entry
from crossrank._machine.device import Device
from crossrank._options import switch

from .manifest import MANIFEST_NAME
from .origin import EMBEDDED_MODEL, EMBEDDED_NAME, INSTALL_AGAIN

_GROUP = "crossrank.artifacts"


def lasting_name(name_or_folder: str | Path) -> str | Path:
    """What names the same model from another folder: a path is made absolute, a name stays."""
    path = Path(name_or_folder)
    return path.absolute() if path.exists() else name_or_folder


def locate_model(
    name_or_folder: str | Path,
    *,
    cache_folder: Path | None = None,
    revision: str | None = None,
    local_files_only: bool = False,
    token: str | bool | None = None,
    precision: str = "auto",
    device: Device | None = None,
    embedded: Path = EMBEDDED_MODEL,
) -> Path:
    """The folder of a model's graphs, or the ONNX file that was named.

    Args:
        name_or_folder: An artifact folder, a folder of ONNX files, an ONNX file, a checkpoint folder, the embedded
            model's name, or one that the exporter knows. A folder goes before a name.
        cache_folder: Where exported models lie, or None for the user's cache.
        revision: Hub revision, or None.
        local_files_only: Whether the hub must not be asked.
        token: Hub token.
        precision: "auto" or one of `PRECISIONS`: what is exported where that must be done.
        device: Where the model will run, or None for the best that runs; likewise.
        embedded: Where the embedded model lies.

    Raises:
        InputError: If the name is empty, a revision of a folder or a file is asked for, or nobody makes the graphs.
        ModelNotFoundError: If there is no such model.
        ModelError: If it must be exported and cannot be.
        MissingDependencyError: If no exporter is installed.
    """
    if not isinstance(name_or_folder, str | Path) or not str(name_or_folder):
        raise InputError(
            f"the model's name is {name_or_folder!r:.60}: an artifact, a checkpoint folder or a hub name is needed"
        )
    local_files_only = bool(switch("local_files_only", local_files_only))
    place = Path(name_or_folder)
    if str(place) == EMBEDDED_NAME and not place.is_dir():
        place = embedded
    if place.exists():
        check_revision(place, revision)
    if place.is_dir() and (has_entry(place / MANIFEST_NAME) or _is_foreign(place)):
        return place
    if place == embedded:
        raise ModelNotFoundError(
            f"{place} is absent or empty: the embedded model is part of crossrank: {INSTALL_AGAIN}"
        )
    if place.suffix == ".onnx" and not place.is_dir():
        if not place.is_file():
            raise ModelNotFoundError(f"{place}: no such file")
        return place
    from importlib import metadata  # seldom needed

    makers = list(metadata.entry_points(group=_GROUP))
    if not makers:
        raise MissingDependencyError(
            f"{name_or_folder} is no artifact and holds no ONNX graph, and no exporter is installed ({_GROUP})"
        )
    make: Callable[..., Path] = makers[0].load()
    return make(
        str(name_or_folder),
        cache_folder=cache_folder,
        revision=revision,
        local_files_only=local_files_only,
        token=token,
        precision=precision,
        device=device,
    )


def _is_foreign(folder: Path) -> bool:
    from .foreign import is_foreign  # an artifact needs nothing of it

    return is_foreign(folder)


def check_revision(place: Path, revision: str | None) -> None:
    """Raise `InputError` if a revision of what lies on this machine is asked for."""
    if revision is not None:
        kind = "folder" if place.is_dir() else "file"
        raise InputError(f"revision={revision!r}: {place} is a {kind}, which has no revisions; leave it out")


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
    except not_thrown_in(RuntimeError) as error:
        raise InputError(
            "this user has no home folder to keep models in: set CROSSRANK_HOME or pass cache_folder"
        ) from error


def place_of(folder: Path) -> str:
    """What stands for a checkpoint folder's path in the names of its artifacts."""
    return hashlib.sha256(os.fsencode(folder)).hexdigest()[:8]


def folder_record(root: Path, folder: Path) -> Path:
    """The file in a cache that says of a checkpoint folder where it is, and which artifact is its own now."""
    return root / "folders" / f"{place_of(folder)}.json"
