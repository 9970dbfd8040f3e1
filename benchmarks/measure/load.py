"""Load on a function that scores, by threads of this process; on which model, and in which process, is left to others.

Closed loops: callers send their next request when the one before is answered. Open loops: requests arrive at times of
their own.
"""

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass
from itertools import count, islice
from random import Random
from threading import Barrier, Lock

from benchmarks.engines.registry import reason_of
from crossrank import Overloaded, Ranking
from crossrank._text.sample_texts import sample_texts

from .turns import percentiles

Score = Callable[[str, list[str]], object]

# (Documents of a request, how many such requests are in a deck): every deck has one of 1,000, so that short runs hold
# the same mix. 44 documents on average.
_DECK = ((1, 17), (2, 12), (5, 9), (10, 7), (20, 5), (50, 4), (100, 3), (200, 2), (500, 1), (1000, 1))
_POOL = 2000  # documents; each request's query is new, so that no pair returns
MOST_REQUESTS = 20_000  # of one load
_GRACE_S = 0.5  # for what waits when the last request has arrived
_PER_S, _AHEAD = 1_000, 5_000  # requests of a closed loop that are made ahead, in a second and at most


@dataclass(frozen=True, slots=True)
class Answers:
    """What became of the requests of one load.

    Attributes:
        seconds: Of each answered request; in an open loop from the time at which it was meant to arrive, so that
            waiting for a caller counts.
        documents: That were scored for the answered requests.
        rejected: Requests that raised `Overloaded`.
        unanswered: Requests that still waited for a caller when time was up.
        failed: Requests that raised anything else.
        error: The first of that.
        elapsed_s: From the first request to the last answer, at least as long as requests arrived.
        cpu_s: CPU time of those who asked, where they have a process of their own.
        refused_s: As `seconds`, of the rejected ones.
    """

    seconds: tuple[float, ...]
    documents: int
    rejected: int
    unanswered: int
    failed: int
    error: str
    elapsed_s: float
    cpu_s: float = 0.0
    refused_s: tuple[float, ...] = ()

    def figures(self) -> dict[str, float | None]:
        """Documents per second, percentiles of what was answered, and what was not, as shares of all requests."""
        lost = {name: getattr(self, name) for name in ("rejected", "unanswered", "failed")}
        requests = max(1, len(self.seconds) + sum(lost.values()))
        return {
            "docs_per_s": round(self.documents / self.elapsed_s, 1),
            **(percentiles(self.seconds) if self.seconds else dict.fromkeys(("p50_ms", "p95_ms", "p99_ms"))),
            "requests": requests,
            **{name: round(number / requests, 4) for name, number in lost.items()},
            "refused_p99_ms": percentiles(self.refused_s)["p99_ms"] if self.refused_s else None,
        }


class Texts:
    """Queries, each new, with slices of a pool of made-up documents, all different within a call. Thread-safe.

    Args:
        first: The number of the first query.
    """

    def __init__(self, first: int = 0) -> None:
        self._documents = list(dict.fromkeys(sample_texts(_POOL, kind="document", seed=0)))
        self._queries = sample_texts(_POOL, kind="query", seed=0)
        self._number, self._next, self._lock = count(first), 0, Lock()
        self._made: dict[int, deque[tuple[str, list[str]]]] = {}

    def make(self, size: int, requests: int) -> None:
        """Make the texts of so many requests, so that `take` has nothing to do while time is taken."""
        self._made[size] = deque(self._make(size) for _ in range(requests))

    def take(self, size: int) -> tuple[str, list[str]]:
        """The texts of the next request."""
        with suppress(KeyError, IndexError):
            return self._made[size].popleft()
        return self._make(size)

    def _make(self, size: int) -> tuple[str, list[str]]:
        with self._lock:
            number, start = next(self._number), self._next
            self._next = (start + size) % len(self._documents)
        documents = self._documents[start : start + size]
        documents += self._documents[: size - len(documents)]
        return f"{self._queries[number % _POOL]} {number}", documents


def made_ahead(seconds: float) -> int:
    """How many requests of a closed loop are made before it begins."""
    return min(_AHEAD, int(seconds * _PER_S))


@dataclass(frozen=True, slots=True)
class Callers:
    """Callers of a closed loop: what they call, how many, and the documents of a request, None for the mix."""

    score: Score
    count: int
    documents: int | None


def sizes(documents: int | None, seed: int) -> Iterator[int]:
    """Documents of one request after the other; for None the mix of 1 to 1,000, deck by deck, shuffled.

    >>> deck = sorted(islice(sizes(None, 0), 61))
    >>> deck[0], deck[-2:], deck == sorted(islice(sizes(None, 1), 61))
    (1, [500, 1000], True)
    """
    deck = [documents] if documents else [size for size, times in _DECK for _ in range(times)]
    shuffle = Random(seed).shuffle
    while True:
        shuffle(deck)
        yield from deck


def arrivals(docs_per_s: float, documents: int | None, *, seconds: float, seed: int) -> list[tuple[float, int]]:
    """When requests arrive, in seconds, and of how many documents; the same for a seed.

    A Poisson process given its sum: times drawn evenly for as many requests as come nearest to the load that is asked
    for, at least one. So that a short load is what its name says.

    >>> found = arrivals(1000, 10, seconds=2, seed=0)
    >>> len(found), found == arrivals(1000, 10, seconds=2, seed=0), found[0][0] < found[-1][0] < 2
    (200, True, True)
    """
    wanted, total, chosen = docs_per_s * seconds, 0, list[int]()
    for size in islice(sizes(documents, seed), MOST_REQUESTS):
        if chosen and total + size / 2 > wanted:
            break
        chosen.append(size)
        total += size
    draw = Random(seed)
    return list(zip(sorted(draw.uniform(0, seconds) for _ in chosen), chosen, strict=True))


def closed_loop(groups: Sequence[Callers], texts: Texts, *, seconds: float, seed: int) -> list[Answers]:
    """Let groups of callers work beside each other; requests that have begun after so many seconds are finished.

    Returns:
        What became of each group's requests; the seed decides the order of sizes.
    """
    logs = [_Log(group.score, texts) for group in groups]
    callers = sum(group.count for group in groups)
    gate, drawing = Barrier(callers), Lock()

    def work(log: _Log, drawn: Iterator[int]) -> None:
        gate.wait()
        stop = time.perf_counter() + seconds
        while time.perf_counter() < stop:
            with drawing:
                size = next(drawn, None)
            if size is None:
                return
            log.ask(size, time.perf_counter())

    with ThreadPoolExecutor(callers) as pool:
        for group, log in zip(groups, logs, strict=True):
            drawn = islice(sizes(group.documents, seed), MOST_REQUESTS)
            for _ in range(group.count):
                pool.submit(work, log, drawn)
    return [log.answers() for log in logs]


def open_loop(
    score: Score, planned: Sequence[tuple[float, int]], texts: Texts, *, seconds: float, callers: int
) -> Answers:
    """Send requests at their times, as `arrivals` gives them, whether or not earlier ones are answered.

    A request that finds no caller free waits for one, which counts.
    """
    log = _Log(score, texts)
    with ThreadPoolExecutor(callers) as pool:
        sent, start = [], time.perf_counter()
        for at, size in planned:
            time.sleep(max(0.0, start + at - time.perf_counter()))
            sent.append(pool.submit(log.ask, size, start + at))
        wait(sent, max(0.0, start + seconds - time.perf_counter()) + _GRACE_S)
        for (at, size), request in zip(planned, sent, strict=True):
            if request.cancel():
                log.end("unanswered", size, start + at, start + at)
    return log.answers(start, seconds)


class _Log:
    """The requests of one load as they end; threads add to it."""

    def __init__(self, score: Score, texts: Texts) -> None:
        self._score, self._texts, self._error = score, texts, ""
        self._ended: list[tuple[str, int, float, float]] = []

    def ask(self, size: int, due: float) -> None:
        query, documents = self._texts.take(size)
        ending = "answered"
        try:
            result = self._score(query, documents)
            size = result.scored if isinstance(result, Ranking) else size  # at a deadline not all are
        except Overloaded:
            ending = "rejected"
        except Exception as error:  # what a system under load fails with is a finding
            ending, self._error = "failed", self._error or reason_of(error)
        self.end(ending, size, due, time.perf_counter())

    def end(self, ending: str, size: int, due: float, at: float) -> None:
        self._ended.append((ending, size, due, at))

    def answers(self, start: float | None = None, seconds: float = 0.0) -> Answers:
        return answers_of(self._ended, self._error, start, seconds)


def answers_of(
    ended: Sequence[tuple[str, int, float, float]],
    error: str,
    start: float | None = None,
    seconds: float = 0.0,
    *,
    cpu_s: float = 0.0,
) -> Answers:
    """What became of requests.

    Args:
        ended: How each ended, its documents, when it was meant to begin, and when it ended.
        error: The first failure.
        start: Of an open loop.
        seconds: For which requests arrived in it.
        cpu_s: CPU time of those who asked.
    """
    answered = [entry for entry in ended if entry[0] == "answered"]
    begin = min((due for _, _, due, _ in ended), default=0.0) if start is None else start
    last = max((at for *_, at in answered), default=begin)
    lost = {name: sum(entry[0] == name for entry in ended) for name in ("rejected", "unanswered", "failed")}
    return Answers(
        seconds=tuple(at - due for _, _, due, at in answered),
        documents=sum(size for _, size, _, _ in answered),
        error=error,
        elapsed_s=max(seconds, last - begin, 1e-9),
        cpu_s=cpu_s,
        refused_s=tuple(at - due for ending, _, due, at in ended if ending == "rejected"),
        **lost,
    )
