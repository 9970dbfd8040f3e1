"""The speeds of systems that rank judged queries in turns."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from statistics import mean

from benchmarks.inputs.collections import Collection
from benchmarks.inputs.workloads import Workload, synthetic_calls

from .turns import Series, Spread, counted, spread


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
    documents = [sum(len(call.documents) for call in counted(timed)) for timed in workload.rounds]
    found = {}
    for name, one in series.items():
        theirs = next(iter(series.values())).round_seconds
        found[name] = Speed(
            docs_per_s=spread(n / s for n, s in zip(documents, one.round_seconds, strict=True)),
            query_ms=spread(mean(counted(calls)) * 1e3 for calls in one.seconds),
            ratio=spread(their / our for our, their in zip(one.round_seconds, theirs, strict=True)),
        )
    return found
