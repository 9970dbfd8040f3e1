"""infinity's engine in this process, without its web server, on torch."""

from pathlib import Path
from typing import Any

import torch
from infinity_emb import EngineArgs, SyncEngineArray

from benchmarks.engines.registry import Engine

from ._scores import labels_of, versions


def open(folder: Path, threads: int) -> Engine:
    """Open a checkpoint.

    Raises:
        ValueError: If the model has several labels.
    """
    if (labels := labels_of(folder)) != 1:
        raise ValueError(f"infinity ranks with models of one label, and this one has {labels}")
    torch.set_num_threads(threads)
    name = str(folder)
    arguments = EngineArgs(
        model_name_or_path=name,
        device="cpu",
        dtype="float32",
        bettertransformer=False,  # its default; the optimum that installs today no longer has it
        model_warmup=False,  # our first calls are that; its own takes half a minute and gigabytes
    )
    engines: Any = SyncEngineArray.from_args([arguments])

    def score(query: str, documents: list[str]) -> Any:
        ranked, _ = engines.rerank(model=name, query=query, docs=documents, raw_scores=True).result()
        return ranked

    def read(ranked: Any) -> list[float]:
        return [found.relevance_score for found in sorted(ranked, key=lambda found: int(found.index))]

    return Engine(
        score,
        {"precision": "fp32", "graph": "torch", "runs_on": "cpu", "batches": "32 of like length, its default"},
        versions("infinity-emb", "sentence-transformers", "transformers", "torch"),
        read=read,
    )
