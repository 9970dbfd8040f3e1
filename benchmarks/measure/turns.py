"""Engines opened side by side and timed in turns; who they are and what the times say is left to others."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from statistics import median
from typing import Protocol

from benchmarks.engines.registry import ENGINES
from benchmarks.engines.worker import Call, EngineUnavailable, Worker, WorkerError
from benchmarks.inputs.collections import Candidates
from benchmarks.inputs.models import BenchmarkModel
from benchmarks.inputs.workloads import Workload
from benchmarks.reporting.text import progress

from .quality import Floats


class Timed(Protocol):
    """Something that scores and says how long it took."""

    def score(self, query: str, documents: tuple[str, ...]) -> Call:
        """Make one call."""

    def tokenize(self, query: str, documents: tuple[str, ...]) -> float | None:
        """Seconds of the tokenizing of such a call, None where it cannot be had alone."""


@dataclass(frozen=True, slots=True)
class Series:
    """What one engine gave.

    Attributes:
        seconds: Per round, per call.
        scores: Per round, per call, float32 [documents].
        tokenize_s: Per round, of one document; empty where tokenizing cannot be had alone.
    """

    seconds: list[list[float]] = field(default_factory=list)
    scores: list[list[Floats]] = field(default_factory=list)
    tokenize_s: list[float] = field(default_factory=list)


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


def open_engines(
    keys: Sequence[str], model: BenchmarkModel, *, threads: int, stack: ExitStack
) -> tuple[dict[str, Worker], dict[str, str]]:
    """A process for each engine.

    Args:
        keys: Of `ENGINES`.
        model: What they load.
        threads: Of each engine.
        stack: Ends the processes.

    Returns:
        Key -> worker, and key -> why an engine cannot be measured.
    """
    workers, unavailable = {}, {}
    tick = progress(len(set(keys)), "engines opened")
    for key in dict.fromkeys(keys):
        try:
            worker = Worker(ENGINES[key], model.folder, threads=threads, scratch=model.scratch)
        except EngineUnavailable as error:
            unavailable[key] = str(error)
        else:
            workers[key] = stack.enter_context(worker)
        tick()
    return workers, unavailable


def interleave(
    engines: Mapping[str, Timed],
    workload: Workload,
    *,
    between: Callable[[], None] = lambda: None,
    report: Callable[[], None] = lambda: None,
) -> tuple[dict[str, Series], dict[str, str]]:
    """Time engines call by call in turns, so that a slow moment of the machine hits all of them.

    Each call begins with another engine (A B, B A, ...): none always follows the same one.

    Args:
        engines: Name -> engine.
        workload: The calls.
        between: Called before each round.
        report: Called after each timed call.

    Returns:
        Name -> what that engine gave, and name -> why an engine failed, which is then left out.
    """
    series = {name: Series() for name in engines}
    failed: dict[str, str] = {}
    turn = 0

    def each(act: Callable[[Timed, Series], None]) -> None:
        nonlocal turn
        names = list(series)
        first = turn % max(1, len(names))
        for name in names[first:] + names[:first]:
            try:
                act(engines[name], series[name])
            except WorkerError as error:
                failed[name] = str(error)
                del series[name]
        turn += 1

    for call in workload.warm_up:
        each(partial(_warm_up, call))
    for timed, tokenizing in zip(workload.rounds, workload.tokenizing, strict=True):
        if not series:
            break
        between()
        for found in series.values():
            found.seconds.append([])
            found.scores.append([])
        for call in timed:
            each(partial(_score, call))
            report()
        each(partial(_tokenize, tokenizing))
    return series, failed


def _warm_up(call: Candidates, engine: Timed, _: Series) -> None:
    engine.score(call.query, call.documents)
    engine.tokenize(call.query, call.documents)


def _score(call: Candidates, engine: Timed, found: Series) -> None:
    result = engine.score(call.query, call.documents)
    found.seconds[-1].append(result.seconds)
    found.scores[-1].append(result.scores)


def _tokenize(calls: Sequence[Candidates], engine: Timed, found: Series) -> None:
    seconds = [engine.tokenize(call.query, call.documents) for call in calls]
    known = [value for value in seconds if value is not None]
    if len(known) == len(calls):
        found.tokenize_s.append(sum(known) / sum(len(call.documents) for call in calls))
