"""``tei.v1.Rerank``: calls, streams, deadlines, keys, bounds, and Haystack's own client."""

import logging
import math
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Never

import pytest

pytest.importorskip("msgspec", reason="crossrank[serve] is not installed")
pytest.importorskip("grpc_reflection", reason="crossrank[grpc] is not installed")

import grpc

from crossrank import CrossEncoder
from crossrank.serve import Limits, _grpc, create_app
from crossrank.serve._grpc import message
from tests.support.artifacts import make_artifact
from tests.support.callers import eventually, open_model, texts
from tests.support.serving import ANSWER, DOCUMENTS, QUERY, process, serving_grpc

KEY = (("authorization", "Bearer a-key"),)


@pytest.fixture(scope="module")
def model() -> CrossEncoder:
    return CrossEncoder(threads=1)


@pytest.fixture(scope="module")
def address(model: CrossEncoder) -> Iterator[str]:
    app = create_app(model, api_keys=["a-key"], limits=Limits(documents=5_000, body_bytes=4_000_000))
    with serving_grpc(app) as address:
        yield address


@pytest.fixture
def channel(address: str) -> Iterator[Any]:
    with grpc.insecure_channel(address) as channel:
        yield channel


def rerank(
    channel: Any, timeout: float | None = None, metadata: Any = KEY, **fields: Any
) -> tuple[Any, dict[str, str]]:
    call = channel.unary_unary(
        "/tei.v1.Rerank/Rerank",
        request_serializer=lambda made: made.SerializeToString(),
        response_deserializer=message("RerankResponse").FromString,
    )
    made = message("RerankRequest")(**{"query": QUERY, "texts": DOCUMENTS} | fields)
    answer, done = call.with_call(made, timeout=timeout, metadata=metadata)
    return answer, dict(done.trailing_metadata())


def test_ranks_are_the_model_s(channel: Any, model: CrossEncoder) -> None:
    logits = model.score(QUERY, DOCUMENTS)
    answer, told = rerank(channel)
    assert [rank.index for rank in answer.ranks] == [2, 0, 1]
    assert answer.ranks[0].score == pytest.approx(1 / (1 + math.exp(-logits[2])), abs=1e-3)
    assert not answer.ranks[0].HasField("text")
    assert (told["x-rerank-status"], told["x-rerank-scored"]) == ("complete", "3/3")
    assert answer.metadata.compute_tokens > 20
    assert answer.metadata.total_time_ns > 0
    raw, _ = rerank(channel, raw_scores=True, return_text=True)
    assert raw.ranks[0].score == pytest.approx(logits[2], abs=1e-3)
    assert raw.ranks[0].text == ANSWER


def test_a_stream_of_texts_is_one_request(channel: Any) -> None:
    call = channel.stream_unary(
        "/tei.v1.Rerank/RerankStream",
        request_serializer=lambda made: made.SerializeToString(),
        response_deserializer=message("RerankResponse").FromString,
    )
    made = message("RerankStreamRequest")
    parts = [made(query=QUERY if i == 0 else "", text=text) for i, text in enumerate(DOCUMENTS)]
    answer = call(iter(parts), metadata=KEY)
    assert [rank.index for rank in answer.ranks] == [2, 0, 1]
    for many in ([], [made(query="q", text="a")] * 5_001):
        with pytest.raises(grpc.RpcError) as caught:
            call(iter(many), metadata=KEY)
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


def test_the_deadline_is_the_budget(channel: Any) -> None:
    answer, told = rerank(channel, timeout=1.0, texts=[text * 20 for text in texts(5_000, 1)][:1_200])
    assert told["x-rerank-status"] == "partial"
    scored = int(told["x-rerank-scored"].split("/")[0])
    left = [rank.index for rank in answer.ranks[scored:]]
    assert left == sorted(left)
    assert {rank.score for rank in answer.ranks[scored:]} == {0.0}


def test_a_client_that_goes_away_is_counted_and_logged(model: CrossEncoder, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    app = create_app(model)
    with serving_grpc(app) as address, grpc.insecure_channel(address) as channel:
        call = channel.unary_unary(
            "/tei.v1.Rerank/Rerank", request_serializer=lambda made: made.SerializeToString()
        ).future(message("RerankRequest")(query=QUERY, texts=[text * 20 for text in texts(1_000, 2)]))
        assert eventually(lambda: model.stats().waiting_tokens > 0)
        call.cancel()
        assert eventually(lambda: app.state.service.metrics.own().count(b'"cancelled"} 1.0') == 1)
    assert "cancelled" in [record.facts["outcome"] for record in caplog.records if hasattr(record, "facts")]


def test_problems_have_codes(channel: Any) -> None:
    for code, options in (
        (grpc.StatusCode.UNAUTHENTICATED, {"metadata": (("authorization", "Bearer wrong"),)}),
        (grpc.StatusCode.UNAUTHENTICATED, {"metadata": ()}),
        (grpc.StatusCode.INVALID_ARGUMENT, {"texts": []}),
        (grpc.StatusCode.INVALID_ARGUMENT, {"texts": ["a"] * 5_001}),
        (grpc.StatusCode.INVALID_ARGUMENT, {"truncation_direction": "TRUNCATION_DIRECTION_LEFT"}),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, {"texts": ["a" * 4_100_000]}),  # grpc's own, by the message's size
    ):
        with pytest.raises(grpc.RpcError) as caught:
            rerank(channel, **options)
        assert caught.value.code() is code, options


def test_failures_are_logged_without_their_messages(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = "the secret of the sea"

    def fail(*_: object, **__: object) -> Never:
        raise ValueError(secret)

    failing, session = open_model(make_artifact(tmp_path), threads=1)
    app = create_app(failing)
    with serving_grpc(app) as address, grpc.insecure_channel(address) as channel:
        session.fails = fail
        for _ in range(2):  # the model, then the server
            with pytest.raises(grpc.RpcError) as caught:
                rerank(channel, metadata=())
            assert caught.value.code() is grpc.StatusCode.INTERNAL
            monkeypatch.setattr(_grpc, "Rerank", fail)
        assert app.state.service.metrics.own().count(b'dialect="tei_grpc",outcome="failed"} 2.0') == 1
    told = [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]
    assert [text.partition(": ")[0] for text in told] == ["a model failed", "a request failed"]
    assert secret not in caplog.text + "".join(str(vars(record)) for record in caplog.records)


def test_haystack_s_client(address: str) -> None:
    rankers: Any = pytest.importorskip("haystack_integrations.components.rankers.huggingface_api")
    pytest.importorskip("grpc_requests", reason="huggingface-api-haystack[grpc] is not installed")
    import haystack
    from haystack.utils import Secret

    ranker = rankers.HuggingFaceTEIRanker(url=address, use_grpc=True, token=Secret.from_token("a-key"))
    found = ranker.run(
        QUERY, [haystack.Document(content=text) for text in DOCUMENTS], 2, rankers.TruncationDirection.RIGHT
    )
    assert [document.content for document in found["documents"]] == [ANSWER, DOCUMENTS[0]]
    ranker.close()


def test_the_command_opens_the_second_port_and_ends_well() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with process(CROSSRANK_SERVE_GRPC_PORT=str(port)) as (running, _):
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            answer, _ = rerank(channel, metadata=())
        assert answer.ranks[0].index == 2
        running.send_signal(signal.SIGTERM)
        assert running.wait(30) == 0


def test_without_the_extra_the_option_names_the_command() -> None:
    code = (
        "import sys; sys.modules['grpc_reflection'] = None; from crossrank._cli.main import main\n"
        "sys.exit(main(['serve', '--grpc-port', '0']))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "pip install 'crossrank[serve,grpc]'" in done.stderr
