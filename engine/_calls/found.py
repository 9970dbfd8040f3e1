"""Logits of a call's pairs as they come, and which documents have theirs."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Ints = NDArray[np.intp]


class Part:
    """Documents of a call that were read together. Logits may come while it is read.

    Args:
        like: int [pairs], counted over the whole call: the first pair that is the same to the model.
        labels: Logits per pair.
        cut: bool [documents], of which the model does not see all tokens.
        windows: int [documents], pairs of each; None for one each.
    """

    def __init__(self, like: Ints, labels: int, cut: NDArray[np.bool_], windows: Ints | None) -> None:
        self.like, self.cut, self.windows = like, cut, windows
        self.logits = np.empty((len(like), labels), np.float32)
        self.scored = np.zeros(len(like), np.bool_)

    def take(self, pairs: Ints, logits: Floats) -> None:
        """Take logits of some pairs, counted within the part. Where `scored` is set, they are there."""
        self.logits[pairs] = logits
        self.scored[pairs] = True


@dataclass(frozen=True, slots=True)
class Found:
    """What a call found.

    Attributes:
        documents: How many it had.
        scored: int, the documents of which all pairs have their logits, rising.
        logits: float32 [pairs, labels], of those documents alone.
        windows: int [scored], pairs of each; None for one each.
        truncated: int, of the scored documents those of which the model did not see all tokens.
    """

    documents: int
    scored: Ints
    logits: Floats
    windows: Ints | None
    truncated: Ints

    @property
    def complete(self) -> bool:
        """Whether all documents have their scores."""
        return len(self.scored) == self.documents

    def of_pairs(self) -> Ints:
        """The document of each pair, int [pairs]."""
        return self.scored if self.windows is None else np.repeat(self.scored, self.windows)


def gather(parts: Sequence[Part], documents: int, labels: int) -> Found:
    """What was found until now; batches under way may go on handing over theirs.

    Args:
        parts: The parts that were read, in order.
        documents: Documents of the call, also those of no part.
        labels: Logits per pair.
    """
    nothing = np.zeros(0, np.intp)
    if not parts:
        return Found(documents, nothing, np.zeros((0, labels), np.float32), None, nothing)
    like = _joined([part.like for part in parts])
    there = _joined([part.scored for part in parts])[like]  # a copy, taken before logits are read
    cut = _joined([part.cut for part in parts])
    windows = None
    scored, rows = there, like[there]
    if parts[0].windows is not None:
        windows = np.concatenate([part.windows for part in parts if part.windows is not None])
        scored = np.logical_and.reduceat(there, np.cumsum(windows) - windows)
        rows, windows = like[np.repeat(scored, windows)], windows[scored]
    logits = _joined([part.logits for part in parts])[rows]
    return Found(documents, np.flatnonzero(scored), logits, windows, np.flatnonzero(cut & scored))


def _joined(arrays: list[NDArray[Any]]) -> NDArray[Any]:
    return arrays[0] if len(arrays) == 1 else np.concatenate(arrays)
