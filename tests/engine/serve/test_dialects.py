"""The dialects: what each client sends, and what it reads; on one port."""

import math
from collections.abc import Iterator
from typing import Any

import pytest

pytest.importorskip("msgspec", reason="crossrank[serve] is not installed")

import httpx
import msgspec
import numpy as np

from crossrank import CrossEncoder
from crossrank.serve import create_app
from crossrank.serve._dialects import DIALECTS, PATHS, choose
from crossrank.serve._request import NO_LOGIT, STATUS, Answer, Entry, Problem, Rerank
from tests.support.serving import ANSWER, DOCUMENTS, QUERY, serving

MODEL = "crossrank-mini-en"
ORDER = [2, 0, 1]


@pytest.fixture(scope="module")
def model() -> CrossEncoder:
    return CrossEncoder(threads=1)


@pytest.fixture(scope="module")
def client(model: CrossEncoder) -> Iterator[httpx.Client]:
    with serving(create_app(model)) as client:
        yield client


@pytest.fixture(scope="module")
def logits(model: CrossEncoder) -> list[float]:
    found: list[float] = model.score(QUERY, DOCUMENTS).tolist()
    return found


@pytest.fixture(scope="module")
def probabilities(logits: list[float]) -> list[float]:
    return [1 / (1 + math.exp(-logit)) for logit in logits]


def post(client: httpx.Client, path: str, **body: Any) -> Any:
    answer = client.post(path, json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()


def close(found: list[float], expected: list[float]) -> bool:
    return np.allclose(found, expected, atol=1e-3)


@pytest.mark.parametrize("path", ["/rerank", "/v1/rerank", "/v3/rerank", "/api/rerank", "/reranking", "/v1/reranking"])
def test_readers_of_cohere_v1_jina_and_vllm_find_their_fields(
    client: httpx.Client, probabilities: list[float], path: str
) -> None:
    got = post(client, path, model=MODEL, query=QUERY, documents=DOCUMENTS, top_n=2, return_documents=True)
    assert [result["index"] for result in got["results"]] == ORDER[:2]
    assert close([result["relevance_score"] for result in got["results"]], [probabilities[i] for i in ORDER[:2]])
    assert got["results"][0]["document"] == {"text": ANSWER}
    assert got["model"] == MODEL
    assert got["id"]
    assert got["usage"]["total_tokens"] == got["usage"]["prompt_tokens"] > 20
    assert got["meta"]["api_version"]["version"] == "1"
    assert got["meta"]["billed_units"] == {"search_units": 1}


def test_documents_do_not_come_back_unasked(client: httpx.Client) -> None:
    got = post(client, "/v1/rerank", query=QUERY, documents=DOCUMENTS)
    assert all("document" not in result for result in got["results"])


def test_objects_as_documents_are_read_by_rank_fields_and_come_back_whole(client: httpx.Client) -> None:
    documents = [{"title": "Bread", "text": "dough"}, {"title": "Berlin", "text": ANSWER}]
    got = post(client, "/v1/rerank", query=QUERY, documents=documents, return_documents=True)
    plain = post(client, "/v1/rerank", query=QUERY, documents=["dough", ANSWER])
    fields = post(client, "/v1/rerank", query=QUERY, documents=documents, rank_fields=["title", "text"])
    lines = post(
        client, "/v1/rerank", query=QUERY, documents=["title: Bread\ntext: dough", f"title: Berlin\ntext: {ANSWER}"]
    )
    assert got["results"][0]["document"] == documents[1]
    assert [r["relevance_score"] for r in got["results"]] == [r["relevance_score"] for r in plain["results"]]
    assert [r["relevance_score"] for r in fields["results"]] == [r["relevance_score"] for r in lines["results"]]


def test_parts_of_a_content_are_texts_and_no_images(client: httpx.Client) -> None:
    content = {"content": [{"type": "text", "text": ANSWER}]}
    assert post(client, "/v1/rerank", query=QUERY, documents=[content])["results"][0]["relevance_score"] > 0.9
    image = {"content": [{"type": "image_url", "image_url": {"url": "file:///etc/passwd"}}]}
    answer = client.post("/v1/rerank", json={"query": QUERY, "documents": [image]})
    assert (answer.status_code, "images" in answer.json()["message"]) == (422, True)


def test_cohere_v2(client: httpx.Client, probabilities: list[float]) -> None:
    got = post(client, "/v2/rerank", model=MODEL, query=QUERY, documents=DOCUMENTS, return_documents=True)
    assert close([result["relevance_score"] for result in got["results"]], [probabilities[i] for i in ORDER])
    assert all(set(result) == {"index", "relevance_score"} for result in got["results"])
    assert got["meta"]["api_version"] == {"version": "2", "is_deprecated": False, "is_experimental": False}


def test_voyage_is_known_by_top_k(client: httpx.Client, probabilities: list[float]) -> None:
    for top_k, count in ((1, 1), (None, 3)):  # its SDK sends null too
        got = post(client, "/v1/rerank", model=MODEL, query=QUERY, documents=DOCUMENTS, top_k=top_k, truncation=True)
        assert got["object"] == "list"
        assert [result["index"] for result in got["data"]] == ORDER[:count]
    got = post(client, "/v1/rerank", query=QUERY, documents=DOCUMENTS, top_k=1, return_documents=True)
    assert got["data"][0]["document"] == ANSWER
    assert got["usage"]["total_tokens"] > 20


def test_tei_gets_a_bare_array_with_probabilities_or_logits(
    client: httpx.Client, probabilities: list[float], logits: list[float]
) -> None:
    for path in ("/rerank", "/v1/rerank", "/reranking"):
        got = post(client, path, query=QUERY, texts=DOCUMENTS, unknown=1)
        assert [result["index"] for result in got] == ORDER
        assert close([result["score"] for result in got], [probabilities[i] for i in ORDER])
        assert all("text" not in result for result in got)
    got = post(client, "/rerank", query=QUERY, texts=DOCUMENTS, raw_scores=True, return_text=True)
    assert close([result["score"] for result in got], [logits[i] for i in ORDER])
    assert got[0]["text"] == ANSWER


def test_tei_tells_its_times_and_counts_in_headers(client: httpx.Client) -> None:
    answer = client.post("/rerank", json={"query": QUERY, "texts": DOCUMENTS})
    assert int(answer.headers["x-compute-characters"]) == len(QUERY) + sum(map(len, DOCUMENTS))
    assert int(answer.headers["x-compute-tokens"]) > 20
    assert int(answer.headers["x-total-time"]) >= 0


def test_tei_refuses_what_cannot_be_done(client: httpx.Client) -> None:
    left = client.post("/rerank", json={"query": QUERY, "texts": DOCUMENTS, "truncation_direction": "left"})
    assert (left.status_code, left.json()["error_type"]) == (422, "Validation")
    for direction in ("Right", "right"):
        post(client, "/rerank", query=QUERY, texts=DOCUMENTS, truncation_direction=direction)
    empty = client.post("/rerank", json={"query": QUERY, "texts": []})
    assert (empty.status_code, empty.json()["error_type"]) == (400, "Empty")


def test_infinity_is_known_by_raw_scores_or_its_path(client: httpx.Client, logits: list[float]) -> None:
    got = post(client, "/rerank", query=QUERY, documents=DOCUMENTS, return_documents=True, raw_scores=True)
    assert got["object"] == "rerank"
    assert close([result["relevance_score"] for result in got["results"]], [logits[i] for i in ORDER])
    assert got["results"][0]["document"] == ANSWER
    got = post(client, "/infinity/rerank", query=QUERY, documents=DOCUMENTS)
    assert [result["document"] for result in got["results"]] == [None] * 3
    assert got["usage"]["total_tokens"] > 20


def test_nvidia_gets_logits_on_each_of_its_paths(client: httpx.Client, logits: list[float]) -> None:
    body = {"query": {"text": QUERY}, "passages": [{"text": text} for text in DOCUMENTS], "truncate": "END"}
    for path in ("/v1/ranking", f"/v1/retrieval/{MODEL}/reranking", "/reranking"):
        got = post(client, path, model=MODEL, **body)
        assert [result["index"] for result in got["rankings"]] == ORDER
        assert close([result["logit"] for result in got["rankings"]], [logits[i] for i in ORDER])


def test_vllm_scores_pairs_in_the_order_given(client: httpx.Client, probabilities: list[float]) -> None:
    for path in ("/score", "/v1/score"):
        for left, right in (("text_1", "text_2"), ("queries", "documents"), ("queries", "items"), ("data_1", "data_2")):
            got = post(client, path, model=MODEL, **{left: QUERY, right: DOCUMENTS})
            assert [result["index"] for result in got["data"]] == [0, 1, 2]
            assert close([result["score"] for result in got["data"]], probabilities)
    got = post(client, "/score", text_1=[QUERY], text_2=ANSWER)
    assert close([got["data"][0]["score"]], probabilities[2:])


def test_vllm_scores_each_text_beside_its_own(client: httpx.Client, probabilities: list[float]) -> None:
    got = post(client, "/score", text_1=[QUERY, "bread", QUERY], text_2=DOCUMENTS)
    alone = post(client, "/score", text_1="bread", text_2=DOCUMENTS[1])
    expected = [probabilities[0], alone["data"][0]["score"], probabilities[2]]
    assert [result["index"] for result in got["data"]] == [0, 1, 2]
    assert close([result["score"] for result in got["data"]], expected)
    assert got["usage"]["total_tokens"] > alone["usage"]["total_tokens"]
    answer = client.post("/score", json={"text_1": [QUERY, QUERY], "text_2": DOCUMENTS})
    assert (answer.status_code, answer.json()["error"]["code"]) == (422, 422)


def test_normalize_and_softmax_are_errors(client: httpx.Client) -> None:
    for name in ("normalize", "softmax"):
        answer = client.post("/v1/rerank", json={"query": QUERY, "documents": DOCUMENTS, name: True})
        assert (answer.status_code, name in answer.json()["error"]["message"]) == (422, True)


def test_elasticsearch(client: httpx.Client, probabilities: list[float]) -> None:
    path = f"/_inference/rerank/{MODEL}"
    answer = client.post(path, json={"query": QUERY, "input": DOCUMENTS, "top_n": 2, "return_documents": True})
    assert answer.headers["x-elastic-product"] == "Elasticsearch"
    (first, second) = answer.json()["rerank"]
    assert (first["index"], first["text"], second["index"]) == (2, ANSWER, 0)
    settings = {"top_n": 1, "return_documents": True}
    assert post(client, path, query=QUERY, input=DOCUMENTS, task_settings=settings)["rerank"] == [first]
    absent = client.post("/_inference/rerank/absent", json={"query": QUERY, "input": DOCUMENTS})
    assert (absent.status_code, absent.json()["status"]) == (404, 404)


def test_sglang_is_known_by_instruct_and_told_that_it_is_not_used(
    client: httpx.Client, probabilities: list[float]
) -> None:
    got = post(client, "/v1/rerank", query=QUERY, documents=DOCUMENTS, instruct="Find answers.", top_n=2)
    assert close([result["score"] for result in got], [probabilities[i] for i in ORDER[:2]])
    assert (got[0]["index"], got[0]["document"]) == (2, ANSWER)
    assert got[0]["meta_info"]["warnings"] == ["instruct: the model takes none"]


def test_rag_api_has_no_bound_of_fifty(client: httpx.Client) -> None:
    candidates = [{"id": i, "text": f"text {i}", "base_score": 0.5} for i in range(80)]
    got = post(client, "/v1/rerank", profile="any", query=QUERY, candidates=candidates, top_n=60)
    assert (len(got["results"]), got["model"]) == (60, MODEL)


@pytest.mark.parametrize("key", ["texts", "passages", "candidates"])
def test_documents_of_null_under_another_dialect_s_key_are_none(client: httpx.Client, key: str) -> None:
    answer = client.post("/v1/rerank", json={"query": QUERY, "documents": DOCUMENTS, key: None})
    assert answer.status_code == 200
    assert len(answer.json()["results"]) == len(DOCUMENTS)


def test_the_string_true_is_true(client: httpx.Client) -> None:
    got = post(client, "/v1/rerank", query=QUERY, documents=DOCUMENTS, return_documents="true", top_n="1")
    assert got["results"][0]["document"]["text"] == ANSWER


def test_top_n_of_nothing_or_more_than_there_are_is_all(client: httpx.Client) -> None:
    for top_n in (None, 0, 3, 500):
        assert len(post(client, "/v1/rerank", query=QUERY, documents=DOCUMENTS, top_n=top_n)["results"]) == 3
    assert client.post("/v1/rerank", json={"query": QUERY, "documents": DOCUMENTS, "top_n": -1}).status_code == 422


def test_ties_keep_the_order_of_the_request(client: httpx.Client) -> None:
    got = post(client, "/rerank", query=QUERY, texts=[ANSWER] * 5 + DOCUMENTS[:1] * 5)
    assert [result["index"] for result in got] == list(range(10))


def test_hundreds_of_texts_are_nothing_special(client: httpx.Client) -> None:
    texts = [f"{i} people live there" for i in range(700)]
    assert len(post(client, "/rerank", query=QUERY, texts=texts)) == 700


BODIES: dict[str, dict[str, Any]] = {
    "common": {"query": QUERY, "documents": DOCUMENTS},
    "cohere_v2": {"query": QUERY, "documents": DOCUMENTS},
    "voyage": {"query": QUERY, "documents": DOCUMENTS, "top_k": 1},
    "tei": {"query": QUERY, "texts": DOCUMENTS},
    "infinity": {"query": QUERY, "documents": DOCUMENTS, "raw_scores": False},
    "sglang": {"query": QUERY, "documents": DOCUMENTS, "instruct": None},
    "nvidia": {"query": {"text": QUERY}, "passages": [{"text": text} for text in DOCUMENTS]},
    "vllm_score": {"text_1": QUERY, "text_2": DOCUMENTS},
    "elasticsearch": {"query": QUERY, "input": DOCUMENTS},
    "rag_api": {"query": QUERY, "candidates": [{"text": text} for text in DOCUMENTS]},
}


def test_each_path_knows_each_of_its_dialects_by_the_body() -> None:
    assert {dialect.name for dialect in DIALECTS} == set(BODIES)
    for dialects in PATHS.values():
        for dialect in dialects:
            assert choose(dialects, msgspec.json.encode(BODIES[dialect.name])) is dialect


@pytest.mark.parametrize("dialect", DIALECTS, ids=lambda dialect: dialect.name)
def test_what_is_written_is_what_the_reply_s_type_says(dialect: Any) -> None:
    request = dialect.decode(msgspec.json.encode(BODIES[dialect.name]))
    assert (request.query, list(request.documents)) == (QUERY, DOCUMENTS)
    score = NO_LOGIT if request.logits else 0.0
    answer = Answer("id", "model", 0, [Entry(0, 0.5), Entry(1, score)], 3, 2, complete=False)
    msgspec.convert(msgspec.to_builtins(dialect.write(request, answer)), dialect.reply)


@pytest.mark.parametrize("dialect", DIALECTS, ids=lambda dialect: dialect.name)
def test_every_problem_has_a_form(dialect: Any) -> None:
    for kind in STATUS:
        status, body = dialect.error(Problem(kind, "what is wrong"))
        assert 400 <= status < 600
        assert b"what is wrong" in msgspec.json.encode(body)


@pytest.mark.parametrize(
    ("dialect", "keys"),
    [
        ("common", {"id", "message", "detail", "error"}),
        ("cohere_v2", {"id", "message"}),
        ("voyage", {"detail"}),
        ("tei", {"error", "error_type"}),
        ("infinity", {"error"}),
        ("sglang", {"error"}),
        ("nvidia", {"error", "detail"}),
        ("vllm_score", {"error"}),
        ("elasticsearch", {"error", "status"}),
        ("rag_api", {"detail"}),
    ],
)
def test_a_problem_has_the_dialect_s_own_keys(dialect: str, keys: set[str]) -> None:
    (found,) = (each for each in DIALECTS if each.name == dialect)
    _, body = found.error(Problem("invalid", "what is wrong"))
    assert set(msgspec.to_builtins(body)) == keys


def test_a_document_without_a_number_is_backend_424_in_tei_s_form() -> None:
    (tei,) = (each for each in DIALECTS if each.name == "tei")
    with pytest.raises(Problem) as caught:
        tei.write(Rerank(QUERY, DOCUMENTS), Answer("id", "model", 0, [Entry(0, 0.0)], 1, 0, failed=[0]))
    assert tei.error(caught.value)[0] == 424
