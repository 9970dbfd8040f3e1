"""Requests that are too large, have no key, name what they may not, or are nothing at all; and what is told of them."""

import asyncio
import json
import logging
import re
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("msgspec", reason="crossrank[serve] is not installed")

import httpx
from prometheus_client.parser import text_string_to_metric_families
from starlette.applications import Starlette
from starlette.routing import Mount, Route

from crossrank import CrossEncoder, InputError
from crossrank.serve import Limits, create_app
from tests.support.artifacts import make_artifact
from tests.support.serving import DOCUMENTS, QUERY, raw, request_bytes, serving

BODY = {"query": QUERY, "documents": DOCUMENTS}
LIMITS = Limits(body_bytes=4_000, documents=20, tokens=900, body_seconds=0.5)
KEYS = ("first-key", "second-key")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_artifact(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def model(folder: Path) -> CrossEncoder:
    return CrossEncoder(folder, device="cpu", threads=1)


@pytest.fixture(scope="module")
def client(model: CrossEncoder) -> Iterator[httpx.Client]:
    with serving(create_app({"tiny": model}, limits=LIMITS)) as client:
        yield client


@pytest.fixture(scope="module")
def locked(model: CrossEncoder) -> Iterator[httpx.Client]:
    with serving(create_app({"tiny": model}, api_keys=KEYS)) as client:
        yield client


def read(connection: Any) -> bytes:
    found = b""
    while part := connection.recv(65_536):
        found += part
    return found


def test_a_body_that_says_that_it_is_too_large_is_refused_before_it_is_read(client: httpx.Client) -> None:
    for path, key in (("/v1/rerank", "message"), ("/infinity/rerank", "error"), ("/v2/rerank", "message")):
        with raw(client) as connection:
            connection.sendall(f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: 4001\r\n\r\n".encode())
            answer = connection.recv(65_536)  # of a body of which nothing was sent
            assert answer.startswith(b"HTTP/1.1 413 ")
            assert key in json.loads(answer.partition(b"\r\n\r\n")[2])


def test_a_body_that_does_not_say_its_size_is_read_as_far_as_it_may_be(client: httpx.Client) -> None:
    def parts() -> Iterator[bytes]:
        yield b'{"query": "q", "documents": ["'
        for _ in range(100):
            yield b"word " * 100

    answer = client.post("/v1/rerank", content=parts())
    assert answer.status_code == 413


def test_too_many_documents(client: httpx.Client) -> None:
    for path, key in (("/v1/rerank", "documents"), ("/rerank", "texts")):
        answer = client.post(path, json={"query": QUERY, key: ["a"] * 21})
        assert (answer.status_code, "21 documents" in answer.text) == (413, True)
        assert client.post(path, json={"query": QUERY, key: ["a"] * 20}).status_code == 200


def test_too_many_tokens(client: httpx.Client, model: CrossEncoder) -> None:
    length = model.info().max_length
    text = "the sea " * length
    many = client.post("/rerank", json={"query": "q", "texts": [text[:180]] * 19})  # bytes over 900, tokens under
    assert many.status_code == 200, many.text
    for count, status in ((900 // length, 200), (900 // length + 1, 413)):
        body = {"query": "q", "documents": [text[: 4 * length]] * count}
        assert client.post("/v1/rerank", json=body).status_code == status


def test_tokens_of_the_query_count_beside_each_document(client: httpx.Client) -> None:
    query = "the sea " * 12
    assert client.post("/v1/rerank", json={"query": query, "documents": ["a"]}).status_code == 200
    pairs = ({"query": query, "documents": ["a"] * 20}, {"text_1": query, "text_2": ["a"] * 20})
    with serving(create_app(CrossEncoder(), limits=Limits(tokens=300))) as few:
        for path, body in zip(("/v1/rerank", "/score"), pairs, strict=True):
            assert few.post(path, json=body).status_code == 413


def test_a_budget_that_bounds_nothing_leaves_the_bound_of_tokens(client: httpx.Client, model: CrossEncoder) -> None:
    body = {
        "query": "q",
        "documents": [("the sea " * 99)[: 4 * model.info().max_length]] * (900 // model.info().max_length + 1),
    }
    for budget, status in (("999999999", 413), ("5000", 200)):
        assert client.post("/v1/rerank", json=body, headers={"X-Rerank-Budget-Ms": budget}).status_code == status


def test_half_a_body_is_answered_in_time_and_the_connection_is_closed(client: httpx.Client) -> None:
    with raw(client) as connection:
        connection.sendall(b"POST /v1/rerank HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{")
        assert read(connection).startswith(b"HTTP/1.1 408 ")
    assert client.post("/v1/rerank", json=BODY).status_code == 200


def test_headers_have_bounds(client: httpx.Client) -> None:
    for headers in ({"X-Large": "a" * 70_000}, {f"X-{i}": "a" for i in range(200)}):
        with raw(client) as connection:
            connection.sendall(request_bytes("/v1/rerank", BODY, **headers))
            assert read(connection).startswith(b"HTTP/1.1 431 ")
    with raw(client) as connection:
        connection.sendall(b"GET /" + b"a" * 70_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n")
        assert read(connection).startswith(b"HTTP/1.1 431 ")


def test_compressed_bodies_are_not_unpacked(client: httpx.Client) -> None:
    answer = client.post("/v1/rerank", content=b"\x1f\x8b", headers={"Content-Encoding": "gzip"})
    assert answer.status_code == 422


@pytest.mark.parametrize(
    ("content", "status"),
    [
        (b"", 400),
        (b"{", 400),
        (b"\xff\xfe", 400),
        (b'{"query": "\xcc\xdf", "documents": ["a"]}', 400),
        (b"[" * 3_000, 422),
        (b'{"query": ' + b"[" * 3_000, 422),
        (b'{"documents": ["a"]}', 422),
        (b'{"query": 1, "documents": ["a"]}', 422),
        (b'{"query": "q", "documents": "a"}', 422),
        (b'{"query": "q", "documents": [null]}', 422),
        (b'{"query": "q", "documents": [{}]}', 422),
        (b'{"query": "q", "documents": [{"text": []}]}', 422),
        (b'{"query": "q", "documents": ["\\ud800"]}', 400),
        (b'{"query": "q", "documents": []}', 400),
        (b'{"query": "q", "documents": ["a"], "model": "/etc/passwd"}', 404),
        (b'{"query": "q", "documents": ["a"], "model": "owner/name"}', 404),
        (b'{"query": "q", "documents": ["a"], "max_chunks_per_doc": 0}', 422),
        (b'{"query": "", "documents": [""]}', 200),
        (b'{"query": "q\\u0000", "documents": ["\\u0000"]}', 200),
    ],
)
def test_bodies_that_mean_nothing_are_refused_and_the_rest_is_scored(
    client: httpx.Client, content: bytes, status: int
) -> None:
    answer = client.post("/v1/rerank", content=content, headers={"Content-Type": "application/json"})
    assert answer.status_code == status, answer.text
    if status != 200:
        assert answer.json()["message"] == answer.json()["detail"] == answer.json()["error"]["message"] != ""


def test_a_budget_that_is_none_is_refused(client: httpx.Client) -> None:
    for budget in ("0", "-1", "nan", "inf", "soon", "1e300", ""):
        answer = client.post("/v1/rerank", json=BODY, headers={"X-Rerank-Budget-Ms": budget})
        assert (answer.status_code, "udget" in answer.text) == (422, True), budget


def test_other_paths_and_methods_are_not_found_in_the_form_of_their_dialect(client: httpx.Client) -> None:
    absent, wrong, cohere = client.post("/v1/embeddings", json=BODY), client.get("/v1/rerank"), client.get("/v2/rerank")
    assert (absent.status_code, wrong.status_code, cohere.status_code) == (404, 405, 405)
    assert "/v1/embeddings" in absent.json()["message"] == absent.json()["detail"] == absent.json()["error"]["message"]
    assert wrong.headers["allow"] == "POST"
    assert "GET" in wrong.json()["message"]
    assert "GET" in cohere.json()["message"]


def test_a_page_whose_name_leads_here_may_not_ask(model: CrossEncoder) -> None:
    with serving(create_app(model, allowed_hosts=["localhost", "127.0.0.1", "::1", "Rerank.example"])) as own:
        for host in ("localhost:8080", "127.0.0.1", "[::1]:8080", "rerank.EXAMPLE:80", "[::1]"):
            for _ in range(2):
                assert own.post("/v1/rerank", json=BODY, headers={"Host": host}).status_code == 200, host
        for host in (
            "evil.example",
            "localhost.evil.example:8080",
            "evil.example:127.0.0.1",
            "[::2]:80",
            "",
            "localhost.",
        ):
            for path in ("/v1/rerank", "/metrics", "/"):
                answer = own.request("POST" if path == "/v1/rerank" else "GET", path, headers={"Host": host})
                assert (answer.status_code, "allowed-hosts" in answer.json()["error"]) == (421, True), host


def test_an_application_in_another_one_ranks_without_its_lifespan_and_with_it(model: CrossEncoder) -> None:
    app = create_app(model)
    mount = Mount("/search", app)

    @asynccontextmanager
    async def lifespan(outer: Starlette) -> AsyncIterator[None]:
        async with app.router.lifespan_context(app):
            yield

    for holder in (Starlette(routes=[mount]), Starlette(routes=[mount], lifespan=lifespan)):
        with serving(holder, service=app) as outer:
            assert len(outer.post("/search/v1/rerank", json=BODY).json()["results"]) == len(BODY["documents"])
            assert outer.get("/search/ready").json() == {"status": "ready"}
            assert "detail" in outer.get("/search/absent").json()


def test_a_key_is_needed_where_there_is_one(locked: httpx.Client) -> None:
    for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "Bearer"}, {"X-API-Key": "first-keys"}):
        answer = locked.post("/v1/rerank", json=BODY, headers=headers)
        assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer")
        assert locked.post("/rerank", json={"query": QUERY, "texts": DOCUMENTS}, headers=headers).status_code == 401
        for path in ("/info", "/metrics", "/v1/models"):
            assert locked.get(path, headers=headers).status_code == 401
    for key in KEYS:  # LlamaIndex sends its header as it was given, Elasticsearch another scheme
        for header in (f"Bearer {key}", f"bearer {key}", f"ApiKey {key}", key):
            assert locked.post("/v1/rerank", json=BODY, headers={"Authorization": header}).status_code == 200
        assert locked.post("/v1/rerank", json=BODY, headers={"X-API-Key": key}).status_code == 200
    both = {"X-API-Key": "wrong", "Authorization": f"Bearer {KEYS[0]}"}
    assert locked.post("/v1/rerank", json=BODY, headers=both).status_code == 401
    for path in ("/health", "/ready", "/v1/health/live", "/v1/health/ready", "/", "/docs", "/openapi.json"):
        assert locked.get(path).status_code == 200


def test_without_a_key_a_shared_path_answers_in_the_form_of_all_its_readers(locked: httpx.Client) -> None:
    # Nobody has read the body yet.
    assert "detail" in locked.post("/rerank", json={"query": QUERY, "texts": DOCUMENTS}).json()


def test_keys_are_compared_in_constant_time(model: CrossEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[tuple[bytes, bytes]] = []
    import hmac

    def compare(one: bytes, other: bytes) -> bool:
        compared.append((one, other))
        return one == other

    monkeypatch.setattr(hmac, "compare_digest", compare)
    with serving(create_app({"tiny": model}, api_keys=KEYS)) as client:
        client.post("/v1/rerank", json=BODY, headers={"Authorization": "Bearer first-key"})
    assert compared == [(b"first-key", b"first-key"), (b"first-key", b"second-key")]


@pytest.mark.parametrize("keys", [[""], [" "], ["clé"], "secret", b"secret", ["secret", 1]])
def test_keys_that_nobody_could_show_are_refused(model: CrossEncoder, keys: list[str]) -> None:
    with pytest.raises(InputError, match="api_keys"):
        create_app(model, api_keys=keys)


@pytest.mark.parametrize("options", [{"cors_origins": "https://example.org"}, {"default_chunks": 0}])
def test_options_that_would_do_something_else_are_refused(model: CrossEncoder, options: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=next(iter(options))):
        create_app(model, **options)


@pytest.mark.parametrize("limit", [{"documents": 0}, {"body_bytes": -1}, {"tokens": 0}, {"body_seconds": float("nan")}])
def test_limits_are_above_nothing(limit: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=next(iter(limit))):
        Limits(**limit)


def test_no_other_origin_may_call_unless_asked(model: CrossEncoder, client: httpx.Client) -> None:
    headers = {"Origin": "https://example.org", "Access-Control-Request-Method": "POST"}
    assert "access-control-allow-origin" not in client.post("/v1/rerank", json=BODY, headers=headers).headers
    assert client.options("/v1/rerank", headers=headers).status_code == 405
    with serving(create_app(model, cors_origins=["https://example.org"])) as open_client:
        assert open_client.options("/v1/rerank", headers=headers).status_code == 200
        long = {"query": QUERY, "documents": ["the sea " * 200]}
        answer = open_client.post("/v1/rerank", json=long, headers=headers)
        assert answer.headers["access-control-allow-origin"] == "https://example.org"
        exposed = answer.headers["access-control-expose-headers"]
        assert {name for name in answer.headers if name.startswith("x-r")} <= set(exposed.lower().split(", "))
        other = open_client.options("/v1/rerank", headers=headers | {"Origin": "https://example.com"})
        assert "access-control-allow-origin" not in other.headers


def test_models_are_those_configured(folder: Path, model: CrossEncoder) -> None:
    with serving(create_app({"one": model, "two": folder})) as client:
        listed = client.get("/v1/models").json()
        assert [entry["id"] for entry in listed["data"]] == ["one", "two"]
        for name in (None, "", "one"):
            assert client.post("/v1/rerank", json={**BODY, "model": name}).json()["model"] == "one"
        assert client.post("/v1/rerank", json={**BODY, "model": "two"}).json()["model"] == "two"
        absent = client.post("/v2/rerank", json={**BODY, "model": "three"})
        assert absent.status_code == 404
        assert "there are: one, two" in absent.json()["message"]
    model.score(QUERY, DOCUMENTS)  # its owner's: not closed


def test_a_model_of_several_labels_of_which_none_is_relevant_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="none is known to mean relevant"):
        create_app(make_artifact(tmp_path, labels=3))


def test_several_labels_give_a_probability(tmp_path: Path) -> None:
    model = CrossEncoder(make_artifact(tmp_path, labels=3), device="cpu", threads=1, relevant_label=1)
    expected = sorted(model.score(QUERY, DOCUMENTS).tolist(), reverse=True)
    with serving(create_app(model)) as client:
        results = client.post("/v1/rerank", json=BODY).json()["results"]
    assert [result["relevance_score"] for result in results] == pytest.approx(expected, abs=1e-4)


def test_liveness_asks_no_model_and_readiness_computes(folder: Path) -> None:
    model = CrossEncoder(folder, device="cpu", threads=1)
    with serving(create_app(model)) as client:
        before = model.stats().batches
        assert client.get("/health").json() == {"status": "ok"}
        assert model.stats().batches == before
        for path in ("/ready", "/v1/health/ready"):
            assert client.get(path).json() == {"status": "ready"}
        assert model.stats().batches == before + 2
        model.close()
        assert client.get("/health").status_code == client.get("/v1/health/live").status_code == 200
        assert client.get("/ready").status_code == 503
        assert client.post("/v1/rerank", json=BODY).status_code == 503
        answer = client.post("/rerank", json={"query": QUERY, "texts": DOCUMENTS})
        assert (answer.status_code, answer.json()["error_type"]) == (503, "Unhealthy")


def test_tei_s_info(client: httpx.Client, model: CrossEncoder) -> None:
    info = client.get("/info").json()
    assert info["max_input_length"] == model.info().max_length
    assert info["max_client_batch_size"] == 20
    assert "reranker" in info["model_type"]
    assert info["served_model_name"] == "tiny"


def metrics(client: httpx.Client) -> dict[str, float]:
    found = {}
    for family in text_string_to_metric_families(client.get("/metrics").text):
        for sample in family.samples:
            labels = ",".join(value for name, value in sorted(sample.labels.items()) if name != "model")
            found[f"{sample.name}[{labels}]"] = sample.value
    return found


def test_metrics_have_all_their_names_at_the_first_scrape(folder: Path) -> None:
    with serving(create_app(CrossEncoder(folder, device="cpu", threads=1))) as client:
        before = metrics(client)
        client.post("/v1/rerank", json=BODY)
        client.post("/v1/rerank", json={"query": QUERY})
        after = metrics(client)
    assert set(after) == set(before)
    assert before["crossrank_http_requests_total[common,complete]"] == 0
    assert after["crossrank_http_requests_total[common,complete]"] == 1
    assert after["crossrank_http_requests_total[common,refused]"] == 1
    assert after["crossrank_http_request_seconds_count[]"] == 1
    assert after["crossrank_documents_total[]"] - before["crossrank_documents_total[]"] == 3
    for name in ("tokens_total", "rejected_total", "cancelled_total", "late_total", "waiting_tokens", "batch_fill"):
        assert f"crossrank_{name}[]" in before
    assert 0 < after["crossrank_busy_ratio[]"] <= 1


def test_the_request_s_id_comes_back_and_a_strange_one_does_not(client: httpx.Client) -> None:
    for given, same in (("abc-1", True), ("a" * 200, False), ("tab\tin it", False)):
        answer = client.post("/v1/rerank", json=BODY, headers={"X-Request-Id": given})
        assert (answer.headers["x-request-id"] == given) == same
        assert answer.json()["id"] == answer.headers["x-request-id"]
        refused = client.post("/v2/rerank", json={}, headers={"X-Request-Id": given})
        assert refused.json()["id"] == refused.headers["x-request-id"]


def test_logs_have_ids_and_counts_and_no_text(client: httpx.Client, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    secret = "the secret of the sea"
    client.post("/v1/rerank", json={"query": secret, "documents": [secret] * 2}, headers={"X-Request-Id": "one"})
    client.post("/v1/rerank", json={"query": secret, "documents": [{secret: secret}]}, headers={"X-Request-Id": "two"})
    client.post("/v1/rerank", json={"query": secret, "documents": [secret], "model": secret})
    facts = [record.facts for record in caplog.records if hasattr(record, "facts")]
    assert [fact["request_id"] for fact in facts[:2]] == ["one", "two"]
    assert (facts[0]["documents"], facts[0]["status"], facts[1]["status"]) == (2, 200, 422)
    assert facts[0]["tokens"] > 0
    assert secret not in "".join(str(vars(record)) for record in caplog.records)


def test_the_openapi_document_names_every_path_and_resolves(client: httpx.Client, model: CrossEncoder) -> None:
    document = client.get("/openapi.json").json()
    routes = [route for route in create_app(model).routes if isinstance(route, Route)]
    assert set(document["paths"]) == {route.path.replace(":path", "") for route in routes}
    for path in ("/rerank", "/v1/rerank", "/v2/rerank", "/v1/retrieval/{model}/reranking", "/score", "/metrics"):
        assert path in document["paths"]
    text = json.dumps(document)
    for name in document["components"]["schemas"]:
        assert f"#/components/schemas/{name}" in text
    assert "http" not in json.dumps(document["paths"])
    references = {part.split('"')[0] for part in text.split("#/components/schemas/")[1:]}
    assert references <= set(document["components"]["schemas"])


def test_the_openapi_document_says_which_paths_need_a_key(client: httpx.Client, locked: httpx.Client) -> None:
    for path, operations in client.get("/openapi.json").json()["paths"].items():
        if "get" in operations:
            assert ("401" in operations["get"]["responses"]) == (locked.get(path).status_code == 401), path
        else:
            assert locked.post(path).status_code == 401, path


@pytest.mark.parametrize("path", ["/", "/docs"])
def test_pages_load_nothing_from_elsewhere(client: httpx.Client, path: str) -> None:
    page = client.get(path)
    assert page.status_code == 200
    assert "default-src 'none'" in page.headers["content-security-policy"]
    assert "//" not in page.text.replace("://", "").replace("// ", "")
    assert "http" not in page.text


def test_it_can_be_mounted_in_an_application_of_ones_own(model: CrossEncoder) -> None:
    async def ask() -> None:
        app = Starlette(routes=[Mount("/rank", create_app({"tiny": model}))])
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://here") as client:
            assert (await client.get("/rank/ready")).json() == {"status": "ready"}
            for path in ("/rank/v1/rerank", "/rank/v1/retrieval/tiny/reranking"):
                answer = await client.post(path, json=BODY)
                assert answer.status_code == (200 if path.endswith("v1/rerank") else 422)
            assert (await client.get("/rank/metrics")).status_code == 200
            assert (await client.get("/v1/rerank")).status_code == 404

    asyncio.run(ask())


@pytest.mark.parametrize("pause_s", [0, 0.05])
def test_a_wish_for_another_protocol_is_ignored_and_the_body_is_read(client: httpx.Client, pause_s: float) -> None:
    wish = "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQCAAAAAAIAAAAA\r\n"
    body = json.dumps(BODY)
    for framing, data in (
        (f"Content-Length: {len(body)}", body),
        ("Transfer-Encoding: chunked", f"{len(body):x}\r\n{body}\r\n0\r\n\r\n"),
    ):
        with raw(client) as connection:
            for _ in range(2):  # the connection goes on
                connection.sendall(f"POST /v1/rerank HTTP/1.1\r\nHost: x\r\n{wish}{framing}\r\n\r\n".encode())
                time.sleep(pause_s)
                connection.sendall(data.encode())
                answer = connection.recv(65_536)
                assert answer.startswith(b"HTTP/1.1 200 "), answer
            connection.sendall(f"GET /health HTTP/1.1\r\nHost: x\r\n{wish}\r\n".encode())
            assert connection.recv(65_536).startswith(b"HTTP/1.1 200 ")
            joined = f"POST /v1/rerank HTTP/1.1\r\nHost: x\r\n{wish}{framing}\r\n\r\n{data}".encode()
            connection.sendall(joined + b"GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            assert read(connection).count(b"HTTP/1.1 200 ") == 2


def test_many_wishes_behind_each_other_are_many_requests(client: httpx.Client) -> None:
    wish = b"GET /health HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n"
    with raw(client) as connection:
        connection.sendall(wish * 700 + b"GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        assert read(connection).count(b"HTTP/1.1 200 ") == 701


def test_an_answer_leaves_in_one_piece_and_a_large_one_whole_to_who_reads_slowly(model: CrossEncoder) -> None:
    body: dict[str, Any] = {"query": QUERY, "documents": DOCUMENTS}
    with serving(create_app(model)) as client, raw(client) as connection:
        for _ in range(3):
            connection.sendall(request_bytes("/v1/rerank", body))
            head, _, rest = connection.recv(1 << 20).partition(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 200 OK")
            assert len(json.loads(rest)["results"]) == len(DOCUMENTS)
        many = [f"{number} {'x' * 9_000}" for number in range(900)]
        connection.sendall(request_bytes("/v1/rerank", {"query": "q", "documents": many, "return_documents": True}))
        time.sleep(1)  # its buffers are full meanwhile
        received = b""
        while b"\r\n\r\n" not in received:
            received += connection.recv(65_536)
        head, _, rest = received.partition(b"\r\n\r\n")
        length = int(re.search(rb"content-length: (\d+)", head)[1])  # type: ignore[index]
        while len(rest) < length:
            rest += connection.recv(65_536)
        told = json.loads(rest)["results"]
        assert {result["document"]["text"] for result in told} == {*many}
