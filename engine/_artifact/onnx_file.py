"""An ONNX file without its weights being read: its inputs, and the files of its external data.

onnxruntime tells the inputs once it has loaded all weights, and the files never. Of protobuf's wire format
(https://protobuf.dev/programming-guides/encoding/) little is needed, and few field numbers of
https://github.com/onnx/onnx/blob/main/onnx/onnx.proto. All else, the weights first, is stepped over in a mapped file.
"""

import mmap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from crossrank._errors import ArtifactError
from crossrank._interrupts import not_thrown_in

from .manifest import hash_file

Span = tuple[int, int]

# Where tensors may be: of each message the fields that lead there, and what they hold.
_LEADING = {
    "model": {7: "graph", 25: "function"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "function": {7: "node"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
}


@dataclass(frozen=True, slots=True)
class GraphFiles:
    """A graph on disk.

    Attributes:
        inputs: The names of its inputs, in its order.
        files: All that a session reads: the ONNX file, and its external data.
    """

    inputs: tuple[str, ...]
    files: tuple[Path, ...]

    def hash(self) -> str:
        """The sha256 of each file, without those that are absent, which onnxruntime will miss."""
        return "+".join(hash_file(file) for file in self.files if file.is_file())


def read_graph_files(path: Path) -> GraphFiles:
    """What an ONNX file declares.

    Raises:
        ArtifactError: If it is none.
    """
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            model = (0, len(data))
            weights = set(_texts(data, model, 7, 5, 8))  # before version 4 they are inputs too
            inputs = tuple(name for name in _texts(data, model, 7, 11, 1) if name not in weights)
            places = {place for tensor in _tensors(data, model, "model") for place in _locations(data, tensor)}
            if not inputs:
                raise ValueError("no inputs")
    except not_thrown_in(OSError, ValueError, IndexError, RecursionError) as error:
        raise ArtifactError(f"{path} cannot be read as an ONNX file ({error}): download or export it again") from error
    return GraphFiles(inputs, (path, *(path.parent / place for place in sorted(places))))


def _tensors(data: mmap.mmap, span: Span, kind: str) -> Iterator[Span]:
    """The tensors in a message, those of its nodes and inner graphs too."""
    for number, part in _fields(data, span):
        inner = _LEADING[kind].get(number)
        if inner == "tensor":
            yield part
        elif inner is not None:
            yield from _tensors(data, part, inner)


def _locations(data: mmap.mmap, tensor: Span) -> Iterator[str]:
    """The file that holds a tensor's values, if another one does."""
    for entry in _parts(data, tensor, 13):
        if "location" in _texts(data, entry, 1):
            yield from _texts(data, entry, 2)


def _texts(data: mmap.mmap, span: Span, *numbers: int) -> Iterator[str]:
    return (data[start:end].decode() for start, end in _parts(data, span, *numbers))


def _parts(data: mmap.mmap, span: Span, number: int, *further: int) -> Iterator[Span]:
    """The fields of a number in a message, or those of further numbers inside of these."""
    for found, part in _fields(data, span):
        if found == number:
            yield from _parts(data, part, *further) if further else (part,)


def _fields(data: mmap.mmap, span: Span) -> Iterator[tuple[int, Span]]:
    """The number and the content of each field of a message that has a length; all others are numbers."""
    at, end = span
    while at < end:
        tag, at = _varint(data, at)
        match tag & 7:
            case 0:
                _, at = _varint(data, at)
            case 1:
                at += 8
            case 2:
                size, at = _varint(data, at)
                yield tag >> 3, (at, at + size)
                at += size
            case 5:
                at += 4
            case _:
                raise ValueError("damaged")
    if at != end:
        raise ValueError("damaged")


def _varint(data: mmap.mmap, at: int) -> tuple[int, int]:
    """A number in at most 10 groups of 7 bits, the lowest first, and where it ends."""
    value = 0
    for shift in range(0, 70, 7):
        byte = data[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
    raise ValueError("damaged")
