"""FlashRank's Ranker on a file that sentence-transformers exported; its own models are such int8 files."""

import shutil
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import patch

import onnxruntime
from flashrank import Ranker, RerankRequest
from flashrank.Config import model_file_map

from benchmarks.engines.registry import Engine

from ._scores import from_probabilities

_NAME = "ms-marco-MiniLM-L-12-v2"  # it knows its models by name; this one's folder gets our files


def open(folder: Path, threads: int) -> Engine:
    """Open a folder with one ONNX file in ``onnx/``."""
    (file,) = (folder / "onnx").glob("*.onnx")
    # Its session takes as many threads as there are cores and cannot be told otherwise.
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = partial(onnxruntime.InferenceSession, sess_options=options)
    with TemporaryDirectory() as cache, patch.object(onnxruntime, "InferenceSession", session):
        model = Path(cache) / _NAME
        shutil.copytree(folder, model, ignore=shutil.ignore_patterns("onnx"))
        (model / model_file_map[_NAME]).symlink_to(file.resolve())
        ranker = Ranker(_NAME, cache_dir=cache, log_level="ERROR")

    def score(query: str, documents: list[str]) -> Any:
        passages = [{"id": i, "text": document} for i, document in enumerate(documents)]
        return ranker.rerank(RerankRequest(query=query, passages=passages))

    def read(passages: Any) -> Iterable[float]:
        by_place = sorted(passages, key=lambda passage: int(passage["id"]))
        return from_probabilities([passage["score"] for passage in by_place])

    return Engine(
        score,
        lambda: {
            "precision": "int8, scales per batch",
            "graph": f"onnx/{file.name}, exported by sentence-transformers",
            "runs_on": "CPUExecutionProvider",
            "batches": "all documents in one",
            "scores": "logits of its float32 probabilities",
        },
        ("flashrank", "onnxruntime", "tokenizers"),
        read=read,
    )
