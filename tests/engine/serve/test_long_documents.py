"""Long documents: cut, read in parts, or refused, as a request says; and the sentences that carry a score."""

import math
import tracemalloc
from collections.abc import Iterator
from itertools import islice
from typing import Any

import pytest

pytest.importorskip("msgspec", reason="crossrank[serve] is not installed")

import httpx

from crossrank import CrossEncoder
from crossrank.serve import create_app
from crossrank.serve._models import sentences
from tests.support.serving import ANSWER, QUERY, serving

FILLER = "the rest of a sentence that nobody has asked for " * 60
LATE = FILLER + ANSWER  # the answer is in the second part, some 600 tokens in
SHORT = "Berlin is well known for its museums."


@pytest.fixture(scope="module")
def model() -> CrossEncoder:
    return CrossEncoder()


@pytest.fixture(scope="module")
def client(model: CrossEncoder) -> Iterator[httpx.Client]:
    with serving(create_app(model)) as client:
        yield client


def ask(client: httpx.Client, path: str = "/v1/rerank", status: int = 200, **body: Any) -> Any:
    body = {"query": QUERY, "documents": [SHORT, LATE]} | body
    answer = client.post(path, json={name: value for name, value in body.items() if value is not None})
    assert answer.status_code == status, answer.text
    return answer


def test_what_is_cut_is_told(client: httpx.Client) -> None:
    for path in ("/v1/rerank", "/v2/rerank"):
        answer = ask(client, path)
        assert answer.json()["meta"]["truncated"] == [1]
        assert "1 documents were not read to their end, first 1" in answer.json()["meta"]["warnings"][0]
        assert answer.headers["x-rerank-truncated"] == "1"
    assert ask(client, documents=[SHORT]).json()["meta"]["truncated"] == []


def test_max_chunks_per_doc_reads_a_document_in_parts(client: httpx.Client, model: CrossEncoder) -> None:
    got = ask(client, max_chunks_per_doc=10).json()
    expected = model.rank(QUERY, [SHORT, LATE], max_windows=10, activation_fn="sigmoid")
    assert [result["index"] for result in got["results"]] == [1, 0]
    assert got["results"][0]["relevance_score"] == pytest.approx(expected[0]["score"], abs=1e-3)
    assert got["meta"]["truncated"] == []
    assert ask(client, max_chunks_per_doc=1).json()["meta"]["truncated"] == [1]


def test_max_tokens_per_doc_reads_so_many_tokens_in_as_many_parts_as_they_need(
    client: httpx.Client, model: CrossEncoder
) -> None:
    length = int(model.encode([LATE]).lengths[0])
    for path in ("/v1/rerank", "/v2/rerank"):
        whole = ask(client, path, max_tokens_per_doc=length).json()
        assert (whole["results"][0]["index"], whole["meta"]["truncated"]) == (1, [])
        part = ask(client, path, max_tokens_per_doc=length - 20).json()
        assert (part["results"][0]["index"], part["meta"]["truncated"]) == (0, [1])
        few = ask(client, path, max_tokens_per_doc=4).json()
        expected = model.score(QUERY, ["Berlin is well known"])
        scores = {result["index"]: result["relevance_score"] for result in few["results"]}
        assert few["meta"]["truncated"] == [0, 1]
        assert scores[0] == pytest.approx(1 / (1 + math.exp(-expected[0])), abs=1e-3)


def test_the_server_may_read_parts_where_a_request_does_not_say_it(model: CrossEncoder) -> None:
    with serving(create_app(model, default_chunks=8)) as client:
        assert ask(client).json()["results"][0]["index"] == 1
        assert ask(client, "/rerank", texts=[SHORT, LATE], documents=None).json()[0]["index"] == 1
        assert ask(client, max_chunks_per_doc=1).json()["results"][0]["index"] == 0


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/rerank", {"truncation": False}),
        ("/v1/rerank", {"truncation": False, "top_k": 1}),
        ("/rerank", {"truncate": False, "texts": [SHORT, LATE]}),
        (
            "/v1/ranking",
            {"truncate": "NONE", "query": {"text": QUERY}, "passages": [{"text": SHORT}, {"text": LATE}]},
        ),
    ],
)
def test_who_forbids_truncation_is_refused(client: httpx.Client, path: str, body: dict[str, Any]) -> None:
    assert "document 1 does not fit" in ask(client, path, 422, **body).text


def test_a_long_query_leaves_no_room_for_parts(client: httpx.Client) -> None:
    answer = ask(client, status=422, query="people in berlin " * 150, max_chunks_per_doc=3)
    assert "shorten the query" in answer.json()["message"]


def test_relevant_spans_are_sentences_with_scores_in_code_points(client: httpx.Client, model: CrossEncoder) -> None:
    document = f"🏙️ Museums “abound”. {ANSWER} 𝔅read rises.\nNothing else"
    spans = {"mode": "enabled", "threshold": 0.5}
    got = ask(client, "/v2/rerank", documents=[document, "Bread."], relevant_spans=spans).json()
    (first, second) = got["results"]
    (span,) = first["relevant_spans"]
    assert document[span["start"] : span["end"]] == ANSWER
    assert span["score"] == pytest.approx(1 / (1 + math.exp(-model.score(QUERY, [ANSWER])[0])), abs=1e-3)
    assert second["relevant_spans"] == []
    every = {"mode": "enabled", "threshold": 0, "max_spans": 2}
    found = ask(client, "/v2/rerank", documents=[document], relevant_spans=every).json()["results"][0]
    assert len(found["relevant_spans"]) == 2
    assert [part["start"] for part in found["relevant_spans"]] == sorted(p["start"] for p in found["relevant_spans"])
    off = ask(client, "/v2/rerank", documents=[document], relevant_spans={"mode": "disabled"}).json()
    assert "relevant_spans" not in off["results"][0]


def test_spans_are_told_of_the_documents_in_the_answer(client: httpx.Client) -> None:
    body: dict[str, Any] = {"documents": [SHORT, ANSWER], "relevant_spans": {"mode": "enabled"}, "top_n": 1}
    (result,) = ask(client, "/v2/rerank", **body).json()["results"]
    assert (result["index"], len(result["relevant_spans"])) == (1, 1)


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("", []),
        (" \n ", []),
        ("One", ["One"]),
        ("One. Two! Three? “Four.” (Five.) 3.5 of e.g. six...", None),
        ("一つ。二つ！三つ？「四つ。」五つ", ["一つ。", "二つ！", "三つ？", "「四つ。」", "五つ"]),
        ("a\nb\r\nc", ["a", "b", "c"]),
        ("x" * 4_500, ["x" * 2_000, "x" * 2_000, "x" * 500]),
    ],
)
def test_sentences_cover_a_text_but_for_space(text: str, parts: list[str] | None) -> None:
    found = [text[start:end] for start, end in sentences(text)]
    if parts is not None:
        assert found == parts
    assert "".join("".join(found).split()) == "".join(text.split())


@pytest.mark.parametrize("text", ["a. " * 500_000, "a." + "\n" * 1_500_000 + "b."])
def test_sentences_of_a_huge_text_are_found_one_by_one(text: str) -> None:
    tracemalloc.start()
    try:
        assert len(list(islice(sentences(text), 2))) == 2
        assert tracemalloc.get_traced_memory()[1] < 100_000 + 4 * text.count("\n")  # bytes; the space is copied once
    finally:
        tracemalloc.stop()
