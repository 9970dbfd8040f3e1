"""The fixed pairs that an artifact was proven on, with the reference's logits, and the test itself."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ._errors import ArtifactError
from ._fields import read_json_object
from ._manifest import PROOF_NAME
from ._parity import Parity, compare_logits
from ._scoring import Scorer

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
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ArtifactError(f"{path}: not a proof: {error!r}; export the model again") from error


def measure_parity(proof: Proof, scorer: Scorer, precision: str, *, graph: str = "graph") -> Parity:
    """Score the proof's pairs, in batches and some of them alone, and compare with the reference.

    Args:
        proof: Pairs and reference logits.
        scorer: The graph under test, with the engine's tokenizer.
        precision: The graph's.
        graph: "graph", or "twin" if a stand-in for it runs.
    """

    def logits(pairs: Sequence[tuple[str, str]]) -> NDArray[np.float32]:
        queries, documents = zip(*pairs, strict=True)
        return scorer.logits(queries, documents, np.arange(len(pairs)))

    return compare_logits(
        proof.logits,
        logits(proof.pairs),
        np.concatenate([logits([pair]) for pair in proof.pairs[:_ALONE]]),
        precision=precision,
        name=proof.reference,
        graph=graph,
        provider=scorer.runner.session.provider,
    )
