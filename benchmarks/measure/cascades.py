"""Models and cascades in turns on the same candidates: how fast and how well they rank, and how deep to read.

A depth is chosen on held-out queries, which have no judgments and need none: a cascade is worth what the big model's
own ranking is worth as long as it finds the documents that the big model would put first. So the depth is chosen by how
many of the big model's own ten best are among the cascade's ten best.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import mean

import numpy as np
from numpy.typing import NDArray

from benchmarks.inputs.collections import Candidates, Collection
from benchmarks.inputs.workloads import Workload, synthetic_calls
from crossrank import Cascade

from .quality import Quality, measure_scores
from .turns import Floats, Series, Spread, spread

_TOP = 10


@dataclass(frozen=True, slots=True)
class TradeOff:
    """A system's candidates ranked per second, its ratio to the first system's, and the quality of all its rankings."""

    docs_per_s: Spread
    query_ms: Spread
    ratio: Spread
    quality: Quality


def ranking_scores(cascade: Cascade) -> Callable[[str, tuple[str, ...]], Floats]:
    """A cascade as a function to scores: 0 for its first document, -1 for the next, since its own are of two models."""

    def score(query: str, documents: tuple[str, ...]) -> Floats:
        scores = np.empty(len(documents), np.float32)
        for place, hit in enumerate(cascade.rank(query, documents)):
            scores[hit["corpus_id"]] = -place
        return scores

    return score


def deal(collection: Collection, *, rounds: int, warm_up: int) -> Workload:
    """Every query with its candidates in one round, so that none returns; the texts of the warm-up calls are made up.

    There are fewer rounds where there are fewer queries.
    """
    entries = collection.candidates
    dealt = [entries[i :: min(rounds, len(entries))] for i in range(min(rounds, len(entries)))]
    first = tuple(synthetic_calls([max(len(entry.documents) for entry in entries)] * warm_up))
    ranked = replace(collection, candidates=tuple(entry for timed in dealt for entry in timed))
    return Workload(collection.name, first, tuple(dealt), False, ranked)


def weigh(series: Mapping[str, Series], workload: Workload) -> dict[str, TradeOff]:
    """Figures of every system, ratios to the first, on a workload that `deal` made."""
    assert workload.collection is not None, "deal keeps it"
    documents = [sum(len(call.documents) for call in timed) for timed in workload.rounds]
    theirs = next(iter(series.values())).round_seconds
    return {
        name: TradeOff(
            docs_per_s=spread(n / s for n, s in zip(documents, found.round_seconds, strict=True)),
            query_ms=spread(mean(calls) * 1e3 for calls in found.seconds),
            ratio=spread(their / our for our, their in zip(found.round_seconds, theirs, strict=True)),
            quality=measure_scores(workload.collection, found.all_scores),
        )
        for name, found in series.items()
    }


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
    """The ranking that `crossrank.Cascade` of two models gives: indices, best first; ties keep their order.

    It is made of the scores of the two, float32 [documents]; the second reads the first's best, ``depth`` of them.

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
    """The smallest depth that keeps the big model's best documents, by the scores per query, float32 [documents]."""
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
