"""fastembed's TextCrossEncoder on a file that sentence-transformers exported; it exports none itself."""

from pathlib import Path

from fastembed.common.model_description import ModelSource
from fastembed.rerank.cross_encoder import TextCrossEncoder

from benchmarks.engines.registry import Engine

from ._scores import labels_of

_NAME = "local/model"
_BATCH = 64  # rerank's default


def open(folder: Path, threads: int) -> Engine:
    """Open a folder with one ONNX file in ``onnx/``.

    Raises:
        ValueError: If the model has several labels.
    """
    if (labels := labels_of(folder)) != 1:
        raise ValueError(f"fastembed scores by the first logit, and this model has {labels} labels")
    (file,) = (folder / "onnx").glob("*.onnx")
    graph = f"onnx/{file.name}"
    TextCrossEncoder.add_custom_model(model=_NAME, sources=ModelSource(hf=_NAME), model_file=graph)
    encoder = TextCrossEncoder(_NAME, threads=threads, cuda=False, specific_model_path=str(folder))

    return Engine(
        lambda query, documents: list(encoder.rerank(query, documents)),
        lambda: {
            "precision": "int8, scales per batch" if "qint8" in file.name else "fp32",
            "graph": f"{graph}, exported by sentence-transformers",
            "runs_on": "CPUExecutionProvider",
            "batches": f"{_BATCH} in the given order, its default",
        },
        ("fastembed", "onnxruntime", "tokenizers"),
    )
