"""A graph's inputs, made of joined pairs, and its logits: read off what the graph declares."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from crossrank._artifact.manifest import Inputs
from crossrank._errors import ArtifactError, join_problems
from crossrank._text.pairs import PackedPairs
from crossrank._text.tokens import gather_index

Feed: TypeAlias = dict[str, NDArray[Any]]
Layout: TypeAlias = Callable[[PackedPairs], Feed]
Maker: TypeAlias = Callable[[PackedPairs], NDArray[Any]]
Makers: TypeAlias = dict[str, Maker]

_INTEGERS = {"tensor(int64)": np.int64, "tensor(int32)": np.int32}
_FLOATS = ("tensor(float)", "tensor(float16)", "tensor(double)")
_ONE_TOKEN = PackedPairs(np.zeros(1, np.int32), np.zeros(1, np.int32), np.ones(1, np.int32))


class Declared(Protocol):
    """An input or output as onnxruntime describes it."""

    @property
    def name(self) -> str:
        """Its name."""

    @property
    def type(self) -> str:
        """Its type, such as ``tensor(int64)``."""

    @property
    def shape(self) -> Sequence[int | str | None]:
        """Its dimensions: a size, or a name or None for a free one; empty if they are not declared."""


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


def _rows_of_ids(batch: PackedPairs) -> NDArray[np.int32]:
    """The ids of pairs of one length, int32 [pairs, tokens]."""
    lengths = batch.lengths
    assert (lengths == lengths[0]).all(), "a reshape would mix pairs"
    return batch.ids.reshape(len(lengths), -1)


def _valid(lengths: NDArray[np.int32]) -> NDArray[np.bool_]:
    """What of a right-padded batch is a token, bool [pairs, longest]."""
    return np.arange(int(lengths.max())) < lengths[:, None]


def packed_positions(batch: PackedPairs, pad_id: int, offset: int) -> NDArray[np.int32]:
    """The position of each token, int32 [tokens].

    With an offset, positions count as RoBERTa's do: a token whose id is ``pad_id`` (a text may spell
    it) takes position ``pad_id`` and is not counted.
    """
    if not offset:
        return gather_index(np.zeros(len(batch.lengths), np.int32), batch.lengths)
    counted = (batch.ids != pad_id).astype(np.int64)
    running = np.cumsum(counted)
    starts = np.cumsum(batch.lengths) - batch.lengths
    before = np.repeat(running[starts] - counted[starts], batch.lengths)
    positions = running - before - 1 + offset
    return np.where(counted == 1, positions, pad_id).astype(np.int32)


def _token_offset(batch: PackedPairs) -> NDArray[np.int32]:
    """int32 [pairs, longest]: where the tokens lie in a padded batch, then where the padding lies."""
    valid = _valid(batch.lengths)
    return np.argsort(~valid.ravel(), kind="stable").astype(np.int32).reshape(valid.shape)


def choose_layout(declared: Iterable[Declared], inputs: Inputs) -> Layout:
    """The layout for a graph with these inputs.

    The packed one is that of onnxruntime's contrib operator PackedMultiHeadAttention: no padding, and
    ``cumulative_sequence_length`` int32 [pairs + 1] says where each pair starts.

    Args:
        declared: The graph's inputs; each gets the integer type that it declares.
        inputs: The manifest's facts about them.

    Raises:
        ArtifactError: If no layout gives exactly these inputs, or they are declared in a form that no batch has.
    """
    nodes = {node.name: node for node in declared}

    # Where the tokenizer's segments do not reach the model, a graph that wants some gets zeros, as in transformers.
    def padded_types(batch: PackedPairs) -> NDArray[np.int32]:
        return padded_ids(batch.types if inputs.token_types else np.zeros_like(batch.types), batch.lengths, 0)

    def padded(batch: PackedPairs) -> NDArray[np.int32]:
        return padded_ids(batch.ids, batch.lengths, inputs.pad_id)

    def even_types(batch: PackedPairs) -> NDArray[np.int32]:  # as the ids, which are checked
        found = batch.types if inputs.token_types else np.zeros_like(batch.types)
        return found.reshape(len(batch.lengths), -1)

    even: Makers = {"input_ids": _rows_of_ids, "token_type_ids": even_types}
    with_mask: Makers = {
        "input_ids": padded,
        "token_type_ids": padded_types,
        "attention_mask": lambda batch: _valid(batch.lengths),
    }
    packed: Makers = {
        "input_ids": lambda batch: batch.ids,
        "token_type_ids": lambda batch: batch.types,
        "position_ids": lambda batch: packed_positions(batch, inputs.pad_id, inputs.position_offset),
        "token_offset": _token_offset,
        "cumulative_sequence_length": lambda batch: np.append(0, np.cumsum(batch.lengths)),
    }
    for makers in (even, with_mask, packed):
        if makers.keys() - {"token_type_ids"} <= nodes.keys() <= makers.keys():
            problems = [text for name, node in nodes.items() for text in _form_problems(node, makers[name](_ONE_TOKEN))]
            if problems:
                raise ArtifactError(join_problems("a graph for batches of any size and length is needed", problems))
            return _layout([(name, makers[name], _INTEGERS[node.type]) for name, node in nodes.items()])
    raise ArtifactError(
        f"the graph's inputs are {', '.join(sorted(nodes))}; known are input_ids, optionally token_type_ids, and "
        "attention_mask, or position_ids, token_offset and cumulative_sequence_length"
    )


def _layout(chosen: Sequence[tuple[str, Maker, type]]) -> Layout:
    """What makes each input of a batch, in the type that it declares."""

    def feed(batch: PackedPairs) -> Feed:
        made: Feed = {}
        for name, make, kind in chosen:
            made[name] = make(batch).astype(kind, copy=False)
        return made

    return feed


def _form_problems(node: Declared, given: NDArray[Any]) -> list[str]:
    """What keeps an input from taking every batch; ``given`` is what one batch gives it."""
    problems = []
    if node.type not in _INTEGERS:
        problems.append(f"{node.name} is {node.type}; {' or '.join(_INTEGERS)} expected")
    fixed = [f"dimension {i} to {size}" for i, size in enumerate(node.shape) if isinstance(size, int)]
    if fixed:
        problems.append(f"{node.name} fixes {' and '.join(fixed)}; export it with free (dynamic) dimensions")
    if node.shape and len(node.shape) != given.ndim:
        problems.append(f"{node.name} has {len(node.shape)} dimensions; {given.ndim} expected")
    return problems


def choose_logits(declared: Sequence[Declared]) -> tuple[str, int | None]:
    """The output that holds the logits, and how many there are for a pair, None if it does not say.

    Args:
        declared: The graph's outputs: one is named "logits", or there is one.

    Raises:
        ArtifactError: If there is none that is float [pairs, labels], or [pairs] for one label.
    """
    named = [node for node in declared if node.name == "logits"] or declared
    if len(named) != 1:
        raise ArtifactError(
            f"the graph's outputs are {', '.join(node.name for node in declared)}; one named logits is needed"
        )
    (node,) = named
    if node.type not in _FLOATS or len(node.shape) > 2:
        shape = ", ".join(map(str, node.shape))
        raise ArtifactError(
            f"the output {node.name} is {node.type} [{shape}]; logits are float [pairs, labels] or [pairs]"
        )
    # Without a declared shape it may be both.
    labels = node.shape[1] if len(node.shape) == 2 else 1 if node.shape else None
    return node.name, labels if isinstance(labels, int) else None
