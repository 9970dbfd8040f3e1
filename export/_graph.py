"""A small writer of ONNX graphs: nodes in order, weights once, names that say what they are."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

# LayerNormalization came with opset 17, and with it what onnxruntime, OpenVINO and TensorRT have had for years;
# Attention with opset 23. Each belongs to the IR version of its time.
_IR_VERSIONS = {17: 8, 23: 11}
# A protobuf message ends at 2 GiB; beyond this many bytes the weights go to a file of their own.
EXTERNAL_DATA_BYTES = 1_800_000_000


class Graph:
    """A graph under construction.

    Args:
        dtype: Type of weights and activations, float32 or float16.
        opset: Version of the standard operators, 17 or 23.
    """

    def __init__(self, dtype: type[np.float32 | np.float16] = np.float32, *, opset: int = 17) -> None:
        self.dtype = np.dtype(dtype)
        # Filled in place: onnx.helper's make_graph and make_model would each copy all the weights.
        self._model = onnx.ModelProto(ir_version=_IR_VERSIONS[opset], producer_name="crossrank")
        self._model.opset_import.add(domain="", version=opset)
        self._graph = self._model.graph
        self._graph.name = "crossrank"
        self._names: set[str] = set()

    def input(self, name: str, dtype: type[np.generic], shape: Sequence[int | str]) -> str:
        """Declare an input; names in ``shape`` are free dimensions."""
        kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
        self._graph.input.append(helper.make_tensor_value_info(name, kind, shape))
        return name

    def output(self, value: str, name: str, shape: Sequence[int | str]) -> None:
        """Declare a float32 output."""
        self._graph.node.append(helper.make_node("Cast", [value], [name], name=name, to=TensorProto.FLOAT))
        self._graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))

    def add(self, op: str, *inputs: str, domain: str = "", **attributes: Any) -> str:
        """Append a node with one output and return the output's name."""
        name = f"{op}_{len(self._graph.node)}"
        self._graph.node.append(helper.make_node(op, inputs, [name], name=name, domain=domain, **attributes))
        return name

    def contrib(self, op: str, *inputs: str, **attributes: Any) -> str:
        """Append one of onnxruntime's own operators."""
        return self.add(op, *inputs, domain="com.microsoft", **attributes)

    def constant(self, name: str, value: NDArray[Any]) -> str:
        """A constant as it is; the same name gives the same constant."""
        if name not in self._names:
            self._names.add(name)
            kind = helper.np_dtype_to_tensor_dtype(value.dtype)
            self._graph.initializer.add(name=name, data_type=kind, dims=value.shape, raw_data=value.tobytes())
        return name

    def weight(self, name: str, value: NDArray[np.float32]) -> str:
        """A constant in the graph's own float type."""
        with np.errstate(over="ignore"):  # infinities are looked for where float16 is chosen
            return self.constant(name, value.astype(self.dtype, copy=False))

    def lookup(self, name: str, table: NDArray[np.float32], rows: str) -> str:
        """Rows of a large constant table, by their numbers."""
        return self.add("Gather", self.weight(name, table), rows)

    def integers(self, *values: int) -> str:
        """A constant int64 [n]."""
        return self.constant("integers_" + "_".join(map(str, values)), np.array(values, np.int64))

    def scalar(self, value: float) -> str:
        """A constant of the graph's float type, without dimensions."""
        return self.weight(f"scalar_{value}", np.array(value, np.float32))

    def model(self) -> onnx.ModelProto:
        """The finished model."""
        if len(self._model.opset_import) == 1 and any(node.domain for node in self._graph.node):
            self._model.opset_import.add(domain="com.microsoft", version=1)
        return self._model


def save_model(model: onnx.ModelProto, path: Path, *, limit_bytes: int = EXTERNAL_DATA_BYTES) -> list[Path]:
    """Write a model, its weights in ``NAME.onnx_data`` beside it when they exceed ``limit_bytes``.

    Returns:
        The files written.
    """
    size = sum(len(tensor.raw_data) for tensor in model.graph.initializer)
    if size <= limit_bytes:
        path.write_bytes(model.SerializeToString())
        return [path]
    data = path.with_name(path.name + "_data")
    onnx.save_model(model, path, save_as_external_data=True, location=data.name, size_threshold=1024)
    return [path, data]
