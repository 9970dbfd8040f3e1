"""CTranslate2's encoder as an expert calls it: sorted batches, a replica for each thread, the head in numpy."""

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import ctranslate2
import numpy as np

from benchmarks.engines.registry import Engine

from ._expert import Batch, copy_settings, open_tokenizer, scorer

_HEAD = "head.npz"


def convert(source: Path, output: Path) -> None:
    """Convert a BERT; its classifier, which CTranslate2 leaves out, lies beside it."""
    from ctranslate2.converters import TransformersConverter
    from safetensors.numpy import load_file

    copy_settings(source, output)
    with TemporaryDirectory() as scratch:
        for path in source.iterdir():
            (Path(scratch) / path.name).symlink_to(path)
        config = json.loads((source / "config.json").read_text(encoding="utf-8"))
        (Path(scratch) / "config.json").unlink()
        # It asks for what transformers 5 no longer has.
        (Path(scratch) / "config.json").write_text(json.dumps({"position_embedding_type": "absolute"} | config))
        TransformersConverter(scratch).convert(str(output / "encoder"))
    tensors = load_file(source / "model.safetensors")
    np.savez(output / _HEAD, weight=tensors["classifier.weight"], bias=tensors["classifier.bias"])


def open(folder: Path, threads: int, *, precision: str) -> Engine:
    """Open what `convert` wrote in "float32" or "int8"."""
    settings = {"compute_type": precision, "inter_threads": threads, "intra_threads": 1}
    encoder = ctranslate2.Encoder(str(folder / "encoder"), device="cpu", **settings)
    head = np.load(folder / _HEAD)
    pool = ThreadPoolExecutor(threads)

    def logits(batch: Batch) -> Any:
        types = [pair.type_ids for pair in batch[1]]
        found = encoder.forward_batch([pair.ids for pair in batch[1]], token_type_ids=types)
        return np.asarray(found.pooler_output) @ head["weight"].T + head["bias"]

    return Engine(
        scorer(open_tokenizer(folder), threads, lambda batches: pool.map(logits, batches)),
        lambda: {
            "precision": "fp32" if precision == "float32" else "int8, scales per row",
            "graph": "CTranslate2",
            "runs_on": "cpu",
            "batches": f"of like length, on {threads} replicas",
        },
        ("ctranslate2", "tokenizers", "numpy"),
    )
