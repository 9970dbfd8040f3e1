"""Profiles: the shapes that TensorRT engines are built for, and batches brought into them. Pure functions.

A profile says what shapes an engine takes. Each has an engine and a session of its own: onnxruntime parses several
profiles for one session, but its execution context stays on the first one, and all other shapes fail
(https://github.com/microsoft/onnxruntime/pull/31624, in no release up to 1.31).

Profiles are of two kinds. Ranges of lengths, each twice as long as the one before, take every batch that the planner
makes. A fixed shape takes batches that fill it well enough: its engine is built for that shape alone, and runs as one
CUDA graph, of which onnxruntime's provider keeps but one for a session.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from crossrank._device.batches import plan_batches

# Lengths count in steps of this, as the tensor cores' tiles do, which also leaves fewer shapes.
_STEP = 8
# A batch is brought to a fixed shape of at most so many times its tokens.
_MOST_WASTE = 8


class Shape(NamedTuple):
    """A padded batch: pairs, and tokens of each row."""

    pairs: int
    length: int


@dataclass(frozen=True, slots=True)
class Profile:
    """The shapes that an engine takes, and the one that it is tuned for.

    Attributes:
        least: Fewest pairs and shortest rows.
        best: What it is tuned for.
        most: Most pairs and longest rows.
    """

    least: Shape
    best: Shape
    most: Shape

    @property
    def fixed(self) -> bool:
        """Whether it takes one shape alone."""
        return self.least == self.most

    def __str__(self) -> str:
        low, high = self.least, self.most
        if self.fixed:
            return f"{high.pairs} pairs of {high.length} tokens"
        return f"up to {high.pairs} pairs of {low.length} to {high.length} tokens"


@dataclass(frozen=True, slots=True)
class TensorrtSettings:
    """Which profiles there are. Not tuned on a GPU yet.

    Attributes:
        max_tokens: Most tokens of a batch of several pairs, padding included.
        most_pairs: Most pairs of a batch.
        shortest: The longest row of the first range, a multiple of 8.
        fixed: Shapes with an engine and a CUDA graph of their own, rising; longer than the model's they are cut.
    """

    max_tokens: int = 16384
    most_pairs: int = 256
    shortest: int = 128
    fixed: tuple[Shape, ...] = (Shape(4, 128), Shape(16, 128))


def make_profiles(longest: int, settings: TensorrtSettings) -> list[Profile]:
    """The profiles of a model, in the order in which a batch looks for its own: fixed shapes, then ranges.

    Args:
        longest: Most tokens of a pair.
        settings: Which ones.

    >>> for profile in make_profiles(512, TensorrtSettings()): print(profile)
    4 pairs of 128 tokens
    16 pairs of 128 tokens
    up to 256 pairs of 1 to 128 tokens
    up to 127 pairs of 129 to 256 tokens
    up to 63 pairs of 257 to 512 tokens
    """
    shapes = [Shape(shape.pairs, min(shape.length, longest)) for shape in settings.fixed]
    profiles = [Profile(shape, shape, shape) for shape in shapes]
    least = 1
    while least <= longest:
        most = min(longest, max(settings.shortest, 2 * (least - 1)))
        # As many pairs as the planner takes of the shortest rows, else it would make batches that fit nowhere.
        pairs, best = (min(settings.most_pairs, max(1, settings.max_tokens // length)) for length in (least, most))
        profiles.append(Profile(Shape(1, least), Shape(best, most), Shape(pairs, most)))
        least = most + 1
    return profiles


def plan_tensorrt_batches(
    lengths: NDArray[np.int32], settings: TensorrtSettings, max_pairs: int | None = None
) -> list[NDArray[np.intp]]:
    """Cut pairs into batches that waste little on padding, each of which some profile takes.

    Args:
        lengths: int32 [pairs], tokens of each joined pair, each at least 1.
        settings: What the profiles were made of.
        max_pairs: Most pairs of a batch, or None.

    Returns:
        As `plan_batches`.

    Raises:
        InputError: If ``max_pairs`` is below 1.
    """
    batches = plan_batches(lengths, max_tokens=settings.max_tokens, max_pairs=max_pairs)
    return [part for batch in batches for part in _cut(batch, settings.most_pairs)]


def _cut(batch: NDArray[np.intp], most: int) -> list[NDArray[np.intp]]:
    return [batch[start : start + most] for start in range(0, len(batch), most)]


def choose_profile(batch: Shape, profiles: Sequence[Profile]) -> tuple[Profile, Shape]:
    """The profile that a batch runs in, and the shape it is brought to for that.

    A range takes a batch at its own number of pairs, with rows of a multiple of 8 tokens, if the model has so many.

    Args:
        batch: Pairs and longest row, of a batch that `plan_tensorrt_batches` made, or of a part of one.
        profiles: Of `make_profiles`.

    >>> choose_profile(Shape(3, 90), make_profiles(512, TensorrtSettings()))[1]
    Shape(pairs=4, length=128)
    >>> choose_profile(Shape(90, 90), make_profiles(512, TensorrtSettings()))[1]
    Shape(pairs=90, length=96)
    """
    profile = next(profile for profile in profiles if _takes(profile, batch))
    if profile.fixed:
        return profile, profile.most
    return profile, Shape(batch.pairs, min(-(-batch.length // _STEP) * _STEP, profile.most.length))


def _takes(profile: Profile, batch: Shape) -> bool:
    low, high = profile.least, profile.most
    if batch.pairs > high.pairs or batch.length > high.length:
        return False
    if profile.fixed:
        return high.pairs * high.length <= _MOST_WASTE * batch.pairs * batch.length
    return batch.length >= low.length


def bring_to(feed: Mapping[str, NDArray[Any]], shape: Shape, pad_id: int) -> dict[str, NDArray[Any]]:
    """Pad a batch's inputs to a shape, on the right and below.

    Args:
        feed: ``input_ids``, ``attention_mask`` and ``token_type_ids``, each [pairs, longest].
        shape: At least as large.
        pad_id: Fills ``input_ids``; all else is filled with 0.

    Returns:
        The inputs, each [shape.pairs, shape.length]. In rows below, one token counts: a softmax over none would
        be no number in some graphs.

    >>> bring_to({"attention_mask": np.ones((1, 2), np.int64)}, Shape(2, 3), 0)["attention_mask"].tolist()
    [[1, 1, 0], [1, 0, 0]]
    """
    filled = {}
    for name, values in feed.items():
        pairs, length = values.shape
        if (pairs, length) == shape:
            filled[name] = values
            continue
        filled[name] = np.full(shape, pad_id if name == "input_ids" else 0, values.dtype)
        filled[name][:pairs, :length] = values
        if name == "attention_mask":
            filled[name][pairs:, 0] = 1
    return filled
