"""The engines that are measured, ours and others', behind one call: a query and documents in, scores out.

Each opener runs in a worker process and imports its library there, so that no process holds two.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Precision = Literal["fp32", "fp16", "int8"]


@dataclass(frozen=True, slots=True)
class Engine:
    """A loaded model.

    Attributes:
        score: Query and documents -> float32 [documents], tokenizing included.
        facts: What runs: precision, device, batching.
        versions: Package -> version.
    """

    score: Callable[[str, Sequence[str]], Floats]
    facts: dict[str, str] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)


Opener = Callable[[], Engine]


def open_crossrank(artifact: Path, *, precision: Precision, threads: int) -> Engine:
    """Our engine on an artifact."""
    from crossrank import CrossEncoder

    model = CrossEncoder(artifact, precision=precision, threads=threads, device="cpu")
    info = model.info()
    facts = {"precision": info.precision, "variant": info.variant, "runs_on": info.provider, "batches": "planned"}
    return Engine(model.score, facts, _versions("crossrank", "onnxruntime", "tokenizers", "numpy"))


def open_sentence_transformers(checkpoint: Path, *, threads: int) -> Engine:
    """sentence-transformers' CrossEncoder on torch, float32, with its own defaults.

    Raises:
        ValueError: If the model has several labels.
    """
    import torch
    from sentence_transformers import CrossEncoder
    from transformers.utils import logging

    logging.disable_progress_bar()
    torch.set_num_threads(threads)
    model = CrossEncoder(str(checkpoint), device="cpu", local_files_only=True)
    if model.num_labels != 1:
        raise ValueError(f"{checkpoint} has {model.num_labels} labels: a score per document needs one")

    def score(query: str, documents: Sequence[str]) -> Floats:
        scores: Floats = model.predict([(query, document) for document in documents], show_progress_bar=False)
        return scores

    facts = {"precision": "fp32", "variant": "torch", "runs_on": "cpu", "batches": "32 (its default)"}
    return Engine(score, facts, _versions("sentence-transformers", "torch", "transformers", "tokenizers"))


def our_engines(artifact: Path, precisions: Sequence[Precision], threads: int) -> dict[str, Opener]:
    """Our engine in each precision, by the name it has in tables."""
    return {f"crossrank {p}": partial(open_crossrank, artifact, precision=p, threads=threads) for p in precisions}


# What `--against` takes: peers that load the checkpoint itself.
PEERS: dict[str, Callable[..., Engine]] = {"sentence-transformers": open_sentence_transformers}


def _versions(*packages: str) -> dict[str, str]:
    return {package: version(package) for package in packages}
