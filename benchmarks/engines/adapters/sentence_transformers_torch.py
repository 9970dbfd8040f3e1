"""sentence-transformers' CrossEncoder on torch."""

from pathlib import Path

import torch
from sentence_transformers import CrossEncoder

from benchmarks.engines.registry import Engine

from ._sentence_transformers import engine, quiet

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
