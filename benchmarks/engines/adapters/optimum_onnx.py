"""optimum's ORTModelForSequenceClassification with transformers' tokenizer, on the ONNX file that it exported."""

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from optimum.onnxruntime import ORTModelForSequenceClassification
from transformers import AutoTokenizer

from benchmarks.engines.registry import Engine

from ._scores import BATCH, batches, max_tokens, relevance, versions


def open(folder: Path, threads: int) -> Engine:
    """Open a folder with ``onnx/model.onnx``."""
    torch.set_num_threads(threads)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    split: Any = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    model = ORTModelForSequenceClassification.from_pretrained(
        folder,
        subfolder="onnx",
        file_name="model.onnx",
        session_options=options,
        provider="CPUExecutionProvider",
        local_files_only=True,
    )
    limit = max_tokens(folder)

    def features(query: str, documents: list[str]) -> Any:
        queries = [query] * len(documents)
        return split(queries, documents, padding=True, truncation=True, max_length=limit, return_tensors="np")

    def score(query: str, documents: list[str]) -> object:
        return np.concatenate([model(**features(query, batch)).logits for batch in batches(documents)])

    def tokenize(query: str, documents: list[str]) -> None:
        for batch in batches(documents):
            features(query, batch)

    return Engine(
        score,
        {
            "precision": "fp32",
            "graph": "onnx/model.onnx",
            "runs_on": "CPUExecutionProvider",
            "batches": f"{BATCH} in the given order",
        },
        versions("optimum", "optimum-onnx", "onnxruntime", "transformers", "tokenizers"),
        read=relevance,
        tokenize=tokenize,
    )
