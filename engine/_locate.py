"""From what a caller names a model to an artifact folder.

An artifact folder is used as it is. Anything else, a checkpoint folder or a hub name, goes to whatever
package offers to make artifacts (entry point group ``crossrank.artifacts``; crossrank's own exporter
registers there), so that the engine itself knows no exporter.
"""

from collections.abc import Callable
from importlib import metadata
from pathlib import Path

from ._errors import InputError, MissingDependencyError
from ._manifest import MANIFEST_NAME

_GROUP = "crossrank.artifacts"


def locate_artifact(
    name_or_folder: str | Path,
    *,
    cache_folder: Path | None,
    revision: str | None,
    local_files_only: bool,
    token: str | bool | None,
) -> Path:
    """The artifact folder of a model.

    Args:
        name_or_folder: An artifact folder, a checkpoint folder, or a name that the exporter knows.
        cache_folder: Where exported models lie, or None for the user's cache.
        revision: Hub revision, or None.
        local_files_only: Whether the hub must not be asked.
        token: Hub token.

    Raises:
        InputError: If the name is empty.
        ModelNotFoundError: If there is no such model.
        MissingDependencyError: If no exporter is installed.
    """
    if not str(name_or_folder):
        raise InputError("the model's name is empty: an artifact folder, a checkpoint folder or a hub name is needed")
    folder = Path(name_or_folder)
    if (folder / MANIFEST_NAME).exists():
        return folder
    makers = list(metadata.entry_points(group=_GROUP))
    if not makers:
        raise MissingDependencyError(f"{name_or_folder} is no artifact, and no exporter is installed ({_GROUP})")
    make: Callable[..., Path] = makers[0].load()
    return make(
        str(name_or_folder),
        cache_folder=cache_folder,
        revision=revision,
        local_files_only=local_files_only,
        token=token,
    )
