"""The conversion of a checkpoint to an artifact: resolve, read, build a graph per target, prove, write at once."""

import ctypes
import sys
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from importlib import metadata
from pathlib import Path

from crossrank._artifact.held import ModelFile
from crossrank._artifact.manifest import (
    PROOF_NAME,
    FileRecord,
    Manifest,
    Refusal,
    Source,
    Variant,
    hash_file,
    write_manifest,
)
from crossrank._artifact.parity import BOUNDS
from crossrank._artifact.settings import read_model_folder
from crossrank._device.compiled import switched_on
from crossrank._device.open import load_graph
from crossrank._errors import ModelError, UnsupportedModelError
from crossrank._machine.cpu import ThreadCount, available_threads
from crossrank._machine.device import Device
from crossrank._proof import Proof, Subject, measure_parity, prove_kernels, read_proof, write_proof
from crossrank.models import RegisteredModel

from ._architectures.registry import architectures
from ._blueprint import Blueprint
from ._exporters.native import read_native
from ._exporters.optimum import INSTALL_OPTIMUM, optimum_version, read_optimum
from ._read.licence import say_licence
from ._read.source import CheckpointSource, check_unchanged, fetch_checkpoint, fingerprint
from ._read.texts import load_pairs
from ._refusal import Advise, describe_failure, refusal_error
from ._report import Report, stage
from ._targets import Order, Target, in_order, target_file
from ._write.folder import ENGINES, link_engines, link_files, new_folder, swap_in
from ._write.settings import write_settings, write_tokenizer

# Graphs of more bytes together are proven one after the other.
_LARGE_BYTES = 512 * 1024 * 1024


def make_artifact(
    source: CheckpointSource,
    target_folder: Path,
    *,
    order: Callable[[str], Order],
    present: Manifest | None,
    exporter: str,
    max_length: int | None,
    local_files_only: bool,
    token: str | bool | None,
    report: Report | None,
    advise: Advise,
) -> Manifest:
    """Write the artifact of a checkpoint to ``target_folder``, replacing what is there. Call with the lock held.

    A graph that does not hold is left out, and the manifest says so.

    Args:
        source: The checkpoint.
        target_folder: The artifact's place.
        order: Gives the graphs to make by the exporter that makes them.
        present: What lies there, an export of the same checkpoint and length, is completed: its graphs stay.
            None makes all anew.
        exporter: "auto", "native" or "optimum".
        max_length: Most tokens of a pair, or None for all that model and tokenizer allow.
        local_files_only: Never ask the hub.
        token: Hub token.
        report: Told of each stage.
        advise: Ends the message of a refusal.

    Returns:
        The manifest that was written.

    Raises:
        ModelNotFoundError: If the checkpoint cannot be had.
        ModelError: If it is unusable or unsupported, or graphs that were asked for leave their error bounds: nothing is
            written then, but that they do, where there was an artifact to complete.
        InputError: If the exporter does not make the graphs asked for, or CROSSRANK_KERNELS has a value that it does
            not know.
        MissingDependencyError: If the exporter that was asked for is not installed.
    """
    switched_on()  # refuses what it does not know, before the work of hours
    if present is not None and source.folder is None:
        source = replace(source, revision=present.source.revision)  # the graphs of one artifact are of one commit
    with stage(report, "find the checkpoint"):
        folder, commit = fetch_checkpoint(source, local_files_only=local_files_only, token=token)
    say_licence(source.name, folder, source.registered)
    with stage(report, "read config, tokenizer, weights"):
        blueprint = _read(folder, source.registered, exporter, max_length)
        check_unchanged(source)
    wanted = order(blueprint.exporter)
    version = metadata.version("crossrank")
    with new_folder(target_folder) as work:
        (work / "onnx").mkdir()
        taken = None
        if present is not None:
            with stage(report, "take over what is there"):
                taken = _take_over(present, target_folder, work, version, blueprint.exporter)
            if taken is None:
                wanted = replace(wanted, lines=(*((v.target,) for v in present.variants), *wanted.lines))
        write_tokenizer(blueprint.source, blueprint.tokenizer, work)
        bench = _Bench(blueprint, work, report, present if taken is not None else None)
        while targets := wanted.next(bench.proven, bench.refused):
            bench.make(targets)
        check_unchanged(source)  # the proof read the checkpoint once more
        unmet = wanted.unmet(bench.proven)
        if unmet and taken is None:
            raise bench.failure(unmet, advise)
        with stage(report, "write"):
            write_settings(blueprint.source, work)
            manifest = Manifest(
                source=Source(
                    source.name,
                    commit,
                    str(blueprint.source.config["model_type"]),
                    fingerprint(source, max_length),
                ),
                head=blueprint.head,
                inputs=blueprint.inputs,
                variants=tuple(bench.proven[target] for target in in_order(bench.proven)),
                files=_record_files(work, taken or {}),
                crossrank=version,
                exporter=blueprint.exporter,
                refused=tuple(bench.refused[target] for target in in_order(bench.refused)),
            )
            write_manifest(work, manifest)
            swap_in(work, target_folder)
    if unmet:
        raise bench.failure(unmet, advise)
    return manifest


def _read(folder: Path, registered: RegisteredModel | None, exporter: str, max_length: int | None) -> Blueprint:
    """Read a checkpoint for the exporter asked for; "auto" is the native one where it knows the architecture."""
    architecture = read_model_folder(folder).config.get("model_type")
    known = architecture is None or architecture in list(architectures())  # without one the weights may tell
    if exporter == "optimum" or (exporter == "auto" and not known and optimum_version() is not None):
        return read_optimum(folder, registered, max_length=max_length)
    try:
        return read_native(folder, registered, max_length=max_length)
    except UnsupportedModelError as error:
        if known:
            raise
        advice = (
            f"install it: {INSTALL_OPTIMUM}"
            if optimum_version() is None
            else 'ask for it: export_model(exporter="optimum") (in a shell export-model --exporter optimum)'
        )
        raise UnsupportedModelError(f"{error}\nThe optimum exporter may know it; {advice}") from error


def _take_over(
    present: Manifest, folder: Path, work: Path, version: str, exporter: str
) -> dict[str, FileRecord] | None:
    """Link the graphs and the proof of an artifact into a new one.

    Returns:
        The records of the files, or None if the graphs are to be made again: another version or exporter made them, or
        a file is not what the manifest says.
    """
    graphs = {variant.file for variant in present.variants}
    names = [name for name in present.files if name.removesuffix("_data") in graphs or name == PROOF_NAME]
    if (present.crossrank, present.exporter) != (version, exporter):
        return None
    with ThreadPoolExecutor() as pool:  # hashing leaves Python's lock
        found = dict(zip(names, pool.map(lambda name: _record(folder / name), names), strict=True))
    if any(found[name] != present.files[name] for name in names):
        return None
    link_files(folder, work, names)
    link_engines(folder, work)
    return found


def _record_files(work: Path, known: dict[str, FileRecord]) -> dict[str, FileRecord]:
    """Size and hash of every file of an artifact but TensorRT's engines, which come and go."""
    files = sorted(path for path in work.rglob("*") if path.is_file() and ENGINES not in path.relative_to(work).parts)
    names = [path.relative_to(work).as_posix() for path in files]
    with ThreadPoolExecutor() as pool:
        records = pool.map(lambda name: known.get(name) or _record(work / name), names)
        return dict(zip(names, records, strict=True))


def _record(path: Path) -> FileRecord:
    return FileRecord(path.stat().st_size, hash_file(path))


class _Bench:
    """Where graphs are built and proven.

    Args:
        blueprint: The checkpoint.
        work: The artifact's folder in the making. Its proof.json is taken if it is there, else written.
        report: Told of each stage.
        present: The manifest of the graphs that lie there already.

    Attributes:
        proven: The graphs that hold.
        refused: Those that do not.
    """

    def __init__(self, blueprint: Blueprint, work: Path, report: Report | None, present: Manifest | None) -> None:
        self._blueprint, self._work, self._report = blueprint, work, report
        self.proven: dict[Target, Variant] = {}
        self.refused: dict[Target, Refusal] = {}
        self._errors: dict[Target, ModelError] = {}
        self._proof: Proof | None = None
        if present is not None:
            self.proven = {variant.target: variant for variant in present.variants}
            self.refused = {refusal.target: refusal for refusal in present.refused}
            self._proof = read_proof(work)

    def make(self, targets: Sequence[Target]) -> None:
        """Build graphs, prove each, and remove those that do not hold."""
        built: dict[Target, Path | None] = {}
        for target in targets:
            with stage(self._report, f"build {' '.join(target)}"):
                try:
                    built[target] = self._blueprint.build(target, self._path(target))
                except ModelError as error:
                    self._fail(target, error)
                _give_memory_back()
        if not built:
            return
        self._blueprint.release()
        proof = self._reference()
        # Side by side, each on its share of the threads, since loading a graph keeps one core busy at most; large
        # ones one after the other, for the memory.
        sizes = [file.stat().st_size for target in built for file in _files_of(self._path(target))]
        workers = 1 if sum(sizes) > _LARGE_BYTES else min(len(built), available_threads().count)
        threads = ThreadCount(available_threads().count // workers, "a share of the proof's")
        with stage(self._report, "prove the graphs"), ThreadPoolExecutor(workers) as pool:
            list(pool.map(lambda target: self._prove(target, built[target], proof, threads), built))
        for target in built:
            self._relax(target, proof)
        self._blueprint.release()

    def _relax(self, target: Target, proof: Proof) -> None:
        """Make a graph that leaves its bound once more, such that it loses less, until it holds."""
        refusal = self.refused.get(target)
        for spared in self._blueprint.gentler.get(target, ()):
            if target in self.proven or target in self._errors:
                return
            with stage(self._report, f"build {' '.join(target)}, {spared} layers in float"):
                try:
                    self._blueprint.build(target, self._path(target), spared)
                except ModelError as error:
                    self._fail(target, error)
                    return
                self._prove(target, None, proof, available_threads(), self._blueprint.spared(spared))
        if refusal is not None and target not in self.proven:
            self.refused[target] = refusal  # of the graph as it was meant to be

    def failure(self, unmet: Collection[Target], advise: Advise) -> ModelError:
        """The error for graphs that were asked for and do not hold."""
        refused = [self.refused[target] for target in in_order(unmet) if target in self.refused]
        errors = {str(error): error for target, error in self._errors.items() if target in unmet}
        if len(errors) == 1 and all(refusal.target in self._errors for refusal in refused):
            return next(iter(errors.values()))
        reference = self._proof.reference if self._proof else None
        against = f" against {reference}" if reference else ""
        subject = f"{self._blueprint.source.folder} is not exported, its graphs leave the bounds{against}"
        return refusal_error(subject, refused, advise(self.proven.keys(), reference))

    def _reference(self) -> Proof:
        if self._proof is None:
            pairs = load_pairs("proof", self._blueprint.tokenizer)
            with stage(self._report, "reference logits"):
                name, logits = self._blueprint.reference(pairs, self._work / "tokenizer.json")
            _give_memory_back()
            self._proof = Proof(name, pairs, logits)
            write_proof(self._work, self._proof)
        return self._proof

    def _prove(
        self,
        target: Target,
        stand_in: Path | None,
        proof: Proof,
        threads: ThreadCount,
        float_layers: tuple[int, ...] = (),
    ) -> None:
        variant = Variant(*target, file=target_file(target), float_layers=float_layers)
        try:
            variant = _measure(self._blueprint, proof, variant, stand_in or self._path(target), threads)
        except ModelError as error:
            self._fail(target, error)
            return
        finally:
            _give_memory_back()
            if stand_in is not None:
                _remove(stand_in)
        assert variant.parity is not None, "it was measured"
        problems = variant.parity.problems(BOUNDS[target[1]])
        if not problems:
            self.proven[target] = variant
            self.refused.pop(target, None)
            return
        self.refused[target] = Refusal(*target, problems=tuple(problems), parity=variant.parity)
        _remove(self._path(target))

    def _fail(self, target: Target, error: ModelError) -> None:
        self.refused[target], self._errors[target] = describe_failure(target, error), error
        _remove(self._path(target))

    def _path(self, target: Target) -> Path:
        return self._work / target_file(target)


def _files_of(path: Path) -> list[Path]:
    """A graph's file, and that of its weights if they have one of their own."""
    return [file for file in (path, path.with_name(f"{path.name}_data")) if file.exists()]


def _remove(path: Path) -> None:
    for file in _files_of(path):
        file.unlink()


def _give_memory_back() -> None:
    """Let freed memory go back to the system: glibc keeps what came in pieces of less than 32 MB."""
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)


def _measure(blueprint: Blueprint, proof: Proof, variant: Variant, path: Path, threads: ThreadCount) -> Variant:
    """A graph with its parity, or that of what stands for it on a CPU, with the reference."""
    packed, inputs = variant.variant == "cuda", blueprint.inputs
    lanes = 1 if packed else threads.count
    backend = load_graph(path, inputs, Device("cpu"), threads.count // lanes, packed=packed)
    subject = Subject(blueprint.tokenizer, backend, inputs.max_length, blueprint.head.labels, lanes)
    parity = measure_parity(proof, subject, variant.precision, graph="twin" if packed else "graph")
    native = blueprint.exporter == "native"
    kernels = prove_kernels(proof, subject, variant, ModelFile.of(path), inputs, native=native)
    return replace(variant, parity=parity, kernels=kernels)
