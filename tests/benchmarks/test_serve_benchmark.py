"""The benchmark of the server: a run to its end, and what it counts."""

import json
import socket
import threading
from pathlib import Path

import pytest

pytest.importorskip("msgspec", reason="crossrank[serve] is not installed")

from benchmarks.__main__ import main
from benchmarks.commands.serve import _goals
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
    """A server of one connection at a time, which answers its requests with what it is given, in pieces.

    Args:
        answers: In their order; then nobody listens any more.
        of_each: How many of them a connection gets before it is closed.
    """

    def __init__(self, answers: list[bytes], of_each: int = 10) -> None:
        super().__init__(daemon=True)
        self._answers, self._of_each, self._listening = answers, of_each, socket.create_server(("127.0.0.1", 0))
        self.address = "{}:{}".format(*self._listening.getsockname())
        self.start()

    def run(self) -> None:
        with self._listening:
            for first in range(0, len(self._answers), self._of_each):
                connection, _ = self._listening.accept()
                if first + self._of_each >= len(self._answers):
                    self._listening.close()
                with connection:
                    for answer in self._answers[first : first + self._of_each]:
                        self._answer(connection, answer)

    def _answer(self, connection: socket.socket, answer: bytes) -> None:
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


def test_clients_connect_again_where_the_server_has_closed_between_requests() -> None:
    server = _Answering([_answer("200 OK", [0.9, 0.1])] * 3, of_each=1)
    with Clients(server.address) as clients:
        answers = clients.open([(0.3 * i, 2) for i in range(5)], seconds=1.5, callers=1)
    assert (len(answers.seconds), answers.failed, answers.unanswered) == (3, 0, 2)


def test_clients_of_a_server_that_has_gone_end_and_count_what_was_lost() -> None:
    server = _Answering([_answer("200 OK", [0.9, 0.1])])
    with Clients(server.address) as clients:
        answers = clients.closed(1, 2, seconds=60)
    assert len(answers.seconds) == 1
    assert answers.failed <= 1
    assert answers.elapsed_s < 30


def test_goals_beside_a_peer_that_is_absent_are_not_measured() -> None:
    figures = dict.fromkeys(("docs_per_s", "p50_ms", "p99_ms", "cpu_us_per_doc", "refused_p99_ms"), 2.0)
    loads = ("1 closed", "16 closed", "70% open", "300% open")
    table = _goals({load: {"in process": figures, "crossrank serve": figures} for load in loads})
    reached = {claim: value for claim, _, value in table}
    assert reached["docs/s to the peer's, 16 callers"] == "not measured"
    assert reached["docs/s to those in process, 16 callers"] == "100.0%"


def test_clients_of_a_closed_loop_end_with_their_requests() -> None:
    server = _Answering([_answer("200 OK", [0.9, 0.1])] * 3)
    with Clients(server.address) as clients:
        answers = clients.closed(1, 2, seconds=60, requests=3)
    assert (len(answers.seconds), answers.documents, answers.failed) == (3, 6, 0)
    assert answers.elapsed_s < 30
