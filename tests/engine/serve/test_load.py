"""A server under load and beside faults: budgets, full queues, clients that go, models that fail, the end."""

import json
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Never

import pytest

pytest.importorskip("msgspec", reason="crossrank[serve] is not installed")

import httpx
import numpy as np

from crossrank import AsyncCrossEncoder, CrossEncoder
from crossrank.serve import _service, create_app
from tests.support.artifacts import make_artifact
from tests.support.callers import DOCUMENTS, QUERY, Faulty, eventually, open_model, texts
from tests.support.serving import raw, request_bytes, serving

BODY: dict[str, Any] = {"query": QUERY, "documents": DOCUMENTS[:4]}
MANY = 40


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_artifact(tmp_path_factory.mktemp("tiny"))


@pytest.fixture
def rig(folder: Path) -> Iterator[tuple[httpx.Client, CrossEncoder, Faulty]]:
    model, session = open_model(folder, threads=1, max_queue_tokens=1_000)
    with serving(create_app({"tiny": model})) as client:
        try:
            yield client, model, session
        finally:
            session.gate.set()


Rig = tuple[httpx.Client, CrossEncoder, Faulty]


def held(client: httpx.Client, session: Faulty, body: dict[str, Any]) -> socket.socket:
    """A request that is in the model, which waits at its gate."""
    while session.entered.acquire(blocking=False):
        pass
    session.gate.clear()
    connection = raw(client)
    connection.sendall(request_bytes("/v1/rerank", body))
    assert session.entered.acquire(timeout=60)
    return connection


def test_a_budget_gives_the_best_ranking_within_it(folder: Path) -> None:
    model = CrossEncoder(folder, device="cpu", threads=1)
    documents = texts(10_000, 1)
    with serving(create_app(model)) as client:
        start = time.perf_counter()
        answer = client.post(
            "/v1/rerank", json={"query": QUERY, "documents": documents}, headers={"X-Rerank-Budget-Ms": "60"}
        )
        took_ms = 1000 * (time.perf_counter() - start)
        scored, of = map(int, answer.headers["x-rerank-scored"].split("/"))
        assert answer.headers["x-rerank-status"] == "partial"
        assert 0 <= scored < of == 10_000
        results = answer.json()["results"]
        left = [result["index"] for result in results[scored:]]
        assert left == sorted(left)
        assert {result["relevance_score"] for result in results[scored:]} == {0.0}
        assert any("are scored: " in warning for warning in answer.json()["meta"]["warnings"])
        assert took_ms < 1000  # a busy machine; alone some 70, reading 10,000 documents among them
        whole = client.post("/v1/rerank", json=BODY, headers={"X-Rerank-Budget-Ms": "60000"})
        assert (whole.headers["x-rerank-status"], whole.headers["x-rerank-scored"]) == ("complete", "4/4")
        logits = client.post(
            "/rerank",
            json={"query": QUERY, "texts": documents, "raw_scores": True},
            headers={"X-Rerank-Budget-Ms": "60"},
        )
        assert logits.json()[-1] == {"index": 9_999, "score": -1000.0}


def test_a_budget_of_the_server_holds_for_who_brings_none(folder: Path) -> None:
    app = create_app(CrossEncoder(folder, device="cpu", threads=1), default_budget_ms=1)
    with serving(app) as client:
        body = {"query": QUERY, "documents": texts(5_000, 1)}
        assert client.post("/v1/rerank", json=body).headers["x-rerank-status"] == "partial"
        longer = client.post("/v1/rerank", json=BODY, headers={"X-Rerank-Budget-Ms": "60000"})
        assert longer.headers["x-rerank-status"] == "complete"


@pytest.mark.parametrize("budget", [{}, {"X-Rerank-Budget-Ms": "1000"}], ids=["without", "with_budget"])
def test_a_full_queue_refuses_at_once_and_serves_whom_it_took(rig: Rig, budget: dict[str, str]) -> None:
    client, _, session = rig
    first = held(client, session, BODY)
    with ThreadPoolExecutor(MANY) as pool:
        waiting = [pool.submit(client.post, "/v1/rerank", json=BODY) for _ in range(MANY)]
        assert eventually(lambda: sum(future.done() for future in waiting) > MANY // 2)  # refused, others wait
        took = []
        for _ in range(10):
            start = time.perf_counter()
            answer = client.post("/rerank", json={"query": QUERY, "texts": DOCUMENTS}, headers=budget)
            took.append(time.perf_counter() - start)
            assert (answer.status_code, answer.json()["error_type"]) == (429, "Overloaded")
            assert 1 <= int(answer.headers["retry-after"]) <= 60
        session.gate.set()
        statuses = [future.result().status_code for future in waiting]
    assert min(took) < 0.01
    assert set(statuses) == {200, 429}
    assert b" 200 OK" in first.recv(65_536)
    first.close()


def test_a_refused_request_was_not_computed_in_part(rig: Rig) -> None:
    client, model, session = rig
    first = held(client, session, BODY)
    second = raw(client)
    second.sendall(request_bytes("/v1/rerank", {"query": QUERY, "documents": DOCUMENTS[:8]}))
    assert eventually(lambda: model.stats().waiting_requests == 2)
    before = session.pairs, len(session.batches)
    answer = client.post("/rerank", json={"query": QUERY, "texts": DOCUMENTS})
    assert answer.status_code == 429
    assert (session.pairs, len(session.batches)) == before
    session.gate.set()
    for connection in (first, second):
        assert b" 200 OK" in connection.recv(65_536)
        connection.close()


def test_a_client_that_goes_away_frees_its_place(rig: Rig) -> None:
    client, model, session = rig
    first = held(client, session, BODY)
    before, second = model.stats().waiting_tokens, raw(client)
    second.sendall(request_bytes("/v1/rerank", {"query": QUERY, "documents": DOCUMENTS[:8]}))
    assert eventually(lambda: model.stats().waiting_tokens > before)
    second.close()
    assert eventually(lambda: model.stats().cancelled == 1)
    assert model.stats().waiting_tokens == before
    session.gate.set()
    assert b" 200 OK" in first.recv(65_536)
    first.close()
    assert 'outcome="cancelled"} 1.0' in client.get("/metrics").text


def test_a_forward_pass_that_raises_answers_its_request_and_the_next_works(rig: Rig) -> None:
    client, _, session = rig
    session.fails = lambda batch: True
    answer = client.post("/v1/rerank", json=BODY, headers={"X-Request-Id": "mine"})
    assert (answer.status_code, answer.json()["id"]) == (500, "mine")
    tei = client.post("/rerank", json={"query": QUERY, "texts": DOCUMENTS})
    assert (tei.status_code, tei.json()["error_type"]) == (424, "Backend")
    assert client.get("/ready").status_code == 503
    session.fails = lambda batch: False
    assert client.post("/v1/rerank", json=BODY).status_code == 200
    assert client.get("/ready").status_code == 200


def test_the_log_of_a_failure_says_what_and_where_and_no_message(
    rig: Rig, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    client, _, session = rig
    secret = "the secret of the sea"

    def fail(*_: object) -> Never:
        raise ValueError(secret)

    session.fails = fail
    assert client.post("/v1/rerank", json=BODY).status_code == 500
    assert client.get("/ready").status_code == 503
    monkeypatch.setattr(_service, "choose", fail)
    assert client.post("/v1/rerank", json=BODY).status_code == 500
    records = [record for record in caplog.records if record.name == "crossrank.serve"]
    told = [record.getMessage() for record in records]
    assert [text.partition(": ")[0] for text in told] == ["a model failed", "not ready", "a request failed"]
    for text in told:
        assert "ValueError" in text
        assert f"{__file__}:" in text
    assert secret not in caplog.text + "".join(str(vars(record)) for record in caplog.records)


def test_a_failure_that_came_of_itself_or_of_another_is_told() -> None:
    error = ValueError("a secret")
    error.__cause__ = KeyError("a secret")
    error.__cause__.__cause__ = error
    assert _service.raised(error) == "ValueError () from KeyError ()"


def test_a_nan_is_that_document_s_error(rig: Rig) -> None:
    client, model, session = rig
    whole = [result["index"] for result in client.post("/v1/rerank", json=BODY).json()["results"]]
    query = model.rank("", [""]).tokens + int(model.encode([QUERY]).lengths[0])
    lengths = np.minimum(query + model.encode(BODY["documents"]).lengths, model.info().max_length).tolist()
    spoilt = next(i for i in whole if lengths.count(lengths[i]) == 1)
    session.spoils = lambda batch: np.asarray(batch.lengths == lengths[spoilt])
    answer = client.post("/v1/rerank", json=BODY)
    assert answer.status_code == 200
    results, warnings = answer.json()["results"], answer.json()["meta"]["warnings"]
    assert results[-1] == {"index": spoilt, "relevance_score": 0.0}
    assert any(f"NaN for 1 documents, first {spoilt}" in warning for warning in warnings)
    assert [result["index"] for result in results[:-1]] == [i for i in whole if i != spoilt]
    assert answer.headers["x-rerank-scored"] == "3/4"
    tei = client.post("/rerank", json={"query": QUERY, "texts": BODY["documents"]})
    assert (tei.status_code, tei.json()["error_type"]) == (424, "Backend")
    assert client.post("/v1/rerank", json={"query": QUERY, "documents": ["the sea"]}).status_code == 200


def test_many_clients_get_their_own_scores(folder: Path) -> None:
    model = CrossEncoder(folder, device="cpu", threads=2)
    expected = model.rank(QUERY, DOCUMENTS, activation_fn="sigmoid")
    by_index = {entry["corpus_id"]: entry["score"] or 0.0 for entry in expected}

    def ask(number: int) -> float:
        some = [(7 * number + i) % len(DOCUMENTS) for i in range(1 + number % 9)]
        answer = client.post("/v1/rerank", json={"query": QUERY, "documents": [DOCUMENTS[i] for i in some]})
        results = answer.json()["results"]
        found = [result["relevance_score"] for result in results]
        return float(np.abs(np.subtract(found, [by_index[some[result["index"]]] for result in results])).max())

    with serving(create_app(AsyncCrossEncoder(model))) as client, ThreadPoolExecutor(16) as pool:
        assert max(pool.map(ask, range(400))) < 1e-4


def test_thousands_of_connections_that_say_nothing_stop_nobody(rig: Rig) -> None:
    import resource

    client, _, _ = rig
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    count = min(2_000, (soft - 200) // 2)
    connections = [raw(client) for _ in range(count)]
    for connection in connections[::2]:
        connection.sendall(b"POST /v1/rerank HTTP/1.1\r\nHost: x\r\nContent-Le")
    start = time.perf_counter()
    assert client.post("/v1/rerank", json=BODY).status_code == 200
    assert time.perf_counter() - start < 2
    for connection in connections:
        connection.close()


def test_headers_that_do_not_come_end_the_connection(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    import crossrank.serve._protocol as protocol

    monkeypatch.setattr(protocol, "_HEADER_S", 0.2)
    client, _, _ = rig
    for sent in (b"", b"POST /v1/rerank HTTP/1.1\r\n", b"POST"):
        with raw(client) as connection:
            connection.sendall(sent)
            assert connection.recv(1_000).startswith(b"HTTP/1.1 408 ")
            assert connection.recv(1_000) == b""


def test_a_slow_body_and_requests_behind_each_other_on_one_connection(rig: Rig) -> None:
    client, _, _ = rig
    message = request_bytes("/v1/rerank", BODY)
    with raw(client) as connection:
        for part in (message[:10], message[10:-20], message[-20:-1], message[-1:] + message + message):
            connection.sendall(part)
            time.sleep(0.02)
        found = b""
        while found.count(b'"results"') < 3:
            found += connection.recv(65_536)
    assert found.count(b" 200 OK") == 3


def test_the_end_answers_who_is_there_and_refuses_who_comes(folder: Path) -> None:
    model, session = open_model(folder, threads=1)
    answers: list[bytes] = []
    with serving(create_app({"tiny": model})) as client:
        first = held(client, session, BODY)
        reader = threading.Thread(target=lambda: answers.append(first.recv(65_536)))
        reader.start()
        threading.Timer(0.5, session.gate.set).start()
        start = time.monotonic()
    reader.join(60)
    assert answers[0].startswith(b"HTTP/1.1 200 OK")
    assert json.loads(answers[0].partition(b"\r\n\r\n")[2])["results"]
    assert time.monotonic() - start < 5
    with pytest.raises(OSError, match=r"refused|reset"):
        raw(client)


def test_the_end_does_not_wait_longer_than_it_says(folder: Path) -> None:
    model, session = open_model(folder, threads=1)
    try:
        start = time.monotonic()
        with serving(create_app({"tiny": model}), drain_seconds=1) as client:
            first = held(client, session, BODY)
            start = time.monotonic()
        assert time.monotonic() - start < 4
        assert b" 500 " in first.recv(65_536) or first.recv(65_536) == b""
    finally:
        session.gate.set()
