"""The opening of a model: from its place to a loaded graph and all that is known of it."""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from crossrank._artifact.choice import choose_variant
from crossrank._artifact.held import HeldFolder, ModelFile, hold
from crossrank._artifact.manifest import (
    MANIFEST_NAME,
    PRECISIONS,
    Inputs,
    Manifest,
    Variant,
    graph_files,
    read_manifest,
)
from crossrank._artifact.origin import make_graph, repair
from crossrank._errors import (
    ArtifactError,
    CrossrankError,
    DeviceError,
    InputError,
)
from crossrank._interrupts import not_thrown_in
from crossrank._json import has_entry
from crossrank._machine.beside import beside
from crossrank._machine.cpu import ThreadCount
from crossrank._machine.device import Device
from crossrank._machine.onnxruntime import has_provider
from crossrank._text.tokenizer import PairTokenizer, parse_tokenizer, read_tokenizer

from .backend import Backend
from .compiled import open_kernels
from .cpu import CpuBackend
from .lanes import LaneBackend
from .session import Session

logger = logging.getLogger(__name__)


# A folder that is replaced while it is read is read again: so often, with so many seconds between.
_TRIES = 10
_PAUSE_S = 0.02
_PATIENCE_S = 5.0


@dataclass(frozen=True, slots=True)
class OpenModel:
    """A model that is ready to score.

    Attributes:
        folder: The artifact, or the folder with a foreign graph's settings.
        manifest: What is known of it; of a foreign graph what an artifact's manifest would say.
        tokenizer: The model's tokenizer.
        variant: The graph that was chosen.
        backend: That graph, loaded.
        threads: Threads on a CPU.
        tokenizer_file: The file of the tokenizer.
        config_file: The model's config.json.
        kernels: Why crossrank-kernels does not run an int8 graph; None where it does, or the graph is another one.
    """

    folder: Path
    manifest: Manifest
    tokenizer: PairTokenizer
    variant: Variant
    backend: Backend
    threads: ThreadCount
    tokenizer_file: ModelFile
    config_file: ModelFile
    kernels: str | None = None


def open_model(
    place: Path, asked: Device | None, precision: str, threads: ThreadCount, cache_folder: Path | None = None
) -> OpenModel:
    """Open an artifact, a folder with foreign graphs, or one ONNX file of either.

    All of it is of one folder, even if another takes its place meanwhile.

    Args:
        place: Where `locate_model` found the model.
        asked: Where to run, or None for CUDA where it really runs, else the CPU.
        precision: "auto" or one of `PRECISIONS`.
        threads: Threads on a CPU.
        cache_folder: Where what is measured is kept, as `locate_model` takes it.

    Raises:
        ModelNotFoundError: If there are no settings for an ONNX file.
        ModelError: If the model is damaged or unsupported, or has no graph for the device and precision.
        InputError: If a file was named that is not of the precision asked for.
        DeviceError: If the device cannot run here.
    """
    # Absolute, since a forked child that changed its folder opens it again. The last link of a file stays: in the
    # hub's cache it leads to a folder of nameless files.
    file = None if place.is_dir() else place.parent.resolve() / place.name
    folder = place.resolve() if file is None else _settings_folder(file)
    name = None if file is None else file.relative_to(folder)
    until, failures = time.monotonic() + _PATIENCE_S, 0
    while True:
        last = time.monotonic() > until
        try:
            model = _open_once(folder, name, asked, precision, threads, last=last)
        except not_thrown_in(OSError) as error:
            if isinstance(error, CrossrankError):
                raise
            model, failures = None, failures + 1
            if failures == _TRIES:
                raise _unreadable(folder, error) from error
        if model is not None:
            if isinstance(model.backend, LaneBackend):
                model.backend.learn_costs(model.tokenizer, model.manifest.inputs.max_length, cache_folder)
            return model
        if last:
            raise _unreadable(folder, "it is replaced again and again")
        time.sleep(_PAUSE_S)


def _settings_folder(file: Path) -> Path:
    from crossrank._artifact.foreign import settings_folder  # an artifact's folder needs nothing of it

    return settings_folder(file)


def _unreadable(folder: Path, reason: object) -> ArtifactError:
    return ArtifactError(f"{folder} cannot be read: {reason}; load it when nothing changes it")


def _open_once(
    folder: Path, name: Path | None, asked: Device | None, precision: str, threads: ThreadCount, *, last: bool
) -> OpenModel | None:
    """The model in a folder; None if another one has taken its place meanwhile."""
    with hold(folder) as held:
        try:
            model = _open(held, name, asked, precision, threads)
        except not_thrown_in(CrossrankError, OSError) as error:
            if not last and not held.is_current():
                return None
            if isinstance(error, CrossrankError):
                raise held.named(error) from error.__cause__
            raise
        return model if held.through_handle or held.is_current() else None


def read_artifact(held: HeldFolder) -> tuple[Manifest, PairTokenizer]:
    """An artifact's manifest and tokenizer, which fit each other.

    Raises:
        ModelError: If they do not, or one of them is damaged.
    """
    manifest, tokenizer = _begin_artifact(held)
    return manifest, tokenizer()


def _begin_artifact(held: HeldFolder) -> tuple[Manifest, Callable[[], PairTokenizer]]:
    """An artifact's manifest, and what gives its tokenizer, of which the file is parsed meanwhile.

    It is read at once: where another artifact takes the place of this one, its files are removed soon.
    """
    manifest, path = read_manifest(held.path), held.path / "tokenizer.json"
    parsed = beside(partial(parse_tokenizer, read_tokenizer(path)))

    def finish() -> PairTokenizer:
        tokenizer = PairTokenizer(path, parsed=parsed, rows=manifest.inputs.embeddings)
        least, length = tokenizer.template.special_count + 1, manifest.inputs.max_length
        if length < least:
            raise ArtifactError(
                f"{held.path / MANIFEST_NAME}: inputs.max_length is {length}, a pair takes {least} tokens and more; "
                f"{repair(held.path)}"
            )
        return tokenizer

    return manifest, finish


def graph_file(held: HeldFolder, variant: Variant, manifest: Manifest | None) -> ModelFile:
    """The file of a graph in a folder that is held, with what else it reads; ``manifest`` is an artifact's."""
    if manifest is None:
        from crossrank._artifact.foreign import files_beside  # as above

        others = files_beside(held.path / variant.file)
    else:
        names = graph_files(manifest, variant)
        if not all((held.path / name).is_file() for name in names):
            raise ArtifactError(
                f"{held.path / variant.file} is absent: the hub's cache holds a part of the model; name the model "
                "by its hub id, which downloads what is needed, or take another precision"
            )
        others = [Path(name).name for name in names[1:]]
    return ModelFile(held.place / variant.file, held=held, beside=others, manifest=manifest)


def _open(held: HeldFolder, name: Path | None, asked: Device | None, precision: str, threads: ThreadCount) -> OpenModel:
    """What a folder holds, with one file's graph alone if it is named."""
    artifact, model = _read_artifact(held, name), None
    finish: Callable[[], PairTokenizer]
    if artifact is not None:
        manifest, finish = artifact
        inputs, variants, tokenizer_path = manifest.inputs, manifest.variants, held.place / "tokenizer.json"
    else:
        from .foreign import foreign_manifest, read_held_foreign  # as above

        model = found = read_held_foreign(held, name)
        manifest, inputs, variants, finish = None, model.inputs, model.variants, lambda: found.tokenizer
        tokenizer_path = model.source.folder / "tokenizer.json"

    def choose(device: Device) -> Variant:
        if name is None and variants[0].precision in PRECISIONS:
            if manifest is None:
                return choose_variant(variants, device, precision)
            return choose_variant(variants, device, precision, manifest.refused, make=make_graph(held.place))
        (named,) = variants  # whatever the device would like best
        if precision not in ("auto", named.precision):
            raise InputError(
                f"precision={precision!r}: {named.file} is {named.precision} by its name; leave the precision away, or "
                "name another file"
            )
        return named

    def file_of(variant: Variant) -> ModelFile:
        return graph_file(held, variant, manifest)

    native, why_not = manifest is not None and manifest.exporter == "native", None

    def on_cpu(variant: Variant) -> Backend:
        nonlocal why_not
        graph = file_of(variant)
        if variant.target == ("cpu", "int8"):
            found = open_kernels(graph, variant, inputs, threads.count, native=native)
            if not isinstance(found, str):
                return found
            why_not = found
        return CpuBackend(graph, inputs, threads.count)

    tokenizer_file = ModelFile(tokenizer_path, held=held, manifest=manifest)
    config_file = ModelFile(tokenizer_path.parent / "config.json", held=held, manifest=manifest)
    try:
        variant, backend = open_backend(held.place, inputs, choose, asked, on_cpu, file_of)
    except CrossrankError:
        finish()  # of several problems the tokenizer's is told
        raise
    tokenizer = finish()
    if model is not None:
        session = backend.session if isinstance(backend, CpuBackend) else backend
        assert isinstance(session, Session), "only an artifact's graph is packed"
        manifest = foreign_manifest(model, session)
    assert manifest is not None, "an artifact has one"
    if backend.labels not in (None, manifest.head.labels):
        raise ArtifactError(
            f"{backend.path} gives {backend.labels} labels, the manifest says {manifest.head.labels}: "
            f"{repair(held.path)}"
        )
    return OpenModel(held.place, manifest, tokenizer, variant, backend, threads, tokenizer_file, config_file, why_not)


def _read_artifact(held: HeldFolder, name: Path | None) -> tuple[Manifest, Callable[[], PairTokenizer]] | None:
    """As `_begin_artifact`, with the named file's graph alone if one was named; None if it is no artifact's."""
    if not has_entry(held.path / MANIFEST_NAME):
        return None
    manifest, tokenizer = _begin_artifact(held)
    if name is None:
        return manifest, tokenizer
    named = tuple(variant for variant in manifest.variants if Path(variant.file) == name)
    return (replace(manifest, variants=named), tokenizer) if named else None


def open_backend(
    folder: Path,
    inputs: Inputs,
    choose: Callable[[Device], Variant],
    asked: Device | None,
    on_cpu: Callable[[Variant], Backend],
    file_of: Callable[[Variant], ModelFile],
) -> tuple[Variant, Backend]:
    """The graph asked for, ready to run; with no device asked, CUDA where it really runs, else the CPU.

    Args:
        folder: The model's folder.
        inputs: What its graphs expect.
        choose: Gives the graph for a device.
        asked: Where to run, or None for the best that runs.
        on_cpu: Gives a graph that runs on a CPU.
        file_of: Gives the file of a graph.
    """
    if asked is None and has_provider(Device("cuda").provider):
        try:
            return open_backend(folder, inputs, choose, Device("cuda"), on_cpu, file_of)
        except DeviceError as error:  # no driver
            logger.warning("running on the CPU: %s", error)
        except ArtifactError as error:  # no graph for it, as in the embedded model: nothing is wrong here
            logger.info("running on the CPU: %s", error)
    device = asked or Device("cpu")
    variant = choose(device)
    if device.kind == "cpu":
        return variant, on_cpu(variant)
    graph = file_of(variant)
    packed = variant.variant == "cuda"
    if packed or device.kind != "tensorrt":
        return variant, load_graph(graph, inputs, device, packed=packed)
    from .tensorrt.session import TensorrtSession

    return variant, TensorrtSession(graph, inputs, device, artifact=folder, half=variant.precision == "fp16")


def load_graph(
    graph: Path | ModelFile, inputs: Inputs, device: Device, threads: int = 1, *, packed: bool = False
) -> Backend:
    """A graph on one session, which runs batches one after the other: on a GPU, or on a CPU to prove it.

    Args:
        graph: The ONNX file.
        inputs: The manifest's facts about the graph's inputs.
        device: Where to run.
        threads: Threads of that session on a CPU.
        packed: Whether the graph is the packed one of a GPU, or its twin on a CPU.

    Raises:
        DeviceError: If the device cannot run here.
        ArtifactError: If onnxruntime cannot load the file, or its inputs or outputs are none that can be used.
    """
    if not packed:
        return Session(graph, inputs, device, threads)
    from .cuda.session import PackedSession

    return PackedSession(graph, inputs, device, threads)


def ready_engines(backend: Backend, each: Callable[[str, Callable[[], None]], None]) -> None:
    """Build or load what TensorRT needs of a graph that was opened on it.

    Args:
        backend: The graph.
        each: Called with the name of each part and what readies it; to show progress.

    Raises:
        DeviceError: If TensorRT fails, as for want of memory.
        InputError: If an engine must be built and no place to keep it can be written.
    """
    from .tensorrt.session import TensorrtSession

    assert isinstance(backend, TensorrtSession), "it was opened on a TensorRT device"
    backend.warm_up(each=lambda profile, ready: each(str(profile), ready))
