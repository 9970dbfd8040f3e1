"""The origin of an artifact: made here, from the hub or part of the package; and what helps where it fails."""

from importlib.util import find_spec
from pathlib import Path

from .links import is_snapshot

EMBEDDED_NAME = "crossrank-mini-en"
# The default model. A path and no name, so that nothing in the current folder can take its place; where its files
# really lie, since an editable install holds links, and an artifact's files may not leave their folder.
_PACKAGE = find_spec("crossrank")  # and not by importlib.resources, which takes 5 ms to import
assert _PACKAGE is not None, "this is a part of it"
assert _PACKAGE.origin is not None, "it is made of files"
EMBEDDED_MODEL = (Path(_PACKAGE.origin).parent / "models" / EMBEDDED_NAME / "config.json").resolve().parent
INSTALL_AGAIN = "install crossrank again (pip install --force-reinstall crossrank; in a checkout, make install)"
_EXPORT = "export_model(variants=, precisions=) (in a shell export-model --variants --precision)"


def repair(folder: Path) -> str:
    """How to have the files of an artifact whole again, a phrase."""
    place = folder.resolve()
    if place == EMBEDDED_MODEL:
        return INSTALL_AGAIN
    if is_snapshot(place):  # whose links lead to files that a snapshot alone would get again
        return f"remove {place.parent.parent} and load the model by its hub id, which downloads it again"
    return "export the model again with force=True (in a shell export-model --force)"


def make_graph(folder: Path) -> str | None:
    """How to have a graph that an artifact lacks, a phrase; None where nobody has what it is made from."""
    place = folder.resolve()
    if place == EMBEDDED_MODEL:
        return None
    return f"{'export the checkpoint that it comes from' if is_snapshot(place) else 'make it'} with {_EXPORT}"
