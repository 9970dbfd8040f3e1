"""Checkpoint to artifact: resolve, read, build a graph per target, prove each, write at once."""

import logging
from collections.abc import Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from importlib import metadata
from pathlib import Path

import numpy as np

from crossrank._errors import ProofError, UnsupportedModelError, join_problems
from crossrank._manifest import FileRecord, Manifest, Source, Variant, hash_file, write_manifest
from crossrank._model_folder import read_model_folder
from crossrank._pairs import PairSource
from crossrank._plan import plan_batches
from crossrank._proof import Proof, measure_parity, write_proof
from crossrank._runner import Runner
from crossrank._scoring import Scorer
from crossrank._session import Device, Session
from crossrank._threads import ThreadCount, available_threads
from crossrank.models import RegisteredModel

from ._blueprint import Blueprint
from ._cache import CheckpointSource, fetch_checkpoint, fingerprint
from ._config import ARCHITECTURES
from ._half import keep_in_float32
from ._native import read_native
from ._optimum import INSTALL_OPTIMUM, optimum_version, read_optimum
from ._report import Report, stage
from ._settings import write_settings, write_tokenizer
from ._targets import Target, choose_targets, target_file
from ._tensorrt import tensorrt_target
from ._texts import load_pairs
from ._write import new_folder, swap_in

logger = logging.getLogger(__name__)


def make_artifact(
    source: CheckpointSource,
    target_folder: Path,
    *,
    exporter: str,
    variants: Sequence[str] | None,
    precisions: Sequence[str] | None,
    keep: Collection[Target],
    max_length: int | None,
    local_files_only: bool,
    token: str | bool | None,
    report: Report | None,
    tensorrt: bool = False,
) -> None:
    """Write the artifact of a checkpoint to ``target_folder``, replacing what is there. Call with the lock held.

    Args:
        source: The checkpoint.
        target_folder: The artifact's place.
        exporter: "auto", "native" or "optimum".
        variants: As `choose_targets`.
        precisions: As `choose_targets`.
        keep: Graphs to make beside those.
        max_length: Most tokens of a pair, or None for all that model and tokenizer allow.
        local_files_only: Never ask the hub.
        token: Hub token.
        report: Told of each stage.
        tensorrt: Whether to make what TensorRT runs too.

    Raises:
        ModelNotFoundError: If the checkpoint cannot be had.
        ModelError: If it is unusable or unsupported, or a graph leaves its error bound; nothing is written then.
        InputError: If the exporter does not make the graphs asked for.
        MissingDependencyError: If the exporter that was asked for is not installed.
    """
    with stage(report, "find the checkpoint"):
        folder, commit = fetch_checkpoint(source, local_files_only=local_files_only, token=token)
    with stage(report, "read config, tokenizer, weights"):
        blueprint = _read(folder, source.registered, exporter, max_length)
    targets = choose_targets(variants, precisions, blueprint.exporter)
    keep = {*keep, tensorrt_target(blueprint.exporter)} if tensorrt else keep
    if keep:
        targets = sorted({*targets, *keep})
    with new_folder(target_folder) as work:
        (work / "onnx").mkdir()
        write_tokenizer(blueprint.source, blueprint.tokenizer, work)
        for target in targets:
            with stage(report, f"build {' '.join(target)}"):
                blueprint.build(target, work / target_file(target))
        proven = _prove(blueprint, work, targets, report)
        with stage(report, "write"):
            write_settings(blueprint.source, work)
            files = sorted(path for path in work.rglob("*") if path.is_file())
            with ThreadPoolExecutor() as pool:  # hashing leaves Python's lock
                records = {
                    p.relative_to(work).as_posix(): r for p, r in zip(files, pool.map(_record, files), strict=True)
                }
            architecture = str(blueprint.source.config["model_type"])
            manifest = Manifest(
                source=Source(source.name, commit, architecture, fingerprint(source, max_length)),
                head=blueprint.head,
                inputs=blueprint.inputs,
                variants=proven,
                files=records,
                crossrank=metadata.version("crossrank"),
                exporter=blueprint.exporter,
            )
            write_manifest(work, manifest)
            swap_in(work, target_folder)


def _read(folder: Path, registered: RegisteredModel | None, exporter: str, max_length: int | None) -> Blueprint:
    """Read a checkpoint for the exporter asked for; "auto" is the native one where it knows the architecture."""
    architecture = read_model_folder(folder).config.get("model_type")
    known = architecture is None or architecture in list(ARCHITECTURES)  # without one the weights may tell
    if exporter == "optimum" or (exporter == "auto" and not known and optimum_version() is not None):
        return read_optimum(folder, registered, max_length=max_length)
    try:
        return read_native(folder, registered, max_length=max_length)
    except UnsupportedModelError as error:
        if known:
            raise
        advice = f"install it: {INSTALL_OPTIMUM}" if optimum_version() is None else "ask for it: --exporter optimum"
        raise UnsupportedModelError(f"{error}\nThe optimum exporter may know it; {advice}") from error


def _record(path: Path) -> FileRecord:
    return FileRecord(path.stat().st_size, hash_file(path))


def _prove(blueprint: Blueprint, work: Path, targets: Sequence[Target], report: Report | None) -> tuple[Variant, ...]:
    """Parity of each graph, or of its CPU-runnable twin, with the reference; writes proof.json."""
    pairs = load_pairs("proof", blueprint.tokenizer)
    with stage(report, "reference logits"):
        name, logits = blueprint.reference(pairs, work / "tokenizer.json")
    proof = Proof(name, pairs, logits)
    write_proof(work, proof)
    # Side by side, each on its share of the threads: loading a graph keeps one core busy at most.
    workers = min(len(targets), available_threads().count)
    threads = ThreadCount(available_threads().count // workers, "a share of the proof's")
    with stage(report, "prove the graphs"), ThreadPoolExecutor(workers) as pool:
        variants = tuple(pool.map(lambda target: _measure(blueprint, proof, work, target, threads), targets))
    problems = [text for variant in variants for text in variant.problems()]
    if problems:
        subject = f"{blueprint.source.folder} is not exported, its graphs leave the bounds against {name}"
        raise ProofError(f"{join_problems(subject, problems)}\n{_advice(variants, name)}")
    return variants


def _measure(blueprint: Blueprint, proof: Proof, work: Path, target: Target, threads: ThreadCount) -> Variant:
    variant = Variant(*target, file=target_file(target))
    twin = work / "twin.onnx"
    by_twin = blueprint.build_twin(target, twin)
    if by_twin:
        peaks = partial(_peaks, blueprint, proof, threads)
        kept = keep_in_float32(work / variant.file, twin, peaks)
        if kept:
            logger.warning("%s: %d nodes stay in float32, float16 would overflow", variant.name, len(kept))
    path, padded = twin if by_twin else work / variant.file, variant.variant != "cpu"
    runner = Runner(path, blueprint.inputs, Device("cpu"), threads, padded=padded, packed=by_twin)
    scorer = Scorer(blueprint.tokenizer, runner, blueprint.inputs.max_length, blueprint.head.labels)
    parity = measure_parity(proof, scorer, graph="twin" if by_twin else "graph")
    if by_twin:
        for file in work.glob("twin.onnx*"):
            file.unlink()
    return replace(variant, parity=parity)


def _peaks(blueprint: Blueprint, proof: Proof, threads: ThreadCount, path: Path, names: list[str]) -> dict[str, float]:
    """The largest value of each output of a graph over the proof's pairs."""
    session, tokenizer = Session(path, blueprint.inputs, Device("cpu"), threads.count), blueprint.tokenizer
    queries, documents = zip(*proof.pairs, strict=True)
    tokens = tokenizer.encode(queries, "query"), tokenizer.encode(documents, "document")
    pairs = PairSource(tokenizer.template, *tokens, np.arange(len(proof.pairs)), blueprint.inputs.max_length)
    runs = [session.outputs(pairs.batch(index), names) for index in plan_batches(pairs.lengths)]
    return {name: float(np.max(values)) for name, values in zip(names, zip(*runs, strict=True), strict=True)}


def _advice(variants: Sequence[Variant], reference: str) -> str:
    """What to do about graphs that left their bounds."""
    good = [variant.name for variant in variants if not variant.problems()]
    if good:
        return f"Leave them out with --variants and --precision; within their bounds are {', '.join(good)}"
    if reference.startswith("transformers"):
        return "If all are off, tokenizer_config.json may contradict tokenizer.json, as with do_lower_case."
    return "If all are off, the checkpoint may not be what its config.json says."
