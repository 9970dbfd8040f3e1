"""Calls with a deadline: what they answer, when, and what of it; the steps by a clock of their own.

Sessions are slowed by sleeping, so that a busy machine changes little; `SLACK_S` is for threads that wake up late.
"""

import asyncio
import random
import statistics
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from crossrank import AsyncCrossEncoder, CallRecord, CrossEncoder, InputError, Ranking
from crossrank._calls.deadline import Deadline, Lateness
from crossrank._device.costs import Costs
from crossrank._device.cpu import CpuBackend
from crossrank._text.pairs import PackedPairs
from tests.support.artifacts import make_artifact
from tests.support.callers import ATOL, QUERY, Faulty, open_model, texts
from tests.support.rankings import scores_of

SLACK_S = 0.15
MANY = texts(400, 5)
LANES = 2


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_artifact(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def plain(folder: Path) -> Ranking:
    return CrossEncoder(folder, device="cpu", threads=1, activation_fn="identity").rank(QUERY, MANY)


def slow_model(folder: Path, batch_s: float, **options: Any) -> tuple[CrossEncoder, Faulty]:
    """A model of which each batch takes so long."""
    model, session = open_model(folder, LANES, **options)
    run = session.run

    def slowly(batch: PackedPairs) -> NDArray[np.float32]:
        time.sleep(batch_s)
        return run(batch)

    session.run = slowly  # type: ignore[method-assign]
    return model, session


Rank = Callable[..., Ranking]


@contextmanager
def rank_of(model: CrossEncoder, kind: str) -> Any:
    """`rank` of the synchronous class, or that of the asynchronous one in a loop of its own."""
    if kind == "threads":
        yield model.rank
        return
    with asyncio.Runner() as runner:
        other = AsyncCrossEncoder(model)
        yield lambda *arguments, **options: runner.run(other.rank(*arguments, **options))


both = pytest.mark.parametrize("kind", ["threads", "asyncio"])


def assert_ranked_as_far_as_it_came(found: Ranking, plain: Ranking, count: int) -> list[int]:
    """Returns the documents that were scored."""
    scores = dict(zip((entry["corpus_id"] for entry in plain), scores_of(plain), strict=True))
    ranked, rest = found[: found.scored], found[found.scored :]
    assert all(entry["score"] is None for entry in rest)
    assert scores_of(ranked) == sorted(scores_of(ranked), reverse=True)
    np.testing.assert_allclose(scores_of(ranked), [scores[e["corpus_id"]] for e in ranked], atol=ATOL)
    ids = [entry["corpus_id"] for entry in rest]
    assert ids == sorted(ids)
    assert sorted(entry["corpus_id"] for entry in found) == list(range(count))
    assert found.complete == (not rest)
    assert (found.reason is None) == found.complete
    return sorted(entry["corpus_id"] for entry in ranked)


@both
def test_a_call_that_has_time_is_the_plain_one(folder: Path, plain: Ranking, kind: str) -> None:
    model, _ = open_model(folder, LANES)
    with rank_of(model, kind) as rank:
        found = rank(QUERY, MANY, deadline_ms=600_000)
    assert (found.complete, found.scored, found.reason) == (True, len(MANY), None)
    assert found.truncated == plain.truncated
    assert_ranked_as_far_as_it_came(found, plain, len(MANY))
    assert (model.stats().late, model.stats().documents) == (0, len(MANY))


@both
def test_what_is_scored_in_time_is_ranked_and_the_rest_follows(folder: Path, plain: Ranking, kind: str) -> None:
    records: list[CallRecord] = []
    model, _ = slow_model(folder, 0.01, on_call=records.append)
    with rank_of(model, kind) as rank:
        found = rank(QUERY, MANY, deadline_ms=400, return_documents=True)
    scored = assert_ranked_as_far_as_it_came(found, plain, len(MANY))
    assert 0 < found.scored < len(MANY)
    assert found.reason == "the deadline of 400 ms came first"
    assert all(entry["text"] == MANY[entry["corpus_id"]] for entry in found)
    # The beginning of the list, but for the last step, which was to take half of the time that was left.
    assert scored[: found.scored // 2] == list(range(found.scored // 2))
    assert set(found.truncated) == set(plain.truncated) & set(scored)
    assert found.tokens == CrossEncoder(folder, device="cpu", threads=1).rank(QUERY, [MANY[i] for i in scored]).tokens
    (record,) = records
    assert (record.ending, record.documents, record.unscored) == ("late", 400, 400 - found.scored)
    stats = model.stats()
    assert (stats.late, stats.requests, stats.documents) == (1, 1, found.scored)
    assert (stats.waiting_requests, stats.waiting_tokens) == (0, 0)


def test_top_k_counts_unscored_documents_too(folder: Path) -> None:
    model, _ = slow_model(folder, 0.01)
    found = model.rank(QUERY, MANY, top_k=395, deadline_ms=200)
    assert len(found) == 395
    assert found[-1]["score"] is None
    assert len(model.rank(QUERY, MANY, top_k=1, deadline_ms=200)) == 1


@both
@pytest.mark.parametrize("callers", [0, 6])
def test_the_answer_is_in_time_beside_others(folder: Path, kind: str, callers: int) -> None:
    model, _ = slow_model(folder, 0.02)
    deadline_s, stop = 0.4, threading.Event()

    def load(seed: int) -> None:
        while not stop.is_set():
            model.score(QUERY, random.Random(seed).choices(MANY, k=30))

    took, scored = [], []
    with ThreadPoolExecutor(max(1, callers)) as pool:
        loads = [pool.submit(load, seed) for seed in range(callers)]
        with rank_of(model, kind) as rank:
            try:
                for _ in range(5):
                    start = time.perf_counter()
                    found = rank(QUERY, MANY, deadline_ms=1000 * deadline_s)
                    took.append(time.perf_counter() - start)
                    scored.append(found.scored)
            finally:
                stop.set()
        for future in loads:
            future.result()
    assert statistics.median(took) <= 1.1 * deadline_s + 0.02 + SLACK_S, took
    assert all(0 < count < len(MANY) for count in scored), scored


@both
def test_a_batch_that_is_too_long_is_not_waited_for(folder: Path, kind: str) -> None:
    model, session = open_model(folder, LANES)
    session.gate.clear()
    try:
        with rank_of(model, kind) as rank:
            start = time.perf_counter()
            found = rank(QUERY, MANY, deadline_ms=100)
            took = time.perf_counter() - start
            session.gate.set()
    finally:
        session.gate.set()
    assert took < 0.11 + 2 * SLACK_S
    assert (found.complete, found.scored, found.reason) == (False, 0, "the deadline of 100 ms came first")
    assert found.tokens == 0
    assert [entry["corpus_id"] for entry in found] == list(range(len(MANY)))
    assert model.rank(QUERY, MANY[:3]).complete


def test_threads_that_others_keep_busy_are_not_waited_for(folder: Path) -> None:
    model, _ = open_model(folder, LANES)
    other, free = AsyncCrossEncoder(model), threading.Event()

    async def main() -> None:
        busy = [other._in_thread(free.wait) for _ in range(20)]
        start = time.perf_counter()
        found = await other.rank(QUERY, MANY, deadline_ms=100)
        assert time.perf_counter() - start < 0.11 + SLACK_S
        assert (found.scored, found.complete) == (0, False)
        free.set()
        await asyncio.gather(*busy)
        assert (await other.rank(QUERY, MANY[:3], deadline_ms=60_000)).complete

    asyncio.run(main())
    assert (model.stats().waiting_requests, model.stats().late) == (0, 1)


@both
def test_a_deadline_below_what_one_document_costs_is_answered_at_once(folder: Path, kind: str) -> None:
    model, session = open_model(folder, LANES)
    backend = model._scorer.backend
    assert isinstance(backend, CpuBackend)
    learned = backend.learned
    assert learned is not None
    learned.known = Costs(0.5, 0.0, 0.0, 512, "", "")
    with rank_of(model, kind) as rank:
        found = rank(QUERY, MANY, deadline_ms=200)
    assert (found.complete, found.scored) == (False, 0)
    assert found.reason is not None
    assert found.reason.startswith("deadline_ms=200: ")
    assert found.reason.endswith(" ms were left for it, and one short document takes 500 ms")
    assert (session.batches, model.stats().tokens, model.stats().tokenizing_s) == ([], 0, 0)


def test_documents_like_scored_ones_count(folder: Path, plain: Ranking) -> None:
    model, session = slow_model(folder, 0.02)
    found = model.rank(QUERY, MANY[:1] * 5_000, deadline_ms=30_000)
    assert (found.complete, found.scored, sum(session.batches)) == (True, 5_000, 1)


def test_a_document_counts_when_all_of_its_windows_do(folder: Path) -> None:
    documents = [text * 20 for text in MANY[:40]]
    expected = CrossEncoder(folder, device="cpu", threads=1, activation_fn="identity").rank(
        "sea", documents, max_windows=6
    )
    model, _ = slow_model(folder, 0.03)
    found = model.rank("sea", documents, max_windows=6, deadline_ms=300)
    assert 0 < found.scored < len(documents)
    assert_ranked_as_far_as_it_came(found, expected, len(documents))
    windows = {entry["corpus_id"]: entry["window"] for entry in expected}
    assert all(windows[entry["corpus_id"]] == entry["window"] for entry in found[: found.scored])
    assert set(found.truncated) <= set(expected.truncated)


@both
def test_a_model_that_closes_meanwhile_leaves_what_was_scored(folder: Path, plain: Ranking, kind: str) -> None:
    model, session = slow_model(folder, 0.0)
    run, closers = session.run, [threading.Thread(target=model.close)]

    def closing(batch: PackedPairs) -> NDArray[np.float32]:
        if closers:
            closers.pop().start()
            time.sleep(0.2)
        return run(batch)

    session.run = closing  # type: ignore[method-assign]
    with rank_of(model, kind) as rank:
        found = rank(QUERY, MANY, deadline_ms=60_000)
    assert 0 < found.scored < len(MANY)
    assert found.reason == "the model is closed: it takes no more requests; load it again"
    assert_ranked_as_far_as_it_came(found, plain, len(MANY))


def endless() -> Iterator[str]:
    for i in count():
        yield MANY[i % len(MANY)]


def trickling() -> Iterator[str]:
    for text in endless():
        time.sleep(0.02)
        yield text


class Lazy(Sequence[str]):
    """A sequence that fetches its texts, as from a database."""

    def __init__(self, number: int, seconds: float) -> None:
        self.number, self.seconds = number, seconds

    def __len__(self) -> int:
        return self.number

    def __getitem__(self, i: Any) -> Any:
        if i >= self.number:
            raise IndexError(i)
        time.sleep(self.seconds)
        return MANY[i % len(MANY)]


class LazyList(list[str]):
    """A list that does so."""

    def __iter__(self) -> Iterator[str]:
        return iter(Lazy(100, 0.02))


@both
@pytest.mark.parametrize("source", [endless, trickling, lambda: Lazy(100, 0.02), LazyList])
def test_of_an_iterator_no_more_is_read_than_there_is_time_for(
    folder: Path, kind: str, source: Callable[[], Iterable[str]]
) -> None:
    model, _ = open_model(folder, LANES)
    with rank_of(model, kind) as rank:
        rank(QUERY, MANY)
        start = time.perf_counter()
        found = rank(QUERY, source(), deadline_ms=300, return_documents=True)
        took = time.perf_counter() - start
    assert took < 0.33 + SLACK_S
    assert 0 < found.scored <= len(found) <= 30_000
    assert all(entry["text"] == MANY[entry["corpus_id"] % len(MANY)] for entry in found)
    assert not found.complete
    assert found.reason == f"deadline_ms=300: of the documents {len(found)} were read in time, and no more"


def test_an_iterator_that_ends_in_time_is_read_whole(folder: Path, plain: Ranking) -> None:
    model, _ = open_model(folder, LANES)
    found = model.rank(QUERY, iter(MANY), deadline_ms=600_000)
    assert (found.complete, found.reason, len(found)) == (True, None, len(MANY))
    assert_ranked_as_far_as_it_came(found, plain, len(MANY))


@both
def test_windows_without_number_are_read_no_longer_than_there_is_time(folder: Path, kind: str) -> None:
    model, _ = open_model(folder, LANES)
    long = " ".join(MANY) * 1_000  # minutes of work
    options: dict[str, Any] = {"max_windows": 10**9, "window_overlap": 20}
    with rank_of(model, kind) as rank:
        rank("sea", MANY[:50], deadline_ms=60_000)
        start = time.perf_counter()
        first = rank("sea", [long, *MANY[:3]], deadline_ms=300, **options)
        last = rank("sea", [*MANY[:40], long], deadline_ms=300, **options)
        took = time.perf_counter() - start
    assert took < 0.66 + 2 * SLACK_S
    assert (first.scored, first.complete, first.reason) == (0, False, "the deadline of 300 ms came first")
    assert 0 < last.scored <= 40
    assert not last.complete
    assert model.stats().waiting_tokens == 0


def test_no_documents_are_complete(folder: Path) -> None:
    model, _ = open_model(folder)
    found = model.rank(QUERY, [], deadline_ms=1)
    assert (found, found.complete, found.scored) == ([], True, 0)


@both
def test_no_call_with_a_deadline_measures_what_batches_cost(folder: Path, kind: str, tmp_path: Path) -> None:
    model = CrossEncoder(folder, device="cpu", threads=1, cache_folder=tmp_path)
    backend = model._scorer.backend
    model._scorer.scheduler.meter.batch(1, 1, 1e6)  # enough to measure with the next call
    with rank_of(model, kind) as rank:
        rank(QUERY, MANY[:3], deadline_ms=60_000)
    assert backend.costs is None
    model.warm_up()
    assert backend.costs is not None


@pytest.mark.parametrize("value", [0, -1, True, "5", float("nan"), float("inf"), 10**400])
def test_a_deadline_that_is_no_time_is_refused(folder: Path, value: Any) -> None:
    model, _ = open_model(folder)
    with pytest.raises(InputError, match=r"deadline_ms=.*: milliseconds, a number above 0 and up to"):
        model.rank(QUERY, MANY, deadline_ms=value)


class Clock:
    """A clock that is moved by hand."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def steps(deadline: Deadline, clock: Clock, per_s: Callable[[float], float], costs: Costs | None) -> list[int]:
    """Documents of each step, where so many are scored per second at a time."""
    found: list[int] = []
    while count := deadline.next_documents(sum(found), LANES, costs):
        found.append(count)
        clock.now += count / per_s(clock.now)
    return found


def test_steps_take_half_of_the_time_that_is_left() -> None:
    clock = Clock()
    found = steps(Deadline(1000, clock=clock), clock, lambda now: 400.0, None)
    assert found[0] == 2 * LANES  # nothing is known
    np.testing.assert_allclose(found[1:4], [396 / 2, 396 / 4, 396 / 8], atol=1)
    assert 380 <= sum(found) <= 400
    assert clock.now <= 101.0 + 1e-6


def test_the_first_step_follows_known_costs() -> None:
    clock = Clock()
    costs = Costs(0.0, 1e-5, 0.0, 512, "", "")
    # A quarter of 200 ms on two lanes, 1.28 ms a document.
    assert steps(Deadline(200, clock=clock), clock, lambda now: 1500.0, costs)[0] == 78


@pytest.mark.parametrize("slower", [1, 3, 10])
def test_a_machine_that_slows_down_is_noticed(slower: float) -> None:
    clock = Clock()
    deadline = Deadline(1000, clock=clock)
    found = steps(deadline, clock, lambda now: 400.0 if now < 100.3 else 400.0 / slower, None)
    # One step is planned with the old rate: for half of the time that is left, here a quarter of all.
    assert clock.now - 100.0 <= max(1.0, 0.5 + slower * 0.25) + 1e-6
    assert sum(found) > 100


def test_time_that_is_over_ends_a_call() -> None:
    clock = Clock()
    deadline = Deadline(50, clock=clock)
    clock.now += 0.051
    assert deadline.next_documents(0, LANES, None) == 0
    assert deadline.reason == "deadline_ms=50: no time was left for documents before one was read"
    deadline = Deadline(50, clock=clock)
    assert deadline.next_documents(0, LANES, None) > 0
    clock.now += 0.06
    assert deadline.next_documents(4, LANES, None) == 0
    assert deadline.reason == "the deadline of 50 ms came first"
    assert deadline.left_s() < 0


def test_of_an_iterator_no_more_is_read_than_could_be_scored_and_of_a_sequence_all() -> None:
    for documents, read in ((iter(range(500)), 200), (range(500), 500)):
        deadline = Deadline(2, clock=Clock())
        assert len(list(deadline.read(documents))) == read
        assert (deadline.unread is None) == (read == 500)


def test_a_deadline_stops_sooner_by_what_answers_took_of_late() -> None:
    clock, lateness = Clock(), Lateness()

    def stop(deadline_ms: float, answered_s: float) -> float:
        deadline, start = Deadline(deadline_ms, lateness, clock), clock()
        clock.now = deadline.stop_at + answered_s
        deadline.answered()
        return round(deadline.stop_at - start, 6)

    assert stop(100, 0.008) == 0.1
    assert stop(100, 0.001) == 0.092
    assert stop(100, -0.05) == pytest.approx(0.1 - 0.98 * 0.008)  # in time: nothing is learnt
    assert stop(100, 0.5) == pytest.approx(0.1 - 0.98 * 0.008)
    assert stop(200, 0.0) == 0.18  # one call teaches 20 ms at most
    assert stop(50, 0.0) == 0.04  # never more than a fifth


def test_a_call_whose_time_was_up_teaches_the_next_ones(folder: Path) -> None:
    model, _ = slow_model(folder, 0.3)  # so that time is up during a batch
    assert not model.rank(QUERY, MANY, deadline_ms=30).complete
    assert 0 < model._calls.lateness.reserve_s(1.0) <= 0.02
