"""Engines timed in turns, and what the times and scores say; who the engines are is left to others."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Protocol

import numpy as np

from ._data import Candidates, Collection
from ._engines import Floats
from ._measures import Quality, measure_scores
from ._worker import Call


class Timed(Protocol):
    """Something that scores and says how long it took."""

    def score(self, query: str, documents: tuple[str, ...]) -> Call:
        """Make one call."""


@dataclass(frozen=True, slots=True)
class Series:
    """What one engine gave.

    Attributes:
        seconds: Per repeat, of all calls together.
        scores: Per query, of the first repeat.
    """

    seconds: list[float]
    scores: list[Floats]


@dataclass(frozen=True, slots=True)
class Spread:
    """Median and range of a figure over the repeats."""

    median: float
    min: float
    max: float


@dataclass(frozen=True, slots=True)
class Summary:
    """One engine beside the baseline.

    Attributes:
        docs_per_s: Documents per second.
        ratio: Its documents per second over the baseline's, repeat by repeat.
        max_abs_delta: Largest difference of a score to the baseline's.
        mean_abs_delta: Mean difference of a score to the baseline's.
        quality: Of its scores.
    """

    docs_per_s: Spread
    ratio: Spread
    max_abs_delta: float
    mean_abs_delta: float
    quality: Quality


def interleave(
    engines: Mapping[str, Timed],
    candidates: Sequence[Candidates],
    *,
    warm_up: int,
    repeats: int,
    report: Callable[[], None] = lambda: None,
) -> dict[str, Series]:
    """Time engines call by call in turns (A B A B ...), so that a slow moment of the machine hits all of them.

    Args:
        engines: Name -> engine.
        candidates: A call each.
        warm_up: Calls of each engine before the first that counts.
        repeats: How often to go through the candidates.
        report: Called after each query of each repeat.

    Returns:
        Name -> what that engine gave.
    """
    for i in range(warm_up):
        entry = candidates[i % len(candidates)]
        for engine in engines.values():
            engine.score(entry.query, entry.documents)
    series = {name: Series([], []) for name in engines}
    for repeat in range(repeats):
        for found in series.values():
            found.seconds.append(0.0)
        for entry in candidates:
            for name, engine in engines.items():
                call = engine.score(entry.query, entry.documents)
                series[name].seconds[-1] += call.seconds
                if repeat == 0:
                    series[name].scores.append(call.scores)
            report()
    return series


def summarize(series: Mapping[str, Series], collection: Collection, *, baseline: str) -> dict[str, Summary]:
    """Speeds, their ratios to the baseline's, and how far the scores are from its.

    Args:
        series: Name -> what that engine gave, the baseline among them.
        collection: What they scored.
        baseline: The name of the engine that the others are compared with.
    """
    documents = sum(len(entry.documents) for entry in collection.candidates)
    theirs = series[baseline]
    expected = np.concatenate(theirs.scores)
    summaries = {}
    for name, found in series.items():
        deltas = np.abs(np.concatenate(found.scores) - expected)
        summaries[name] = Summary(
            _spread([documents / seconds for seconds in found.seconds]),
            _spread([their / our for our, their in zip(found.seconds, theirs.seconds, strict=True)]),
            float(deltas.max()),
            float(deltas.mean()),
            measure_scores(collection, found.scores),
        )
    return summaries


def _spread(values: Sequence[float]) -> Spread:
    return Spread(*(round(value, 3) for value in (median(values), min(values), max(values))))
