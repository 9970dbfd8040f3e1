"""``crossrank serve``: options, environment, key files, signals, logs."""

import asyncio
import io
import json
import logging
import re
import signal
import socket
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("msgspec", reason="crossrank[serve] is not installed")

import httpx
import uvicorn
from uvicorn.server import ServerState

from crossrank import InputError
from crossrank._cli.main import main
from crossrank.serve import _command, _log, create_app
from crossrank.serve._options import PREFIX, hosts, named_models, parse, parser, read_keys
from crossrank.serve._protocol import Protocol
from tests.support.serving import DOCUMENTS, QUERY, process

BODY = {"query": QUERY, "documents": DOCUMENTS}


def test_every_option_is_an_environment_variable_and_in_the_help(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    values = {
        "host": "::1",
        "api_key_file": Path("keys"),
        "cors_origins": "https://example.org",
        "allowed_hosts": "example.org",
        "device": "cpu",
        "precision": "int8",
    }
    options = {name: values.get(name, 7) for name in vars(parser().parse_args([])) if name != "models"}
    for name, value in options.items():
        monkeypatch.setenv(PREFIX + name.upper(), str(value))
    monkeypatch.setenv(PREFIX + "MODELS", "one two=three")
    assert vars(parse([])) == {"models": ["one", "two=three"], **options}
    assert (parse(["--port", "8"]).port, parse(["four"]).models) == (8, ["four"])
    with pytest.raises(SystemExit):
        parse(["--help"])
    text = capsys.readouterr().out
    for name in (*options, "models"):
        assert f"${PREFIX}{name.upper()}" in text.replace("\n", "").replace(" ", "")


@pytest.mark.parametrize(
    "arguments",
    [
        ["--port", "x"],
        ["--default-budget-ms", "0"],
        ["--threads", "0"],
        ["--max-length", "-1"],
        ["--port", "70000"],
        ["--max-documents", "0"],
        ["--drain-seconds", "-1"],
        ["--unknown"],
    ],
    ids=" ".join,
)
def test_wrong_options_end_with_status_2(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["serve", *arguments])
    assert caught.value.code == 2


def test_a_server_on_loopback_answers_under_this_machines_names_unless_others_are_allowed() -> None:
    own = ["localhost", "127.0.0.1", "::1"]
    assert hosts(parse(["--host", "127.0.0.2"])) == [*own, "127.0.0.2"]
    assert hosts(parse(["--host", "0.0.0.0"])) is None
    assert hosts(parse(["--allowed-hosts", "*"])) is None
    assert hosts(parse(["--host", "0.0.0.0", "--allowed-hosts", "a.example, b.example"])) == [
        *own,
        "0.0.0.0",
        "a.example",
        "b.example",
    ]


def test_models_have_the_last_part_of_their_name_or_the_one_given(tmp_path: Path) -> None:
    assert named_models([str(tmp_path), "a=owner/name", "owner/other"]) == {
        tmp_path.name: str(tmp_path),
        "a": "owner/name",
        "other": "owner/other",
    }
    folder = tmp_path / "x=y"
    folder.mkdir()
    assert named_models([str(folder)]) == {"x=y": str(folder)}
    with pytest.raises(InputError, match="two models are named 'name'"):
        named_models(["a/name", "b/name"])
    for text in ("=a", "a="):
        with pytest.raises(InputError, match="NAME=MODEL"):
            named_models([text])


def test_key_files_have_a_key_a_line(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text("one\n\n two \n")
    assert read_keys(file) == ["one", "two"]
    file.write_text("\n")
    with pytest.raises(InputError, match="no key is in it"):
        read_keys(file)
    with pytest.raises(InputError, match="cannot be read"):
        read_keys(tmp_path / "absent")


def test_what_is_wrong_ends_in_one_line(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert main(["serve", "--port", str(port)]) == 1
    assert capsys.readouterr().err == f"error: --host 127.0.0.1 --port {port}: Address already in use\n"
    assert main(["serve", "--port", "0", str(tmp_path / "absent")]) == 1
    assert capsys.readouterr().err.startswith("error: ")


def test_it_listens_on_loopback_logs_json_and_ends_well(tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text("a-key\n")
    with process("mini=crossrank-mini-en", CROSSRANK_SERVE_API_KEY_FILE=str(keys)) as (running, url):
        assert url.startswith("http://127.0.0.1:")
        headers = {"Authorization": "Bearer a-key", "X-Request-Id": "mine"}
        assert httpx.post(f"{url}/v1/rerank", json=BODY).status_code == 401
        got = httpx.post(f"{url}/v1/rerank", json=BODY, headers=headers)
        assert (got.json()["model"], got.json()["results"][0]["index"]) == ("mini", 2)
        running.send_signal(signal.SIGTERM)
        _, errors = running.communicate(timeout=30)
        assert running.returncode == 0
    lines = [json.loads(line) for line in errors.splitlines()]
    assert [line["status"] for line in lines] == [401, 200]
    assert lines[1]["request_id"] == "mine"
    assert QUERY not in errors


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda number: number.name)
def test_a_signal_lets_every_request_under_way_end(number: signal.Signals) -> None:
    body = {"query": QUERY, "documents": [f"{i} people live in berlin " * 20 for i in range(100)]}
    statuses: list[int] = []
    with process("--threads", "1", "--drain-seconds", "30") as (running, url):
        threads = [
            threading.Thread(
                target=lambda: statuses.append(httpx.post(f"{url}/v1/rerank", json=body, timeout=60).status_code)
            )
            for _ in range(3)
        ]
        for thread in threads:
            thread.start()
        end = time.monotonic() + 30
        while "crossrank_waiting_requests" in (text := httpx.get(f"{url}/metrics").text) and time.monotonic() < end:
            if 'waiting_requests{model="crossrank-mini-en"} 3.0' in text:
                break
            time.sleep(0.01)
        running.send_signal(number)
        for thread in threads:
            thread.join(60)
        running.wait(30)
        assert running.returncode == 0
    assert statuses == [200] * 3


def test_the_examples_name_options_and_paths_that_there_are() -> None:
    folder = Path(__file__).parents[3] / "examples" / "serve"
    names = {PREFIX + name.upper() for name in vars(parser().parse_args([]))}
    for file in folder.glob("Containerfile*"):
        used = re.findall(rf"{PREFIX}[A-Z_]+", file.read_text())
        assert used
        assert set(used) <= names
    deployment = (folder / "kubernetes.yaml").read_text()
    (arguments,) = re.findall(r"args: (\[.*\])", deployment)
    options = parse(json.loads(arguments))
    (grace,) = re.findall(r"terminationGracePeriodSeconds: (\d+)", deployment)
    assert int(grace) > options.drain_seconds + 5  # and the pause before
    assert set(re.findall(r"path: (/\w+)", deployment)) == {"/ready", "/health", "/metrics"}
    assert "crossrank_busy_ratio" in deployment


def test_the_bound_of_the_queue_is_looked_at_before_texts_are_tokenized(monkeypatch: pytest.MonkeyPatch) -> None:
    apps: list[Any] = []

    class Seen:
        def __init__(self, app: Any, *_: Any, **options: Any) -> None:
            apps.append(app)

        def run(self, sockets: list[socket.socket]) -> None:
            for bound in sockets:
                bound.close()

    monkeypatch.setattr(_command, "Server", Seen)
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        assert _command.main(["--port", "0", "--max-queue-tokens", "1234"]) == 0
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    (served,) = apps[0].state.service.models.values()
    assert served.max_queue_tokens == 1234


def test_an_address_that_another_takes_while_models_are_loaded_is_named() -> None:
    with _command.bind("127.0.0.1", 0) as other:
        port = other.getsockname()[1]
        bound = _command.bind("127.0.0.1", port)  # nobody listens yet
        other.listen()
        with pytest.raises(InputError, match=f"--port {port}"):
            _command.Server(create_app(), 1).run([bound])


def test_a_second_port_that_is_taken_is_named() -> None:
    pytest.importorskip("grpc_reflection", reason="crossrank[grpc] is not installed")
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(InputError, match=f"--grpc-port {port}"):
            _command.Server(create_app(), 1, ("127.0.0.1", port)).run([_command.bind("127.0.0.1", 0)])


def test_what_is_written_goes_through_tls_where_there_is_tls() -> None:
    ours, theirs = socket.socketpair()
    written: list[bytes] = []

    class Secure(asyncio.Transport):
        def write(self, data: Any) -> None:
            written.append(bytes(data))

        def is_closing(self) -> bool:
            return False

        def get_write_buffer_size(self) -> int:
            return 0

    async def app(scope: Any, receive: Any, send: Any) -> None:
        raise AssertionError("nobody asks")

    async def work() -> None:
        protocol = Protocol(uvicorn.Config(app, log_config=None, ws="none"), ServerState(), {})
        protocol.connection_made(Secure({"sslcontext": object(), "socket": ours}))
        protocol.transport.write(b"secret")
        await asyncio.sleep(0)

    with ours, theirs:
        theirs.setblocking(False)
        asyncio.run(work())
        assert written == [b"secret"]
        with pytest.raises(BlockingIOError):
            theirs.recv(1)


def test_a_line_of_an_exception_is_without_its_message() -> None:
    try:
        raise ValueError("a secret")
    except ValueError:
        record = logging.LogRecord("other", logging.ERROR, __file__, 1, "it failed", (), sys.exc_info())
    line = json.loads(_log.Formatter().format(record))
    assert (line["message"], "secret" in str(line)) == ("it failed", False)
    assert line["error"].startswith(f"ValueError ({__file__}:")


def test_lines_of_a_moment_are_written_together_and_warnings_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[str] = []

    class Stream(io.StringIO):
        def write(self, text: str) -> int:
            written.append(text)
            return len(text)

    monkeypatch.setattr(sys, "stderr", Stream())
    handler = _log.Handler()
    handler.setFormatter(logging.Formatter("%(message)s"))

    def log(message: str, level: int = logging.INFO) -> None:
        handler.handle(logging.LogRecord("", level, "", 0, message, None, None))

    async def work() -> None:
        log("one")
        log("two")
        assert written == []
        await asyncio.sleep(0.2)
        assert written == ["one\ntwo\n"]
        log("three")
        log("four", logging.WARNING)
        assert written[1:] == ["three\nfour\n"]

    asyncio.run(work())
    log("five")
    assert written[2:] == ["five\n"]
