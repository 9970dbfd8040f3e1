"""How deep the second model of a cascade must read: the ranking by depth, and the choice on held-out queries.

Held-out queries have no judgments, and need none: a cascade is worth what the big model's own ranking is worth as long
as it finds the documents that the big model would put first. So the depth is chosen by how many of the big model's own
ten best are among the cascade's ten best.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from benchmarks.inputs.collections import Candidates

from .quality import Floats

_TOP = 10


@dataclass(frozen=True, slots=True)
class Choice:
    """A depth chosen on held-out queries.

    Attributes:
        depth: The smallest one whose overlap reaches the bound; None where none does.
        least_overlap: The bound.
        overlap_at_10: Depth -> the mean share of the big model's own ten best that are among the cascade's.
        data: Where the queries come from.
        queries: How many.
    """

    depth: int | None
    least_overlap: float
    overlap_at_10: dict[int, float]
    data: str
    queries: int


def cascade_order(small: Floats, big: Floats, depth: int) -> NDArray[np.intp]:
    """The ranking that `crossrank.Cascade` of two models gives.

    Args:
        small: The first model's scores, float32 [documents].
        big: The second's.
        depth: How many of the first model's best the second reads.

    Returns:
        Indices of the documents, best first; ties keep their order.

    >>> cascade_order(np.array([4, 3, 2, 1], np.float32), np.array([1, 2, 9, 9], np.float32), 2)
    array([1, 0, 2, 3])
    """
    order = np.argsort(-small, kind="stable")
    read = np.sort(order[:depth])
    order[:depth] = read[np.argsort(-big[read], kind="stable")]
    return order


def choose_depth(
    small: Sequence[Floats], big: Sequence[Floats], depths: Sequence[int], *, least_overlap: float, data: str
) -> Choice:
    """The smallest depth that keeps the big model's best documents.

    Args:
        small: Per query the first model's scores, float32 [documents].
        big: The second's.
        depths: To choose from.
        least_overlap: What the mean share of the big model's ten best must reach.
        data: Where the queries come from.
    """
    overlaps = {
        depth: float(np.mean([_overlap(a, b, depth) for a, b in zip(small, big, strict=True)]))
        for depth in sorted(depths)
    }
    reached = [depth for depth, overlap in overlaps.items() if overlap >= least_overlap]
    return Choice(reached[0] if reached else None, least_overlap, overlaps, data, len(small))


def held_out(candidates: Sequence[Candidates], measured: Sequence[Candidates]) -> list[Candidates]:
    """Those with candidates whose queries are none of the measured ones."""
    known = {_plain(entry.query) for entry in measured}
    return [entry for entry in candidates if entry.documents and _plain(entry.query) not in known]


def _plain(query: str) -> str:
    return " ".join(query.casefold().split())


def _overlap(small: Floats, big: Floats, depth: int) -> float:
    best = np.argsort(-big, kind="stable")[:_TOP]
    return len(np.intersect1d(best, cascade_order(small, big, depth)[:_TOP])) / len(best)
