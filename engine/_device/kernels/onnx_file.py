"""An ONNX file's nodes and constants, read by protobuf from the part of ONNX's schema that they need."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from google.protobuf import descriptor_pb2, descriptor_pool, message
from google.protobuf.message_factory import GetMessageClass  # what is too old fails here, not when a file is read
from numpy.typing import NDArray

# Fields of https://github.com/onnx/onnx/blob/main/onnx/onnx.proto: number, type, a star for many. Others are skipped.
_SCHEMA = {
    "Entry": {"key": (1, "string"), "value": (2, "string")},
    "Tensor": {
        "dims": (1, "int64*"),
        "data_type": (2, "int32"),
        "name": (8, "string"),
        "raw_data": (9, "bytes"),
        "external_data": (13, "Entry*"),
        "data_location": (14, "int32"),
    },
    "Attribute": {"name": (1, "string"), "f": (2, "float"), "g": (6, "Graph")},
    "Node": {
        "input": (1, "string*"),
        "output": (2, "string*"),
        "op_type": (4, "string"),
        "attribute": (5, "Attribute*"),
    },
    "Value": {"name": (1, "string")},
    "Graph": {
        "node": (1, "Node*"),
        "initializer": (5, "Tensor*"),
        "input": (11, "Value*"),
        "output": (12, "Value*"),
    },
    "Model": {"graph": (7, "Graph")},
}
_DTYPES = {1: np.float32, 2: np.uint8, 3: np.int8, 7: np.int64}
_EXTERNAL = 1


@dataclass(frozen=True, slots=True)
class OnnxNode:
    """A node.

    Attributes:
        op: The operator.
        inputs: Names; "" for one that is left out.
        outputs: Names.
        floats: Attributes that are numbers.
    """

    op: str
    inputs: Sequence[str]
    outputs: Sequence[str]
    floats: dict[str, float]


@dataclass(frozen=True, slots=True)
class OnnxGraph:
    """A graph.

    Attributes:
        inputs: Names.
        outputs: Names.
        nodes: In order, those of branches behind the one that has them.
        constants: By name; views of what the file holds.
    """

    inputs: Sequence[str]
    outputs: Sequence[str]
    nodes: Sequence[OnnxNode]
    constants: dict[str, NDArray[Any]]


def read_onnx(path: Path) -> OnnxGraph:
    """Read an ONNX file, and ``NAME_data`` beside it where weights lie there.

    Raises:
        ValueError: If it is damaged, or has constants of another form than crossrank writes.
        OSError: If it cannot be read.
    """
    try:
        # Not mapped: a file that someone overwrites meanwhile would end the process, and not be an error.
        graph = _message("Model").FromString(path.read_bytes()).graph
    except message.DecodeError as error:
        raise ValueError(f"no ONNX file: {error}") from error
    data: NDArray[np.uint8] | None = None
    constants: dict[str, NDArray[Any]] = {}
    for tensor in graph.initializer:
        if tensor.data_type not in _DTYPES:
            raise ValueError(f"{tensor.name} is of ONNX's type {tensor.data_type}")
        dtype, shape = np.dtype(_DTYPES[tensor.data_type]), tuple(tensor.dims)
        if any(size < 0 for size in shape):
            raise ValueError(f"{tensor.name} has the shape {shape}")
        size = int(np.prod(shape, dtype=object)) * dtype.itemsize  # of Python's integers, which do not overflow
        raw: Any = tensor.raw_data
        if tensor.data_location == _EXTERNAL:
            if data is None:
                data = np.memmap(path.with_name(f"{path.name}_data"), np.uint8, mode="r")
            raw = _external(tensor, f"{path.name}_data", data)
        if len(raw) != size:
            raise ValueError(f"{tensor.name} has {len(raw)} bytes, its shape {shape} of {dtype} takes {size}")
        constants[tensor.name] = np.frombuffer(raw, dtype).reshape(shape)
    inputs, outputs = ([value.name for value in values] for values in (graph.input, graph.output))
    return OnnxGraph(inputs, outputs, _nodes(graph), constants)


def _external(tensor: Any, name: str, data: NDArray[np.uint8]) -> Any:
    """Bytes of a constant in the file beside the graph's."""
    entries = {entry.key: entry.value for entry in tensor.external_data}
    offset, length = int(entries.get("offset", 0)), int(entries.get("length", -1))
    if entries.get("location") != name or offset < 0 or length < 0 or offset + length > len(data):
        raise ValueError(f"{tensor.name} lies at {entries}, which is no part of {name}")
    return data[offset : offset + length]


def _nodes(graph: Any) -> list[OnnxNode]:
    nodes = []
    for node in graph.node:
        floats = {item.name: item.f for item in node.attribute if item.HasField("f")}
        nodes.append(OnnxNode(node.op_type, tuple(node.input), tuple(node.output), floats))
        nodes += [inner for item in node.attribute if item.HasField("g") for inner in _nodes(item.g)]
    return nodes


@cache
def _message(name: str) -> Any:
    """A class of messages of `_SCHEMA`."""
    package = "crossrank.onnx"
    file = descriptor_pb2.FileDescriptorProto(name="crossrank/onnx.proto", package=package, syntax="proto2")
    kinds = descriptor_pb2.FieldDescriptorProto
    for owner, members in _SCHEMA.items():
        described = file.message_type.add(name=owner)
        for field, (number, kind) in members.items():
            many = kinds.LABEL_REPEATED if kind.endswith("*") else kinds.LABEL_OPTIONAL
            kind = kind.rstrip("*")
            made = described.field.add(name=field, number=number, label=many)
            if kind in _SCHEMA:
                made.type, made.type_name = kinds.TYPE_MESSAGE, f".{package}.{kind}"
            else:
                made.type = getattr(kinds, f"TYPE_{kind.upper()}")
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return GetMessageClass(pool.FindMessageTypeByName(f"{package}.{name}"))
