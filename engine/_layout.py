"""From joined pairs to a graph's inputs. Which ones a graph wants is read off its declared inputs."""

from collections.abc import Callable, Iterable
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ._errors import ArtifactError
from ._manifest import Inputs
from ._pairs import PackedPairs

Feed: TypeAlias = dict[str, NDArray[Any]]
Layout: TypeAlias = Callable[[PackedPairs], Feed]
Makers: TypeAlias = dict[str, Callable[[PackedPairs], NDArray[Any]]]


def padded_ids(values: NDArray[np.int32], lengths: NDArray[np.int32], fill: int) -> NDArray[np.int32]:
    """Spread packed values over the rows of a right-padded array.

    Args:
        values: int32 [tokens].
        lengths: int32 [pairs], their sum is ``tokens``.
        fill: What stands behind a row's end.

    Returns:
        int32 [pairs, longest].

    >>> padded_ids(np.array([5, 6, 7], np.int32), np.array([1, 2], np.int32), 0).tolist()
    [[5, 0], [6, 7]]
    """
    valid = _valid(lengths)
    grid = np.full(valid.shape, fill, np.int32)
    grid[valid] = values
    return grid


def _valid(lengths: NDArray[np.int32]) -> NDArray[np.bool_]:
    """What of a right-padded batch is a token, bool [pairs, longest]."""
    return np.arange(int(lengths.max())) < lengths[:, None]


def packed_positions(batch: PackedPairs, pad_id: int, offset: int) -> NDArray[np.int32]:
    """The position of each token, int32 [tokens].

    With an offset, positions count as RoBERTa's do: a token whose id is ``pad_id`` (a text may spell
    it) takes position ``pad_id`` and is not counted.
    """
    counted = np.ones(len(batch.ids), np.int64) if not offset else (batch.ids != pad_id).astype(np.int64)
    running = np.cumsum(counted)
    starts = np.cumsum(batch.lengths) - batch.lengths
    before = np.repeat(running[starts] - counted[starts], batch.lengths)
    positions = running - before - 1 + offset
    return np.where(counted == 1, positions, pad_id).astype(np.int32)


def _token_offset(batch: PackedPairs) -> NDArray[np.int32]:
    """int32 [pairs, longest]: where the tokens lie in a padded batch, then where the padding lies."""
    valid = _valid(batch.lengths)
    return np.argsort(~valid.ravel(), kind="stable").astype(np.int32).reshape(valid.shape)


def choose_layout(names: Iterable[str], inputs: Inputs) -> Layout:
    """The layout for a graph with these inputs.

    The packed one is that of onnxruntime's contrib operator PackedMultiHeadAttention: no padding, and
    ``cumulative_sequence_length`` int32 [pairs + 1] says where each pair starts.

    Args:
        names: The graph's declared inputs.
        inputs: The manifest's facts about them.

    Raises:
        ArtifactError: If no layout gives exactly these inputs.
    """
    declared = set(names)

    def padded_types(batch: PackedPairs) -> NDArray[np.int32]:
        return padded_ids(batch.types, batch.lengths, 0)

    with_lengths: Makers = {
        "input_ids": lambda batch: padded_ids(batch.ids, batch.lengths, inputs.pad_id),
        "token_type_ids": padded_types,
        "lengths": lambda batch: batch.lengths,
    }
    with_mask: Makers = {
        "input_ids": lambda batch: padded_ids(batch.ids, batch.lengths, inputs.pad_id).astype(np.int64),
        "token_type_ids": lambda batch: padded_types(batch).astype(np.int64),
        "attention_mask": lambda batch: _valid(batch.lengths).astype(np.int64),
    }
    packed: Makers = {
        "input_ids": lambda batch: batch.ids,
        "token_type_ids": lambda batch: batch.types,
        "position_ids": lambda batch: packed_positions(batch, inputs.pad_id, inputs.position_offset),
        "token_offset": _token_offset,
        "cumulative_sequence_length": lambda batch: np.append(0, np.cumsum(batch.lengths)).astype(np.int32),
    }
    for makers in (with_lengths, with_mask, packed):
        if makers.keys() - {"token_type_ids"} <= declared <= makers.keys():
            chosen = {name: makers[name] for name in declared}
            return lambda batch: {name: make(batch) for name, make in chosen.items()}
    raise ArtifactError(
        f"the graph's inputs are {', '.join(sorted(declared))}; known are input_ids, optionally token_type_ids, and "
        "lengths, attention_mask, or position_ids, token_offset and cumulative_sequence_length"
    )
