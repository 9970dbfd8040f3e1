"""Memory of a device that inputs and outputs are bound to, and a batch's inputs packed into one array for one copy."""

import ctypes
import math
import mmap
import re
import sys
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from crossrank._artifact.manifest import Inputs
from crossrank._device.capture import capture_lock
from crossrank._device.inputs import packed_positions
from crossrank._errors import DeviceError
from crossrank._interrupts import not_thrown_in, raised_by
from crossrank._machine.guard import Guard
from crossrank._machine.onnxruntime import ort
from crossrank._text.pairs import PackedPairs
from crossrank._text.tokens import gather_index

from .batches import PackedShape

T = TypeVar("T")

_SMALLEST = 4096  # entries


class Slab:
    """An array of int32 on the host and one on the device, of one size.

    Attributes:
        host: int32 [size], page-locked where the device is a GPU, so that copies need no staging.
        size: Entries.
    """

    def __init__(self, size: int, device: str, index: int) -> None:
        self.size = size
        # Zeros, in whole pages of its own, as page-locking wants them.
        self.host: NDArray[np.int32] = np.frombuffer(mmap.mmap(-1, 4 * size), np.int32)
        if device == "cuda":
            _lock_pages(self.host, index)
        self._device = ort.OrtValue.ortvalue_from_shape_and_type([size], np.int32, device, index)
        self._address = int(self._device.data_ptr())

    def upload(self, values: NDArray[np.int32]) -> None:
        """Copy int32 [size], the host's array or another, to the device; it is there when this returns."""
        self._device.update_inplace(values)

    def address(self, start: int) -> int:
        """Where an entry lies on the device."""
        return self._address + 4 * start


class Rows:
    """Float32 [rows, width] on the device, for outputs."""

    def __init__(self, rows: int, width: int, device: str, index: int) -> None:
        self._width = width
        self._value = ort.OrtValue.ortvalue_from_shape_and_type([rows, width], np.float32, device, index)
        self._address = int(self._value.data_ptr())

    def address(self, row: int) -> int:
        """Where a row lies on the device."""
        return self._address + 4 * self._width * row

    def fetch(self) -> NDArray[np.float32]:
        """A copy of them all."""
        return np.array(self._value.numpy())


class BufferPool:
    """The buffers of a device. Threads may share it: they allocate and copy one at a time.

    Args:
        device: Its name in onnxruntime, "cuda" or "cpu".
        index: Of the device.
        guard: Held by whoever allocates or copies there; one for all pools of the device.
    """

    def __init__(self, device: str, index: int, guard: Guard) -> None:
        self._device, self._index, self._guard = device, index, guard
        # Slabs that are not in use, by size: powers of two, so that few sizes serve all batches.
        self._free: dict[int, list[Slab]] = {}

    def take(self, size: int) -> Slab:
        """A slab of at least so many entries."""
        size = max(_SMALLEST, 1 << (size - 1).bit_length())

        def take() -> Slab:
            free = self._free.setdefault(size, [])
            return free.pop() if free else Slab(size, self._device, self._index)

        return self._hold(take)

    def give_back(self, slab: Slab) -> None:
        """Hand in a slab that is no longer used."""
        self._free[slab.size].append(slab)

    def upload(self, slab: Slab) -> None:
        """Copy a slab's host side to the device."""
        self._hold(partial(slab.upload, slab.host))

    def rows(self, rows: int, width: int) -> Rows:
        """New rows, float32 [rows, width]."""
        return self._hold(partial(Rows, rows, width, self._device, self._index))

    def fetch(self, rows: Rows) -> NDArray[np.float32]:
        """A copy of rows."""
        return self._hold(rows.fetch)

    def _hold(self, step: Callable[[], T]) -> T:
        """Do something on the device while no other thread does.

        Raises:
            DeviceError: If it fails there, for want of memory too.
        """
        try:
            return capture_lock().run(partial(self._guard.hold, step))
        except Exception as error:  # the binding's exceptions share no base of their own
            if not raised_by("onnxruntime", error):
                raise
            raise DeviceError(f"device {self._device}:{self._index}: inputs and outputs: {error}") from error

    @contextmanager
    def still(self) -> Iterator[None]:
        """While this holds, no other thread allocates or copies: a CUDA graph is captured."""
        with self._guard.lock:
            yield


def _lock_pages(array: NDArray[np.int32], index: int) -> None:
    """Page-lock an array for as long as it lives. Where that is not possible copies take a little longer, no more."""
    runtime = _cuda_runtime()
    if runtime is None:
        return
    current = ctypes.c_int()
    try:
        if runtime.cudaGetDevice(ctypes.byref(current)) != 0:
            return
        runtime.cudaSetDevice(index)  # else a thread that never chose one would wake the first GPU
        address = ctypes.c_void_p(array.ctypes.data)
        if runtime.cudaHostRegister(address, ctypes.c_size_t(array.nbytes), ctypes.c_uint(1)) == 0:  # 1: portable
            weakref.finalize(array, runtime.cudaHostUnregister, address).atexit = False
        runtime.cudaSetDevice(current.value)
    finally:
        runtime.cudaGetLastError()  # else onnxruntime would take what failed here for its next kernel's


def _cuda_runtime() -> Any:
    """The CUDA runtime library that onnxruntime has loaded into this process, or None if it cannot be found."""
    if not sys.platform.startswith("linux"):
        return None
    try:
        loaded = re.search(r"/\S*libcudart\.so[.\d]*", Path("/proc/self/maps").read_text(encoding="utf-8"))
        return ctypes.CDLL(loaded[0]) if loaded else None
    except not_thrown_in(OSError):
        return None


Int32 = NDArray[np.int32]

# Each input begins at a multiple of this many entries: 256 bytes, what cudaMalloc aligns to and kernels may count on.
ALIGNMENT = 64

_SIZES: dict[str, Callable[[PackedShape], tuple[int, ...]]] = {
    "input_ids": lambda shape: (shape.tokens,),
    "token_type_ids": lambda shape: (shape.tokens,),
    "position_ids": lambda shape: (shape.tokens,),
    "token_offset": lambda shape: (shape.pairs, shape.longest),
    "cumulative_sequence_length": lambda shape: (shape.pairs + 1,),
}
# The inputs of a packed graph; token_type_ids may be absent.
PACKED_INPUTS = frozenset(_SIZES)


class Section(NamedTuple):
    """Where an input lies in the array: from its first entry to before ``stop``, and its shape."""

    name: str
    start: int
    stop: int
    shape: tuple[int, ...]


def aligned(count: int) -> int:
    """The next multiple of `ALIGNMENT`."""
    return -(-count // ALIGNMENT) * ALIGNMENT


def lay_out(names: Sequence[str], shape: PackedShape) -> tuple[list[Section], int]:
    """Where the inputs of a batch lie.

    Args:
        names: The graph's inputs, of `PACKED_INPUTS`.
        shape: Of the batch.

    Returns:
        Their sections, and the size of it all in entries.
    """
    sections, size = [], 0
    for name in names:
        dimensions = _SIZES[name](shape)
        stop = size + math.prod(dimensions)
        sections.append(Section(name, size, stop, dimensions))
        size = aligned(stop)
    return sections, size


def pack(batch: PackedPairs, longest: int, inputs: Inputs, sections: Sequence[Section], into: Int32) -> None:
    """Write the inputs of a batch.

    Args:
        batch: The batch.
        longest: Of its shape.
        inputs: The manifest's facts about the graph's inputs.
        sections: Where each input lies, from `lay_out`.
        into: int32 [size], written in place.
    """
    for section in sections:
        place = into[section.start : section.stop]
        match section.name:
            case "input_ids":
                place[:] = batch.ids
            case "token_type_ids":
                place[:] = batch.types
            case "position_ids":
                place[:] = packed_positions(batch, inputs.pad_id, inputs.position_offset)
            case "token_offset":
                write_token_offsets(batch.lengths, longest, place)
            case "cumulative_sequence_length":
                place[0] = 0
                batch.lengths.cumsum(out=place[1:])


def write_token_offsets(lengths: Int32, longest: int, into: Int32) -> None:
    """Write where tokens lie in a padded batch, then where its padding lies: the operator's ``token_offset``, flat.

    The fused kernels read its shape alone; the one that is not fused, which may run elsewhere, its content too.

    Args:
        lengths: int32 [pairs].
        longest: Tokens of a row of the padded batch.
        into: int32 [pairs * longest].

    >>> offsets = np.zeros(4, np.int32)
    >>> write_token_offsets(np.array([1, 2], np.int32), 2, offsets)
    >>> offsets.tolist()
    [0, 2, 3, 1]
    """
    tokens = int(lengths.sum())
    rows = np.arange(len(lengths), dtype=np.int32) * np.int32(longest)
    gather_index(rows, lengths, into[:tokens])
    gather_index(rows + lengths, np.int32(longest) - lengths, into[tokens:])
