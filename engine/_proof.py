"""The fixed pairs that an artifact was proven on, with the reference's logits, and the test itself.

The exporter proves a graph before it writes it; `verify_artifact` proves it again on the machine at hand.
"""

import json
from collections.abc import Iterable, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ._artifact.held import HeldFolder, ModelFile, hold
from ._artifact.manifest import MANIFEST_NAME, PROOF_NAME, Inputs, Manifest, Variant, hash_file, read_manifest
from ._artifact.origin import repair
from ._artifact.parity import Parity, compare_logits
from ._device.backend import Backend
from ._device.compiled import open_kernels
from ._device.open import graph_file, load_graph, read_artifact
from ._errors import ArtifactError, CrossrankError, DeviceError, InputError, ProofError, join_problems
from ._interrupts import not_thrown_in
from ._json import has_entry, read_json_object
from ._machine.cpu import available_threads
from ._machine.device import Device
from ._machine.gpu import read_gpu_facts
from ._text.pairs import PairSource
from ._text.tokenizer import PairTokenizer

# Pairs that are scored alone too, against themselves in a batch: the first, which are short.
_ALONE = 8


@dataclass(frozen=True, slots=True)
class Proof:
    """Pairs of texts and what the reference gives for them.

    Attributes:
        reference: "transformers VERSION" or "numpy".
        pairs: Query and document.
        logits: float32 [pairs, labels].
    """

    reference: str
    pairs: Sequence[tuple[str, str]]
    logits: NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Subject:
    """A graph under test.

    Attributes:
        tokenizer: The engine's, of the model.
        backend: The graph.
        max_length: Most tokens of a joined pair.
        labels: Logits per pair.
        lanes: Batches that run side by side, on a backend whose batches run on a thread each.
    """

    tokenizer: PairTokenizer
    backend: Backend
    max_length: int
    labels: int
    lanes: int = 1

    def logits(self, pairs: Sequence[tuple[str, str]], pool: Executor | None = None) -> NDArray[np.float32]:
        """float32 [pairs, labels]; ``pool`` runs batches side by side."""
        queries, documents = zip(*pairs, strict=True)
        tokens = self.tokenizer.encode(queries, "query"), self.tokenizer.encode(documents, "document")
        found = np.empty((len(pairs), self.labels), np.float32)
        source = PairSource(self.tokenizer.template, *tokens, np.arange(len(pairs)), self.max_length)
        batches = self.backend.plan(source.lengths, None)
        joined = map(source.batch, batches)
        if pool is None:
            results: Iterable[NDArray[np.float32]] = self.backend.submit(joined, list(map(len, batches)))()
        else:
            results = pool.map(self.backend.run, joined)
        for index, logits in zip(batches, results, strict=True):
            found[index] = logits
        return found


def write_proof(folder: Path, proof: Proof) -> None:
    """Write ``proof.json`` into ``folder``."""
    data = {
        "reference": proof.reference,
        "pairs": [list(pair) for pair in proof.pairs],
        "logits": proof.logits.astype(float).tolist(),
    }
    (folder / PROOF_NAME).write_text(json.dumps(data, ensure_ascii=False), encoding="utf-8")


def read_proof(folder: Path) -> Proof:
    """Read ``proof.json``.

    Raises:
        ArtifactError: If it is no proof.
    """
    path = folder / PROOF_NAME
    try:
        data = read_json_object(path)
        pairs = [(query, document) for query, document in data["pairs"]]
        logits = np.array(data["logits"], np.float32)
        if logits.ndim != 2 or len(logits) != len(pairs) or not pairs:
            raise ValueError(f"{len(pairs)} pairs and logits of shape {logits.shape}")
        return Proof(str(data["reference"]), pairs, logits)
    except not_thrown_in(OSError, ValueError, KeyError, TypeError) as error:
        raise ArtifactError(f"{path}: not a proof: {error!r}; {repair(folder)}") from error


def measure_parity(proof: Proof, subject: Subject, precision: str, *, graph: str = "graph") -> Parity:
    """Score the proof's pairs, in batches and some of them alone, and compare with the reference.

    Args:
        proof: Pairs and reference logits.
        subject: The graph under test.
        precision: The graph's.
        graph: "graph", or "twin" if a stand-in for it runs.
    """
    with ThreadPoolExecutor(subject.lanes) as pool:
        batched = subject.logits(proof.pairs, pool if subject.lanes > 1 else None)
        alone = list(pool.map(lambda pair: subject.logits([pair]), proof.pairs[:_ALONE]))
    return compare_logits(
        proof.logits,
        batched,
        np.concatenate(alone),
        precision=precision,
        name=proof.reference,
        graph=graph,
        provider=subject.backend.provider,
    )


def prove_kernels(
    proof: Proof, subject: Subject, variant: Variant, graph: ModelFile, inputs: Inputs, *, native: bool
) -> Parity | None:
    """Parity of a graph's weights as crossrank-kernels runs them; None where that does not.

    Args:
        proof: Pairs and reference logits.
        subject: The graph, on onnxruntime.
        variant: What it is.
        graph: Its file.
        inputs: As of the manifest.
        native: Whether the native exporter wrote it.
    """
    if variant.target != ("cpu", "int8"):
        return None
    backend = open_kernels(graph, replace(variant, kernels=None), inputs, available_threads().count, native=native)
    if isinstance(backend, str):
        return None
    return measure_parity(proof, replace(subject, backend=backend), variant.precision)


def verify_artifact(folder: Path) -> tuple[Manifest, list[str]]:
    """Check an artifact's hashes and prove every graph that can run here.

    Args:
        folder: An artifact folder.

    Returns:
        The manifest with this machine's figures in place of the exporter's, and a sentence for each graph
        that could not run here (a CUDA graph without a GPU), or does not run on crossrank-kernels for its error.

    Raises:
        InputError: If it is no artifact folder.
        ArtifactError: If the manifest or a file is damaged.
        ProofError: If a hash differs or a graph leaves its bound by what runs it; the message has all of them.
    """
    if not has_entry(folder / MANIFEST_NAME):
        raise InputError(
            f"{folder} is no artifact folder: it has no {MANIFEST_NAME}. Only exported artifacts hold a proof: "
            "export_model(CHECKPOINT, DIR) (in a shell export-model CHECKPOINT -o DIR), from weights or a hub id"
        )
    with hold(folder) as held:
        try:
            return _verify(held)
        except CrossrankError as error:
            raise held.named(error) from error.__cause__


def _verify(held: HeldFolder) -> tuple[Manifest, list[str]]:
    folder = held.path
    manifest = read_manifest(folder)
    problems = [
        f"{name} does not have the sha256 of the manifest"
        for name, record in manifest.files.items()
        if (folder / name).exists() and hash_file(folder / name) != record.sha256  # else a graph not downloaded yet
    ]
    if problems:
        raise ProofError(join_problems(str(folder), problems))
    _, tokenizer = read_artifact(held)
    proof = read_proof(folder)
    variants, skipped = [], []
    for variant in manifest.variants:
        device = Device("cuda" if variant.variant == "cuda" else "cpu")
        try:
            graph, packed = graph_file(held, variant, manifest), variant.variant == "cuda"
            backend = load_graph(graph, manifest.inputs, device, available_threads().count, packed=packed)
        except (DeviceError, ArtifactError) as error:
            if isinstance(error, ArtifactError) and (folder / variant.file).exists():
                raise
            if device.kind == "cuda" and read_gpu_facts().driver is None:
                skipped.append(
                    f"{variant.name} did not run here: there is no NVIDIA GPU, or no driver that tells of it"
                )
            else:
                skipped.append(f"{variant.name} did not run here: {held.named(error)}")
            variants.append(replace(variant, parity=None))
            continue
        subject = Subject(tokenizer, backend, manifest.inputs.max_length, manifest.head.labels)
        parity = measure_parity(proof, subject, variant.precision)
        kernels = prove_kernels(proof, subject, variant, graph, manifest.inputs, native=manifest.exporter == "native")
        measured = replace(variant, parity=parity, kernels=kernels)
        variants.append(measured)
        problems += measured.problems()
        if kernels is None or not (found := measured.kernels_problems(kernels.provider)):
            continue
        said = f"{variant.name} by {kernels.provider}: {'; '.join(found)}"
        if variant.kernels_problems(kernels.provider):  # as was recorded, so that they do not run it
            skipped.append(f"{said}; onnxruntime runs it")
        else:
            problems.append(f"{said}; CROSSRANK_KERNELS=0 has onnxruntime run it")
    if problems:
        raise ProofError(join_problems(str(folder), problems))
    return replace(manifest, variants=tuple(variants)), skipped
