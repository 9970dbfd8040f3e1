"""transformers alone, as people call it: batches in the documents' order, padded and truncated, torch fp32."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer
from transformers.utils import logging

from benchmarks.engines.registry import Engine

from ._scores import BATCH, batches, max_tokens, relevance, versions


def open(folder: Path, threads: int, *, tokenizer: str) -> Engine:
    """Open a checkpoint.

    Args:
        folder: The checkpoint.
        threads: CPU threads.
        tokenizer: "fast", in Rust, or "slow", in Python, which transformers 5 no longer has.
    """
    logging.disable_progress_bar()
    torch.set_num_threads(threads)
    split: Any = AutoTokenizer.from_pretrained(folder, use_fast=tokenizer == "fast", local_files_only=True)
    if split.is_fast != (tokenizer == "fast"):
        raise RuntimeError(f"transformers gave {type(split).__name__} where a {tokenizer} tokenizer was asked for")
    model: Any = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32, local_files_only=True)
    model.eval()
    limit = max_tokens(folder)

    def features(query: str, documents: list[str]) -> Any:
        queries = [query] * len(documents)
        return split(queries, documents, padding=True, truncation=True, max_length=limit, return_tensors="pt")

    def score(query: str, documents: list[str]) -> object:
        with torch.inference_mode():
            return np.concatenate([model(**features(query, batch)).logits.numpy() for batch in batches(documents)])

    def tokenize(query: str, documents: list[str]) -> None:
        for batch in batches(documents):
            features(query, batch)

    return Engine(
        score,
        {
            "precision": "fp32",
            "graph": "torch",
            "runs_on": "cpu",
            "batches": f"{BATCH} in the given order",
            "tokenizer": type(split).__name__,
        },
        versions("transformers", "tokenizers", "torch"),
        read=relevance,
        tokenize=tokenize,
    )
