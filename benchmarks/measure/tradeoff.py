"""What a run of models and cascades says of each: how fast it ranked and how well; the one pass gives both."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from statistics import mean
from time import perf_counter

import numpy as np

from benchmarks.engines.worker import Call
from benchmarks.inputs.collections import Collection
from benchmarks.inputs.workloads import Workload, synthetic_calls
from crossrank import Cascade

from .quality import Floats, Quality, measure_scores
from .turns import Series, Spread, spread


@dataclass(frozen=True, slots=True)
class TradeOff:
    """A system's figures.

    Attributes:
        docs_per_s: Candidates ranked per second, over the rounds.
        query_ms: Milliseconds of a query, over the rounds.
        ratio: Its documents per second over the first system's in the same round.
        quality: Of its rankings of all queries.
    """

    docs_per_s: Spread
    query_ms: Spread
    ratio: Spread
    quality: Quality


class Timed:
    """A function from a query and its documents to scores, timed as `interleave` wants it."""

    def __init__(self, score: Callable[[str, tuple[str, ...]], Floats]) -> None:
        self._score = score

    def score(self, query: str, documents: tuple[str, ...]) -> Call:
        """Make one call."""
        start = perf_counter()
        scores = self._score(query, documents)
        return Call(scores, perf_counter() - start)

    def tokenize(self, query: str, documents: tuple[str, ...]) -> float | None:
        """Not measured."""
        return None


def ranking_scores(cascade: Cascade) -> Callable[[str, tuple[str, ...]], Floats]:
    """A cascade as a function to scores: 0 for its first document, -1 for the next, since its own are of two models."""

    def score(query: str, documents: tuple[str, ...]) -> Floats:
        scores = np.empty(len(documents), np.float32)
        for place, hit in enumerate(cascade.rank(query, documents)):
            scores[hit["corpus_id"]] = -place
        return scores

    return score


def deal(collection: Collection, *, rounds: int, warm_up: int) -> Workload:
    """Every query with its candidates in one round, so that none returns; the warm-up's texts are made up.

    Args:
        collection: What is ranked.
        rounds: How many; fewer where there are fewer queries.
        warm_up: Calls before the first that counts, at least one.
    """
    entries = collection.candidates
    dealt = [entries[i :: min(rounds, len(entries))] for i in range(min(rounds, len(entries)))]
    first = tuple(synthetic_calls([max(len(entry.documents) for entry in entries)] * warm_up))
    ranked = replace(collection, candidates=tuple(entry for timed in dealt for entry in timed))
    return Workload(collection.name, first, tuple(dealt), (first[:1],) * len(dealt), False, ranked)


def weigh(series: Mapping[str, Series], workload: Workload) -> dict[str, TradeOff]:
    """Figures of every system.

    Args:
        series: System -> what it gave; ratios are to the first.
        workload: As `deal` made it.
    """
    assert workload.collection is not None, "deal keeps it"
    documents = [sum(len(call.documents) for call in timed) for timed in workload.rounds]
    seconds = {name: [sum(calls) for calls in found.seconds] for name, found in series.items()}
    theirs = next(iter(seconds.values()))
    return {
        name: TradeOff(
            docs_per_s=spread(n / s for n, s in zip(documents, seconds[name], strict=True)),
            query_ms=spread(mean(calls) * 1e3 for calls in found.seconds),
            ratio=spread(their / our for our, their in zip(seconds[name], theirs, strict=True)),
            quality=measure_scores(workload.collection, [scores for calls in found.scores for scores in calls]),
        )
        for name, found in series.items()
    }
