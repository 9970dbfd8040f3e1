"""Checkpoint to artifact: resolve, read, build a graph per target, prove each, write at once."""

import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from importlib import metadata, resources
from pathlib import Path

import numpy as np
import onnx

from crossrank._errors import ProofError, join_problems
from crossrank._manifest import FileRecord, Manifest, Source, Variant, hash_file, write_manifest
from crossrank._pairs import PairSource
from crossrank._proof import Proof, measure_parity, write_proof
from crossrank._scoring import Scorer
from crossrank._session import Device, Session
from crossrank._threads import ThreadCount, available_threads

from ._build import build_cpu, build_cuda, build_portable
from ._cache import CheckpointSource, fetch_checkpoint, fingerprint
from ._checkpoint import Checkpoint, read_checkpoint
from ._graph import save_model
from ._int8 import Int8Dense, calibrate
from ._reference import reference_logits
from ._report import Report, stage
from ._settings import write_settings, write_tokenizer
from ._targets import Target, target_file
from ._write import new_folder, swap_in

# Ranges settle within a few thousand tokens: on a real MiniLM the whole pairs give no smaller error than their starts.
_CALIBRATION_LENGTH = 32


def load_pairs(name: str) -> list[tuple[str, str]]:
    """Texts shipped with the exporter: "proof" or "calibration", as (query, document)."""
    lines = (resources.files("crossrank.export") / "texts" / f"{name}.jsonl").read_text(encoding="utf-8").split("\n")
    return [(pair["query"], pair["document"]) for pair in map(json.loads, filter(None, lines))]


def make_artifact(
    source: CheckpointSource,
    target_folder: Path,
    targets: Sequence[Target],
    *,
    max_length: int | None,
    local_files_only: bool,
    token: str | bool | None,
    report: Report | None,
) -> None:
    """Write the artifact of a checkpoint to ``target_folder``, replacing what is there. Call with the lock held.

    Raises:
        ModelNotFoundError: If the checkpoint cannot be had.
        ModelError: If it is unusable or unsupported, or a graph leaves its error bound; nothing is written then.
    """
    with stage(report, "find the checkpoint"):
        folder, commit = fetch_checkpoint(source, local_files_only=local_files_only, token=token)
    with stage(report, "read config, tokenizer, weights"):
        relevant = source.registered.relevant_label if source.registered else None
        checkpoint = read_checkpoint(folder, max_length=max_length, relevant_label=relevant)
    with new_folder(target_folder) as work:
        (work / "onnx").mkdir()
        write_tokenizer(checkpoint.source, checkpoint.tokenizer, work)
        for target in targets:
            with stage(report, f"build {' '.join(target)}"):
                save_model(_build(checkpoint, target, work), work / target_file(target))
        variants = _prove(checkpoint, work, targets, report)
        with stage(report, "write"):
            write_settings(checkpoint.source, work)
            files = sorted(path for path in work.rglob("*") if path.is_file())
            with ThreadPoolExecutor() as pool:  # hashing leaves Python's lock
                records = {
                    p.relative_to(work).as_posix(): r for p, r in zip(files, pool.map(_record, files), strict=True)
                }
            manifest = Manifest(
                source=Source(source.name, commit, checkpoint.config.architecture, fingerprint(source, max_length)),
                head=checkpoint.head,
                inputs=checkpoint.inputs,
                variants=variants,
                files=records,
                crossrank=metadata.version("crossrank"),
            )
            write_manifest(work, manifest)
            swap_in(work, target_folder)


def _record(path: Path) -> FileRecord:
    return FileRecord(path.stat().st_size, hash_file(path))


def _build(checkpoint: Checkpoint, target: Target, work: Path) -> onnx.ModelProto:
    weights, config, types = checkpoint.weights, checkpoint.config, checkpoint.inputs.token_types
    match target:
        case ("portable", precision):
            dtype = np.float16 if precision == "fp16" else np.float32
            return build_portable(weights, config, token_types=types, dtype=dtype)
        case ("cuda", _):
            return build_cuda(weights, config, token_types=types)
        case ("cpu", "int8"):
            ranges = calibrate(weights, config, checkpoint.inputs, _calibration_pairs(checkpoint), work)
            return build_cpu(weights, config, token_types=types, apply=Int8Dense(ranges))
        case _:
            return build_cpu(weights, config, token_types=types)


def _calibration_pairs(checkpoint: Checkpoint) -> PairSource:
    pairs = load_pairs("calibration")
    room = min(_CALIBRATION_LENGTH, checkpoint.inputs.max_length)
    tokenizer = checkpoint.tokenizer
    queries = tokenizer.encode([query for query, _ in pairs], "query")
    documents = tokenizer.encode([document for _, document in pairs], "document")
    return PairSource(tokenizer.template, queries, documents, np.arange(len(pairs)), room)


def _prove(checkpoint: Checkpoint, work: Path, targets: Sequence[Target], report: Report | None) -> tuple[Variant, ...]:
    """Parity of each graph, or of its CPU-runnable twin, with the reference; writes proof.json."""
    folder, inputs, pairs = checkpoint.source.folder, checkpoint.inputs, load_pairs("proof")
    with stage(report, "reference logits"):
        name, logits = reference_logits(
            folder,
            checkpoint.source.config,
            work / "tokenizer.json",
            pairs,
            max_length=inputs.max_length,
            token_types=inputs.token_types,
        )
    proof = Proof(name, pairs, logits)
    write_proof(work, proof)
    # Side by side, each on its share of the threads: loading a graph keeps one core busy at most.
    workers = min(len(targets), available_threads().count)
    threads = ThreadCount(available_threads().count // workers, "a share of the proof's")
    with stage(report, "prove the graphs"), ThreadPoolExecutor(workers) as pool:
        variants = tuple(pool.map(lambda target: _measure(checkpoint, proof, work, target, threads), targets))
    problems = [text for variant in variants for text in variant.problems()]
    if problems:
        raise ProofError(
            join_problems(f"{folder} is not exported, its graphs leave the bounds against {name}", problems)
            + f"\n{_advice(variants, name)}"
        )
    return variants


def _measure(checkpoint: Checkpoint, proof: Proof, work: Path, target: Target, threads: ThreadCount) -> Variant:
    variant = Variant(*target, file=target_file(target))
    path, graph = work / variant.file, "graph"
    if variant.variant == "cuda":
        path, graph = work / "twin.onnx", "twin"
        weights, types = checkpoint.weights, checkpoint.inputs.token_types
        save_model(build_cuda(weights, checkpoint.config, token_types=types, twin=True), path)
    session = Session(path, checkpoint.inputs, Device("cpu"), threads)
    scorer = Scorer(checkpoint.tokenizer, session, checkpoint.inputs.max_length, checkpoint.config.labels)
    parity = measure_parity(proof, scorer, graph=graph)
    if graph == "twin":
        for file in work.glob("twin.onnx*"):
            file.unlink()
    return replace(variant, parity=parity)


def _advice(variants: Sequence[Variant], reference: str) -> str:
    """What to do about graphs that left their bounds."""
    good = [variant.name for variant in variants if not variant.problems()]
    if good:
        return f"Leave them out with --variants and --precision; within their bounds are {', '.join(good)}"
    if reference.startswith("transformers"):
        return "If all are off, tokenizer_config.json may contradict tokenizer.json, as with do_lower_case."
    return "If all are off, the checkpoint may not be what its config.json says."
