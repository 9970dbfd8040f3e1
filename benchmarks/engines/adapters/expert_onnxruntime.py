"""onnxruntime as an expert writes it: torch's own export, sorted batches, one session that every thread calls.

onnxruntime.transformers' optimizer, which makes one operator of each BERT attention, is left out: on a CPU with AVX-512
its graphs of TinyBERT-L-2 and MiniLM-L12 took 9% to 37% more CPU time, without SkipLayerNormalization as much as the
plain ones, and `quantize_dynamic` refuses them.
"""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import onnxruntime

from benchmarks.engines.registry import Engine

from ._expert import INPUTS, Batch, copy_settings, open_tokenizer, pad, scorer

FILE = "model.onnx"


def convert(source: Path, output: Path, *, precision: str) -> None:
    """Export a checkpoint, also a chain of sentence-transformers' modules; or quantize what was exported."""
    copy_settings(source, output)
    if precision == "int8":
        from onnxruntime.quantization import QuantType, quantize_dynamic

        quantize_dynamic(source / FILE, output / FILE, weight_type=QuantType.QInt8, per_channel=True)
        return
    import torch
    from sentence_transformers import CrossEncoder

    # Attention in single products: the runtimes know that pattern, and it is a little faster than torch's own.
    settings = {"attn_implementation": "eager"}
    model = CrossEncoder(str(source), device="cpu", local_files_only=True, model_kwargs=settings)
    features = model.preprocess([("a query", "its document"), ("another", "of another length, so padded")])
    names = [name for name in INPUTS if name in features]

    class Logits(torch.nn.Module):  # type: ignore[misc]  # torch has no types here
        def __init__(self) -> None:
            super().__init__()
            self.model = model.eval()

        def forward(self, *inputs: Any) -> Any:
            return self.model(dict(zip(names, inputs, strict=True)))["scores"]

    torch.onnx.export(
        Logits(),
        tuple(features[name] for name in names),
        str(output / FILE),
        input_names=names,
        output_names=["logits"],
        dynamic_axes={name: {0: "pairs", 1: "tokens"} for name in names},
        opset_version=20,
        dynamo=False,
    )


def open(folder: Path, threads: int, *, precision: str) -> Engine:
    """Open what `convert` wrote."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    # In int8 that fusion's kernel costs more than what it joins: 11% to 28% of the time of the same two models.
    disabled = ["SkipLayerNormFusion"] if precision == "int8" else []
    session = onnxruntime.InferenceSession(
        folder / FILE, options, providers=["CPUExecutionProvider"], disabled_optimizers=disabled
    )
    names = [entry.name for entry in session.get_inputs()]
    pool = ThreadPoolExecutor(threads)

    def logits(batch: Batch) -> Any:
        return session.run(None, pad(batch[1], names))[0]

    return Engine(
        scorer(open_tokenizer(folder), threads, lambda batches: pool.map(logits, batches)),
        lambda: {
            "precision": "fp32" if precision == "fp32" else "int8, scales per batch",
            "graph": f"{FILE}, exported by torch",
            "runs_on": "CPUExecutionProvider",
            "batches": f"of like length, on {threads} threads of one session",
        },
        ("onnxruntime", "tokenizers", "numpy"),
    )
