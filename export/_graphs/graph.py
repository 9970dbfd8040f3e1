"""A small writer of ONNX graphs: nodes in order, weights once, names that say what they are.

Large weights stay the arrays that they are until a graph is written, one after the other: neither a graph nor its file
is ever held in memory as a whole.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from crossrank._machine.cpu import available_threads

# LayerNormalization came with opset 17, and with it what onnxruntime, OpenVINO and TensorRT have had for years;
# Attention with opset 23. Each belongs to the IR version of its time.
_IR_VERSIONS = {17: 8, 23: 11}
# Beyond this many bytes the weights go to a file of their own, which onnxruntime maps instead of reading it: a session
# takes a third of the time and an eighth of the memory to open. A protobuf message ends at 2 GiB anyway.
EXTERNAL_DATA_BYTES = 500_000_000
# A weight of more bytes is large.
_LARGE_BYTES = 1024
# Where a weight of external data begins: mapping wants pages, 64 KiB on Windows.
_PAGE_BYTES = 4096
_WINDOWS_PAGE_BYTES = 65536
_WRITTEN_BYTES = 16 * 1024 * 1024  # at a time, of a weight that must be laid out or rounded first

FloatType = type[np.float32 | np.float16]


@dataclass(frozen=True, slots=True)
class Model:
    """A finished graph.

    Attributes:
        proto: All of it but the values of large weights, which its initializers name with type and shape.
        arrays: Those values by name, in any layout, and in float32 where the initializer says float16.
    """

    proto: onnx.ModelProto
    arrays: dict[str, NDArray[Any]]

    @property
    def graph(self) -> onnx.GraphProto:
        """Its nodes, inputs, outputs and weights."""
        return self.proto.graph

    def value(self, tensor: onnx.TensorProto) -> NDArray[Any]:
        """The value of one of its initializers, float32 where that is more than is declared."""
        stored = self.arrays.get(tensor.name)
        return numpy_helper.to_array(tensor) if stored is None else stored

    def constant(self, name: str, value: NDArray[Any], dtype: np.dtype[Any]) -> str:
        """A constant of a type that is added to it, large ones in any layout; the same name gives the same constant."""
        if name not in {tensor.name for tensor in self.graph.initializer}:
            _add_constant(self.graph, self.arrays, name, value, dtype)
        return name

    def whole(self) -> onnx.ModelProto:
        """A copy with all values in it, for small models."""
        copy = onnx.ModelProto()
        copy.CopyFrom(self.proto)
        for tensor in copy.graph.initializer:
            if tensor.name in self.arrays:
                tensor.raw_data = b"".join(map(bytes, _parts(self.arrays[tensor.name], dtype_of(tensor))))
        return copy


class Graph:
    """A graph under construction.

    Args:
        dtype: Type of weights and activations, float32 or float16.
        opset: Version of the standard operators, 17 or 23.
    """

    def __init__(self, dtype: FloatType = np.float32, *, opset: int = 17) -> None:
        self.dtype = np.dtype(dtype)
        # Filled in place: onnx.helper's make_graph and make_model would each copy all the weights.
        self._model = onnx.ModelProto(ir_version=_IR_VERSIONS[opset], producer_name="crossrank")
        self._model.opset_import.add(domain="", version=opset)
        self._graph = self._model.graph
        self._graph.name = "crossrank"
        self._names: set[str] = set()
        self._arrays: dict[str, NDArray[Any]] = {}
        self._made: dict[tuple[Any, ...], str] = {}
        self._nodes = self._graph.node  # where nodes go: the graph's own, or those of a branch
        self._in_branches, self._has_contrib = 0, False

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
        """Append a node with one output, unless it is there already, and return the output's name."""
        node = op, inputs, domain, repr(attributes)
        if node not in self._made:
            self._made[node] = name = self._new_name(op)
            self._append(helper.make_node(op, inputs, [name], name=name, domain=domain, **attributes))
        return self._made[node]

    def _new_name(self, op: str) -> str:
        return f"{op}_{len(self._graph.node) + self._in_branches}"

    def _append(self, node: onnx.NodeProto) -> None:
        self._in_branches += self._nodes is not self._graph.node
        self._has_contrib |= bool(node.domain)
        self._nodes.append(node)

    def either(self, condition: str, *branches: Callable[[], Sequence[tuple[str, int]]]) -> list[str]:
        """Append what one of two functions writes, the first where ``condition`` holds in a run, else the second.

        Args:
            condition: A bool of one element.
            branches: Write nodes and give their outputs, each with its type and none of them from outside.

        Returns:
            The outputs of either.
        """
        outside, made, parts = self._nodes, dict(self._made), []
        for branch in branches:
            part = onnx.GraphProto(name=self._new_name("branch"))
            self._nodes = part.node
            outputs = branch()
            part.output.extend(helper.make_tensor_value_info(name, kind, None) for name, kind in outputs)
            self._nodes, self._made = outside, dict(made)
            parts.append(part)
        node = self._new_name("If")
        names = [f"{node}.{i}" for i in range(len(parts[0].output))]
        then_branch, else_branch = parts
        self._append(
            helper.make_node("If", [condition], names, name=node, then_branch=then_branch, else_branch=else_branch)
        )
        return names

    def contrib(self, op: str, *inputs: str, **attributes: Any) -> str:
        """Append one of onnxruntime's own operators."""
        return self.add(op, *inputs, domain="com.microsoft", **attributes)

    def constant(self, name: str, value: NDArray[Any]) -> str:
        """A constant as it is; the same name gives the same constant."""
        return self._constant(name, value, value.dtype)

    def weight(self, name: str, value: NDArray[np.float32]) -> str:
        """A constant in the graph's own float type."""
        return self._constant(name, value, self.dtype)

    def _constant(self, name: str, value: NDArray[Any], dtype: np.dtype[Any]) -> str:
        if name not in self._names:
            self._names.add(name)
            _add_constant(self._graph, self._arrays, name, value, dtype)
        return name

    def lookup(self, name: str, table: NDArray[np.float32], rows: str) -> str:
        """Rows of a large constant table, by their numbers."""
        return self.add("Gather", self.weight(name, table), rows)

    def integers(self, *values: int) -> str:
        """A constant int64 [n]."""
        return self.constant("integers_" + "_".join(map(str, values)), np.array(values, np.int64))

    def scalar(self, value: float) -> str:
        """A constant of the graph's float type, without dimensions."""
        return self.weight(f"scalar_{value}", np.array(value, np.float32))

    def model(self) -> Model:
        """The finished model."""
        if len(self._model.opset_import) == 1 and self._has_contrib:
            self._model.opset_import.add(domain="com.microsoft", version=1)
        return Model(self._model, self._arrays)


def _add_constant(
    graph: onnx.GraphProto, arrays: dict[str, NDArray[Any]], name: str, value: NDArray[Any], dtype: np.dtype[Any]
) -> None:
    kind = helper.np_dtype_to_tensor_dtype(dtype)
    tensor = graph.initializer.add(name=name, data_type=kind, dims=value.shape)
    if value.size * dtype.itemsize > _LARGE_BYTES:
        arrays[name] = value
    else:
        tensor.raw_data = b"".join(map(bytes, _parts(value, dtype)))


def save_model(model: Model, path: Path, *, limit_bytes: int = EXTERNAL_DATA_BYTES) -> list[Path]:
    """Write a model, its weights in ``NAME.onnx_data`` beside it when they exceed ``limit_bytes``.

    Returns:
        The files written.
    """
    large = [tensor for tensor in model.graph.initializer if tensor.name in model.arrays]
    if sum(map(_size, large)) <= limit_bytes:
        _write_whole(model, large, path)
        return [path]
    data = path.with_name(path.name + "_data")
    outline, end = onnx.ModelProto(), 0
    outline.CopyFrom(model.proto)
    starts: list[tuple[int, onnx.TensorProto]] = []
    for tensor in outline.graph.initializer:
        if tensor.name in model.arrays:
            size = _size(tensor)
            page = _WINDOWS_PAGE_BYTES if size > 2**20 else _PAGE_BYTES if size > _PAGE_BYTES else 1
            start = end + -end % page
            tensor.data_location = TensorProto.EXTERNAL
            for key, value in (("location", data.name), ("offset", start), ("length", size)):
                tensor.external_data.add(key=key, value=str(value))
            starts.append((start, tensor))
            end = start + size
    with data.open("wb") as file:
        file.truncate(end)

    def write(start: int, tensor: onnx.TensorProto) -> None:
        with data.open("r+b") as file:
            file.seek(start)
            _write_value(file, model.arrays[tensor.name], tensor)

    # Side by side: to lay weights out anew and to copy them to the system leave Python's lock.
    with ThreadPoolExecutor(available_threads().count) as pool:
        list(pool.map(write, *zip(*starts, strict=True)))
    path.write_bytes(outline.SerializeToString(deterministic=True))
    return [path, data]


def _write_whole(model: Model, large: Sequence[onnx.TensorProto], path: Path) -> None:
    """Write a model as one protobuf message, the values of its large weights straight from their arrays.

    A message is its fields one after the other, in any order
    (https://protobuf.dev/programming-guides/encoding/): of a model the graph is field 7, of that each initializer field
    5, of that the value field 9.
    """
    outline = onnx.ModelProto()
    outline.CopyFrom(model.proto)
    graph = outline.graph
    small = [tensor for tensor in graph.initializer if tensor.name not in model.arrays]
    del graph.initializer[:]
    graph.initializer.extend(small)
    start = graph.SerializeToString(deterministic=True)
    heads = [tensor.SerializeToString(deterministic=True) + _field(9, _size(tensor)) for tensor in large]
    tensors = [_field(5, len(head) + _size(tensor)) + head for head, tensor in zip(heads, large, strict=True)]
    outline.ClearField("graph")
    with path.open("wb") as file:
        file.write(outline.SerializeToString(deterministic=True))
        file.write(_field(7, len(start) + sum(map(len, tensors)) + sum(map(_size, large))))
        file.write(start)
        for begin, tensor in zip(tensors, large, strict=True):
            file.write(begin)
            _write_value(file, model.arrays[tensor.name], tensor)


def _field(number: int, length: int) -> bytes:
    """The beginning of a field of so many bytes."""
    begin = bytearray([number << 3 | 2])
    while length > 0x7F:
        begin.append(length & 0x7F | 0x80)
        length >>= 7
    return bytes([*begin, length])


def _write_value(file: BinaryIO, value: NDArray[Any], tensor: onnx.TensorProto) -> None:
    for part in _parts(value, dtype_of(tensor)):
        file.write(part.data)


def _parts(value: NDArray[Any], dtype: np.dtype[Any]) -> Iterator[NDArray[np.uint8]]:
    """The bytes of an array in C order and a type, from a copy of a part at most."""
    if value.dtype == dtype and value.flags.c_contiguous:
        yield value.reshape(-1).view(np.uint8)
        return
    rows = value.reshape(1) if value.ndim == 0 else value
    step = max(1, _WRITTEN_BYTES * len(rows) // max(1, rows.size * dtype.itemsize))
    with np.errstate(over="ignore"):  # infinities are looked for where float16 is chosen
        for i in range(0, len(rows), step):
            yield np.ascontiguousarray(rows[i : i + step], dtype).reshape(-1).view(np.uint8)


def dtype_of(tensor: onnx.TensorProto) -> np.dtype[Any]:
    """The type of an initializer."""
    return np.dtype(helper.tensor_dtype_to_np_dtype(tensor.data_type))


def _size(tensor: onnx.TensorProto) -> int:
    """The bytes of an initializer's value."""
    return int(np.prod(tensor.dims, dtype=np.int64)) * dtype_of(tensor).itemsize
