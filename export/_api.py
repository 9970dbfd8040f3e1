"""`export_model` and `ensure_artifact`: light to import, the exporter's packages are loaded when it works."""

import logging
import os
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Literal

from crossrank._artifact.locate import cache_root
from crossrank._artifact.manifest import MANIFEST_NAME, Manifest, read_manifest
from crossrank._device.open import open_model
from crossrank._errors import ArtifactError, CrossrankError, InputError, MissingDependencyError
from crossrank._machine.cpu import available_threads
from crossrank._machine.device import Device
from crossrank._machine.onnxruntime import ort, require_runtime
from crossrank._options import folder_path

from ._prove.tensorrt import TENSORRT, build_engines, require_tensorrt, tensorrt_target
from ._read.source import CheckpointSource, check_folder, describe_source, find_graphs, fingerprint
from ._refusal import Advise, advise_export, advise_model, refusal_error
from ._report import Report, stage, terminal_report
from ._targets import Order, Target, choose_targets, in_order, order_for_model, order_targets

logger = logging.getLogger(__name__)

# The origin of a length that was asked for at export, as `describe_inputs` writes it.
_AS_ASKED = "as asked at export"


def export_model(
    name_or_folder: str | Path,
    output: str | Path | None = None,
    *,
    exporter: Literal["auto", "native", "optimum"] = "auto",
    variants: Sequence[str] | None = None,
    precisions: Sequence[str] | None = None,
    max_length: int | None = None,
    revision: str | None = None,
    local_files_only: bool = False,
    force: bool = False,
    cache_folder: str | Path | None = None,
    token: str | bool | None = None,
    tensorrt: bool = False,
    report: Report | None = None,
) -> Path:
    """Turn a published cross-encoder into a proven artifact folder.

    A graph that does not hold its bound is left out, which is logged and stands in the manifest. The export fails where
    nothing is left, or where what was asked for by name does not hold: a precision in any of its graphs, a variant in
    all of them.

    Args:
        name_or_folder: A checkpoint folder, a registered name, or a hub id.
        output: The artifact folder to write; by default one in the cache, where `CrossEncoder` finds it.
        exporter: "native", "optimum" for architectures that it does not know (needs ``crossrank[optimum]`` and makes
            portable fp32 only), or "auto" for the native one where it knows the architecture.
        variants: Of "cpu", "cuda" and "portable"; by default all.
        precisions: Of "fp32", "fp16" and "int8"; by default cpu fp32 and int8, cuda fp16, portable fp32.
        max_length: Most tokens of a pair, below the model's own limit.
        revision: Hub revision; by default the registry's pinned one, else the newest.
        local_files_only: Never ask the hub.
        force: Replace an artifact that is already there.
        cache_folder: The cache; by default ``$CROSSRANK_HOME``, else the user's.
        token: Hub token.
        tensorrt: Make what TensorRT runs (portable fp16; with optimum portable fp32) too, build its engines for this
            machine's GPU, and prove them: ``device="tensorrt"`` then starts without building. That takes minutes.
        report: Called with each stage's name and, when it ends, its seconds.

    Returns:
        The artifact folder. One that already holds the graphs asked for is returned as it is, unless ``force``.

    Raises:
        ModelNotFoundError: If there is no such model.
        ModelError: If it is damaged or unsupported, or no graph that was asked for holds its bound.
        InputError: If an option is not what it can be, or ``output`` may not be replaced.
        MissingDependencyError: If onnxruntime, ``crossrank[export]`` or the exporter asked for is not installed.
        DeviceError: If engines are to be built and TensorRT cannot run here.
    """
    require_runtime()
    if tensorrt:
        require_tensorrt()
    choose_targets(variants, precisions, exporter)  # what can be refused is refused before anything is read
    source = describe_source(str(name_or_folder), revision, _root(cache_folder) if output is None else None)
    if source.folder is not None:
        check_folder(source.folder)

    def order(maker: str) -> Order:
        return order_targets(variants, precisions, maker, also=[tensorrt_target(maker)] if tensorrt else [])

    in_cache = output is None
    target = _cached(source, cache_folder) if output is None else Path(os.path.realpath(folder_path("output", output)))
    make = _Export(source, target, in_cache, exporter, max_length, local_files_only, token, report)
    with make.locked():
        make.complete(order, advise_export, force=force)
        if tensorrt:
            with stage(report, "load on TensorRT"):
                model = open_model(target, TENSORRT, "auto", available_threads())
            build_engines(model, report)
    return target


def ensure_artifact(
    name_or_folder: str,
    *,
    cache_folder: Path | None,
    revision: str | None,
    local_files_only: bool,
    token: str | bool | None,
    precision: str = "auto",
    device: Device | None = None,
) -> Path:
    """The artifact of a name or a checkpoint folder, with a graph for a precision and a device.

    A repository of the hub that is an artifact, or holds ONNX files and no weights, is used as it is. Any other comes
    from the cache; a graph that is not there yet is exported into it, beside those that are. The engine calls this
    through the entry point group ``crossrank.artifacts``. An export shows its stages on a terminal. A graph that was
    refused once is not tried again by the same version of crossrank.

    Args:
        name_or_folder: As `export_model`.
        cache_folder: As `export_model`.
        revision: As `export_model`.
        local_files_only: As `export_model`.
        token: As `export_model`.
        precision: "auto" or one of `PRECISIONS`; "auto" takes the next best graph where the best does not hold.
        device: Where the model will run, or None for CUDA where onnxruntime has it, and for the CPU.

    Raises:
        CrossrankError: As `export_model`.
    """
    gpu = [Device("cuda")] if Device("cuda").provider in ort.get_available_providers() else []
    devices = [*gpu, Device("cpu")] if device is None else [device]
    order = partial(order_for_model, precision, devices)
    # What nobody makes is refused before anything is read; but a repository of the hub may have it ready.
    if Path(name_or_folder).is_dir():
        order("auto")
    source = describe_source(name_or_folder, revision, _root(cache_folder))
    cached = _cached(source, cache_folder)
    advise = partial(advise_model, precision)
    present = None
    if (cached / MANIFEST_NAME).exists():
        try:
            present = read_manifest(cached)
        except ArtifactError:  # opening it says what is wrong
            return cached
        if not _missing(order(present.exporter), present, source, advise):
            return cached
    elif source.folder is None and source.registered is None:
        graphs = find_graphs(source, devices, precision, local_files_only=local_files_only, token=token)
        if graphs is not None:
            return graphs
    if present is None:
        order("auto")
    if source.folder is not None:
        check_folder(source.folder)
    exporter = "auto" if present is None else present.exporter
    asked = present is not None and present.inputs.max_length_origin == _AS_ASKED
    max_length = present.inputs.max_length if present is not None and asked else None
    make = _Export(source, cached, True, exporter, max_length, local_files_only, token, terminal_report())
    try:
        with make.locked():
            make.complete(order, advise)
    except CrossrankError as error:
        if present is None or order(present.exporter).unmet(_targets_of(present)):
            raise
        logger.warning(
            "%s: going on with the graphs that there are, since the best could not be had: %s", cached, error
        )
    return cached


@dataclass(frozen=True, slots=True)
class _Export:
    """An export of a checkpoint to a place, with the options that all of its callers have."""

    source: CheckpointSource
    target: Path
    in_cache: bool
    exporter: str
    max_length: int | None
    local_files_only: bool
    token: str | bool | None
    report: Report | None

    def locked(self) -> AbstractContextManager[None]:
        """Hold the place of the artifact."""
        try:
            from ._write.folder import locked
        except ImportError as error:
            raise self._lacks(error) from error
        return locked(self.target, self.report, check=not self.in_cache)

    def complete(self, order: Callable[[str], Order], advise: Advise, *, force: bool = False) -> None:
        """Make the graphs that are ordered and not there yet. Call with the lock held."""
        try:
            from ._convert import make_artifact
            from ._write.folder import check_replaceable
        except ImportError as error:
            raise self._lacks(error) from error
        present = None if force else self._present()
        wanted = None if present is None else self._order(order, present.exporter)
        if present is None or wanted is None or _missing(wanted, present, self.source, advise):
            # The cache is ours to complete: what it holds of this model stays, beside what is asked for.
            ours = self.in_cache and present is not None
            check_replaceable(self.target, force=force or ours, in_cache=self.in_cache)
            present = make_artifact(
                self.source,
                self.target,
                order=order,
                present=present if self.in_cache else None,
                exporter=self.exporter,
                max_length=self.max_length,
                local_files_only=self.local_files_only,
                token=self.token,
                report=self.report,
                advise=advise,
            )
            wanted = order(present.exporter)
        for refusal in present.refused:
            if wanted.mentions(refusal.target):
                logger.warning("%s: left out %s", self.source.name, refusal)

    def _present(self) -> Manifest | None:
        """The manifest of what is there already, if it is of the same checkpoint and the exporter asked for."""
        if not (self.target / MANIFEST_NAME).exists():
            return None
        manifest = read_manifest(self.target)
        same = manifest.source.fingerprint == fingerprint(self.source, self.max_length)
        return manifest if same and self.exporter in ("auto", manifest.exporter) else None

    def _order(self, order: Callable[[str], Order], present: str) -> Order | None:
        """The graphs asked for, of the exporter of the artifact that is there; None if only another can make them."""
        try:
            return order(present)
        except InputError:
            if self.exporter != "auto":
                raise
            return None

    def _lacks(self, error: ImportError) -> MissingDependencyError:
        return MissingDependencyError(f"exporting {self.source.name} needs: pip install 'crossrank[export]' ({error})")


def _missing(wanted: Order, present: Manifest, source: CheckpointSource, advise: Advise) -> list[Target]:
    """The graphs of an order that an artifact lacks.

    Raises:
        ProofError: If it was found before that what was asked for does not hold.
    """
    held = _targets_of(present)
    same = present.crossrank == metadata.version("crossrank")
    refused = {refusal.target: refusal for refusal in present.refused} if same else {}
    hopeless = wanted.unmet(held | {target for line in wanted.lines for target in line if target not in refused})
    if hopeless:
        subject = f"{source.name}: when it was exported, graphs left their bounds"
        raise refusal_error(subject, [refused[target] for target in in_order(hopeless)], advise(held, None))
    return wanted.next(held, refused)


def _cached(source: CheckpointSource, cache_folder: str | Path | None) -> Path:
    return _root(cache_folder) / source.cache_key


def _root(cache_folder: str | Path | None) -> Path:
    return cache_root(None if cache_folder is None else folder_path("cache_folder", cache_folder))


def _targets_of(manifest: Manifest) -> set[Target]:
    return {variant.target for variant in manifest.variants}
