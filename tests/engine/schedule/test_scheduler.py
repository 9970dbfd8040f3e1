"""Many callers of one model: each gets its own scores once, whatever others do; errors, closing, counts, fairness."""

import logging
import os
import random
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from crossrank import CallRecord, Closed, CrossEncoder, CrossrankError, Overloaded
from crossrank._text.pairs import PackedPairs
from crossrank._text.tokens import Tokens
from tests.support.artifacts import make_artifact
from tests.support.callers import ATOL, DOCUMENTS, QUERY, WAIT_S, WORDS, eventually, open_model, texts
from tests.support.rankings import scores_of


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_artifact(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def expected(folder: Path) -> dict[str, np.float32]:
    """The score of each document, computed one by one."""
    model = CrossEncoder(folder, device="cpu", threads=1, activation_fn="identity")
    return {document: model.score(QUERY, [document])[0] for document in DOCUMENTS}


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(16) as pool:
        yield pool


def wait_for(model: CrossEncoder, requests: int) -> None:
    assert eventually(lambda: model.stats().waiting_requests == requests)


@pytest.mark.parametrize("threads", [1, 2, 4])
def test_callers_of_all_sizes_get_their_own_scores(
    folder: Path, expected: dict[str, np.float32], pool: ThreadPoolExecutor, threads: int
) -> None:
    model, _ = open_model(folder, threads)
    rng = random.Random(threads)
    calls = [rng.choices(DOCUMENTS, k=rng.choice([0, 1, 2, 10, 60])) for _ in range(150)]
    for documents, scores in zip(calls, pool.map(lambda call: model.score(QUERY, call), calls), strict=True):
        np.testing.assert_allclose(scores, [expected[document] for document in documents], atol=ATOL)
    stats = model.stats()
    assert (stats.requests, stats.documents) == (150, sum(map(len, calls)))
    assert (stats.waiting_requests, stats.waiting_tokens) == (0, 0)


def test_waiting_calls_join_into_batches(folder: Path, pool: ThreadPoolExecutor) -> None:
    model, session = open_model(folder, threads=1)
    session.gate.clear()
    calls = [pool.submit(model.score, QUERY, [f"sea {word}", "the sea is calm"]) for word in WORDS[:12]]
    wait_for(model, 12)
    session.gate.set()
    for call in calls:
        call.result(timeout=WAIT_S)
    assert max(session.batches) > 5  # alone, a call of theirs has batches of one pair of a length


def test_a_list_that_its_caller_changes_meanwhile_is_scored_as_it_was(
    folder: Path, expected: dict[str, np.float32], pool: ThreadPoolExecutor
) -> None:
    model, session = open_model(folder, threads=1)
    documents = DOCUMENTS * 100  # more than are read at once
    session.gate.clear()
    scores = pool.submit(model.score, QUERY, documents)
    assert session.entered.acquire(timeout=WAIT_S)
    before = documents.copy()
    documents.reverse()
    session.gate.set()
    np.testing.assert_allclose(scores.result(WAIT_S), [expected[document] for document in before], atol=ATOL)
    session.gate.clear()
    before = documents.copy()
    ranking = pool.submit(model.rank, QUERY, documents, return_documents=True)
    assert session.entered.acquire(timeout=WAIT_S)
    wait_for(model, 1)
    documents.clear()
    session.gate.set()
    assert all(entry["text"] == before[entry["corpus_id"]] for entry in ranking.result(WAIT_S))


def test_a_pair_that_is_there_twice_is_computed_once(folder: Path, expected: dict[str, np.float32]) -> None:
    model, session = open_model(folder)
    documents = DOCUMENTS[:7] * 5 + DOCUMENTS[3:9]
    scores = model.score(QUERY, documents)
    np.testing.assert_allclose(scores, [expected[document] for document in documents], atol=ATOL)
    assert sum(session.batches) == 9
    encoded = model.encode(documents)
    session.batches.clear()
    np.testing.assert_allclose(model.score(QUERY, encoded), scores, atol=ATOL)
    assert sum(session.batches) == 9
    # Of another query it is another pair.
    session.batches.clear()
    model.predict([(QUERY, DOCUMENTS[0]), ("sea", DOCUMENTS[0]), (QUERY, DOCUMENTS[0])])
    assert sum(session.batches) == 2


def test_a_pair_is_found_again_thousands_of_documents_later(folder: Path) -> None:
    model, session = open_model(folder)
    few = texts(50, 1)
    scores = model.score(QUERY, few * 100)
    assert sum(session.batches) == len(set(few))
    np.testing.assert_array_equal(scores, np.tile(scores[:50], 100))


def test_a_batch_that_fails_fails_its_own_call_only(
    folder: Path, expected: dict[str, np.float32], pool: ThreadPoolExecutor
) -> None:
    model, session = open_model(folder)
    bad = "violin ☃"
    found: list[NDArray[np.int32]] = []
    run = session.run

    def note(batch: PackedPairs) -> NDArray[np.float32]:
        found.append(batch.ids)
        return run(batch)

    session.run = note  # type: ignore[method-assign]
    model.score(QUERY, [bad])
    (ids,) = found

    def holds_bad(batch: PackedPairs) -> bool:
        return any(np.array_equal(part, ids) for part in np.split(batch.ids, np.cumsum(batch.lengths)[:-1]))

    session.fails = holds_bad
    session.gate.clear()
    good = [pool.submit(model.score, QUERY, DOCUMENTS) for _ in range(6)]
    failing = [pool.submit(model.score, QUERY, [*DOCUMENTS[:5], bad]) for _ in range(3)]
    wait_for(model, 9)
    session.gate.set()
    for call in good:
        np.testing.assert_allclose(call.result(WAIT_S), [expected[document] for document in DOCUMENTS], atol=ATOL)
    for call in failing:
        with pytest.raises(ValueError, match="broken"):
            call.result(WAIT_S)
    np.testing.assert_allclose(model.score(QUERY, DOCUMENTS[:1]), expected[DOCUMENTS[0]], atol=ATOL)
    assert model.stats().failed == 3


def test_nan_is_one_documents_and_is_counted_without_its_text(
    folder: Path, expected: dict[str, np.float32], caplog: pytest.LogCaptureFixture
) -> None:
    model, session = open_model(folder)

    def spoil(batch: PackedPairs) -> NDArray[np.bool_]:
        first = np.zeros(len(batch.lengths), bool)
        first[0] = batch.lengths[0] > 40
        return first

    session.spoils = spoil
    with caplog.at_level(logging.DEBUG, logger="crossrank"):
        scores = model.score(QUERY, DOCUMENTS)
    bad = np.isnan(scores)
    assert 0 < bad.sum() < len(DOCUMENTS)
    good = [i for i in range(len(DOCUMENTS)) if not bad[i]]
    np.testing.assert_allclose(scores[good], [expected[DOCUMENTS[i]] for i in good], atol=ATOL)
    assert model.stats().without_score == bad.sum()
    (warning,) = [record for record in caplog.records if "NaN" in record.message]
    assert warning.getMessage() == (
        f"the model gives NaN for {bad.sum()} of 60 documents, first for {np.flatnonzero(bad)[0]}"
    )
    texts_of_the_call = [QUERY, *(document for document in DOCUMENTS if len(document) > 10)]
    assert not any(text in message for text in texts_of_the_call for message in caplog.messages)
    ranking = model.rank(QUERY, DOCUMENTS)
    assert np.isnan(scores_of(ranking[-int(bad.sum()) :])).all()


def test_a_full_queue_refuses_and_takes_again(folder: Path, pool: ThreadPoolExecutor) -> None:
    model, session = open_model(folder, max_queue_tokens=200)
    session.gate.clear()
    first = pool.submit(model.score, QUERY, DOCUMENTS)  # larger than the bound, and taken: nothing waits
    assert session.entered.acquire(timeout=WAIT_S)
    with pytest.raises(Overloaded, match=r"of 200 tokens wait already and this request has [\d,]+ more") as caught:
        model.score(QUERY, DOCUMENTS[:10])
    assert caught.value.waiting_tokens > 200
    session.gate.set()
    first.result(timeout=WAIT_S)
    model.score(QUERY, DOCUMENTS)
    assert model.stats().rejected == 1


def test_room_is_held_while_texts_are_tokenized_and_a_full_queue_tokenizes_none(
    folder: Path, pool: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, session = open_model(folder, max_queue_tokens=200)
    held: list[int] = []
    read: list[str] = []
    tokenizer = model._scorer.tokenizer
    encode = tokenizer.encode

    def watched(texts: Sequence[str], what: str, **options: Any) -> Tokens:
        read.append(what)
        if what == "document":
            held.append(model.stats().waiting_tokens)
        return encode(texts, what, **options)

    monkeypatch.setattr(tokenizer, "encode", watched)
    for _ in range(2):
        model.score(QUERY, DOCUMENTS[:10])
    assert held[0] == 0  # nothing was known of texts yet
    assert held[1] > 0
    session.gate.clear()
    first = pool.submit(model.score, QUERY, DOCUMENTS)
    assert session.entered.acquire(timeout=WAIT_S)
    wait_for(model, 1)
    count = len(read)
    with pytest.raises(Overloaded):
        model.score(QUERY, DOCUMENTS[:10])
    assert len(read) == count  # not even the query
    session.gate.set()
    first.result(timeout=WAIT_S)
    assert model.stats().waiting_tokens == 0


@pytest.mark.parametrize("finish", [True, False])
def test_closing_finishes_or_fails_what_waits(
    folder: Path, expected: dict[str, np.float32], pool: ThreadPoolExecutor, finish: bool
) -> None:
    model, session = open_model(folder)
    session.gate.clear()
    calls = [pool.submit(model.score, QUERY, DOCUMENTS) for _ in range(5)]
    wait_for(model, 5)
    closing = pool.submit(model.close, finish=finish)
    if finish:
        assert eventually(lambda: model._scorer.scheduler.queue.closed)
        assert not closing.done()
    else:
        closing.result(timeout=WAIT_S)  # it does not wait for what is in the model
    session.gate.set()
    closing.result(timeout=WAIT_S)
    for call in calls:
        if finish:
            np.testing.assert_allclose(call.result(WAIT_S), [expected[document] for document in DOCUMENTS], atol=ATOL)
        else:
            with pytest.raises(Closed, match="the model was closed while this request waited"):
                call.result(WAIT_S)
    with pytest.raises(Closed, match="the model is closed"):
        model.score(QUERY, DOCUMENTS)
    with pytest.raises(Closed, match="the model is closed"):
        model.score(QUERY, DOCUMENTS[:1])
    model.close()


def test_a_small_call_passes_a_large_one(folder: Path, pool: ThreadPoolExecutor) -> None:
    model, session = open_model(folder, threads=1)
    session.gate.clear()
    large = pool.submit(model.score, QUERY, texts(2000, 3))
    assert session.entered.acquire(timeout=WAIT_S)
    small = pool.submit(model.score, QUERY, DOCUMENTS[:5])
    wait_for(model, 2)
    session.gate.set()
    small.result(timeout=WAIT_S)
    assert not large.done()
    assert model.stats().waiting_tokens > 10_000
    large.result(timeout=WAIT_S)


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="no affinity on this system")
def test_the_pools_threads_stay_on_a_core_while_they_work_and_callers_threads_are_left_alone(
    folder: Path, pool: ThreadPoolExecutor
) -> None:
    allowed = os.sched_getaffinity(0)
    if len(allowed) < 2:
        pytest.skip("one core")
    model, session = open_model(folder, threads=len(allowed))
    model._scorer.scheduler.cores.long_s = 0.0
    seen: dict[bool, set[tuple[int, frozenset[int]]]] = {True: set(), False: set()}

    def look(batch: PackedPairs) -> bool:
        ours = threading.current_thread().name.startswith("crossrank")
        seen[ours].add((threading.get_native_id(), frozenset(os.sched_getaffinity(0))))
        return False

    session.fails = look
    for call in [pool.submit(model.score, QUERY, texts(200, seed)) for seed in range(16)]:
        call.result(timeout=WAIT_S)
    assert all(cores == allowed for _, cores in seen[False])
    assert any(len(cores) == 1 for _, cores in seen[True])
    assert eventually(lambda: all(os.sched_getaffinity(thread) == allowed for thread, _ in seen[True]))


def test_the_hook_gets_every_call_and_its_errors_are_only_logged(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    records: list[CallRecord] = []

    def on_call(record: CallRecord) -> None:
        records.append(record)
        raise ValueError("the hook's own")

    model, session = open_model(folder, on_call=on_call)
    assert len(model.score(QUERY, DOCUMENTS)) == 60
    session.fails = lambda batch: True
    with pytest.raises(ValueError, match="broken"):
        model.score(QUERY, DOCUMENTS[:3])
    model.close()
    with pytest.raises(Closed):
        model.score(QUERY, DOCUMENTS[:3])
    assert [(record.ending, record.documents) for record in records] == [("done", 60), ("failed", 3), ("rejected", 3)]
    assert records[0].tokens > 60
    assert 0 < records[0].tokenizing_s < records[0].seconds
    assert sum("on_call failed" in message for message in caplog.messages) == 3


def test_stats_add_up(folder: Path) -> None:
    model, _ = open_model(folder)
    model.score(QUERY, DOCUMENTS)
    stats = model.stats()
    assert stats.batches > 1
    assert 0 < stats.batch_fill <= 1
    assert stats.model_s > 0
    assert stats.tokenizing_s > 0
    assert stats.tokens > 60


def storm(folder: Path, expected: dict[str, np.float32], documents: int) -> None:
    """Calls of all sizes from many threads, with deadlines and faults; at the end the model is closed under them."""
    model, session = open_model(folder, max_queue_tokens=20_000)
    rng = random.Random(0)
    lock = threading.Lock()
    seen = {"done": 0, "late": 0, "failed": 0, "rejected": 0, "closed": 0}
    left = documents
    session.fails = lambda batch: rng.random() < 0.02

    def caller(seed: int) -> None:
        nonlocal left
        own = random.Random(seed)
        while True:
            count = own.choice([0, 1, 1, 3, 10, 10, 60])
            with lock:
                left -= count
                if left < -documents // 4:
                    return
            chosen = own.choices(DOCUMENTS, k=count)
            deadline_ms = own.choice([None, None, 0.1, 2, 20, 200])
            complete = True
            try:
                if deadline_ms is None:
                    found: dict[int, float | None] = dict(enumerate(model.score(QUERY, chosen)))
                else:
                    ranking = model.rank(QUERY, chosen, deadline_ms=deadline_ms)
                    complete = ranking.complete
                    found = {entry["corpus_id"]: entry["score"] for entry in ranking}
                    assert len(ranking) == count
                    assert ranking.scored == sum(score is not None for score in found.values())
            except Overloaded:
                ending = "rejected"
            except Closed:
                ending = "closed"
            except ValueError:
                ending = "failed"
            else:
                assert found.keys() == set(range(count))
                assert complete == (None not in found.values())
                scored = {i: score for i, score in found.items() if score is not None}
                wanted = np.array([expected[chosen[i]] for i in scored])
                np.testing.assert_allclose(np.array(list(scored.values())), wanted, atol=ATOL)
                ending = "done" if complete else "late"
            with lock:
                seen[ending] += 1

    with ThreadPoolExecutor(12) as callers:
        futures = [callers.submit(caller, seed) for seed in range(12)]
        assert eventually(lambda: left < 0)
        model.close(finish=False)
        for future in futures:
            future.result(timeout=10 * WAIT_S)
    stats = model.stats()
    assert (stats.waiting_requests, stats.waiting_tokens) == (0, 0)
    assert stats.requests == sum(seen.values())
    assert stats.failed == seen["failed"]
    assert stats.late == seen["late"]
    assert stats.rejected == seen["rejected"] + seen["closed"]
    assert min(seen["done"], seen["late"]) > 0


def test_no_answer_is_wrong_or_lost_among_faults_and_a_close(folder: Path, expected: dict[str, np.float32]) -> None:
    storm(folder, expected, 4_000)


@pytest.mark.slow
def test_no_answer_is_wrong_or_lost_over_200_000_documents(folder: Path, expected: dict[str, np.float32]) -> None:
    storm(folder, expected, 200_000)


@pytest.mark.parametrize("bound", [0, -1, 1.5, "many", True])
def test_a_bound_that_is_no_number_of_tokens_is_refused(folder: Path, bound: object) -> None:
    with pytest.raises(CrossrankError, match=r"max_queue_tokens=.*a positive integer, or None"):
        open_model(folder, max_queue_tokens=bound)
