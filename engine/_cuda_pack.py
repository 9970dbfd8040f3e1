"""The inputs of a packed graph in one array, so that a batch travels to the device in one copy. Pure functions."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ._cuda_plan import PackedShape
from ._layout import packed_positions, runs
from ._manifest import Inputs
from ._pairs import PackedPairs

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


@dataclass(frozen=True, slots=True)
class Section:
    """Where an input lies in the array: its first entry, and its shape."""

    name: str
    start: int
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
        sections.append(Section(name, size, dimensions))
        size = aligned(size + int(np.prod(dimensions)))
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
    make: dict[str, Callable[[], Int32]] = {
        "input_ids": lambda: batch.ids,
        "token_type_ids": lambda: batch.types,
        "position_ids": lambda: packed_positions(batch, inputs.pad_id, inputs.position_offset),
        "token_offset": lambda: token_offsets(batch.lengths, longest),
        "cumulative_sequence_length": lambda: np.append(np.int32(0), np.cumsum(batch.lengths, dtype=np.int32)),
    }
    for section in sections:
        values = make[section.name]()
        into[section.start : section.start + len(values)] = values


def token_offsets(lengths: Int32, longest: int) -> Int32:
    """Where tokens lie in a padded batch, then where its padding lies: the operator's ``token_offset``, flat.

    The fused kernels read its shape alone; the one that is not fused, which may run elsewhere, its content too.

    Args:
        lengths: int32 [pairs].
        longest: Tokens of a row of the padded batch.

    Returns:
        int32 [pairs * longest].

    >>> token_offsets(np.array([1, 2], np.int32), 2).tolist()
    [0, 2, 3, 1]
    """
    rows = np.arange(len(lengths), dtype=np.int32) * np.int32(longest)
    return np.concatenate([runs(rows, lengths), runs(rows + lengths, np.int32(longest) - lengths)])
