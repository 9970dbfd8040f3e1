"""`AsyncCrossEncoder`: the same results as `CrossEncoder`, an event loop that stays free, cancelling, closing."""

import asyncio
import random
import threading
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from crossrank import AsyncCrossEncoder, Closed, CrossEncoder, InputError, Overloaded
from crossrank._calls.run import Run
from tests.support.artifacts import make_artifact
from tests.support.callers import ATOL, DOCUMENTS, QUERY, Faulty, eventually, open_model, texts

WAIT_S = 60


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_artifact(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def sync_model(folder: Path) -> CrossEncoder:
    return CrossEncoder(folder, device="cpu", threads=1, activation_fn="identity")


def run(work: Callable[[AsyncCrossEncoder, Faulty], Coroutine[Any, Any, None]], folder: Path, **options: Any) -> None:
    """Run something on a model in an event loop of its own; whatever hangs fails."""

    async def main() -> None:
        model, session = open_model(folder, **options)
        await asyncio.wait_for(work(AsyncCrossEncoder(model), session), WAIT_S)

    asyncio.run(main())


@pytest.mark.parametrize("threads", [1, 2])
def test_results_are_those_of_the_synchronous_class(folder: Path, sync_model: CrossEncoder, threads: int) -> None:
    async def work(model: AsyncCrossEncoder, session: Faulty) -> None:
        pairs = [(QUERY, document) for document in DOCUMENTS]
        for count in (0, 1, 7, 60):
            scores = await model.score(QUERY, DOCUMENTS[:count])
            np.testing.assert_allclose(scores, sync_model.score(QUERY, DOCUMENTS[:count]), atol=ATOL)
        ranking = await model.rank(QUERY, DOCUMENTS, 5, True, batch_size=3, activation_fn="sigmoid")
        expected = sync_model.rank(QUERY, DOCUMENTS, 5, True, batch_size=3, activation_fn="sigmoid")
        assert [entry["text"] for entry in ranking] == [entry["text"] for entry in expected]
        assert max(session.batches) > 3  # of the calls before
        np.testing.assert_allclose(await model.predict(pairs), sync_model.predict(pairs), atol=ATOL)
        one = await model.predict(pairs[0])
        assert abs(one - sync_model.predict(pairs[0])) <= ATOL
        encoded = model.model.encode(DOCUMENTS)
        np.testing.assert_allclose(await model.score(QUERY, encoded), sync_model.score(QUERY, DOCUMENTS), atol=ATOL)

    run(work, folder, threads=threads)


def test_more_documents_than_a_window_holds(folder: Path, sync_model: CrossEncoder) -> None:
    async def work(model: AsyncCrossEncoder, session: Faulty) -> None:
        documents = texts(5_000, 2)
        scores = await model.score(QUERY, documents)
        np.testing.assert_allclose(scores[::100], sync_model.score(QUERY, documents[::100]), atol=ATOL)

    run(work, folder)


def test_many_tasks_and_threads_share_one_model(folder: Path, sync_model: CrossEncoder) -> None:
    expected = dict(zip(DOCUMENTS, sync_model.score(QUERY, DOCUMENTS), strict=True))

    async def work(model: AsyncCrossEncoder, session: Faulty) -> None:
        rng = random.Random(0)
        calls = [rng.choices(DOCUMENTS, k=rng.choice([1, 2, 10, 60])) for _ in range(200)]
        other = asyncio.to_thread(lambda: [model.model.score(QUERY, call) for call in calls[:50]])
        found, in_thread = await asyncio.gather(asyncio.gather(*(model.score(QUERY, call) for call in calls)), other)
        for call, scores in zip([*calls, *calls[:50]], [*found, *in_thread], strict=True):
            np.testing.assert_allclose(scores, [expected[document] for document in call], atol=ATOL)

    run(work, folder)


def test_the_loop_is_free_while_the_model_runs(folder: Path) -> None:
    async def work(model: AsyncCrossEncoder, session: Faulty) -> None:
        session.gate.clear()
        call = asyncio.ensure_future(model.score(QUERY, DOCUMENTS))
        await asyncio.to_thread(session.entered.acquire, timeout=WAIT_S)
        await asyncio.sleep(0.05)
        assert not call.done()
        session.gate.set()
        assert len(await call) == 60

    run(work, folder)


def test_a_cancelled_call_frees_its_place(folder: Path) -> None:
    async def work(model: AsyncCrossEncoder, session: Faulty) -> None:
        session.gate.clear()
        calls = [asyncio.ensure_future(model.score(QUERY, texts(500, i))) for i in range(4)]
        while model.stats().waiting_requests < 4:
            await asyncio.sleep(0.01)
        before = model.stats().waiting_tokens
        for call in calls[:3]:
            call.cancel()
        found = await asyncio.gather(*calls[:3], return_exceptions=True)
        assert all(isinstance(error, asyncio.CancelledError) for error in found)
        stats = model.stats()
        assert (stats.waiting_requests, stats.cancelled) == (1, 3)
        assert stats.waiting_tokens < before / 2
        session.gate.set()
        assert len(await calls[3]) == 500
        assert (model.stats().waiting_requests, model.stats().waiting_tokens) == (0, 0)

    run(work, folder)


def test_a_call_that_takes_too_long_can_be_given_up(folder: Path) -> None:
    async def work(model: AsyncCrossEncoder, session: Faulty) -> None:
        session.gate.clear()
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(model.score(QUERY, DOCUMENTS), 0.1)
        session.gate.set()
        assert len(await model.score(QUERY, DOCUMENTS)) == 60

    run(work, folder)


def test_an_error_comes_to_its_caller_and_the_next_call_works(folder: Path) -> None:
    async def work(model: AsyncCrossEncoder, session: Faulty) -> None:
        session.fails = lambda batch: True
        for documents in (DOCUMENTS, DOCUMENTS[:1]):
            with pytest.raises(ValueError, match="broken"):
                await model.score(QUERY, documents)
        session.fails = lambda batch: False
        with pytest.raises(InputError, match="document 1 is int"):
            await model.score(QUERY, ["sea", 3])  # type: ignore[list-item]
        assert len(await model.score(QUERY, DOCUMENTS)) == 60

    run(work, folder)


def test_a_full_queue_refuses(folder: Path) -> None:
    async def work(model: AsyncCrossEncoder, session: Faulty) -> None:
        session.gate.clear()
        call = asyncio.ensure_future(model.score(QUERY, DOCUMENTS))
        await asyncio.to_thread(session.entered.acquire, timeout=WAIT_S)
        with pytest.raises(Overloaded):
            await model.score(QUERY, DOCUMENTS)
        session.gate.set()
        await call

    run(work, folder, max_queue_tokens=300)


def test_a_full_queue_refuses_without_a_thread(folder: Path) -> None:
    async def work(model: AsyncCrossEncoder, session: Faulty) -> None:
        assert len(await model.score(QUERY, DOCUMENTS)) == 60  # so that tokens per character are known
        session.gate.clear()
        call = asyncio.ensure_future(model.score(QUERY, DOCUMENTS))
        assert await asyncio.to_thread(eventually, lambda: model.stats().waiting_tokens > 0)
        before = set(threading.enumerate())
        refused = model.score(QUERY, DOCUMENTS)
        with pytest.raises(Overloaded):
            refused.send(None)  # at its first step, which awaits nothing
        assert set(threading.enumerate()) == before
        assert (await model.rank(QUERY, [], deadline_ms=1000)).complete  # it needs no room
        session.gate.set()
        assert len(await call) == 60
        assert model.stats().rejected == 1

    run(work, folder, max_queue_tokens=300)


def test_what_waits_for_a_thread_counts_and_is_not_refused_once_it_was_let_in(folder: Path) -> None:
    async def work(model: AsyncCrossEncoder, session: Faulty) -> None:
        assert len(await model.score(QUERY, DOCUMENTS)) == 60  # so that tokens per character are known
        free = threading.Event()
        busy = [model._in_thread(free.wait) for _ in range(20)]
        calls = [asyncio.ensure_future(model.score(QUERY, DOCUMENTS)) for _ in range(4)]
        await asyncio.sleep(0)  # their first steps: room for two of them
        waiting = model.stats().waiting_tokens
        assert 0 < waiting <= 4000
        assert [call.done() for call in calls] == [False, False, True, True]
        session.gate.clear()
        free.set()
        await asyncio.gather(*busy)
        session.gate.set()
        ended = await asyncio.gather(*calls, return_exceptions=True)
        assert [type(result).__name__ for result in ended] == ["ndarray", "ndarray", "Overloaded", "Overloaded"]
        calls = [asyncio.ensure_future(model.score(QUERY, DOCUMENTS))]
        calls[0].cancel()
        await asyncio.wait(calls)
        assert model.stats().waiting_tokens == 0

    run(work, folder, max_queue_tokens=4000)


def test_an_exception_right_behind_the_place_that_was_taken_gives_it_back(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    take_place = Run.take_place

    def interrupted(run: Run, documents: Sequence[object]) -> None:
        take_place(run, documents)
        assert run in run._scheduler.queue.reserved
        raise TimeoutError("as a signal handler does")

    async def work(model: AsyncCrossEncoder, session: Faulty) -> None:
        assert len(await model.score(QUERY, DOCUMENTS)) == 60  # so that tokens per character are known
        with monkeypatch.context() as patch:
            patch.setattr(Run, "take_place", interrupted)
            with pytest.raises(TimeoutError):
                await model.score(QUERY, DOCUMENTS)
        assert not model.model._scorer.scheduler.queue.reserved
        assert model.stats().waiting_tokens == 0

    run(work, folder, max_queue_tokens=4000)


def test_leaving_the_block_finishes_what_waits(folder: Path, sync_model: CrossEncoder) -> None:
    async def main() -> None:
        async with AsyncCrossEncoder(folder, device="cpu", threads=2, activation_fn="identity") as model:
            calls = [asyncio.ensure_future(model.score(QUERY, DOCUMENTS)) for _ in range(5)]
            while model.stats().waiting_requests + model.stats().requests < 5:
                await asyncio.sleep(0)
        for call in calls:
            np.testing.assert_allclose(await call, sync_model.score(QUERY, DOCUMENTS), atol=ATOL)
        with pytest.raises(Closed):
            await model.score(QUERY, DOCUMENTS)

    asyncio.run(main())


def test_leaving_the_block_by_an_error_fails_what_waits(folder: Path) -> None:
    async def work(model: AsyncCrossEncoder, session: Faulty) -> None:
        session.gate.clear()
        calls = [asyncio.ensure_future(model.score(QUERY, DOCUMENTS)) for _ in range(5)]
        while model.stats().waiting_requests < 5:
            await asyncio.sleep(0.01)

        async def leave() -> None:
            async with model:
                raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            await leave()
        session.gate.set()
        found = await asyncio.gather(*calls, return_exceptions=True)
        assert all(isinstance(error, Closed) for error in found), found

    run(work, folder)


def test_options_belong_to_the_model_that_was_loaded(folder: Path, sync_model: CrossEncoder) -> None:
    with pytest.raises(InputError, match="threads: the CrossEncoder that was passed has its options already"):
        AsyncCrossEncoder(sync_model, threads=2)
    with pytest.raises(TypeError, match="thread_count"):
        AsyncCrossEncoder(folder, thread_count=2)


async def storm(model: AsyncCrossEncoder, session: Faulty, expected: dict[str, np.float32], documents: int) -> None:
    """Tasks with random sizes, faults, cancels and time limits; at the end the model is closed under them."""
    rng = random.Random(1)
    lock = threading.Lock()

    def fails(batch: object) -> bool:
        with lock:
            return rng.random() < 0.01

    session.fails = fails
    left, seen = documents, 0

    async def caller(seed: int) -> None:
        nonlocal left, seen
        own = random.Random(seed)
        while left > -documents // 10:
            chosen = own.choices(DOCUMENTS, k=own.choice([1, 1, 3, 10, 10, 60]))
            left -= len(chosen)
            call = asyncio.ensure_future(model.score(QUERY, chosen))
            fate = own.random()
            try:
                if fate < 0.1:
                    await asyncio.sleep(own.random() * 0.02)
                    call.cancel()
                scores = await (asyncio.wait_for(call, own.random() * 0.05) if fate > 0.9 else call)
            except (ValueError, Overloaded, Closed, TimeoutError, asyncio.CancelledError):
                pass
            else:
                np.testing.assert_allclose(scores, [expected[document] for document in chosen], atol=ATOL)
            seen += 1

    callers = [asyncio.ensure_future(caller(seed)) for seed in range(24)]
    while left > 0:
        await asyncio.sleep(0.01)
    await model.close(finish=False)
    await asyncio.gather(*callers)
    stats = model.stats()
    assert (stats.waiting_requests, stats.waiting_tokens) == (0, 0)
    assert stats.requests == seen


@pytest.mark.parametrize("documents", [4_000, pytest.param(200_000, marks=pytest.mark.slow)])
def test_no_answer_is_wrong_lost_or_hung(folder: Path, sync_model: CrossEncoder, documents: int) -> None:
    expected = dict(zip(DOCUMENTS, sync_model.score(QUERY, DOCUMENTS), strict=True))

    async def main() -> None:
        model, session = open_model(folder, max_queue_tokens=20_000)
        await asyncio.wait_for(storm(AsyncCrossEncoder(model), session, expected, documents), 10 * WAIT_S)

    asyncio.run(main())


def test_threads_end_with_the_model(folder: Path) -> None:
    before = set(threading.enumerate())

    async def main() -> None:
        async with AsyncCrossEncoder(folder, device="cpu", threads=2) as model:
            await model.score(QUERY, DOCUMENTS)

    asyncio.run(main())
    assert eventually(lambda: set(threading.enumerate()) <= before), set(threading.enumerate()) - before
