"""Int8 cross-encoders of the BERT kind on x86-64 with AVX-512 VNNI: the compiled library, and a model in it.

>>> isinstance(instructions(), str)
True
"""

import ctypes
import sys
import weakref
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

__all__ = ["ACTIVATIONS", "Model", "ModelError", "__version__", "instructions"]

__version__ = "0.1.0"  # the distribution's: importlib.metadata, which knows it too, takes 15 ms to import

_ABI = 3
# Numbers of src/crossrank.h; all may be a head's, those between the first and the last a model's.
ACTIVATIONS: Final = ("identity", "gelu", "gelu_new", "relu", "tanh")
_DTYPES = {np.dtype(np.float32): 1, np.dtype(np.uint8): 2, np.dtype(np.int8): 3}
_ERROR_BYTES = 4096
_LARGEST = 2**31 - 1  # of an int32, to which ctypes and numpy cut what is larger


class ModelError(Exception):
    """The library refuses: a model that it does not know, ids that a model does not have, or no such arguments."""


class _Tensor(ctypes.Structure):
    _fields_ = (
        ("name", ctypes.c_char_p),
        ("values", ctypes.c_void_p),
        ("dims", ctypes.c_int64 * 4),
        ("rank", ctypes.c_int32),
        ("dtype", ctypes.c_int32),
    )


class _Settings(ctypes.Structure):
    _fields_ = (
        ("epsilon", ctypes.c_float),
        ("activation", ctypes.c_int32),
        ("head_activation", ctypes.c_int32),
        ("pad_id", ctypes.c_int32),
    )


class _Shape(ctypes.Structure):
    _fields_ = (
        *(
            (name, ctypes.c_int32)
            for name in ("vocabulary", "positions", "types", "layers", "hidden", "heads", "intermediate", "labels")
        ),
        ("bytes", ctypes.c_int64),
    )


@cache
def _library() -> ctypes.CDLL:
    name = {"win32": "crossrank.dll", "darwin": "libcrossrank.dylib"}.get(sys.platform, "libcrossrank.so")
    path = Path(__file__).with_name(name)
    library = ctypes.CDLL(str(path))
    if (abi := library.crossrank_abi()) != _ABI:
        raise ImportError(f"{path} has ABI {abi}; {_ABI} expected: reinstall crossrank-kernels")
    library.crossrank_instructions.restype = ctypes.c_char_p
    pointer, number, size = ctypes.c_void_p, ctypes.c_int64, ctypes.c_size_t
    library.crossrank_open.argtypes = [pointer, number, pointer, pointer, pointer, size]
    library.crossrank_describe.argtypes = [pointer, pointer]
    library.crossrank_run.argtypes = [*[pointer] * 4, number, number, ctypes.c_int32, pointer, pointer, size]
    library.crossrank_close.argtypes = [pointer]
    library.crossrank_close.restype = library.crossrank_describe.restype = None
    return library


def instructions() -> str:
    """What the kernels use on this processor, as "avx512-vnni avx512-bf16"; "" where it cannot run them.

    Raises:
        ImportError: If the compiled library is another version's.
        OSError: If it cannot be loaded.
    """
    return bytes(_library().crossrank_instructions()).decode()


class Model:
    """A model in the library. Threads may share it, and run it at the same time.

    Args:
        tensors: The initializers of the int8 graph by their names; those of other types than float32, int8 and uint8
            are left out. They are copied.
        epsilon: Of its layer normalizations.
        activation: Of its feed-forwards.
        head_activation: Behind ``head.dense``.
        pad_id: The padding id where positions count from it on, as in RoBERTa; None where they count from 0 on.

    Attributes:
        labels: Logits of each pair.
        positions: Positions that tokens can have.
        bytes: Of its weights in memory.

    Raises:
        ModelError: If the processor runs no kernel, or they are none of a model of the BERT kind; the message names
            each that is missing, has another shape, or does not belong to one.
        MemoryError: If the memory does not suffice.
    """

    def __init__(
        self,
        tensors: Mapping[str, NDArray[Any]],
        *,
        epsilon: float,
        activation: str = "gelu",
        head_activation: str = "tanh",
        pad_id: int | None = None,
    ) -> None:
        library = _library()
        # In a file they may lie at any byte; C++ reads floats on multiples of 4.
        known = {name: value for name, value in tensors.items() if value.dtype in _DTYPES}
        kept = {name: np.require(value, requirements=["C", "A"]) for name, value in known.items()}
        array = (_Tensor * len(kept))()
        for entry, (name, value) in zip(array, kept.items(), strict=True):
            entry.name, entry.values, entry.rank = name.encode(), value.ctypes.data, min(value.ndim, 5)
            entry.dtype = _DTYPES[value.dtype]
            entry.dims[:] = (*value.shape, 0, 0, 0, 0)[:4]
        settings = _Settings(
            epsilon,
            _activation(activation),
            _activation(head_activation),
            -1 if pad_id is None else _number("pad_id", pad_id, 0),
        )
        handle, error = ctypes.c_void_p(), ctypes.create_string_buffer(_ERROR_BYTES)
        status = library.crossrank_open(
            array, len(kept), ctypes.byref(settings), ctypes.byref(handle), error, _ERROR_BYTES
        )
        _check(status, error)
        self._handle = handle
        self._close = weakref.finalize(self, library.crossrank_close, handle)
        self._close.atexit = False  # a daemon thread may be in it when the interpreter ends
        shape = _Shape()
        library.crossrank_describe(handle, ctypes.byref(shape))
        self.labels, self.positions, self.bytes = int(shape.labels), int(shape.positions), int(shape.bytes)

    def run(
        self,
        ids: NDArray[np.int32],
        types: NDArray[np.int32] | None,
        lengths: NDArray[np.int32],
        *,
        threads: int = 1,
    ) -> NDArray[np.float32]:
        """Logits of joined pairs, float32 [pairs, labels]; the same for a pair whatever the others are.

        Args:
            ids: int32 [tokens], pair after pair.
            types: int32 [tokens], None for 0.
            lengths: int32 [pairs], tokens of each.
            threads: Threads that work on it, this one among them.

        Raises:
            ModelError: If an id, type or position is out of bounds, lengths do not add up, or one of them is no array
                of integers in one dimension.
            MemoryError: If the memory does not suffice.
        """
        threads = _number("threads", threads, 1)
        ids, lengths = _integers("ids", ids), _integers("lengths", lengths)
        if types is not None:
            types = _integers("types", types)
            if types.shape != ids.shape:
                raise ModelError(f"types have shape {types.shape}; that of ids, {ids.shape}, expected")
        logits = np.empty((len(lengths), self.labels), np.float32)
        error = ctypes.create_string_buffer(_ERROR_BYTES)
        status = _library().crossrank_run(
            self._handle,
            ids.ctypes.data,
            None if types is None else types.ctypes.data,
            lengths.ctypes.data,
            lengths.size,
            ids.size,
            threads,
            logits.ctypes.data,
            error,
            _ERROR_BYTES,
        )
        _check(status, error)
        return logits


def _integers(name: str, values: NDArray[Any]) -> NDArray[np.int32]:
    """An array as the library takes it."""
    values = np.asarray(values)
    if values.ndim != 1 or values.dtype.kind not in "iu":
        raise ModelError(f"{name} has shape {values.shape} and type {values.dtype}; int32 in one dimension expected")
    if values.dtype != np.int32 and values.size:
        for value in (int(values.min()), int(values.max())):
            if not -_LARGEST - 1 <= value <= _LARGEST:
                raise ModelError(f"{name} has {value}, which is no int32")
    return np.ascontiguousarray(values, np.int32)


def _number(name: str, value: int, least: int) -> int:
    if not least <= value <= _LARGEST:
        raise ModelError(f"{name} is {value!r:.60}; {least} to {_LARGEST} are allowed")
    return value


def _activation(name: str) -> int:
    if name not in ACTIVATIONS:
        raise ModelError(f"activation {name!r} is none of {', '.join(ACTIVATIONS)}")
    return ACTIVATIONS.index(name)


def _check(status: int, error: "ctypes.Array[ctypes.c_char]") -> None:
    if status:
        message = error.value.decode(errors="replace")
        raise MemoryError(message) if status == 2 else ModelError(message)
