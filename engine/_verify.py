"""Proving an artifact again on the machine at hand."""

from dataclasses import replace
from pathlib import Path

from ._errors import ArtifactError, CrossrankError, DeviceError, InputError, ProofError, join_problems
from ._held import HeldFolder, hold
from ._manifest import MANIFEST_NAME, Manifest, hash_file, read_manifest
from ._open import graph_file, read_artifact
from ._proof import measure_parity, read_proof
from ._runner import Runner
from ._scoring import Scorer
from ._session import Device
from ._threads import available_threads


def verify_artifact(folder: Path) -> tuple[Manifest, list[str]]:
    """Check an artifact's hashes and prove every graph that can run here.

    Args:
        folder: An artifact folder.

    Returns:
        The manifest with this machine's figures in place of the exporter's, and a sentence for each graph
        that could not run here (a CUDA graph without a GPU).

    Raises:
        InputError: If it is no artifact folder.
        ArtifactError: If the manifest or a file is damaged.
        ProofError: If a hash differs or a graph leaves its bound; the message has all of them.
    """
    if not (folder / MANIFEST_NAME).exists():
        raise InputError(
            f"{folder} is no artifact folder: it has no {MANIFEST_NAME}. Only exported artifacts hold a proof: "
            f"export-model CHECKPOINT -o DIR, from a folder with weights or a hub id"
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
            padded = variant.variant == "portable"
            runner = Runner(graph, manifest.inputs, device, available_threads(), padded=padded, packed=packed)
        except (DeviceError, ArtifactError) as error:
            if isinstance(error, ArtifactError) and (folder / variant.file).exists():
                raise
            skipped.append(f"{variant.name} did not run here: {held.named(error)}")
            variants.append(replace(variant, parity=None))
            continue
        scorer = Scorer(tokenizer, runner, manifest.inputs.max_length, manifest.head.labels)
        parity = measure_parity(proof, scorer, variant.precision)
        variants.append(replace(variant, parity=parity))
    problems = [text for variant in variants for text in variant.problems()]
    if problems:
        raise ProofError(join_problems(str(folder), problems))
    return replace(manifest, variants=tuple(variants)), skipped
