"""sentence-transformers' ONNX and OpenVINO backends, and the files that its tools export for them and for others."""

import shutil
from pathlib import Path
from typing import Any

import onnxruntime
import torch
from sentence_transformers import CrossEncoder, export_dynamic_quantized_onnx_model, export_optimized_onnx_model

from benchmarks.engines.registry import Engine

from .sentence_transformers_torch import engine, quiet

_FILES = {
    "onnx": "onnx/model.onnx",
    "onnx-o3": "onnx/model_O3.onnx",
    "onnx-qint8": "onnx/model_qint8_avx512_vnni.onnx",
    "openvino": "openvino/openvino_model.xml",
}
_PRECISIONS = {"onnx": "fp32", "onnx-o3": "fp32, approximate GELU", "onnx-qint8": "int8, scales per batch"}


def _backend(form: str) -> Any:
    return "openvino" if form == "openvino" else "onnx"


def convert(source: Path, output: Path, *, form: str) -> None:
    """Write a folder with the form's file and all that beside it opens a model.

    The source of "onnx" and "openvino" is the checkpoint, that of "onnx-o3" and "onnx-qint8" the "onnx" form.
    """
    backend = _backend(form)
    whole = form == backend
    kwargs = {"export": True} if whole else {}
    model = CrossEncoder(str(source), device="cpu", backend=backend, local_files_only=True, model_kwargs=kwargs)
    if whole:
        model.save_pretrained(str(output))
        return
    shutil.copytree(source, output, ignore=shutil.ignore_patterns("onnx"))
    if form == "onnx-o3":
        export_optimized_onnx_model(model, "O3", str(output))
    else:
        export_dynamic_quantized_onnx_model(model, "avx512_vnni", str(output))


def open(folder: Path, threads: int, *, form: str, inference_precision: str = "") -> Engine:
    """Open what `convert` wrote; an inference precision is OpenVINO's, whose default is bf16 where the CPU has that."""
    quiet(threads)
    kwargs: dict[str, Any] = {"file_name": Path(_FILES[form]).name}
    if form == "openvino":
        settings = {"INFERENCE_NUM_THREADS": str(threads)}
        if inference_precision:
            settings["INFERENCE_PRECISION_HINT"] = inference_precision
        kwargs["ov_config"] = settings
    else:
        kwargs["session_options"] = onnxruntime.SessionOptions()
        kwargs["session_options"].intra_op_num_threads = threads
        kwargs["provider"] = "CPUExecutionProvider"
    model = CrossEncoder(
        str(folder),
        device="cpu",
        backend=_backend(form),
        local_files_only=True,
        activation_fn=torch.nn.Identity(),
        model_kwargs=kwargs,
    )
    if form == "openvino":
        inner: Any = model.transformers_model
        inner.compile()  # else the first call does it
        precision = inner.request.get_property("INFERENCE_PRECISION_HINT").to_string()
        facts = {"precision": {"f32": "fp32"}.get(precision, precision), "graph": _FILES[form]}
        return engine(model, facts, "optimum", "optimum-intel", "openvino")
    facts = {"precision": _PRECISIONS[form], "graph": _FILES[form]}
    return engine(model, facts, "optimum", "optimum-onnx", "onnxruntime")
