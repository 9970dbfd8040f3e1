"""OpenVINO as an expert sets it up: int8 by NNCF, lengths in steps of 16, a stream for each thread."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import openvino

from benchmarks.engines.registry import Engine

from ._expert import Batch, calibration_pairs, copy_settings, open_tokenizer, pad, scorer

_ONNX, _IR = "model.onnx", "openvino_model.xml"
_STEP = 16  # each shape of a batch is prepared once and kept
_SAMPLES = 100


def convert(source: Path, output: Path) -> None:
    """Quantize an exported model by NNCF's scheme for transformers: static, activations smoothed, biases corrected."""
    import nncf

    copy_settings(source, output)
    model = openvino.Core().read_model(source / _ONNX)
    names = [entry.any_name for entry in model.inputs]
    pairs = calibration_pairs(open_tokenizer(source))[:_SAMPLES]
    samples = [pad([pair], names) for pair in pairs]
    scheme = {"model_type": nncf.ModelType.TRANSFORMER, "subset_size": len(samples)}
    openvino.save_model(nncf.quantize(model, nncf.Dataset(samples), **scheme), output / _IR)


def open(folder: Path, threads: int, *, precision: str) -> Engine:
    """Open an exported model or what `convert` wrote, beside whose int8 all else runs in "f32" or in "bf16"."""
    file = _IR if (folder / _IR).exists() else _ONNX
    settings = {
        "PERFORMANCE_HINT": "THROUGHPUT",
        "NUM_STREAMS": threads,
        "INFERENCE_NUM_THREADS": threads,
        "INFERENCE_PRECISION_HINT": precision,
    }
    model = openvino.Core().compile_model(folder / file, "CPU", settings)
    names = [entry.any_name for entry in model.inputs]
    queue = openvino.AsyncInferQueue(model, threads)

    def run(batches: list[Batch]) -> Iterable[Any]:
        logits: list[Any] = [None] * len(batches)
        queue.set_callback(lambda request, place: logits.__setitem__(place, request.get_output_tensor().data.copy()))
        for place, (_, pairs) in enumerate(batches):
            queue.start_async(pad(pairs, names, _STEP), place)
        queue.wait_all()
        return logits

    return Engine(
        scorer(open_tokenizer(folder), threads, run, multiple=_STEP),
        lambda: {
            "precision": f"int8, static scales, and {precision}" if file == _IR else precision,
            "graph": file,
            "runs_on": "OpenVINO CPU",
            "batches": f"of like length in steps of {_STEP}, on {threads} streams",
        },
        ("openvino", "tokenizers", "numpy"),
    )
