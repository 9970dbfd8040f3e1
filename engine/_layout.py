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
    grid = np.full((len(lengths), int(lengths.max())), fill, np.int32)
    grid[np.arange(grid.shape[1]) < lengths[:, None]] = values
    return grid


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


def packed_feed(batch: PackedPairs, inputs: Inputs) -> Feed:
    """Inputs of a packed graph: no padding, and the offsets that its attention wants.

    ``token_offset`` int32 [pairs, longest] lists where the tokens lie in a padded batch, then where the
    padding lies; ``cumulative_sequence_length`` int32 [pairs + 1] is where each pair starts
    (onnxruntime's contrib operator PackedMultiHeadAttention).
    """
    lengths = batch.lengths
    valid = (np.arange(int(lengths.max())) < lengths[:, None]).ravel()
    token_offset = np.argsort(~valid, kind="stable").astype(np.int32)
    cumulative = np.zeros(len(lengths) + 1, np.int32)
    np.cumsum(lengths, out=cumulative[1:])
    return {
        "input_ids": batch.ids,
        "position_ids": packed_positions(batch, inputs.pad_id, inputs.position_offset),
        "token_type_ids": batch.types,
        "token_offset": token_offset.reshape(len(lengths), -1),
        "cumulative_sequence_length": cumulative,
    }


def choose_layout(names: Iterable[str], inputs: Inputs) -> Layout:
    """The layout for a graph with these inputs.

    Args:
        names: The graph's declared inputs.
        inputs: The manifest's facts about them.

    Raises:
        ArtifactError: If no layout gives exactly these inputs.
    """
    declared = set(names)

    def with_lengths(batch: PackedPairs) -> Feed:
        return {
            "input_ids": padded_ids(batch.ids, batch.lengths, inputs.pad_id),
            "token_type_ids": padded_ids(batch.types, batch.lengths, 0),
            "lengths": batch.lengths,
        }

    def with_mask(batch: PackedPairs) -> Feed:
        ids = padded_ids(batch.ids, batch.lengths, inputs.pad_id)
        mask = np.arange(ids.shape[1]) < batch.lengths[:, None]
        return {
            "input_ids": ids.astype(np.int64),
            "attention_mask": mask.astype(np.int64),
            "token_type_ids": padded_ids(batch.types, batch.lengths, 0).astype(np.int64),
        }

    def packed(batch: PackedPairs) -> Feed:
        return packed_feed(batch, inputs)

    layouts: dict[frozenset[str], Layout] = {
        frozenset({"input_ids", "lengths"}): with_lengths,
        frozenset({"input_ids", "attention_mask"}): with_mask,
        frozenset({"input_ids", "position_ids", "token_offset", "cumulative_sequence_length"}): packed,
    }
    layout = layouts.get(frozenset(declared - {"token_type_ids"}))
    if layout is None:
        raise ArtifactError(
            f"the graph's inputs are {', '.join(sorted(declared))}; known are input_ids, optionally "
            "token_type_ids, and lengths, attention_mask, or position_ids, token_offset and "
            "cumulative_sequence_length"
        )
    chosen = layout
    return lambda batch: {name: array for name, array in chosen(batch).items() if name in declared}
