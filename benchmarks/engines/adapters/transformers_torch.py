"""transformers alone, as people call it, torch fp32."""

from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer
from transformers.utils import logging

from benchmarks.engines.registry import Engine

from ._scores import plain_engine, versions


def open(folder: Path, threads: int, *, tokenizer: str) -> Engine:
    """Open a checkpoint; its tokenizer is "fast", in Rust, or "slow", in Python, which transformers 5 no longer has."""
    logging.disable_progress_bar()
    torch.set_num_threads(threads)
    split: Any = AutoTokenizer.from_pretrained(folder, use_fast=tokenizer == "fast", local_files_only=True)
    if split.is_fast != (tokenizer == "fast"):
        raise RuntimeError(f"transformers gave {type(split).__name__} where a {tokenizer} tokenizer was asked for")
    model: Any = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32, local_files_only=True)
    model.eval()

    def logits(features: Any) -> Any:
        with torch.inference_mode():
            return model(**features).logits.numpy()

    facts = {"precision": "fp32", "graph": "torch", "runs_on": "cpu", "tokenizer": type(split).__name__}
    return plain_engine(folder, split, logits, facts, versions("transformers", "tokenizers", "torch"))
