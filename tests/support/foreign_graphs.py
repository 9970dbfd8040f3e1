"""ONNX folders as others write them, and changes to their graphs."""

import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx

from crossrank.export import export_model
from tests.support.references import auto_classifier, reference

torch = reference("torch")

SETTINGS = ("config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")


def strip_artifact(artifact: Path, folder: Path) -> Path:
    """Settings and portable graphs of an artifact, without what is crossrank's own."""
    (folder / "onnx").mkdir(parents=True)
    for name in (*SETTINGS, "onnx/model.onnx", "onnx/model_fp16.onnx"):
        if (artifact / name).exists():
            shutil.copyfile(artifact / name, folder / name)
    return folder


def foreign_folder(checkpoint: Path, folder: Path, **options: Any) -> Path:
    """A folder with onnx/model.onnx, a standard graph with the names that all exporters give."""
    artifact = folder.with_name(f"{folder.name}-artifact")
    options = {"variants": ["portable"]} | options
    return strip_artifact(export_model(checkpoint, artifact, **options), folder)


def trace(checkpoint: Path, path: Path, inputs: list[str]) -> None:
    """A graph as torch.onnx makes it of transformers' own model."""
    model = auto_classifier().from_pretrained(checkpoint, attn_implementation="eager")
    model.config.return_dict = False
    path.parent.mkdir(parents=True, exist_ok=True)
    example = {name: torch.ones(2, 7, dtype=torch.int64) for name in inputs}
    free = {name: {0: "batch_size", 1: "sequence_length"} for name in inputs} | {"logits": {0: "batch_size"}}
    with warnings.catch_warnings(action="ignore"):  # of tracing
        torch.onnx.export(
            model.eval(),
            (example,),
            path,
            input_names=inputs,
            output_names=["logits"],
            dynamic_axes=free,
            dynamo=False,  # the exporter that optimum uses; the newer one needs onnxscript
        )


def edit_graph(path: Path, change: Callable[[onnx.GraphProto], object]) -> None:
    """Let ``change`` work on a file's graph in place."""
    model = onnx.load(path)
    change(model.graph)
    onnx.save(model, path)


def declare_int32(graph: onnx.GraphProto) -> None:
    """Give every input the type int32, and a Cast behind it."""
    for node in graph.node:
        node.input[:] = [f"{name}_64" if name in {i.name for i in graph.input} else name for name in node.input]
    for value in graph.input:
        value.type.tensor_type.elem_type = onnx.TensorProto.INT32
        cast = onnx.helper.make_node("Cast", [value.name], [f"{value.name}_64"], to=onnx.TensorProto.INT64)
        graph.node.insert(0, cast)


def rename_output(graph: onnx.GraphProto, name: str) -> None:
    """Call the output otherwise."""
    (output,) = graph.output
    graph.node.append(onnx.helper.make_node("Identity", [output.name], [name]))
    output.name = name


def fix_dimensions(graph: onnx.GraphProto, batch: int | None, length: int | None) -> None:
    """Declare a fixed batch, or a fixed length, for every input."""
    for value in graph.input:
        for dimension, size in zip(value.type.tensor_type.shape.dim, (batch, length), strict=True):
            if size is not None:
                dimension.dim_value = size


def squeezed(graph: onnx.GraphProto) -> None:
    """An output of a rank that nobody can tell before it runs: of one pair it has none."""
    rename_output(graph, "scores")
    graph.node[-1].CopyFrom(onnx.helper.make_node("Squeeze", ["logits"], ["scores"]))
    graph.output[0].type.tensor_type.ClearField("shape")


def one_dimension(graph: onnx.GraphProto) -> None:
    """An output [pairs], as of a model that squeezes its last dimension."""
    squeezed(graph)
    graph.node[-1].input.append("axis")
    graph.initializer.append(onnx.helper.make_tensor("axis", onnx.TensorProto.INT64, [1], [1]))
    graph.output[0].type.tensor_type.shape.dim.add().dim_param = "batch"


def put_weights_outside(path: Path, location: str) -> None:
    """Let a graph read its weights from a file beside it, and say that they are at ``location``."""
    data = path.with_name("weights.bin")
    onnx.save(onnx.load(path), path, save_as_external_data=True, location=data.name, size_threshold=1024)
    model = onnx.load(path, load_external_data=False)
    for tensor in model.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = location
    path.write_bytes(model.SerializeToString())
