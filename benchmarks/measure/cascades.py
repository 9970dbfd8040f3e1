"""Rankings of judged queries timed in turns, and what a cascade keeps of its big model's best by depth.

A depth can be chosen on held-out queries, which have no judgments and need none: a cascade is worth what the big
model's own ranking is worth as long as it finds the documents that the big model would put first.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import mean

import numpy as np
from numpy.typing import NDArray

from benchmarks.inputs.collections import Candidates, Collection
from benchmarks.inputs.workloads import Workload, synthetic_calls

from .turns import Floats, Series, Spread, spread

_TOP = 10


@dataclass(frozen=True, slots=True)
class Speed:
    """A system's candidates ranked per second, milliseconds of a query, and its ratio to the first system's."""

    docs_per_s: Spread
    query_ms: Spread
    ratio: Spread


def deal(collection: Collection, *, rounds: int, warm_up: int) -> Workload:
    """Every query with its candidates in one round, so that none returns; the texts of the warm-up calls are made up.

    There are fewer rounds where there are fewer queries. The workload's collection has the queries in their new order.
    """
    entries = collection.candidates
    dealt = [entries[i :: min(rounds, len(entries))] for i in range(min(rounds, len(entries)))]
    first = tuple(synthetic_calls([max(len(entry.documents) for entry in entries)] * warm_up))
    ranked = replace(collection, candidates=tuple(entry for timed in dealt for entry in timed))
    return Workload(collection.name, first, tuple(dealt), False, ranked)


def weigh(series: Mapping[str, Series], workload: Workload) -> dict[str, Speed]:
    """Speeds of every system, ratios to the first."""
    documents = [sum(len(call.documents) for call in timed) for timed in workload.rounds]
    found = {}
    for name, one in series.items():
        theirs = next(iter(series.values())).round_seconds
        found[name] = Speed(
            docs_per_s=spread(n / s for n, s in zip(documents, one.round_seconds, strict=True)),
            query_ms=spread(mean(calls) * 1e3 for calls in one.seconds),
            ratio=spread(their / our for our, their in zip(one.round_seconds, theirs, strict=True)),
        )
    return found


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


def overlap_by_depth(small: Sequence[Floats], big: Sequence[Floats], depths: Sequence[int]) -> dict[int, float]:
    """Depth -> the mean share of the big model's own ten best that are among the cascade's; scores per query."""

    def overlap(a: Floats, b: Floats, depth: int) -> float:
        best = np.argsort(-b, kind="stable")[:_TOP]
        return len(np.intersect1d(best, cascade_order(a, b, depth)[:_TOP])) / len(best)

    pairs = list(zip(small, big, strict=True))
    return {depth: float(np.mean([overlap(a, b, depth) for a, b in pairs])) for depth in sorted(set(depths))}


def held_out(candidates: Sequence[Candidates], measured: Sequence[Candidates]) -> list[Candidates]:
    """Those with candidates whose queries are none of the measured ones."""
    known = {_plain(entry.query) for entry in measured}
    return [entry for entry in candidates if entry.documents and _plain(entry.query) not in known]


def _plain(query: str) -> str:
    return " ".join(query.casefold().split())
