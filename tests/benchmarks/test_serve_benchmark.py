"""The benchmark of the server: a run to its end, and what it counts."""

import json
import socket
import threading
from pathlib import Path

import pytest

pytest.importorskip("msgspec", reason="crossrank[serve] is not installed")

from benchmarks.__main__ import main
from benchmarks.measure.clients import Clients
from tests.support.tiny_models import make_checkpoint


def test_a_short_run_measures_all_three_and_writes_what_it_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CROSSRANK_HOME", str(tmp_path / "cache"))
    checkpoint = make_checkpoint(tmp_path / "checkpoint", "bert")
    output = tmp_path / "serve.json"
    arguments = ["serve", "--model", str(checkpoint), "--rounds", "1", "--seconds", "0.2", "--soak", "1000"]
    arguments.append("--allow-load")
    assert main([*arguments, "--output", str(output), "--bench", str(tmp_path / "bench")]) == 0
    result = json.loads(output.read_text())
    always = {"in process", "crossrank serve", "FastAPI + sentence-transformers"}
    assert always <= set(result["loads"]["16 closed"]) <= always | {"infinity torch"}  # where its environment was made
    for servers in result["loads"].values():
        for figures in servers.values():
            assert figures["failed"]["median"] == 0
            assert figures["docs_per_s"]["median"] > 0
    assert result["loads"]["16 closed"]["crossrank serve"]["cpu_us_per_doc"]["median"] > 0
    assert (result["soak"]["documents"], result["soak"]["lost_or_wrong"]) == (1_000, 0)
    assert "16 closed" in capsys.readouterr().out


class _Answering(threading.Thread):
    """A server of one connection, which answers its requests with what it is given, in pieces."""

    def __init__(self, answers: list[bytes]) -> None:
        super().__init__(daemon=True)
        self._answers, self._listening = answers, socket.create_server(("127.0.0.1", 0))
        self.address = "{}:{}".format(*self._listening.getsockname())
        self.start()

    def run(self) -> None:
        connection, _ = self._listening.accept()
        with connection:
            for answer in self._answers:
                received = b""
                while b"\r\n\r\n" not in received or not received.endswith(b"}"):
                    received += connection.recv(1 << 16)
                for start in range(0, len(answer), 40):
                    connection.sendall(answer[start : start + 40])


def _answer(status: str, scores: list[float], headers: str = "") -> bytes:
    results = [{"index": i, "relevance_score": score} for i, score in enumerate(scores)]
    body = json.dumps({"results": results}).encode()
    return f"HTTP/1.1 {status}\r\ncontent-length: {len(body)}\r\n{headers}\r\n".encode() + body


def test_clients_count_what_was_answered_refused_wrong_and_never_answered() -> None:
    server = _Answering(
        [
            _answer("200 OK", [0.9, 0.1], "X-Rerank-Scored: 1/2\r\n"),
            _answer("429 Too Many Requests", []),
            _answer("200 OK", [0.1, 0.9]),  # not the best one first
            _answer("200 OK", [0.9]),  # one is missing
            _answer("500 Internal Server Error", []),
        ]
    )
    with Clients(server.address) as clients:
        answers = clients.open([(0.01 * i, 2) for i in range(6)], seconds=0.1, callers=1)
    assert (len(answers.seconds), answers.documents, answers.rejected) == (1, 1, 1)
    assert (answers.failed, answers.unanswered, len(answers.refused_s)) == (4, 0, 1)
    assert "no ranking" in answers.error
    assert answers.cpu_s > 0


def test_clients_of_a_closed_loop_end_with_their_requests() -> None:
    server = _Answering([_answer("200 OK", [0.9, 0.1])] * 3)
    with Clients(server.address) as clients:
        answers = clients.closed(1, 2, seconds=60, requests=3)
    assert (len(answers.seconds), answers.documents, answers.failed) == (3, 6, 0)
    assert answers.elapsed_s < 30
