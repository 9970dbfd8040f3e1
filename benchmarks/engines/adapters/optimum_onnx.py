"""optimum's ORTModelForSequenceClassification with transformers' tokenizer, on the ONNX file that it exported."""

from pathlib import Path

import onnxruntime
import torch
from optimum.onnxruntime import ORTModelForSequenceClassification
from transformers import AutoTokenizer

from benchmarks.engines.registry import Engine

from ._scores import plain_engine, versions


def open(folder: Path, threads: int) -> Engine:
    """Open a folder with ``onnx/model.onnx``."""
    torch.set_num_threads(threads)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    model = ORTModelForSequenceClassification.from_pretrained(
        folder,
        subfolder="onnx",
        file_name="model.onnx",
        session_options=options,
        provider="CPUExecutionProvider",
        local_files_only=True,
    )
    return plain_engine(
        folder,
        AutoTokenizer.from_pretrained(folder, local_files_only=True),
        lambda features: model(**features).logits,
        {"precision": "fp32", "graph": "onnx/model.onnx", "runs_on": "CPUExecutionProvider"},
        versions("optimum", "optimum-onnx", "onnxruntime", "transformers", "tokenizers"),
    )
