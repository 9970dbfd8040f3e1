"""Graphs that the hub has ready: of artifacts, and of repositories that hold ONNX files and no weights.

They are used as they are, from the hub's own cache. Of the graphs only those are downloaded that a device and a
precision need.
"""

from collections.abc import Iterable, Iterator, Sequence
from glob import escape
from itertools import chain
from pathlib import Path, PurePosixPath

from huggingface_hub import HfApi, constants, try_to_load_from_cache

from crossrank._artifact.choice import choose_variant
from crossrank._artifact.foreign import describe_variants, is_foreign
from crossrank._artifact.manifest import MANIFEST_NAME, Manifest, Variant, all_graph_files, graph_files, read_manifest
from crossrank._artifact.origin import make_graph
from crossrank._artifact.settings import transformer_folder, weight_names
from crossrank._errors import ArtifactError, ModelNotFoundError
from crossrank._interrupts import not_thrown_in
from crossrank._machine.device import Device

from .hub import SETTINGS, download, silence, within


def find_graphs(
    name: str,
    revision: str | None,
    devices: Sequence[Device],
    precision: str,
    *,
    local_files_only: bool,
    token: str | bool | None,
) -> Path | None:
    """The folder of a repository that needs no export, with the graphs that are needed; None of any other repository.

    An artifact that the hub's cache holds is taken from there. Of others the hub is asked what they hold, and where it
    does not answer, the cache.

    Args:
        name: Hub id.
        revision: Branch, tag or commit, or None for the newest.
        devices: Where the model may run, the best first.
        precision: "auto" or one of `PRECISIONS`.
        local_files_only: Never ask the hub.
        token: Hub token, True for the one of the log-in.

    Raises:
        ModelNotFoundError: If a file of it cannot be had.
        ModelError: If it has no graph for the device and the precision, or its manifest is damaged.
    """
    cached = _cached(name, revision)
    is_artifact = cached is not None and (cached / MANIFEST_NAME).exists()
    if cached is not None and is_artifact and not _absent(cached, devices, precision):
        return cached
    if not (local_files_only or constants.HF_HUB_OFFLINE) and silence(name) is None:
        try:
            files = HfApi(token=token).list_repo_files(name, revision=revision)
        except not_thrown_in(Exception):  # a private repository, or none; who looks for a checkpoint there says which
            return None
        return _download(name, revision, [PurePosixPath(file) for file in files], devices, precision, token)
    if cached is not None and is_artifact:
        absent = ", ".join(_absent(cached, devices, precision))
        raise ModelNotFoundError(
            f"{name}: the hub is offline or does not answer, and its cache {constants.HF_HUB_CACHE} lacks {absent}. "
            "Allow downloads, check the connection, or take another precision"
        )
    return cached if cached is not None and is_foreign(cached) else None


def _download(
    name: str,
    revision: str | None,
    files: Sequence[PurePosixPath],
    devices: Sequence[Device],
    precision: str,
    token: str | bool | None,
) -> Path | None:
    """What is needed of a repository with these files."""

    def get(revision: str | None, names: Iterable[str]) -> Path:
        return download(name, revision, list(names), token=token)

    if PurePosixPath(MANIFEST_NAME) in files:
        folder = get(revision, [MANIFEST_NAME])
        manifest = read_manifest(folder, files=False)
        get(folder.name, map(escape, _needed(folder, manifest, devices, precision)))
        return folder
    if all(file.suffix != ".onnx" for file in files) or any(file.name in weight_names() for file in files):
        return None
    folder = get(revision, SETTINGS)
    place = transformer_folder(folder)
    if place != folder:
        get(folder.name, within(folder, place, SETTINGS))
    inner = PurePosixPath(place.relative_to(folder).as_posix())
    variants = describe_variants(
        file for file in files if file.suffix == ".onnx" and file.parent in (inner, inner / "onnx")
    )
    for graph in _choose(variants, devices, precision):
        get(folder.name, [escape(graph.file)])
        beside = PurePosixPath(graph.file).parent
        weights = {beside / name for name in _external_data(folder / graph.file)}
        get(folder.name, [escape(str(file)) for file in files if file in weights])  # of what it names, what is there
    return folder


def _external_data(path: Path) -> set[str]:
    """The files of an ONNX file's external data, as it names them.

    Raises:
        ArtifactError: If it is none.
    """
    import onnx  # rarely needed, and not light

    def names(graph: onnx.GraphProto) -> Iterator[str]:
        attributes = [attribute for node in graph.node for attribute in node.attribute]
        for tensor in chain(graph.initializer, (attribute.t for attribute in attributes)):
            yield from (entry.value for entry in tensor.external_data if entry.key == "location")
        for attribute in attributes:
            if attribute.HasField("g"):
                yield from names(attribute.g)

    try:
        return set(names(onnx.load(path, load_external_data=False).graph))
    except not_thrown_in(Exception) as error:  # of protobuf, which is onnx's affair
        raise ArtifactError(f"{path} cannot be read as an ONNX file ({error}): download or export it again") from error


def _cached(name: str, revision: str | None) -> Path | None:
    """The folder of a model in the hub's cache, whatever it holds of it."""
    for file in (MANIFEST_NAME, "modules.json", "config.json"):
        found = try_to_load_from_cache(name, file, revision=revision)
        if isinstance(found, str):
            return Path(found).parent
    return None


def _absent(folder: Path, devices: Sequence[Device], precision: str) -> list[str]:
    """The files of an artifact that are needed and not there."""
    manifest = read_manifest(folder, files=False)
    needed = _needed(folder, manifest, devices, precision)
    return sorted(file for file in needed if not (folder / file).exists())


def _needed(folder: Path, manifest: Manifest, devices: Sequence[Device], precision: str) -> list[str]:
    """The files of an artifact, of its graphs those for these devices."""
    variants = _choose(manifest.variants, devices, precision, make_graph(folder))
    graphs = [file for variant in variants for file in graph_files(manifest, variant)]
    return [*(manifest.files.keys() - all_graph_files(manifest)), *graphs]


def _choose(
    variants: Sequence[Variant], devices: Sequence[Device], precision: str, make: str | None = None
) -> list[Variant]:
    """The graph for each of the devices that there is one for, at least one."""
    if len(variants) == 1:  # opening it says whether it will do
        return list(variants)
    chosen = []
    for device in devices:
        try:
            chosen.append(choose_variant(variants, device, precision, make=make))
        except ArtifactError:
            if device is devices[-1] and not chosen:
                raise
    return list(dict.fromkeys(chosen))
