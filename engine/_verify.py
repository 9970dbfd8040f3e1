"""Proving an artifact again on the machine at hand."""

from dataclasses import replace
from pathlib import Path

from ._errors import CrossrankError, ProofError, join_problems
from ._manifest import Manifest, Variant, hash_file, read_manifest
from ._parity import BOUNDS
from ._proof import Proof, measure_parity, read_proof
from ._session import Device, Session
from ._threads import available_threads
from ._tokenize import PairTokenizer


def verify_artifact(folder: Path) -> tuple[Manifest, list[str]]:
    """Check an artifact's hashes and prove every graph that can run here.

    Args:
        folder: An artifact folder.

    Returns:
        The manifest with this machine's figures in place of the exporter's, and a sentence for each graph
        that could not run here (a CUDA graph without a GPU).

    Raises:
        ArtifactError: If the manifest or a file is damaged.
        ProofError: If a hash differs or a graph leaves its bound; the message has all of them.
    """
    manifest = read_manifest(folder)
    problems = [
        f"{name} does not have the sha256 of the manifest"
        for name, record in manifest.files.items()
        if hash_file(folder / name) != record.sha256
    ]
    if problems:
        raise ProofError(join_problems(str(folder), problems))
    proof = read_proof(folder)
    tokenizer = PairTokenizer(folder / "tokenizer.json")
    variants, skipped = [], []
    for variant in manifest.variants:
        try:
            proven = _verify_variant(folder, manifest, variant, proof, tokenizer)
        except CrossrankError as error:
            skipped.append(f"{variant.name} did not run here: {error}")
            variants.append(replace(variant, parity=None))
            continue
        variants.append(proven)
        if proven.parity is not None:
            problems += [f"{variant.name}: {text}" for text in proven.parity.problems(BOUNDS[variant.precision])]
    if problems:
        raise ProofError(join_problems(str(folder), problems))
    return replace(manifest, variants=tuple(variants)), skipped


def _verify_variant(
    folder: Path, manifest: Manifest, variant: Variant, proof: Proof, tokenizer: PairTokenizer
) -> Variant:
    device = Device("cuda" if variant.variant == "cuda" else "cpu")
    session = Session(folder / variant.file, manifest.inputs, device, available_threads())
    parity = measure_parity(proof, tokenizer, session, max_length=manifest.inputs.max_length)
    return replace(variant, parity=parity)
