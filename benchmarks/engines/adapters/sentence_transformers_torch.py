"""sentence-transformers' CrossEncoder on torch, and what its other backends share with it."""

from pathlib import Path

import torch
from sentence_transformers import CrossEncoder
from transformers.utils import logging

from benchmarks.engines.registry import Engine

from ._scores import relevance

_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def open(folder: Path, threads: int, *, dtype: str) -> Engine:
    """Open a checkpoint with weights in "fp32" or "bf16"."""
    quiet(threads)
    model = CrossEncoder(
        str(folder),
        device="cpu",
        local_files_only=True,
        activation_fn=torch.nn.Identity(),
        model_kwargs={"torch_dtype": _DTYPES[dtype]},
    )
    return engine(model, {"precision": dtype, "graph": "torch"})


def quiet(threads: int) -> None:
    """Set torch's threads and switch progress bars off."""
    logging.disable_progress_bar()
    torch.set_num_threads(threads)


def engine(model: CrossEncoder, facts: dict[str, str], *packages: str) -> Engine:
    """A loaded `CrossEncoder` with its own defaults, as an engine."""

    def score(query: str, documents: list[str]) -> object:
        return model.predict([(query, document) for document in documents], show_progress_bar=False)

    return Engine(
        score,
        lambda: {"runs_on": "cpu", "batches": "32 of like length, its default"} | facts,
        ("sentence-transformers", "transformers", "tokenizers", "torch", *packages),
        read=relevance,
    )
