"""Turns: contenders that act one after the other, what they gave, and the spread of figures over rounds."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from statistics import median
from time import perf_counter, process_time, sleep
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from benchmarks.engines.registry import WorkerError, reason_of
from benchmarks.engines.worker import Call
from benchmarks.inputs.collections import Candidates

Floats = NDArray[np.float32]
T = TypeVar("T")

PAUSE_S = 0.02  # before a turn: threads of the contender before spin for some milliseconds before they sleep


class Turns:
    """Contenders in turns, so that a slow moment of the machine hits all of them.

    Each turn begins with another contender (A B, B A, ...): none always follows the same one. One that fails is left
    out of the turns after.

    Args:
        names: Of the contenders.
        first: Which of them begins the first turn.
        catch: The failures that leave the others to go on.

    Attributes:
        names: Of those that have not failed.
        failed: Name -> why it failed.
    """

    def __init__(self, names: Iterable[str], *, first: int = 0, catch: type[Exception] = WorkerError) -> None:
        self.names = list(dict.fromkeys(names))
        self.failed: dict[str, str] = {}
        self._next, self._catch = first, catch

    def each(self, act: Callable[[str], T]) -> dict[str, T]:
        """One turn: what ``act`` gives for the name of each contender."""
        first = self._next % max(1, len(self.names))
        self._next += 1
        found = {}
        for name in self.names[first:] + self.names[:first]:
            try:
                found[name] = act(name)
            except self._catch as error:
                self.failed[name] = reason_of(error)
                self.names.remove(name)
        return found


def counted(calls: Sequence[T]) -> Sequence[T]:
    """What counts of a turn: all calls but the first, which finds threads asleep and caches full of others' data.

    A call that is alone in its turn counts: it should take so long that this does not matter.

    >>> counted([3, 1, 1]), counted([3])
    ([1, 1], [3])
    """
    return calls[1:] or calls


@dataclass(frozen=True, slots=True)
class Series:
    """What one engine gave.

    Attributes:
        seconds: Per round, per call.
        scores: Per round, per call, float32 [documents], or logits.
        cpu_seconds: As `seconds`, of all threads of the engine's process.
    """

    seconds: list[list[float]] = field(default_factory=list)
    scores: list[list[Floats]] = field(default_factory=list)
    cpu_seconds: list[list[float]] = field(default_factory=list)

    @property
    def round_seconds(self) -> list[float]:
        """Of all calls of a round that count."""
        return [sum(counted(seconds)) for seconds in self.seconds]

    @property
    def all_scores(self) -> list[Floats]:
        """Call by call."""
        return list(chain.from_iterable(self.scores))


@dataclass(frozen=True, slots=True)
class Spread:
    """Median and range of a figure over the rounds."""

    median: float
    min: float
    max: float


def spread(values: Iterable[float]) -> Spread:
    """Median and range, to four significant digits.

    >>> spread([3.00004, 1, 2])
    Spread(median=2.0, min=1.0, max=3.0)
    """
    kept = list(values)
    return Spread(*(float(f"{value:.4g}") for value in (median(kept), min(kept), max(kept))))


def percentiles(seconds: Sequence[float]) -> dict[str, float]:
    """Percentiles in ms, linear between two calls, and how many calls there were.

    >>> percentiles([0.001 * i for i in range(101)])
    {'p50_ms': 50.0, 'p95_ms': 95.0, 'p99_ms': 99.0, 'calls': 101}
    """
    values = {f"p{p}_ms": round(float(np.percentile(seconds, p)) * 1e3, 3) for p in (50, 95, 99)}
    return values | {"calls": len(seconds)}


def on_texts(score: Callable[[str, tuple[str, ...]], T]) -> Callable[[Candidates], T]:
    """What takes a query and its documents, as a function of a call."""
    return lambda call: score(call.query, call.documents)


def timed(score: Callable[[T], Floats]) -> Callable[[T], Call]:
    """A function to scores that says how long it took."""

    def call(given: T) -> Call:
        start, cpu_start = perf_counter(), process_time()
        scores = score(given)
        return Call(scores, perf_counter() - start, process_time() - cpu_start)

    return call


def interleave(
    engines: Mapping[str, Callable[[T], Call]],
    warm_up: Iterable[T],
    rounds: Iterable[Sequence[T]],
    *,
    between: Callable[[], None] = lambda: None,
    report: Callable[[], None] = lambda: None,
    pause_s: float = PAUSE_S,
    catch: type[Exception] = WorkerError,
    shorten: Callable[[str, T], T] = lambda name, call: call,
) -> tuple[dict[str, Series], dict[str, str]]:
    """Time engines in turns: in each, one makes all calls of a round, one after the other, after a pause.

    ``between`` is called before each round, ``report`` after each turn. An engine that raises ``catch`` is left out of
    what follows. ``shorten`` gives what an engine gets of a warm-up call.

    Returns:
        Name -> what that engine gave, and name -> why an engine failed.
    """
    turns, series, first = Turns(engines, catch=catch), {name: Series() for name in engines}, list(warm_up)

    def warm(name: str) -> None:
        for call in first:
            engines[name](shorten(name, call))

    def take(timed: Sequence[T], name: str) -> None:
        sleep(pause_s)
        results = [engines[name](call) for call in timed]
        series[name].seconds.append([result.seconds for result in results])
        series[name].cpu_seconds.append([result.cpu_seconds for result in results])
        series[name].scores.append([result.scores for result in results])
        report()

    turns.each(warm)
    for timed in rounds:
        if not turns.names:
            break
        between()
        turns.each(partial(take, timed))
    return {name: series[name] for name in engines if name in turns.names}, turns.failed
